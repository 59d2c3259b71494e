// `<um-code-sample>`: commands and code that draw the same image.
import { cloneTemplate, find } from "./dom.js";
import { announce } from "./live_region.js";
import { cli, curl, python } from "./code_samples.js";

/** @import { JobEntry } from "./jobs.js" */

const KINDS = { cli, curl, python };

/** Commands and code that draw the same image. */
export class CodeSample extends HTMLElement {
  #baseUrl = "";
  /** @type {JobEntry | null} */
  #entry = null;

  connectedCallback() {
    this.append(cloneTemplate("code-sample"));
    this.addEventListener("change", () => this.#show());
    find(this, ".copy").addEventListener("click", () => this.#copy());
  }

  /**
   * Show the commands for a job.
   * @param {string} baseUrl
   * @param {JobEntry} entry
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
      announce("Copied.");
    } catch {
      // A page over plain HTTP may not write to the clipboard: select the text instead.
      getSelection()?.selectAllChildren(code);
      find(this, ".copy").textContent = "Selected: now press Ctrl C";
      announce("Selected. Press Control C to copy.");
    }
  }
}
