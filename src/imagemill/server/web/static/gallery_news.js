/** What happens elsewhere while the gallery is open: images come, and people decide. */

import { api } from "./app.js";
import { filters } from "./gallery_filters.js";
import { similarRows } from "./gallery_likeness.js";
import { on } from "./live.js";

const BETWEEN = 2000; // milliseconds between two questions for new images
const CALM = 300; // milliseconds after the last decision when it is shown
const find = (id) => document.getElementById(id);
const grid = find("grid");
let page; // {dataset, query, newest}
let lastAsked = 0;
let asking = 0;
let left = 0;
let refreshing = 0;

export const news = {
  begin(given) {
    page = given;
    on("dataset", (data) => data.id === page.dataset && askForNewer());
    on("edits", (data) => {
      if (data.dataset !== page.dataset) return;
      clearTimeout(refreshing);
      refreshing = setTimeout(refresh, CALM);
    });
    on("job", (job) => {
      if (job.dataset !== page.dataset || job.kind !== "apply" || job.state !== "done") return;
      grid.reload({ keepPlace: true }); // the records are others now
    });
    on("reset", () => (grid.refresh(), askForNewer()));
  },

  /** A view is shown, since which so many images have come. */
  shown: showNewer,
};

function showNewer(count) {
  find("newer").hidden = !count;
  find("newer").textContent = `+${(count ?? 0).toLocaleString("en")} new`;
}

/** Ask now, and some times more, for the server counts at its ease. */
function askForNewer(times = 3) {
  left = times;
  asking ||= setTimeout(ask, Math.max(0, lastAsked + BETWEEN - performance.now()));
}

async function ask() {
  lastAsked = performance.now();
  const { view } = grid;
  const found = view && (await api("GET", `/api/views/${view}/newer`).catch(() => null));
  asking = 0;
  if (left > 1) askForNewer(left - 1);
  if (!found || view !== grid.view) return;
  showNewer(found.newer);
  if (!grid.total && !page.query().size && found.newer) page.newest(); // nothing is moved where nothing is shown
}

/** Show what people decided, also of similar images, which are no view. */
async function refresh() {
  filters.refresh();
  const similar = new URLSearchParams(location.search).get("similar");
  if (!similar) return grid.refresh();
  const { rows = [] } = (await similarRows(page.dataset, similar, find("nothing"))) ?? {};
  const fresh = new Map(rows.map((row) => [row.id, row]));
  grid.update([...fresh.keys()], ({ id, waiting }) => ({ ...fresh.get(id), waiting }));
}
