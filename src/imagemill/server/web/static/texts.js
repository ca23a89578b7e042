/** Texts that are edited where they stand: saved as they are typed, never lost, never over another's. */

import { el, tell, toast } from "./app.js";
import { Clash } from "./edited.js";
import * as drafts from "./drafts.js";

const PAUSE = 700; // milliseconds after typing until it is saved

/** One text of an image. `part` is its element, `edited` what the page knows of the image. */
export class TextField {
  #area = null; // the textarea while it is edited
  #base = ""; // the text that the edited one is made of
  #timer = 0;
  #saving = false;
  #clash = null; // their text, while somebody has to decide
  #release = null;

  constructor(part, edited) {
    this.part = part;
    this.edited = edited;
    this.column = part.dataset.column;
    this.find(".edit-text").addEventListener("click", () => this.open());
    this.find(".text-shown").addEventListener("click", () => {
      if (getSelection().isCollapsed) this.open();
    });
    this.find(".take-own").addEventListener("click", () => this.#takeOwn());
    edited.addEventListener("change", () => this.#seen());
    edited.addEventListener("away", () => this.#saving && this.#say("Not saved yet: the server is away. Kept in this browser.", "warn"));
    this.#recover();
  }

  find(selector) {
    return this.part.querySelector(selector);
  }

  /** The text as others know it. */
  get text() {
    return this.edited.state.texts[this.column];
  }

  /** Turn it into an editor. */
  open() {
    if (this.#clash !== null) this.find(".mine").focus();
    else if (this.#area) this.#area.focus();
    else this.#edit(this.text, this.text).focus();
  }

  /** Save what is typed, and let go of it. */
  close() {
    this.#leave();
    if (!this.#saving) this.#letGo();
  }

  /** An editor of a text that was made of another one. */
  #edit(text, base) {
    this.#base = base;
    this.#hold();
    this.#area = el("textarea", { "aria-label": this.column, maxlength: 100000, spellcheck: "true", dir: "auto" });
    this.#area.value = text;
    this.#area.addEventListener("input", () => this.#typed());
    this.#area.addEventListener("blur", () => this.#leave());
    this.#area.addEventListener("keydown", (event) => this.#key(event));
    this.find(".text-editor").replaceChildren(this.#area, el("p", { class: "soft hint" }, "Saved as you type. Esc leaves it, Ctrl+Z then takes back what was saved last."));
    this.#show(true);
    return this.#area;
  }

  #key(event) {
    if (event.isComposing) return;
    if (event.key !== "Escape" && !(event.key === "Enter" && (event.ctrlKey || event.metaKey))) return;
    event.preventDefault();
    event.stopPropagation();
    this.#leave();
    this.find(".edit-text").focus();
  }

  #typed() {
    drafts.keep(this.edited.dataset, this.edited.image, this.column, this.#area.value, this.#base);
    this.#say("");
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#save(), PAUSE);
  }

  #leave() {
    if (!this.#area) return;
    const text = this.#area.value;
    clearTimeout(this.#timer);
    if (text !== this.#base || this.#saving) this.#save();
    else this.#done();
  }

  async #save() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    if (this.#saving || !this.#area) return;
    const text = this.#area.value;
    if (text === this.#base) return this.#done();
    const seen = { texts: { [this.column]: this.#base } };
    this.#saving = true;
    this.#say("Saving…");
    try {
      await this.edited.change({ texts: { [this.column]: text } }, seen);
      this.#saving = false;
      this.#base = text;
      if (this.#area.value === text) this.#done();
      else this.#save();
    } catch (error) {
      this.#saving = false;
      if (error instanceof Clash) this.#ask(error.theirs.texts[this.column]);
      else this.#say(`Not saved: ${error.message}. Kept in this browser.`, "bad");
      if (!this.part.isConnected) this.#toldLater();
    }
  }

  /** All of it is saved. */
  #done() {
    drafts.drop(this.edited.dataset, this.edited.image, this.column);
    if (this.find(".state").textContent) this.#say("Saved", "good");
    if (document.activeElement === this.#area) return;
    this.#area = null;
    this.#letGo();
    this.#show(false);
  }

  /** What is known of the image has changed: by us, or by others. */
  #seen() {
    if (this.#saving) return; // its answer tells
    if (this.#clash !== null) {
      if (this.text !== this.#clash) this.#ask(this.text);
    } else if (!this.#area) {
      this.#show(false);
    } else if (this.text !== this.#base) {
      if (this.#area.value === this.#base || this.#area.value === this.text) this.#follow();
      else this.#ask(this.text);
    }
  }

  /** Nothing was typed yet: take what others have made of it. */
  #follow() {
    this.#area.value = this.#base = this.text;
    this.#say("Changed by somebody else", "warn");
  }

  /** Show both texts, and let people decide. */
  #ask(theirs) {
    clearTimeout(this.#timer);
    this.#timer = 0;
    const mine = this.find(".mine")?.value ?? this.#area.value;
    const had = this.find(".mine") === document.activeElement || this.#area === document.activeElement;
    this.#area = null;
    this.#clash = theirs;
    const area = el("textarea", { class: "mine", "aria-label": "Your text", maxlength: 100000, dir: "auto" });
    area.value = mine;
    area.addEventListener("input", () => drafts.keep(this.edited.dataset, this.edited.image, this.column, area.value, this.#base));
    this.find(".text-editor").replaceChildren(
      el(
        "div",
        { class: "clash", role: "group", "aria-label": "Two texts" },
        el("p", { class: "notice warn" }, "Somebody else has changed this text meanwhile. Both are here: choose one, or change yours."),
        el("div", {}, el("h3", {}, "Theirs"), el("p", { class: "theirs", dir: "auto" }, ...marked(theirs, mine))),
        el("div", {}, el("h3", {}, "Yours"), area),
        el(
          "div",
          { class: "actions" },
          el("button", { type: "button", class: "primary small keep-mine", onclick: () => this.#settle(area.value) }, "Keep mine"),
          el("button", { type: "button", class: "small take-theirs", onclick: () => this.#settle(theirs) }, "Take theirs"),
        ),
      ),
    );
    this.#say("Changed elsewhere", "warn");
    this.#show(true);
    if (had) area.focus();
  }

  /** Go on with a text that was made in knowledge of theirs. */
  #settle(text) {
    const base = this.#clash;
    this.#clash = null;
    this.#edit(text, base);
    this.#say("Saving…");
    this.find(".edit-text").focus();
    this.#leave();
  }

  async #takeOwn() {
    try {
      await this.edited.change({ texts: { [this.column]: null } });
    } catch (error) {
      tell(error);
    }
  }

  /** Take up what an earlier page could not save. */
  async #recover() {
    const draft = drafts.find(this.edited.dataset, this.edited.image, this.column);
    if (!draft) return;
    if (draft.text === this.text) return drafts.drop(this.edited.dataset, this.edited.image, this.column);
    const release = await drafts.hold(this.edited.dataset, this.edited.image, this.column);
    if (!release) return; // another tab is at it
    release();
    this.#edit(draft.text, draft.base);
    if (this.text === draft.base) this.#save();
    else this.#ask(this.text);
  }

  /** No other tab takes up what is typed here. */
  async #hold() {
    if (this.#release) return;
    const release = await drafts.hold(this.edited.dataset, this.edited.image, this.column);
    this.#release = release;
    if (!this.#area && this.#clash === null) this.#letGo();
  }

  #letGo() {
    this.#release?.();
    this.#release = null;
  }

  /** The page shows another image already, and this text waits. */
  #toldLater() {
    this.#letGo();
    const href = `/datasets/${this.edited.dataset}/images/${this.edited.image}${location.search}`;
    toast("A text of another image is not saved; it is kept until you have looked at it", { link: { text: "Show it", href } });
  }

  #show(editing) {
    const { texts, own } = this.edited.state;
    const shown = this.find(".text-shown");
    shown.hidden = editing;
    shown.textContent = texts[this.column] || "—";
    shown.classList.toggle("soft", !texts[this.column]);
    this.find(".text-editor").hidden = !editing;
    if (!editing) this.find(".text-editor").replaceChildren();
    const before = this.find(".text-own");
    before.hidden = editing || texts[this.column] === own[this.column];
    before.querySelector(".own").textContent = own[this.column] || "—";
  }

  #say(text, kind = "") {
    const state = this.find(".state");
    state.textContent = text;
    state.className = `state ${kind}`;
  }
}

/** The words of a text, those marked that another text does not have at their place. */
function marked(text, other) {
  const [words, others] = [text, other].map((each) => each.split(/(\s+|[^\p{L}\p{N}\s])/u).filter(Boolean));
  if (words.length * others.length > 250_000) return [text];
  const kept = common(words, others);
  return words.map((word, place) => (kept.has(place) || !word.trim() ? word : el("mark", {}, word)));
}

/** The places of the words of a longest common sequence. */
function common(one, other) {
  const length = Array.from({ length: one.length + 1 }, () => new Uint16Array(other.length + 1));
  for (let i = one.length - 1; i >= 0; i--) {
    for (let j = other.length - 1; j >= 0; j--) {
      length[i][j] = one[i] === other[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
    }
  }
  const places = new Set();
  for (let i = 0, j = 0; i < one.length && j < other.length; ) {
    if (one[i] === other[j]) places.add(i), i++, j++;
    else if (length[i + 1][j] >= length[i][j + 1]) i++;
    else j++;
  }
  return places;
}
