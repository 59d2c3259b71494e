// The live region of the page: messages for screen readers.
import { find } from "./dom.js";

/** The element; with a dialog that was removed, it is outside of the document. @type {HTMLElement | null} */
let live = null;

/** Announce a message. @param {string} text */
export function announce(text) {
  const region = (live ??= find(document, "#live"));
  // While a dialog is open, the rest of the page is inert and not read.
  const parent = document.querySelector("dialog[open]") ?? document.body;
  if (region.parentElement !== parent) parent.append(region);
  region.textContent = text;
}
