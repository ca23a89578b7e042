/** The panel of filters: decisions, ratings, tags, an expression, and a histogram of any column. */

import { api, el } from "./app.js";
import { shown } from "./grid_tile.js";
import { chosen, listed, named, ranged, replaced, without } from "./where.js";

const BINS = 24;
const VALUES = 12;
const WIDTH = 240;
const HEIGHT = 56;
// How images were made, and what only machines read, stands after what curators look for.
const MADE_BY = new Set(
  ("prompt negative_prompt width height seed num_inference_steps guidance_scale scheduler model model_revision strength " +
    "batch_size redrawn dropped_tokens id file_name model_parameters sha256 pixels_sha256 perceptual_hash").split(" "),
);
const SHAPES = "http://www.w3.org/2000/svg";

const find = (id) => document.getElementById(id);
const views = new Map(); // a query → the view that answers it
let page; // {dataset, query, change}
let all = [];
let view = "";
let drawing = 0;

export const filters = {
  begin(given) {
    page = given;
    find("filters-button").addEventListener("click", () => filters.toggle());
    for (const id of ["filters-close", "veil"]) find(id).addEventListener("click", () => filters.toggle(false));
    find("filters").addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !event.target.matches("input[type=search]")) filters.toggle(false);
    });
    find("edited").addEventListener("change", (event) => page.change({ edited: event.target.checked ? "1" : null }));
    find("where-form").addEventListener("submit", (event) => (event.preventDefault(), expression()));
    find("where").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey) return;
      event.preventDefault();
      expression();
    });
    find("where").addEventListener("change", expression);
    find("columns-search").addEventListener("input", (event) => {
      const text = event.target.value.toLowerCase();
      for (const each of find("columns").children) each.hidden = !each.dataset.name.toLowerCase().includes(text);
    });
    const wide = matchMedia("(min-width: 1100px)").matches;
    filters.toggle(wide && localStorage.getItem("filters") !== "closed", { remember: false });
  },

  /** Show or hide the panel. */
  toggle(wanted = find("filters").hidden, { remember = true } = {}) {
    find("filters").hidden = !wanted;
    find("filters-button").setAttribute("aria-expanded", String(wanted));
    if (remember) localStorage.setItem("filters", wanted ? "open" : "closed");
    if (wanted) draw();
    if (remember) find(wanted ? "filters-close" : "grid").focus({ preventScroll: true });
  },

  /** A view of a query is shown. */
  shown(query, shownView) {
    view = shownView;
    find("where-wrong").textContent = "";
    find("where").removeAttribute("aria-invalid");
    views.clear();
    views.set(query.toString(), shownView);
    draw();
  },

  /** The query cannot be answered, for its expression or something else; figures are of all images then. */
  async wrong(error) {
    find("where").value = asked();
    if (error) find("where").setAttribute("aria-invalid", "true");
    else find("where").removeAttribute("aria-invalid");
    find("where-wrong").textContent = [error?.message, error?.hint].filter(Boolean).join("\n\n");
    views.clear();
    view = await viewOf(new URLSearchParams()).catch(() => "");
    draw();
  },

  /** What people decided has changed. */
  refresh() {
    if (view && !find("filters").hidden) drawFacets(drawing);
  },

  /** The columns are known. */
  columns(columns) {
    const plain = columns.filter((column) => ["number", "text", "yes or no"].includes(column.type));
    const order = [...MADE_BY];
    const rank = ({ name }) => order.indexOf(name);
    all = plain.sort((one, other) => rank(one) - rank(other));
    const first = all.filter(({ type }) => type === "number").slice(0, 2).map(({ name }) => name);
    const opened = JSON.parse(localStorage.getItem("columns opened") ?? "null") ?? first;
    find("columns-search").hidden = all.length < 12;
    find("columns").replaceChildren(
      ...all.map(({ name }) => {
        const box = el("details", { class: "column", "data-name": name });
        box.open = opened.includes(name);
        box.append(el("summary", {}, el("span", {}, name)), el("div", { class: "spread" }));
        box.addEventListener("toggle", () => {
          const open = [...find("columns").children].filter((each) => each.open).map((each) => each.dataset.name);
          localStorage.setItem("columns opened", JSON.stringify(open));
          if (box.open) drawColumn(box, drawing);
        });
        return box;
      }),
    );
    draw();
  },
};

function expression() {
  const text = find("where").value.trim();
  if (text !== (page.query().get("where") ?? "")) page.change({ where: text });
}

function asked() {
  return page.query().get("where") ?? "";
}

/** The view as it would be without a filter, of which a figure is drawn; of all images where there is none. */
async function viewOf(query) {
  const key = query.toString();
  if (!views.has(key)) {
    const found = await api("GET", `/api/datasets/${page.dataset}/view?${key}`).catch((error) => {
      if ([400, 422].includes(error.status) && key) return viewOf(new URLSearchParams()).then((view) => ({ view }));
      throw error;
    });
    views.set(key, found.view);
  }
  return views.get(key);
}

