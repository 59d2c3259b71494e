// Several images as one ZIP file, made in the page from verified downloads: the server needs no memory for it.
import { TargetUnusable, Unauthorized, UmrgenError } from "../src/index.js";
import { downloadedFile, save } from "./image_download.js";
import { ZipWriter } from "./zip.js";

/** @import { Umrgen } from "../src/index.js" */
/** @import { JobEntry } from "./jobs.js" */

/**
 * The destination of a file: the disk, where the browser has a dialog for it, or memory.
 * `abort` leaves no file.
 * @typedef {{write: (part: Uint8Array<ArrayBuffer>) => unknown, close: () => unknown, abort: () => unknown}} Target
 */

/**
 * Download images into a ZIP file; return how many could not be downloaded, or null when the user chose no file. Throws
 * Unauthorized, and TargetUnusable when the file cannot be written; then there is no file.
 * @param {Umrgen} umrgen
 * @param {JobEntry[]} entries
 * @param {(text: string) => void} report
 */
export async function downloadZip(umrgen, entries, report) {
  const name = `umrgen-${new Date().toISOString().slice(0, 10)}-${entries.length}-images.zip`;
  const target = await openTarget(name);
  if (!target) return null;
  try {
    const missing = await writeZip(umrgen, entries, target, report);
    await target.close();
    return missing;
  } catch (error) {
    await target.abort();
    if (!(error instanceof DOMException)) throw error;
    const next = "Free some disk space, or choose another folder.";
    throw new TargetUnusable("the ZIP file cannot be written", { next });
  }
}

/**
 * Write the ZIP file; return how many images could not be downloaded.
 * @param {Umrgen} umrgen
 * @param {JobEntry[]} entries
 * @param {Target} target
 * @param {(text: string) => void} report
 */
async function writeZip(umrgen, entries, target, report) {
  const zip = new ZipWriter(target.write);
  let missing = 0;
  for (const [index, entry] of entries.entries()) {
    report(`Downloading ${index + 1} of ${entries.length}…`);
    const file = await downloaded(umrgen, entry);
    if (!file) {
      missing++;
      continue;
    }
    if (!zip.hasSpace(file.size)) {
      missing += entries.length - index;
      break;
    }
    await zip.add(file.name, new Uint8Array(await file.arrayBuffer()), new Date(entry.createdAt));
  }
  await zip.finish();
  return missing;
}

/**
 * Return the image of a job; null when it cannot be downloaded. Throws Unauthorized: no other image can be, either.
 * @param {Umrgen} umrgen
 * @param {JobEntry} entry
 */
async function downloaded(umrgen, entry) {
  try {
    return await downloadedFile(umrgen, entry);
  } catch (error) {
    if (!(error instanceof UmrgenError) || error instanceof Unauthorized) throw error;
    return null;
  }
}

/**
 * Return where to write a file; null when the user closed the dialog.
 * @param {string} name
 * @returns {Promise<Target | null>}
 */
async function openTarget(name) {
  const choose = /** @type {any} */ (globalThis).showSaveFilePicker;
  if (!choose) return memoryTarget(name);
  try {
    const handle = await choose({ suggestedName: name, types: [{ accept: { "application/zip": [".zip"] } }] });
    const stream = await handle.createWritable();
    const abort = () => stream.abort().catch(() => {}); // after an error of the disk, it is aborted already
    return { write: (part) => stream.write(part), close: () => stream.close(), abort };
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") return null;
    return memoryTarget(name); // not allowed here, for example in a frame
  }
}

/**
 * @param {string} name
 * @returns {Target}
 */
function memoryTarget(name) {
  /** @type {Blob[]} */
  const parts = []; // of Blobs, which browsers keep on disk when they are large
  return {
    write: (part) => parts.push(new Blob([part])),
    close: () => save(new File(parts, name, { type: "application/zip" })),
    abort: () => {},
  };
}
