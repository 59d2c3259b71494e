// `<um-composer>`: the form. Emits `draw` with a DrawRequest; the page calls `sent` or `refused`, and `ready` after it.
import { addFileDrop } from "./file_drop.js";
import { downloadedFile, fileName } from "./image_download.js";
import { settingsOf } from "./image_settings.js";
import { PromptField } from "./prompt_field.js";
import { cloneTemplate, find, emit } from "./dom.js";
import { saveDraft, readDraft } from "./draft.js";
import { EngineNote } from "./engine.js";
import { featuresOf } from "./features.js";
import { clearErrors, focusFirstError, showError, showServerError } from "./field_errors.js";
import { announce } from "./live_region.js";
import { ModelSettings } from "./model_settings.js";
import { ReferencePicker } from "./references.js";
import { SizePicker } from "./sizes.js";
import { draftOf, showTemplates, templateOf } from "./templates.js";

/** @import { Umrgen } from "../src/index.js" */
/** @import { JobEntry, Jobs, Request } from "./jobs.js" */

/** Random seeds are below this: few digits, so that they are easy to copy. */
const MAX_RANDOM_SEED = 1_000_000;
const MAX_COUNT = 32;

/**
 * Images to draw: one request, and the seed of each image.
 * @typedef {{request: Request, seeds: (number | null | undefined)[]}} DrawRequest
 */

/** The form. */
export class Composer extends HTMLElement {
  /** @type {Record<string, any>} */
  #capabilities = {};
  /** @type {Umrgen | null} */
  #umrgen = null;
  /** The default steps of the chosen model. */
  #defaultSteps = 0;

  connectedCallback() {
    this.append(cloneTemplate("composer"));
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.addEventListener("input", (event) => this.#syncSteps(event.target));
    this.addEventListener("change", () => this.#saveDraft());
    this.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.#form.requestSubmit();
    });
    this.addEventListener("settingsfile", (event) => this.#readSettings(/** @type {CustomEvent<File>} */ (event).detail));
    this.addEventListener("templates", () => this.#showTemplates());
    addFileDrop(this, "um-references", (file) => this.#readSettings(file));
    document.addEventListener("paste", (event) => this.isConnected && this.#references.paste(event));
    find(this, ".random-seed").addEventListener("click", () => {
      this.#input("seed").value = String(Math.floor(Math.random() * MAX_RANDOM_SEED));
      announce(`Seed ${this.#input("seed").value}`);
      this.#saveDraft();
    });
    find(this, ".fewer").addEventListener("click", () => this.#countBy(-1));
    find(this, ".more").addEventListener("click", () => this.#countBy(1));
    if (/Mac|iPhone|iPad/.test(navigator.platform)) find(this, ".keys").textContent = "⌘ ⏎";
  }

  /**
   * Show the form for a server.
   * @param {Umrgen} umrgen
   * @param {Record<string, any>} capabilities
   * @param {Jobs} jobs
   */
  open(umrgen, capabilities, jobs) {
    this.#umrgen = umrgen;
    const first = !this.#capabilities.sizes;
    this.#capabilities = capabilities;
    const { engine, sizes, steps, prompt_chars: chars } = capabilities;
    // Before the engine has started, its features are not known, and no field is hidden.
    const supports = (/** @type {string} */ feature) => engine.kind === null || engine.features.includes(feature);
    find(this, "[data-field=negative]").hidden = !supports("negative");
    this.#prompt.open(chars, jobs, featuresOf(capabilities).templates);
    for (const name of ["steps", "steps-slider"]) {
      this.#input(name).min = steps.min;
      this.#input(name).max = steps.max;
    }
    this.#model.open(engine);
    this.#defaultSteps = this.#stepsOfModel;
    this.#references.open(umrgen, supports("references"));
    find(this, "um-engine", EngineNote).open(engine);
    const before = this.#sizes.value;
    this.#sizes.open(sizes);
    if (!first) this.#sizes.value = before;
    else this.fill({ width: sizes.default, height: sizes.default, steps: steps.default, count: 1, ...readDraft() });
  }

  /**
   * Set fields of the form.
   * @param {Partial<import("./draft.js").Draft> & {references?: string[]}} settings
   */
  fill({ prompt, negative, width, height, steps, seed, count, references, model = null, cfg = null, loras }) {
    if (prompt !== undefined) this.#prompt.value = prompt;
    if (negative !== undefined) this.#input("negative").value = negative;
    if (width && height) this.#sizes.value = { width, height };
    if (steps) this.#input("steps").value = this.#input("steps-slider").value = String(steps);
    if (seed !== undefined) this.#input("seed").value = seed;
    if (count) this.#input("count").value = String(count);
    if (loras) this.#model.value = { model, cfg, loras };
    this.#defaultSteps = this.#stepsOfModel;
    if (references && !this.#references.hidden) this.#references.value = references;
    clearErrors(this);
    this.#saveDraft();
  }

  focus() {
    this.#prompt.focus();
  }

  /** Add the image of a job as a reference. @param {JobEntry} entry */
  addReference(entry) {
    const umrgen = this.#umrgen;
    if (!umrgen) return;
    this.#references.scrollIntoView({ block: "nearest" });
    return this.#references.addLoaded(fileName(entry), () => downloadedFile(umrgen, entry));
  }

  /** Accept the next request of the form: the last one was sent or refused. */
  ready() {
    this.#busy(false);
  }

  /** Report that jobs were submitted, by the form or for an image. @param {number} count */
  sent(count) {
    announce(count === 1 ? "The job was sent." : `${count} jobs were sent.`);
  }

  /**
   * Report that a submit failed, of the form or for an image.
   * @param {Error & {code?: string, next?: string}} error
   */
  refused(error) {
    showServerError(this, error);
  }

  // --- private ---

  get #form() {
    return find(this, "form", HTMLFormElement);
  }

  get #prompt() {
    return find(this, "um-prompt", PromptField);
  }

  get #sizes() {
    return find(this, "um-size", SizePicker);
  }

  get #model() {
    return find(this, "um-model-settings", ModelSettings);
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
    input.value = String(Math.min(MAX_COUNT, Math.max(1, count)));
    announce(`${input.value} images`);
    this.#saveDraft();
  }

  /** @param {EventTarget | null} changed */
  #syncSteps(changed) {
    const [steps, slider] = [this.#input("steps"), this.#input("steps-slider")];
    if (changed === slider) steps.value = slider.value;
    if (changed === steps) slider.value = steps.value;
    this.#useStepsOfModel();
    this.#saveDraft();
  }

  /** After another model was chosen, show its default steps, unless the user has set others. */
  #useStepsOfModel() {
    const [steps, before] = [this.#input("steps"), this.#defaultSteps];
    this.#defaultSteps = this.#stepsOfModel;
    if (steps.valueAsNumber === before) steps.value = this.#input("steps-slider").value = String(this.#defaultSteps);
  }

  get #stepsOfModel() {
    const { default: usual, of_models: ofModels } = this.#capabilities.steps ?? { default: 0 };
    return ofModels?.[this.#model.value.model ?? ""] ?? usual;
  }

  get #drawText() {
    const count = this.#input("count").valueAsNumber;
    return count > 1 ? `Draw ${count} images` : "Draw";
  }

  #saveDraft() {
    if (!this.#isBusy) find(this, ".submit-text").textContent = this.#drawText;
    saveDraft({
      prompt: this.#prompt.value,
      negative: this.#input("negative").value,
      ...this.#sizes.value,
      steps: this.#input("steps").valueAsNumber,
      seed: this.#input("seed").value,
      count: this.#input("count").valueAsNumber,
      ...this.#model.value,
    });
  }

  /** Fill the form with the settings in an image file. @param {File} file */
  async #readSettings(file) {
    const settings = await settingsOf(file);
    if (!settings) {
      const text = `${file.name} has no settings that this page can read. To draw from it, drop it on the reference images.`;
      showError(this, "prompt", text);
      return announce(text);
    }
    this.fill(settings);
    this.focus();
    announce(`The settings of ${file.name} are in the form.`);
  }

  #showTemplates() {
    if (!this.#umrgen) return;
    const current = () => templateOf(this.#request, this.#input("seed").value.trim());
    showTemplates(this.#umrgen, current, (template) => {
      this.fill(draftOf(template));
      this.focus();
      announce("The template is in the form.");
    });
  }

  /** @param {boolean} busy */
  #busy(busy) {
    const button = find(this, "button[type=submit]");
    button.setAttribute("aria-disabled", String(busy));
    find(this, ".submit-text").textContent = busy ? "Sending…" : this.#drawText;
  }

