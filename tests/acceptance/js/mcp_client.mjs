/** `@modelcontextprotocol/client` 2.x with its own time limit of a request, which is 60 s. */
import { Client, SdkErrorCode, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { StdioClientTransport } from "@modelcontextprotocol/client/stdio";

import { draw, settings } from "./agent.mjs";

const [command, ...args] = settings.command;
const transport =
  settings.transport === "stdio"
    ? new StdioClientTransport({ command, args, env: settings.env })
    : new StreamableHTTPClientTransport(new URL(settings.url), {
        requestInit: { headers: { Authorization: `Bearer ${settings.key}` } },
      });
const client = new Client({ name: "a-host", version: "1" }, { versionNegotiation: { mode: settings.mode } });
await client.connect(transport);
await draw(
  (name, given) => client.callTool({ name, arguments: given }),
  (error) => error.code === SdkErrorCode.RequestTimeout,
);
await client.close();
