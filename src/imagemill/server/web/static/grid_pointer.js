/** What a mouse or a finger does on the grid: choose, open, draw a box, hold. */

const DRAGGED = 6; // pixels before a press becomes a box
const HELD = 500; // milliseconds before a touch means "select"
const EDGE = 48; // pixels from the edge where a box begins to scroll
const FASTEST = 30; // pixels a frame

/** Listen on a grid; `choosing` is told what was meant. */
export function listen(grid, choosing) {
  let box = null; // {x, y: where it began in the whole grid, clientX, clientY: where the pointer is}
  let hold = 0;
  let held = null; // where a finger came down
  let silent = false; // a click that ends a box or a hold says nothing

  const placed = (event) => event.target.closest?.(".tile")?.tile.place ?? -1;
  const point = ({ clientX, clientY }) => {
    const bounds = grid.getBoundingClientRect();
    return { x: clientX - bounds.left - grid.clientLeft, y: clientY - bounds.top - grid.clientTop + grid.top };
  };
  const letGo = () => {
    clearTimeout(hold);
    hold = 0;
  };

  grid.addEventListener("pointerdown", (event) => {
    silent = false;
    if (event.button !== 0 || event.offsetX > grid.clientWidth + (event.target === grid ? 0 : 1e9)) return;
    const place = placed(event);
    if (event.pointerType === "touch") {
      held = event;
      hold = setTimeout(() => {
        hold = 0;
        silent = true;
        if (place >= 0) choosing.press(place, { ctrlKey: true });
      }, HELD);
      return;
    }
    box = { ...point(event), clientX: event.clientX, clientY: event.clientY, drawn: false, pointer: event.pointerId };
  });

  grid.addEventListener("pointermove", (event) => {
    if (hold && Math.hypot(event.clientX - held.clientX, event.clientY - held.clientY) > DRAGGED) letGo();
    if (!box) return;
    const far = Math.hypot(event.clientX - box.clientX, event.clientY - box.clientY) > DRAGGED;
    if (!box.drawn && !far) return;
    if (!box.drawn) {
      grid.setPointerCapture(box.pointer);
      box.drawn = true;
      box.adding = event.shiftKey || event.ctrlKey || event.metaKey;
      requestAnimationFrame(follow);
    }
    box.clientX = event.clientX;
    box.clientY = event.clientY;
  });

  /** Draw the box in every frame, and scroll at the edges. */
  function follow() {
    if (!box?.drawn) return;
    const bounds = grid.getBoundingClientRect();
    const above = bounds.top + EDGE - box.clientY;
    const below = box.clientY - bounds.bottom + EDGE;
    const speed = Math.min(FASTEST, Math.max(above, below, 0) / 2);
    if (speed) grid.top += above > 0 ? -speed : speed;
    choosing.box(box, point(box), box.adding);
    requestAnimationFrame(follow);
  }

  const end = (event) => {
    letGo();
    if (box?.drawn) {
      silent = true;
      choosing.boxed(event.type === "pointerup");
    }
    box = null;
  };
  grid.addEventListener("pointerup", end);
  grid.addEventListener("pointercancel", end);

  grid.addEventListener("click", (event) => {
    if (silent) return void (silent = false);
    const place = placed(event);
    // A finger opens, and chooses where something is chosen already; the number of a stack always opens it.
    const number = event.target.closest?.(".stacked");
    if (event.pointerType !== "touch" && !number) choosing.press(place, event);
    else if (grid.count && !number) choosing.press(place, { ctrlKey: true });
    else choosing.open(place, false);
  });
  grid.addEventListener("dblclick", (event) => {
    const place = placed(event);
    if (place >= 0 && !event.shiftKey && !event.ctrlKey && !event.metaKey) choosing.open(place, false);
  });
  grid.addEventListener("contextmenu", (event) => {
    if (event.pointerType === "touch") event.preventDefault();
  });
}
