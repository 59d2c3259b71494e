// A picture's settings as commands for elsewhere. The key is never in them: it comes from the environment.
import { fileName } from "./save.js";

/** @import { Entry } from "./jobs.js" */

/** As a POSIX shell reads it back. @param {string} text */
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** A string as JSON has it is one in Python, too; all of it in ASCII. @param {string} text */
function literal(text) {
  const escaped = (/** @type {string} */ unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return JSON.stringify(text).replace(/[\u007f-\uffff]/g, escaped);
}

/** @param {Entry} entry */
function settings({ request, status }) {
  const { negative, width, height, steps } = request;
  return { ...(negative && { negative }), width, height, steps, ...(status.seed !== null && { seed: status.seed }) };
}

/**
 * @param {string} baseUrl
 * @param {Entry} entry
 */
export function cli(baseUrl, entry) {
  const options = Object.entries(settings(entry)).map(
    ([name, value]) => `--${name} ${typeof value === "string" ? quoted(value) : value}`,
  );
  // A prompt that begins with a dash is no option.
  return `export UMRGEN_BASE_URL=${baseUrl}  # and UMRGEN_API_KEY
umrgen generate \\
  ${options.join(" ")} \\
  -o ${quoted(fileName(entry))} \\
  -- ${quoted(entry.request.prompt)}`;
}

/**
 * @param {string} baseUrl
 * @param {Entry} entry
 */
export function curl(baseUrl, entry) {
  const body = JSON.stringify({ prompt: entry.request.prompt, ...settings(entry) });
  return `curl -sS ${baseUrl}/api/v1/generate \\
  -H "Authorization: Bearer $UMRGEN_API_KEY" \\
  -H 'Content-Type: application/json' \\
  -d ${quoted(body)}`;
}

/**
 * @param {string} baseUrl
 * @param {Entry} entry
 */
export function python(baseUrl, entry) {
  const given = Object.entries(settings(entry)).map(
    ([name, value]) => `    ${name}=${typeof value === "string" ? literal(value) : value},\n`,
  );
  return `from umrgen import Client  # UMRGEN_API_KEY in the environment

image = Client(${literal(baseUrl)}).generate(
    ${literal(entry.request.prompt)},
${given.join("")}    to=${literal(fileName(entry))},
)
print(image.path)`;
}
