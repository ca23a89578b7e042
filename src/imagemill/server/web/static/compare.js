/** Two to four images side by side: one look at all, what differs, and a decision about each. */

import { announce, api, el, keys, tell, toast } from "./app.js";
import { spoken } from "./edited.js";
import { shown } from "./grid_tile.js";
import { on } from "./live.js";

const CLOSEST = 40;
const STEP = 1.25;
const PAN = 80; // pixels that a key moves the pictures
const LEFT_OUT = new Set(["file_name", "sha256", "pixels_sha256", "perceptual_hash"]); // differ always, and say nothing

const page = JSON.parse(document.getElementById("page-data").textContent);
const find = (id) => document.getElementById(id);
const look = { zoom: 1, x: 0.5, y: 0.5 }; // of all pictures: how close, and which part of them is in the middle
let frames = [];
let active = 0;
const mine = []; // events that can be taken back here

class Frame {
  constructor(image) {
    this.image = image;
    this.element = find("frame").content.firstElementChild.cloneNode(true);
    this.canvas = this.element.querySelector(".canvas");
    this.picture = this.element.querySelector("img");
    const which = this.element.querySelector(".which");
    which.textContent = image.record.file_name;
    which.href = `/datasets/${page.dataset}/images/${image.id}`;
    this.element.classList.toggle("unsafe", image.unsafe);
    this.picture.alt = image.record.prompt;
    this.picture.addEventListener("load", () => this.place());
    this.picture.src = image.picture;
    this.element.addEventListener("focusin", () => activate(frames.indexOf(this)));
    this.element.addEventListener("pointerdown", () => activate(frames.indexOf(this)));
    for (const button of this.element.querySelectorAll("[data-decision]")) {
      const { decision } = button.dataset;
      button.addEventListener("click", () => this.decide({ decision: this.image.decision === decision ? "" : decision }));
    }
    const stars = this.element.querySelector(".stars");
    stars.addEventListener("change", () => this.decide({ rating: Number(stars.value) }));
    for (const button of this.element.querySelectorAll("[data-swap]")) {
      button.addEventListener("click", () => swap(frames.indexOf(this), Number(button.dataset.swap)));
    }
    this.#listen();
    new ResizeObserver(() => this.place()).observe(this.canvas);
    this.mark();
  }

  /** The size of the picture on the screen. */
  get size() {
    const { naturalWidth: width, naturalHeight: height } = this.picture;
    const fit = Math.min(this.canvas.clientWidth / width, this.canvas.clientHeight / height);
    return { width: width * fit * look.zoom, height: height * fit * look.zoom, scale: fit * look.zoom };
  }

  place() {
    if (!this.picture.naturalWidth) return;
    const { width, height, scale } = this.size;
    const inside = (middle, size, space) =>
      size <= space ? (space - size) / 2 : Math.min(0, Math.max(space - size, space / 2 - middle * size));
    const x = inside(look.x, width, this.canvas.clientWidth);
    const y = inside(look.y, height, this.canvas.clientHeight);
    this.picture.style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
    this.canvas.classList.toggle("sharp", scale >= 3);
    this.canvas.classList.toggle("zoomed", look.zoom > 1);
  }

  mark() {
    this.element.dataset.decision = this.image.decision;
    for (const button of this.element.querySelectorAll("[data-decision]")) {
      button.setAttribute("aria-pressed", String(button.dataset.decision === this.image.decision));
    }
    const { rating } = this.image;
    const said = { keep: "kept", reject: "rejected" }[this.image.decision];
    const facts = [said, rating && `rated ${rating}`].filter(Boolean);
    this.element.setAttribute("aria-label", [this.image.record.file_name, ...facts].join(", "));
    this.element.querySelector(".stars").value = rating;
  }

  /** Show it at once, and put it back where the server does not agree. */
  async decide(change) {
    const before = { decision: this.image.decision, rating: this.image.rating };
    Object.assign(this.image, change);
    this.mark();
    try {
      const selection = { images: [this.image.id] };
      const { event } = await api("POST", `/api/datasets/${page.dataset}/bulk`, { selection, ...change });
      if (event) mine.push(event.number);
      announce(spoken(change));
    } catch (error) {
      Object.assign(this.image, before);
      this.mark();
      tell(error);
    }
  }

