/** `@ai-sdk/mcp`, which has no time limit: the caller sets one of 60 s, as an abort signal. */
import { createMCPClient } from "@ai-sdk/mcp";

import { draw, settings } from "./agent.mjs";

const LIMIT_MS = 60_000;

const client = await createMCPClient({
  transport: { type: "http", url: settings.url, headers: { Authorization: `Bearer ${settings.key}` } },
});
const tools = await client.tools();
await draw(
  (name, given) => tools[name].execute(given, { toolCallId: "1", messages: [], abortSignal: AbortSignal.timeout(LIMIT_MS) }),
  (error) => error.name === "AbortError" || error.name === "TimeoutError",
);
await client.close();
