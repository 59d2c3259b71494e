// The address and API key of a server, checked before the first request.
import { UmrgenError } from "./errors.js";
import { quoted } from "./text.js";

/**
 * Return the address and key of the server: the arguments, or in Node, Deno and Bun UMRGEN_BASE_URL and UMRGEN_API_KEY.
 * @param {string} [baseUrl]
 * @param {string} [apiKey]
 * @returns {[string, string | undefined]}
 */
export function configuredServer(baseUrl, apiKey) {
  const address = baseUrl ?? variable("UMRGEN_BASE_URL");
  if (address !== undefined) return [address, apiKey ?? variable("UMRGEN_API_KEY")];
  throw new UmrgenError("no server is configured", { code: "no_server", next: "Pass baseUrl, or set UMRGEN_BASE_URL." });
}

/** @param {string} name */
function variable(name) {
  try {
    return /** @type {any} */ (globalThis).process?.env?.[name] || undefined;
  } catch {
    return undefined; // Deno without the permission
  }
}

/**
 * Return the base URL without white space around it and without its trailing slash.
 * @param {unknown} baseUrl
 */
export function checkedAddress(baseUrl) {
  const url = typeof baseUrl === "string" ? baseUrl.trim() : "";
  if (!isAddress(url)) {
    const shown = quoted(url.replace(/\/\/[^/]*@/, "//…@")); // without a password
    const withScheme = `http://${url}`;
    const next =
      !/:\/\/|@/.test(url) && isAddress(withScheme)
        ? `Write the scheme: ${withScheme}, or with https:// for a server with TLS.`
        : "Use the form http://host:port or https://host/prefix.";
    throw new UmrgenError(`${shown} is not a server address`, { code: "bad_base_url", next });
  }
  const address = url.replace(/\/+$/, "");
  const end = /\/api(\/v1)?$/.exec(address);
  if (!end) return address;
  throw new UmrgenError(`the server address ${address} ends with ${end[0]}, which the client adds itself`, {
    code: "bad_base_url",
    next: `Use ${address.slice(0, end.index)}.`,
  });
}

/** @param {string} url */
function isAddress(url) {
  if (url.length > 2000 || /[^\x21-\x7e]|\\/.test(url.replace(/[\u00a1-\ud7ff\uf900-\ufffc]/g, ""))) return false;
  if (!URL.canParse(url)) return false;
  const { protocol, search, hash, username, password } = new URL(url);
  return /^https?:$/.test(protocol) && !search && !hash && !username && !password;
}

/**
 * Return the key without white space around it. The error does not show the key, nor a part of it.
 * @param {unknown} apiKey
 */
export function checkedKey(apiKey) {
  const key = typeof apiKey === "string" ? apiKey.trim() : apiKey == null ? "" : "\0";
  const wrong = key.search(/[^\x21-\x7e]/);
  if (wrong < 0) return key;
  const where = `its character ${wrong + 1} of ${key.length} is not a printable ASCII character`;
  throw new UmrgenError(`the API key cannot be sent: ${where}`, {
    code: "bad_api_key",
    next: "Copy the key again, without line breaks and spaces; it begins with umr_.",
  });
}
