/** The bar below the gallery: decide many images at once, tag them, and open what acts on all of them. */

import { api, el, keys, tell } from "./app.js";
import { dialogs } from "./curate_dialogs.js";
import { decide, images, redo, undo } from "./deciding.js";
import { on } from "./live.js";

const bar = document.getElementById("curate");
const grid = document.getElementById("grid");
const url = `/api/datasets/${grid.getAttribute("dataset")}`;
const COMMON = 12; // tags that are offered as buttons
const NEAR = 8; // pixels between a button and what it opens

function countSelected() {
  bar.toggleAttribute("data-some", grid.count > 0);
  bar.querySelector("[data-count]").textContent = grid.count.toLocaleString("en");
  const stacks = bar.querySelector("[data-stacks]");
  stacks.textContent = `${grid.tiles.toLocaleString("en")} ${grid.tiles === 1 ? "stack" : "stacks"} · `;
  stacks.hidden = !grid.stack;
  if (!grid.count) document.getElementById("curate-tags").hidePopover();
}

async function showPending() {
  const chip = bar.querySelector("[data-pending]");
  try {
    const { pending } = await api("GET", `${url}/curation`);
    chip.textContent = pending.images.toLocaleString("en");
    chip.title = `${images(pending.images)} with edits that are not applied`;
    chip.hidden = !pending.images;
  } catch (error) {
    if (error.status) tell(error); // a server that is away is told elsewhere
  }
}

/** Put a popover above the button that opens it, or above the bar where that button is hidden. */
function place(popover) {
  const button = bar.querySelector(`[popovertarget=${popover.id}]`);
  const box = (button.offsetParent ? button : bar).getBoundingClientRect();
  const width = popover.offsetWidth;
  popover.style.left = `${Math.max(NEAR, Math.min(box.left, window.innerWidth - width - NEAR))}px`;
  popover.style.bottom = `${window.innerHeight - box.top + NEAR}px`;
}

const tagForm = document.getElementById("curate-tags");

async function fillTags() {
  const { tags } = await api("GET", `${url}/curation`);
  document.getElementById("curate-tags-used").replaceChildren(...tags.map(({ tag }) => el("option", { value: tag })));
  const use = (tag) => ((tagForm.tag.value = tag), tagForm.tag.focus());
  const chips = tags.slice(0, COMMON).map(({ tag, images: count }) =>
    el("button", { type: "button", class: "small", title: images(count), onclick: () => use(tag) }, tag),
  );
  tagForm.querySelector("[data-chips]").replaceChildren(...chips);
  place(tagForm);
}

function tag(event) {
  event.preventDefault();
  const tags = [tagForm.tag.value.trim()];
  if (!tags[0]) return;
  tagForm.hidePopover();
  tagForm.reset();
  decide(event.submitter?.value === "remove" ? { remove_tags: tags } : { add_tags: tags });
}

function listen() {
  bar.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const { decision, rating, all, clear } = button.dataset;
    if (decision !== undefined) decide({ decision });
    if (rating !== undefined) decide({ rating: Number(rating) });
    if (all !== undefined) grid.selectAll();
    if (clear !== undefined) grid.clear();
    if ((all ?? clear) !== undefined) grid.focus();
  });
  document.addEventListener("click", (event) => {
    const opens = event.target.closest("[data-open]")?.dataset.open;
    if (!opens) return;
    document.getElementById("curate-menu").hidePopover();
    dialogs[opens]();
  });
  for (const popover of document.querySelectorAll(".curate-pop")) {
    popover.addEventListener("toggle", (event) => {
      if (event.newState !== "open") return;
      place(popover);
      tagForm.querySelector("label").textContent = grid.count ? "Tag of the selected images" : "Tag of this image";
      if (popover === tagForm) fillTags().then(() => tagForm.tag.focus(), tell);
      else popover.querySelector("button").focus();
    });
  }
  document.addEventListener("focusin", ({ target }) => {
    const open = document.querySelector(".curate-pop:popover-open");
    if (open && !open.contains(target) && target.getAttribute("popovertarget") !== open.id) open.hidePopover();
  });
  tagForm.addEventListener("submit", tag);
  grid.addEventListener("im-select", countSelected);
  grid.addEventListener("im-view", countSelected);
  on("edits", ({ dataset }) => dataset === grid.datasetId && showPending());
  on("job", (job) => job.dataset === grid.datasetId && job.kind === "apply" && job.state === "done" && showPending());
  on("reset", showPending);
}

const where = "Curate";
keys.add({ key: "t", what: "Tag", where, run: () => (grid.subject ? tagForm.showPopover() : false) });
keys.add({ key: "r", what: "Find and replace", where, run: () => dialogs.replace() });
keys.add({ key: "Shift+s", what: "Save as a new dataset", where, run: () => dialogs.save() });
keys.add({ key: "Shift+e", what: "Export and download", where, run: () => dialogs.export() });
keys.add({ key: "Shift+a", what: "Apply edits", where, run: () => dialogs.apply() });
keys.add({ key: "Shift+h", what: "History", where, run: () => dialogs.history() });
keys.add({ key: "Mod+z", what: "Undo", where, run: () => undo() });
keys.add({ key: "Mod+Shift+z", what: "Redo", where, run: () => redo() });

listen();
countSelected();
showPending();
