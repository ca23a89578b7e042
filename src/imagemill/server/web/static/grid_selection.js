/** Which images are selected: some by their ids, or all of a view except some. */

const MOST = 100_000; // ids that a request may name

export class Selection {
  #rows;
  #changed;
  #all = false;
  #ids = new Set(); // the selected ones, or those left out of all
  #pending = null; // {holds(place), adding}: what is being selected and not known by ids yet
  #asked = 0; // the newest wins

  /** `changed()` is called whenever other tiles are to be shown as selected. */
  constructor(rows, changed) {
    this.#rows = rows;
    this.#changed = changed;
  }

  /** Whether it is meant as all of a view, whatever comes into sight. */
  get all() {
    return this.#all;
  }

  get count() {
    return this.#all ? this.#rows.total - this.#ids.size : this.#ids.size;
  }

  has(id) {
    return this.#ids.has(id) !== this.#all;
  }

  /** Whether a place is to be shown as selected; its row may not be here. */
  shows(place, row) {
    if (this.#pending?.holds(place)) return true;
    if (this.#pending && !this.#pending.adding) return false;
    return row ? this.has(row.id) : this.#all;
  }

  /** As requests name it. */
  told(view) {
    return this.#all ? { view, except: [...this.#ids] } : { images: [...this.#ids] };
  }

  /** Only these, or all of the view except these. */
  set(ids, all = false) {
    this.#asked++;
    this.#pending = null;
    this.#all = all;
    this.#ids = new Set(ids);
    this.#changed();
  }

  toggle(id) {
    if (!this.#ids.delete(id)) this.#ids.add(id);
    this.#changed();
  }

  /** Show places as selected while a box is drawn. */
  sketch(holds, adding) {
    this.#pending = holds && { holds, adding };
    this.#changed();
  }

  /** Select the places from `first` to before `end` that `holds` names, whose rows may not be here. */
  async choose(first, end, holds = () => true, adding = false) {
    const asked = ++this.#asked;
    const chosen = (place) => place >= first && place < end && holds(place);
    this.sketch(chosen, adding);
    try {
      const [ids, all] = await this.#named(first, end, chosen, adding);
      if (asked !== this.#asked) return;
      if (!adding) this.set(ids, all);
      else this.#add(ids);
    } finally {
      if (asked === this.#asked) this.sketch(null);
    }
  }

  async #named(first, end, chosen, adding) {
    const { total } = this.#rows;
    if (end - first <= MOST) {
      const ids = await this.#rows.ids(first, end);
      return [ids.filter((_, index) => chosen(first + index)), false];
    }
    if (adding || total - (end - first) > MOST || !chosen(first + 1)) {
      const figures = [end - first, MOST].map((number) => number.toLocaleString("en"));
      throw new Error(`${figures[0]} images are too many for a range; at most ${figures[1]}. Filter, then select all`);
    }
    return [[...(await this.#rows.ids(0, first)), ...(await this.#rows.ids(end, total))], true];
  }

  #add(ids) {
    for (const id of ids) {
      if (this.#all) this.#ids.delete(id);
      else this.#ids.add(id);
    }
    this.#pending = null;
    this.#changed();
  }
}
