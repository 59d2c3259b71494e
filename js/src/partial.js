// The partial file of a download, in the folder of its target: renamed only when it is complete.
import { access, constants, link, open, readFile, rename, stat, unlink } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { TargetUnusable } from "./errors.js";
import { hex } from "./images.js";

/** @import { FileHandle } from "node:fs/promises" */
/** @import { Sink } from "./retrieval.js" */

/**
 * Throw TargetUnusable when `target` cannot be written; called before any request.
 * @param {string} target
 * @param {boolean} overwrite
 */
export async function checkTarget(target, overwrite) {
  const folder = dirname(target);
  if (!(await isFolder(folder))) {
    throw new TargetUnusable(`the folder ${folder} does not exist`, { next: "Create it." });
  }
  await access(folder, constants.W_OK | constants.X_OK);
  if (await isFolder(target)) throw new TargetUnusable(`${target} is a folder`, { next: "Choose a file in it." });
  if (!overwrite && (await exists(target))) throw targetExists(target);
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
function targetExists(target) {
  const next = "Choose another name, or allow overwrite.";
  return new TargetUnusable(`${target} already exists`, { code: "target_exists", next });
}

/**
 * Return TargetUnusable for an error of the file system; any other error unchanged.
 * @param {any} error
 * @param {string} target
 */
export function translateDiskError(error, target) {
  if (!error?.syscall || error instanceof TargetUnusable) return error;
  const full = error.code === "ENOSPC" || error.code === "EDQUOT";
  return new TargetUnusable(`${target} cannot be written (${error.code})`, {
    code: full ? "disk_full" : undefined,
    next: full ? "Free disk space, then fetch the image again." : "Choose another path.",
  });
}

/** A sink that writes to a partial file. @implements {Sink} */
export class PartialFile {
  #path;
  #size = 0;
  /** @type {FileHandle | null} */
  #file = null;

  /** @param {string} target */
  constructor(target) {
    const suffix = hex(crypto.getRandomValues(new Uint8Array(10)));
    // Shortened, so that the name is not too long when the target's is not.
    this.#path = join(dirname(target), `.${basename(target).slice(0, 50)}.${suffix}.part`);
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
   * Sync the file, then rename it to `target` atomically; without `overwrite`, never replace another file.
   * @param {string} target
   * @param {boolean} overwrite
   */
  async publish(target, overwrite) {
    await this.#file?.sync();
    await this.#close();
    await (overwrite ? rename(this.#path, target) : renameWithoutReplacing(this.#path, target));
    await syncFolder(dirname(target));
  }

  /** Remove the partial file. */
  async discard() {
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
    // The error is EEXIST, or that of a file system without hard links.
    if (await exists(target)) throw targetExists(target);
    await rename(source, target);
    return;
  }
  await unlink(source);
}

/**
 * Store the new name, so that it survives a power cut. Folders cannot be synced on Windows, which does it itself.
 * @param {string} folder
 */
async function syncFolder(folder) {
  const handle = await open(folder, "r").catch(() => null);
  await handle?.sync().catch(() => {});
  await handle?.close();
}
