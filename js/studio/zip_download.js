// Several images as one ZIP file, made in the page from verified downloads: the server needs no memory for it.
import { UmrgenError } from "../src/index.js";
import { downloadedFile, save } from "./image_download.js";
import { ZipWriter } from "./zip.js";

/** @import { Umrgen } from "../src/index.js" */
/** @import { JobEntry } from "./jobs.js" */

/**
 * The destination of a file: the disk, where the browser has a dialog for it, or memory.
 * @typedef {{write: (part: Uint8Array<ArrayBuffer>) => unknown, close: () => unknown}} Target
 */

/**
 * Download images into a ZIP file; return how many could not be downloaded, or null when the user chose no file.
 * @param {Umrgen} umrgen
 * @param {JobEntry[]} entries
 * @param {(text: string) => void} report
 */
export async function downloadZip(umrgen, entries, report) {
  const name = `umrgen-${new Date().toISOString().slice(0, 10)}-${entries.length}-images.zip`;
  const target = await openTarget(name);
  if (!target) return null;
  const zip = new ZipWriter(target.write);
  let missing = 0;
  for (const [index, entry] of entries.entries()) {
    report(`Downloading ${index + 1} of ${entries.length}…`);
    try {
      const file = await downloadedFile(umrgen, entry);
      if (!zip.hasSpace(file.size)) {
        missing += entries.length - index;
        break;
      }
      await zip.add(file.name, new Uint8Array(await file.arrayBuffer()), new Date(entry.createdAt));
    } catch (error) {
      if (!(error instanceof UmrgenError)) throw error;
      missing++;
    }
  }
  await zip.finish();
  await target.close();
  return missing;
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
    return { write: (part) => stream.write(part), close: () => stream.close() };
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
  };
}
