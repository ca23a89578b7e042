/** The queue's pages: what jobs do is shown where they stand, and keys do what buttons do. */

import { announce, api, coded, confirm, copy, el, keys, tell, toast } from "./app.js";
import { jobsNow, on } from "./live.js";

const OVER = ["done", "failed", "cancelled"];
const rows = () => [...document.querySelectorAll("li[data-job]")];
const rowOf = (id) => document.querySelector(`[data-job="${id}"]`);
const fieldOf = (row, name) => row.querySelector(`[data-field="${name}"]`);

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Show the images made last, and load only those that are new. */
function showNewest(row, job) {
  const list = fieldOf(row, "newest");
  const wanted = job.there ? job.newest : [];
  const shown = new Map([...list.children].map((link) => [link.pathname.split("/").at(-1), link]));
  const links = wanted.map(
    (image) =>
      shown.get(image) ??
      el(
        "a",
        { href: `/datasets/${job.dataset}/images/${image}`, tabindex: "-1" },
        el("img", { src: `/images/${job.dataset}/${image}/thumbnail`, alt: "", width: 128, height: 128 }),
      ),
  );
  if (links.length !== list.children.length || links.some((link, place) => link !== list.children[place])) {
    list.replaceChildren(...links);
  }
}

function showActions(row, job) {
  const over = OVER.includes(job.state);
  const shown = {
    up: job.state === "queued",
    down: job.state === "queued",
    pause: ["running", "queued"].includes(job.state) && !job.wanted,
    resume: job.state === "paused",
    retry: job.again,
    cancel: !over,
    remove: over,
  };
  const focused = row.contains(document.activeElement) ? document.activeElement : null;
  for (const button of row.querySelectorAll("[data-action]")) button.hidden = !shown[button.dataset.action];
  setText(row.querySelector("[data-action=cancel] [data-says]"), job.wanted ? "Stop now" : "Cancel");
  setText(row.querySelector("[data-action=retry] [data-says]"), job.state === "done" ? "Retry failed" : "Retry");
  if (focused?.hidden) (row.querySelector(".job-actions button:not([hidden])") ?? row).focus();
}

/** Show a job as it is now. */
function show(row, job) {
  const chip = fieldOf(row, "state");
  if (chip.textContent !== job.chip) announce(`${job.title}: ${job.chip}`);
  setText(chip, job.chip);
  chip.className = `chip ${job.color}`;
  const bar = fieldOf(row, "bar");
  const ended = job.done + Object.values(job.failed).reduce((sum, count) => sum + count, 0);
  if (job.total) {
    bar.max = job.total;
    bar.value = ended;
  } else {
    bar.removeAttribute("value");
  }
  bar.hidden = OVER.includes(job.state) || (job.state !== "running" && !job.done);
  for (const [name, text] of [["line", job.line], ["failed", job.failed_line], ["when", job.when]]) {
    setText(fieldOf(row, name), text);
  }
  const message = fieldOf(row, "message");
  fieldOf(row, "what").replaceChildren(...coded(job.message));
  fieldOf(row, "hint").replaceChildren(...coded(job.hint));
  message.hidden = !job.message;
  message.classList.toggle("bad", job.state === "failed");
  fieldOf(row, "open").hidden = !job.there;
  const download = fieldOf(row, "download");
  if (download) download.hidden = job.state !== "done";
  showActions(row, job);
  showNewest(row, job);
  Object.assign(row.dataset, { state: job.state, position: job.position, ended: job.ended ?? 0 });
  if (!("alone" in row.dataset)) place(row);
}

/** Put a row where it belongs; the focus stays in it. */
function place(row) {
  const list = [...document.querySelectorAll("ol[data-states]")].find((each) =>
    each.dataset.states.split(" ").includes(row.dataset.state),
  );
  const order = ({ dataset }) => (OVER.includes(dataset.state) ? -Number(dataset.ended) : Number(dataset.position));
  const others = [...list.children].filter((each) => each !== row);
  const next = others.find((each) => order(each) > order(row)) ?? null;
  const focused = row.contains(document.activeElement) ? document.activeElement : null;
  if (row.parentElement !== list || row.nextElementSibling !== next) list.insertBefore(row, next);
  showSections();
  // It went with the move, and could not come back into a section that was hidden.
  if (document.activeElement !== focused) focused?.focus({ preventScroll: true });
}

function showSections() {
  for (const list of document.querySelectorAll("ol[data-states]")) {
    list.closest("section").hidden = list.children.length === 0;
  }
  const empty = document.getElementById("empty");
  if (empty) empty.hidden = rows().length > 0;
}

const adopting = new Map();

/** Fetch a job that the page does not show yet, drawn by the server. */
async function adopt(job) {
  const asked = adopting.has(job.id);
  adopting.set(job.id, job);
  if (asked) return;
  try {
    const answer = await fetch("/executions");
    const found = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById(`job-${job.id}`);
    if (found && !rowOf(job.id)) place(document.importNode(found, true));
    if (rowOf(job.id)) show(rowOf(job.id), adopting.get(job.id));
  } finally {
    adopting.delete(job.id);
  }
}

function take(job) {
  const row = rowOf(job.id);
  if (job.state === "removed") {
    if (row && !("alone" in row.dataset)) row.remove();
    showSections();
  } else if (row) {
    show(row, job);
  } else if (document.querySelector("ol[data-states]")) {
    adopt(job).catch(tell);
  }
}

