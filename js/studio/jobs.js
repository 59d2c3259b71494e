// The jobs this page knows, each with what was asked for and where it stands.
import { tell } from "./dom.js";

/** @import { Status } from "../src/status.js" */

/**
 * What was asked for, in the words of the API.
 * @typedef {object} Request
 * @property {string} prompt
 * @property {string} negative
 * @property {number} width
 * @property {number} height
 * @property {number} steps
 * @property {string[]} reference_images
 * @property {{name: string, strength: number}[]} loras
 */

/**
 * @typedef {object} Entry
 * @property {string} id
 * @property {Request} request
 * @property {Status} status
 * @property {number} createdAt
 * @property {string | null} preview the address of the latest small picture
 * @property {boolean} cancelling
 * @property {string} trouble what the person is to know about it
 */

/**
 * Tells `grown` and `past` of a job that was not known and is not, or is, over; `change` of news, `over` of an end,
 * and `gone`.
 */
export class Jobs extends EventTarget {
  /** @type {Map<string, Entry>} */
  #entries = new Map();

  /** @param {string} id */
  get(id) {
    return this.#entries.get(id);
  }

  /** Those that are not over: the running ones first, then as they were made. */
  get pending() {
    const rank = (/** @type {Entry} */ { status }) => (status.state === "running" ? 0 : 1);
    return [...this.#entries.values()]
      .filter(({ status }) => !status.over)
      .sort((one, other) => rank(one) - rank(other) || one.createdAt - other.createdAt);
  }

  /**
   * Take in what the server told. Only a list, or who has submitted it, knows what was asked for.
   * @param {Status} status
   * @param {Request} [request]
   */
  learn(status, request = requestIn(status)) {
    const known = this.#entries.get(status.jobId);
    if (!known) {
      if (!request) return;
      const { jobId: id, raw } = status;
      const createdAt = raw.created_at ?? Date.now();
      const entry = { id, request, status, createdAt, preview: null, cancelling: false, trouble: "" };
      this.#entries.set(id, entry);
      tell(this, status.over ? "past" : "grown", entry);
      return;
    }
    if (known.status.over) return; // whatever comes later is older
    // An answer for many has no places: the place that is known stays, as long as the job is queued.
    const { queuePosition, etaSeconds, state } = known.status;
    const same = status.state === state && status.queuePosition === null;
    known.status = same && state === "queued" ? { ...status, queuePosition, etaSeconds } : status;
    if (typeof status.raw.created_at === "number") known.createdAt = status.raw.created_at;
    tell(this, status.over ? "over" : "change", known);
  }

  /**
   * A step, between two changes of state.
   * @param {string} id
   * @param {{step: number, total: number, eta_seconds: number | null}} told
   */
  step(id, { step, total, eta_seconds: etaSeconds }) {
    const entry = this.#entries.get(id);
    if (!entry || entry.status.over) return;
    entry.status = { ...entry.status, step, totalSteps: total, etaSeconds };
    tell(this, "change", entry);
  }

  /**
   * @param {string} id
   * @param {Partial<Entry>} news
   */
  note(id, news) {
    const entry = this.#entries.get(id);
    if (entry) tell(this, "change", Object.assign(entry, news));
  }

  /**
   * The server does not know it any more.
   * @param {string} id
   */
  forget(id) {
    const entry = this.#entries.get(id);
    if (this.#entries.delete(id)) tell(this, "gone", entry);
  }
}

/**
 * @param {Status} status
 * @returns {Request | undefined}
 */
function requestIn({ raw }) {
  return raw.request && { ...raw.request, prompt: raw.prompt };
}
