// What an image file states of itself, without a server: the record of UMRGEN and the source type of any program in XMP,
// the settings in the texts of a PNG, and whether the pixels are those that were marked. A mark is not signed: any program can write or remove it.
import { latin1, pngChunks, textAndRest } from "./bytes.js";
import { parametersOf } from "./parameters.js";
import { hex, sniff, verify } from "./images.js";
import { bytesOf } from "./references.js";
import { printable } from "./text.js";

/** @import { ReferenceImage } from "./references.js" */

/**
 * @typedef {object} Marks
 * @property {"marked" | "changed" | "none"} mark "marked": made by a program, and the pixels are those that were marked;
 * "changed": they were changed since, or the mark does not cover them; "none": no mark was found, which proves nothing
 * @property {string | null} sourceType IPTC's term for how the image was made
 * @property {Record<string, any> | null} record how it was made: prompt, seed, engine and more, of UMRGEN as it is in the
 * file, or the settings of AUTOMATIC1111
 * @property {string} reason a sentence for people
 * @property {boolean} hasManifest whether there is a C2PA manifest, which only a server or Python checks
 */

const SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/";
/** Characters of a packet, and of a record, that are read. */
const MAX_PACKET = 256 << 10;
const MAX_RECORD = 64 << 10;
const PNG_TEXTS = ["tEXt", "zTXt", "iTXt", "eXIf", "tIME", "caBX"];
const XMP_KEY = "XML:com.adobe.xmp";
const XMP_HEADER = "http://ns.adobe.com/xap/1.0/\0";
const UTF8 = new TextDecoder();

/**
 * The parts of a file; `texts`: those of a PNG that are not packed, by their keyword.
 * @typedef {{packets: string[], content: Uint8Array[], hasManifest: boolean, texts?: Map<string, string>}} Parts
 */

/** @type {Record<string, (bytes: Uint8Array) => Parts>} */
const PARTS = { "image/png": pngParts, "image/jpeg": jpegParts, "image/webp": webpParts };

/**
 * Return the marks in an image, offline. A file that is damaged, or no image, has none. Throws InvalidRequest for a file
 * that cannot be read, is empty, or has more than 10 MiB.
 * @param {ReferenceImage} image
 * @returns {Promise<Marks>}
 */
export async function inspect(image) {
  const bytes = await bytesOf(image);
  const type = sniff(bytes);
  try {
    if (type === "image/png") await verify(bytes); // a part of the others is read too
    return await marksOf(PARTS[/** @type {string} */ (type)](bytes));
  } catch {
    return marks("none", "The file is damaged, or no image, so its marks cannot be read.");
  }
}

/** @param {Parts} parts */
async function marksOf({ packets, content, hasManifest, texts }) {
  if (packets.length > 1) {
    return marks("changed", "The file has several XMP packets, so none of them counts.", null, null, hasManifest);
  }
  const packet = packets.length && packets[0].length <= MAX_PACKET && !packets[0].includes("<!") ? packets[0] : "";
  const record = recordOf(property(packet, "umrgen:record") ?? "");
  const sourceType = record?.source_type ?? sourceTypeOf(packet);
  if (!record) {
    const other = recordOf(texts?.get("umrgen") ?? "") ?? parametersOf(texts?.get("parameters") ?? "");
    if (other) {
      const reason = "The file has the settings of a generator, which do not cover its pixels.";
      return marks("changed", reason, sourceType ?? other.source_type, other, hasManifest);
    }
    if (!sourceType) {
      return marks("none", "No mark was found. That proves nothing: a screenshot removes marks.", null, null, hasManifest);
    }
    const reason = `Another program states that the image is ${sourceType}.`;
    return marks("changed", reason, sourceType, null, hasManifest);
  }
  const what = sourceType === "trainedAlgorithmicMedia" ? "a model" : "a program without a model";
  const digest = await digestOf(content);
  const unchanged = digest !== null && digest === property(packet, "umrgen:digest");
  const pixels = unchanged ? "are those that were marked" : digest ? "were changed since" : "cannot be checked on this page";
  const reason = `UMRGEN states that ${what} made this image, and the pixels ${pixels}.`;
  return marks(unchanged ? "marked" : "changed", reason, sourceType, record, hasManifest);
}

/**
 * @param {Marks["mark"]} mark
 * @param {string} reason
 * @param {string | null} [sourceType]
 * @param {Record<string, any> | null} [record]
 * @returns {Marks}
 */
function marks(mark, reason, sourceType = null, record = null, hasManifest = false) {
  return { mark, sourceType, record, reason, hasManifest };
}

/** @param {string} text */
function recordOf(text) {
  try {
    const record = text.length <= MAX_RECORD ? JSON.parse(text) : null;
    return typeof record?.source_type === "string" ? { ...record, source_type: printable(record.source_type, 100) } : null;
  } catch {
    return null;
  }
}

/** @param {string} packet */
function sourceTypeOf(packet) {
  const value = property(packet, "Iptc4xmpExt:DigitalSourceType");
  return value?.startsWith(SOURCE_TYPES) ? printable(value.slice(SOURCE_TYPES.length), 100) : null;
}

