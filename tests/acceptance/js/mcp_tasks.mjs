/**
 * `@modelcontextprotocol/ext-tasks`: draw one image as a task. The package checks each answer by the extension's schema;
 * it leaves to its host how a request is sent, which is done here by `fetch`.
 */
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { createTaskSessionFromClient, resultFromTaskOutcome } from "@modelcontextprotocol/ext-tasks/client";

const settings = JSON.parse(process.argv[2]);
const VERSION = "2026-07-28";
const clientInfo = { name: "a-host", version: "1" };
const headers = { Authorization: `Bearer ${settings.key}` };
const methods = [];

async function rawDispatch(request, options = {}) {
  methods.push(request.method);
  const response = await fetch(settings.url, {
    method: "POST",
    signal: options.signal,
    headers: {
      ...headers,
      "Content-Type": "application/json",
      Accept: "application/json, text/event-stream",
      "MCP-Protocol-Version": VERSION,
      "Mcp-Method": request.method,
      "Mcp-Name": request.params.name ?? request.params.taskId,
    },
    body: JSON.stringify({ jsonrpc: "2.0", id: methods.length, ...request }),
  });
  const text = await response.text();
  const isStream = response.headers.get("Content-Type").startsWith("text/event-stream");
  const messages = isStream ? text.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)) : [text];
  const { result, error } = JSON.parse(messages.at(-1));
  return error ? { kind: "error", error } : { kind: "result", result };
}

const client = new Client(clientInfo, { versionNegotiation: { mode: "auto" } });
await client.connect(new StreamableHTTPClientTransport(new URL(settings.url), { requestInit: { headers } }));
const session = createTaskSessionFromClient(client, {
  endpointId: "umrgen",
  rawDispatch,
  v2RequestFraming: { protocolVersion: VERSION, clientInfo, clientCapabilities: {} },
});
const outcomes = [];
for (const request of settings.requests) {
  const execution = await session.callTool("generate_image", request);
  const { outcome } = await execution.settle();
  outcomes.push(resultFromTaskOutcome(outcome));
}
console.log(JSON.stringify({ methods, outcomes }));
await session.close();
await client.close();
