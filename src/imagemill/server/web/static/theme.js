// Before the first paint, so that the page does not flash; not a module, since those wait for the document.
(() => {
  const chosen = localStorage.getItem("theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
})();
