/** Where the tiles of a grid are: as many columns as fit, all rows of one height. */

const SIZES = {
  small: { least: 104, gap: 4, caption: 0 },
  medium: { least: 164, gap: 10, caption: 26 },
  large: { least: 260, gap: 14, caption: 28 },
};
export const PADDING = 12;

export class Layout {
  size = "medium";
  total = 0;
  columns = 1;
  tile = 1; // width, and height of the picture
  row = 1; // height with the gap
  gap = 0;
  caption = 0;

  static knows(size) {
    return size in SIZES;
  }

  /** Fit into a width. */
  fit(width, total) {
    const { least, gap, caption } = SIZES[this.size];
    const inner = width - 2 * PADDING;
    this.total = total;
    this.columns = Math.max(1, Math.floor((inner + gap) / (least + gap)));
    this.tile = Math.max(1, Math.floor((inner - gap * (this.columns - 1)) / this.columns));
    this.row = this.tile + caption + gap;
    this.gap = gap;
    this.caption = caption;
  }

  /** Of all rows. */
  get height() {
    const rows = Math.ceil(this.total / this.columns);
    return rows ? rows * this.row - this.gap + 2 * PADDING : 0;
  }

  x(place) {
    return PADDING + (place % this.columns) * (this.tile + this.gap);
  }

  y(place) {
    return PADDING + Math.floor(place / this.columns) * this.row;
  }

  /** The first place of the row at a height. */
  placeAt(y) {
    return Math.max(0, Math.floor((y - PADDING) / this.row)) * this.columns;
  }

  /** How many places a window shows whole. */
  window(height) {
    return Math.max(1, Math.floor(height / this.row)) * this.columns;
  }

  /** Where a key leads from a place, in a window of a height; undefined when it is no such key. */
  step(key, place, height) {
    const window = this.window(height);
    const last = this.total - 1;
    const aims = {
      ArrowLeft: place - 1,
      ArrowRight: place + 1,
      // Up in the first row and down in the last one lead nowhere.
      ArrowUp: place < this.columns ? place : place - this.columns,
      ArrowDown: place >= last - (last % this.columns) ? place : place + this.columns,
      PageUp: place - window,
      PageDown: place + window,
      Home: 0,
      End: last,
    };
    return key in aims ? Math.max(0, Math.min(aims[key], last)) : undefined;
  }

  /** The places that a box touches: from `first` to before `end`, where `holds` says so. */
  within(from, to) {
    const [left, right] = [from.x, to.x].sort((one, other) => one - other);
    const [above, below] = [from.y, to.y].sort((one, other) => one - other);
    // The gaps belong to no tile.
    const firstColumn = Math.max(0, Math.ceil((left - PADDING - this.tile) / (this.tile + this.gap)));
    const firstRow = Math.max(0, Math.ceil((above - PADDING - this.row + this.gap) / this.row));
    const lastColumn = Math.min(this.columns - 1, Math.floor((right - PADDING) / (this.tile + this.gap)));
    const lastRow = Math.floor((below - PADDING) / this.row);
    const first = firstRow * this.columns + firstColumn;
    const end = Math.min(this.total, lastRow * this.columns + lastColumn + 1);
    const holds = (place) => {
      const at = place % this.columns;
      return place >= first && place < end && at >= firstColumn && at <= lastColumn;
    };
    return { first, end, holds, left, above, width: right - left, height: below - above };
  }
}
