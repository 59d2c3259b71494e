// `<um-verifier>`: the dialog that verifies an image file. Emits `verifiedjob` with the id of its job, and `failed` with an
// error that the page handles.
import { InvalidRequest, UmrgenError } from "../src/index.js";
import { cloneTemplate, element, emit, find } from "./dom.js";
import { addFileDrop } from "./file_drop.js";
import { errorText } from "./format.js";
import { announce } from "./live_region.js";
import { verdictOf } from "./verification.js";

/** @import { Umrgen } from "../src/index.js" */
/** @import { Verdict } from "./verification.js" */

/** Pixels of the longer side of the shown image. */
const SHOWN = 320;
const ANOTHER_FILE = "Choose a complete PNG, JPEG or WebP file of at most 10 MiB.";

/** The dialog that verifies an image file. */
export class Verifier extends HTMLElement {
  /** @type {Umrgen | null} */
  #umrgen = null;
  /** Ends the verification in progress. */
  #current = new AbortController();
  /** @type {string | null} */
  #jobId = null;

  connectedCallback() {
    this.append(cloneTemplate("verifier"));
    find(this, ".close").addEventListener("click", () => this.#dialog.close());
    this.#dialog.addEventListener("click", (event) => event.target === this.#dialog && this.#dialog.close());
    this.#dialog.addEventListener("close", () => this.#current.abort());
    const input = find(this, "#verify-file", HTMLInputElement);
    input.addEventListener("change", () => {
      if (input.files?.[0]) this.verify(input.files[0]);
      input.value = "";
    });
    find(this, ".open-job").addEventListener("click", () => {
      this.#dialog.close();
      emit(this, "verifiedjob", this.#jobId);
    });
  }

  /**
   * Verify files that are dropped on the page, but not on the form, which reads their settings.
   * @param {Umrgen} umrgen
   */
  open(umrgen) {
    this.#umrgen = umrgen;
    addFileDrop(document.body, "um-composer", (file) => this.verify(file));
  }

  /** Show the dialog without a result. */
  show() {
    this.#reset();
    this.#dialog.showModal();
    find(this, "#verify-file").focus();
  }

  /** Verify a file and show the result. @param {File} file */
  async verify(file) {
    this.#reset();
    if (!this.#dialog.open) this.#dialog.showModal();
    const { signal } = this.#current;
    find(this, ".verify-state").textContent = `Verifying ${file.name}…`;
    this.setAttribute("aria-busy", "true");
    this.#preview(file, signal);
    try {
      const verdict = await verdictOf(/** @type {Umrgen} */ (this.#umrgen), file, signal);
      if (!signal.aborted) this.#showVerdict(file, verdict);
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof UmrgenError)) throw error;
      this.#showError(file, error);
      emit(this, "failed", error);
    } finally {
      if (!signal.aborted) this.setAttribute("aria-busy", "false");
    }
  }

  // --- private ---

  get #dialog() {
    return find(this, "dialog", HTMLDialogElement);
  }

  #reset() {
    this.#current.abort();
    this.#current = new AbortController();
    this.#jobId = null;
    for (const name of [".verify-state", ".verify-error", ".verify-title", ".verify-note"]) find(this, name).textContent = "";
    find(this, ".verify-facts").replaceChildren();
    for (const name of [".verify-result", ".verify-image", ".open-job"]) find(this, name).hidden = true;
  }

  /**
   * @param {File} file
   * @param {Verdict} verdict
   */
  #showVerdict(file, { title, known, facts, note, jobId }) {
    find(this, ".verify-state").textContent = file.name;
    find(this, ".verify-title").textContent = title;
    find(this, ".verify-result").classList.toggle("known", known);
    const rows = facts.flatMap(([name, value]) => [element("dt", name), element("dd", value)]);
    find(this, ".verify-facts").replaceChildren(...rows);
    find(this, ".verify-note").textContent = note;
    this.#jobId = jobId;
    find(this, ".open-job").hidden = !jobId;
    find(this, ".verify-result").hidden = false;
    announce(`${title}. ${note}`);
  }

  /**
   * @param {File} file
   * @param {UmrgenError} error
   */
  #showError(file, error) {
    const advice = error instanceof InvalidRequest ? ANOTHER_FILE : error.next;
    find(this, ".verify-image").hidden = true;
    find(this, ".verify-state").textContent = file.name;
    find(this, ".verify-error").textContent = `${errorText(error)}. ${advice}`; // announced: it is an alert
  }

  /**
   * Show the image. The policy of the page allows no `blob:` address, so it is drawn on a canvas.
   * @param {File} file
   * @param {AbortSignal} signal
   */
  async #preview(file, signal) {
    const canvas = find(this, ".verify-image", HTMLCanvasElement);
    const image = await createImageBitmap(file, { resizeWidth: SHOWN, resizeQuality: "medium" }).catch(() => null);
    if (!image || signal.aborted) return;
    [canvas.width, canvas.height] = [image.width, image.height];
    canvas.getContext("2d")?.drawImage(image, 0, 0);
    canvas.setAttribute("aria-label", file.name);
    canvas.hidden = !!find(this, ".verify-error").textContent;
    image.close();
  }
}