  async refresh() {
    Object.assign(this.image, await api("GET", `/api/datasets/${page.dataset}/images/${this.image.id}`));
    this.mark();
  }

  #listen() {
    const at = (event) => {
      const box = this.canvas.getBoundingClientRect();
      return { x: event.clientX - box.left, y: event.clientY - box.top };
    };
    this.canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(2 ** (-(event.deltaMode ? event.deltaY * 30 : event.deltaY) / 300), at(event));
    }, { passive: false });
    this.canvas.addEventListener("dblclick", (event) => (look.zoom > 1 ? fit() : this.zoom(4, at(event))));
    let from = null;
    this.canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      this.canvas.setPointerCapture(event.pointerId);
      from = at(event);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (!from) return;
      const to = at(event);
      const { width, height } = this.size;
      pan((from.x - to.x) / width, (from.y - to.y) / height);
      from = to;
    });
    for (const end of ["pointerup", "pointercancel"]) this.canvas.addEventListener(end, () => (from = null));
  }

  /** Look closer, the point under the pointer staying. */
  zoom(factor, point = { x: this.canvas.clientWidth / 2, y: this.canvas.clientHeight / 2 }) {
    const before = this.size;
    const away = { x: point.x - this.canvas.clientWidth / 2, y: point.y - this.canvas.clientHeight / 2 };
    look.zoom = Math.min(CLOSEST, Math.max(1, look.zoom * factor));
    const after = this.size;
    pan(away.x / before.width - away.x / after.width, away.y / before.height - away.y / after.height);
  }
}

/** Move what is looked at; no farther than the active picture goes. */
function pan(x, y) {
  const frame = frames[active];
  const { width, height } = frame.size;
  const within = (middle, size, space) => {
    const half = Math.min(0.5, space / size / 2);
    return Math.min(1 - half, Math.max(half, middle));
  };
  look.x = within(look.x + x, width, frame.canvas.clientWidth);
  look.y = within(look.y + y, height, frame.canvas.clientHeight);
  for (const each of frames) each.place();
  find("zoom-fit").textContent = look.zoom === 1 ? "Fit" : `${Math.round(look.zoom * 100)} %`;
}

/** Move what is looked at by a key. */
function move(x, y) {
  const { width, height } = frames[active].size;
  pan((PAN * x) / width, (PAN * y) / height);
}

function fit() {
  Object.assign(look, { zoom: 1, x: 0.5, y: 0.5 });
  pan(0, 0);
}

function activate(place, { focus = false } = {}) {
  active = (place + frames.length) % frames.length;
  frames.forEach((frame, each) => frame.element.classList.toggle("active", each === active));
  if (focus) frames[active].element.focus({ preventScroll: true });
}

/** Let two neighbours change places, here and in the address. */
function swap(place, step) {
  const other = place + step;
  if (other < 0 || other >= frames.length) return;
  [frames[place], frames[other]] = [frames[other], frames[place]];
  arrange();
  activate(other, { focus: true });
  history.replaceState(null, "", `?images=${frames.map((frame) => frame.image.id).join(",")}`);
}

function arrange() {
  find("frames").replaceChildren(...frames.map((frame) => frame.element));
  frames.forEach((frame, place) => {
    frame.element.querySelector('[data-swap="-1"]').disabled = place === 0;
    frame.element.querySelector('[data-swap="1"]').disabled = place === frames.length - 1;
  });
  drawDifferences();
}

// ---------------------------------------------------------------------------- what differs

function drawDifferences() {
  const records = frames.map(({ image }) => ({ ...image.record, ...image.texts }));
  const names = [...new Set(records.flatMap(Object.keys))].filter((name) => !LEFT_OUT.has(name));
  const texts = (name) => records.map((record) => said(name, record[name]));
  const differing = names.filter((name) => new Set(texts(name)).size > 1);
  const same = names.filter((name) => !differing.includes(name));
  find("differences").replaceChildren(
    differing.length ? table(differing, texts) : el("p", { class: "soft" }, "Every column says the same."),
    el("details", {}, el("summary", {}, `The same in all: ${same.length} columns`), facts(same, records[0])),
  );
}

