/** The gallery: one query, which the address holds, shown as a grid, chips, a count and filters. */

import { api, coded, el, keys, tell, toast } from "./app.js";
import { decide, settled } from "./deciding.js";
import { drawChips } from "./gallery_chips.js";
import { filters } from "./gallery_filters.js";
import { showDuplicates, similarRows } from "./gallery_likeness.js";
import { news } from "./gallery_news.js";
import "./grid.js";

const PARAMETERS = ["where", "search", "search_column", "by", "ascending", "decision", "rating", "tag", "edited", "stack"];
const PATIENCE = 300; // milliseconds without a key before a search begins
const LONG = 500; // characters of a prompt
const SIZES = ["small", "medium", "large"];

const page = JSON.parse(document.getElementById("page-data").textContent);
const find = (id) => document.getElementById(id);
const grid = find("grid");
const address = `/datasets/${page.dataset}`;
const number = (value) => value.toLocaleString("en");
const images = (count) => `${number(count)} ${count === 1 ? "image" : "images"}`;

// ---------------------------------------------------------------------------- the query and the address

function asked() {
  return new URLSearchParams(location.search);
}

/** What of the address is the view's query. */
function query() {
  return new URLSearchParams([...asked()].filter(([name, value]) => PARAMETERS.includes(name) && value));
}

/** Change parameters, null takes one away; the view follows. */
function change(changes, { replace = false } = {}) {
  const wanted = "show" in changes || "similar" in changes ? asked() : query();
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === "") wanted.delete(name);
    else wanted.set(name, value);
  }
  if (!wanted.has("by")) wanted.delete("ascending");
  const next = wanted.size ? `?${wanted}` : location.pathname;
  if (replace) history.replaceState(null, "", next);
  else history.pushState(null, "", next);
  return show();
}

let shownFor = "";

/** Show what the address says. */
async function show() {
  const wanted = asked();
  shownFor = wanted.toString();
  const duplicates = wanted.get("show") === "duplicates";
  document.body.classList.toggle("duplicates-shown", duplicates);
  document.body.classList.toggle("similar-shown", wanted.has("similar"));
  find("likeness").hidden = !duplicates;
  grid.hidden = duplicates;
  find("nothing").hidden = true;
  find("newer").hidden = true;
  find("compared").hidden = true;
  drawControls();
  if (duplicates) return showDuplicates(find("likeness"), page.dataset);
  const similar = wanted.get("similar");
  if (!similar) return grid.open(query(), placeFromAddress());
  const found = await similarRows(page.dataset, similar, find("nothing"));
  if (shownFor !== wanted.toString()) return;
  grid.hidden = !found;
  if (!found) return;
  grid.show(found.rows);
  find("count").textContent = found.most;
  find("compared").textContent = found.said;
  find("compared").hidden = false;
}

/** Where the address says the grid begins, and which tile was looked at last. */
function placeFromAddress() {
  const place = Number(/^#place=(\d+)$/.exec(location.hash)?.[1] ?? 0);
  const left = JSON.parse(sessionStorage.getItem(placeKey()) ?? "null");
  if (!left || place < left.first || place >= left.end) return { place };
  return { place: left.first, focus: place === left.first ? left.focus : place };
}

const placeKey = () => `place ${page.dataset}?${query()}`;

function keepPlace() {
  if (!grid.total || asked().has("similar") || asked().has("show")) return;
  const { first, end } = grid;
  const hash = first ? `#place=${first}` : "";
  history.replaceState(null, "", location.pathname + location.search + hash);
  const focus = grid.focused?.place ?? first;
  sessionStorage.setItem(`gallery ${page.dataset}`, location.search + hash); // the way back from comparing
  sessionStorage.setItem(placeKey(), JSON.stringify({ first, end, focus }));
}

window.addEventListener("popstate", () => {
  if (shownFor !== asked().toString()) show();
  else grid.scrollToPlace(placeFromAddress().place);
});

// ---------------------------------------------------------------------------- controls

function drawControls() {
  const wanted = query();
  const similar = asked().get("similar");
  if (document.activeElement !== find("search")) find("search").value = wanted.get("search") ?? "";
  choose("search-column", wanted.get("search_column") ?? "prompt");
  choose("sort", wanted.get("by") ?? "");
  const ascending = wanted.get("ascending") === "true";
  const order = ascending ? "Least first" : "Greatest first";
  find("direction").hidden = !wanted.get("by");
  find("direction").setAttribute("aria-label", order);
  find("direction").title = `${order}: turn round`;
  find("direction").classList.toggle("ascending", ascending);
  find("stack").setAttribute("aria-pressed", String(wanted.get("stack") === "prompt"));
  if (asked().has("show")) find("duplicates").setAttribute("aria-current", "true");
  else find("duplicates").removeAttribute("aria-current");
  drawChips(wanted, similar, change);
}

/** Choose a value, also one that is not offered. */
function choose(id, value) {
  const select = find(id);
  if (![...select.options].some((option) => option.value === value)) select.append(el("option", { value }, value));
  select.value = value;
}

let typed = 0;
find("search").addEventListener("input", () => {
  clearTimeout(typed);
  typed = setTimeout(search, PATIENCE);
});
find("search-form").addEventListener("submit", (event) => {
  event.preventDefault();
  search();
  grid.focus();
});

function search() {
  clearTimeout(typed);
  const text = find("search").value.trim();
  const column = find("search-column").value;
  const changes = { search: text, search_column: text && column !== "prompt" ? column : null };
  if (text !== (query().get("search") ?? "") || column !== (query().get("search_column") ?? "prompt")) {
    change(changes, { replace: query().has("search") && Boolean(text) });
  }
}

find("search-column").addEventListener("change", search);
find("sort").addEventListener("change", () => change({ by: find("sort").value, ascending: null }));
find("direction").addEventListener("click", () => {
  change({ ascending: query().get("ascending") === "true" ? null : "true" });
});
find("stack").addEventListener("click", () => change({ stack: query().has("stack") ? null : "prompt" }));
find("blur").addEventListener("click", () => blur(!grid.classList.contains("blurred")));
find("smaller").addEventListener("click", () => resize(-1));
find("larger").addEventListener("click", () => resize(1));
find("compare").addEventListener("click", compare);
find("similar").addEventListener("click", similar);
find("newer").addEventListener("click", newest);
for (const link of document.querySelectorAll("[data-duplicates]")) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    change({ show: asked().has("show") ? null : "duplicates", similar: null });
  });
}