/** Show all jobs as they are now. */
async function refresh() {
  for (const job of await jobsNow("/api/jobs")) if (rowOf(job.id) || !OVER.includes(job.state)) take(job);
}

/** What a button or a key asks for. */
async function act(row, action) {
  const button = row.querySelector(`[data-action="${action}"]`);
  if (!button || button.hidden) return;
  const url = `/api/jobs/${row.dataset.job}`;
  try {
    if (action === "up" || action === "down") {
      const other = action === "up" ? row.previousElementSibling : row.nextElementSibling;
      if (!other) return;
      take(await api("POST", `${url}/move`, { [action === "up" ? "before" : "after"]: Number(other.dataset.job) }));
      row.scrollIntoView({ block: "nearest" });
      const list = [...row.parentElement.children];
      announce(`${row.querySelector("h3").textContent}: ${list.indexOf(row) + 1} of ${list.length}`);
      return;
    }
    if (action === "cancel" && row.dataset.state === "running" && fieldOf(row, "state").textContent === "running") {
      const text = "What it has made stays, and it can be retried.";
      if (!(await confirm(text, { title: "Cancel this execution?", action: "Cancel the execution", otherwise: "Keep it running" }))) return;
    }
    const near = row.nextElementSibling ?? row.previousElementSibling;
    const job = await api("POST", `${url}/${action}`, {});
    if (action === "remove") {
      const said = "Removed from the list; what it made stays";
      if ("alone" in row.dataset) {
        sessionStorage.setItem("toast", said);
        location.assign("/executions");
        return;
      }
      (near ?? document.getElementById("main")).focus();
      toast(said);
    }
    if (action === "retry" && String(job.id) !== row.dataset.job) {
      toast("Queued: what failed is made again", { link: { text: "Show", href: `/executions/${job.id}` } });
    }
    take(job);
  } catch (error) {
    tell(error);
  }
}

const current = () => document.activeElement?.closest("[data-job]") ?? document.querySelector("[data-alone]");

/** Go to the next or the previous row. */
function step(by) {
  const list = rows();
  const place = list.indexOf(current());
  const next = list[Math.min(Math.max(place < 0 ? (by > 0 ? 0 : list.length - 1) : place + by, 0), list.length - 1)];
  next?.focus();
  next?.scrollIntoView({ block: "nearest" });
}

function actCurrent(...actions) {
  const row = current();
  const action = row && actions.find((each) => !row.querySelector(`[data-action="${each}"]`)?.hidden);
  if (!action) return false;
  act(row, action);
  return true;
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-action]");
  if (button) act(button.closest("[data-job]"), button.dataset.action);
});

const where = "Executions";
if (document.querySelector("ol[data-states]")) {
  keys.add({ key: "j", what: "Next execution", where, run: () => step(1) });
  keys.add({ key: "k", what: "Previous execution", where, run: () => step(-1) });
  keys.add({ key: "Alt+ArrowUp", what: "Move up", where, run: () => actCurrent("up") });
  keys.add({ key: "Alt+ArrowDown", what: "Move down", where, run: () => actCurrent("down") });
  keys.add({
    key: "Enter",
    what: "Open the execution",
    where,
    run: () => document.activeElement.matches("li[data-job]") && !document.activeElement.querySelector("h3 a").click(),
  });
}
keys.add({ key: "p", what: "Pause or resume", where, run: () => actCurrent("pause", "resume") });
keys.add({ key: "c", what: "Cancel", where, run: () => actCurrent("cancel") });
keys.add({ key: "r", what: "Retry", where, run: () => actCurrent("retry") });
keys.add({ key: "Delete", what: "Remove from the list", where, run: () => actCurrent("remove") });

on("job", take);
on("reset", () => refresh().catch(tell));

const log = document.getElementById("log");
const alone = document.querySelector("[data-alone]");
let reading = Promise.resolve();

/** Add what has been printed since, after what is being read; a log that is read at its end stays there. */
function readLog() {
  reading = reading.catch(() => {}).then(async () => {
    const { text, end } = await api("GET", `/api/jobs/${alone.dataset.job}/log?start=${log.dataset.end}`);
    if (!text) return;
    const followed = log.scrollHeight - log.scrollTop - log.clientHeight < 24;
    if (log.dataset.end === "0") log.textContent = "";
    log.append(text);
    log.dataset.end = end;
    if (followed) log.scrollTop = log.scrollHeight;
  });
  return reading;
}

async function readFacts() {
  const { facts } = await api("GET", `/api/jobs/${alone.dataset.job}`);
  for (const [name, value] of Object.entries(facts)) setText(alone.querySelector(`[data-fact="${name}"]`), value);
}

if (alone) {
  let state = alone.dataset.state;
  on("job", (job) => {
    if (String(job.id) !== alone.dataset.job || job.state === "removed") return;
    readLog().catch(tell);
    if (job.state !== state) readFacts().catch(tell);
    state = job.state;
  });
  on("reset", () => Promise.all([readLog(), readFacts()]).catch(tell));
  log.scrollTop = log.scrollHeight;
  document.getElementById("copy").addEventListener("click", () => copy(document.getElementById("command").textContent, "The command"));
}
