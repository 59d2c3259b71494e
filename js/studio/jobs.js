// The jobs of the page, each with its request and status.
import { emit } from "./dom.js";

/** @import { Status } from "../src/status.js" */

/**
 * The request of a job, with the field names of the API.
 * @typedef {object} Request
 * @property {string} prompt
 * @property {string} negative
 * @property {number} width
 * @property {number} height
 * @property {number} steps
 * @property {string[]} reference_images
 * @property {{name: string, strength: number}[]} loras
 * @property {string | null} [model]
 * @property {number | null} [cfg]
 */

/**
 * @typedef {object} JobEntry
 * @property {string} id
 * @property {Request} request
 * @property {Status} status
 * @property {number} createdAt
 * @property {string | null} preview the URL of the latest preview
 * @property {boolean} cancelling
 * @property {string} problem an error message for the user
 */

/**
 * The jobs, by id. Emits `added` and `addedFinished` for a new entry, `change`, `finished` and `removed`.
 */
export class Jobs extends EventTarget {
  /** @type {Map<string, JobEntry>} */
  #entries = new Map();
  /** The ids of removed jobs: a list that was requested before a removal still has the job. @type {Set<string>} */
  #removed = new Set();

  /** Return an entry. @param {string} id */
  get(id) {
    return this.#entries.get(id);
  }

  /** The entries that are not over: running ones first, then by age. */
  get pending() {
    const rank = (/** @type {JobEntry} */ { status }) => (status.state === "running" ? 0 : 1);
    return [...this.#entries.values()]
      .filter(({ status }) => !status.over)
      .sort((one, other) => rank(one) - rank(other) || one.createdAt - other.createdAt);
  }

  /** Return the latest prompts, each once. @param {number} limit */
  prompts(limit) {
    const newest = [...this.#entries.values()].sort((one, other) => other.createdAt - one.createdAt);
    return [...new Set(newest.map(({ request }) => request.prompt))].filter(Boolean).slice(0, limit);
  }

  /**
   * Store a status. The request of a new entry is in `request`, or in the status of a list.
   * @param {Status} status
   * @param {Request} [request]
   */
  update(status, request = requestIn(status)) {
    const known = this.#entries.get(status.jobId);
    if (this.#removed.has(status.jobId)) return;
    if (!known) {
      if (!request) return;
      const { jobId: id, raw } = status;
      const createdAt = raw.created_at ?? Date.now();
      const entry = { id, request, status, createdAt, preview: null, cancelling: false, problem: "" };
      this.#entries.set(id, entry);
      emit(this, status.over ? "addedFinished" : "added", entry);
      return;
    }
    if (known.status.over) return; // a status that arrives after the end is older
    // A batch response has no queue positions: keep the known one while the job is queued.
    const { queuePosition, etaSeconds, state } = known.status;
    const same = status.state === state && status.queuePosition === null;
    known.status = same && state === "queued" ? { ...status, queuePosition, etaSeconds } : status;
    if (status.over) known.preview = null; // previews of a long session would fill the memory
    if (typeof status.raw.created_at === "number") known.createdAt = status.raw.created_at;
    emit(this, status.over ? "finished" : "change", known);
  }

  /**
   * Store a step of a running job.
   * @param {string} id
   * @param {{step: number, total: number, eta_seconds: number | null}} progress
   */
  step(id, { step, total, eta_seconds: etaSeconds }) {
    const entry = this.#entries.get(id);
    if (!entry || entry.status.over) return;
    entry.status = { ...entry.status, step, totalSteps: total, etaSeconds };
    emit(this, "change", entry);
  }

  /**
   * Change properties of an entry.
   * @param {string} id
   * @param {Partial<JobEntry>} changes
   */
  patch(id, changes) {
    const entry = this.#entries.get(id);
    if (entry) emit(this, "change", Object.assign(entry, changes));
  }

  /**
   * Remove an entry that the server no longer has.
   * @param {string} id
   */
  remove(id) {
    const entry = this.#entries.get(id);
    this.#removed.add(id);
    if (this.#entries.delete(id)) emit(this, "removed", entry);
  }
}

/**
 * @param {Status} status
 * @returns {Request | undefined}
 */
function requestIn({ raw }) {
  return raw.request && { ...raw.request, prompt: raw.prompt };
}
