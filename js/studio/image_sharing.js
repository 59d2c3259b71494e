// Copying and sharing an image or its address.
import { OutputMissing } from "../src/index.js";
import { date } from "./format.js";
import { downloadedFile } from "./image_download.js";
import { imageUrlOf } from "./image_urls.js";

/** @import { Umrgen } from "../src/index.js" */
/** @import { JobEntry } from "./jobs.js" */

/** Whether images can be copied: only on HTTPS or this machine, by browsers. */
export const canCopyImages = () => isSecureContext && "ClipboardItem" in globalThis && !!navigator.clipboard?.write;

/** Whether the system has a share sheet for files. */
export const canShare = () => !!navigator.canShare?.({ files: [new File(["x"], "x.png", { type: "image/png" })] });

/**
 * Copy the image of a job as PNG. Throws UmrgenError and DOMException.
 * @param {Umrgen} umrgen
 * @param {JobEntry} entry
 */
export async function copyImage(umrgen, entry) {
  // A promise, so that the click still counts when the download is over.
  const image = downloadedFile(umrgen, entry).then(asPng);
  try {
    await navigator.clipboard.write([new ClipboardItem({ "image/png": image })]);
  } catch (error) {
    await image; // when the download failed, its error is the reason
    throw error;
  }
  return "The image was copied.";
}

/**
 * Copy the address of the image, which needs no key; return a message with its expiry. Throws UmrgenError and
 * DOMException.
 * @param {Umrgen} umrgen
 * @param {JobEntry} entry
 */
export async function copyLink(umrgen, entry) {
  // A signed address expires: copy a new one.
  const status = await umrgen.job(entry.id).status();
  const url = imageUrlOf(umrgen, { ...entry, status });
  if (!url) throw new OutputMissing("the server no longer has this image", { jobId: entry.id });
  await navigator.clipboard.writeText(url);
  const expires = Number(new URL(url).searchParams.get("expires"));
  const until = expires ? `until ${date(expires * 1000)}` : "as long as the server keeps the image";
  return `The link was copied. It works without a key, ${until}.`;
}

/**
 * Open the share sheet with the image. Throws UmrgenError; closing the sheet is no error.
 * @param {Umrgen} umrgen
 * @param {JobEntry} entry
 */
export async function share(umrgen, entry) {
  const file = await downloadedFile(umrgen, entry);
  try {
    await navigator.share({ files: [file], title: entry.request.prompt.slice(0, 80) });
  } catch (error) {
    if (!(error instanceof DOMException && error.name === "AbortError")) throw error;
  }
  return "";
}

/** The clipboard accepts PNG only. @param {File} file @returns {Promise<Blob>} */
async function asPng(file) {
  if (file.type === "image/png") return file;
  const bitmap = await createImageBitmap(file);
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  canvas.getContext("2d")?.drawImage(bitmap, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}
