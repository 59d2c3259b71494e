// `<um-theme>`: the system's theme, light or dark.
import { pieceOf, setIcon } from "./dom.js";

const NAME = "umrgen-theme";
const THEMES = ["system", "light", "dark"];

export class ThemeSwitch extends HTMLElement {
  #button = pieceOf("theme");

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
    try {
      localStorage.setItem(NAME, theme);
    } catch {
      // It holds until the page is left.
    }
    this.#show();
  }

  #show() {
    const words = `Theme: ${this.#chosen}`;
    this.#button.setAttribute("aria-label", words);
    this.#button.title = words;
    setIcon(this.#button, this.#chosen);
  }
}
