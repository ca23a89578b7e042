/** Deciding the same of many images, and taking it back. */

import { api, tell, toast } from "./app.js";

const grid = document.getElementById("grid");
const url = `/api/datasets/${grid.getAttribute("dataset")}`;
let last = Promise.resolve(); // of what was asked for, one after another: what is undone is what was decided last
const PAST = { keep: "Kept", reject: "Rejected", "": "Undecided:" };

/** "1 image", "1,234 images". */
export function images(count) {
  return `${count.toLocaleString("en")} ${count === 1 ? "image" : "images"}`;
}

/** Decide the same of images: of those given, else of the selected ones, else of the focused one. */
export async function decide(change, subject = grid.subject) {
  if (!subject) return;
  const ids = subject.images ?? null;
  const before = new Map();
  grid.update(ids, (row) => (before.set(row.id, { ...row }), shown(row, change)));
  try {
    const found = await post("bulk", { selection: subject, ...change });
    if (found.images) toast(said(change, found.images), { undo: () => undo(found.event.number) });
    else toast("Nothing to change: they are so already");
  } catch (error) {
    grid.update([...before.keys()], (row) => before.get(row.id));
    grid.refresh();
    tell(error);
  }
}

/** Ask for something after all that was asked for before. */
function post(what, body) {
  const answer = last.catch(() => {}).then(() => api("POST", `${url}/${what}`, body));
  last = answer;
  return answer;
}

function shown(row, { add_tags: added = [], remove_tags: removed = [], ...others }) {
  const tags = new Set([...(row.tags ?? []), ...added]);
  removed.forEach((tag) => tags.delete(tag));
  return { ...others, tags: [...tags].sort() };
}

function said(change, count) {
  if (change.decision !== undefined) return `${PAST[change.decision]} ${images(count)}`;
  if (change.rating) return `Rated ${images(count)} ${change.rating} of 5`;
  if (change.rating === 0) return `Took the rating of ${images(count)} back`;
  const [what, tags] = change.add_tags ? ["Tagged", change.add_tags] : ["Untagged", change.remove_tags];
  return `${what} ${images(count)}: ${tags.join(", ")}`;
}

/** Take back what was decided last; with a number only if that is the last. */
export async function undo(event) {
  await step("undo", "Nothing to undo", event === undefined ? {} : { event });
}

/** Do again what was taken back last. */
export async function redo() {
  await step("redo", "Nothing to redo", {});
}

async function step(which, nothing, body) {
  try {
    const { event } = await post(which, body);
    toast(event ? `${event.what[0].toUpperCase()}${event.what.slice(1)}` : nothing);
  } catch (error) {
    if (error.status === 409) toast("Something else was decided since: see the history");
    else tell(error);
  }
  grid.refresh();
}
