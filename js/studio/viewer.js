// `<um-viewer>`: a dialog with one image and its parameters. Emits the actions of ACTIONS and HANDLED, `moved` to another
// image, `closed` by the user, and `left` when an action closed it.
import { UmrgenError } from "../src/index.js";
import { CodeSample } from "./code_sample.js";
import { cloneTemplate, element, find, setIcon, emit } from "./dom.js";
import { factsOf } from "./facts.js";
import { featuresOf } from "./features.js";
import { describeEnd, errorText } from "./format.js";
import { makeDraggable } from "./image_drag.js";
import { downloadImage } from "./image_download.js";
import { canCopyImages, canShare, copyImage, copyLink, share } from "./image_sharing.js";
import { ImageStage } from "./image_stage.js";
import { imageUrlOf } from "./image_urls.js";
import { announce } from "./live_region.js";

/** @import { Umrgen } from "../src/index.js" */
/** @import { Gallery } from "./gallery.js" */
/** @import { JobEntry } from "./jobs.js" */

/** Actions that close the dialog. */
const ACTIONS = ["retry", "reuse", "seed", "variations", "reference"];
/** Actions that keep it open. */
const HANDLED = ["favorite", "delete"];

/** The outputs of an image; each returns a message. @type {Record<string, [busy: string, work: (umrgen: Umrgen, entry: JobEntry) => Promise<string>]>} */
const OUTPUTS = {
  download: ["Downloading…", downloadImage],
  "copy-image": ["Copying…", copyImage],
  "copy-link": ["Copying…", copyLink],
  share: ["Sharing…", share],
};

/** A dialog with one image. */
export class Viewer extends HTMLElement {
  /** @type {JobEntry | null} */
  #entry = null;
  /** The job whose image could not be loaded: its address is requested once. @type {JobEntry | null} */
  #reloaded = null;
  /** Whether another element gets the focus when the dialog closes. */
  #keepFocus = false;
  #opened = { umrgen: /** @type {Umrgen | null} */ (null), gallery: /** @type {Gallery | null} */ (null) };

