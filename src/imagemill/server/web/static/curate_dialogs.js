/** What acts on many images at once: find and replace, save as, export, apply, history. */

import { api, coded, el, tell, toast } from "./app.js";
import { images, redo, undo } from "./deciding.js";
import { on } from "./live.js";

const grid = document.getElementById("grid");
const dataset = grid.getAttribute("dataset");
const url = `/api/datasets/${dataset}`;
const CALM = 300; // milliseconds after the last letter when a preview is asked for

/** The parts of a dialog: its form, and what `data-…` attributes name. */
function parts(name) {
  const dialog = document.getElementById(`curate-${name}`);
  const named = (what) => dialog.querySelector(`[data-${what}]`);
  return { dialog, form: dialog.querySelector("form"), named };
}

/** The images of a choice in a dialog; null means everything. */
function chosen(which) {
  if (which === "everything") return null;
  return which === "selected" ? grid.selection : { view: grid.view, except: [] };
}

function offerScope(form, name) {
  const counts = { selected: grid.count, matching: grid.matching, everything: grid.images };
  for (const [which, count] of Object.entries(counts)) {
    form.querySelector(`[data-number=${which}]`).textContent = count.toLocaleString("en");
  }
  const filtered = grid.matching !== grid.images;
  const choices = form.elements[name];
  for (const choice of choices) {
    choice.closest("label").hidden = { selected: !grid.count, matching: !filtered, everything: false }[choice.value];
  }
  form.querySelector(".scope").hidden = !grid.count && !filtered;
  choices.value = grid.count ? "selected" : filtered ? "matching" : "everything";
}

/** Send a form; what is wrong is said inside of it. */
async function send(form, send) {
  const wrong = form.querySelector("[data-wrong]");
  const button = form.querySelector(".primary");
  button.disabled = true;
  wrong.hidden = true;
  try {
    await send();
    form.closest("dialog").close();
  } catch (error) {
    wrong.replaceChildren(...coded([error.message, error.hint].filter(Boolean).join(": ")));
    wrong.hidden = false;
  } finally {
    button.disabled = false;
  }
}

/** Suggest a name, if nobody has typed one meanwhile. */
function suggest(input, name) {
  if (input.value) return;
  input.value = name;
  input.select();
}

/** Ask how many of the chosen images are rejected, and offer to leave them out; returns their number. */
async function offerRejected({ form }, name) {
  const selection = chosen(form.elements[name].value);
  const { rejected } = await api("POST", `${url}/rejected`, { selection });
  form.querySelector("[data-rejected]").hidden = !rejected;
  form.querySelector("[data-number=rejected]").textContent = rejected.toLocaleString("en");
  return rejected;
}

/** Say that a job is queued, and what it waits for, and again when it has ended. */
function follow({ job, ahead }, said, link, ended = null) {
  const waits = ahead ? `, queued: ${ahead === 1 ? "1 execution" : `${ahead} executions`} before it` : "";
  toast(`${said}${waits}`, { link: { text: "Execution", href: `/executions/${job}` } });
  const off = on("job", (found) => {
    if (found.id !== job || !["done", "failed", "cancelled"].includes(found.state)) return;
    off?.();
    if (found.state === "done") toast(ended ?? `${found.title}: done`, { link });
    else toast(`${found.title}: ${found.message || found.state}`, { kind: "error" });
  });
}

// ------------------------------------------------------------------ find and replace

const replacing = { selection: null, revision: null, timer: 0, asked: null, ...parts("replace") };

async function openReplace() {
  const { dialog, form, named } = replacing;
  const all = !grid.count;
  replacing.selection = all ? { view: grid.view, except: [] } : grid.selection;
  const count = all ? grid.matching : grid.count;
  named("scope").textContent = all ? `In all ${images(count)} that match` : `In ${images(count)} selected`;
  dialog.showModal();
  form.find.focus();
  try {
    const { columns } = await api("GET", `${url}/curation`);
    const before = form.column.value;
    form.column.replaceChildren(...columns.map((name) => el("option", {}, name)));
    form.column.value = columns.includes(before) ? before : columns.includes("caption") ? "caption" : columns[0];
  } catch (error) {
    tell(error);
  }
  preview();
}

function asked() {
  const { form } = replacing;
  const checked = Object.fromEntries(["case", "words", "expression"].map((name) => [name, form[name].checked]));
  const replacement = { find: form.find.value, replace: form.replace.value, ...checked };
  return { selection: replacing.selection, column: form.column.value, replacement };
}

