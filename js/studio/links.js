// The page's address. Its fragment names the opened job and the gallery's filters, so that each view has a link. A
// browser does not send the fragment: no prompt gets into a log of the server or of a proxy.
import { emit } from "./dom.js";

const NONE = { job: "", show: "", q: "", engine: "", size: "", after: "", before: "" };

/**
 * The opened job and the filters of the gallery; "" for none. `after` and `before` are dates as YYYY-MM-DD.
 * @typedef {typeof NONE} View
 */

/** The view in the page's address. Emits `change` when the user goes back, forward, or edits the address. */
export class Links extends EventTarget {
  /** Resolved when no step back is in progress: a new entry would be removed by it. */
  #steppedBack = Promise.resolve();

  constructor() {
    super();
    addEventListener("popstate", () => emit(this, "change"));
  }

  /** @returns {View} */
  get view() {
    const given = new URLSearchParams(location.hash.slice(1));
    return /** @type {View} */ (Object.fromEntries(Object.keys(NONE).map((name) => [name, given.get(name) ?? ""])));
  }

  /** Open a view as a new entry of the history. @param {Partial<View>} changes */
  async open(changes) {
    await this.#steppedBack;
    history.pushState({ opened: !!changes.job }, "", fragment({ ...this.view, ...changes }));
  }

  /** Change the view without a new entry of the history. @param {Partial<View>} changes */
  async replace(changes) {
    await this.#steppedBack;
    history.replaceState(history.state, "", fragment({ ...this.view, ...changes }));
  }

  /** Leave the opened job: go back when this page opened it, so that Back does not open it again. */
  closeJob() {
    if (!this.view.job) return;
    if (!history.state?.opened) return void this.replace({ job: "" });
    this.#steppedBack = new Promise((resolve) => addEventListener("popstate", () => resolve(), { once: true }));
    history.back();
  }
}

/**
 * Return the address of a view, without its empty parts.
 * @param {Partial<View>} view
 */
export function fragment(view) {
  const given = Object.entries(view).filter(([, value]) => value);
  return `${location.pathname}${location.search}${given.length ? `#${new URLSearchParams(Object.fromEntries(given))}` : ""}`;
}
