// Why a request got no response, in words of this package: the texts of the platform's exceptions are not shown.

const CLOSED = "the server closed the connection";
const PLAIN = "it responds without TLS at this port; use http:// if that is intended";
const UNTRUSTED = "its TLS certificate is signed by an authority that this machine does not trust";

/** The reason by the code of Node's, Deno's or Bun's error. */
const REASONS = new Map([
  ["ECONNREFUSED", "the connection was refused"],
  ["ConnectionRefused", "the connection was refused"],
  ["ENOTFOUND", "its host name has no address"],
  ["EAI_AGAIN", "its host name has no address at the moment"],
  ["ECONNRESET", CLOSED],
  ["EPIPE", CLOSED],
  ["UND_ERR_SOCKET", CLOSED],
  ["UND_ERR_CONNECT_TIMEOUT", "no connection in time"],
  ["ETIMEDOUT", "no connection in time"],
  ["UND_ERR_HEADERS_OVERFLOW", "the response has too many headers"],
  ["CERT_HAS_EXPIRED", "its TLS certificate has expired"],
  ["DEPTH_ZERO_SELF_SIGNED_CERT", "its TLS certificate is self-signed"],
  ["SELF_SIGNED_CERT_IN_CHAIN", UNTRUSTED],
  ["UNABLE_TO_VERIFY_LEAF_SIGNATURE", UNTRUSTED],
  ["UNABLE_TO_GET_ISSUER_CERT_LOCALLY", UNTRUSTED],
  ["ERR_TLS_CERT_ALTNAME_INVALID", "its TLS certificate is for another host name"],
  ["ERR_SSL_WRONG_VERSION_NUMBER", PLAIN],
  ["ERR_SSL_PACKET_LENGTH_TOO_LONG", PLAIN],
]);

/**
 * Return why a request failed.
 * @param {any} error
 */
export function failureReason(error) {
  const code = error?.cause?.code ?? error?.code;
  if (/^HPE_/.test(code)) return "the response is not valid HTTP; if the server uses TLS, use https://";
  const known = REASONS.get(code);
  if (known) return known;
  return /^[A-Z][A-Z0-9_]{2,40}$/.test(code) ? `the connection failed (${code})` : "the connection failed";
}

/**
 * Return whether a request failed before it was connected: Node reports that in `cause`, Bun in `code`, Deno in the
 * message. A browser does not report it; then the request may have reached the server.
 * @param {any} error
 */
export function wasNotSent(error) {
  const { code = "", syscall = "" } = error?.cause ?? error ?? {};
  return (
    /^(connect|getaddrinfo)$/.test(syscall) ||
    /^(ECONNREFUSED|ENOTFOUND|EAI_AGAIN|UND_ERR_CONNECT_TIMEOUT|ConnectionRefused)$/.test(code) ||
    /tcp connect error|dns error/.test(error?.message)
  );
}

/**
 * Return the advice for a page of another origin, whose browser does not report why it refused a response; or nothing
 * elsewhere.
 * @param {string} baseUrl
 */
export function crossOriginAdvice(baseUrl) {
  const page = globalThis.location?.origin;
  if (!page || page === "null" || page === new URL(baseUrl).origin) return "";
  return `Check the address and that the server is running; it must also list the origin of this page, ${page}, in allowed_origins (CORS).`;
}
