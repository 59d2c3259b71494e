// The servers of the tests, as child processes: the real one, and those that misbehave on demand.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after } from "node:test";
import { fileURLToPath } from "node:url";

/** The Python that has umrgen's server. */
const PYTHON = process.env.UMRGEN_PYTHON ?? "python3";

/** A folder that goes when the tests of this file are over. */
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

/** `umrgen serve` as a user starts it: its `url` and a `key`. */
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

/** Starts servers that misbehave on demand; see tests/stage.py. */
export function openStage() {
  const { child, line, ended } = python(fileURLToPath(new URL("../../../tests/stage.py", import.meta.url)));
  after(async () => {
    child.stdin.end();
    await ended;
  });
  let turn = Promise.resolve();
  const command = (told) => {
    const answer = turn.then(() => {
      child.stdin.write(`${JSON.stringify(told)}\n`);
      return line();
    });
    turn = answer.catch(() => {});
    return answer;
  };

  /** @param {"modern" | "legacy"} mode */
  return async function start(mode, options = {}) {
    const { server, url, key } = await command({ start: { mode, ...options } });
    return {
      url,
      key,
      on: (pattern, answers, times = 1) => command({ server, on: pattern, answers, times }),
      refuse: (seconds) => command({ server, refuse: seconds }),
      restart: () => command({ server, restart: true }),
      seen: () => command({ server, seen: true }),
    };
  };
}
