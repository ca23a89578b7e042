/** What is chosen in a grid: how clicks, boxes and keys become a focus and a selection. */

export class Choosing {
  #grid;
  #rows;
  #layout;
  #selection;
  #anchor = -1; // where a range began
  #follows = false; // whether a single selection goes where the arrows go
  #boxed = null; // the places of the box that is drawn

  constructor(grid, rows, layout, selection) {
    this.#grid = grid;
    this.#rows = rows;
    this.#layout = layout;
    this.#selection = selection;
  }

  /** Begin anew, in another view. */
  reset() {
    this.#anchor = -1;
  }

  /** A click, or what means the same, on a place; -1 is the background. */
  press(place, { shiftKey, ctrlKey, metaKey }) {
    const adding = ctrlKey || metaKey;
    const row = this.#rows.get(place);
    this.#follows = false;
    if (shiftKey && place >= 0) {
      this.#extend(place, adding);
    } else if (adding && row) {
      this.#selection.toggle(row);
      this.#anchor = place;
    } else if (row) {
      this.#selection.set([row]);
      this.#follows = true;
      this.#anchor = place;
    } else if (place < 0) {
      this.#grid.clear();
    }
    if (place >= 0) this.#grid.focusPlace(place);
  }

  open(place, aside) {
    const row = this.#rows.get(place);
    if (!row) return;
    this.#grid.focusPlace(place, { into: false }); // to which one comes back
    this.#grid.tell("im-open", { id: row.id, place, row, aside });
  }

  /** A box is drawn from one point to another. */
  box(from, to, adding) {
    const box = this.#layout.within(from, to);
    this.#boxed = { ...box, adding };
    this.#selection.sketch(box.holds, adding);
    this.#grid.drawBox(box);
  }

  /** The box is done, or given up. */
  boxed(done) {
    this.#grid.drawBox(null);
    const { first, end, holds, adding } = this.#boxed;
    if (!done || first >= end) return this.#selection.sketch(null);
    this.#anchor = first;
    this.#follows = false;
    this.#choose(first, end, holds, adding);
    this.#grid.focusPlace(first, { into: false });
  }

  /** A key with the focus on a place; false when it means nothing here. */
  key(event, focus) {
    const mod = event.ctrlKey || event.metaKey;
    if (event.altKey || !this.#layout.total) return false;
    const aim = this.#layout.step(event.key, Math.max(0, focus), this.#grid.clientHeight);
    if (aim !== undefined) this.#move(focus < 0 ? 0 : aim, event.shiftKey, focus);
    else if (mod && event.key.toLowerCase() === "a") this.#grid.selectAll();
    else if (event.key === "Enter") this.open(focus, mod);
    else if (event.key === " ") this.press(focus, { ctrlKey: true, shiftKey: event.shiftKey });
    else if (event.key === "Escape" && this.#grid.count) this.#grid.clear();
    else return false;
    return true;
  }

  #move(place, extending, focus) {
    if (extending) this.#extend(place, false, focus);
    else this.#anchor = -1;
    this.#grid.focusPlace(place);
    if (extending || !this.#follows) return;
    const row = this.#rows.get(place);
    this.#selection.set(row ? [row] : []);
  }

  /** Select from where a range began. */
  #extend(place, adding = false, focus = this.#grid.focused?.place ?? 0) {
    if (this.#anchor < 0) this.#anchor = Math.max(0, focus);
    this.#choose(Math.min(this.#anchor, place), Math.max(this.#anchor, place) + 1, undefined, adding);
  }

  #choose(...what) {
    this.#selection.choose(...what).catch((error) => this.#grid.tell("im-error", { error }));
  }
}
