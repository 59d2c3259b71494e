// `<um-references>`: reference images, by drop, paste, file or from the gallery. Each is uploaded immediately.
import { UmrgenError } from "../src/index.js";
import { cloneTemplate, find, cloneElement, emit } from "./dom.js";
import { clearErrors, showError } from "./field_errors.js";
import { announce } from "./live_region.js";
import { errorText } from "./format.js";
import { JOB_TYPE } from "./image_drag.js";
import { resolvedUrl } from "./image_urls.js";
import { makeSortable } from "./sortable.js";

/** @import { Umrgen } from "../src/index.js" */

/** The most reference images of a request (contract, section 2). */
const MAX_REFERENCES = 10;

/** The reference images, in order. Emits `referencejob` with the id of a job whose image was dropped. */
export class ReferencePicker extends HTMLElement {
  /** @type {Umrgen | null} */
  #umrgen = null;
  /** Their names on the server, in order. @type {string[]} */
  #names = [];
  #uploads = 0;

  connectedCallback() {
    this.append(cloneTemplate("references"));
    const input = find(this, "#reference-file", HTMLInputElement);
    input.addEventListener("change", () => {
      this.#addFiles(input.files);
      input.value = "";
    });
    const drop = find(this, ".drop");
    for (const type of ["dragenter", "dragover"]) {
      drop.addEventListener(type, (event) => {
        event.preventDefault();
        drop.classList.add("over");
      });
    }
    makeSortable(this.#list, () => {
      this.#names = [...this.#list.children].map((item) => item.getAttribute("data-name") ?? "");
      this.#number();
      emit(this, "input");
    });
    for (const type of ["dragleave", "drop"]) drop.addEventListener(type, () => drop.classList.remove("over"));
    drop.addEventListener("drop", (event) => {
      event.preventDefault();
      const job = event.dataTransfer?.getData(JOB_TYPE);
      if (job) emit(this, "referencejob", job);
      else this.#addFiles(event.dataTransfer?.files);
    });
  }

  /**
   * Show the field, unless the engine does not support reference images.
   * @param {Umrgen} umrgen
   * @param {boolean} supported
   */
  open(umrgen, supported) {
    this.#umrgen = umrgen;
    this.hidden = !supported;
    if (!supported) this.value = [];
  }

  /** Add pasted images; pasted text is not handled here. @param {ClipboardEvent} event */
  paste(event) {
    const files = event.clipboardData?.files;
    if (this.hidden || !files?.length) return;
    event.preventDefault();
    this.#addFiles(files);
  }

  /** Whether an upload is in progress. */
  get busy() {
    return this.#uploads > 0;
  }

  /** The names on the server. @returns {string[]} */
  get value() {
    return [...this.#names];
  }

  set value(names) {
    this.#names = [];
    this.#list.replaceChildren();
    for (const name of names) this.#add(name);
    this.#list.hidden = !this.#names.length;
  }

  get #list() {
    return find(this, ".reference-list");
  }

  /**
   * Add an image of a job, which `load` downloads.
   * @param {string} name
   * @param {() => Promise<Blob>} load
   */
  async addLoaded(name, load) {
    clearErrors(this);
    if (this.#isFull()) return;
    const file = await this.#whileBusy(name, load);
    if (file) await this.#upload(new File([file], name, { type: file.type }));
  }

  /** Report when there is no place for a further reference. */
  #isFull() {
    const full = this.#names.length + this.#uploads >= MAX_REFERENCES;
    if (full) this.#showError(`An image can have at most ${MAX_REFERENCES} references.`);
    return full;
  }

  /** @param {FileList | null | undefined} files */
  async #addFiles(files) {
    clearErrors(this);
    for (const file of files ?? []) {
      if (this.#isFull()) return;
      await this.#upload(file);
    }
  }

  /** @param {File} file */
  async #upload(file) {
    const uploaded = await this.#whileBusy(file.name, () => /** @type {Umrgen} */ (this.#umrgen).uploadReference(file));
    if (!uploaded) return;
    const { filename, url } = uploaded;
    if (this.#names.includes(filename)) return announce(`${file.name} is a reference already.`);
    this.#add(filename, url, file.name);
    announce(`${file.name} was added as a reference.`);
    emit(this, "input");
  }

  /**
   * Return the result of `work`; undefined after an error, which is shown.
   * @template T
   * @param {string} name
   * @param {() => Promise<T>} work
   */
  async #whileBusy(name, work) {
    this.#uploads++;
    this.classList.add("busy");
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof UmrgenError)) throw error;
      this.#showError(`${name}: ${errorText(error)}.`);
    } finally {
      this.#uploads--;
      this.classList.toggle("busy", this.busy);
    }
  }

  /**
   * @param {string} name
   * @param {string} [url]
   * @param {string} [title]
   */
  #add(name, url, title = "a reference of an earlier image") {
    const item = cloneElement("reference");
    item.dataset.name = name;
    item.dataset.title = title;
    const image = find(item, "img", HTMLImageElement);
    image.alt = title;
    const address = url && resolvedUrl(this.#umrgen, url);
    if (address) image.src = address;
    else image.remove();
    const button = find(item, ".remove", HTMLButtonElement);
    button.setAttribute("aria-label", `Remove ${title}`);
    button.addEventListener("click", () => {
      this.#names = this.#names.filter((other) => other !== name);
      item.remove();
      this.#number();
      this.#list.hidden = !this.#names.length;
      find(this, "#reference-file").focus();
      emit(this, "input");
    });
    this.#names.push(name);
    this.#list.append(item);
    this.#list.hidden = false;
    this.#number();
  }

  /** Show the place of each reference: prompts refer to them by it. */
  #number() {
    const items = [...this.#list.children];
    items.forEach((item, index) => {
      const move = find(item, ".move");
      find(move, ".place").textContent = String(index + 1);
      const keys = items.length > 1 ? ". Move it with the arrow keys" : "";
      move.setAttribute("aria-label", `Reference ${index + 1} of ${items.length}: ${item.getAttribute("data-title")}${keys}`);
    });
  }

  /** @param {string} text */
  #showError(text) {
    showError(this, "references", text);
    announce(text);
  }
}
