// The form's content, stored for this tab, so that a reload does not lose it.
import { store, stored } from "./storage.js";

const NAME = "umrgen-draft";

/**
 * @typedef {object} Draft
 * @property {string} prompt
 * @property {string} negative
 * @property {number} width
 * @property {number} height
 * @property {number} steps
 * @property {string} seed
 * @property {number} count
 * @property {string | null} model
 * @property {number | null} cfg
 * @property {{name: string, strength: number}[]} loras
 */

/** Return the stored content. @returns {Partial<Draft>} */
export function readDraft() {
  try {
    return JSON.parse(stored("sessionStorage", NAME) ?? "{}");
  } catch {
    return {};
  }
}

/** Store the content. @param {Draft} draft */
export function saveDraft(draft) {
  store("sessionStorage", NAME, JSON.stringify(draft));
}

/** Remove the stored content. */
export function removeDraft() {
  store("sessionStorage", NAME, null);
}
