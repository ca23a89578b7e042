/** What the server tells as it happens: one stream for all tabs of a browser, taken up where it was lost. */

const KINDS = ["job", "dataset", "edits", "datasets", "reset"];
const KEPT = 200;
const html = document.documentElement;
const tab = crypto.getRandomValues(new Uint32Array(2)).join("-");
const channel = new BroadcastChannel("imagemill-live");
const listeners = new Map(KINDS.map((kind) => [kind, new Set()]));
const recent = [];
const running = new Map();
let last = document.querySelector("meta[name=last-event]")?.content ?? "";
let stream = null;

/** Call `run(data)` at every event of a kind; `reset` says that some may have been missed. Returns what ends it. */
export function on(kind, run) {
  listeners.get(kind).add(run);
  return () => listeners.get(kind).delete(run);
}

function dispatch(kind, data) {
  for (const run of listeners.get(kind)) run(data);
}

const numberOf = (id) => Number(id.split("-")[1]);
const epochOf = (id) => id.split("-")[0];

/** Take an event that is news to this tab. */
function take({ id, kind, data }) {
  if (kind !== "reset" && epochOf(id) === epochOf(last) && numberOf(id) <= numberOf(last)) return;
  last = id;
  dispatch(kind, data);
}

const link = document.getElementById("running");
const away = document.createElement("span");
away.className = "chip warn";
away.hidden = true;
away.setAttribute("role", "status");
link?.before(away);

function show(state) {
  html.dataset.live = state;
  away.hidden = state === "on";
  away.textContent = state === "strange" ? "Another token: open the server’s link" : "Reconnecting";
  showRunning();
}

function tell(state) {
  show(state);
  channel.postMessage({ state });
}

/** How the server answers; 0 where it does not. */
async function statusOf(address) {
  return fetch(address).then((answer) => answer.status, () => 0);
}

/** Listen for all tabs, until this one is closed. */
function lead(wait = 1000) {
  stream = new EventSource(last ? `/events?last=${encodeURIComponent(last)}` : "/events");
  stream.addEventListener("open", () => {
    wait = 1000;
    tell("on");
  });
  stream.addEventListener("error", async () => {
    // It tries again by itself, unless the server has answered with an error.
    if (stream.readyState !== EventSource.CLOSED) return tell("off");
    tell((await statusOf("/api/jobs?active=true")) === 401 ? "strange" : "off");
    setTimeout(() => lead(Math.min(2 * wait, 30000)), wait);
  });
  for (const kind of KINDS) {
    stream.addEventListener(kind, (event) => {
      const told = { id: event.lastEventId, kind, data: JSON.parse(event.data) };
      recent.push(told);
      if (recent.length > KEPT) recent.shift();
      channel.postMessage({ told });
      take(told);
    });
  }
}

/** Bring a tab that has just been opened up to date, from the event on that its page was made at. */
function answer({ tab: to, since }) {
  if (!stream) return;
  const same = epochOf(since) === epochOf(last);
  const missed = same ? recent.filter(({ id }) => epochOf(id) === epochOf(since) && numberOf(id) > numberOf(since)) : [];
  const whole = !since || (same && missed.length === Math.max(0, numberOf(last) - numberOf(since)));
  channel.postMessage({ to, state: html.dataset.live, missed: whole ? missed : [{ id: last, kind: "reset", data: {} }] });
}

channel.addEventListener("message", ({ data }) => {
  if (data.asks) answer(data.asks);
  else if (!data.to || data.to === tab) {
    if (data.state) show(data.state);
    if (data.told) take(data.told);
    for (const told of data.missed ?? []) take(told);
  }
});

// Elsewhere than on this machine or over https a browser has no locks, and each tab a stream of its own.
if (navigator.locks) navigator.locks.request("imagemill-live", () => new Promise(() => lead()));
else lead();
const ask = () => channel.postMessage({ asks: { tab, since: last } });
ask();
// A page that comes back by the back button was asleep.
addEventListener("pageshow", (event) => event.persisted && ask());

/** Say in the frame what runs. */
function showRunning() {
  if (!link) return;
  link.hidden = running.size === 0 || !away.hidden;
  const jobs = [...running.values()];
  const total = jobs.reduce((sum, job) => sum + job.total, 0);
  const ended = jobs.reduce((sum, job) => sum + job.done + Object.values(job.failed).reduce((all, each) => all + each, 0), 0);
  const share = total ? ` · ${Math.floor((100 * ended) / total)} %` : "";
  link.textContent = `${running.size} running${share}`;
}

function takeJob(job) {
  if (job.state === "running") running.set(job.id, job);
  else running.delete(job.id);
  showRunning();
}

/** Jobs as an answer tells them, without those that events have told of since it was asked for. */
export async function jobsNow(address) {
  const since = new Set();
  const end = on("job", (job) => since.add(job.id));
  try {
    const answer = await fetch(address);
    const { jobs } = answer.ok ? await answer.json() : { jobs: [] };
    return jobs.filter((job) => !since.has(job.id));
  } finally {
    end();
  }
}

async function readRunning() {
  running.clear();
  for (const job of await jobsNow("/api/jobs?active=true").catch(() => [])) takeJob(job);
  showRunning();
}

if (link) {
  on("job", takeJob);
  on("reset", readRunning);
  readRunning();
}
