/** The list of datasets follows what happens. */
import { api, keys, tell } from "./app.js";
import { on } from "./live.js";
import { listenForFiles } from "./upload.js";

const LISTS = ".columns";
const PAUSE = 1500;

/** Bring the lists up to date, without losing focus or what is open. */
async function refresh() {
  const opened = [...document.querySelectorAll("details[open]")].map((each) => each.closest("[id]")?.id);
  const focused = document.querySelector(LISTS).contains(document.activeElement);
  await htmx.ajax("GET", location.href, { target: LISTS, select: LISTS, swap: "outerMorph" });
  for (const each of document.querySelectorAll("details:not([open])")) {
    each.open = opened.includes(each.closest("[id]")?.id);
  }
  if (focused && document.activeElement === document.body) document.getElementById("main").focus();
}

/** Run at most once in a while, the last time asked for included. */
function seldom(run) {
  let timer = null;
  return () => {
    timer ??= setTimeout(() => {
      timer = null;
      run();
    }, PAUSE);
  };
}

const waiting = new Map();

/** Bring one card up to date, soon. */
function soon(dataset) {
  if (!waiting.has(dataset)) {
    waiting.set(dataset, seldom(() => {
      const target = `#dataset-${dataset}`;
      const card = document.querySelector(target);
      if (card?.querySelector(".menu[open]")) soon(dataset);
      else if (card) htmx.ajax("GET", `/datasets/${dataset}/card`, { target, swap: "outerMorph" });
    }));
  }
  waiting.get(dataset)();
}

const refreshSoon = seldom(() => refresh());

document.addEventListener("lists-changed", () => refresh());
on("datasets", refreshSoon);
on("reset", refreshSoon);
on("dataset", ({ id }) => soon(id));
on("job", ({ dataset, source }) => [dataset, source].filter(Boolean).forEach(soon));

listenForFiles(document.getElementById("send"));

document.addEventListener("click", async (event) => {
  for (const menu of document.querySelectorAll(".menu[open]")) if (!menu.contains(event.target)) menu.open = false;
  const demo = event.target.closest("#demo");
  if (!demo) return;
  demo.disabled = true;
  try {
    const { job } = await api("POST", "/api/demo");
    location.assign(`/executions/${job}`);
  } catch (error) {
    demo.disabled = false;
    tell(error);
  }
});

document.addEventListener("keydown", (event) => {
  const menu = event.key === "Escape" && event.target.closest?.(".menu[open]");
  if (!menu) return;
  menu.open = false;
  menu.querySelector("summary").focus();
});

/** Go to the field for names, where there is one. */
function find() {
  const field = document.querySelector("#find input");
  field?.focus();
  return Boolean(field);
}

keys.add({ key: "/", what: "Find datasets by name", where: "Datasets", run: find });
keys.add({ key: "u", what: "Upload files", where: "Datasets", run: () => document.getElementById("send-files").click() });