/**
 * Return a simple property of a packet, written as an attribute or as an element, or null.
 * @param {string} packet
 * @param {string} name
 */
function property(packet, name) {
  const found = new RegExp(`\\s${name}\\s*=\\s*(?:"([^"<]*)"|'([^'<]*)')|<${name}>([^<]*)</${name}>`).exec(packet);
  return found ? unescaped(found[1] ?? found[2] ?? found[3]) : null;
}

/** @type {Record<string, string>} */
const ENTITIES = { lt: "<", gt: ">", amp: "&", quot: '"', apos: "'" };

/** @param {string} text */
function unescaped(text) {
  return text.replace(/&(?:(lt|gt|amp|quot|apos)|#(\d{1,7})|#x([\da-f]{1,6}));/gi, (whole, name, decimal, hexadecimal) => {
    if (name) return ENTITIES[name] ?? whole;
    const code = decimal ? Number(decimal) : Number.parseInt(hexadecimal, 16);
    return code <= 0x10ffff ? String.fromCodePoint(code) : whole;
  });
}

/** @param {Uint8Array[]} content */
async function digestOf(content) {
  if (!globalThis.crypto?.subtle) return null;
  const all = new Uint8Array(await new Blob(/** @type {any} */ (content)).arrayBuffer());
  return hex(new Uint8Array(await crypto.subtle.digest("SHA-256", all)));
}

/** @param {Uint8Array} bytes */
function viewOf(bytes) {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

/**
 * @param {Uint8Array} bytes a verified PNG
 * @returns {Parts}
 */
function pngParts(bytes) {
  const [packets, content] = [/** @type {string[]} */ ([]), /** @type {Uint8Array[]} */ ([])];
  const texts = new Map();
  let hasManifest = false;
  for (const { name, data, chunk } of pngChunks(bytes)) {
    hasManifest ||= name === "caBX";
    if (!PNG_TEXTS.includes(name)) content.push(chunk);
    const found = name === "tEXt" || name === "iTXt" ? textOf(name, data) : null;
    if (found?.[0] === XMP_KEY) packets.push(found[1]);
    if (found) texts.set(...found);
  }
  return { packets, content, hasManifest, texts };
}

/**
 * Return the keyword and the text of a chunk; null for a packed text, which is not read: a small file could have a long one.
 * @param {string} name
 * @param {Uint8Array} data
 * @returns {[string, string] | null}
 */
function textOf(name, data) {
  const [key, text] = textAndRest(data);
  if (name === "tEXt") return [key, latin1(text)];
  if (text[0] || text[1] || text.length < 2) return null;
  const [, translated] = textAndRest(text.subarray(2)); // after the language
  return [key, UTF8.decode(textAndRest(translated)[1])];
}

/**
 * @param {Uint8Array} bytes a JPEG
 * @returns {Parts}
 */
function jpegParts(bytes) {
  const [view, packets, content] = [viewOf(bytes), /** @type {string[]} */ ([]), /** @type {Uint8Array[]} */ ([])];
  let at = 2;
  let hasManifest = false;
  for (let end = 0; at + 4 <= bytes.length && bytes[at] === 0xff && bytes[at + 1] !== 0xda; at = end) {
    end = at + 2 + view.getUint16(at + 2);
    const marker = bytes[at + 1];
    const isXmp = marker === 0xe1 && latin1(bytes, at + 4, at + 4 + XMP_HEADER.length) === XMP_HEADER;
    if (isXmp) packets.push(UTF8.decode(bytes.subarray(at + 4 + XMP_HEADER.length, end)));
    hasManifest ||= marker === 0xeb && latin1(bytes, at + 4, at + 6) === "JP";
    // APP1 and above are metadata, but for Adobe's colour transform; so are comments.
    if (marker !== 0xfe && (marker < 0xe1 || marker > 0xef || marker === 0xee)) content.push(bytes.subarray(at, end));
  }
  if (at >= bytes.length) throw new RangeError("the JPEG has no image data");
  content.push(bytes.subarray(at));
  return { packets, content, hasManifest };
}

/**
 * @param {Uint8Array} bytes a WebP
 * @returns {Parts}
 */
function webpParts(bytes) {
  const [view, packets, content] = [viewOf(bytes), /** @type {string[]} */ ([]), /** @type {Uint8Array[]} */ ([])];
  let hasManifest = false;
  for (let at = 12, end = 0; at + 8 <= bytes.length; at = end) {
    const length = view.getUint32(at + 4, true);
    end = at + 8 + length + (length % 2);
    if (at + 8 + length > bytes.length) throw new RangeError("the WebP is truncated");
    const [name, body] = [latin1(bytes, at, at + 4), bytes.subarray(at + 8, at + 8 + length)];
    if (name === "XMP ") packets.push(UTF8.decode(body));
    hasManifest ||= name === "C2PA";
    if (!["XMP ", "EXIF", "VP8X", "C2PA"].includes(name)) content.push(bytes.subarray(at, at + 4), body);
  }
  return { packets, content, hasManifest };
}