function blur(wanted) {
  grid.classList.toggle("blurred", wanted);
  find("likeness").classList.toggle("blurred", wanted);
  find("blur").setAttribute("aria-pressed", String(wanted));
  localStorage.setItem("blur", wanted ? "yes" : "no");
}

function resize(step) {
  const place = Math.max(0, Math.min(SIZES.indexOf(grid.size) + step, SIZES.length - 1));
  grid.size = SIZES[place];
  find("smaller").disabled = place === 0;
  find("larger").disabled = place === SIZES.length - 1;
  localStorage.setItem("tiles", grid.size);
}

/** The ids of the selection, or null when they are too many or too few to be compared. */
function compared() {
  const ids = grid.selection.images ?? [];
  return ids.length > 1 && ids.length < 5 ? ids : null;
}

function compare() {
  const ids = compared();
  if (!ids) return toast("Select two to four images to compare them");
  keepPlace();
  location.assign(`${address}/compare?images=${ids.join(",")}`);
}

function similar() {
  const { focused } = grid;
  if (focused) change({ similar: focused.id, show: null });
}

function newest() {
  find("newer").hidden = true;
  grid.reload({ keepPlace: true });
}

// ---------------------------------------------------------------------------- what the grid says

grid.addEventListener("im-view", ({ detail }) => {
  find("count").textContent = counted(detail);
  news.shown(detail.newer);
  find("nothing").hidden = true;
  grid.hidden = false;
  if (!detail.total) drawNothing(detail.images);
  keepFocus();
  filters.shown(query(), grid.view);
});

/** What had the focus may be gone: then the grid has it, or what stands in its place. */
function keepFocus() {
  const { activeElement: focused } = document;
  if (focused !== document.body && focused.checkVisibility()) return;
  (grid.hidden ? find("nothing").querySelector("button") : grid)?.focus({ preventScroll: true });
}

function counted({ total, matching, images: all, stack }) {
  const prompts = stack ? `${number(total)} ${total === 1 ? "prompt" : "prompts"}, ` : "";
  return prompts + (matching === all ? images(all) : `${number(matching)} of ${images(all)}`);
}

function drawNothing(all, why = "No image matches", ...more) {
  const clear = Object.fromEntries(PARAMETERS.map((name) => [name, null]));
  find("nothing").replaceChildren(
    ...(all
      ? [el("h2", {}, why), ...more, el("button", { type: "button", onclick: () => change(clear) }, "Clear all filters")]
      : [el("h2", {}, "No images yet"), el("p", {}, "They appear here as they are finished.")]),
  );
  find("nothing").hidden = false;
  grid.hidden = true;
}

grid.addEventListener("im-building", ({ detail }) => {
  const of = detail.total ? ` of ${number(detail.total)}` : "";
  const bar = el("progress", { "aria-label": "Records read", max: detail.total || 1 });
  if (detail.total) bar.value = detail.done ?? 0;
  find("nothing").replaceChildren(
    el("h2", {}, "Reading the records"),
    el("p", { class: "number" }, `${number(detail.done ?? 0)}${of} records read. This is done once.`),
    bar,
  );
  find("nothing").hidden = false;
  grid.hidden = true;
});

grid.addEventListener("im-error", ({ detail: { error } }) => {
  if (![400, 422].includes(error.status) || !query().size) return tell(error);
  grid.clear();
  find("count").textContent = "";
  const [reason, ...place] = error.message.split("\n\n"); // of an expression
  drawNothing(
    true,
    "The filter cannot be read",
    el("p", { class: "bad" }, ...coded(sentence(reason))),
    ...place.map((text) => el("pre", {}, text)),
    ...(error.hint ? [el("p", {}, ...coded(sentence(error.hint)))] : []),
  );
  keepFocus();
  describe();
  filters.wrong(place.length ? error : null);
});

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

