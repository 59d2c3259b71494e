// The public names of `umrgen`.
export { Umrgen } from "./client.js";
export * from "./errors.js";
export { sniff, verify } from "./images.js";
export { Job } from "./job.js";
export { DEFAULTS } from "./options.js";
export { parseStatus } from "./status.js";

/** @typedef {import("./client.js").UmrgenOptions} UmrgenOptions */
/** @typedef {import("./client.js").Picture} Picture */
/** @typedef {import("./client.js").SubmitOptions} SubmitOptions */
/** @typedef {import("./clock.js").Clock} Clock */
/** @typedef {import("./events.js").JobEvent} JobEvent */
/** @typedef {import("./images.js").ImageFacts} ImageFacts */
/** @typedef {import("./job.js").CallOptions} CallOptions */
/** @typedef {import("./job.js").Image} Image */
/** @typedef {import("./options.js").Options} Options */
/** @typedef {import("./references.js").ReferenceImage} ReferenceImage */
/** @typedef {import("./context.js").Event} Event */
/** @typedef {import("./status.js").Status} Status */
