// The text chunks of a PNG file (W3C specification, third edition, section 11.3.3).

const SIGNATURE = "\x89PNG\r\n\x1a\n";
/** Bytes of the longest text that is read, so that a small file cannot unpack to a large one. */
const MAX_TEXT = 1 << 20;

/**
 * Return the texts of a PNG file by their keyword; an empty map for another file.
 * @param {Uint8Array<ArrayBuffer>} bytes
 * @returns {Promise<Map<string, string>>}
 */
export async function pngTexts(bytes) {
  const texts = new Map();
  if (latin1(bytes.subarray(0, 8)) !== SIGNATURE) return texts;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let at = 8; at + 12 <= bytes.length; ) {
    const end = at + 12 + view.getUint32(at);
    if (end > bytes.length) break;
    const name = latin1(bytes.subarray(at + 4, at + 8));
    const found = await CHUNKS[name]?.(bytes.subarray(at + 8, end - 4));
    if (found) texts.set(...found);
    at = end;
  }
  return texts;
}

/** @type {Record<string, (chunk: Uint8Array<ArrayBuffer>) => Promise<[string, string] | null>>} */
const CHUNKS = {
  async tEXt(chunk) {
    const [key, text] = split(chunk);
    return [key, latin1(text)];
  },
  async zTXt(chunk) {
    const [key, rest] = split(chunk);
    const text = await inflated(rest.subarray(1));
    return text && [key, latin1(text)];
  },
  async iTXt(chunk) {
    const [key, rest] = split(chunk);
    const [, afterLanguage] = split(rest.subarray(2));
    const [, body] = split(afterLanguage);
    const text = rest[0] ? await inflated(body) : body;
    return text && [key, new TextDecoder().decode(text)];
  },
};

/**
 * Divide bytes at the first zero.
 * @param {Uint8Array<ArrayBuffer>} bytes
 * @returns {[string, Uint8Array<ArrayBuffer>]}
 */
function split(bytes) {
  const end = bytes.indexOf(0);
  return end < 0 ? ["", bytes] : [latin1(bytes.subarray(0, end)), bytes.subarray(end + 1)];
}

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

/** @param {Uint8Array} bytes */
function latin1(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 4096) text += String.fromCharCode(...bytes.subarray(at, at + 4096));
  return text;
}
