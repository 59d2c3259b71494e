// `<um-viewer>`: one picture, large, with what it was made of. Tells `reuse`, `seed`, `retry` and `closed`.
import { UmrgenError } from "../src/index.js";
import { copyOf, element, find, setIcon, tell } from "./dom.js";
import { imageAddress } from "./gallery.js";
import { say } from "./live.js";
import { save } from "./save.js";
import { Snippet } from "./snippet.js";
import { date, ending, plain, precise } from "./words.js";

/** @import { Umrgen } from "../src/index.js" */
/** @import { Gallery } from "./gallery.js" */
/** @import { Entry } from "./jobs.js" */

export class Viewer extends HTMLElement {
  /** @type {Entry | null} */
  #entry = null;
  /** Whether something else is about to take the focus. */
  #handsOver = false;
  #opened = { umrgen: /** @type {Umrgen | null} */ (null), gallery: /** @type {Gallery | null} */ (null) };

  connectedCallback() {
    this.append(copyOf("viewer"));
    const dialog = this.#dialog;
    dialog.addEventListener("close", () => this.#handsOver || tell(this, "closed", this.#entry));
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    dialog.addEventListener("keydown", (event) => this.#key(event));
    find(this, ".close").addEventListener("click", () => dialog.close());
    find(this, ".previous").addEventListener("click", () => this.#go(-1));
    find(this, ".next").addEventListener("click", () => this.#go(1));
    find(this, ".download").addEventListener("click", () => this.#download());
    for (const [button, news] of [["retry", "retry"], ["reuse", "reuse"], ["use-seed", "seed"]]) {
      find(this, `.${button}`).addEventListener("click", () => {
        const entry = this.#entry;
        this.#handsOver = true;
        dialog.close();
        tell(this, news, entry);
      });
    }
  }

  get #dialog() {
    return find(this, "dialog", HTMLDialogElement);
  }

  /**
   * @param {Umrgen} umrgen
   * @param {Gallery} gallery
   */
  open(umrgen, gallery) {
    this.#opened = { umrgen, gallery };
  }

  /** @param {Entry} entry */
  show(entry) {
    this.#entry = entry;
    this.#handsOver = false;
    this.#fill(entry);
    if (!this.#dialog.open) this.#dialog.showModal();
    find(this, "#viewer-prompt").focus({ preventScroll: true });
    this.#dialog.scrollTop = 0;
    this.#neighbours(entry);
  }

  close() {
    if (this.#dialog.open) this.#dialog.close();
  }

  // --- inside ---

  /** @param {KeyboardEvent} event */
  #key(event) {
    // In a group of choices the arrows choose.
    if (event.target instanceof HTMLInputElement || event.altKey || event.ctrlKey || event.metaKey) return;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    this.#go(step);
  }

  /** @param {number} step */
  async #go(step) {
    const entry = this.#entry && (await this.#opened.gallery?.beside(this.#entry, step));
    if (!entry) return say(step < 0 ? "This is the newest." : "This is the oldest.");
    this.show(entry);
  }

  /** @param {Entry} entry */
  async #neighbours(entry) {
    const { gallery } = this.#opened;
    for (const [button, step] of /** @type {[string, number][]} */ ([[".previous", -1], [".next", 1]])) {
      const beside = await gallery?.beside(entry, step);
      if (this.#entry !== entry) return;
      find(this, button).toggleAttribute("disabled", !beside);
    }
  }

  /** @param {Entry} entry */
  #fill(entry) {
    const { request, status } = entry;
    const address = imageAddress(this.#opened.umrgen, entry);
    const image = find(this, "img", HTMLImageElement);
    image.hidden = !address;
    image.removeAttribute("src"); // the picture before must not stand for this one
    image.width = request.width;
    image.height = request.height;
    image.alt = request.prompt;
    if (address) image.src = address;
    const failed = find(this, ".viewer-failed");
    failed.hidden = !!address;
    if (!address) {
      const { title, reason, remedy } = ending(entry);
      setIcon(failed, status.errorCode === "cancelled" ? "stopped" : "failed");
      find(this, ".viewer-why").textContent = reason ? `${title}: ${reason}` : title;
      find(this, ".viewer-remedy").textContent = remedy;
    }
    find(this, ".download").hidden = !address;
    find(this, ".viewer-error").textContent = "";
    find(this, "#viewer-prompt").textContent = request.prompt;
    const rows = facts(entry).flatMap(([name, value]) => [element("dt", name), element("dd", value)]);
    find(this, ".facts").replaceChildren(...rows);
    find(this, "um-snippet", Snippet).open(this.#opened.umrgen?.baseUrl ?? "", entry);
    find(this, ".viewer-side").scrollTop = 0;
  }

  async #download() {
    const [entry, button] = [this.#entry, find(this, ".download", HTMLButtonElement)];
    const { umrgen } = this.#opened;
    if (!entry || !umrgen) return;
    button.disabled = true;
    button.textContent = "Fetching…";
    try {
      await save(umrgen, entry);
      say("Saved.");
    } catch (error) {
      if (!(error instanceof UmrgenError)) throw error;
      find(this, ".viewer-error").textContent = `${plain(error)}. ${error.next}`;
    } finally {
      button.disabled = false;
      button.textContent = "Download";
    }
  }
}

/**
 * @param {Entry} entry
 * @returns {[name: string, value: string][]}
 */
function facts({ request, status, createdAt }) {
  const { started_at: started, completed_at: ended } = status.raw;
  /** @type {[string, string | null | undefined | false][]} */
  const all = [
    ["Without", request.negative],
    ["Size", `${request.width} × ${request.height}`],
    ["Steps", String(request.steps)],
    ["Seed", status.seed === null ? null : String(status.seed)],
    ["References", request.reference_images.length > 0 && String(request.reference_images.length)],
    ["Engine", status.engine],
    ["Made", date(createdAt)],
    ["Took", status.state === "completed" && started && ended ? precise((ended - started) / 1000) : null],
  ];
  return /** @type {[string, string][]} */ (all.filter(([, value]) => value));
}
