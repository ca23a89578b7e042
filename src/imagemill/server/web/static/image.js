/** The page of one image: what it shows, the keys, and the way to the images before and after it. */

import { ApiError, announce, api, copy, el, icon, keys, pause, tell, toast, whenRead } from "./app.js";
import { Clash, Edited, spoken } from "./edited.js";
import "./kept.js";
import { TextField } from "./texts.js";
import { Zoom } from "./zoom.js";

const WHERE = "Image";
const AGAIN = 2000; // milliseconds until a server that is away is asked again
const PAN = 80; // pixels that a key moves the picture
const query = location.search.replace(/^\?/, "");
const NEARBY = 6;
const pages = new Map(); // of images nearby, as promises of {root, title}
let current; // the image that is shown

/** Where an image is shown, in the same view. */
const addressOf = (dataset, image) => `/datasets/${dataset}/images/${image}${query && `?${query}`}`;

class ImagePage {
  constructor(root) {
    this.root = root;
    this.data = JSON.parse(root.querySelector(".page-data").textContent);
    this.edited = new Edited(this.data.dataset, this.data.image, this.data.edited);
    this.place = null; // {place, previous, next} in the view
    this.zoom = new Zoom(this.find(".canvas"), this.find(".canvas img"), (scale, fit) => {
      this.find(".zoom-fit").textContent = fit ? "Fit" : `${Math.round(scale * 100)} %`;
    });
    this.fields = [...root.querySelectorAll(".text")].map((part) => new TextField(part, this.edited));
    this.edited.addEventListener("change", () => this.show());
    this.edited.addEventListener("away", () => this.say("The server is away: what you decide is sent when it is back."));
    this.edited.addEventListener("back", () => this.say(""));
    // The gallery's switch.
    if (this.root.dataset.unsafe && localStorage.getItem("blur") !== "no") this.unveil();
    this.listen();
    this.show();
    this.follow();
  }

  find(selector) {
    return this.root.querySelector(selector);
  }

  listen() {
    const click = (selector, run) => this.find(selector)?.addEventListener("click", run);
    click(".zoom-in", () => this.zoom.by(1));
    click(".zoom-out", () => this.zoom.by(-1));
    click(".zoom-fit", () => this.zoom.toggle());
    for (const way of ["undo", "redo"]) click(`.${way}`, () => this.move(way));
    click(".copy-prompt", () => this.copyPrompt());
    click(".copy-recipe", () => this.copyRecipe());
    click(".copy-command", () => copy(this.find(".command code").textContent, "The command"));
    click(".copy-link", () => copy(location.href, "The link"));
    click(".unveil", () => this.unveil());
    // With a key held, a link opens elsewhere as links do.
    const go = (selector, run) => click(selector, (event) => event.ctrlKey || event.metaKey || event.shiftKey || (event.preventDefault(), run()));
    go(".back", () => this.leave());
    for (const side of ["previous", "next"]) go(`.${side}`, () => this.step(side));
    for (const button of this.root.querySelectorAll("[data-decision]")) {
      button.addEventListener("click", () => this.decide({ decision: button.dataset.decision }));
    }
    for (const button of this.root.querySelectorAll("[data-rating]")) {
      const rating = Number(button.dataset.rating);
      button.addEventListener("click", () => this.decide({ rating: rating === this.edited.hoped.rating ? 0 : rating }));
    }
    for (const button of this.root.querySelectorAll(".copy-text")) {
      const { column } = button.closest(".text").dataset;
      button.addEventListener("click", () => copy(this.edited.state.texts[column], "The text"));
    }
    this.zoom.swiped = (side) => this.step(side);
    const advance = this.find(".advance input");
    advance.checked = localStorage.getItem("advance") === "yes";
    advance.addEventListener("change", () => localStorage.setItem("advance", advance.checked ? "yes" : "no"));
    this.find(".file details").addEventListener("toggle", () => this.look(), { once: true });
    this.find(".tag-form").addEventListener("submit", (event) => (event.preventDefault(), this.addTags()));
    this.find("[name=tag]").addEventListener("focus", () => this.offerTags(), { once: true });
    this.find("[name=tag]").addEventListener("keydown", (event) => event.key === "Escape" && this.find(".canvas").focus({ preventScroll: true }));
  }

  /** Show, or hide, what is not safe for work. */
  unveil() {
    if (this.root.dataset.unsafe) this.root.toggleAttribute("data-veiled");
  }

