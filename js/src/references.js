// Reference images: from a Blob, bytes or a file, and the form of their upload.
import { InvalidRequest } from "./errors.js";
import { hex, sniff } from "./images.js";
import { quoted } from "./text.js";

/** A path or file URL can be read in Node, Deno and Bun only. @typedef {Blob | ArrayBuffer | Uint8Array | string | URL} ReferenceImage */

/** The largest upload that a server accepts (contract, section 2), in bytes. */
const MAX_BYTES = 10 << 20;
/** @type {Record<string, string>} */
const EXTENSIONS = { "image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp" };
/** Not a constant of the import, so that bundlers for web pages leave it alone. */
const FILES = "node:fs/promises";

/**
 * Return the form of an upload. The file has a unique name with the extension of its content: the first servers store
 * it under this name, and check the extension. Throws InvalidRequest for an image that no server would accept.
 * @param {ReferenceImage} image
 */
export async function uploadForm(image) {
  const bytes = await bytesOf(image);
  const type = sniff(bytes) ?? "application/octet-stream";
  const name = `reference-${hex(crypto.getRandomValues(new Uint8Array(16)))}${EXTENSIONS[type] ?? ""}`;
  const form = new FormData();
  form.append("file", new Blob([bytes], { type }), name);
  return form;
}

/**
 * Return the bytes of an image. Throws InvalidRequest for one that no server would accept.
 * @param {ReferenceImage} image
 */
export async function bytesOf(image) {
  if (image instanceof Blob) checkSize(image.size); // before a large file is read into memory
  const bytes = await readBytes(image);
  checkSize(bytes.length);
  return bytes;
}

/** @param {number} bytes */
function checkSize(bytes) {
  if (!bytes) throw new InvalidRequest("the image is empty");
  if (bytes <= MAX_BYTES) return;
  const sizes = `at most ${MAX_BYTES.toLocaleString("en")} bytes; got ${bytes.toLocaleString("en")}`;
  throw new InvalidRequest(`the image must have ${sizes}`);
}

/**
 * @param {ReferenceImage} image
 * @returns {Promise<Uint8Array<ArrayBuffer>>}
 */
async function readBytes(image) {
  if (typeof image === "string" || image instanceof URL) return readFile(image);
  if (image instanceof Blob) return readBlob(image);
  if (image instanceof ArrayBuffer || ArrayBuffer.isView(image)) return new Uint8Array(/** @type {any} */ (image)).slice();
  throw new TypeError("a reference image must be a Blob, an ArrayBuffer, a Uint8Array or a path");
}

/** @param {Blob} blob */
async function readBlob(blob) {
  try {
    return new Uint8Array(await blob.arrayBuffer());
  } catch {
    throw new InvalidRequest("the file cannot be read: it is a folder, or was moved, deleted or changed");
  }
}

/** @param {string | URL} path */
async function readFile(path) {
  try {
    const files = await import(/* @vite-ignore */ FILES);
    return new Uint8Array(await files.readFile(path));
  } catch (error) {
    const code = /** @type {any} */ (error)?.code;
    const why = /^E[A-Z0-9]+$/.test(code) ? ` (${code})` : "";
    const next = "Check the path; in a web page, pass the File of an input.";
    throw new InvalidRequest(`the reference image ${quoted(path, 200)} cannot be read${why}`, { next });
  }
}
