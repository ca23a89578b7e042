/** Texts that are not saved yet, kept in the browser until they are: through reloads, crashes and restarts. */

const START = "imagemill.draft:";

const keyOf = (dataset, image, column) => `${START}${dataset}/${image}/${column}`;

/** Keep a text; `base` is the one that it was made of. */
export function keep(dataset, image, column, text, base) {
  try {
    localStorage.setItem(keyOf(dataset, image, column), JSON.stringify({ text, base }));
  } catch {
    // The browser has no room or forbids it; the text is still in the page.
  }
}

export function drop(dataset, image, column) {
  localStorage.removeItem(keyOf(dataset, image, column));
}

/** The text that was kept, as {text, base}; null for none. */
export function find(dataset, image, column) {
  try {
    return JSON.parse(localStorage.getItem(keyOf(dataset, image, column)));
  } catch {
    return null;
  }
}

/** All that is kept, as {dataset, image, column, text, base}. */
export function all() {
  const found = Object.keys(localStorage).filter((key) => key.startsWith(START));
  return found.flatMap((key) => {
    const [dataset, image, ...rest] = key.slice(START.length).split("/");
    const column = rest.join("/");
    const draft = find(dataset, image, column);
    return draft ? [{ dataset, image, column, ...draft }] : [];
  });
}

/** Hold a text as the one tab that edits it; resolves to what lets go of it, or to null while another tab does. */
export function hold(dataset, image, column) {
  // Browsers have locks only where nobody can listen in; elsewhere each tab is on its own.
  if (!navigator.locks) return Promise.resolve(() => {});
  return new Promise((resolve) => {
    navigator.locks.request(keyOf(dataset, image, column), { ifAvailable: true }, (lock) => {
      if (!lock) return resolve(null);
      return new Promise((release) => resolve(release));
    });
  });
}
