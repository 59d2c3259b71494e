// `<um-references>`: reference images, by drop, paste or file. Each is uploaded immediately.
import { cloneTemplate, find, cloneElement, emit } from "./dom.js";
import { clearErrors, showError } from "./field_errors.js";
import { announce } from "./live_region.js";
import { errorText } from "./format.js";

/** @import { Umrgen } from "../src/index.js" */

/** The most reference images of a request (contract, section 2). */
const MAX_REFERENCES = 10;

/** The reference images. */
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
    for (const type of ["dragleave", "drop"]) drop.addEventListener(type, () => drop.classList.remove("over"));
    drop.addEventListener("drop", (event) => {
      event.preventDefault();
      this.#addFiles(event.dataTransfer?.files);
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

  /** @param {FileList | null | undefined} files */
  async #addFiles(files) {
    clearErrors(this);
    for (const file of files ?? []) {
      if (this.#names.length >= MAX_REFERENCES) return this.#showError(`An image can have at most ${MAX_REFERENCES} references.`);
      await this.#upload(file);
    }
  }

  /** @param {File} file */
  async #upload(file) {
    this.#uploads++;
    this.classList.add("busy");
    try {
      const { filename, url } = await /** @type {Umrgen} */ (this.#umrgen).uploadReference(file);
      // The server gives the same image the same name.
      if (this.#names.includes(filename)) return announce(`${file.name} is a reference already.`);
      this.#add(filename, url, file.name);
      announce(`${file.name} was added as a reference.`);
      emit(this, "input");
    } catch (error) {
      this.#showError(`${file.name}: ${errorText(/** @type {Error} */ (error))}.`);
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
    const image = find(item, "img", HTMLImageElement);
    image.alt = title;
    if (url) image.src = this.#umrgen?.baseUrl + url;
    else image.remove();
    const button = find(item, "button", HTMLButtonElement);
    button.setAttribute("aria-label", `Remove ${title}`);
    button.addEventListener("click", () => {
      this.#names = this.#names.filter((other) => other !== name);
      item.remove();
      this.#list.hidden = !this.#names.length;
      find(this, "#reference-file").focus();
      emit(this, "input");
    });
    this.#names.push(name);
    this.#list.append(item);
    this.#list.hidden = false;
  }

  /** @param {string} text */
  #showError(text) {
    showError(this, "references", text);
    announce(text);
  }
}
