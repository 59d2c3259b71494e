// Finding a job by its id: the job's status has no request, which is in lists only.
import { JobNotFound } from "../src/index.js";
import { isJobId } from "../src/responses.js";

/** @import { Umrgen } from "../src/index.js" */
/** @import { Jobs } from "./jobs.js" */

const PAGE = 200;
/** Pages in which an old job is searched on servers that cannot list jobs by their time. */
const MAX_PAGES = 25;

/**
 * Return the entry of a job; undefined when this key has no such job. Throws UmrgenError.
 * @param {Umrgen} umrgen
 * @param {Jobs} jobs
 * @param {string} id
 */
export async function findEntry(umrgen, jobs, id) {
  if (!isJobId(id)) return undefined;
  if (jobs.get(id)) return jobs.get(id);
  try {
    const { raw } = await umrgen.job(id).status();
    // Only servers that search have favorites.
    const times = "favorite" in raw ? { after: raw.created_at - 1, before: raw.created_at + 1 } : {};
    for (let page = 0, cursor = null; page < MAX_PAGES && !jobs.get(id); page++) {
      const found = await umrgen.jobs({ limit: PAGE, cursor, ...times });
      for (const status of found.jobs) if (status.jobId === id) jobs.update(status);
      cursor = found.nextCursor;
      if (!cursor) break;
    }
  } catch (error) {
    if (!(error instanceof JobNotFound)) throw error;
  }
  return jobs.get(id);
}
