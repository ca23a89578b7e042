/** Images that look alike: those like one, and groups of near-duplicates. */

import { api, coded, confirm, el, icon, tell, toast, whenRead } from "./app.js";
import { said } from "./grid_tile.js";

const SIMILAR = 60;
const GROUPS = 30; // shown at once
// Bits of the hash that may differ.
const LIKENESS = [["0", "Equal: 0 bits differ"], ["4", "Nearly equal: up to 4 bits"], ["10", "Alike: up to 10 bits"]];
const COMPARED = "What is compared is structure, light and dark, not colours.";

/** The images most like one, the nearest first, and in words what was found; null when that cannot be said, which
 * `place` then tells. */
export async function similarRows(dataset, image, place) {
  try {
    const { rows, measure } = await whenRead(`/api/datasets/${dataset}/similar/${image}?limit=${SIMILAR}`);
    const bits = measure.includes("bits");
    const said = bits ? `${COMPARED} The number is how many of 64 bits differ.` : "The number is the cosine distance of embeddings.";
    const most = rows.length === SIMILAR ? `The ${SIMILAR} most similar images` : `${rows.length} images, the most similar first`;
    return { rows: rows.map((row) => ({ ...row, score: row.distance })), most, said };
  } catch (error) {
    place.hidden = false;
    place.replaceChildren(...why(dataset, error));
    return null;
  }
}

function why(dataset, error) {
  if (error.status !== 409) return [el("h2", {}, ...coded(error.message)), el("p", {}, ...coded(error.hint))];
  return [
    el("h2", {}, "Likeness is not known yet"),
    el("p", {}, "The score “hashes” compares what pictures look like. It takes a few seconds for a thousand images."),
    el("a", { class: "button primary", href: `/make/score?dataset=${dataset}&scorers=hashes` }, "Score with hashes"),
  ];
}

/** List the groups of near-duplicates in a section. */
export async function showDuplicates(section, dataset, threshold = "4") {
  const title = el("h2", { "aria-live": "polite" }, "Looking for images that look alike");
  const list = el("ol", { class: "groups" });
  const more = el("button", { type: "button", hidden: true }, "Show more groups");
  const options = LIKENESS.map(([value, text]) => el("option", { value, selected: value === threshold }, text));
  const select = el("select", { id: "threshold" }, ...options);
  select.addEventListener("change", async () => {
    await showDuplicates(section, dataset, select.value);
    section.querySelector("select")?.focus();
  });
  const choice = el("div", { class: "actions" }, el("label", { for: "threshold" }, "How alike"), select);
  const note = el("p", { class: "soft" }, `${COMPARED} The number on an image is how many of 64 bits differ from the first of its group.`);
  let start = 0;

  const load = async () => {
    more.disabled = true;
    const found = await whenRead(`/api/datasets/${dataset}/duplicates?threshold=${threshold}&start=${start}&count=${GROUPS}`);
    start += found.groups.length;
    list.append(...found.groups.map((rows, place) => group(dataset, rows, found.sizes[place], threshold)));
    more.hidden = start >= found.total_groups;
    more.disabled = false;
    title.textContent = counted(found);
  };
  more.addEventListener("click", () => load().catch(tell));

  section.replaceChildren(el("header", {}, title, choice), note, list, more);
  try {
    await load();
  } catch (error) {
    section.replaceChildren(el("div", { class: "empty" }, ...why(dataset, error)));
  }
}

function counted({ total_groups: groups, images }) {
  if (!groups) return "No two images look alike";
  const [many, all] = [groups, images].map((count) => count.toLocaleString("en"));
  return groups === 1 ? `1 group of ${all} images that look alike` : `${many} groups, ${all} images that look alike`;
}

function group(dataset, rows, size, threshold) {
  const item = el("li", { class: "group" });
  const pictures = rows.map((row) => {
    const address = `/datasets/${dataset}/images/${row.id}`;
    return el(
      "a",
      { class: `picture ${row.decision} ${row.nsfw ? "nsfw" : ""}`, href: address, title: row.prompt, "aria-label": said(row) },
      el("img", { src: row.thumbnail, alt: "", loading: "lazy", decoding: "async" }),
      row.distance ? el("span", { class: "score" }, `${row.distance}`) : null,
    );
  });
  const compared = rows.slice(0, 4).map((row) => row.id).join(",");
  const first = size > rows.length ? `${rows.length} of ${size.toLocaleString("en")} images` : `${size} images`;
  const actions = el(
    "div",
    { class: "actions" },
    el("span", { class: "soft number" }, first),
    el("a", { class: "button small", href: `/datasets/${dataset}/compare?images=${compared}` }, icon("compare"), "Compare"),
    el(
      "button",
      { type: "button", class: "small", onclick: () => reject(dataset, rows.slice(1), pictures.slice(1), threshold) },
      icon("reject"),
      "Reject all but the first",
    ),
  );
  item.append(el("div", { class: "pictures" }, ...pictures), actions);
  return item;
}

async function reject(dataset, rows, pictures, threshold) {
  const many = `${rows.length} ${rows.length === 1 ? "image" : "images"}`;
  const asks = `${COMPARED} ${many} may show the same in other colours, or something else of the same shape: look before you reject.`;
  if (threshold !== "0" && !(await confirm(asks, { title: `Reject ${many}`, action: "Reject" }))) return;
  try {
    const selection = { images: rows.map((row) => row.id) };
    const { event } = await api("POST", `/api/datasets/${dataset}/bulk`, { selection, decision: "reject" });
    if (!event) return toast("They are rejected already");
    for (const picture of pictures) picture.classList.add("reject");
    const undo = async () => {
      await api("POST", `/api/datasets/${dataset}/undo`, { event: event.number }).catch(tell);
      pictures.forEach((picture, place) => picture.classList.toggle("reject", rows[place].decision === "reject"));
    };
    toast(`Rejected ${many}`, { undo });
  } catch (error) {
    tell(error);
  }
}
