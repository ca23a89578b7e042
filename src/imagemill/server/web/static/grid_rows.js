/** The rows of a view, fetched in blocks for what is looked at, and kept while there is room. */

import { api } from "./app.js";

const BLOCK = 100; // rows that are fetched together
const KEPT = 120; // blocks
const AT_ONCE = 1000; // rows that the server gives at most
const PAUSE = 40; // milliseconds between two beginnings while somebody scrolls fast
const AGAIN = 1500; // milliseconds before another try
const IDS_AT_ONCE = 100_000;

export class Rows {
  total = 0;
  matching = 0; // images; more than there are rows where stacks are shown
  view = "";
  #stack = false;
  #blocks = new Map(); // number of the block → {rows, stale}; what was used last stands last
  #loading = new Map(); // number of the block → AbortController
  #wanted = [0, -1];
  #started = 0;
  #timer = 0;
  #arrived;
  #gone;

  /** `arrived(first, end)` is called when rows have come, `gone()` when the server does not know the view any more. */
  constructor(arrived, gone) {
    this.#arrived = arrived;
    this.#gone = gone;
  }

  /** Show another view; nothing is fetched before it is wanted. Without a view, `rows` are all there are. */
  reset({ view, total, matching = total, stack = "", rows = [] }) {
    this.#abort(() => true);
    this.#blocks.clear();
    this.view = view;
    this.total = total;
    this.matching = matching;
    this.#stack = Boolean(stack);
    this.#wanted = [0, -1];
    for (let start = 0; start < rows.length; start += BLOCK) {
      this.#blocks.set(start / BLOCK, { rows: rows.slice(start, start + BLOCK), stale: false });
    }
  }

  /** The row at a place, if it is here. */
  get(place) {
    return this.#blocks.get(Math.floor(place / BLOCK))?.rows[place % BLOCK];
  }

  /** All rows that are here. */
  *[Symbol.iterator]() {
    for (const block of this.#blocks.values()) yield* block.rows;
  }

  /** See that the rows from `first` to before `end` come, and nothing else. */
  want(first, end) {
    this.#wanted = [Math.max(0, first), Math.min(end, this.total)];
    const numbers = this.#numbers();
    for (const number of numbers) this.#touch(number);
    this.#abort((number) => !numbers.includes(number));
    if (!numbers.some((number) => this.#missing(number)) || this.#timer) return;
    const wait = this.#started + PAUSE - performance.now();
    if (wait <= 0) this.#load();
    else this.#timer = setTimeout(() => this.#load(), wait);
  }

  /** Fetch again what is looked at, and the rest when it is; until then the old rows stay. */
  refresh() {
    if (!this.view) return;
    for (const block of this.#blocks.values()) block.stale = true;
    this.#abort(() => true);
    this.want(...this.#wanted);
  }

  /** Images as requests name them: in a view of stacks, each stands for all of its stack. */
  named(ids) {
    return this.#stack ? { images: ids, stacks: this.view } : { images: ids };
  }

  /** The rows from `first` to before `end`; of those that are not here, {id, stacked}. */
  async between(first, end) {
    const here = [];
    for (let place = first; place < end && this.get(place); place++) here.push(this.get(place));
    if (here.length === end - first) return here;
    const found = [];
    for (let start = first; start < end; start += IDS_AT_ONCE) {
      const { ids, stacked } = await this.#fetch(`ids?start=${start}&count=${Math.min(IDS_AT_ONCE, end - start)}`);
      found.push(...ids.map((id, index) => ({ id, stacked: stacked?.[index] })));
    }
    return found;
  }

  #numbers() {
    const [first, end] = this.#wanted;
    const numbers = [];
    for (let number = Math.floor(first / BLOCK); number * BLOCK < end; number++) numbers.push(number);
    return numbers;
  }

  #missing(number) {
    return !this.#loading.has(number) && (this.#blocks.get(number)?.stale ?? true);
  }

  #touch(number) {
    const block = this.#blocks.get(number);
    if (!block) return;
    this.#blocks.delete(number);
    this.#blocks.set(number, block);
  }

  #abort(which) {
    for (const [number, controller] of this.#loading) {
      if (!which(number)) continue;
      this.#loading.delete(number);
      controller.abort();
    }
  }

  /** Fetch what is missing, neighbours together. */
  #load() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#started = performance.now();
    const missing = this.#numbers().filter((number) => this.#missing(number));
    while (missing.length) {
      const run = [missing.shift()];
      while (missing[0] === run.at(-1) + 1 && (run.length + 1) * BLOCK <= AT_ONCE) run.push(missing.shift());
      this.#loadRun(run);
    }
  }

  async #loadRun(run) {
    // One request a run: it is let go of only when none of its blocks is wanted any more.
    const controller = new AbortController();
    const left = new Set(run);
    for (const number of run) {
      this.#loading.set(number, { abort: () => left.delete(number) && !left.size && controller.abort() });
    }
    const mine = run.map((number) => this.#loading.get(number));
    const view = this.view;
    const start = run[0] * BLOCK;
    let rows;
    try {
      rows = (await this.#fetch(`slice?start=${start}&count=${run.length * BLOCK}`, controller.signal)).rows;
    } catch (error) {
      if (error.name === "AbortError" || view !== this.view) return;
      if (error.status === 410) this.#gone();
      else setTimeout(() => this.want(...this.#wanted), AGAIN);
    }
    run.forEach((number, index) => {
      if (this.#loading.get(number) === mine[index]) this.#loading.delete(number);
    });
    if (!rows || view !== this.view) return;
    run.forEach((number, index) => {
      this.#blocks.delete(number);
      this.#blocks.set(number, { rows: rows.slice(index * BLOCK, (index + 1) * BLOCK), stale: false });
    });
    for (const number of this.#blocks.keys()) {
      if (this.#blocks.size <= KEPT) break;
      this.#blocks.delete(number);
    }
    this.#arrived(start, start + rows.length);
  }

  #fetch(what, signal) {
    return api("GET", `/api/views/${this.view}/${what}`, undefined, { signal });
  }
}
