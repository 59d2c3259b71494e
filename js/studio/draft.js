// What stands in the form, kept for this tab: a reload takes nothing away.

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
 */

/** @returns {Partial<Draft>} */
export function readDraft() {
  try {
    return JSON.parse(sessionStorage.getItem(NAME) ?? "{}");
  } catch {
    return {};
  }
}

/** @param {Draft} draft */
export function keepDraft(draft) {
  sessionStorage.setItem(NAME, JSON.stringify(draft));
}

export function forgetDraft() {
  sessionStorage.removeItem(NAME);
}
