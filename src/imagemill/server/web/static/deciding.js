/** Deciding the same of many images, and taking it back. What is decided while the server is away waits for it. */

import { api, pause, tell, toast, whenRead } from "./app.js";

const AGAIN = 1000; // milliseconds until a server that is away is asked again
const SOON = 20; // milliseconds between two looks whether all is sent
const grid = document.getElementById("grid");
const line = document.getElementById("curate-away");
const url = `/api/datasets/${grid.getAttribute("dataset")}`;
const renewed = new Map(); // views of stacks that a server before this one had → those that show the same now
let last = Promise.resolve(); // of what was asked for, one after another: what is undone is what was decided last
let unsent = 0;
let away = ""; // why nothing can be sent
const PAST = { keep: "Kept", reject: "Rejected", "": "Undecided:" };

/** "1 image", "1,234 images". */
export function images(count) {
  return `${count.toLocaleString("en")} ${count === 1 ? "image" : "images"}`;
}

/** Decide the same of images: of those given, else of the selected ones, else of the focused one. */
export async function decide(change, subject = grid.subject) {
  subject ??= await grid.awaited().catch(tell);
  if (!subject) return;
  const ids = subject.images ?? null;
  const { query } = grid;
  const before = new Map();
  grid.update(ids, (row) => (before.set(row.id, { ...row }), shown(row, change)));
  try {
    const found = await inTurn(() => deliver(subject, change, query));
    grid.update([...before.keys()], arrived);
    if (found.images) toast(said(change, found.images), { undo: () => undo(found.event.number) });
    else toast("Nothing to change: they are so already");
  } catch (error) {
    grid.update([...before.keys()], (row) => ({ ...before.get(row.id), ...arrived(row) }));
    grid.refresh();
    tell(error);
  }
}

/** Resolves when everything is sent, or cannot be. */
export async function settled() {
  while (unsent && !away) await pause(SOON);
}

addEventListener("beforeunload", (event) => {
  if (unsent) event.preventDefault();
});

/** Ask for something after all that was asked for before. */
function inTurn(ask) {
  unsent += 1;
  tellAway(away);
  const answer = last.catch(() => {}).then(ask).finally(() => {
    unsent -= 1;
    tellAway(away);
  });
  last = answer;
  return answer;
}

/** Send a decision, again and again while the server is away or does not know this browser yet. */
async function deliver(selection, change, query) {
  let lost = false; // whether the view of the stacks is gone
  for (;;) {
    try {
      if (lost) renewed.set(selection.stacks, (await whenRead(`${url}/view?${query}`)).view);
      const stacks = renewed.get(selection.stacks) ?? selection.stacks;
      const found = await api("POST", `${url}/bulk`, { selection: { ...selection, stacks }, ...change });
      tellAway("");
      return found;
    } catch (error) {
      if (![0, 401].includes(error.status)) tellAway("");
      if (error.status === 410 && selection.stacks && !lost) lost = true;
      else if (error.status === 0) await waitAway("The server is away");
      else if (error.status === 401) await waitAway("The server has another token, open its link in a new tab");
      else throw error;
    }
  }
}

function waitAway(why) {
  tellAway(why);
  return pause(AGAIN);
}

function tellAway(why) {
  away = why;
  line.hidden = !away || !unsent;
  const text = `${away}: ${unsent === 1 ? "1 decision waits" : `${unsent.toLocaleString("en")} decisions wait`}`;
  if (!line.hidden && line.textContent !== text) line.textContent = text;
}

/** A row as a change makes it; it waits until the server has it. */
function shown(row, { add_tags: added = [], remove_tags: removed = [], ...others }) {
  const tags = new Set([...(row.tags ?? []), ...added]);
  removed.forEach((tag) => tags.delete(tag));
  const all = (decision) => (others.decision === decision ? row.stacked : 0);
  const ofStack = "decision" in others ? { kept: all("keep"), rejected: all("reject") } : {};
  return { ...others, ...ofStack, tags: [...tags].sort(), waiting: (row.waiting ?? 0) + 1 };
}

function arrived({ waiting = 0 }) {
  return { waiting: Math.max(0, waiting - 1) };
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
    const { event } = await inTurn(() => api("POST", `${url}/${which}`, body));
    toast(event ? `${event.what[0].toUpperCase()}${event.what.slice(1)}` : nothing);
  } catch (error) {
    if (error.status === 409) toast("Something else was decided since: see the history");
    else tell(error);
  }
  grid.refresh();
}
