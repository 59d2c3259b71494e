// Texts and chunks in the bytes of image files.

/**
 * Return bytes as ISO 8859-1; part by part, because a call has a limited number of arguments.
 * @param {Uint8Array} bytes
 */
export function latin1(bytes, from = 0, to = bytes.length) {
  const end = Math.min(to, bytes.length);
  let text = "";
  for (let at = from; at < end; at += 4096) text += String.fromCharCode(...bytes.subarray(at, Math.min(at + 4096, end)));
  return text;
}

/**
 * Return the text before the first zero, and the bytes after it; without a zero, no text and all bytes.
 * @template {ArrayBufferLike} T
 * @param {Uint8Array<T>} bytes
 * @returns {[text: string, rest: Uint8Array<T>]}
 */
export function textAndRest(bytes) {
  const end = bytes.indexOf(0);
  return end < 0 ? ["", bytes] : [latin1(bytes, 0, end), bytes.subarray(end + 1)];
}

/**
 * Yield the chunks of a PNG file, up to one that is cut off: their name, their data, and the whole chunk.
 * @template {ArrayBufferLike} T
 * @param {Uint8Array<T>} bytes
 * @returns {Generator<{name: string, data: Uint8Array<T>, chunk: Uint8Array<T>}, void>}
 */
export function* pngChunks(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let at = 8, end = 0; at + 12 <= bytes.length; at = end) {
    end = at + 12 + view.getUint32(at);
    if (end > bytes.length) return;
    yield { name: latin1(bytes, at + 4, at + 8), data: bytes.subarray(at + 8, end - 4), chunk: bytes.subarray(at, end) };
  }
}
