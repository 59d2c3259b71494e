// ZIP files without compression (images are compressed already), as a stream of parts (APPNOTE 6.3.10).
import { crc32 } from "../src/images.js";

const LOCAL = 0x04034b50;
const CENTRAL = 0x02014b50;
const END = 0x06054b50;
/** Version 2.0, and the flag for names in UTF-8. */
const VERSION = 20;
const UTF8 = 0x0800;

/** The largest file: its fields have 32 bits. */
export const MAX_ZIP = 2 ** 32 - 1;

/** Writes a ZIP file part by part. */
export class ZipWriter {
  /** @type {Uint8Array<ArrayBuffer>[]} */
  #directory = [];
  #size = 0;
  #names = new Set();
  #write;

  /** @param {(part: Uint8Array<ArrayBuffer>) => unknown} write called with each part, in order */
  constructor(write) {
    this.#write = write;
  }

  /** Whether another file of this size fits. @param {number} bytes */
  hasSpace(bytes) {
    return this.#size + bytes + 0x10000 + this.#directory.length * 200 < MAX_ZIP && this.#directory.length < 0xffff;
  }

  /**
   * Add a file. A name that was used already gets a number.
   * @param {string} name
   * @param {Uint8Array<ArrayBuffer>} bytes
   * @param {Date} time
   */
  async add(name, bytes, time) {
    const encoded = new TextEncoder().encode(this.#unused(name));
    const size = bytes.length;
    // Common to both headers: version, flags, method 0, time, date, CRC, sizes, length of the name, no extra field.
    const common = [[2, VERSION], [2, UTF8], [2, 0], ...dosTime(time), [4, crc32(bytes)], [4, size], [4, size], [2, encoded.length], [2, 0]];
    const offset = this.#size;
    await this.#put(record([[4, LOCAL], ...common], encoded));
    await this.#put(bytes);
    this.#directory.push(record([[4, CENTRAL], [2, VERSION], ...common, [2, 0], [2, 0], [2, 0], [4, 0], [4, offset]], encoded));
  }

  /** Write the directory at the end of the file. */
  async finish() {
    const start = this.#size;
    for (const entry of this.#directory) await this.#put(entry);
    const count = this.#directory.length;
    await this.#put(record([[4, END], [2, 0], [2, 0], [2, count], [2, count], [4, this.#size - start], [4, start], [2, 0]]));
  }

  /** @param {Uint8Array<ArrayBuffer>} part */
  async #put(part) {
    await this.#write(part);
    this.#size += part.length;
  }

  /** @param {string} name */
  #unused(name) {
    let unused = name;
    for (let number = 2; this.#names.has(unused); number++) unused = name.replace(/(\.\w+)?$/, `-${number}$1`);
    this.#names.add(unused);
    return unused;
  }
}

/**
 * Return little-endian fields, each `[bytes, value]`, and a name after them.
 * @param {number[][]} fields
 * @param {Uint8Array} [name]
 */
function record(fields, name = new Uint8Array()) {
  const size = fields.reduce((sum, [bytes]) => sum + bytes, 0);
  const result = new Uint8Array(size + name.length);
  const view = new DataView(result.buffer);
  let at = 0;
  for (const [bytes, value] of fields) {
    if (bytes === 2) view.setUint16(at, value, true);
    else view.setUint32(at, value, true);
    at += bytes;
  }
  result.set(name, size);
  return result;
}

/** Return time and date as MS-DOS wrote them: local, in steps of two seconds. @param {Date} time */
function dosTime(time) {
  const seconds = (time.getHours() << 11) | (time.getMinutes() << 5) | (time.getSeconds() >> 1);
  const days = (Math.max(0, time.getFullYear() - 1980) << 9) | ((time.getMonth() + 1) << 5) | time.getDate();
  return [[2, seconds], [2, days]];
}
