/**
 * A native scrollbar over more pixels than browsers lay out.
 *
 * Near by, a pixel of the wheel is a pixel of the grid; a dragged thumb goes by proportion. `top` is where the window
 * stands in the whole height; what lies at `y` of it is put at `y - offset`.
 */

const TALLEST = 8_000_000; // browsers lay out between 16 and 33 million, and draw whole pixels up to 2^23
const TRUE_ENDS = 200_000; // so close to either end, the scrollbar too is pixel-true

export class ScrollRange {
  height = 0;
  offset = 0;
  #element;
  #sizer;
  #inner = 0; // height of the sizer
  #last = 0; // the scroll position that is known

  constructor(element, sizer) {
    this.#element = element;
    this.#sizer = sizer;
  }

  /** Where the window begins in the whole height. */
  get top() {
    return this.#element.scrollTop + this.offset;
  }

  set top(value) {
    const top = Math.round(Math.max(0, Math.min(value, this.height - this.#element.clientHeight)));
    this.#put(top);
  }

  /** Span a new height; the window keeps its scroll position, and `top` is to be set. */
  span(height) {
    this.height = height;
    this.#inner = Math.min(height, TALLEST);
    this.#sizer.style.height = `${this.#inner}px`;
  }

  /** Follow a scroll event; true when everything has to be put elsewhere. */
  follow() {
    const now = this.#element.scrollTop;
    const step = now - this.#last;
    this.#last = now;
    if (this.height === this.#inner) return this.#shift(0);
    const window = this.#element.clientHeight;
    if (Math.abs(step) > 1.5 * window) return this.#shift(Math.round(this.#outwards(now)) - now);
    const nearEnd = now < 2 * window || now > this.#inner - 3 * window;
    return nearEnd && this.settle();
  }

  /** Bring the scrollbar to where it belongs by proportion, the window staying; true when it was elsewhere. */
  settle() {
    const top = this.top;
    if (this.height === this.#inner || Math.abs(this.#inwards(top) - this.#element.scrollTop) < 1) return false;
    this.#put(top);
    return true;
  }

  #put(top) {
    this.#element.scrollTop = this.#inwards(top);
    this.#last = this.#element.scrollTop; // rounded by the browser
    this.offset = this.height === this.#inner ? 0 : Math.round(top - this.#last);
  }

  #shift(offset) {
    const moved = offset !== this.offset;
    this.offset = offset;
    return moved;
  }

  /** Where in the whole height a scroll position stands. */
  #outwards(position) {
    if (position <= TRUE_ENDS) return position;
    if (position >= this.#inner - TRUE_ENDS) return position + this.height - this.#inner;
    return TRUE_ENDS + ((position - TRUE_ENDS) * (this.height - 2 * TRUE_ENDS)) / (this.#inner - 2 * TRUE_ENDS);
  }

  /** The opposite of `#outwards`. */
  #inwards(top) {
    if (this.height === this.#inner || top <= TRUE_ENDS) return top;
    if (top >= this.height - TRUE_ENDS) return top - this.height + this.#inner;
    return TRUE_ENDS + ((top - TRUE_ENDS) * (this.#inner - 2 * TRUE_ENDS)) / (this.height - 2 * TRUE_ENDS);
  }
}
