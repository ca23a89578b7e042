/** A form that makes images: its plan as one types, and the button that queues it. */

import { api, coded, el, keys, tell } from "./app.js";

const PAUSE = 400; // milliseconds after typing until the plan is asked for
const AGAIN = 1000; // milliseconds until a server that is not ready, or away, is asked again
const form = document.getElementById("make");
const operator = form.dataset.operator;
const source = document.getElementById("source");
const plan = document.getElementById("plan");
const button = document.getElementById("queue");
let timer = 0;
let asking = null;
/** Of the plans that this page asks for, only the last is made. */
const planKey = form.elements._key.value;
let own = {};
let redrawn = false;
/** Fields that somebody has been in: what is missing in others is not wrong yet. */
const touched = new Set();

/** What is sent: the form's own fields, and the parameters as lists of texts. */
function gathered() {
  const sent = { values: {} };
  for (const [name, text] of new FormData(form)) {
    if (name.startsWith("_")) sent[name.slice(1)] = text;
    else (sent.values[name] ??= []).push(text);
  }
  return sent;
}

/** Show what is wrong at its field; `problems` is by field, "" is for what concerns no single one. */
function showProblems(problems) {
  for (const shown of form.querySelectorAll(".wrong")) {
    const name = shown.id.slice("wrong-".length);
    const text = problems[name] ?? "";
    shown.replaceChildren(...coded(text));
    shown.hidden = !text;
    const field = shown.closest("[data-field]");
    const input = field?.querySelector("[aria-describedby]") ?? (field?.hasAttribute("aria-describedby") ? field : null);
    if (text) input?.setAttribute("aria-invalid", "true");
    else input?.removeAttribute("aria-invalid");
  }
  const homeless = Object.keys(problems).filter((name) => !document.getElementById(`wrong-${name}`));
  if (homeless.length) {
    const top = document.getElementById("wrong-");
    const all = [problems[""], ...homeless.map((name) => `${name}: ${problems[name]}`)];
    top.replaceChildren(...coded(all.filter(Boolean).join("\n")));
    top.hidden = false;
  }
}

/** Final prompts, each with what its row has set for itself. */
function listed(prompts) {
  const item = ({ prompt, set }) => el("li", { dir: "auto" }, prompt, ...(set ? [el("small", {}, set)] : []));
  return el("ol", { class: "plan-prompts" }, ...prompts.map(item));
}

function showPlan(shown) {
  const parts = [el("p", { class: "plan-headline" }, shown.headline)];
  const facts = el("dl", { class: "facts" });
  for (const [label, text] of shown.facts) facts.append(el("dt", {}, label), el("dd", {}, text));
  parts.push(facts);
  if (shown.prompts.length) {
    parts.push(el("h3", {}, "First prompts"));
    parts.push(listed(shown.prompts.slice(0, 3)));
    const more = shown.prompts.slice(3);
    const open = Boolean(plan.querySelector("details")?.open);
    if (more.length) parts.push(el("details", { open }, el("summary", {}, `${more.length} more`), listed(more)));
  }
  parts.push(...shown.notes.map((note) => el("p", { class: "soft" }, ...coded(note))));
  plan.replaceChildren(...parts);
  say(shown.headline);
}

/** Say how much it is beside the button, and to those who only hear the page. */
function say(text) {
  const bar = form.querySelector(".queue-said");
  if (bar.textContent !== text) bar.textContent = text;
}

/** Fill what completes a field: the columns of the source, this machine's devices, the model's schedulers. */
function complete(kind, names) {
  for (const list of form.querySelectorAll(`[data-completed="${kind}"]`)) {
    if (list.localName === "datalist") {
      list.replaceChildren(...names.map((name) => el("option", { value: name })));
      continue;
    }
    const fixed = [...list.options].filter((option) => option.value === "" || option.value === "auto" || option.defaultSelected);
    const kept = new Set(fixed.map((option) => option.value));
    const chosen = list.value;
    list.replaceChildren(...fixed, ...names.filter((name) => !kept.has(name)).map((name) => el("option", { value: name }, name)));
    if (chosen && ![...list.options].some((option) => option.value === chosen)) list.append(el("option", { value: chosen }, chosen));
    list.value = chosen;
  }
}

/** Say which column the prompts come from when none is chosen. */
function showFound(column) {
  const first = document.getElementById("field-prompt_column")?.options[0];
  if (first) first.textContent = column ? `Found by name: ${column}` : "Found by name";
}

/** Show what the model takes by itself where nothing is set. */
function showOwn() {
  for (const input of form.querySelectorAll("[data-own]")) {
    const value = own[input.dataset.own];
    if (value !== undefined && value !== null && value !== "") input.placeholder = value;
  }
}

function showName(name) {
  const input = document.getElementById("name");
  document.getElementById("named").hidden = !name;
  document.getElementById("in-place").hidden = Boolean(name);
  if (name && input.value === input.dataset.suggested) {
    // What was written by itself is not wrong.
    if (input.value !== name) touched.delete("_name");
    input.value = name;
  }
  if (name) input.dataset.suggested = name;
}

