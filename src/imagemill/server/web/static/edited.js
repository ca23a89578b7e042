/** What people decided of one image, as this page has seen it, and the one way to change it. */

import { api } from "./app.js";

const AGAIN = 2000; // milliseconds until a server that is away is asked again

/** Somebody else has changed the same meanwhile: `theirs` is what it is now. */
export class Clash extends Error {
  constructor(theirs) {
    super("somebody else has changed it meanwhile");
    this.theirs = theirs;
  }
}

/** What a change makes of an image, for those who only hear it. */
export function spoken({ decision, rating, add_tags: added, remove_tags: removed }) {
  if (decision !== undefined) return { keep: "Kept", reject: "Rejected", "": "Undecided" }[decision];
  if (rating !== undefined) return rating ? `Rated ${rating} of 5` : "No rating";
  return added ? `Tagged: ${added.join(", ")}` : `Untagged: ${removed.join(", ")}`;
}

/** Changes of whatever image that this page has not sent yet, and the last of them: they are sent one after another,
 * so that what is undone is what was decided last. */
let unsent = 0;
let last = Promise.resolve();

/** Say so before somebody leaves with them. */
addEventListener("beforeunload", (event) => {
  if (unsent) event.preventDefault();
});

/** Fires `change` when what is known has changed, `away` while the server does not answer, and `back` when it does again. */
export class Edited extends EventTarget {
  #away = false;
  #asked = 0; // questions and changes, of which later ones know better

  /** `state` is what the server tells: texts, own, decision, rating, tags, revision. */
  constructor(dataset, image, state) {
    super();
    this.dataset = dataset;
    this.image = image;
    this.url = `/api/datasets/${dataset}/images/${image}`;
    this.state = state; // acknowledged
    this.hoped = state; // with what is under way
    this.waiting = 0; // changes that are under way
  }

  /** Change something, after all that was asked before. Throws Clash where others have changed what `seen` shows
   * otherwise, and ApiError; waits while the server is away. */
  change(change, seen = this.hoped) {
    this.waiting += 1;
    unsent += 1;
    this.#asked += 1;
    this.hoped = after(this.hoped, change);
    const sent = this.#queued(last, change, seen);
    last = sent;
    this.#tell("change");
    return sent;
  }

  /** Resolves when nothing is under way, of any image. */
  async settled() {
    while (unsent) await last.catch(() => {});
  }

  /** Ask what others have decided since. */
  async refresh() {
    const asked = ++this.#asked;
    while (this.waiting) await last.catch(() => {}); // its answer may be older than what others did
    if (asked !== this.#asked) return;
    const found = await api("GET", this.url);
    if (asked === this.#asked && found.revision !== this.state.revision) this.#take(found);
  }

  async #queued(before, change, seen) {
    await before.catch(() => {});
    try {
      return await this.#send(change, seen);
    } catch (error) {
      this.hoped = this.state;
      throw error;
    } finally {
      this.waiting -= 1;
      unsent -= 1;
      if (!this.waiting) this.#take(this.state);
    }
  }

  async #send(change, seen) {
    for (;;) {
      if (clashes(change, seen, this.state)) throw new Clash(this.state);
      try {
        const found = await api("PATCH", this.url, change, { headers: { "If-Match": `"${this.state.revision}"` } });
        this.#answered();
        return this.#take(found);
      } catch (error) {
        if (error.status) this.#answered();
        if (error.status === 409) {
          this.#take(error.body.theirs); // and again, if what they have changed is something else
        } else if (error.status === 0) {
          this.#away = true;
          this.#tell("away");
          await later();
        } else {
          throw error;
        }
      }
    }
  }

  #answered() {
    if (!this.#away) return;
    this.#away = false;
    this.#tell("back");
  }

  #take(state) {
    this.state = state;
    if (!this.waiting) this.hoped = state;
    this.#tell("change");
    return state;
  }

  #tell(what) {
    this.dispatchEvent(new Event(what));
  }
}

/** A state as a change makes it. */
function after(state, { texts = {}, add_tags = [], remove_tags = [], ...others }) {
  const given = Object.entries(texts).map(([column, text]) => [column, text ?? state.own[column]]);
  const tags = new Set([...state.tags, ...add_tags].filter((tag) => !remove_tags.includes(tag)));
  return { ...state, ...others, texts: { ...state.texts, ...Object.fromEntries(given) }, tags: [...tags].sort() };
}

/** Whether others have changed what is to be changed, and otherwise. */
function clashes(change, seen, now) {
  const wanted = after(now, change);
  const differs = (before, current, after) => current !== before && current !== after;
  return (
    Object.keys(change.texts ?? {}).some((column) => differs(seen.texts[column], now.texts[column], wanted.texts[column])) ||
    ["decision", "rating"].some((name) => name in change && differs(seen[name], now[name], wanted[name]))
  );
}

/** Wait until a server that is away may be back. */
function later() {
  return new Promise((resolve) => {
    setTimeout(resolve, AGAIN);
    addEventListener("online", resolve, { once: true });
  });
}
