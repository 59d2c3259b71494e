// `<um-theme-switch>`: a button for the theme: system, light or dark.
import { cloneElement, setIcon } from "./dom.js";
import { store } from "./storage.js";

const NAME = "umrgen-theme";
const THEMES = ["system", "light", "dark"];

/** A button for the theme. */
export class ThemeSwitch extends HTMLElement {
  #button = cloneElement("theme");

  connectedCallback() {
    this.#button.addEventListener("click", () => this.#choose(THEMES[(THEMES.indexOf(this.#chosen) + 1) % 3]));
    this.append(this.#button);
    this.#show();
  }

  get #chosen() {
    return document.documentElement.dataset.theme ?? "system";
  }

  /** @param {string} theme */
  #choose(theme) {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    store("localStorage", NAME, theme);
    this.#show();
  }

  #show() {
    const text = `Theme: ${this.#chosen}`;
    this.#button.setAttribute("aria-label", text);
    this.#button.title = text;
    setIcon(this.#button, this.#chosen);
  }
}
