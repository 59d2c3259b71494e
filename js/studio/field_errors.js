// The error messages of form fields.
import { find } from "./dom.js";
import { errorText, sentence } from "./format.js";

/** The form field for a field of the API. @type {Record<string, string>} */
const FORM_FIELDS = { reference_images: "references", file: "references" };

/** Remove all errors. @param {Element} form */
export function clearErrors(form) {
  for (const note of form.querySelectorAll(".error")) note.textContent = "";
  for (const input of form.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
}

/**
 * Show an error at its field.
 * @param {Element} form
 * @param {string} field
 * @param {string} text
 * @returns {boolean} whether there is such a field
 */
export function showError(form, field, text) {
  const name = FORM_FIELDS[field] ?? field;
  const note = form.querySelector(`#${CSS.escape(name)}-error`);
  if (!note) return false;
  note.textContent = text;
  form.querySelector(`[aria-describedby="${CSS.escape(note.id)}"]`)?.setAttribute("aria-invalid", "true");
  return true;
}

/** Focus the first field with an error. @param {Element} form */
export function focusFirstError(form) {
  const invalid = form.querySelector("[aria-invalid]");
  if (invalid instanceof HTMLElement) invalid.focus();
}

/**
 * Show an error of the server. It lists the errors of fields as `width: must be …; steps: …`; any other error is shown
 * above the button.
 * @param {Element} form
 * @param {Error & {code?: string, next?: string}} error
 */
export function showServerError(form, error) {
  const text = errorText(error);
  let shown = false;
  if (error.code === "content_policy") shown = showError(form, "prompt", text);
  if (error.code === "invalid_request") {
    for (const part of text.split(/; (?=\w+: )/)) {
      const [, field, message] = /^(\w+): (.+)$/s.exec(part) ?? [];
      if (field) shown = showError(form, field.toLowerCase(), `${sentence(message)}.`) || shown;
    }
  }
  if (shown) return focusFirstError(form);
  find(form, ".form-error").textContent = `${text}. ${error.next ?? ""}`.trim();
}