async function askPlan() {
  asking?.abort();
  asking = new AbortController();
  const mine = asking;
  plan.setAttribute("aria-busy", "true");
  if (!plan.querySelector(":scope > :not(noscript)")) plan.replaceChildren(el("p", { class: "soft" }, "The plan is being made…"));
  try {
    const told = await api("POST", `/api/make/${operator}/plan`, { ...gathered(), key: planKey }, { signal: mine.signal });
    if (told.again) timer = setTimeout(askPlan, AGAIN);
    else {
      complete("columns", told.columns);
      complete("pictures", told.pictures);
      showFound(told.prompt_column);
      showName(told.name);
    }
    if (told.devices?.length) complete("devices", told.devices);
    if (told.own) {
      own = told.own;
      complete("schedulers", own.schedulers ?? []);
      showOwn();
    }
    const { "": whole = "", ...problems } = told.problems;
    showProblems(Object.fromEntries(Object.entries(problems).filter(([name]) => !name.startsWith("_") || touched.has(name))));
    if (told.shown) showPlan(told.shown);
    else {
      say("");
      plan.replaceChildren(el("p", { class: "soft" }, ...coded(whole ? `${whole}.` : said(told))));
    }
  } catch (error) {
    if (error.name === "AbortError") return;
    if (error.status === 0) timer = setTimeout(askPlan, AGAIN);
    if (error.status === 422 && !redrawn) {
      // Parameters may be those of another model than the one that the browser has put back.
      redrawn = true;
      form.querySelector("select[hx-get], [hx-get] input")?.dispatchEvent(new Event("change", { bubbles: true }));
    }
    const told = [sentence(error.message), error.hint].filter(Boolean).join(": ");
    plan.replaceChildren(el("p", { class: "soft" }, ...coded(/[.?]$/.test(told) ? told : `${told}.`)));
  }
  if (mine === asking) plan.removeAttribute("aria-busy");
}

/** Why there is no plan, in words. */
function said(told) {
  if (told.unknown) return `${sentence(told.unknown)}${told.hint ? `: ${told.hint}` : ""}.`;
  const missing = told.problems._source ?? told.problems._prompts;
  return missing ? `${missing}, and the plan follows.` : "The plan follows when what is marked is right.";
}

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function planSoon() {
  clearTimeout(timer);
  timer = setTimeout(askPlan, PAUSE);
}

/** Put the job into the queue; the form's key makes one job of a double click. */
async function queue() {
  if (button.disabled) return;
  button.disabled = true;
  clearTimeout(timer);
  asking?.abort();
  try {
    const { title } = await api("POST", `/api/make/${operator}`, gathered());
    sessionStorage.setItem("toast", `Queued: ${title}`);
    location.assign("/executions");
    return;
  } catch (error) {
    const problems = error.body?.problems;
    if (problems) {
      showProblems(problems);
      const first = form.querySelector(".wrong:not([hidden])");
      const folded = first?.closest("details");
      if (folded) folded.open = true;
      const field = first?.closest("[data-field]");
      (field?.querySelector("input:not([type=hidden]), select, textarea") ?? button).focus();
    } else tell(error);
  }
  plan.removeAttribute("aria-busy");
  button.disabled = false;
}

form.noValidate = true;
form.addEventListener("submit", (event) => {
  event.preventDefault();
  queue();
});
form.addEventListener("input", (event) => {
  if (event.target.name === "_name") touched.add("_name");
  // A form that was changed is another job.
  form.elements._key.value = crypto.getRandomValues(new Uint32Array(4)).join("-");
  planSoon();
});
form.addEventListener("change", (event) => {
  const name = event.target.closest("[data-field]")?.dataset.field;
  if (name) touched.add(name);
});
form.addEventListener("htmx:after:swap", () => {
  showOwn();
  planSoon();
});
form.addEventListener("click", (event) => {
  if (!event.target.closest("[data-dice]")) return;
  document.getElementById("field-seed").value = crypto.getRandomValues(new Uint32Array(1))[0];
  planSoon();
});
for (const dice of form.querySelectorAll("[data-dice]")) dice.hidden = false;
source.addEventListener("change", () => {
  const [kind, id] = source.value.split(":");
  form.dataset.source = kind;
  const look = document.getElementById("look");
  look.hidden = !id;
  look.href = kind === "dataset" ? `/datasets/${id}` : `/uploads/${id}`;
});
addEventListener("pageshow", (event) => {
  // A page that comes back from the browser's memory may be queued once more.
  if (event.persisted) return location.reload();
  // Only now fields have what was chosen before somebody left and came back: another model has other parameters.
  for (const field of form.querySelectorAll("select[hx-get], [hx-get] input[type=checkbox]")) {
    const drawn = field.localName === "select" ? field.selectedOptions[0]?.defaultSelected : field.checked === field.defaultChecked;
    if (!drawn) field.dispatchEvent(new Event("change", { bubbles: true }));
  }
  askPlan();
});
keys.add({ key: "Mod+Enter", what: "Queue", where: "Make", run: queue, always: true });
document.querySelector(".operators [aria-current]").scrollIntoView({ block: "nearest", inline: "center" });
