// Sets the chosen theme before the page is painted. It is a classic script, because modules run later.
(() => {
  try {
    const chosen = localStorage.getItem("umrgen-theme");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  } catch {
    // Without storage, the system's theme is used.
  }
})();
