/**
 * `<im-grid>`: a window over all images of a view, whatever their number.
 *
 * It is a listbox: the focus stays on it, and `aria-activedescendant` names the tile that keys act on. Tiles are drawn
 * for what is seen, and used again. Events: `im-view` (a view is shown), `im-building`, `im-error`, `im-select`,
 * `im-focus`, `im-open`, `im-scroll`.
 */

import { api, whenRead } from "./app.js";
import { Choosing } from "./grid_choosing.js";
import { Layout, PADDING } from "./grid_layout.js";
import { listen } from "./grid_pointer.js";
import { Rows } from "./grid_rows.js";
import { ScrollRange } from "./grid_scroll.js";
import { Selection } from "./grid_selection.js";
import { Tile } from "./grid_tile.js";

const AROUND = 2; // rows drawn above and below what is seen
const CALM = 120; // milliseconds after the last scroll event when it has ended

export class ImageGrid extends HTMLElement {
  datasetId = "";
  view = "";
  total = 0;
  images = 0;
  stack = false; // whether tiles stand for all images of a prompt
  query = new URLSearchParams();
  #sizer = document.createElement("div");
  #drawnBox = document.createElement("div");
  #layout = new Layout();
  #range = new ScrollRange(this, this.#sizer);
  #rows = new Rows(
    (first, end) => this.#redraw((tile) => tile.place >= first && tile.place < end),
    () => this.open(this.query, { keepPlace: true }),
  );
  #selection = new Selection(this.#rows, () => this.#reselected());
  #choosing = new Choosing(this, this.#rows, this.#layout, this.#selection);
  #tiles = new Map(); // place → Tile
  #spare = [];
  #focus = -1;
  #opened = 0; // the newest wins
  #fast = false; // pictures are not loaded on the way to somewhere else
  #around = false; // what is not seen loads its pictures when all that is seen has them
  #calm = 0;
  #frame = 0;
  #seen = 0; // the top that was drawn last, and when
  #drawn = 0;
  #width = 0;

  connectedCallback() {
    if (this.#sizer.parentNode) return;
    this.datasetId = this.getAttribute("dataset") ?? "";
    this.setAttribute("role", "listbox");
    this.setAttribute("aria-multiselectable", "true");
    this.tabIndex = 0;
    this.#sizer.className = "sizer";
    this.#sizer.setAttribute("role", "presentation");
    this.#drawnBox.className = "box";
    this.#drawnBox.hidden = true;
    this.#sizer.append(this.#drawnBox);
    this.append(this.#sizer);
    this.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.addEventListener("keydown", (event) => {
      if (!event.defaultPrevented && this.key(event)) event.preventDefault();
    });
    listen(this, this.#choosing);
    new ResizeObserver(() => this.#resized()).observe(this);
  }

  // ------------------------------------------------------------------ what others use

  /** What is selected, as requests name it. */
  get selection() {
    return this.#selection.told;
  }

  /** How many images are selected. */
  get count() {
    return this.#selection.count;
  }

  /** How many tiles are, each of which stands for a stack where stacks are shown. */
  get tiles() {
    return this.#selection.tiles;
  }

  /** How many images match, also those in stacks. */
  get matching() {
    return this.#rows.matching;
  }

  /** The tile that keys act on: {place, id, row}, or null. */
  get focused() {
    const row = this.#rows.get(this.#focus);
    return row ? { place: this.#focus, id: row.id, row } : null;
  }

  /** What an action is about: the selection, else the focused tile, else null. */
  get subject() {
    if (this.hidden) return null;
    if (this.count) return this.selection;
    return this.focused && this.#rows.named([this.focused.id]);
  }

  /** The subject when the tile that keys act on has not come yet: it is asked for, so that no key is lost. */
  async awaited() {
    if (this.hidden || this.#focus < 0) return null;
    const [row] = await this.#rows.between(this.#focus, this.#focus + 1);
    return row ? this.#rows.named([row.id]) : null;
  }

  get size() {
    return this.#layout.size;
  }

  /** `small`, `medium` or `large`. */
  set size(size) {
    if (!Layout.knows(size)) return;
    this.#layout.size = size;
    this.setAttribute("size", size);
    this.#resized(true);
  }

  /** Where the window stands in the whole grid, in pixels. */
  get top() {
    return this.#range.top;
  }

  set top(top) {
    this.#range.top = top;
    this.#draw(true);
  }

  /** The first place that is seen, and the one after the last. */
  get first() {
    return Math.min(this.#layout.placeAt(this.top + PADDING), Math.max(0, this.total - 1));
  }

  get end() {
    return Math.min(this.total, this.#layout.placeAt(this.top + this.clientHeight) + this.#layout.columns);
  }

  /** Show some rows, and no view. */
  show(rows) {
    this.#opened++;
    this.#shown({ view: "", total: rows.length, rows }, { place: 0, focus: 0 });
  }

  /** Open the view of a query; it is shown when it is there, from a place on, or where this one stands. */
  async open(query, { keepPlace = false, place = 0, focus = place } = {}) {
    const opening = ++this.#opened;
    this.query = new URLSearchParams(query);
    this.setAttribute("aria-busy", "true");
    try {
      const found = await whenRead(`/api/datasets/${this.datasetId}/view?${this.query}`, (building) => {
        if (opening !== this.#opened) return false;
        this.tell("im-building", building);
      });
      if (opening === this.#opened) await this.#shown(found, { keepPlace, place, focus });
    } catch (error) {
      if (opening === this.#opened) this.tell("im-error", { error });
    } finally {
      if (opening === this.#opened) this.removeAttribute("aria-busy");
    }
  }

  /** Open the view as it would be now. */
  reload({ keepPlace = true } = {}) {
    return this.open(this.query, { keepPlace });
  }

  /** Fetch again what is shown, for somebody has changed it; nothing moves. */
  refresh() {
    this.#rows.refresh();
  }

  /** Show a place at the top, or only bring it into sight. */
  scrollToPlace(place, { into = false } = {}) {
    const y = this.#layout.y(Math.max(0, Math.min(place, this.total - 1)));
    const last = y + this.#layout.row - this.clientHeight + PADDING;
    if (!into) this.top = y - PADDING;
    else if (this.top > y - PADDING) this.top = y - PADDING;
    else if (this.top < last) this.top = last;
  }

  /** Let keys act on a place, and bring it into sight. */
  focusPlace(place, { into = true } = {}) {
    if (!this.total) return;
    const before = this.#tiles.get(this.#focus);
    this.#focus = Math.max(0, Math.min(place, this.total - 1));
    if (into) this.scrollToPlace(this.#focus, { into: true });
    this.#mark(before);
    this.#mark(this.#tiles.get(this.#focus));
    this.#named();
    if (this.focused) this.tell("im-focus", { id: this.focused.id, place: this.#focus });
  }

  /** Change what is shown of images at once; `ids` null means those that are selected. */
  update(ids, change) {
    const wanted = ids && new Set(ids);
    for (const row of this.#rows) {
      if (wanted ? wanted.has(row.id) : this.#selection.has(row.id)) {
        Object.assign(row, typeof change === "function" ? change(row) : change);
      }
    }
    this.#redraw();
  }

  /** Show a picture that is blurred. */
  peek() {
    this.#tiles.get(this.#focus)?.element.classList.toggle("peeked");
  }

  /** Select nothing. */
  clear() {
    this.#selection.set([]);
  }

  /** Select all of the view. */
  selectAll() {
    if (this.view) this.#selection.set([], true);
    else this.#selection.set([...this.#rows]);
  }

  // ------------------------------------------------------------------ views

  async #shown(found, { keepPlace, place, focus }) {
    const { first, top } = this;
    const part = top - this.#layout.y(first);
    const held = keepPlace ? this.#rows.get(first) : null;
    const acted = keepPlace ? this.focused : null;
    // What was all of another view, or a stack there or here, may not be the same images.
    if (found.view !== this.view && (this.#selection.all || this.stack || found.stack)) this.#selection.set([]);
    this.view = found.view;
    this.total = found.total;
    this.images = found.images ?? found.total;
    this.stack = Boolean(found.stack);
    this.#rows.reset(found);
    this.#focus = -1;
    this.#around = false;
    this.#choosing.reset();
    this.#clean();
    this.tell("im-view", { ...found, images: this.images, matching: this.matching }); // who hid the grid shows it, and then it has a width
    this.#layOut();
    let begin = this.#layout.y(place) - PADDING;
    if (held) {
      // What is looked at stays where it is, wherever that stands in the new order.
      const there = await this.#placeOf(held.id, first);
      if (found.view !== this.view) return;
      begin = this.#layout.y(there) + part;
      focus = acted ? there + acted.place - first : -1;
    }
    this.#range.top = begin;
    this.#draw(true);
    if (focus >= 0) this.focusPlace(focus, { into: false });
    this.tell("im-select", { count: this.count });
  }

  /** Where an image stands in the order of the view. */
  async #placeOf(id, otherwise) {
    const found = await api("GET", `/api/views/${this.view}/place?image=${id}`).catch(() => null);
    return found?.place ?? Math.min(otherwise, Math.max(0, this.total - 1));
  }

  #clean() {
    for (const tile of this.#tiles.values()) {
      tile.show(null);
      this.#spare.push(tile);
    }
    this.#tiles.clear();
  }

  // ------------------------------------------------------------------ where things are

  #layOut() {
    this.#width = this.clientWidth;
    this.#layout.fit(this.clientWidth, this.total);
    this.style.setProperty("--tile-width", `${this.#layout.tile}px`);
    this.style.setProperty("--caption-height", `${this.#layout.caption}px`);
    this.#range.span(this.#layout.height);
  }

  #resized(always = false) {
    if (!this.clientWidth || (!always && this.clientWidth === this.#width)) return this.#draw();
    const first = this.first;
    const focus = this.#tiles.has(this.#focus) ? this.#focus : -1;
    const part = (this.top - this.#layout.y(first)) / this.#layout.row;
    this.#layOut();
    this.#range.top = this.#layout.y(first) + part * this.#layout.row;
    this.#draw(true);
    if (focus >= 0) this.scrollToPlace(focus, { into: true });
  }

  // ------------------------------------------------------------------ drawing

  #scrolled() {
    const moved = this.#range.follow();
    clearTimeout(this.#calm);
    this.#calm = setTimeout(() => this.#calmed(), CALM);
    if (moved) this.#draw(true);
    else this.#frame ||= requestAnimationFrame(() => this.#draw());
  }

  #calmed() {
    this.#drawn = 0; // so that what is drawn now is not on the way to somewhere else
    this.#draw(this.#range.settle());
    this.tell("im-scroll", { first: this.first });
  }

  /** Draw what is seen; `moved` when tiles that stay have to be put elsewhere. */
  #draw(moved = false) {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    if (!this.clientHeight) return;
    const { top } = this;
    const partly = this.#fast || !this.#around;
    // Who flies past does not load pictures; who jumps and stays does, at once.
    const far = Math.abs(top - this.#seen);
    this.#fast = far > this.clientHeight / 2 && performance.now() - this.#drawn < 100;
    if (far > this.clientHeight) this.#around = false;
    this.#seen = top;
    this.#drawn = performance.now();
    const around = AROUND * this.#layout.row;
    const first = this.#layout.placeAt(top - around);
    const end = Math.min(this.total, this.#layout.placeAt(top + this.clientHeight + around) + this.#layout.columns);
    for (const [place, tile] of this.#tiles) {
      if (place >= first && place < end) continue;
      this.#tiles.delete(place);
      this.#spare.push(tile);
    }
    for (let place = first; place < end; place++) {
      let tile = this.#tiles.get(place);
      if (tile && !moved) continue;
      const isNew = !tile;
      tile ??= this.#spare.pop() ?? this.#made();
      if (isNew) {
        this.#tiles.set(place, tile);
        tile.element.classList.remove("peeked");
        tile.stand(place, this.total);
        this.#drawTile(tile);
      }
      tile.element.style.transform = `translate(${this.#layout.x(place)}px, ${this.#layout.y(place) - this.#range.offset}px)`;
      tile.element.hidden = false;
    }
    for (const tile of this.#spare) tile.element.hidden = true;
    if (partly && !this.#fast) this.#redraw();
    this.#rows.want(first, end);
    this.#named();
  }

  #made() {
    const tile = new Tile(() => this.#settled());
    this.#sizer.append(tile.element);
    return tile;
  }

  #drawTile(tile) {
    tile.show(this.#rows.get(tile.place) ?? null, !this.#fast && (this.#around || this.#sees(tile)));
    this.#mark(tile);
  }

  #sees({ place }) {
    const y = this.#layout.y(place) - this.#seen;
    return y + this.#layout.row > 0 && y < this.clientHeight;
  }

  /** A picture is there, or never will be. */
  #settled() {
    if (this.#around || [...this.#tiles.values()].some((tile) => this.#sees(tile) && !tile.settled)) return;
    this.#around = true;
    this.#redraw();
  }

  #redraw(which = () => true) {
    for (const tile of this.#tiles.values()) if (which(tile)) this.#drawTile(tile);
    if (this.focused) this.tell("im-focus", { id: this.focused.id, place: this.#focus });
  }

  /** Show whether a tile is selected and focused. */
  #mark(tile) {
    if (!tile) return;
    tile.element.setAttribute("aria-selected", String(this.#selection.shows(tile.place, tile.row)));
    tile.element.classList.toggle("focused", tile.place === this.#focus);
  }

  #named() {
    const tile = this.#tiles.get(this.#focus);
    if (tile) this.setAttribute("aria-activedescendant", tile.element.id);
    else this.removeAttribute("aria-activedescendant");
  }

  // ------------------------------------------------------------------ what is chosen

  #reselected() {
    for (const tile of this.#tiles.values()) this.#mark(tile);
    this.tell("im-select", { count: this.count });
  }

  /** Do what a key means; false when it means nothing here. */
  key(event) {
    return this.#choosing.key(event, this.#focus);
  }

  /** Draw the box that selects, or none. */
  drawBox(box) {
    this.#drawnBox.hidden = !box;
    if (!box) return;
    this.#drawnBox.style.transform = `translate(${box.left}px, ${box.above - this.#range.offset}px)`;
    this.#drawnBox.style.width = `${box.width}px`;
    this.#drawnBox.style.height = `${box.height}px`;
  }

  /** Let others know. */
  tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail, bubbles: true }));
  }
}

customElements.define("im-grid", ImageGrid);
