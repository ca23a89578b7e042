/** Files are sent from wherever they are dropped or chosen; what is deleted can be brought back. */
import { api, confirm, el, tell, toast } from "./app.js";

/** Where a page that was left says what it has put into the trash. */
const LEFT = "imagemill.left";
const PICTURE = /\.(png|jpe?g|webp)$/i;

/** The files of a drop, also those in folders. */
async function dropped(items) {
  const entries = [...items].filter((item) => item.kind === "file").map((item) => item.webkitGetAsEntry?.() ?? item.getAsFile());
  const files = [];
  for (const entry of entries) await walk(entry, files);
  return files;
}

/** Add the files of an entry to a list. */
async function walk(entry, files) {
  if (entry instanceof File) files.push(entry);
  else if (entry?.isFile) files.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
  else if (entry?.isDirectory) {
    const reader = entry.createReader();
    for (;;) {
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!some.length) return;
      for (const inner of some) if (!inner.name.startsWith(".")) await walk(inner, files);
    }
  }
}

/** Tables and archives go each for itself; pictures and the texts beside them together. */
function groups(files) {
  const stem = (file) => file.name.replace(/\.[^.]*$/, "").toLowerCase();
  const stems = new Set(files.filter((file) => PICTURE.test(file.name)).map(stem));
  const together = files.filter((file) => PICTURE.test(file.name) || (/\.txt$/i.test(file.name) && stems.has(stem(file))));
  const alone = files.filter((file) => !together.includes(file)).map((file) => [file]);
  return together.length ? [...alone, together] : alone;
}

/** Post one group with its progress; resolves to the uploads that it became, none where it was cancelled or refused. */
function post(files, place) {
  const name = files.length === 1 ? files[0].name : `${files.length.toLocaleString()} pictures`;
  const total = files.reduce((sum, file) => sum + file.size, 0);
  const most = Number(files.some((file) => PICTURE.test(file.name) || /\.zip$/i.test(file.name)) ? place.dataset.most : place.dataset.mostTable);
  if (total > most) {
    tell({ message: `${name} has ${Math.ceil(total / 1e6).toLocaleString()} MB`, hint: `at most ${(most / 1e6).toLocaleString()} MB can be sent` });
    return Promise.resolve([]);
  }
  const form = new FormData();
  for (const file of files) form.append("files", file, file.name);
  const request = new XMLHttpRequest();
  const progress = el("progress", { max: 100, value: 0, "aria-label": `Sending ${name}` });
  const stop = { type: "button", class: "small", "aria-label": `Cancel sending ${name}`, onclick: () => request.abort() };
  const cancel = el("button", stop, "Cancel");
  const line = el("div", { class: "sending-line" }, el("span", {}, name), progress, cancel);
  document.getElementById("sending").append(line);
  return new Promise((resolve) => {
    request.upload.addEventListener("progress", (event) => (progress.value = (100 * event.loaded) / event.total));
    request.addEventListener("loadend", () => {
      line.remove();
      const said = request.response ?? {};
      if (request.status === 201) return resolve(said.uploads);
      if (request.status) tell({ message: said.error ?? "the upload was refused", hint: said.hint });
      resolve([]);
    });
    request.addEventListener("error", () => tell({ message: `${name} could not be sent`, hint: "is the server still running?" }));
    request.open("POST", "/api/uploads");
    request.responseType = "json";
    request.setRequestHeader("Accept", "application/json");
    request.send(form);
  });
}

/** Send files; one upload opens its page, several are listed, and so is one beside which others were refused. */
async function send(files, place) {
  const found = [];
  const sent = groups(files);
  for (const group of sent) found.push(...(await post(group, place)));
  if (found.length === 1 && sent.length === 1) location.assign(found[0].url);
  else if (found.length) document.dispatchEvent(new CustomEvent("lists-changed"));
}

/** Let files be dropped anywhere, and chosen in the form. */
export function listenForFiles(place) {
  const field = place.querySelector("input[type=file]");
  const here = el("div", { class: "drop-here", hidden: true }, el("p", {}, "Drop to upload"));
  document.body.append(here);
  let inside = 0;
  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
  const listen = (kind, run) =>
    document.addEventListener(kind, (event) => {
      if (!carriesFiles(event)) return;
      event.preventDefault();
      run(event);
      here.hidden = inside <= 0;
    });
  listen("dragenter", () => (inside += 1));
  listen("dragleave", () => (inside -= 1));
  listen("dragover", () => {});
  listen("drop", async (event) => {
    inside = 0;
    send(await dropped(event.dataTransfer.items).catch(() => [...event.dataTransfer.files]), place);
  });
  field.addEventListener("change", () => {
    send([...field.files], place);
    field.value = "";
  });
}

// Who leaves the page stops what is being sent.
addEventListener("beforeunload", (event) => {
  if (document.querySelector(".sending-line")) event.preventDefault();
});

/** Put something into the trash; the toast brings it back. */
async function put(button) {
  const { delete: address, method = "POST", name, then } = button.dataset;
  button.disabled = true;
  try {
    const { item } = await api(method, address);
    if (then) {
      sessionStorage.setItem(LEFT, JSON.stringify({ item, name }));
      return location.assign(then);
    }
    const line = button.closest("article, li");
    const near = (line?.nextElementSibling ?? line?.previousElementSibling)?.querySelector("a:not([tabindex])");
    (near ?? document.getElementById("main")).focus();
    document.dispatchEvent(new CustomEvent("lists-changed"));
    say(item, name);
  } catch (error) {
    button.disabled = false;
    tell(error);
  }
}

/** Say that something is in the trash, and offer to bring it back. */
function say(item, name) {
  toast(`${name} is in the trash`, { undo: () => back(item) });
}

/** Bring something back from the trash. */
async function back(item) {
  try {
    const { name } = await api("POST", `/api/trash/${item}/restore`);
    document.dispatchEvent(new CustomEvent("lists-changed"));
    toast(`${name} is back`);
  } catch (error) {
    tell(error);
  }
}

/** Delete something for good, once more asked for. */
async function remove({ remove: item, name, what }) {
  const sure = await confirm(`${name} (${what}) will be deleted. This cannot be undone.`, {
    title: "Delete for good?",
    action: "Delete for good",
  });
  if (!sure) return;
  await api("POST", `/api/trash/${item}/delete`).catch(tell);
  document.dispatchEvent(new CustomEvent("lists-changed"));
}

const left = sessionStorage.getItem(LEFT);
if (left && !document.querySelector("[data-then]")) {
  sessionStorage.removeItem(LEFT);
  const { item, name } = JSON.parse(left);
  say(item, name);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-delete], [data-restore], [data-remove]");
  if (!button) return;
  if (button.dataset.delete) put(button);
  else if (button.dataset.restore) back(button.dataset.restore);
  else remove(button.dataset);
});
