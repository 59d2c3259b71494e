// Everything that can go wrong, as one tree: the same one, with the same codes, as the Python client's.
//
//   UmrgenError
//   ├── ApiError                the server answered, and the answer is a refusal or makes no sense
//   │   ├── Unauthorized        401: the key is missing or not accepted
//   │   ├── Forbidden           403 on an API call
//   │   ├── JobNotFound         404 on a job
//   │   ├── RateLimited         429: asked too often, or the queue is full
//   │   │   └── ConcurrencyLimit  429: another job is in the way; `jobId` says which
//   │   ├── InvalidRequest      400, 413, 415, 422: the request itself must change
//   │   │   └── ContentPolicy   400: the prompt was refused
//   │   ├── ServerError         5xx
//   │   ├── NotUmrgen           the answer is not this API's (a tunnel's HTML page, an empty body, ...)
//   │   └── Unsupported         this server has no such call
//   ├── ConnectionFailed        no answer at all
//   ├── JobFailed               the job ended `failed`; `code` is its `error_code`
//   ├── JobStalled              `running`, and nothing has changed for `stallAfter` seconds
//   ├── WaitTimeout             the deadline passed; the job is still alive
//   ├── OutputMissing           `completed`, but there is no image to be had
//   ├── OutputForbidden         the image is there, and this client may not have it
//   ├── OutputCorrupt           what was downloaded is not the whole, true image
//   └── TargetUnusable          the file cannot be written where it should go (umrgen/node)

/**
 * What an error may be given beside its message; what is left out is its class's own.
 * @typedef {object} Details
 * @property {string} [code] a stable word
 * @property {boolean} [retryable]
 * @property {string | null} [jobId]
 * @property {string} [next]
 * @property {number} [status]
 * @property {unknown} [cause]
 */

/** Something went wrong. `words` is what a class says when nobody says more. */
export class UmrgenError extends Error {
  static words = "Something went wrong.";
  static code = "error";
  static next = "";
  static retryable = false;

  /**
   * @param {string} [message]
   * @param {Details} [details]
   */
  constructor(message, { code, retryable, jobId, next, status, cause } = {}) {
    const kind = new.target;
    super(message || kind.words, cause === undefined ? undefined : { cause });
    this.name = kind.name;
    /** A stable word for what went wrong. */
    this.code = code || kind.code;
    /** Whether the same call may succeed later. */
    this.retryable = retryable ?? kind.retryable;
    /** The job it is about, if there is one. @type {string | null} */
    this.jobId = jobId ?? null;
    /** What to do now, in words. */
    this.next = next ?? kind.next;
    /** The HTTP status of the answer, if there was one. @type {number | null} */
    this.status = status ?? null;
    /** Whether a submit may have arrived all the same. */
    this.sent = false;
    /** Whether the server itself named the code, as newer ones do. */
    this.coded = false;
  }
}

export class ApiError extends UmrgenError {
  static words = "The server refused the request.";
  static code = "api_error";
}

export class Unauthorized extends ApiError {
  static words = "The server does not accept this API key.";
  static code = "unauthorized";
  static next = "Use a key of this server; its operator makes one with `umrgen keys create`.";
}

export class Forbidden extends ApiError {
  static words = "The server forbids this call to this key.";
  static code = "forbidden";
  static next = "Ask the server's operator what this key may do.";
}

export class JobNotFound extends ApiError {
  static words = "The server knows no such job.";
  static code = "job_not_found";
  static next = "Check the id and the server; a job belongs to the key that made it.";
}

export class RateLimited extends ApiError {
  static words = "The server is asked too often.";
  static code = "rate_limited";
  static next = "Wait, then try again.";
  static retryable = true;
}

export class ConcurrencyLimit extends RateLimited {
  static words = "The server runs no further job for this key now.";
  static code = "concurrent_limit";
  static next = "Wait for the job in `jobId` to end, or submit with waitForSlot.";
}

export class InvalidRequest extends ApiError {
  static words = "The server does not take this request as it is.";
  static code = "invalid_request";
  static next = "Correct what the message names.";
}

export class ContentPolicy extends InvalidRequest {
  static words = "The server's content policy refuses this prompt.";
  static code = "content_policy";
  static next = "Say it in other words.";
}

export class ServerError extends ApiError {
  static words = "The server failed to answer.";
  static code = "server_error";
  static next = "Try again later; a job that was made is not lost by this.";
  static retryable = true;
}

export class NotUmrgen extends ApiError {
  static words = "What answered is not an UMRGEN server.";
  static code = "not_umrgen";
  static next = "Check the base URL; a tunnel may answer in the server's place.";
}

export class Unsupported extends ApiError {
  static words = "This server has no such call.";
  static code = "unsupported";
  static next = "Use a newer server for this, or do without it.";
}

/** The server cannot be reached. */
export class ConnectionFailed extends UmrgenError {
  static code = "connection_failed";
  static next = "Check the address, the network and that the server runs.";
  static retryable = true;
}

/** The job failed. */
export class JobFailed extends UmrgenError {
  static code = "job_failed";
  static next = "Read the reason; submit again if it may go better.";
}

/** The job is running, and nothing changes. */
export class JobStalled extends UmrgenError {
  static code = "job_stalled";
  static next = "Wait on, or cancel it.";
  static retryable = true;
}

/** Waited long enough; the job is still alive. */
export class WaitTimeout extends UmrgenError {
  static code = "wait_timeout";
  static next = "Carry on with umrgen.job(jobId).";
  static retryable = true;
}

/** The job is completed, and there is no image. */
export class OutputMissing extends UmrgenError {
  static code = "output_missing";
  static next = "Submit the job again.";
}

/** The server does not give this image to this client. */
export class OutputForbidden extends UmrgenError {
  static code = "output_forbidden";
  static next = "Use image_url exactly as the status gave it, with its session_id.";
}

/** What was downloaded is not the whole image. */
export class OutputCorrupt extends UmrgenError {
  static code = "output_corrupt";
  static next = "Fetch it again.";
  static retryable = true;
}

/** The image cannot be saved there. */
export class TargetUnusable extends UmrgenError {
  static code = "target_unusable";
}
