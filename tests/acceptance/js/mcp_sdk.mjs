/** `@modelcontextprotocol/sdk` 1.x with its own time limit of a request, which is 60 s. */
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { ErrorCode } from "@modelcontextprotocol/sdk/types.js";

import { draw, settings } from "./agent.mjs";

const [command, ...args] = settings.command;
const transport =
  settings.transport === "stdio"
    ? new StdioClientTransport({ command, args, env: settings.env })
    : new StreamableHTTPClientTransport(new URL(settings.url), {
        requestInit: { headers: { Authorization: `Bearer ${settings.key}` } },
      });
const client = new Client({ name: "a-host", version: "1" });
await client.connect(transport);
await draw(
  (name, given) => client.callTool({ name, arguments: given }),
  (error) => error.code === ErrorCode.RequestTimeout,
);
await client.close();
