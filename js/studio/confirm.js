// A question before an action that cannot be undone.
import { cloneElement, find } from "./dom.js";

/**
 * Ask the user; return whether the answer was yes.
 * @param {string} title
 * @param {string} text
 * @param {string} yes the name of the action
 * @returns {Promise<boolean>}
 */
export function confirmed(title, text, yes) {
  const dialog = /** @type {HTMLDialogElement} */ (cloneElement("confirm"));
  find(dialog, ".confirm-title").textContent = title;
  find(dialog, ".confirm-text").textContent = text;
  find(dialog, ".yes").textContent = yes;
  for (const [name, value] of [["yes", "yes"], ["no", ""]]) {
    find(dialog, `.${name}`).addEventListener("click", () => dialog.close(value));
  }
  document.body.append(dialog);
  dialog.showModal();
  find(dialog, ".no").focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
  });
}
