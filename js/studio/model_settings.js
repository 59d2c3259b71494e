// `<um-model-settings>`: the model, the guidance and the LoRAs, of those that the engine has.
import { cloneElement, cloneTemplate, element, emit, find } from "./dom.js";
import { announce } from "./live_region.js";

/** The most LoRAs of a request (contract, section 2). */
const MAX_LORAS = 8;

/** @typedef {{name: string, strength: number}} Lora */

/**
 * The settings; `model` and `cfg` are null for the engine's own.
 * @typedef {{model: string | null, cfg: number | null, loras: Lora[]}} ModelChoice
 */

/** The settings of the model. */
export class ModelSettings extends HTMLElement {
  connectedCallback() {
    this.append(cloneTemplate("model-settings"));
    this.#adding.addEventListener("change", () => {
      const name = this.#adding.value;
      this.#adding.value = "";
      this.#add({ name, strength: 1 });
      announce(`${name} was added.`);
      emit(this, "input");
    });
  }

  /**
   * Show the fields that the engine supports.
   * @param {{models: string[], loras: string[], features: string[], default_cfg: number | null}} engine
   */
  open(engine) {
    const before = this.value;
    this.#field("model").hidden = engine.models.length < 2;
    this.#model.replaceChildren(...engine.models.map((name) => element("option", name)));
    this.#field("cfg").hidden = !engine.features.includes("cfg");
    this.#cfg.placeholder = engine.default_cfg === null ? "" : String(engine.default_cfg);
    this.#field("loras").hidden = !engine.loras.length;
    this.#adding.replaceChildren(
      new Option("Add a LoRA…", ""),
      ...engine.loras.map((name) => element("option", name)),
    );
    this.hidden = [...this.querySelectorAll(".model-settings > *")].every((field) => field instanceof HTMLElement && field.hidden);
    this.value = before;
  }

  /** The chosen settings, without those of hidden fields. @returns {ModelChoice} */
  get value() {
    const cfg = this.#cfg.valueAsNumber;
    return {
      model: this.#field("model").hidden ? null : this.#model.value,
      cfg: this.#field("cfg").hidden || Number.isNaN(cfg) ? null : cfg,
      loras: [...this.#list.children].map((item) => ({
        name: item.getAttribute("data-name") ?? "",
        strength: find(item, "input", HTMLInputElement).valueAsNumber,
      })),
    };
  }

  /** Names that the engine does not have are left out. */
  set value({ model, cfg, loras }) {
    if (model !== null && has(this.#model, model)) this.#model.value = model;
    this.#cfg.value = cfg === null ? "" : String(cfg);
    this.#list.replaceChildren();
    for (const lora of loras) if (has(this.#adding, lora.name)) this.#add(lora);
    this.#sync();
  }

  /** Return the errors that the page can detect. @returns {[field: string, text: string][]} */
  errors() {
    /** @type {[string, string][]} */
    const errors = [];
    const { cfg, loras } = this.value;
    if (cfg !== null && !(cfg >= 0 && cfg <= 30)) errors.push(["cfg", "The guidance must be 0 to 30, or empty."]);
    if (loras.some(({ strength }) => !(strength >= -10 && strength <= 10))) {
      errors.push(["loras", "The strength of a LoRA must be -10 to 10."]);
    }
    return errors;
  }

  // --- private ---

  get #model() {
    return find(this, "#model", HTMLSelectElement);
  }

  get #cfg() {
    return find(this, "#cfg", HTMLInputElement);
  }

  get #adding() {
    return find(this, "#add-lora", HTMLSelectElement);
  }

  get #list() {
    return find(this, ".lora-list");
  }

  /** @param {string} name */
  #field(name) {
    return find(this, `[data-field=${name}]`);
  }

  /** @param {Lora} lora */
  #add({ name, strength }) {
    const item = cloneElement("lora");
    item.dataset.name = name;
    find(item, ".lora-name").textContent = name;
    const input = find(item, "input", HTMLInputElement);
    input.valueAsNumber = strength;
    input.setAttribute("aria-label", `Strength of ${name}`);
    const remove = find(item, "button");
    remove.setAttribute("aria-label", `Remove ${name}`);
    remove.addEventListener("click", () => {
      item.remove();
      this.#sync();
      this.#adding.focus();
      announce(`${name} was removed.`);
      emit(this, "input");
    });
    this.#list.append(item);
    this.#sync();
  }

  /** Offer only LoRAs that are not in the list, while the list has space. */
  #sync() {
    const chosen = this.value.loras.map(({ name }) => name);
    for (const option of this.#adding.options) option.disabled = chosen.includes(option.value);
    this.#list.hidden = !chosen.length;
    this.#adding.hidden = chosen.length >= MAX_LORAS;
  }
}

/**
 * @param {HTMLSelectElement} select
 * @param {string} name
 */
function has(select, name) {
  return [...select.options].some((option) => option.value === name);
}
