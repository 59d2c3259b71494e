// The dialog of the templates: requests that the server keeps under names. Also their export to a file, with the earlier
// prompts, and their import from it.
import { UmrgenError } from "../src/index.js";
import { cloneElement, element, find } from "./dom.js";
import { errorText } from "./format.js";
import { save } from "./image_download.js";
import { announce } from "./live_region.js";

/** @import { Umrgen } from "../src/index.js" */

/** Jobs whose prompts are exported: the longest page of the list. */
const HISTORY = 200;
/** Bytes of the largest file that is read. */
const MAX_FILE = 8 << 20;

/** @typedef {{name: string, request: Record<string, any>}} Template */

/**
 * Show the templates. `current` returns the request in the form, and `use` fills the form.
 * @param {Umrgen} umrgen
 * @param {() => Record<string, any>} current
 * @param {(request: Record<string, any>) => void} use
 */
export async function showTemplates(umrgen, current, use) {
  const dialog = /** @type {HTMLDialogElement} */ (cloneElement("templates"));
  const list = find(dialog, ".template-list");
  const name = find(dialog, "#template-name", HTMLInputElement);
  const file = find(dialog, "#template-file", HTMLInputElement);
  dialog.addEventListener("close", () => dialog.remove());
  find(dialog, ".no").addEventListener("click", () => dialog.close());
  find(dialog, "form").addEventListener("submit", (event) => {
    event.preventDefault();
    guarded(async () => {
      const { name: stored } = await umrgen.saveTemplate(name.value, current());
      name.value = "";
      await refresh();
      report(`“${stored}” is saved.`);
    });
  });
  find(dialog, ".export").addEventListener("click", () => guarded(async () => saveAll(await umrgen.templates(), await prompts(umrgen))));
  file.addEventListener("change", () => guarded(importFile));
  document.body.append(dialog);
  dialog.showModal();
  await guarded(refresh);

  /** Run an action; show its error. @param {() => Promise<unknown>} action */
  async function guarded(action) {
    find(dialog, ".templates-error").textContent = "";
    try {
      await action();
    } catch (error) {
      if (!(error instanceof UmrgenError) && !(error instanceof NotAnExport)) throw error;
      const advice = error instanceof UmrgenError ? ` ${error.next}` : "";
      find(dialog, ".templates-error").textContent = `${errorText(error)}.${advice}`;
    }
  }

  /** @param {string} text */
  function report(text) {
    find(dialog, ".templates-note").textContent = text;
    announce(text);
  }

  async function refresh() {
    const templates = await umrgen.templates();
    list.replaceChildren(...templates.map(item));
    if (!templates.length) list.append(element("li", "None yet."));
  }

  /** @param {Template} template */
  function item({ name: title, request }) {
    const row = cloneElement("template");
    find(row, ".template-name").textContent = title;
    find(row, ".template-prompt").textContent = String(request.prompt ?? "");
    const [choose, remove] = [find(row, ".use"), find(row, ".remove")];
    choose.title = "Use this template";
    choose.addEventListener("click", () => {
      dialog.close();
      use(request);
    });
    remove.setAttribute("aria-label", `Delete ${title}`);
    remove.addEventListener("click", () =>
      guarded(async () => {
        await umrgen.deleteTemplate(title);
        await refresh();
        name.focus();
        report(`“${title}” is deleted.`);
      }),
    );
    return row;
  }

  async function importFile() {
    const chosen = file.files?.[0];
    if (!chosen) return;
    file.value = ""; // so that the same file can be chosen again after an error
    const templates = await templatesIn(chosen);
    for (const { name: title, request } of templates) await umrgen.saveTemplate(title, request);
    await refresh();
    report(`${templates.length} templates were imported.`);
  }
}

/**
 * Return the request in the form as a template: without its references, which the server keeps for some hours only, and
 * without fields that are empty or no number.
 * @param {import("./jobs.js").Request} request
 * @param {string} seed
 */
export function templateOf({ reference_images: _, ...request }, seed) {
  const fields = { ...request, seed: /^\d{1,15}$/.test(seed) ? Number(seed) : null };
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== "" && value !== null && !Number.isNaN(value)));
}

/** Return the content of the form for a template. @param {Record<string, any>} template */
export function draftOf({ reference_images: _, prompt = "", negative = "", seed, loras = [], ...request }) {
  return { ...request, prompt, negative, seed: seed >= 0 ? String(seed) : "", loras };
}

/** The chosen file was not made by an export. */
class NotAnExport extends Error {}

/** Return the latest prompts of this key, each once. @param {Umrgen} umrgen */
async function prompts(umrgen) {
  const { jobs } = await umrgen.jobs({ limit: HISTORY });
  return [...new Set(jobs.map(({ raw }) => raw.prompt))].filter(Boolean);
}

/**
 * Save templates and prompts as a JSON file.
 * @param {Template[]} templates
 * @param {string[]} history
 */
function saveAll(templates, history) {
  const content = { templates: templates.map(({ name, request }) => ({ name, request })), prompts: history };
  const text = JSON.stringify(content, null, 2);
  save(new File([text], "umrgen-templates.json", { type: "application/json" }));
}

/**
 * Return the templates of an export. Throws NotAnExport for another file.
 * @param {File} file
 * @returns {Promise<Template[]>}
 */
async function templatesIn(file) {
  const refuse = () => new NotAnExport(`${file.name} has no templates: choose a file that was made by Export`);
  if (file.size > MAX_FILE) throw refuse();
  const text = await file.text().catch(() => "");
  let templates;
  try {
    ({ templates } = Object(JSON.parse(text)));
  } catch {
    throw refuse();
  }
  const usable = (/** @type {any} */ each) => typeof each?.name === "string" && typeof each.request === "object" && each.request;
  if (!Array.isArray(templates) || !templates.length || !templates.every(usable)) throw refuse();
  return templates;
}
