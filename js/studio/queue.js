// `<um-queue>`: the pending jobs. Emits `cancel` with an entry, `cancelall` with all.
import { cloneTemplate, find, cloneElement, emit } from "./dom.js";
import { describeState } from "./format.js";

/** @import { JobEntry, Jobs } from "./jobs.js" */
/** @import { Notifications } from "./notifications.js" */

/** The number of rows; of the other jobs, only the number is shown. */
const MAX_ROWS = 8;

/** The pending jobs. */
export class Queue extends HTMLElement {
  /** @type {Map<string, HTMLElement>} */
  #rows = new Map();
  #updateScheduled = false;
  /** @type {Jobs | null} */
  #jobs = null;

  connectedCallback() {
    this.append(cloneTemplate("queue"));
    find(this, ".cancel-all").addEventListener("click", () => emit(this, "cancelall", this.#jobs?.pending ?? []));
  }

  /**
   * Show the pending jobs.
   * @param {Jobs} jobs
   * @param {Notifications} notifications
   */
  open(jobs, notifications) {
    this.#jobs = jobs;
    const notify = find(this, ".notify");
    const showNotify = () => (notify.hidden = !notifications.requestable);
    notify.addEventListener("click", () => notifications.request());
    notifications.addEventListener("change", showNotify);
    showNotify();
    for (const type of ["added", "change", "finished", "removed"]) jobs.addEventListener(type, () => this.#scheduleUpdate());
    this.#scheduleUpdate();
  }

  /** Scroll to the queue, which may be below the form. */
  reveal() {
    const reduced = matchMedia("(prefers-reduced-motion: reduce)").matches;
    // After the next frame: before that, it may not be laid out.
    requestAnimationFrame(() => {
      const below = this.getBoundingClientRect().top > innerHeight / 2; // on a phone, it is below the form
      this.scrollIntoView({ block: below ? "start" : "nearest", behavior: reduced ? "auto" : "smooth" });
    });
  }

  /** Update the rows once per frame, after any number of events. */
  #scheduleUpdate() {
    if (this.#updateScheduled) return;
    this.#updateScheduled = true;
    requestAnimationFrame(() => {
      this.#updateScheduled = false;
      this.#show();
    });
  }

  #show() {
    const pending = this.#jobs?.pending ?? [];
    const shown = pending.slice(0, MAX_ROWS);
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
    find(this, ".cancel-all").hidden = pending.length < 2;
    find(this, ".count").textContent = pending.length > 1 ? String(pending.length) : "";
    this.hidden = !pending.length;
    // When the focused row was removed, focus the next one instead of the top of the page.
    if (focused && !list.contains(document.activeElement)) {
      const next = list.querySelector("button") ?? document.querySelector("#gallery-title");
      if (next instanceof HTMLElement) next.focus({ preventScroll: true });
    }
  }

  /** @param {JobEntry} entry */
  #row(entry) {
    const row = cloneElement("queued");
    const { prompt, width, height } = entry.request;
    find(row, ".queued-prompt").textContent = prompt;
    find(row, ".queued-image").style.setProperty("--ratio", String(width / height));
    const cancel = find(row, ".cancel");
    cancel.setAttribute("aria-label", `Cancel: ${prompt.slice(0, 80)}`);
    cancel.addEventListener("click", () => emit(this, "cancel", entry));
    this.#rows.set(entry.id, row);
    return row;
  }
}

/**
 * @param {HTMLElement} row
 * @param {JobEntry} entry
 */
function update(row, entry) {
  const { status, preview } = entry;
  row.classList.toggle("running", status.state === "running");
  find(row, ".queued-state").textContent = describeState(entry);
  const bar = find(row, "progress", HTMLProgressElement);
  bar.hidden = status.state !== "running";
  bar.max = status.totalSteps || 1;
  bar.value = status.step ?? 0;
  bar.setAttribute("aria-label", `Steps of: ${entry.request.prompt.slice(0, 80)}`);
  find(row, ".cancel").toggleAttribute("disabled", entry.cancelling);
  const image = find(row, "img", HTMLImageElement);
  if (preview && image.src !== preview) {
    image.src = preview;
    image.hidden = false;
  }
}
