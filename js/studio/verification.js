// Verifying an image file: the marks in the file, read on this page, and the answer of the server.
import { inspect } from "../src/provenance.js";
import { date } from "./format.js";

/** @import { Umrgen } from "../src/index.js" */
/** @import { Marks } from "../src/provenance.js" */

/** Seconds for a verification, with the waits that a busy server requests. */
const TIMEOUT = 30;

/** @typedef {Awaited<ReturnType<Umrgen["verify"]>>} Answer */
/** @typedef {{title: string, known: boolean, facts: [string, string][], note: string, jobId: string | null}} Verdict */

/**
 * Verify an image file; the server does not store it. Throws UmrgenError.
 * @param {Umrgen} umrgen
 * @param {Blob} file
 * @param {AbortSignal} signal
 * @returns {Promise<Verdict>}
 */
export async function verdictOf(umrgen, file, signal) {
  const answer = await umrgen.verify(file, { timeout: TIMEOUT, signal });
  return describe(answer, await inspect(file));
}

const TITLES = {
  exact: "This server made this file",
  similar: "This server made a similar image",
  no: "This server does not know this image",
};

const PROVES_NOTHING = "That proves nothing: a screenshot or another program removes marks, and the image may be from elsewhere.";

/**
 * @param {Answer} answer
 * @param {Marks} marks
 * @returns {Verdict}
 */
function describe(answer, marks) {
  /** @type {[string, string][]} */
  const facts = [["Made here", madeHere(answer)]];
  if (answer.createdAt !== null) facts.push(["Made on", date(answer.createdAt)]);
  if (answer.engine) facts.push(["Engine", answer.engine]);
  facts.push(["Marks", marks.mark === "none" ? "None found in the file" : marks.reason], ["Signature", signature(answer.manifest)]);
  if (answer.watermark) facts.push(["Watermark", `Found: ${answer.watermark}`]);
  const known = answer.madeHere !== "no";
  const isUnmarked = marks.mark === "none" && !answer.manifest.present;
  const note = known ? "" : isUnmarked ? `No mark was found. ${PROVES_NOTHING}` : "That the server does not know it proves nothing.";
  return { title: TITLES[answer.madeHere], known, facts, note, jobId: answer.jobId };
}

/** @param {Answer} answer */
function madeHere({ madeHere: made, distance }) {
  if (made === "exact") return "Exactly this file";
  if (made === "no") return "Not known";
  return distance === null ? "A similar image" : `A similar image: ${distance} of 256 bits differ`;
}

/** @param {Answer["manifest"]} manifest */
function signature({ present, valid, signer, trusted }) {
  if (!present) return "None";
  if (!valid) return "Not valid: the file was changed after it was signed, or the signature is damaged";
  const trust = trusted ? "a signer that this server trusts" : "not among the signers that this server trusts";
  return `Valid, by ${signer ?? "an unnamed signer"}: ${trust}`;
}
