// `<um-prompt>`: the prompt, with a counter, the history of prompts, and the settings of an image file.
import { cloneTemplate, element, emit, find } from "./dom.js";
import { showError } from "./field_errors.js";
import { announce } from "./live_region.js";

/** @import { Jobs } from "./jobs.js" */

/** Prompts in the history. */
const MAX_HISTORY = 30;
/** The counter appears when fewer characters than this are left. */
const COUNTED = 500;

/** The prompt. Emits `settingsfile` with a File, and `templates`. */
export class PromptField extends HTMLElement {
  #limit = Infinity;
  /** @type {Jobs | null} */
  #jobs = null;

  connectedCallback() {
    this.append(cloneTemplate("prompt"));
    this.#text.addEventListener("input", () => this.#count());
    this.#text.addEventListener("paste", (event) => this.#checkPaste(event));
    const history = find(this, ".history", HTMLSelectElement);
    for (const type of ["pointerdown", "focus"]) history.addEventListener(type, () => this.#fillHistory(history));
    history.addEventListener("change", () => {
      this.value = history.value;
      history.value = "";
      this.#text.focus();
      emit(this, "change");
    });
    find(this, ".templates").addEventListener("click", () => emit(this, "templates"));
    const file = find(this, "#settings-file", HTMLInputElement);
    file.addEventListener("change", () => {
      if (file.files?.[0]) emit(this, "settingsfile", file.files[0]);
      file.value = "";
    });
  }

  /**
   * Set the limit of characters, the jobs whose prompts are the history, and whether there are templates.
   * @param {number} limit
   * @param {Jobs} jobs
   * @param {boolean} templates
   */
  open(limit, jobs, templates) {
    find(this, ".templates").hidden = !templates;
    this.#limit = limit;
    this.#jobs = jobs;
    this.#count();
  }

  get value() {
    return this.#text.value;
  }

  set value(text) {
    this.#text.value = text;
    this.#count();
  }

  focus() {
    this.#text.focus();
    this.#text.scrollIntoView({ block: "nearest" });
  }

  /** Return an error message for the prompt, or "". */
  error() {
    const excess = length(this.value) - this.#limit;
    if (!this.value.trim()) return "Enter a prompt.";
    if (excess > 0) return `The prompt must have at most ${number(this.#limit)} characters: remove ${number(excess)}.`;
    return "";
  }

  // --- private ---

  get #text() {
    return find(this, "#prompt", HTMLTextAreaElement);
  }

  #count() {
    const left = this.#limit - length(this.value);
    const counter = find(this, ".counter");
    counter.textContent = left < COUNTED ? `${number(length(this.value))} of ${number(this.#limit)} characters` : "";
    counter.classList.toggle("over", left < 0);
  }

  /** Report a paste that makes the prompt too long; the text is kept, so that nothing is lost. @param {ClipboardEvent} event */
  #checkPaste(event) {
    const pasted = event.clipboardData?.getData("text/plain") ?? "";
    const selected = this.#text.selectionEnd - this.#text.selectionStart;
    if (length(this.value) - selected + length(pasted) <= this.#limit) return;
    const text = `The pasted text has ${number(length(pasted))} characters. A prompt has at most ${number(this.#limit)}: shorten it.`;
    showError(this, "prompt", text);
    announce(text);
  }

  /** @param {HTMLSelectElement} select */
  #fillHistory(select) {
    const prompts = this.#jobs?.prompts(MAX_HISTORY) ?? [];
    const first = new Option(prompts.length ? "Earlier…" : "None earlier", "");
    select.replaceChildren(first, ...prompts.map((prompt) => Object.assign(element("option", prompt.slice(0, 90)), { value: prompt })));
  }
}

/** Return the length as the server counts it: in code points. @param {string} text */
function length(text) {
  return [...text.trim()].length;
}

/** @param {number} value */
function number(value) {
  return value.toLocaleString("en");
}