function lessThan(name) {
  const query = page.query();
  query.delete(name);
  return query;
}

async function draw() {
  if (!view || find("filters").hidden) return;
  const mine = ++drawing;
  const query = page.query();
  if (document.activeElement !== find("where")) find("where").value = query.get("where") ?? "";
  find("edited").checked = query.has("edited");
  await drawFacets(mine);
  for (const box of find("columns").children) {
    const { any } = chosen(query.get("where") ?? "", box.dataset.name);
    box.classList.toggle("filtered", any);
    if (box.open && mine === drawing) await drawColumn(box, mine);
  }
}

async function drawFacets(mine) {
  const query = page.query();
  const facets = async (name) => api("GET", `/api/views/${await viewOf(lessThan(name))}/facets`).catch(() => null);
  const [decisions, ratings, tags] = await Promise.all(["decision", "rating", "tag"].map(facets));
  if (!decisions || !ratings || !tags || mine !== drawing) return;
  const of = decisions.decisions;
  const words = [["keep", "kept"], ["reject", "rejected"], ["undecided", "undecided"]];
  drawChoices("decision", query, words.map(([value, text]) => [value, text, of[value]]));
  const least = (rating) => ratings.ratings.slice(rating).reduce((sum, count) => sum + count, 0);
  drawChoices("rating", query, [1, 2, 3, 4, 5].map((rating) => [`${rating}`, `★ ${rating}`, least(rating)]));
  drawChoices("tag", query, tags.tags.slice(0, 30).map(({ value, count }) => [value, value, count]));
  find("tags-set").hidden = !tags.tags.length;
  find("edited-count").textContent = decisions.edited.toLocaleString("en");
}

function drawChoices(name, query, choices) {
  const active = query.get(name);
  const focused = find(name).contains(document.activeElement) ? document.activeElement.dataset.value : null;
  find(name).replaceChildren(
    ...choices.map(([value, text, count]) => {
      const pressed = value === active;
      const choose = () => page.change({ [name]: pressed ? null : value });
      return el(
        "button",
        { type: "button", class: "small", "aria-pressed": String(pressed), "data-value": value, onclick: choose },
        el("span", {}, text),
        el("span", { class: "number soft" }, count.toLocaleString("en")),
      );
    }),
  );
  if (focused !== null) find(name).querySelector(`[data-value="${CSS.escape(focused)}"]`)?.focus();
}

async function drawColumn(box, mine) {
  if (!view) return;
  const column = box.dataset.name;
  const query = page.query();
  const where = query.get("where") ?? "";
  const rest = without(where, column);
  if (rest) query.set("where", rest);
  else query.delete("where");
  const kind = all.find(({ name }) => name === column)?.type;
  const bins = kind === "number" ? BINS : VALUES;
  try {
    const view = await viewOf(query);
    const found = await api("GET", `/api/views/${view}/histogram?column=${encodeURIComponent(column)}&bins=${bins}`);
    if (mine !== drawing) return;
    const filter = chosen(where, column);
    const drawn = found.kind === "number" ? bars(column, found, filter) : values(column, found, filter, kind);
    if (found.missing) drawn.push(missing(column, found.missing, filter));
    redraw(box.querySelector(".spread"), drawn);
  } catch (error) {
    box.querySelector(".spread").replaceChildren(el("p", { class: "soft" }, error.message));
  }
}

/** Draw a column anew; somebody who types a bound, or has pressed a value, goes on doing so. */
function redraw(place, drawn) {
  const typed = place.querySelector(".range:focus-within");
  const range = drawn.findIndex((each) => each.matches(".range"));
  if (typed && range >= 0) {
    for (const each of [...place.children]) if (each !== typed) each.remove();
    typed.before(...drawn.slice(0, range));
    typed.after(...drawn.slice(range + 1));
    return;
  }
  const focused = place.contains(document.activeElement) ? document.activeElement.dataset.value : undefined;
  place.replaceChildren(...drawn);
  if (focused === undefined) return;
  const again = [...place.children].find((each) => each.dataset.value === focused);
  (again ?? place.previousElementSibling).focus();
}

