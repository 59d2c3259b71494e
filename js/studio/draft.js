// What stands in the form, kept for this tab: a reload takes nothing away.

const NAME = "umrgen-draft";

/** @typedef {{prompt: string, negative: string, width: number, height: number, steps: number, seed: string, count: number}} Draft */

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
