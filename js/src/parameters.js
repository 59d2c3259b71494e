// The text in which AUTOMATIC1111's web UI, and tools after it, write the settings of an image into a PNG.

const NEGATIVE = "Negative prompt: ";
const SETTING = /\s*([\w ]+):\s*("(?:\\.|[^"\\])*"|[^,]*)(?:,|$)/g;

/**
 * Return the record in a text of this form, with the names of UMRGEN's record; null for another text. The source type is
 * that of a model.
 * @param {string} text
 * @returns {Record<string, any> | null}
 */
export function parametersOf(text) {
  const lines = text.trim().split("\n");
  const found = (lines.pop() ?? "").matchAll(SETTING);
  const settings = new Map(Array.from(found, ([, name, value]) => [name.trim(), value.trim().replace(/^"+|"+$/g, "")]));
  if (!settings.has("Steps")) return null;
  const head = lines.join("\n");
  const at = head.indexOf(NEGATIVE);
  const [prompt, negative] = at < 0 ? [head, ""] : [head.slice(0, at), head.slice(at + NEGATIVE.length)];
  const [width, height] = (settings.get("Size") ?? "").split("x");
  const record = {
    source_type: "trainedAlgorithmicMedia",
    model: settings.get("Model"),
    prompt: prompt.trim(),
    negative: negative.trim(),
    seed: number(settings.get("Seed"), /^\d{1,15}$/),
    steps: number(settings.get("Steps"), /^\d{1,15}$/),
    cfg: number(settings.get("CFG scale"), /^\d{1,6}(\.\d{1,6})?$/),
    width: number(width, /^\d{1,15}$/),
    height: number(height, /^\d{1,15}$/),
    batch: 1,
  };
  return Object.fromEntries(Object.entries(record).filter(([, value]) => value !== null && value !== undefined && value !== ""));
}

/**
 * @param {string | undefined} text
 * @param {RegExp} form
 */
function number(text, form) {
  return text && form.test(text) ? Number(text) : null;
}
