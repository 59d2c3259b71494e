// The text chunks of a PNG file (W3C specification, third edition, section 11.3.3).
import { latin1, pngChunks, textAndRest } from "../src/bytes.js";
import { sniff } from "../src/images.js";

/** Bytes of the longest text that is read, so that a small file cannot unpack to a large one. */
const MAX_TEXT = 1 << 20;

/**
 * Return the texts of a PNG file by their keyword; an empty map for another file.
 * @param {Uint8Array<ArrayBuffer>} bytes
 * @returns {Promise<Map<string, string>>}
 */
export async function pngTexts(bytes) {
  const texts = new Map();
  if (sniff(bytes) !== "image/png") return texts;
  for (const { name, data } of pngChunks(bytes)) {
    const found = await CHUNKS[name]?.(data);
    if (found) texts.set(...found);
  }
  return texts;
}

/** @type {Record<string, (chunk: Uint8Array<ArrayBuffer>) => Promise<[string, string] | null>>} */
const CHUNKS = {
  async tEXt(chunk) {
    const [key, text] = textAndRest(chunk);
    return [key, latin1(text)];
  },
  async zTXt(chunk) {
    const [key, rest] = textAndRest(chunk);
    const text = await inflated(rest.subarray(1));
    return text && [key, latin1(text)];
  },
  async iTXt(chunk) {
    const [key, rest] = textAndRest(chunk);
    const [, afterLanguage] = textAndRest(rest.subarray(2));
    const [, body] = textAndRest(afterLanguage);
    const text = rest[0] ? await inflated(body) : body;
    return text && [key, new TextDecoder().decode(text)];
  },
};

/**
 * Return unpacked bytes; null for damaged or too long ones.
 * @param {Uint8Array<ArrayBuffer>} bytes
 */
async function inflated(bytes) {
  const parts = [];
  let size = 0;
  try {
    for await (const part of new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))) {
      parts.push(part);
      if ((size += part.length) > MAX_TEXT) return null;
    }
  } catch {
    return null;
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}
