// `<um-composer>`: what to draw. Tells `draw` with a Wish; `sent` and `refused` answer it.
import { copyOf, find, tell } from "./dom.js";
import { keepDraft, readDraft } from "./draft.js";
import { EngineNote } from "./engine.js";
import { clearErrors, focusFirstError, showError, showRefusal } from "./fields.js";
import { say } from "./live.js";
import { ReferencePicker } from "./references.js";
import { SizePicker } from "./sizes.js";

/** @import { Umrgen } from "../src/index.js" */
/** @import { Request } from "./jobs.js" */

/** Seeds that the die rolls: few enough digits to read out. */
const DIE = 1_000_000;
const MOST_AT_ONCE = 32;

/**
 * Pictures to be drawn: one request, and the seed of each.
 * @typedef {{request: Request, seeds: (number | undefined)[]}} Wish
 */

export class Composer extends HTMLElement {
  /** @type {Record<string, any>} */
  #capabilities = {};

  connectedCallback() {
    this.append(copyOf("composer"));
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.addEventListener("input", (event) => this.#follow(event.target));
    this.addEventListener("change", () => this.#keep());
    this.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.#form.requestSubmit();
    });
    document.addEventListener("paste", (event) => this.isConnected && this.#references.paste(event));
    find(this, ".die").addEventListener("click", () => {
      this.#input("seed").value = String(Math.floor(Math.random() * DIE));
      say(`Seed ${this.#input("seed").value}`);
      this.#keep();
    });
    find(this, ".fewer").addEventListener("click", () => this.#countBy(-1));
    find(this, ".more").addEventListener("click", () => this.#countBy(1));
    if (/Mac|iPhone|iPad/.test(navigator.platform)) find(this, ".keys").textContent = "⌘ ⏎";
  }

  /**
   * @param {Umrgen} umrgen
   * @param {Record<string, any>} capabilities
   */
  open(umrgen, capabilities) {
    const first = !this.#capabilities.sizes;
    this.#capabilities = capabilities;
    const { engine, sizes, steps, prompt_chars: chars } = capabilities;
    // Until the engine is up nobody knows what it offers; then nothing is hidden.
    const offers = (/** @type {string} */ feature) => engine.kind === null || engine.features.includes(feature);
    find(this, "[data-field=negative]").hidden = !offers("negative");
    this.#prompt.maxLength = chars;
    for (const name of ["steps", "steps-slider"]) this.#input(name).max = steps.max;
    this.#references.open(umrgen, offers("references"));
    find(this, "um-engine", EngineNote).open(engine);
    const before = this.#sizes.value;
    this.#sizes.open(sizes);
    if (!first) this.#sizes.value = before;
    else this.fill({ width: sizes.default, height: sizes.default, steps: steps.default, count: 1, ...readDraft() });
  }

  /**
   * @param {Partial<import("./draft.js").Draft> & {references?: string[]}} settings
   */
  fill({ prompt, negative, width, height, steps, seed, count, references }) {
    if (prompt !== undefined) this.#prompt.value = prompt;
    if (negative !== undefined) this.#input("negative").value = negative;
    if (width && height) this.#sizes.value = { width, height };
    if (steps) this.#input("steps").value = this.#input("steps-slider").value = String(steps);
    if (seed !== undefined) this.#input("seed").value = seed;
    if (count) this.#input("count").value = String(count);
    if (references && !this.#references.hidden) this.#references.value = references;
    clearErrors(this);
    this.#keep();
  }

  focus() {
    this.#prompt.focus();
    this.#prompt.scrollIntoView({ block: "nearest" });
  }

  /** The wish is on the server. @param {number} count */
  sent(count) {
    this.#busy(false);
    say(count === 1 ? "Sent. It is in the works." : `${count} sent. They are in the works.`);
  }

  /**
   * It is not, or not all of it.
   * @param {Error & {code?: string, next?: string}} error
   */
  refused(error) {
    this.#busy(false);
    showRefusal(this, error);
  }

  // --- inside ---

  get #form() {
    return find(this, "form", HTMLFormElement);
  }

  get #prompt() {
    return find(this, "#prompt", HTMLTextAreaElement);
  }

  get #sizes() {
    return find(this, "um-size", SizePicker);
  }

  get #references() {
    return find(this, "um-references", ReferencePicker);
  }