  /** Show what was decided. */
  show() {
    const { decision, rating, tags } = this.edited.hoped;
    for (const button of this.root.querySelectorAll("[data-decision]")) {
      button.setAttribute("aria-pressed", String(button.dataset.decision === decision));
    }
    for (const button of this.root.querySelectorAll("[data-rating]")) {
      const star = Number(button.dataset.rating);
      button.setAttribute("aria-pressed", String(star === rating));
      button.classList.toggle("full", star <= rating); // another icon would have to be fetched
    }
    this.root.dataset.decision = decision;
    const remove = (tag) =>
      el("button", { type: "button", "aria-label": `Remove the tag ${tag}`, onclick: () => this.change({ remove_tags: [tag] }) }, icon("close"));
    const focused = [...this.root.querySelectorAll(".tags button")].indexOf(document.activeElement);
    this.find(".tags").replaceChildren(...tags.map((tag) => el("li", { class: "chip" }, tag, remove(tag))));
    if (focused >= 0) (this.root.querySelectorAll(".tags button")[focused] ?? this.find("[name=tag]")).focus();
  }

  /** Change something; whether that was acknowledged. */
  async change(change) {
    try {
      await this.edited.change(change);
      this.say("");
      announce(spoken(change));
      return true;
    } catch (error) {
      if (error instanceof Clash) toast("Somebody else has decided otherwise meanwhile: look, and decide again.");
      else tell(error);
      return false;
    }
  }

  /** Decide, and go on where that is wished. */
  decide(change) {
    this.change(change);
    if (this.find(".advance input").checked) this.step("next");
  }

  addTags() {
    const input = this.find("[name=tag]");
    const tags = input.value.split(",").map((tag) => tag.trim()).filter(Boolean);
    input.value = "";
    if (tags.length) this.change({ add_tags: tags });
  }

  async offerTags() {
    const { tags } = await api("GET", `/api/datasets/${this.data.dataset}/tags`).catch(() => ({ tags: [] }));
    this.find("#known-tags").replaceChildren(...tags.map(({ value }) => el("option", { value })));
  }

  /** Undo or redo what was decided last, of whatever image. */
  async move(way) {
    await this.edited.settled();
    try {
      const { event } = await api("POST", `/api/datasets/${this.data.dataset}/${way}`, {});
      toast(event ? `${event.what[0].toUpperCase()}${event.what.slice(1)}` : `Nothing to ${way}`);
      await this.edited.refresh();
    } catch (error) {
      tell(error);
    }
  }

  /** Show what the file carries. */
  async look() {
    const answer = await fetch(`/datasets/${this.data.dataset}/images/${this.data.image}/file`).catch(() => null);
    if (!answer?.ok) return;
    const found = new DOMParser().parseFromString(await answer.text(), "text/html");
    this.find(".carried").replaceChildren(...found.body.children);
  }

  copyPrompt() {
    copy(this.data.prompt, "The prompt");
  }

  copyRecipe() {
    copy(JSON.stringify(this.data.recipe, null, 2), "The recipe");
  }

  say(text) {
    this.find(".stage-top .said").textContent = text;
  }

  /** Find out which images are before and after this one, and get them ready. */
  async follow() {
    try {
      const view = await viewOf(this.data.dataset);
      this.place = await api("GET", `/api/views/${view}/place?image=${this.data.image}`);
    } catch (error) {
      if (error.status === 410) {
        forgetView(this.data.dataset);
        return this.follow();
      }
      if (error.status === 0) {
        tell(error);
        await pause(AGAIN);
        return current === this && this.follow();
      }
      this.place = { place: null, previous: null, next: null }; // the image is shown all the same
      return this.ready?.();
    }
    const { place, total } = this.place;
    if (place !== null) this.find(".place").textContent = `${(place + 1).toLocaleString("en")} of ${total.toLocaleString("en")}`;
    this.find(".back").href = this.gallery;
    for (const side of ["previous", "next"]) {
      const link = this.find(`.${side}`);
      const image = this.place[side];
      link.hidden = !image;
      if (!image) continue;
      link.href = addressOf(this.data.dataset, image);
      fetched(this.data.dataset, image);
    }
    this.ready?.();
  }

  get gallery() {
    const place = Number.isInteger(this.place?.place) ? `#place=${this.place.place}` : "";
    return `/datasets/${this.data.dataset}${query && `?${query}`}${place}`;
  }

  /** Go to the image before or after this one. */
  async step(side) {
    if (!this.place) await new Promise((resolve) => (this.ready = resolve));
    const image = this.place[side];
    if (current !== this) return;
    if (image) await go(this.data.dataset, image);
    else if (this.place.place === null) toast("This image is not one of those that the gallery shows");
    else toast(side === "next" ? "This is the last image" : "This is the first image");
  }

