// `<um-entry>`: the door. Tells `key` with what was typed.
import { copyOf, find, tell } from "./dom.js";
import { clearErrors, showError } from "./fields.js";

export class Entry extends HTMLElement {
  connectedCallback() {
    this.append(copyOf("entry"));
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      const typed = this.#input.value.trim();
      clearErrors(this);
      if (!typed) return this.refuse("A key is needed here.");
      // What a header cannot carry is no key, and fetch would only say so in its own words.
      if (!/^[\x21-\x7e]+$/.test(typed)) return this.refuse("A key has no spaces and no special letters in it.");
      this.#busy(true);
      tell(this, "key", typed);
    });
  }

  get #form() {
    return find(this, "form", HTMLFormElement);
  }

  get #input() {
    return find(this, "#key", HTMLInputElement);
  }

  /** @param {string} [words] why there is a door again */
  open(words) {
    this.#input.value = "";
    this.#busy(false);
    clearErrors(this);
    this.hidden = false;
    if (words) this.refuse(words);
    else this.#input.focus();
  }

  /** @param {string} words */
  refuse(words) {
    this.#busy(false);
    showError(this, "key", words);
    this.#input.focus();
    this.#input.select();
  }

  close() {
    this.hidden = true;
    this.#input.value = "";
  }

  /** @param {boolean} busy */
  #busy(busy) {
    const button = find(this, "button[type=submit]", HTMLButtonElement);
    button.disabled = busy;
    button.textContent = busy ? "Asking…" : "Open the studio";
  }
}