  /** @param {string} id */
  #input(id) {
    return find(this, `#${id}`, HTMLInputElement);
  }

  /** @param {number} change */
  #countBy(change) {
    const input = this.#input("count");
    const count = (Math.round(input.valueAsNumber) || 1) + change;
    input.value = String(Math.min(MOST_AT_ONCE, Math.max(1, count)));
    this.#keep();
  }

  /** @param {EventTarget | null} changed */
  #follow(changed) {
    const [steps, slider] = [this.#input("steps"), this.#input("steps-slider")];
    if (changed === slider) steps.value = slider.value;
    if (changed === steps) slider.value = steps.value;
    this.#keep();
  }

  #keep() {
    keepDraft({
      prompt: this.#prompt.value,
      negative: this.#input("negative").value,
      ...this.#sizes.value,
      steps: this.#input("steps").valueAsNumber,
      seed: this.#input("seed").value,
      count: this.#input("count").valueAsNumber,
    });
  }

  /** @param {boolean} busy */
  #busy(busy) {
    const button = find(this, "button[type=submit]");
    button.setAttribute("aria-disabled", String(busy));
    find(this, ".submit-words").textContent = busy ? "Sending…" : "Draw";
  }

  #submit() {
    if (find(this, "button[type=submit]").getAttribute("aria-disabled") === "true") return;
    clearErrors(this);
    const wrong = this.#wrong();
    for (const [field, words] of wrong) showError(this, field, words);
    if (wrong.length) return focusFirstError(this);
    const seed = this.#input("seed").value.trim();
    /** @type {Request} */
    const request = {
      prompt: this.#prompt.value.trim(),
      negative: find(this, "[data-field=negative]").hidden ? "" : this.#input("negative").value.trim(),
      ...this.#sizes.value,
      steps: this.#input("steps").valueAsNumber,
      reference_images: this.#references.value,
      loras: [],
    };
    const count = this.#input("count").valueAsNumber;
    const seeds = Array.from({ length: count }, (_, number) => (seed === "" ? undefined : Number(seed) + number));
    this.#busy(true);
    tell(this, "draw", { request, seeds });
  }

  /** What can be seen to be wrong from here; the server has the last word. */
  #wrong() {
    /** @type {[field: string, words: string][]} */
    const wrong = [];
    const { sizes, steps } = this.#capabilities;
    if (!this.#prompt.value.trim()) wrong.push(["prompt", "Say what should be drawn."]);
    for (const [side, length] of Object.entries(this.#sizes.value)) {
      const name = side === "width" ? "The width" : "The height";
      if (!(length >= sizes.min && length <= sizes.max)) {
        wrong.push([side, `${name} is ${sizes.min} to ${sizes.max} pixels.`]);
      } else if (length % sizes.multiple_of) {
        wrong.push([side, `${name} is a multiple of ${sizes.multiple_of} here.`]);
      }
    }
    if (!inRange(this.#input("steps").valueAsNumber, 1, steps.max)) wrong.push(["steps", `1 to ${steps.max} steps.`]);
    const seed = this.#input("seed").value.trim();
    if (seed && !/^\d{1,15}$/.test(seed)) wrong.push(["seed", "A whole number, or nothing."]);
    const count = this.#input("count").valueAsNumber;
    if (!inRange(count, 1, MOST_AT_ONCE)) wrong.push(["count", `1 to ${MOST_AT_ONCE} at once.`]);
    if (this.#references.busy) wrong.push(["references", "An image is still on its way up."]);
    return wrong;
  }
}

/**
 * @param {number} value
 * @param {number} low
 * @param {number} high
 */
function inRange(value, low, high) {
  return Number.isInteger(value) && value >= low && value <= high;
}
