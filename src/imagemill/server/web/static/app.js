/** What every page uses: requests, toasts, questions, keys, light and dark. */

/** An answer that says no; `body` is what it said. */
export class ApiError extends Error {
  constructor(status, body) {
    super(body.error ?? "the server did not answer");
    this.status = status;
    this.hint = body.hint ?? "";
    this.body = body;
  }
}

/** Ask the server; resolves to parsed JSON, and throws ApiError, with status 0 where the server is away. */
export async function api(method, url, body, { headers = {}, signal } = {}) {
  const json = body === undefined ? {} : { "Content-Type": "application/json" };
  let answer;
  try {
    answer = await fetch(url, {
      method,
      signal,
      headers: { Accept: "application/json", ...json, ...headers },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { error: "the server does not answer", hint: "is it still running?" });
  }
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new ApiError(answer.status, found);
  return found;
}

/** Resolves after so long. */
export function pause(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

const READING = 500; // milliseconds between two questions while the records are being read

/** Ask for what the index of a dataset tells, until it is there; `reading(answer)` is called meanwhile, and false from
 * it gives up. */
export async function whenRead(url, reading) {
  for (;;) {
    const found = await api("GET", url);
    if (!found.building || reading?.(found) === false) return found;
    await pause(READING);
  }
}

/** Make an element: attributes are set as they are, `on…` ones are listeners, children are texts or elements. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

/** An icon of icons.svg. */
export function icon(name) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  made.classList.add("icon");
  made.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `/static/icons.svg#${name}`);
  made.append(use);
  return made;
}

/** A text whose pieces between backticks are code. */
export function coded(text) {
  return text.split("`").map((piece, place) => (place % 2 ? el("code", {}, piece) : piece));
}

const toasts = document.getElementById("toasts");

/** Say something for a while; `undo` adds a button, `link` is {text, href}, `kind: "error"` stays until it is closed. */
export function toast(text, { undo, link, kind } = {}) {
  const said = el("span", {}, ...coded(text));
  const modal = [...document.querySelectorAll("dialog:modal")].at(-1);
  if (modal && !modal.contains(toasts)) {
    // What stands outside of a dialog cannot be reached while it is open.
    modal.append(toasts);
    modal.addEventListener("close", () => document.body.append(toasts), { once: true });
  }
  // Only links and errors stay beside what is said later, each once.
  for (const each of [...toasts.children]) {
    const used = each.matches(":focus-within");
    if (!used && ("passing" in each.dataset || each.firstElementChild.textContent === said.textContent)) each.remove();
  }
  const shown = el("div", { class: `toast ${kind ?? ""}`, "data-passing": !link && kind !== "error" }, said);
  let before = null; // what had the focus
  shown.addEventListener("focusin", ({ relatedTarget }) => (before ??= relatedTarget));
  const close = () => {
    const focused = shown.matches(":focus-within");
    shown.remove();
    if (focused) (before?.isConnected ? before : document.getElementById("main")).focus();
  };
  const soon = (pause) => setTimeout(() => (shown.matches(":hover, :focus-within") ? soon(pause) : close()), pause);
  if (link) shown.append(el("a", { href: link.href, class: "button small" }, link.text));
  if (undo) shown.append(el("button", { type: "button", onclick: () => (close(), undo()) }, "Undo"));
  if (kind === "error") shown.append(el("button", { type: "button", onclick: close }, "Close"));
  else soon(undo || link ? 12000 : 5000);
  toasts.append(shown);
  return close;
}

/** Say something to those who only hear the page; others see it. */
export function announce(text) {
  document.getElementById("told").textContent = text;
}

/** Say what went wrong. */
export function tell(error) {
  if (error.name === "AbortError") return;
  const said = error.hint ? `${error.message}: ${error.hint}` : error.message;
  toast(said.charAt(0).toUpperCase() + said.slice(1), { kind: "error" });
}

/** Put a text on the clipboard, also where browsers do not let pages do it by themselves; `what` is its name. */
export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const focused = document.activeElement;
    const area = el("textarea", { class: "visually-hidden", readonly: true });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    focused?.focus({ preventScroll: true });
  }
  toast(`${what} is copied`);
}

/** Ask before something happens; resolves to whether it may. */
export function confirm(text, { title, action, otherwise = "Cancel" }) {
  return new Promise((resolve) => {
    const dialog = el(
      "dialog",
      { "aria-label": title },
      el("header", {}, el("h2", {}, title)),
      el(
        "form",
        { method: "dialog" },
        el("p", {}, ...coded(text)),
        el(
          "footer",
          {},
          el("button", { value: "" }, otherwise),
          el("button", { value: "yes", class: "danger" }, action),
        ),
      ),
    );
    dialog.addEventListener("close", () => (dialog.remove(), resolve(dialog.returnValue === "yes")));
    document.body.append(dialog);
    dialog.showModal();
  });
}

