/** A picture that can be looked at closely: wheel, drag, pinch, buttons and keys. */

const STEP = 1.25;
const MOST = 32; // screen pixels for one of the picture's
const SHARP = 3; // from here on pixels are shown as squares
const SWIPE = 60; // pixels that a finger moves to the side
const SMALL = 8; // how far a small picture is enlarged to fill the space

export class Zoom {
  #fit = true;
  #scale = 1;
  #x = 0;
  #y = 0;
  #pointers = new Map();

  /** `canvas` is the space, `picture` the image in it, `changed` is told the scale, and whether all is seen. */
  constructor(canvas, picture, changed = () => {}) {
    this.canvas = canvas;
    this.picture = picture;
    this.changed = changed;
    this.swiped = () => {}; // told "previous" or "next"
    this.#listen();
    if (picture.complete) this.#loaded();
    else this.reset();
  }

  /** All of the picture. */
  reset() {
    this.#fit = true;
    const { width, height } = this.#space();
    this.#scale = Math.min(width / this.picture.width, height / this.picture.height, SMALL);
    this.#place((width - this.picture.width * this.#scale) / 2, (height - this.picture.height * this.#scale) / 2);
  }

  /** From all of it to its own size and back. */
  toggle() {
    if (this.#fit) this.#to(1);
    else this.reset();
  }

  /** Larger or smaller by one step. */
  by(steps) {
    this.#to(this.#scale * STEP ** steps);
  }

  /** Move it by some pixels of the screen. */
  move(x, y) {
    this.#place(this.#x + x, this.#y + y);
  }

  #space() {
    return { width: this.canvas.clientWidth, height: this.canvas.clientHeight };
  }

  /** Show it at a scale, with the point under (x, y) where it is. */
  #to(scale, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const wanted = Math.min(Math.max(scale, 0.02), MOST);
    const ratio = wanted / this.#scale;
    this.#fit = false;
    this.#scale = wanted;
    this.#place(x - (x - this.#x) * ratio, y - (y - this.#y) * ratio);
  }

  /** Move it, as far as it stays in sight. */
  #place(x, y) {
    const { width, height } = this.#space();
    const within = (at, size, space) => (size > space ? Math.min(Math.max(at, space - size), 0) : (space - size) / 2);
    this.#x = within(x, this.picture.width * this.#scale, width);
    this.#y = within(y, this.picture.height * this.#scale, height);
    this.picture.style.transform = `translate(${this.#x}px, ${this.#y}px) scale(${this.#scale})`;
    this.canvas.classList.toggle("sharp", this.#scale >= SHARP);
    this.canvas.classList.toggle("zoomed", !this.#fit);
    this.changed(this.#scale, this.#fit);
  }

  /** The file knows its size better than the record. */
  #loaded() {
    if (this.picture.naturalWidth) {
      this.picture.width = this.picture.naturalWidth;
      this.picture.height = this.picture.naturalHeight;
    }
    this.reset();
  }

  #listen() {
    this.picture.addEventListener("load", () => this.#loaded());
    const at = (event) => {
      const box = this.canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    this.canvas.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        const turned = event.deltaMode ? event.deltaY * 30 : event.deltaY;
        this.#to(this.#scale * 2 ** (-turned / 300), ...at(event));
      },
      { passive: false },
    );
    this.canvas.addEventListener("dblclick", (event) => (this.#fit ? this.#to(Math.max(1, this.#scale * 2), ...at(event)) : this.reset()));
    let start = null; // of a swipe
    this.canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      this.canvas.setPointerCapture(event.pointerId);
      this.#pointers.set(event.pointerId, at(event));
      start = this.#fit && event.pointerType === "touch" && this.#pointers.size === 1 ? at(event) : null;
    });
    this.canvas.addEventListener("pointermove", (event) => {
      const before = this.#pointers.get(event.pointerId);
      if (!before) return;
      const now = at(event);
      const other = [...this.#pointers].find(([id]) => id !== event.pointerId)?.[1];
      this.#pointers.set(event.pointerId, now);
      if (other) {
        const ratio = distance(now, other) / Math.max(1, distance(before, other));
        this.#to(this.#scale * ratio, (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
      } else if (!this.#fit) {
        this.move(now[0] - before[0], now[1] - before[1]);
      }
    });
    this.canvas.addEventListener("pointerup", (event) => {
      const [x, y] = at(event).map((each, place) => each - (start?.[place] ?? each));
      if (this.#fit && Math.abs(x) > SWIPE && Math.abs(x) > 2 * Math.abs(y)) this.swiped(x > 0 ? "previous" : "next");
    });
    for (const end of ["pointerup", "pointercancel"]) {
      this.canvas.addEventListener(end, (event) => this.#pointers.delete(event.pointerId));
    }
    new ResizeObserver(() => (this.#fit ? this.reset() : this.#place(this.#x, this.#y))).observe(this.canvas);
  }
}

const distance = (one, other) => Math.hypot(one[0] - other[0], one[1] - other[1]);
