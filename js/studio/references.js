// `<um-references>`: images to draw after, by drop, paste or file. Each is uploaded at once.
import { copyOf, find, pieceOf, tell } from "./dom.js";
import { clearErrors, showError } from "./fields.js";
import { say } from "./live.js";
import { plain } from "./words.js";

/** @import { Umrgen } from "../src/index.js" */

/** How many one picture may have (contract, section 2). */
const MOST = 10;

export class ReferencePicker extends HTMLElement {
  /** @type {Umrgen | null} */
  #umrgen = null;
  /** Their names on the server, in order. @type {string[]} */
  #names = [];
  #uploads = 0;

  connectedCallback() {
    this.append(copyOf("references"));
    const input = find(this, "#reference-file", HTMLInputElement);
    input.addEventListener("change", () => {
      this.#take(input.files);
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
      this.#take(event.dataTransfer?.files);
    });
  }

  /**
   * @param {Umrgen} umrgen
   * @param {boolean} offered whether the engine makes anything of them
   */
  open(umrgen, offered) {
    this.#umrgen = umrgen;
    this.hidden = !offered;
    if (!offered) this.value = [];
  }

  /** Images in what was pasted; text is none of ours. @param {ClipboardEvent} event */
  paste(event) {
    const files = event.clipboardData?.files;
    if (this.hidden || !files?.length) return;
    event.preventDefault();
    this.#take(files);
  }

  get busy() {
    return this.#uploads > 0;
  }

  /** @returns {string[]} */
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
  async #take(files) {
    clearErrors(this);
    for (const file of files ?? []) {
      if (this.#names.length >= MOST) return this.#refuse(`A picture takes ${MOST} references at most.`);
      await this.#upload(file);
    }
  }

  /** @param {File} file */
  async #upload(file) {
    this.#uploads++;
    this.classList.add("busy");
    try {
      const { filename, url } = await /** @type {Umrgen} */ (this.#umrgen).uploadReference(file);
      this.#add(filename, url, file.name);
      say(`${file.name} is a reference now.`);
      tell(this, "input");
    } catch (error) {
      this.#refuse(`${file.name}: ${plain(/** @type {Error} */ (error))}.`);
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
  #add(name, url, title = "a reference of an earlier picture") {
    const item = pieceOf("reference");
    const image = find(item, "img", HTMLImageElement);
    image.alt = title;
    if (url) image.src = this.#umrgen?.baseUrl + url;
    else image.remove();
    const button = find(item, "button", HTMLButtonElement);
    button.setAttribute("aria-label", `Leave out ${title}`);
    button.addEventListener("click", () => {
      this.#names = this.#names.filter((other) => other !== name);
      item.remove();
      this.#list.hidden = !this.#names.length;
      find(this, "#reference-file").focus();
      tell(this, "input");
    });
    this.#names.push(name);
    this.#list.append(item);
    this.#list.hidden = false;
  }

  /** @param {string} words */
  #refuse(words) {
    showError(this, "references", words);
    say(words);
  }
}
