// The calls of the page that are not part of the API, so that they do not use the client: sign-in and devices.
import { parseObject } from "../src/responses.js";

/** Seconds for a call. */
const TIMEOUT = 30;

/** A call of the page failed; the message is for the user. */
export class PageCallFailed extends Error {}

/**
 * Send a request of the page; return the JSON object of the response. Throws PageCallFailed.
 * @param {string} url
 * @param {RequestInit} init
 * @returns {Promise<Record<string, any>>}
 */
export async function pageCall(url, init) {
  const signal = AbortSignal.timeout(TIMEOUT * 1000);
  const response = await fetch(url, { ...init, credentials: "same-origin", redirect: "error", signal }).catch(() => null);
  if (!response) throw new PageCallFailed("The server cannot be reached. Check that it is running, then try again");
  const body = parseObject(await response.text().catch(() => ""));
  if (response.ok && body) return body;
  if (typeof body?.error === "string") throw new PageCallFailed(body.next ? `${body.error}. ${body.next}` : body.error);
  throw notUmrgen(response.status);
}

/** Return the error for another server's response. @param {number} status */
export function notUmrgen(status) {
  return new PageCallFailed(`The response is not from an UMRGEN server (HTTP ${status})`);
}
