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

/** Return the parameters of a job, without its references. @param {JobEntry} entry */
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
  const files = entry.request.reference_images.map((_, index) => `--reference reference-${index + 1}.png`);
  const note = files.length ? "# reference-1.png and so on are the files of the reference images\n" : "";
  // After `--`, a prompt that begins with a dash is not read as an option.
  return `export UMRGEN_BASE_URL=${baseUrl}  # and UMRGEN_API_KEY
${note}umrgen generate \\
  ${[...options, ...files].join(" ")} \\
  -o ${quoted(fileName(entry))} \\
  -- ${quoted(entry.request.prompt)}`;
}

/**
 * Return the four steps of a job as commands with curl: submit, wait, find the image's address, download.
 * @param {string} baseUrl
 * @param {JobEntry} entry
 */
export function curl(baseUrl, entry) {
  const { prompt, reference_images: references } = entry.request;
  const body = JSON.stringify({ prompt, ...settings(entry), ...(references.length && { reference_images: references }) });
  const value = (/** @type {string} */ name) => `sed -n 's/.*"${name}": *"\\([^"]*\\)".*/\\1/p'`;
  return `server=${baseUrl}  # and UMRGEN_API_KEY in the environment
key="Authorization: Bearer $UMRGEN_API_KEY"
# 1. Submit${references.length ? "; the server keeps the reference images for some time" : ""}
job=$(curl -fsS "$server/api/v1/generate" -H "$key" -H 'Content-Type: application/json' \\
  -d ${quoted(body)} | ${value("job_id")})
# 2. Wait: a call lasts until the job is over, at most 25 seconds
while status=$(curl -fsS "$server/api/v1/status/$job" -H "$key" -H 'Prefer: wait=25')
  printf %s "$status" | grep -qE '"state": *"(queued|running)"'
do sleep 1; done
# 3. The address of the image; a failed job has none
image=$(printf %s "$status" | ${value("image_url")})
# 4. Download
curl -fsS "$server\${image:?$status}" -o ${quoted(fileName(entry))}`;
}

/**
 * Return a Python program.
 * @param {string} baseUrl
 * @param {JobEntry} entry
 */
export function python(baseUrl, entry) {
  const { reference_images: references } = entry.request;
  const given = { ...settings(entry), ...(references.length && { reference_images: references }) };
  const parameters = Object.entries(given).map(
    ([name, value]) => `    ${name}=${typeof value === "number" ? value : literal(value)},\n`,
  );
  return `from umrgen import Client  # UMRGEN_API_KEY in the environment

image = Client(${literal(baseUrl)}).generate(
    ${literal(entry.request.prompt)},
${parameters.join("")}    to=${literal(fileName(entry))},
)
print(image.path)`;
}
