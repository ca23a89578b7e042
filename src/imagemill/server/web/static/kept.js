/** Texts that an earlier page could not save, sent by whichever page is opened next. */

import { api, toast } from "./app.js";
import * as drafts from "./drafts.js";
import { Edited } from "./edited.js";

/** Save one; whether somebody has to look at it. */
async function send({ dataset, image, column, text, base }) {
  const release = await drafts.hold(dataset, image, column);
  if (!release) return false; // a tab is at it
  try {
    const edited = new Edited(dataset, image, await api("GET", `/api/datasets/${dataset}/images/${image}`));
    await edited.change({ texts: { [column]: text } }, { texts: { [column]: base } });
    drafts.drop(dataset, image, column);
    return false;
  } catch (error) {
    return error.status !== 0 && error.status !== 404;
  } finally {
    release();
  }
}

async function sendAll() {
  const waiting = [];
  for (const draft of drafts.all()) {
    const address = `/datasets/${draft.dataset}/images/${draft.image}`;
    if (location.pathname === address) continue; // that page does it
    if (await send(draft)) waiting.push(address);
  }
  if (!waiting.length) return;
  const text = waiting.length === 1 ? "A text of yours is not saved" : `${waiting.length} texts of yours are not saved`;
  toast(text, { link: { text: "Show it", href: waiting[0] } });
}

sendAll();
