// System notifications of finished jobs, while the tab is hidden. The permission is requested on a click only.
import { describeEnd } from "./format.js";
import { emit } from "./dom.js";

/** @import { JobEntry, Jobs } from "./jobs.js" */

/** System notifications. Emits `change` when the permission was granted or refused. */
export class Notifications extends EventTarget {
  #open;

  /**
   * @param {Jobs} jobs
   * @param {(entry: JobEntry) => unknown} open called when a notification is clicked
   */
  constructor(jobs, open) {
    super();
    this.#open = open;
    jobs.addEventListener("finished", (event) => this.#notify(/** @type {CustomEvent<JobEntry>} */ (event).detail));
  }

  /** Whether the permission can be requested: only where there are notifications, and no decision yet. */
  get requestable() {
    return "Notification" in globalThis && isSecureContext && Notification.permission === "default";
  }

  async request() {
    await Notification.requestPermission();
    emit(this, "change");
  }

  /** @param {JobEntry} entry */
  async #notify(entry) {
    if (!document.hidden || !("Notification" in globalThis) || Notification.permission !== "granted") return;
    const title = entry.status.state === "completed" ? "The image is finished" : describeEnd(entry).title;
    const options = { body: entry.request.prompt.slice(0, 120), tag: entry.id, data: { job: entry.id } };
    try {
      const notification = new Notification(title, options);
      notification.addEventListener("click", () => {
        window.focus();
        notification.close();
        this.#open(entry);
      });
    } catch {
      // Chrome on Android allows notifications of service workers only.
      const worker = await navigator.serviceWorker?.getRegistration();
      await worker?.showNotification(title, options);
    }
  }
}
