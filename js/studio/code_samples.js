// The commands and code for a job. The API key is not part of them: they read it from the environment.
import { fileName } from "./image_download.js";

/** @import { JobEntry } from "./jobs.js" */

/** Return a text quoted for a POSIX shell. @param {string} text */
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** Return a literal for Python: JSON in ASCII. @param {unknown} value */
function literal(value) {
  const escaped = (/** @type {string} */ unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return JSON.stringify(value).replace(/[\u007f-\uffff]/g, escaped);
}

/** Return the parameters of a job. @param {JobEntry} entry */
function settings({ request, status }) {
  const { negative, width, height, steps, model, cfg, loras } = request;
  return {
    ...(negative && { negative }),
    width,
    height,
    steps,
    ...(model && { model }),
    ...(cfg != null && { cfg }),
    ...(loras.length && { loras }),
    ...(status.seed !== null && { seed: status.seed }),
  };
}

/**
 * Return a command with the CLI.
 * @param {string} baseUrl
 * @param {JobEntry} entry
 */
export function cli(baseUrl, entry) {
  const { loras, ...others } = settings(entry);
  const options = Object.entries(others).map(
    ([name, value]) => `--${name} ${typeof value === "string" ? quoted(value) : value}`,
  );
  for (const { name, strength } of loras || []) options.push(`--lora ${quoted(`${name}:${strength}`)}`);
  // After `--`, a prompt that begins with a dash is not read as an option.
  return `export UMRGEN_BASE_URL=${baseUrl}  # and UMRGEN_API_KEY
umrgen generate \\
  ${options.join(" ")} \\
  -o ${quoted(fileName(entry))} \\
  -- ${quoted(entry.request.prompt)}`;
}

/**
 * Return a command with curl.
 * @param {string} baseUrl
 * @param {JobEntry} entry
 */
export function curl(baseUrl, entry) {
  const body = JSON.stringify({ prompt: entry.request.prompt, ...settings(entry) });
  return `curl -sS ${baseUrl}/api/v1/generate \\
  -H "Authorization: Bearer $UMRGEN_API_KEY" \\
  -H 'Content-Type: application/json' \\
  -d ${quoted(body)}`;
}

/**
 * Return a Python program.
 * @param {string} baseUrl
 * @param {JobEntry} entry
 */
export function python(baseUrl, entry) {
  const parameters = Object.entries(settings(entry)).map(
    ([name, value]) => `    ${name}=${typeof value === "number" ? value : literal(value)},\n`,
  );
  return `from umrgen import Client  # UMRGEN_API_KEY in the environment

image = Client(${literal(baseUrl)}).generate(
    ${literal(entry.request.prompt)},
${parameters.join("")}    to=${literal(fileName(entry))},
)
print(image.path)`;
}