  get #isBusy() {
    return find(this, "button[type=submit]").getAttribute("aria-disabled") === "true";
  }

  /** The request in the form, without its seed. @returns {Request} */
  get #request() {
    return {
      prompt: this.#prompt.value.trim(),
      negative: find(this, "[data-field=negative]").hidden ? "" : this.#input("negative").value.trim(),
      ...this.#sizes.value,
      steps: this.#input("steps").valueAsNumber,
      reference_images: this.#references.value,
      ...this.#model.value,
    };
  }

  #submit() {
    if (this.#isBusy) return;
    clearErrors(this);
    const errors = this.#errors();
    for (const [field, text] of errors) showError(this, field, text);
    if (errors.length) return focusFirstError(this);
    const seed = this.#input("seed").value.trim();
    const request = this.#request;
    const count = this.#input("count").valueAsNumber;
    const seeds = Array.from({ length: count }, (_, number) => (seed === "" ? undefined : Number(seed) + number));
    this.#busy(true);
    emit(this, "draw", { request, seeds });
  }

  /** Return the errors that the page can detect; the server checks the request again. */
  #errors() {
    /** @type {[field: string, text: string][]} */
    const errors = [];
    const { sizes, steps } = this.#capabilities;
    const promptError = this.#prompt.error();
    if (promptError) errors.push(["prompt", promptError]);
    for (const [side, length] of Object.entries(this.#sizes.value)) {
      const name = side === "width" ? "The width" : "The height";
      if (!(length >= sizes.min && length <= sizes.max)) {
        errors.push([side, `${name} must be ${sizes.min} to ${sizes.max} pixels.`]);
      } else if (length % sizes.multiple_of) {
        errors.push([side, `${name} must be a multiple of ${sizes.multiple_of}.`]);
      }
    }
    if (!inRange(this.#input("steps").valueAsNumber, steps.min, steps.max)) {
      errors.push(["steps", `The steps must be ${steps.min} to ${steps.max}.`]);
    }
    errors.push(...this.#model.errors());
    const seed = this.#input("seed").value.trim();
    if (seed && !/^\d{1,15}$/.test(seed)) errors.push(["seed", "The seed must be a whole number or empty."]);
    const count = this.#input("count").valueAsNumber;
    if (!inRange(count, 1, MAX_COUNT)) errors.push(["count", `The number of images must be 1 to ${MAX_COUNT}.`]);
    if (this.#references.busy) errors.push(["references", "An upload is not finished yet."]);
    return errors;
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
