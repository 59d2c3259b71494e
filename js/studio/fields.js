// Errors beside the fields they are about.
import { find } from "./dom.js";
import { plain, sentence } from "./words.js";

/** Where an error of a field of the API is shown. @type {Record<string, string>} */
const PLACES = { reference_images: "references", file: "references" };

/** @param {Element} form */
export function clearErrors(form) {
  for (const note of form.querySelectorAll(".error")) note.textContent = "";
  for (const input of form.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
}

/**
 * @param {Element} form
 * @param {string} field
 * @param {string} words
 * @returns {boolean} whether there is such a field
 */
export function showError(form, field, words) {
  const name = PLACES[field] ?? field;
  const note = form.querySelector(`#${CSS.escape(name)}-error`);
  if (!note) return false;
  note.textContent = words;
  form.querySelector(`[aria-describedby="${CSS.escape(note.id)}"]`)?.setAttribute("aria-invalid", "true");
  return true;
}

/** The first field with an error gets the focus. @param {Element} form */
export function focusFirstError(form) {
  const wrong = form.querySelector("[aria-invalid]");
  if (wrong instanceof HTMLElement) wrong.focus();
}

/**
 * Put a refusal where it belongs: the server names every field with its error, `width: must be …; steps: …`.
 * What has no field of its own stands above the button.
 * @param {Element} form
 * @param {Error & {code?: string, next?: string}} error
 */
export function showRefusal(form, error) {
  const words = plain(error);
  let placed = false;
  if (error.code === "content_policy") placed = showError(form, "prompt", words);
  if (error.code === "invalid_request") {
    for (const part of words.split(/; (?=\w+: )/)) {
      const [, field, told] = /^(\w+): (.+)$/s.exec(part) ?? [];
      if (field) placed = showError(form, field.toLowerCase(), `${sentence(told)}.`) || placed;
    }
  }
  if (placed) return focusFirstError(form);
  find(form, ".form-error").textContent = `${words}. ${error.next ?? ""}`.trim();
}
