// The rules of image files: the media type, and whether a file is complete. PNG (third edition of the W3C specification),
// JPEG (ITU T.81) and WebP (RFC 9649) are recognised by their content, never by a name.
import { latin1 } from "./bytes.js";
import { OutputCorrupt, OutputMissing } from "./errors.js";

/**
 * The properties of a verified file.
 * @typedef {object} ImageFacts
 * @property {string} mediaType
 * @property {string | null} sha256 hex; null where the platform has no digest (a page over plain HTTP)
 * @property {number | null} width in pixels, null when it cannot be read
 * @property {number | null} height
 */

/** @typedef {[number | null, number | null]} Size width and height */

/** @type {Record<string, (bytes: Uint8Array, view: DataView) => Size>} */
const CHECKS = { "image/png": checkPng, "image/jpeg": checkJpeg, "image/webp": checkWebp };

/**
 * Return the media type by the first bytes, or null.
 * @param {Uint8Array} head
 */
export function sniff(head) {
  const text = latin1(head, 0, 12);
  if (text.startsWith("\x89PNG\r\n\x1a\n")) return "image/png";
  if (text.startsWith("\xff\xd8\xff")) return "image/jpeg";
  return /^RIFF[^]{4}WEBP/.test(text) ? "image/webp" : null;
}

/**
 * Check that `bytes` are one complete image; return its properties. `length` is the number of bytes and `sha256` the
 * hex digest in the response's headers. Throws OutputMissing for an empty body, OutputCorrupt for any other mismatch.
 * @param {Uint8Array<ArrayBuffer>} bytes
 * @param {{length?: number | null, sha256?: string | null}} [announced]
 * @returns {Promise<ImageFacts>}
 */
export async function verify(bytes, { length, sha256 } = {}) {
  if (!bytes.length) throw new OutputMissing("the server sent an empty file");
  const mediaType = sniff(bytes);
  if (!mediaType) throw new OutputCorrupt(`expected an image, got ${describeContent(bytes)}`);
  if (length != null && length !== bytes.length) {
    throw new OutputCorrupt(`the image has ${bytes.length} bytes, but the server announced ${length}`);
  }
  const actual = await digest(bytes);
  if (sha256 && actual && sha256 !== actual) {
    throw new OutputCorrupt(`the image's SHA-256 is ${actual}, not ${sha256}`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const [width, height] = CHECKS[mediaType](bytes, view);
  return { mediaType, sha256: actual, width, height };
}

/**
 * Return the SHA-256 (hex) of the whole file by `Repr-Digest` (RFC 9530), or null. `Content-Digest` covers the whole
 * file only when the response is not a range (`partial`).
 * @param {Headers} headers
 * @param {boolean} partial
 */
export function digestFromHeaders(headers, partial) {
  for (const name of partial ? ["repr-digest"] : ["repr-digest", "content-digest"]) {
    // 32 bytes in base64: 43 characters and one for the padding.
    const found = /(?:^|,)\s*sha-256=:([A-Za-z0-9+/]{43}=):\s*(?=,|$)/.exec(headers.get(name) ?? "");
    if (found) return hex(Uint8Array.from(atob(found[1]), (character) => character.charCodeAt(0)));
  }
  return null;
}

/** @param {Uint8Array<ArrayBuffer>} bytes */
async function digest(bytes) {
  return globalThis.crypto?.subtle ? hex(new Uint8Array(await crypto.subtle.digest("SHA-256", bytes))) : null;
}

/** @param {Uint8Array} bytes */
export function hex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @param {Uint8Array} bytes */
function describeContent(bytes) {
  const first = latin1(bytes, 0, 256).trimStart()[0];
  return first === "<" ? "an HTML page" : first === "{" || first === "[" ? "JSON" : "a file that is not PNG, JPEG or WebP";
}

// --- PNG ---

const CRCS = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? (byte >>> 1) ^ 0xedb88320 : byte >>> 1;
  return byte;
});

/** Return the CRC-32 of bytes (ISO 3309). @param {Uint8Array} bytes */
export function crc32(bytes) {
  let crc = -1;
  for (const byte of bytes) crc = (crc >>> 8) ^ CRCS[(crc ^ byte) & 0xff];
  return ~crc >>> 0;
}

/**
 * @param {Uint8Array} bytes
 * @param {DataView} view
 * @returns {Size}
 */
function checkPng(bytes, view) {
  let hasImageData = false;
  for (let at = 8, end = 0; at + 12 <= bytes.length; at = end) {
    end = at + 12 + view.getUint32(at);
    if (end > bytes.length) break;
    if (view.getUint32(end - 4) !== crc32(bytes.subarray(at + 4, end - 4))) {
      throw new OutputCorrupt("the PNG is damaged: a chunk's checksum does not match");
    }
    const name = latin1(bytes, at + 4, at + 8);
    if (at === 8 && !(name === "IHDR" && end === 33)) throw new OutputCorrupt("the PNG has no header");
    hasImageData ||= name === "IDAT";
    if (name === "IEND") {
      if (end !== bytes.length) throw new OutputCorrupt("the PNG has bytes after its end");
      if (!hasImageData) throw new OutputCorrupt("the PNG has no image data");
      return [view.getUint32(16), view.getUint32(20)];
    }
  }
  throw new OutputCorrupt("the PNG is truncated");
}

// --- JPEG ---

/**
 * @param {Uint8Array} bytes
 * @param {DataView} view
 * @returns {Size}
 */
function checkJpeg(bytes, view) {
  let last = bytes.length;
  while (bytes[last - 1] === 0) last--; // some encoders add padding
  if (latin1(bytes, last - 2, last) !== "\xff\xd9") throw new OutputCorrupt("the JPEG is truncated");
  for (let at = 2; at + 9 <= bytes.length && bytes[at] === 0xff; at += 2 + view.getUint16(at + 2)) {
    const marker = bytes[at + 1];
    // The frame headers are C0 to CF, except for tables (C4), an extension (C8) and arithmetic coding (CC).
    if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) {
      return [view.getUint16(at + 7), view.getUint16(at + 5)];
    }
  }
  return [null, null];
}

// --- WebP ---

/**
 * @param {Uint8Array} bytes
 * @param {DataView} view
 * @returns {Size}
 */
function checkWebp(bytes, view) {
  if (view.getUint32(4, true) + 8 !== bytes.length) {
    throw new OutputCorrupt("the WebP is truncated or has bytes after its end");
  }
  if (bytes.length >= 30) {
    const bits = view.getUint32(21, true);
    switch (latin1(bytes, 12, 16)) {
      case "VP8X":
        return [(view.getUint32(24, true) & 0xffffff) + 1, (view.getUint32(26, true) >>> 8) + 1];
      case "VP8L":
        return [(bits & 0x3fff) + 1, ((bits >>> 14) & 0x3fff) + 1];
      case "VP8 ":
        return [view.getUint16(26, true) & 0x3fff, view.getUint16(28, true) & 0x3fff];
    }
  }
  throw new OutputCorrupt("the WebP has no image data");
}