function preview() {
  clearTimeout(replacing.timer);
  replacing.asked?.abort();
  replacing.named("do").disabled = true;
  replacing.form.words.disabled = replacing.form.expression.checked;
  if (!replacing.form.find.value) return showPreview("What is found is shown here before anything changes.", []);
  replacing.timer = setTimeout(askPreview, CALM);
}

async function askPreview() {
  const { named } = replacing;
  replacing.asked = new AbortController();
  try {
    const found = await api("POST", `${url}/replace?preview=1`, asked(), { signal: replacing.asked.signal });
    replacing.revision = found.revision;
    const more = found.images - found.shown.length;
    const said = found.images
      ? `Changes ${found.images.toLocaleString("en")} of ${images(found.looked)}${more ? `; the first ${found.shown.length}:` : ":"}`
      : `Not found in ${images(found.looked)}`;
    showPreview(said, found.shown);
    named("do").disabled = !found.images;
    named("do").textContent = found.images ? `Replace in ${images(found.images)}` : "Replace";
  } catch (error) {
    if (error.name === "AbortError") return;
    showPreview([error.message, error.hint].filter(Boolean).join(": "), [], true);
  }
}

function showPreview(said, shown, wrong = false) {
  const { named } = replacing;
  named("said").replaceChildren(...(wrong ? coded(said) : [said]));
  named("said").classList.toggle("bad", wrong);
  const tags = { same: "span", removed: "del", added: "ins" };
  const rows = shown.map(({ id, pieces }) =>
    el("li", {}, el("p", { dir: "auto" }, ...pieces.map(([kind, text]) => el(tags[kind], {}, text))), el("a", { href: `/datasets/${dataset}/images/${id}`, class: "soft number", target: "_blank" }, id)),
  );
  named("shown").replaceChildren(...rows);
  named("shown").hidden = !rows.length;
}

async function replace() {
  const { dialog, named } = replacing;
  named("do").disabled = true;
  try {
    const found = await api("POST", `${url}/replace`, { ...asked(), revision: replacing.revision });
    dialog.close();
    grid.refresh();
    toast(`Replaced in ${images(found.images)}`, { undo: () => undo(found.event.number) });
  } catch (error) {
    showPreview([error.message, error.hint].filter(Boolean).join(": "), [], true);
    if (error.status === 409) preview();
  }
}

replacing.form.addEventListener("input", preview);
replacing.form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!replacing.named("do").disabled) replace();
});

// ------------------------------------------------------------------ save as

const saving = parts("save");

async function openSave() {
  const { dialog, form } = saving;
  offerScope(form, "save-which");
  form.querySelector("[data-wrong]").hidden = true;
  form.elements["leave-out"].checked = true;
  form.elements.name.value = "";
  dialog.showModal();
  try {
    suggest(form.elements.name, (await api("GET", `${url}/curation`)).suggested);
    await offerRejected(saving, "save-which");
  } catch (error) {
    tell(error);
  }
}

function save(event) {
  event.preventDefault();
  send(saving.form, async () => {
    const { elements } = saving.form;
    const selection = chosen(elements["save-which"].value);
    const body = { name: elements.name.value, selection, keep_rejected: !elements["leave-out"].checked };
    const found = await api("POST", `${url}/save-as`, body);
    follow(found, `Saving ${found.name}`, { text: "Open", href: `/datasets/${found.dataset}` });
  });
}

saving.form.addEventListener("change", ({ target }) => {
  if (target.name === "save-which") offerRejected(saving, "save-which").catch(tell);
});
saving.form.addEventListener("submit", save);

// ------------------------------------------------------------------ export

const exporting = { pending: 0, rejected: 0, captioned: [], ...parts("export") };

async function openExport() {
  const { dialog, form, named } = exporting;
  offerScope(form, "export-which");
  named("wrong").hidden = true;
  named("more").href = `/make/export?dataset=${dataset}`;
  form.querySelector(".primary").disabled = true; // until it is known what there is to choose
  form.elements["leave-out"].checked = true;
  form.elements.name.value = "";
  dialog.showModal();
  try {
    const found = await api("GET", `${url}/curation`);
    exporting.pending = found.pending.images;
    exporting.captioned = found.captioned;
    suggest(form.elements.name, found.suggested);
    form.layout.replaceChildren(...found.layouts.map((name) => el("option", { selected: name === "imagefolder" }, name)));
    exporting.rejected = await offerRejected(exporting, "export-which");
    tellExport();
    form.querySelector(".primary").disabled = false;
    await listExports();
  } catch (error) {
    tell(error);
  }
}

