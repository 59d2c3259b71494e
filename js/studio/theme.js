// The chosen theme, set before anything is painted. A plain script: modules run too late for that.
(() => {
  try {
    const chosen = localStorage.getItem("umrgen-theme");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  } catch {
    // Storage is forbidden here: then the system's theme it is.
  }
})();
