// The reason of a failed job, in short: the first servers send up to 300 characters of ComfyUI's nested JSON.

/**
 * Return `error.message` and the first `details` of `node_errors` of ComfyUI's JSON; any other text unchanged.
 * @param {string} error
 */
export function shortReason(error) {
  const nested = error.replaceAll('\\"', '"');
  if (!/\{\s*"error"|"node_errors"/.test(nested)) return error;
  const [head, ...rest] = nested.split('"node_errors"');
  const nodes = rest.join('"node_errors"');
  const parts = [member("message", head) || member("message", nodes), member("details", nodes) || member("details", head)];
  return parts.filter(Boolean).join(": ") || error;
}

/**
 * Return the first value of a member that is not empty; one that was cut off ends with an ellipsis.
 * @param {string} name
 * @param {string} text
 */
function member(name, text) {
  for (const [, value, end] of text.matchAll(new RegExp(`"${name}"\\s*:\\s*"((?:[^"\\\\]|\\\\.)*)("?)`, "g"))) {
    if (value.trim()) return unescaped(value) + (end ? "" : "…");
  }
  return "";
}

/** @param {string} text */
function unescaped(text) {
  try {
    return JSON.parse(`"${text}"`).trim();
  } catch {
    return text.trim();
  }
}