const known = [];

function typing(target) {
  return target.closest?.("input:not([type=checkbox], [type=radio], [type=range], [type=button]), textarea, select, [contenteditable]");
}

function matches(event, key) {
  const wanted = key.split("+");
  const last = wanted.pop() || "+";
  const mod = event.ctrlKey || event.metaKey;
  if (wanted.includes("Mod") !== mod || wanted.includes("Alt") !== event.altKey) return false;
  // What needs Shift to be typed, such as `?`, says so itself.
  const named = last.length > 1 || /[a-z]/i.test(last);
  if (named && wanted.includes("Shift") !== event.shiftKey) return false;
  // Letters of other alphabets, and what Alt makes of a letter on a Mac, are the keys where Latin ones stand.
  const foreign = (event.key === "Dead" || /^[^ -~]$/u.test(event.key)) && /^Key[A-Z]$/.test(event.code);
  return (foreign ? event.code.at(-1) : event.key).toLowerCase() === last.toLowerCase();
}

/** Whether a key is one letter, digit or sign, which somebody who speaks to the computer may type by accident. */
function single(key) {
  return key.replace(/^Shift\+/, "").length === 1 && key !== " ";
}

let singles = localStorage.getItem("single keys") !== "off";

export const keys = {
  /** Add a key: `key` as in "k", "Shift+ArrowRight", "Mod+z"; `what` and `where` stand in the window; `run` returns
   * false to let the key pass on; `always` also while typing. Returns what takes it away again. */
  add({ key, what, where = "Everywhere", run, always = false }) {
    const added = { key, what, where, run, always };
    known.push(added);
    return () => known.splice(known.indexOf(added), 1);
  },
};

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.isComposing) return;
  const open = document.querySelector("dialog[open], :popover-open");
  for (const each of [...known].reverse()) {
    if (!matches(event, each.key) || (!singles && single(each.key)) || (!each.always && (typing(event.target) || open))) continue;
    if (each.run(event) !== false) {
      event.preventDefault();
      return;
    }
  }
});

const words = { Mod: /mac/i.test(navigator.platform) ? "⌘" : "Ctrl", ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", " ": "Space" };

function showKeys() {
  const dialog = document.getElementById("keys");
  const list = dialog.querySelector(".keys-list");
  const working = known.filter(({ key }) => singles || !single(key));
  list.replaceChildren();
  for (const where of new Set(working.map((each) => each.where))) {
    const body = el("tbody");
    const said = Map.groupBy(working.filter((each) => each.where === where), (each) => each.what);
    for (const [what, same] of said) {
      const cell = el("td");
      // As it is written where keys are held together: Alt D.
      const written = (part, parts) => words[part] ?? (parts.length > 1 && part.length === 1 ? part.toUpperCase() : part);
      same.forEach((each, place) => {
        if (place) cell.append(" or ");
        const parts = each.key === "+" ? ["+"] : each.key.split("+");
        cell.append(el("span", {}, ...parts.flatMap((part) => [el("kbd", {}, written(part, parts)), " "])));
      });
      body.append(el("tr", {}, el("td", {}, what), cell));
    }
    list.append(el("h3", {}, where), el("table", {}, body));
  }
  if (!dialog.open) dialog.showModal();
}

const switched = document.getElementById("single-keys");
switched.checked = singles;
switched.addEventListener("change", () => {
  singles = switched.checked;
  localStorage.setItem("single keys", singles ? "on" : "off");
  showKeys();
});

keys.add({ key: "?", what: "Show these keys", run: showKeys });
for (const [key, what, address] of [["d", "Datasets", "/datasets"], ["m", "Make", "/make/generate"], ["e", "Executions", "/executions"]]) {
  keys.add({ key: `Alt+${key}`, what, run: () => location.assign(address) });
}
document.getElementById("keys-button").addEventListener("click", showKeys);

document.getElementById("theme-button").addEventListener("click", () => {
  const chosen = document.documentElement.dataset.theme;
  const dark = chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("theme", document.documentElement.dataset.theme);
});

const left = sessionStorage.getItem("toast");
if (left) {
  // By the page before this one.
  sessionStorage.removeItem("toast");
  toast(left);
}

document.addEventListener("click", (event) => {
  event.target.closest("[data-close]")?.closest("dialog")?.close();
});
