// The page's one live region: what a screen reader is to say of things that happen by themselves.
import { find } from "./dom.js";

/** @param {string} words */
export function say(words) {
  const region = find(document, "#live");
  // While a dialog is open everything beside it is inert, and stays unsaid.
  const place = document.querySelector("dialog[open]") ?? document.body;
  if (region.parentElement !== place) place.append(region);
  region.textContent = words;
}
