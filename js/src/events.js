// The Server-Sent Events of a job: each change when it happens, with previews on request.
import { withTimeout } from "./clock.js";
import { RetryBudget } from "./context.js";
import { Unsupported } from "./errors.js";
import { API, RetryPolicy } from "./protocol.js";
import { isMissingEndpoint, MAX_BODY, parseObject, reportsMissingJob } from "./responses.js";
import { parseStatus } from "./status.js";
import { readText, TransportFailure } from "./transport.js";

/** @import { CallContext } from "./context.js" */
/** @import { Status } from "./status.js" */

/**
 * `status` when the state or the queue position has changed, `progress` for the steps in between, `preview` with a
 * small image as base64 in `data.data`.
 * @typedef {object} JobEvent
 * @property {"status" | "progress" | "preview"} type
 * @property {Record<string, any>} data
 * @property {Status | null} status with type `status`
 */

/** Twice the interval of 15 s in which a server sends something: without data for this long, the stream is closed. */
const IDLE_TIMEOUT = 30;

/**
 * Yield the events of a job until it is over. An interrupted stream is resumed after the last event.
 *
 * Throws Unsupported on servers without this call, JobNotFound, WaitTimeout and the errors of other responses.
 * @param {CallContext} context
 * @param {string} jobId
 * @param {boolean} preview
 * @param {boolean} seen whether the server has accepted this job or reported its status before
 * @returns {AsyncGenerator<JobEvent, void>}
 */
export async function* events(context, jobId, preview, seen) {
  const path = `${API}/events/${encodeURIComponent(jobId)}${preview ? "?preview=1" : ""}`;
  const policy = new RetryPolicy(context, jobId, new RetryBudget(context, context.options.patience), seen);
  let last = "";
  let streamed = false;
  for (let delay = 0; ;) {
    const controller = new AbortController();
    const onTimeout = () => controller.abort(new TransportFailure("no data in time", true));
    /** @type {<T>(work: () => Promise<T>) => Promise<T>} */
    const limited = (work) => withTimeout(context.clock, Math.min(IDLE_TIMEOUT, context.timeLeft), onTimeout, work);
    try {
      await context.pause(delay, jobId);
      /** @type {Record<string, string>} */
      const headers = { Accept: "text/event-stream" };
      if (last) headers["Last-Event-ID"] = last;
      const { transport, signal } = context;
      const response = await limited(() =>
        transport.open(transport.baseUrl + path, true, { headers }, controller, signal),
      );
      if (response.status === 204) return;
      if (response.status !== 200 || !/^text\/event-stream\b/i.test(response.headers.get("content-type") ?? "")) {
        const error = await limited(() => readText(response.body));
        delay = delayAfterError(context, response, error, policy, seen, streamed);
        continue;
      }
      delay = context.options.firstBackoff;
      for await (const { type, id, data, retry } of messages(response.body, limited)) {
        policy.reset();
        seen = streamed = true;
        if (/^[\x21-\x7e]{1,200}$/.test(id)) last = id; // a header can have it
        if (retry) delay = context.serverDelay(retry / 1000);
        const parsed = parseObject(data);
        if (!parsed || !/^(status|progress|preview)$/.test(type)) continue;
        const status = type === "status" ? parseStatus(parsed, jobId) : null;
        yield { type: /** @type {JobEvent["type"]} */ (type), data: parsed, status };
        if (status?.over) return;
      }
    } catch (failure) {
      delay = policy.delayAfterFailure(failure);
    } finally {
      controller.abort();
    }
  }
}

/**
 * Return the seconds until the retry after a response that is not a stream. Throws permanent errors.
 * @param {CallContext} context
 * @param {{status: number, headers: Headers}} response
 * @param {string} text
 * @param {RetryPolicy} policy
 * @param {boolean} seen
 * @param {boolean} streamed whether this server has sent events before
 */
function delayAfterError(context, { status, headers }, text, policy, seen, streamed) {
  const reply = { status, headers, text, json: parseObject(text), wall: context.clock.wall(), elapsed: 0 };
  try {
    // Of a job that was seen, only the server's own 404 is an end; but a server without this call responds with one too.
    const unsupported = !streamed && [404, 405, 501].includes(status);
    return policy.delayAfterError(reply, seen && !reportsMissingJob(reply) && !unsupported);
  } catch (error) {
    throw !streamed && isMissingEndpoint(error) ? new Unsupported("this server does not support /events", { status }) : error;
  }
}

/**
 * The messages of an event stream (WHATWG HTML, section 9.2). A stream that ends within one drops it. A lone CR,
 * which the standard allows too, ends no line here: no server of ours sends it. Throws TransportFailure for a message
 * of more than MAX_BODY characters.
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
    if (text.length + message.data.length > MAX_BODY) throw new TransportFailure("a message that is too long", true);
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
      else if (field === "retry") message.retry = /^\d{1,9}$/.test(value) ? Number(value) : 0;
    }
  }
}