grid.addEventListener("im-select", () => {
  find("compare").disabled = !compared();
});

grid.addEventListener("im-open", async ({ detail: { id, row, place, aside } }) => {
  const parameters = query();
  keepPlace();
  if (row.stacked > 1) return change({ stack: null, where: samePrompt(row, parameters) });
  await settled();
  // The image page goes through this very view.
  sessionStorage.setItem(`imagemill.view:${page.dataset}?${parameters}`, grid.view);
  const opened = `${address}/images/${id}${parameters.size ? `?${parameters}` : ""}`;
  if (aside) window.open(opened, "_blank", "noopener");
  else location.assign(`${opened}#place=${place}`);
});

function samePrompt(row, parameters) {
  // Of a prompt that is too long for an address, its beginning has to do.
  const [is, text] = row.prompt.length > LONG ? ["contains", row.prompt.slice(0, LONG)] : ["=", row.prompt];
  const term = text ? `prompt ${is} '${text.replaceAll("'", "''")}'` : "(prompt is null or prompt = '')";
  const where = parameters.get("where");
  return where ? `(${where}) and ${term}` : term;
}

grid.addEventListener("im-scroll", keepPlace);
window.addEventListener("pagehide", keepPlace);

// ---------------------------------------------------------------------------- keys

const where = "Gallery";
const free = () => [document.body, find("main"), grid, null].includes(document.activeElement);
const forGrid = (event) => !grid.hidden && free() && grid.key(event);
for (const [key, what] of [
  ["ArrowLeft", "Move"], ["ArrowRight", "Move"], ["ArrowUp", "Move"], ["ArrowDown", "Move"],
  ["Shift+ArrowLeft", "Select a range"], ["Shift+ArrowRight", "Select a range"],
  ["Shift+ArrowUp", "Select a range"], ["Shift+ArrowDown", "Select a range"],
  ["Home", "First or last"], ["End", "First or last"], ["PageUp", "A window up or down"], ["PageDown", "A window up or down"],
  [" ", "Select or not"], ["Mod+a", "Select all that match"], ["Escape", "Select none"], ["Enter", "Open"],
]) keys.add({ key, what, where, run: forGrid });
for (const [key, what, decided] of [
  ["k", "Keep", { decision: "keep" }], ["x", "Reject", { decision: "reject" }], ["u", "Undecided", { decision: "" }],
  ...[1, 2, 3, 4, 5].map((rating) => [`${rating}`, "Rate", { rating }]), ["0", "No rating", { rating: 0 }],
]) keys.add({ key, what, where, run: () => decide(decided) });
for (const [key, what, run] of [
  ["/", "Search", () => find("search").select()],
  ["f", "Filters", () => filters.toggle()],
  ["b", "Blur what is not safe for work", () => blur(!grid.classList.contains("blurred"))],
  ["p", "Show the blurred picture", () => grid.peek()],
  ["s", "One tile a prompt", () => find("stack").click()],
  ["c", "Compare two to four", compare],
  ["v", "Find similar", similar],
  ["n", "Show new images", () => !find("newer").hidden && newest()],
  ["g", "Go to a number", goTo],
  ["+", "Larger tiles", () => resize(1)],
  ["-", "Smaller tiles", () => resize(-1)],
]) keys.add({ key, what, where, run });
find("search").addEventListener("keydown", (event) => {
  if (event.key === "Escape" || event.key === "ArrowDown") grid.focus();
});

function goTo() {
  find("go-number").max = grid.total;
  find("go-number").value = (grid.focused?.place ?? grid.first) + 1;
  find("go").showModal();
  find("go-number").select();
}

find("go").querySelector("form").addEventListener("submit", () => {
  const place = Number(find("go-number").value) - 1;
  grid.scrollToPlace(place);
  grid.focusPlace(place);
  find("go").addEventListener("close", () => grid.focus(), { once: true }); // which gives the focus back first
});

// ---------------------------------------------------------------------------- begin

grid.size = localStorage.getItem("tiles") ?? "medium";
resize(0);
blur(localStorage.getItem("blur") !== "no");
let described = false;
grid.addEventListener("im-view", describe);

/** Offer the columns of the dataset. */
async function describe() {
  if (described) return;
  described = true;
  const columns = await api("GET", `/api/datasets/${page.dataset}/columns`).catch((error) => (tell(error), []));
  const named = (test) => columns.filter(test).map((column) => column.name);
  const sortable = named((column) => column.sortable && column.name !== "rating");
  const searchable = named((column) => column.searchable && column.name !== "prompt");
  const option = (name) => el("option", { value: name }, name);
  find("sort").replaceChildren(find("sort").options[0], el("option", { value: "rating" }, "Your rating"), ...sortable.map(option));
  find("search-column").replaceChildren(...["prompt", ...searchable].map(option));
  find("search-column").hidden = !searchable.length;
  filters.columns(columns);
  drawControls();
}

filters.begin({ dataset: page.dataset, query, change });
news.begin({ dataset: page.dataset, query, newest });
show();
grid.focus({ preventScroll: true });
