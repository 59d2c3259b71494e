// `<um-snippet>`: the same picture from a terminal or a program.
import { copyOf, find } from "./dom.js";
import { say } from "./live.js";
import { cli, curl, python } from "./snippets.js";

/** @import { Entry } from "./jobs.js" */

const KINDS = { cli, curl, python };

export class Snippet extends HTMLElement {
  #baseUrl = "";
  /** @type {Entry | null} */
  #entry = null;

  connectedCallback() {
    this.append(copyOf("snippet"));
    this.addEventListener("change", () => this.#show());
    find(this, ".copy").addEventListener("click", () => this.#copy());
  }

  /**
   * @param {string} baseUrl
   * @param {Entry} entry
   */
  open(baseUrl, entry) {
    this.#baseUrl = baseUrl;
    this.#entry = entry;
    this.#show();
  }

  #show() {
    const kind = /** @type {keyof typeof KINDS} */ (find(this, "input:checked", HTMLInputElement).value);
    if (this.#entry) find(this, ".snippet-code").textContent = KINDS[kind](this.#baseUrl, this.#entry);
    find(this, ".copy").textContent = "Copy";
  }

  async #copy() {
    const code = find(this, ".snippet-code");
    try {
      await navigator.clipboard.writeText(code.textContent ?? "");
      find(this, ".copy").textContent = "Copied";
      say("Copied.");
    } catch {
      // A page over plain HTTP may not write to the clipboard: then it is one more keystroke.
      getSelection()?.selectAllChildren(code);
      find(this, ".copy").textContent = "Selected: now press Ctrl C";
      say("Selected. Press Control C to copy.");
    }
  }
}
