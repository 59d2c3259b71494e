// `<um-queue>`: what is not over yet. Tells `cancel` with an entry.
import { copyOf, find, pieceOf, tell } from "./dom.js";
import { standing } from "./words.js";

/** @import { Entry, Jobs } from "./jobs.js" */

/** Rows that are shown; of those behind them, only how many there are. */
const SHOWN = 8;

export class Queue extends HTMLElement {
  /** @type {Map<string, HTMLElement>} */
  #rows = new Map();
  #due = false;
  /** @type {Jobs | null} */
  #jobs = null;

  connectedCallback() {
    this.append(copyOf("queue"));
  }

  /** @param {Jobs} jobs */
  open(jobs) {
    this.#jobs = jobs;
    for (const news of ["grown", "change", "over", "gone"]) jobs.addEventListener(news, () => this.#soon());
    this.#soon();
  }

  /** Where the form stands above the queue, what was sent would be out of sight. */
  reveal() {
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    // After it has been shown: until then it may have no place.
    requestAnimationFrame(() => this.scrollIntoView({ block: "nearest", behavior: calm ? "auto" : "smooth" }));
  }

  /** However much is told at once, it is shown once. */
  #soon() {
    if (this.#due) return;
    this.#due = true;
    requestAnimationFrame(() => {
      this.#due = false;
      this.#show();
    });
  }

  #show() {
    const pending = this.#jobs?.pending ?? [];
    const shown = pending.slice(0, SHOWN);
    const list = find(this, "ul");
    const focused = list.contains(document.activeElement);
    for (const [id, row] of this.#rows) {
      if (shown.some((entry) => entry.id === id)) continue;
      row.remove();
      this.#rows.delete(id);
    }
    shown.forEach((entry, index) => {
      const row = this.#rows.get(entry.id) ?? this.#row(entry);
      if (list.children[index] !== row) list.insertBefore(row, list.children[index] ?? null);
      update(row, entry);
    });
    const rest = pending.length - shown.length;
    find(this, ".queue-rest").textContent = rest ? `and ${rest} more` : "";
    find(this, ".count").textContent = pending.length > 1 ? String(pending.length) : "";
    this.hidden = !pending.length;
    // Whoever was on a row that is gone is not thrown back to the top of the page.
    if (focused && !list.contains(document.activeElement)) {
      const next = list.querySelector("button") ?? document.querySelector("#gallery-title");
      if (next instanceof HTMLElement) next.focus({ preventScroll: true });
    }
  }

  /** @param {Entry} entry */
  #row(entry) {
    const row = pieceOf("queued");
    const { prompt, width, height } = entry.request;
    find(row, ".queued-prompt").textContent = prompt;
    find(row, ".queued-picture").style.setProperty("--ratio", String(width / height));
    const cancel = find(row, ".cancel");
    cancel.setAttribute("aria-label", `Cancel: ${prompt.slice(0, 80)}`);
    cancel.addEventListener("click", () => tell(this, "cancel", entry));
    this.#rows.set(entry.id, row);
    return row;
  }
}

/**
 * @param {HTMLElement} row
 * @param {Entry} entry
 */
function update(row, entry) {
  const { status, preview } = entry;
  row.classList.toggle("running", status.state === "running");
  find(row, ".queued-state").textContent = standing(entry);
  const bar = find(row, "progress", HTMLProgressElement);
  bar.hidden = status.state !== "running";
  bar.max = status.totalSteps || 1;
  bar.value = status.step ?? 0;
  bar.setAttribute("aria-label", `Steps of: ${entry.request.prompt.slice(0, 80)}`);
  find(row, ".cancel").toggleAttribute("disabled", entry.cancelling);
  const picture = find(row, "img", HTMLImageElement);
  if (preview && picture.src !== preview) {
    picture.src = preview;
    picture.hidden = false;
  }
}
