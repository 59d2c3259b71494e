// `<um-selection-bar>`: the actions for selected jobs. Emits `selection` with `{action, entries}`.
import { cloneTemplate, emit, find } from "./dom.js";
import { announce } from "./live_region.js";

/** @import { Features } from "./features.js" */
/** @import { JobEntry } from "./jobs.js" */
/** @import { Selection } from "./selection.js" */

/** The actions for selected jobs. */
export class SelectionBar extends HTMLElement {
  connectedCallback() {
    this.append(cloneTemplate("selection-bar"));
  }

  /**
   * @param {Features} features
   * @param {Selection} selection
   * @param {() => JobEntry[]} all the entries that are shown
   */
  open(features, selection, all) {
    find(this, "[data-action=favorite]").hidden = !features.favorites;
    find(this, "[data-action=delete]").hidden = !features.deletion;
    this.addEventListener("click", ({ target }) => {
      const action = target instanceof Element && target.closest("button")?.getAttribute("data-action");
      if (action === "all") selection.add(all());
      else if (action) emit(this, "selection", { action, entries: selection.entries });
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && selection.active && !document.querySelector("dialog[open]")) selection.end();
    });
    selection.addEventListener("change", () => this.#show(selection));
    this.#show(selection);
  }

  /** Show a text, such as the progress of an action. @param {string} text */
  note(text) {
    find(this, ".selection-note").textContent = text;
    announce(text);
  }

  /** @param {Selection} selection */
  #show({ active, entries }) {
    this.hidden = !active;
    const images = entries.filter(({ status }) => status.imageUrl).length;
    find(this, ".selected").textContent = entries.length ? `${entries.length} selected` : "Choose images";
    const needed = /** @type {Record<string, boolean>} */ ({
      zip: images > 0,
      compare: images === 2 && entries.length === 2,
      favorite: images > 0,
      delete: entries.length > 0,
    });
    for (const [action, enabled] of Object.entries(needed)) {
      find(this, `[data-action=${action}]`).toggleAttribute("disabled", !enabled);
    }
    find(this, ".selection-note").textContent = "";
  }
}