function shape(name, attributes, ...children) {
  const made = document.createElementNS(SHAPES, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** A bound that reads well, and is as exact as the bars are wide. */
function bound(value, edges) {
  const digits = Math.ceil(1 - Math.log10((edges.at(-1) - edges[0]) / (edges.length - 1)));
  return Number(value.toFixed(Math.max(0, Math.min(digits, 100))));
}

/** Bars: a click is a range, a click outside of it widens it, one inside narrows it to that bar. */
function bars(column, { edges, counts }, filter) {
  if (!counts.length) return [el("p", { class: "soft" }, "No numbers")];
  if (counts.length === 1) return [el("p", { class: "soft number" }, `${shown(edges[0])} everywhere`)];
  const most = Math.max(...counts, 1);
  const step = WIDTH / counts.length;
  const ends = edges.map((edge) => bound(edge, edges)); // as a click makes them
  const inside = ({ low, high }, place) => (low === null || ends[place + 1] > low) && (high === null || ends[place] < high);
  const choose = (place) => {
    const now = asked(); // these bars may be older
    const range = chosen(now, column);
    const active = range.low !== null || range.high !== null;
    const held = counts.map((_, each) => each).filter((each) => active && inside(range, each));
    if (held.length === 1 && held[0] === place) return page.change({ where: without(now, column) });
    const narrow = !held.length || held.includes(place);
    const [first, last] = narrow ? [place, place] : [Math.min(place, held[0]), Math.max(place, held.at(-1))];
    const from = first === 0 ? null : ends[first];
    const to = last === counts.length - 1 ? null : ends[last + 1];
    return page.change({ where: ranged(now, column, from, to) });
  };
  const drawn = counts.map((count, place) => {
    const height = count ? Math.max(2, (count / most) * HEIGHT) : 0;
    const x = place * step;
    const said = `${shown(edges[place])} – ${shown(edges[place + 1])}: ${count.toLocaleString("en")}`;
    const bar = shape("rect", { class: "bar", x: x + 0.5, y: HEIGHT - height, width: Math.max(1, step - 1), height });
    const hit = shape("rect", { class: "hit", x, y: 0, width: step, height: HEIGHT });
    const group = shape("g", { class: inside(filter, place) ? "inside" : "outside" }, shape("title", {}, said), bar, hit);
    group.addEventListener("click", () => choose(place));
    return group;
  });
  const svg = shape(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", class: "histogram", role: "img" },
    shape("title", {}, `How ${column} is spread`),
    ...drawn,
  );
  return [svg, range(column, edges, filter)];
}

/** The bounds as numbers, to be read and typed. */
function range(column, edges, { low, high }) {
  const input = (value, label, placeholder) =>
    el("input", {
      type: "number",
      step: "any",
      value: value ?? "",
      "aria-label": `${column} ${label}`,
      placeholder: bound(placeholder, edges),
    });
  const from = input(low, "from", edges[0]);
  const to = input(high, "below", edges.at(-1));
  const typed = (text) => (text.value === "" ? null : Number(text.value));
  const apply = () => page.change({ where: ranged(asked(), column, typed(from), typed(to)) });
  from.addEventListener("change", apply);
  to.addEventListener("change", apply);
  return el("div", { class: "range" }, from, el("span", { class: "soft" }, "to"), to);
}

/** The most frequent texts, or yes and no; a click takes one in or out. */
function values(column, { values: found, others }, filter, kind) {
  const most = Math.max(...found.map(({ count }) => count), 1);
  const truth = kind === "yes or no";
  const drawn = found.map(({ value, count }) => {
    const yes = truth && (value === true || /^(true|yes)$/i.test(value));
    const pressed = truth ? filter.truth === yes : filter.texts.includes(value);
    const choose = () => {
      if (truth) return page.change({ where: replaced(asked(), column, pressed ? "" : `${yes ? "" : "not "}${named(column)}`) });
      const { texts: now } = chosen(asked(), column);
      const texts = now.includes(value) ? now.filter((text) => text !== value) : [...now, value];
      return page.change({ where: listed(asked(), column, texts) });
    };
    const bar = shape("svg", { viewBox: "0 0 100 2", preserveAspectRatio: "none", class: "share", "aria-hidden": "true" },
      shape("rect", { x: 0, y: 0, height: 2, width: (100 * count) / most }));
    const text = truth ? (yes ? "yes" : "no") : shown(value);
    return el("button", { type: "button", class: "value", "data-value": text, "aria-pressed": String(pressed), title: text, onclick: choose },
      el("span", { class: "text" }, text), el("span", { class: "number soft" }, count.toLocaleString("en")), bar);
  });
  if (others) drawn.push(el("p", { class: "soft number" }, `and ${others.toLocaleString("en")} images with other values`));
  return drawn.length ? drawn : [el("p", { class: "soft" }, "No values")];
}

function missing(column, count, filter) {
  const choose = () => page.change({ where: replaced(asked(), column, filter.missing ? "" : `${named(column)} is null`) });
  return el("button", { type: "button", class: "value", "data-value": "", "aria-pressed": String(filter.missing), onclick: choose },
    el("span", { class: "text" }, "— without a value"), el("span", { class: "number soft" }, count.toLocaleString("en")));
}
