// A job as Server-Sent Events: every change as it happens, with previews for those who ask.
import { lacksCall } from "./answers.js";
import { API, Trouble } from "./calls.js";
import { within } from "./clock.js";
import { Unsupported } from "./errors.js";
import { Patience } from "./run.js";
import { Failure, object, textOf } from "./server.js";
import { parseStatus } from "./status.js";

/** @import { Run } from "./run.js" */
/** @import { Status } from "./status.js" */

/**
 * `status` when the state or the place has changed, `progress` for steps in between, `preview` with a small
 * picture as base64 in `data.data`.
 * @typedef {object} JobEvent
 * @property {"status" | "progress" | "preview"} type
 * @property {Record<string, any>} data
 * @property {Status | null} status with type `status`
 */

/** A server says that the line is open every 15 s; after twice that, it is not. */
const SILENCE = 30;

/**
 * What happens to a job, from now to its end. A line that breaks is taken up again from the last event.
 *
 * Throws Unsupported on servers without this call, JobNotFound, WaitTimeout and what the server refuses.
 * @param {Run} run
 * @param {string} jobId
 * @param {boolean} preview
 * @returns {AsyncGenerator<JobEvent, void>}
 */
export async function* events(run, jobId, preview) {
  const path = `${API}/events/${encodeURIComponent(jobId)}${preview ? "?preview=1" : ""}`;
  const trouble = new Trouble(run, jobId, new Patience(run, run.options.patience));
  let last = "";
  for (let delay = 0; ;) {
    await run.pause(delay, jobId);
    const cut = new AbortController();
    const late = () => cut.abort(new Failure("nothing came", true));
    /** @type {<T>(work: () => Promise<T>) => Promise<T>} */
    const soon = (work) => within(run.clock, Math.min(SILENCE, run.left), late, work);
    try {
      /** @type {Record<string, string>} */
      const headers = { Accept: "text/event-stream" };
      if (last) headers["Last-Event-ID"] = last;
      const { baseUrl } = run.server;
      const answer = await soon(() => run.server.open(baseUrl + path, true, { headers }, cut, run.signal));
      if (answer.status === 204) return;
      if (answer.status !== 200) {
        delay = await refused(run, answer, trouble);
        continue;
      }
      delay = run.options.firstBackoff;
      for await (const { type, id, data, retry } of messages(answer.body, soon)) {
        trouble.over();
        if (id) last = id;
        if (retry) delay = run.asked(retry / 1000);
        const told = object(data);
        if (!told || !/^(status|progress|preview)$/.test(type)) continue;
        const status = type === "status" ? parseStatus(told, jobId) : null;
        yield { type: /** @type {JobEvent["type"]} */ (type), data: told, status };
        if (status?.over) return;
      }
    } catch (failure) {
      delay = trouble.unanswered(failure);
    } finally {
      cut.abort();
    }
  }
}

/**
 * Seconds until the next try after an answer that is no stream. Throws what will not pass.
 * @param {Run} run
 * @param {{status: number, headers: Headers, body: AsyncIterable<Uint8Array>}} answer
 * @param {Trouble} trouble
 */
async function refused(run, { status, headers, body }, trouble) {
  const text = await textOf(body);
  try {
    return trouble.refused({ status, headers, text, json: object(text), wall: run.clock.wall(), elapsed: 0 });
  } catch (error) {
    throw lacksCall(error) ? new Unsupported("this server has no /events", { status }) : error;
  }
}

/**
 * The messages of an event stream (WHATWG HTML, section 9.2). A stream that ends within one drops it. A lone CR,
 * which the standard allows too, ends no line here: no server of ours sends it.
 * @param {AsyncGenerator<Uint8Array, void>} body
 * @param {<T>(work: () => Promise<T>) => Promise<T>} soon
 */
async function* messages(body, soon) {
  const decoder = new TextDecoder();
  let text = "";
  let message = { type: "message", id: "", data: "", retry: 0 };
  for (;;) {
    const { value, done } = await soon(() => body.next());
    if (done || !value) return;
    text += decoder.decode(value, { stream: true });
    const lines = text.split(/\r?\n/);
    text = lines.pop() ?? "";
    for (const line of lines) {
      if (!line) {
        yield message;
        message = { type: "message", id: "", data: "", retry: 0 };
        continue;
      }
      const [, field, value] = /^([^:]*):? ?(.*)$/.exec(line) ?? ["", "", ""];
      if (field === "event") message.type = value;
      else if (field === "id") message.id = value;
      else if (field === "data") message.data += message.data ? `\n${value}` : value;
      else if (field === "retry") message.retry = Number(value) || 0;
    }
  }
}
