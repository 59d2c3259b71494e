// The parameters and times of a job.
import { date, exactDuration } from "./format.js";

/** @import { JobEntry } from "./jobs.js" */

/**
 * Return the parameters and times of a job.
 * @param {JobEntry} entry
 * @returns {[name: string, value: string][]}
 */
export function factsOf({ request, status, createdAt }) {
  const { started_at: started, completed_at: ended } = status.raw;
  /** @type {[string, string | null | undefined | false][]} */
  const all = [
    ["Negative prompt", request.negative],
    ["Size", `${request.width} × ${request.height}`],
    ["Steps", String(request.steps)],
    ["Model", request.model],
    ["Guidance", request.cfg == null ? null : String(request.cfg)],
    ["LoRAs", request.loras.map(({ name, strength }) => `${name} (${strength})`).join(", ")],
    ["Seed", status.seed === null ? null : String(status.seed)],
    ["References", request.reference_images.length > 0 && String(request.reference_images.length)],
    ["Engine", status.engine],
    ["Created", date(createdAt)],
    ["Duration", status.state === "completed" && started && ended ? exactDuration((ended - started) / 1000) : null],
  ];
  return /** @type {[string, string][]} */ (all.filter(([, value]) => value));
}
