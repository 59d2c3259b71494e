// Loads the page's modules after the first frame, which a hundred of them would delay. Their preloads are in a template, so
// that the browser does not find them earlier.

function load() {
  const { content } = /** @type {HTMLTemplateElement} */ (document.querySelector("#modules"));
  document.head.append(content); // all at once: otherwise, each level of imports would wait for the one before
  import("./main.js");
}

if (document.hidden) load(); // a hidden tab draws no frames
else requestAnimationFrame(() => setTimeout(load));