function asItIs() {
  const { elements } = exporting.form;
  const leavesOut = exporting.rejected && elements["leave-out"].checked;
  return elements["export-which"].value === "everything" && !exporting.pending && !leavesOut;
}

function tellExport() {
  const { form, named } = exporting;
  const [name, layout] = [form.elements.name.value.trim() || "…", form.layout.value];
  const without = exporting.rejected && form.elements["leave-out"].checked ? ", without what is rejected" : "";
  named("captions").hidden = !exporting.captioned.includes(layout);
  named("said").textContent = asItIs()
    ? `Exports the dataset as it is, as ${name}. It can then be downloaded as a ZIP file.`
    : `Saves ${name} as a new dataset first, with what was edited${without}, then exports it as ${name}-${layout}. That can then be downloaded as a ZIP file.`;
}

async function listExports() {
  const found = await api("GET", `${url}/exports`);
  exporting.named("exports").hidden = !found.length;
  exporting.dialog.querySelector(".curate-exports").replaceChildren(
    ...found.map((each) =>
      el(
        "li",
        {},
        el("a", { href: `/executions/${each.job}` }, each.name),
        el("span", { class: "chip" }, each.layout || each.state),
        each.download && el("a", { href: each.download, class: "button small", download: "" }, "Download", el("span", { class: "visually-hidden" }, ` ${each.name}`)),
      ),
    ),
  );
}

function startExport(event) {
  event.preventDefault();
  const { form } = exporting;
  send(form, async () => {
    const { elements } = form;
    const body = {
      name: elements.name.value,
      layout: elements.layout.value,
      selection: chosen(elements["export-which"].value),
      keep_rejected: !elements["leave-out"].checked,
      caption_column: exporting.captioned.includes(elements.layout.value) ? elements.caption.value : "",
    };
    const found = await api("POST", `${url}/export`, body);
    follow(found, `Exporting as ${body.layout}`, { text: "Download", href: `/downloads/${found.job}` });
  });
}

async function countRejected() {
  exporting.rejected = await offerRejected(exporting, "export-which");
  tellExport();
}

exporting.form.addEventListener("input", tellExport);
exporting.form.addEventListener("change", ({ target }) => {
  if (target.name === "export-which") countRejected().catch(tell);
});
exporting.form.addEventListener("submit", startExport);

// ------------------------------------------------------------------ apply

const applying = parts("apply");
const KINDS = {
  texts: ["text", "texts"],
  decisions: ["decision", "decisions"],
  ratings: ["rating", "ratings"],
  tags: ["list of tags", "lists of tags"],
};

async function openApply() {
  const { dialog, named } = applying;
  try {
    const { pending, applied } = await api("GET", `${url}/curation`);
    const told = Object.entries(KINDS)
      .filter(([kind]) => pending[kind])
      .map(([kind, [one, many]]) => `${pending[kind].toLocaleString("en")} ${pending[kind] === 1 ? one : many}`);
    named("said").textContent = pending.images
      ? `${told.join(", ")} of ${images(pending.images)} are written into the dataset itself.`
      : "There is nothing to apply: the dataset has all edits.";
    named("do").disabled = !pending.images;
    named("undo").hidden = !applied;
    dialog.showModal();
  } catch (error) {
    tell(error);
  }
}

async function apply(undone) {
  applying.dialog.close();
  try {
    const found = await api("POST", `${url}/apply`, { undo: undone });
    follow(found, undone ? "Taking the last apply back" : "Applying edits", null, undone ? "Taken back" : "Applied");
  } catch (error) {
    tell(error);
  }
}

applying.form.addEventListener("submit", (event) => (event.preventDefault(), apply(false)));
applying.named("undo").addEventListener("click", () => apply(true));

// ------------------------------------------------------------------ history

const past = parts("history");

async function openHistory() {
  const { dialog, named } = past;
  try {
    const { events } = await api("GET", `${url}/history`);
    named("said").textContent = events.length ? "What was decided, the last first." : "Nothing was decided yet.";
    const when = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
    named("shown").replaceChildren(
      ...events.map((each) =>
        el(
          "li",
          { class: each.undone ? "undone" : null },
          el("span", {}, ...coded(each.what)),
          el("time", { datetime: each.time, class: "soft number" }, each.time && when.format(new Date(each.time))),
        ),
      ),
    );
    if (!dialog.open) dialog.showModal();
  } catch (error) {
    tell(error);
  }
}

past.named("undo").addEventListener("click", () => undo().then(openHistory));
past.named("redo").addEventListener("click", () => redo().then(openHistory));

export const dialogs = { replace: openReplace, save: openSave, export: openExport, apply: openApply, history: openHistory };
