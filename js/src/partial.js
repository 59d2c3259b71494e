// The unfinished file beside a target: this process's own, and never seen under the final name.
import { access, constants, link, open, readFile, rename, stat, unlink } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { TargetUnusable } from "./errors.js";
import { hex } from "./images.js";

/** @import { FileHandle } from "node:fs/promises" */
/** @import { Sink } from "./fetching.js" */

/**
 * Throw TargetUnusable, before anything is asked of a server, when `target` cannot be written.
 * @param {string} target
 * @param {boolean} overwrite
 */
export async function checkTarget(target, overwrite) {
  const folder = dirname(target);
  if (!(await isFolder(folder))) throw new TargetUnusable(`there is no folder ${folder}`, { next: "Make it first." });
  await access(folder, constants.W_OK | constants.X_OK);
  if (await isFolder(target)) throw new TargetUnusable(`${target} is a folder`, { next: "Name a file in it." });
  if (!overwrite && (await exists(target))) throw taken(target);
}

/** @param {string} path */
export async function isFolder(path) {
  return (await stat(path).catch(() => null))?.isDirectory() ?? false;
}

/** @param {string} path */
async function exists(path) {
  return !!(await stat(path).catch(() => null));
}

/** @param {string} target */
function taken(target) {
  const next = "Choose another name, or allow overwrite.";
  return new TargetUnusable(`${target} exists already`, { code: "target_exists", next });
}

/**
 * The error for what the disk says about `target`; anything else stays what it is.
 * @param {any} error
 * @param {string} target
 */
export function diskTrouble(error, target) {
  if (!error?.syscall || error instanceof TargetUnusable) return error;
  const full = error.code === "ENOSPC" || error.code === "EDQUOT";
  return new TargetUnusable(`${target} cannot be written: ${error.message}`, {
    code: full ? "disk_full" : undefined,
    next: full ? "Make room, then fetch the image again." : "Choose another place.",
    cause: error,
  });
}

/** @implements {Sink} */
export class PartialFile {
  #path;
  #size = 0;
  /** @type {FileHandle | null} */
  #file = null;

  /** @param {string} target */
  constructor(target) {
    const mark = hex(crypto.getRandomValues(new Uint8Array(10)));
    // Cut, so that it fits into a file name wherever the target's own does.
    this.#path = join(dirname(target), `.${basename(target).slice(0, 50)}.${mark}.part`);
  }

  async begin() {
    this.#file ??= await open(this.#path, "wx");
    await this.#file.truncate(0);
    this.#size = 0;
  }

  /** @param {Uint8Array<ArrayBuffer>} chunk */
  async write(chunk) {
    for (let from = 0; this.#file && from < chunk.length;) {
      const { bytesWritten } = await this.#file.write(chunk, from, chunk.length - from, this.#size);
      from += bytesWritten;
      this.#size += bytesWritten;
    }
  }

  read() {
    return readFile(this.#path);
  }

  /**
   * Sync, then give the file its final name in one step, which never hides another file unless told.
   * @param {string} target
   * @param {boolean} overwrite
   */
  async publish(target, overwrite) {
    await this.#file?.sync();
    await this.#close();
    await (overwrite ? rename(this.#path, target) : renameWithoutReplacing(this.#path, target));
    await syncFolder(dirname(target));
  }

  /** Remove what is there. */
  async drop() {
    await this.#close();
    await unlink(this.#path).catch(() => {});
  }

  async #close() {
    await this.#file?.close();
    this.#file = null;
  }
}

/**
 * @param {string} source
 * @param {string} target
 */
async function renameWithoutReplacing(source, target) {
  try {
    await link(source, target);
  } catch (error) {
    // A file system without hard links fails in another way than one that has the name already.
    if (await exists(target)) throw taken(target);
    await rename(source, target);
    return;
  }
  await unlink(source);
}

/**
 * So that the new name survives a power cut; where a folder cannot be synced (Windows), the system does it.
 * @param {string} folder
 */
async function syncFolder(folder) {
  const handle = await open(folder, "r").catch(() => null);
  await handle?.sync().catch(() => {});
  await handle?.close();
}
