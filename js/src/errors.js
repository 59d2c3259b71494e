// The errors, as one tree, with the same names and codes as in the Python client.
//
//   UmrgenError
//   ├── ApiError                an error response, or an invalid one
//   │   ├── Unauthorized        401: the API key is missing or not accepted
//   │   ├── Forbidden           403 on an API call
//   │   ├── JobNotFound         404 on a job
//   │   ├── RateLimited         429: too many requests, or the queue is full
//   │   │   └── ConcurrencyLimit  429: too many jobs of this key; `jobId` is one of them
//   │   ├── InvalidRequest      400, 413, 415, 422: the request is invalid
//   │   │   └── ContentPolicy   400: the prompt is not allowed
//   │   ├── ServerError         5xx
//   │   ├── NotUmrgen           the response is not this API's (a tunnel's HTML page, an empty body, ...)
//   │   └── Unsupported         the server does not support this call
//   ├── ConnectionFailed        no response
//   ├── JobFailed               the job ended `failed`; `code` is its `error_code`
//   ├── JobStalled              `running` without a change for `stallAfter` seconds
//   ├── WaitTimeout             the deadline passed; the job continues
//   ├── OutputMissing           `completed`, but the image does not exist
//   ├── OutputForbidden         the server refuses the image to this client
//   ├── OutputCorrupt           the downloaded file is incomplete or damaged
//   └── TargetUnusable          the image cannot be saved at the chosen path (umrgen/node)

import { printable } from "./text.js";

/**
 * The properties of an error besides its message; the class has a default for each.
 * @typedef {object} Details
 * @property {string} [code] a stable identifier
 * @property {boolean} [retryable]
 * @property {string | null} [jobId]
 * @property {string} [next]
 * @property {number} [status]
 */

/** The base class of all errors. */
export class UmrgenError extends Error {
  /** The message of an error that is created without one. */
  static defaultMessage = "An error occurred.";
  static code = "error";
  static next = "";
  static retryable = false;

  /**
   * @param {string} [message]
   * @param {Details} [details]
   */
  constructor(message, { code, retryable, jobId, next, status } = {}) {
    const kind = new.target;
    // The one place through which each text from elsewhere passes on its way to a user.
    super(printable(message || kind.defaultMessage));
    this.name = kind.name;
    /** The stable identifier of the kind of error. */
    this.code = code || kind.code;
    /** Whether the same call may succeed later. */
    this.retryable = retryable ?? kind.retryable;
    /** The id of the job, if any. @type {string | null} */
    this.jobId = jobId ?? null;
    /** Advice for the user. */
    this.next = printable(next ?? kind.next);
    /** The HTTP status of the response, if any. @type {number | null} */
    this.status = status ?? null;
    /** Whether a failed submit may still have created a job. */
    this.sent = false;
    /** Whether `code` is from the response, as newer servers send it. */
    this.coded = false;
  }
}

export class ApiError extends UmrgenError {
  static defaultMessage = "The server refused the request.";
  static code = "api_error";
}

export class Unauthorized extends ApiError {
  static defaultMessage = "The server does not accept this API key.";
  static code = "unauthorized";
  static next = "Use a key of this server; its operator makes one with `umrgen keys create`.";
}

export class Forbidden extends ApiError {
  static defaultMessage = "The server does not allow this call.";
  static code = "forbidden";
  static next = "Contact the server's operator.";
}

export class JobNotFound extends ApiError {
  static defaultMessage = "The server has no such job.";
  static code = "job_not_found";
  static next = "Check the id and the server; a job belongs to the key that created it.";
}

export class RateLimited extends ApiError {
  static defaultMessage = "Too many requests to the server.";
  static code = "rate_limited";
  static next = "Wait, then try again.";
  static retryable = true;
}

export class ConcurrencyLimit extends RateLimited {
  static defaultMessage = "This key has too many jobs.";
  static code = "concurrent_limit";
  static next = "Wait for the job in `jobId` to end, or submit with waitForSlot.";
}

export class InvalidRequest extends ApiError {
  static defaultMessage = "The server does not accept this request.";
  static code = "invalid_request";
  static next = "Correct the fields in the message.";
}

export class ContentPolicy extends InvalidRequest {
  static defaultMessage = "The server's content policy refuses this prompt.";
  static code = "content_policy";
  static next = "Change the prompt.";
}

export class ServerError extends ApiError {
  static defaultMessage = "The server failed to handle the request.";
  static code = "server_error";
  static next = "Try again later; an existing job is not affected.";
  static retryable = true;
}

export class NotUmrgen extends ApiError {
  static defaultMessage = "The response is not from an UMRGEN server.";
  static code = "not_umrgen";
  static next = "Check the base URL; a tunnel or proxy may have sent the response.";
}

export class Unsupported extends ApiError {
  static defaultMessage = "This server does not support this call.";
  static code = "unsupported";
  static next = "Use another server.";
}

/** The server cannot be reached. */
export class ConnectionFailed extends UmrgenError {
  static code = "connection_failed";
  static next = "Check the address, the network and that the server is running.";
  static retryable = true;
}

/** The job failed. */
export class JobFailed extends UmrgenError {
  static code = "job_failed";
  static next = "Submit the job again if a new attempt may succeed.";
}

/** The job is running, but has not changed for a long time. */
export class JobStalled extends UmrgenError {
  static code = "job_stalled";
  static next = "Continue to wait, or cancel the job.";
  static retryable = true;
}

/** The deadline passed; the job continues on the server. */
export class WaitTimeout extends UmrgenError {
  static code = "wait_timeout";
  static next = "Continue with umrgen.job(jobId).";
  static retryable = true;
}

/** The job is completed, but it has no image. */
export class OutputMissing extends UmrgenError {
  static code = "output_missing";
  static next = "Submit the job again.";
}

/** The server refuses this image to this client. */
export class OutputForbidden extends UmrgenError {
  static code = "output_forbidden";
  static next = "Use the image_url of the status unchanged, with its session_id.";
}

/** The downloaded file is not the complete image. */
export class OutputCorrupt extends UmrgenError {
  static code = "output_corrupt";
  static next = "Download it again.";
  static retryable = true;
}

/** The image cannot be saved at this path. */
export class TargetUnusable extends UmrgenError {
  static code = "target_unusable";
}
