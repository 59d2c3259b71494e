// The settings with which an image was drawn, read from its file: of UMRGEN, or in the form of AUTOMATIC1111's web UI.
import { parametersOf } from "../src/parameters.js";
import { pngTexts } from "./png_text.js";

/** @import { Draft } from "./draft.js" */

/** Bytes of the largest file that is read. */
const MAX_FILE = 64 << 20;

/**
 * Return the settings in an image file; null without any, and for a file that cannot be read, such as a folder.
 * @param {Blob} file
 * @returns {Promise<Partial<Draft> | null>}
 */
export async function settingsOf(file) {
  if (file.size > MAX_FILE) return null;
  const content = await file.arrayBuffer().catch(() => null);
  if (!content) return null;
  const texts = await pngTexts(new Uint8Array(content));
  return settingsOfRecord(texts.get("umrgen") ?? "") ?? settingsOfParameters(texts.get("parameters") ?? "");
}

/**
 * Return the settings in UMRGEN's record.
 * @param {string} text JSON
 */
function settingsOfRecord(text) {
  try {
    const { prompt, negative, seed, steps, width, height, model, cfg, loras } = JSON.parse(text);
    const pairs = Array.isArray(loras) ? loras.map(([name, strength]) => ({ name, strength })) : [];
    return prompt ? settings({ prompt, negative, seed, steps, width, height, model, cfg, loras: pairs }) : null;
  } catch {
    return null;
  }
}

/**
 * Return the settings in AUTOMATIC1111's form: the prompt, the negative prompt, then `Steps: 20, Seed: 1, …`.
 * @param {string} text
 */
export function settingsOfParameters(text) {
  const record = parametersOf(text);
  return record && settings(record);
}

/**
 * Return the settings of the form; values of a wrong type are left out.
 * @param {Record<string, any>} given
 * @returns {Partial<Draft>}
 */
function settings({ prompt, negative, seed, steps, width, height, model, cfg, loras = [] }) {
  const seedText = String(seed ?? "");
  return {
    prompt: String(prompt ?? "").trim(),
    negative: String(negative ?? "").trim(),
    seed: /^\d{1,15}$/.test(seedText) ? seedText : "",
    width: Number(width) || 0,
    height: Number(height) || 0,
    steps: Number(steps) || 0,
    model: typeof model === "string" ? model : null,
    cfg: Number(cfg) || null,
    loras: loras.filter((/** @type {any} */ lora) => typeof lora.name === "string" && Number.isFinite(lora.strength)),
  };
}
