// `<um-key-form>`: the form for the API key. Emits `key` with `{key, remember}`.
import { cloneTemplate, find, emit } from "./dom.js";
import { clearErrors, showError } from "./field_errors.js";

/** The form for the API key. */
export class KeyForm extends HTMLElement {
  connectedCallback() {
    this.append(cloneTemplate("key-form"));
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      const input = this.#input.value.trim();
      clearErrors(this);
      if (!input) return this.refuse("Enter an API key.");
      // A header cannot have other characters; the error of fetch would not be clear.
      if (!/^[\x21-\x7e]+$/.test(input)) return this.refuse("An API key has no spaces and no special characters.");
      this.#busy(true);
      emit(this, "key", { key: input, remember: find(this, "#remember", HTMLInputElement).checked });
    });
  }

  get #form() {
    return find(this, "form", HTMLFormElement);
  }

  get #input() {
    return find(this, "#key", HTMLInputElement);
  }

  /** Show the form, with an error if there is one. @param {string} [error] */
  open(error) {
    this.#input.value = "";
    this.#busy(false);
    clearErrors(this);
    this.hidden = false;
    if (error) this.refuse(error);
    else this.#input.focus();
  }

  /** Show an error. @param {string} error */
  refuse(error) {
    this.#busy(false);
    showError(this, "key", error);
    this.#input.focus();
    this.#input.select();
  }

  /** Hide the form. */
  close() {
    this.hidden = true;
    this.#input.value = "";
  }

  /** @param {boolean} busy */
  #busy(busy) {
    const button = find(this, "button[type=submit]", HTMLButtonElement);
    button.disabled = busy;
    button.textContent = busy ? "Checking…" : "Open the studio";
  }
}
