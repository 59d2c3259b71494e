// Text from elsewhere (servers, gateways, file names), made safe to print; and the patterns of its names.

/** The pattern of a job id, which is part of paths and file names. */
export const JOB_ID = /^[A-Za-z0-9_][A-Za-z0-9_.:-]{0,127}$/;
/** The pattern of a `code` or `error_code`. */
export const ERROR_CODE = /^[a-z][a-z0-9_]{0,63}$/;

/** White space and line breaks, also those that `\s` does not have. */
const SPACE = /[\s\x1c-\x1f\x85]/;
/** Characters that a terminal executes, hides or cannot encode: control and format characters, lone surrogates. */
const UNPRINTABLE = /[\p{C}\ufeff]|(?! )\p{Z}/gu;

/**
 * Return `text` as one line that a terminal only shows, of at most `limit` characters: white space becomes a space,
 * any other character that cannot be printed becomes U+FFFD.
 * @param {string} text
 * @param {number} [limit]
 */
export function printable(text, limit = 1000) {
  const shown = text.slice(0, 8 * limit).replace(UNPRINTABLE, (character) => {
    return character !== "\ufeff" && SPACE.test(character) ? " " : "\ufffd";
  });
  if (shown === text && text.length <= limit) return text;
  const line = Array.from(shown.slice(0, 4 * limit).replace(/ +/g, " ").trim());
  return line.length <= limit ? line.join("") : `${line.slice(0, limit - 1).join("")}…`;
}

/**
 * Return a value in quotes, as one line that a terminal only shows.
 * @param {unknown} value
 * @param {number} [limit]
 */
export function quoted(value, limit = 80) {
  return JSON.stringify(printable(String(value), limit));
}
