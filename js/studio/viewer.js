// `<um-viewer>`: a dialog with one image and its parameters. Emits `reuse`, `seed`, `retry` and `closed`.
import { UmrgenError } from "../src/index.js";
import { cloneTemplate, element, find, setIcon, emit } from "./dom.js";
import { imageUrlOf } from "./gallery.js";
import { announce } from "./live_region.js";
import { downloadImage } from "./image_download.js";
import { CodeSample } from "./code_sample.js";
import { date, describeEnd, errorText, exactDuration } from "./format.js";

/** @import { Umrgen } from "../src/index.js" */
/** @import { Gallery } from "./gallery.js" */
/** @import { JobEntry } from "./jobs.js" */

/** A dialog with one image. */
export class Viewer extends HTMLElement {
  /** @type {JobEntry | null} */
  #entry = null;
  /** Whether another element gets the focus when the dialog closes. */
  #keepFocus = false;
  #opened = { umrgen: /** @type {Umrgen | null} */ (null), gallery: /** @type {Gallery | null} */ (null) };

  connectedCallback() {
    this.append(cloneTemplate("viewer"));
    const dialog = this.#dialog;
    dialog.addEventListener("close", () => this.#keepFocus || emit(this, "closed", this.#entry));
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    dialog.addEventListener("keydown", (event) => this.#key(event));
    find(this, ".close").addEventListener("click", () => dialog.close());
    find(this, ".previous").addEventListener("click", () => this.#go(-1));
    find(this, ".next").addEventListener("click", () => this.#go(1));
    find(this, ".download").addEventListener("click", () => this.#download());
    for (const [button, type] of [["retry", "retry"], ["reuse", "reuse"], ["use-seed", "seed"]]) {
      find(this, `.${button}`).addEventListener("click", () => {
        const entry = this.#entry;
        this.#keepFocus = true;
        dialog.close();
        emit(this, type, entry);
      });
    }
  }

  get #dialog() {
    return find(this, "dialog", HTMLDialogElement);
  }

  /**
   * Set the client and the gallery.
   * @param {Umrgen} umrgen
   * @param {Gallery} gallery
   */
  open(umrgen, gallery) {
    this.#opened = { umrgen, gallery };
  }

  /** Show a job. @param {JobEntry} entry */
  show(entry) {
    this.#entry = entry;
    this.#keepFocus = false;
    this.#fill(entry);
    if (!this.#dialog.open) this.#dialog.showModal();
    find(this, "#viewer-prompt").focus({ preventScroll: true });
    this.#dialog.scrollTop = 0;
    this.#updateButtons(entry);
  }

  /** Close the dialog. */
  close() {
    if (this.#dialog.open) this.#dialog.close();
  }

  // --- private ---

  /** @param {KeyboardEvent} event */
  #key(event) {
    // In a group of radio buttons, the arrow keys change the choice.
    if (event.target instanceof HTMLInputElement || event.altKey || event.ctrlKey || event.metaKey) return;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    this.#go(step);
  }

  /** @param {number} step */
  async #go(step) {
    const entry = this.#entry && (await this.#opened.gallery?.adjacent(this.#entry, step));
    if (!entry) return announce(step < 0 ? "This is the newest." : "This is the oldest.");
    this.show(entry);
  }

  /** @param {JobEntry} entry */
  async #updateButtons(entry) {
    const { gallery } = this.#opened;
    for (const [button, step] of /** @type {[string, number][]} */ ([[".previous", -1], [".next", 1]])) {
      const adjacent = await gallery?.adjacent(entry, step);
      if (this.#entry !== entry) return;
      find(this, button).toggleAttribute("disabled", !adjacent);
    }
  }

  /** @param {JobEntry} entry */
  #fill(entry) {
    const { request, status } = entry;
    const url = imageUrlOf(this.#opened.umrgen, entry);
    const image = find(this, "img", HTMLImageElement);
    image.hidden = !url;
    image.removeAttribute("src"); // so that the previous image is not shown while this one loads
    image.width = request.width;
    image.height = request.height;
    image.alt = request.prompt;
    if (url) image.src = url;
    const failed = find(this, ".viewer-failed");
    failed.hidden = !!url;
    if (!url) {
      const { title, reason, remedy } = describeEnd(entry);
      setIcon(failed, status.errorCode === "cancelled" ? "stopped" : "failed");
      find(this, ".viewer-why").textContent = reason ? `${title}: ${reason}` : title;
      find(this, ".viewer-remedy").textContent = remedy;
    }
    find(this, ".download").hidden = !url;
    find(this, ".viewer-error").textContent = "";
    find(this, "#viewer-prompt").textContent = request.prompt;
    const rows = facts(entry).flatMap(([name, value]) => [element("dt", name), element("dd", value)]);
    find(this, ".facts").replaceChildren(...rows);
    find(this, "um-code-sample", CodeSample).open(this.#opened.umrgen?.baseUrl ?? "", entry);
    find(this, ".viewer-side").scrollTop = 0;
  }

  async #download() {
    const [entry, button] = [this.#entry, find(this, ".download", HTMLButtonElement)];
    const { umrgen } = this.#opened;
    if (!entry || !umrgen) return;
    button.disabled = true;
    button.textContent = "Downloading…";
    try {
      await downloadImage(umrgen, entry);
      announce("Saved.");
    } catch (error) {
      if (!(error instanceof UmrgenError)) throw error;
      find(this, ".viewer-error").textContent = `${errorText(error)}. ${error.next}`;
    } finally {
      button.disabled = false;
      button.textContent = "Download";
    }
  }
}

/**
 * Return the parameters and times of a job.
 * @param {JobEntry} entry
 * @returns {[name: string, value: string][]}
 */
function facts({ request, status, createdAt }) {
  const { started_at: started, completed_at: ended } = status.raw;
  /** @type {[string, string | null | undefined | false][]} */
  const all = [
    ["Negative prompt", request.negative],
    ["Size", `${request.width} × ${request.height}`],
    ["Steps", String(request.steps)],
    ["Model", request.model],
    ["Guidance", request.cfg == null ? null : String(request.cfg)],
    ["LoRAs", request.loras.map(({ name, strength }) => `${name} (${strength})`).join(", ")],
    ["Seed", status.seed === null ? null : String(status.seed)],
    ["References", request.reference_images.length > 0 && String(request.reference_images.length)],
    ["Engine", status.engine],
    ["Created", date(createdAt)],
    ["Duration", status.state === "completed" && started && ended ? exactDuration((ended - started) / 1000) : null],
  ];
  return /** @type {[string, string][]} */ (all.filter(([, value]) => value));
}
