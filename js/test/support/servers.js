// The servers of the tests, as child processes: a real one, and ones with faults.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after } from "node:test";
import { fileURLToPath } from "node:url";

/** A Python interpreter in which umrgen's server is installed. */
const PYTHON = process.env.UMRGEN_PYTHON ?? "python3";

/** Return a new folder that is removed after the tests of this file. */
export function folder() {
  const path = mkdtempSync(join(tmpdir(), "umrgen-js-"));
  after(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

function python(...args) {
  const environment = Object.entries(process.env).filter(([name]) => !name.startsWith("UMRGEN_"));
  const child = spawn(PYTHON, args, { env: Object.fromEntries(environment), stdio: ["pipe", "pipe", "inherit"] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const line = async () => {
    const { value, done } = await lines.next();
    if (done) throw new Error(`${args.join(" ")} ended early`);
    return JSON.parse(value);
  };
  const ended = new Promise((resolve) => child.on("exit", resolve));
  return { child, line, ended };
}

/** Start `umrgen serve`; return its `url` and a `key`. */
export async function realServer(...args) {
  const state = join(folder(), "state");
  const { child, line, ended } = python("-m", "umrgen", "serve", "--json", "--port", "0", "--state", state, ...args);
  after(async () => {
    child.kill("SIGTERM");
    await ended;
  });
  const { url, key } = await line();
  while ((await fetch(`${url}/readyz`)).status !== 200);
  return { url, key };
}

/** Return a function that starts servers with faults; see tests/fault_servers.py. */
export function openFaultServers() {
  const { child, line, ended } = python(fileURLToPath(new URL("../../../tests/fault_servers.py", import.meta.url)));
  after(async () => {
    child.stdin.end();
    await ended;
  });
  let previous = Promise.resolve();
  const command = (request) => {
    const result = previous.then(() => {
      child.stdin.write(`${JSON.stringify(request)}\n`);
      return line();
    });
    previous = result.catch(() => {});
    return result;
  };

  /** @param {"modern" | "legacy"} mode */
  return async function start(mode, options = {}) {
    const { server, url, key } = await command({ start: { mode, ...options } });
    return {
      url,
      key,
      on: (pattern, faults, times = 1) => command({ server, on: pattern, faults, times }),
      refuse: (seconds) => command({ server, refuse: seconds }),
      restart: () => command({ server, restart: true }),
      state: () => command({ server, state: true }),
    };
  };
}
