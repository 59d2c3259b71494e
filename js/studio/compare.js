// `<um-compare>`: a dialog with two images side by side; the parameters that differ are marked.
import { cloneElement, cloneTemplate, element, find } from "./dom.js";
import { factsOf } from "./facts.js";
import { imageUrlOf } from "./image_urls.js";

/** @import { Umrgen } from "../src/index.js" */
/** @import { JobEntry } from "./jobs.js" */

/** A dialog with two images. */
export class Compare extends HTMLElement {
  /** @type {Umrgen | null} */
  #umrgen = null;

  connectedCallback() {
    this.append(cloneTemplate("compare"));
    const dialog = find(this, "dialog", HTMLDialogElement);
    find(this, ".close").addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  }

  /** @param {Umrgen} umrgen */
  open(umrgen) {
    this.#umrgen = umrgen;
  }

  /**
   * Show two jobs.
   * @param {JobEntry} one
   * @param {JobEntry} other
   */
  show(one, other) {
    const sides = [this.#side(one, other), this.#side(other, one)];
    find(this, ".compare-sides").replaceChildren(...sides);
    find(this, "dialog", HTMLDialogElement).showModal();
  }

  /**
   * @param {JobEntry} entry
   * @param {JobEntry} other
   */
  #side(entry, other) {
    const side = cloneElement("compare-side");
    const image = find(side, "img", HTMLImageElement);
    image.width = entry.request.width;
    image.height = entry.request.height;
    image.alt = entry.request.prompt;
    image.src = imageUrlOf(this.#umrgen, entry) ?? "";
    const theirs = Object.fromEntries(allFacts(other));
    const rows = allFacts(entry).flatMap(([name, value]) => {
      const term = element("dt", name);
      const detail = theirs[name] === value ? element("dd", value) : marked(value);
      return [term, detail];
    });
    find(side, ".facts").replaceChildren(...rows);
    return side;
  }
}

/**
 * @param {JobEntry} entry
 * @returns {[string, string][]}
 */
function allFacts(entry) {
  return [["Prompt", entry.request.prompt], ...factsOf(entry)];
}

/** @param {string} value */
function marked(value) {
  const detail = document.createElement("dd");
  detail.append(element("mark", value));
  return detail;
}
