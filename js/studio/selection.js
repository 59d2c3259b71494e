// The selected tiles of the gallery.
import { emit } from "./dom.js";

/** @import { JobEntry } from "./jobs.js" */

/** The selected jobs. Emits `change`. */
export class Selection extends EventTarget {
  /** @type {Map<string, JobEntry>} */
  #entries = new Map();
  #last = "";
  #active = false;

  /** Whether a click on a tile selects it. */
  get active() {
    return this.#active;
  }

  get entries() {
    return [...this.#entries.values()];
  }

  /** @param {string} id */
  has(id) {
    return this.#entries.has(id);
  }

  start() {
    this.#active = true;
    emit(this, "change");
  }

  end() {
    this.#active = false;
    this.#entries.clear();
    this.#last = "";
    emit(this, "change");
  }

  /** Select an entry, or remove it from the selection. @param {JobEntry} entry */
  toggle(entry) {
    this.#active = true;
    if (!this.#entries.delete(entry.id)) this.#entries.set(entry.id, entry);
    this.#last = entry.id;
    emit(this, "change");
  }

  /**
   * Select all entries from the last one that was selected to this one.
   * @param {JobEntry[]} all in their order
   * @param {JobEntry} entry
   */
  extend(all, entry) {
    const ends = [all.findIndex(({ id }) => id === this.#last), all.indexOf(entry)].sort((one, other) => one - other);
    if (ends[0] < 0) return this.toggle(entry);
    this.#active = true;
    for (const other of all.slice(ends[0], ends[1] + 1)) this.#entries.set(other.id, other);
    this.#last = entry.id;
    emit(this, "change");
  }

  /** Select all of these entries. @param {JobEntry[]} entries */
  add(entries) {
    for (const entry of entries) this.#entries.set(entry.id, entry);
    emit(this, "change");
  }

  /** Remove a job that no longer exists. @param {string} id */
  remove(id) {
    if (this.#entries.delete(id)) emit(this, "change");
  }
}