function table(names, texts) {
  const rows = names.map((name) => {
    const values = texts(name);
    return el("div", { class: "row", role: "row" },
      el("div", { class: "name", role: "rowheader" }, name),
      ...values.map((value) => el("div", { role: "cell", dir: "auto" }, ...marked(value, values))));
  });
  return el("div", { class: "table", role: "table", "aria-label": "Columns that differ" }, ...rows);
}

/** A text with the words marked that not all of the others have. */
function marked(text, all) {
  const words = all.map((each) => new Set(each.split(/\s+/)));
  if (words.every((set) => set.size < 3)) return [text];
  const common = (word) => !word.trim() || words.every((set) => set.has(word));
  return text.split(/(\s+)/).map((word) => (common(word) ? word : el("mark", {}, word)));
}

function facts(names, record) {
  return el("dl", { class: "facts" }, ...names.flatMap((name) => [el("dt", {}, name), el("dd", {}, said(name, record[name]))]));
}

/** A value; seeds are names more than numbers. */
function said(name, value) {
  return name === "seed" ? String(value ?? "—") : shown(value);
}

// ---------------------------------------------------------------------------- keys and the rest

const where = "Compare";
const act = (change) => frames[active].decide(change);
for (const [key, what, run] of [
  ["ArrowLeft", "The image to the left or right", () => activate(active - 1, { focus: true })],
  ["ArrowRight", "The image to the left or right", () => activate(active + 1, { focus: true })],
  ["<", "Swap with its neighbour", () => swap(active, -1)],
  [">", "Swap with its neighbour", () => swap(active, 1)],
  ...[["Left", -1, 0], ["Right", 1, 0], ["Up", 0, -1], ["Down", 0, 1]].map(([way, x, y]) => [
    `Shift+Arrow${way}`, "Look elsewhere in them", () => move(x, y),
  ]),
  ["k", "Keep", () => act({ decision: "keep" })],
  ["x", "Reject", () => act({ decision: "reject" })],
  ["u", "Undecided", () => act({ decision: "" })],
  ...[1, 2, 3, 4, 5].map((rating) => [`${rating}`, "Rate", () => act({ rating })]),
  ["0", "No rating", () => act({ rating: 0 })],
  ["z", "All of it, or a closer look", closer],
  ["+", "Larger", () => frames[active].zoom(STEP)],
  ["-", "Smaller", () => frames[active].zoom(1 / STEP)],
  ["b", "Blur what is not safe for work", () => blur(!find("frames").classList.contains("blurred"))],
  ["Mod+z", "Undo", undo],
  ["Enter", "Open", (event) => event.target.matches(".compared") && frames[active].element.querySelector(".which").click()],
  ["Escape", "Back to the gallery", () => location.assign(find("back").href)],
]) keys.add({ key, what, where, run });

function closer() {
  if (look.zoom > 1) fit();
  else frames[active].zoom(4);
}

async function undo() {
  if (!mine.length) return toast("Nothing to undo");
  try {
    const { event } = await api("POST", `/api/datasets/${page.dataset}/undo`, { event: mine.pop() });
    toast(`${event.what[0].toUpperCase()}${event.what.slice(1)}`);
    refresh();
  } catch (error) {
    tell(error);
  }
}

function refresh() {
  for (const frame of frames) frame.refresh().catch(tell);
}

function blur(wanted) {
  find("frames").classList.toggle("blurred", wanted);
  localStorage.setItem("blur", wanted ? "yes" : "no");
}

find("zoom-in").addEventListener("click", () => frames[active].zoom(STEP));
find("zoom-out").addEventListener("click", () => frames[active].zoom(1 / STEP));
find("zoom-fit").addEventListener("click", closer);
find("back").href += sessionStorage.getItem(`gallery ${page.dataset}`) ?? "";
on("edits", (data) => data.dataset === page.dataset && refresh());
on("reset", refresh);
blur(localStorage.getItem("blur") !== "no");
frames = page.images.map((image) => new Frame(image));
find("frames").dataset.count = frames.length;
arrange();
activate(0, { focus: true });
