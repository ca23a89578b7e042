/** One tile of the grid: a picture, what people decided about it, and a line of text. */

import { el } from "./app.js";

const SVG = "http://www.w3.org/2000/svg";
const MARKS = {
  check: ["selected", "M3.5 8.5l3 3 6-7"],
  keep: ["kept", "M3.5 8.5l3 3 6-7"],
  reject: ["rejected", "M4 4l8 8M12 4l-8 8"],
  edited: ["edited", "M3 13l.7-3L10.5 3.2l2.3 2.3L6 12.3z"],
};
const FIGURE = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });

/** A number, text or list of a record as people read it; null is "—". */
export function shown(value) {
  if (value === null || value === undefined || value === "") return "—";
  if (typeof value === "number") return Number.isInteger(value) ? value.toLocaleString("en") : FIGURE.format(value);
  if (typeof value === "boolean") return value ? "yes" : "no";
  return Array.isArray(value) ? value.map(shown).join(", ") : String(value);
}

function mark(kind) {
  const [, path] = MARKS[kind];
  const drawn = document.createElementNS(SVG, "svg");
  drawn.setAttribute("viewBox", "0 0 16 16");
  drawn.setAttribute("class", kind === "check" ? kind : `mark ${kind}`);
  const line = document.createElementNS(SVG, "path");
  line.setAttribute("d", path);
  drawn.append(line);
  return drawn;
}

/** What is said of a row to those who do not see it. */
export function said(row) {
  const facts = [row.prompt || row.id];
  if (row.nsfw) facts.push("not safe for work");
  if (row.decision) facts.push(MARKS[row.decision][0]);
  if (row.waiting) facts.push("not saved yet");
  if (row.rating) facts.push(`rated ${row.rating}`);
  if (row.edited) facts.push("edited");
  if (row.stacked > 1) facts.push(`${row.stacked} images of this prompt`);
  if (row.stacked > 1 && row.kept + row.rejected) facts.push(`${row.kept} kept, ${row.rejected} rejected`);
  return facts.join(", ");
}

/** How many images a stack has, and of how many of them people decided where not of all the same. */
function inStack({ stacked, decision, kept, rejected }) {
  const some = [["✓", kept], ["✗", rejected]].filter(([, count]) => count && !decision);
  return [...some, [some.length ? "of " : "×", stacked]].map(([sign, count]) => sign + count.toLocaleString("en")).join(" ");
}

export class Tile {
  place = -1;
  row = null;
  #image = el("img", { alt: "", decoding: "async", draggable: "false" });
  #marks = el("span", { class: "marks" });
  #score = el("span", { class: "score" });
  #stacked = el("span", { class: "stacked", title: "Open the images of this prompt (Enter)" });
  #caption = el("span", { class: "caption", dir: "auto" });
  #marked = "";

  /** `settled()` is called when the picture is shown, or cannot be. */
  constructor(settled) {
    const picture = el("div", { class: "picture" }, this.#image, mark("check"), this.#stacked, this.#marks, this.#score);
    this.element = el("div", { class: "tile", role: "option" }, picture, this.#caption);
    this.element.tile = this;
    for (const [event, name] of [["load", "loaded"], ["error", "failed"]]) {
      this.#image.addEventListener(event, () => {
        this.element.classList.add(name);
        settled();
      });
    }
  }

  /** Whether the picture is shown, or cannot be. */
  get settled() {
    return this.element.classList.contains("loaded") || this.element.classList.contains("failed");
  }

  /** Stand for another place; what it showed goes away. */
  stand(place, total) {
    this.place = place;
    this.element.id = `tile-${place}`;
    this.element.setAttribute("aria-posinset", place + 1);
    this.element.setAttribute("aria-setsize", total);
    this.show(null);
  }

  /** Show a row, or null while it is not here; `picture` says whether to load its picture now. */
  show(row, picture = true) {
    this.row = row;
    const { classList } = this.element;
    classList.toggle("empty", !row);
    classList.toggle("rejected", row?.decision === "reject");
    classList.toggle("kept", row?.decision === "keep");
    classList.toggle("nsfw", Boolean(row?.nsfw));
    classList.toggle("stack", row?.stacked > 1);
    classList.toggle("waiting", row?.waiting > 0);
    // One that is there stays.
    this.#show(row && (picture || this.#image.getAttribute("src") === row.thumbnail) ? row.thumbnail : "");
    this.#caption.textContent = this.element.title = row?.prompt ?? "";
    this.#stacked.textContent = row?.stacked > 1 ? inStack(row) : "";
    this.#score.textContent = row && "score" in row && row.score !== null ? shown(row.score) : "";
    this.element.setAttribute("aria-label", row ? said(row) : "loading");
    this.#mark(row ?? {});
  }

  #mark({ decision = "", rating = 0, edited = false }) {
    const marked = `${decision} ${rating} ${edited}`;
    if (marked === this.#marked) return;
    this.#marked = marked;
    this.#marks.replaceChildren();
    if (edited) this.#marks.append(mark("edited"));
    if (rating) this.#marks.append(el("span", { class: "rating" }, `★ ${rating}`));
    if (decision) this.#marks.append(mark(decision));
  }

  #show(address) {
    if ((this.#image.getAttribute("src") ?? "") === address) return;
    this.element.classList.remove("loaded", "failed");
    if (address) this.#image.src = address;
    else this.#image.removeAttribute("src"); // stops what is being loaded
  }
}