  /** Back to the gallery, at the same place. */
  async leave() {
    this.close();
    await Promise.race([this.edited.settled(), pause(1000)]);
    location.assign(this.gallery);
  }

  close() {
    for (const field of this.fields) field.close();
  }
}

/** The frozen order of the images that the query asks for, the same as in the gallery. */
async function viewOf(dataset) {
  const known = sessionStorage.getItem(`imagemill.view:${dataset}?${query}`);
  if (known) return known;
  const { view } = await whenRead(`/api/datasets/${dataset}/view?${query}`);
  sessionStorage.setItem(`imagemill.view:${dataset}?${query}`, view);
  return view;
}

function forgetView(dataset) {
  sessionStorage.removeItem(`imagemill.view:${dataset}?${query}`);
}

/** The page of an image, asked for once, with its picture on the way. */
function fetched(dataset, image) {
  if (!pages.has(image)) {
    const page = read(addressOf(dataset, image));
    page.catch(() => pages.delete(image));
    pages.set(image, page);
    if (pages.size > NEARBY) pages.delete(pages.keys().next().value);
  }
  return pages.get(image);
}

async function read(address) {
  const answer = await fetch(address).catch(() => {
    throw new ApiError(0, { error: "the server does not answer", hint: "what you decided is sent when it is back" });
  });
  if (!answer.ok) throw new ApiError(answer.status, {});
  const found = new DOMParser().parseFromString(await answer.text(), "text/html");
  const root = document.adoptNode(found.getElementById("image"));
  root.querySelectorAll("img").forEach((img) => (img.loading = "eager"));
  return { root, title: found.title };
}

/** Show another image in place of this one. */
async function go(dataset, image) {
  const before = current;
  before.close();
  let found;
  try {
    found = await fetched(dataset, image);
  } catch (error) {
    return error.status ? location.assign(addressOf(dataset, image)) : tell(error);
  }
  if (current !== before) return;
  const { root, title } = found;
  const focused = before.root.contains(document.activeElement);
  before.root.replaceWith(root);
  if (focused) root.querySelector(".canvas").focus({ preventScroll: true }); // its name is the prompt
  document.title = title;
  history.replaceState(null, "", addressOf(dataset, image));
  pages.delete(image); // what it says grows old
  start(root);
  current.edited.refresh().catch(() => {});
}

function start(root) {
  current = new ImagePage(root);
}

function addKeys() {
  const add = (key, what, run) => keys.add({ key, what, where: WHERE, run });
  add("ArrowLeft", "Previous image", () => current.step("previous"));
  add("ArrowRight", "Next image", () => current.step("next"));
  add("Escape", "Back to the gallery", () => current.leave());
  add("k", "Keep", () => current.decide({ decision: "keep" }));
  add("x", "Reject", () => current.decide({ decision: "reject" }));
  add("u", "Undecided", () => current.decide({ decision: "" }));
  for (let rating = 0; rating <= 5; rating++) {
    add(String(rating), rating ? "Rate" : "No rating", () => current.decide({ rating }));
  }
  add("t", "Add a tag", () => current.find("[name=tag]").focus());
  add("e", "Edit the text", () => current.fields[0]?.open());
  add("y", "Copy the prompt", () => current.copyPrompt());
  add("c", "Copy the recipe", () => current.copyRecipe());
  add("b", "Show or hide what is not safe for work", () => current.unveil());
  add("z", "Fit or 100 %", () => current.zoom.toggle());
  for (const key of ["+", "="]) add(key, "Larger", () => current.zoom.by(1));
  add("-", "Smaller", () => current.zoom.by(-1));
  for (const [way, x, y] of [["Left", 1, 0], ["Right", -1, 0], ["Up", 0, 1], ["Down", 0, -1]]) {
    add(`Shift+Arrow${way}`, "Look elsewhere in it", () => current.zoom.move(PAN * x, PAN * y));
  }
  add("Mod+z", "Undo", () => current.move("undo"));
  for (const key of ["Mod+Shift+z", "Mod+y"]) add(key, "Redo", () => current.move("redo"));
}

/** What others decide is shown at once. */
async function watch() {
  const { on } = await import("./live.js");
  const again = () => {
    pages.clear();
    current.edited.refresh().catch(() => {});
  };
  on("edits", ({ dataset, image }) => {
    if (dataset !== current.data.dataset) return;
    if (image && image !== current.data.image) pages.delete(image);
    else again();
  });
  on("reset", again);
}

start(document.getElementById("image"));
addKeys();
watch();
