// Wild responses against every call: only typed errors, in time, with printable texts and bounded bodies.
import assert from "node:assert/strict";
import { it } from "node:test";
import { folder } from "./support/servers.js";
import { ENDLESS, runCall, runWild, wildServer } from "./support/wild.js";

/** Answers in a quick run; the slow run has 100,000. */
const COUNT = Number(process.env.UMRGEN_WILD_ANSWERS ?? 1500);
/** Bytes of a body that the sockets may hold beyond the limit of the client. */
const MOST_UNREAD = 16 << 20;

it(`ends every call with a result or a typed error: ${COUNT} answers`, async () => {
  const { sent, violations } = await runWild(COUNT, Number(process.env.UMRGEN_WILD_SEED ?? 1));
  assert.deepEqual(violations, []);
  assert.ok(sent >= COUNT);
});

it("does not read an endless body to its end", async () => {
  const { state, close } = await wildServer();
  state.answers = [ENDLESS];
  const { problems } = await runCall(state.url, "status", folder());
  close();
  assert.deepEqual(problems, []);
  assert.ok(state.endless <= state.sent * MOST_UNREAD, `${state.endless} bytes in ${state.sent} responses`);
});

it("leaves no connection open after a body that its status does not allow", { timeout: 30_000 }, async () => {
  const { state, close } = await wildServer();
  const connections = () => process.getActiveResourcesInfo().filter((kind) => kind === "TCPSocketWrap").length;
  const before = connections();
  state.answers = [Buffer.from(`HTTP/1.1 204 OK\r\nContent-Length: 70000\r\n\r\n${"x".repeat(70_000)}`)];
  for (let calls = 0; calls < 10; calls++) await runCall(state.url, "status", folder());
  while (connections() > before + 6) await new Promise((resolve) => setImmediate(resolve));
  close();
});

it("ends at a time limit when the platform does not end the body", async () => {
  const { state, close } = await wildServer();
  const head = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 300000\r\n\r\n";
  state.answers = [Buffer.from(head + "x".repeat(300_000))];
  const { end, problems } = await runCall(state.url, "status", folder());
  close();
  assert.deepEqual(problems, []);
  assert.match(end, /^status: (ConnectionFailed|NotUmrgen)$/);
});
