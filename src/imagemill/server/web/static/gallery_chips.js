/** The chips above the gallery, one for each filter. */

import { el } from "./app.js";
import { chips } from "./where.js";

const find = (id) => document.getElementById(id);

/** Draw a chip for each filter of a query; `change` takes it away. */
export function drawChips(wanted, similar, change) {
  const list = [];
  const add = (text, changes) => list.push([text, changes]);
  if (similar) add("similar images", { similar: null });
  if (wanted.get("search")) add(`“${wanted.get("search")}”`, { search: null, search_column: null });
  if (wanted.get("decision")) {
    add({ keep: "kept", reject: "rejected" }[wanted.get("decision")] ?? "undecided", { decision: null });
  }
  if (wanted.get("rating")) add(`★ ${wanted.get("rating")} or more`, { rating: null });
  if (wanted.get("tag")) add(`tag ${wanted.get("tag")}`, { tag: null });
  if (wanted.get("edited")) add("edited", { edited: null });
  for (const { text, rest } of chips(wanted.get("where") ?? "")) add(text, { where: rest });
  const drawn = list.map(([text, changes]) =>
    el("li", {}, el(
      "button",
      { type: "button", class: "chip accent", title: "Take this filter away", onclick: () => change(changes) },
      el("span", {}, text),
      el("span", { "aria-hidden": "true" }, "×"),
    )));
  if (list.length > 1) {
    const all = Object.assign({}, ...list.map(([, changes]) => changes), { where: null });
    drawn.push(el("li", {}, el("button", { type: "button", class: "quiet small", onclick: () => change(all) }, "Clear all")));
  }
  const focused = [...find("chips").querySelectorAll("button")].indexOf(document.activeElement);
  find("chips").replaceChildren(...drawn);
  if (focused >= 0) [...find("chips").querySelectorAll("button")].slice(0, focused + 1).at(-1)?.focus();
  find("chips").hidden = !list.length;
  find("filters-count").textContent = list.length;
  find("filters-count").hidden = !list.length;
}