  connectedCallback() {
    this.append(cloneTemplate("viewer"));
    const dialog = this.#dialog;
    dialog.addEventListener("close", () => emit(this, this.#keepFocus ? "left" : "closed", this.#entry));
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    dialog.addEventListener("keydown", (event) => this.#key(event));
    find(this, ".close").addEventListener("click", () => dialog.close());
    find(this, ".previous").addEventListener("click", () => this.#go(-1));
    find(this, ".next").addEventListener("click", () => this.#go(1));
    find(this, ".zoom").addEventListener("click", () => this.#stage.toggle());
    this.#stage.addEventListener("swipe", (event) => this.#go(/** @type {CustomEvent<number>} */ (event).detail));
    this.#stage.addEventListener("zoom", () => this.#showZoom());
    this.#stage.image.addEventListener("error", () => this.#reload());
    makeDraggable(this.#stage.image, () => {
      const url = this.#entry && imageUrlOf(this.#opened.umrgen, this.#entry);
      return this.#entry && url ? { entry: this.#entry, url } : null;
    });
    for (const name of Object.keys(OUTPUTS)) find(this, `.${name}`).addEventListener("click", () => this.#output(name));
    for (const action of ACTIONS) find(this, `[data-act=${action}]`).addEventListener("click", () => this.#act(action));
    for (const action of HANDLED) find(this, `.${action}`).addEventListener("click", () => emit(this, action, this.#entry));
    find(this, ".copy-image").hidden = !canCopyImages();
    find(this, ".copy-link").hidden = !navigator.clipboard;
    find(this, ".share").hidden = !canShare();
  }

  /**
   * Set the client and the gallery.
   * @param {Umrgen} umrgen
   * @param {Gallery} gallery
   * @param {Record<string, any>} capabilities
   */
  open(umrgen, gallery, capabilities) {
    const { favorites, deletion } = featuresOf(capabilities);
    this.#opened = { umrgen, gallery };
    find(this, ".favorite").hidden = !favorites;
    find(this, ".delete").hidden = !deletion;
    find(this, "[data-act=reference]").hidden = !capabilities.engine.features.includes("references");
  }

  /** Show a job. @param {JobEntry} entry */
  show(entry) {
    this.#entry = entry;
    this.#reloaded = null;
    this.#keepFocus = false;
    this.#fill(entry);
    if (!this.#dialog.open) this.#dialog.showModal();
    find(this, "#viewer-prompt").focus({ preventScroll: true });
    this.#dialog.scrollTop = 0;
    this.#updateButtons(entry);
  }

  /** Show another job after the shown one was deleted, or close the dialog. @param {JobEntry} [entry] */
  showNext(entry) {
    if (!entry) return this.close();
    this.show(entry);
    emit(this, "moved", entry);
  }

  /** Show a changed job, if it is the shown one. @param {JobEntry} entry */
  update(entry) {
    if (this.#entry === entry) this.#showFavorite(entry);
  }

  /** Close the dialog. */
  close() {
    if (this.#dialog.open) this.#dialog.close();
  }

  /** @param {UmrgenError} error */
  showError(error) {
    find(this, ".viewer-error").textContent = messageOf(error);
  }

  // --- private ---

  get #dialog() {
    return find(this, "dialog", HTMLDialogElement);
  }

  get #stage() {
    return find(this, "um-image-stage", ImageStage);
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    // In a group of radio buttons, the arrow keys change the choice; on a zoomed image, they move it.
    if (event.target instanceof HTMLInputElement || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "z") return this.#stage.toggle();
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || this.#stage.zoomed) return;
    event.preventDefault();
    this.#go(step);
  }

  /** @param {number} step */
  async #go(step) {
    const entry = this.#entry && (await this.#opened.gallery?.adjacent(this.#entry, step));
    if (!entry) return announce(step < 0 ? "This is the newest." : "This is the oldest.");
    this.show(entry);
    emit(this, "moved", entry);
  }

  /** Close the dialog for an action that continues elsewhere. @param {string} action */
  #act(action) {
    const entry = this.#entry;
    this.#keepFocus = true;
    this.#dialog.close();
    emit(this, action, entry);
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
    const { image } = this.#stage;
    this.#stage.zoomed = false;
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
    for (const part of this.querySelectorAll(".needs-image")) part.toggleAttribute("inert", !url);
    this.#dialog.classList.toggle("without-image", !url);
    find(this, ".viewer-error").textContent = find(this, ".viewer-note").textContent = "";
    find(this, "#viewer-prompt").textContent = request.prompt;
    const rows = factsOf(entry).flatMap(([name, value]) => [element("dt", name), element("dd", value)]);
    find(this, ".facts").replaceChildren(...rows);
    find(this, "um-code-sample", CodeSample).open(this.#opened.umrgen?.baseUrl ?? "", entry);
    find(this, ".viewer-side").scrollTop = 0;
    this.#showFavorite(entry);
  }

  /** Get a new address of an image that could not be loaded: it may have expired. */
  async #reload() {
    const [entry, { umrgen }] = [this.#entry, this.#opened];
    if (!entry || !umrgen) return;
    const failed = (/** @type {string} */ text) => (find(this, ".viewer-error").textContent = text);
    if (this.#reloaded === entry) return failed("The image cannot be loaded. Try again later, or download it.");
    this.#reloaded = entry;
    try {
      entry.status = await umrgen.job(entry.id).status();
      if (this.#entry === entry) this.#fill(entry);
    } catch (error) {
      if (!(error instanceof UmrgenError)) throw error;
      if (this.#entry === entry) this.showError(error);
    }
  }

  /** @param {JobEntry} entry */
  #showFavorite({ status }) {
    find(this, ".favorite").setAttribute("aria-pressed", String(!!status.raw.favorite));
  }

  #showZoom() {
    const { zoomed } = this.#stage;
    const zoom = find(this, ".zoom");
    zoom.setAttribute("aria-pressed", String(zoomed));
    zoom.title = zoomed ? "Fit to the window (z)" : "Show at 100 % (z)";
  }

  /** Run an output of the image, and show its progress in its button. @param {string} name */
  async #output(name) {
    const [entry, button] = [this.#entry, find(this, `.${name}`, HTMLButtonElement)];
    const label = find(button, ".label");
    const { umrgen } = this.#opened;
    if (!entry || !umrgen || button.disabled) return;
    const [busy, work] = OUTPUTS[name];
    const note = find(this, ".viewer-note");
    const plain = label.textContent;
    button.disabled = true;
    label.textContent = busy;
    find(this, ".viewer-error").textContent = "";
    try {
      const done = await work(umrgen, entry);
      announce(done);
      if (this.#entry === entry) note.textContent = done;
    } catch (error) {
      if (!(error instanceof UmrgenError) && !(error instanceof DOMException)) throw error;
      const isRefused = error instanceof DOMException;
      const text = isRefused ? "The browser does not allow this. Download the image instead." : messageOf(error);
      if (this.#entry === entry) find(this, ".viewer-error").textContent = text;
      else announce(text); // another image is shown now
    } finally {
      button.disabled = false;
      label.textContent = plain;
    }
  }
}

/** @param {UmrgenError} error */
function messageOf(error) {
  return `${errorText(error)}. ${error.next}`;
}
