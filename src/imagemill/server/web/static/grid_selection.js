/** Which tiles are selected: some by their ids, or all of a view except some. A stack is one, and all of its images. */

const MOST = 100_000; // ids that a request may name

const standing = ({ id, stacked = 1 }) => [id, stacked];

export class Selection {
  #rows;
  #changed;
  #all = false;
  #ids = new Map(); // the selected ones, or those left out of all → how many images each stands for
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

  get tiles() {
    return this.#all ? this.#rows.total - this.#ids.size : this.#ids.size;
  }

  /** How many images that are. */
  get count() {
    const named = [...this.#ids.values()].reduce((sum, images) => sum + images, 0);
    return this.#all ? this.#rows.matching - named : named;
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
  get told() {
    const ids = [...this.#ids.keys()];
    return this.#all ? { view: this.#rows.view, except: ids } : this.#rows.named(ids);
  }

  /** Only these rows, or all of the view except these. */
  set(rows, all = false) {
    this.#asked++;
    this.#pending = null;
    this.#all = all;
    this.#ids = new Map(rows.map(standing));
    this.#changed();
  }

  toggle(row) {
    if (!this.#ids.delete(row.id)) this.#ids.set(...standing(row));
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
      const [rows, all] = await this.#named(first, end, chosen, adding);
      if (asked !== this.#asked) return;
      if (!adding) this.set(rows, all);
      else this.#add(rows);
    } finally {
      if (asked === this.#asked) this.sketch(null);
    }
  }

  async #named(first, end, chosen, adding) {
    const { total } = this.#rows;
    if (end - first <= MOST) {
      const rows = await this.#rows.between(first, end);
      return [rows.filter((_, index) => chosen(first + index)), false];
    }
    if (adding || total - (end - first) > MOST || !chosen(first + 1)) {
      const figures = [end - first, MOST].map((number) => number.toLocaleString("en"));
      throw new Error(`${figures[0]} images are too many for a range; at most ${figures[1]}. Filter, then select all`);
    }
    return [[...(await this.#rows.between(0, first)), ...(await this.#rows.between(end, total))], true];
  }

  #add(rows) {
    for (const row of rows) {
      if (this.#all) this.#ids.delete(row.id);
      else this.#ids.set(...standing(row));
    }
    this.#pending = null;
    this.#changed();
  }
}
