// The package: its size, public names and types, and that the documents are up to date with the code.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { it } from "node:test";
import { fileURLToPath } from "node:url";
import * as core from "../src/index.js";
import * as node from "../src/node.js";
import { sizes } from "../size.mjs";
import { folder } from "./support/servers.js";

const HERE = fileURLToPath(new URL("..", import.meta.url));
const read = (path) => readFileSync(join(HERE, path), "utf8");
const camel = (name) => name.replace(/_([a-z])/g, (_, letter) => letter.toUpperCase());

/** The rows of a page's tables whose first cell is in back-quotes. */
function rows(page) {
  const lines = read(page)
    .split("\n")
    .filter((line) => line.startsWith("| `"));
  const cells = lines.map((line) =>
    line
      .split("|")
      .slice(1, -1)
      .map((cell) => cell.trim().replace(/^`|`$/g, "")),
  );
  return new Map(cells.map(([first, ...rest]) => [first, rest]));
}

/** Python's constants in the documents; all other values are expressions in both languages. */
const CONSTANTS = new Map([
  ["True", true],
  ["False", false],
  ["None", null],
]);
const literal = (text) => (CONSTANTS.has(text) ? CONSTANTS.get(text) : Function(`return ${text}`)());

const ERRORS = Object.entries(core).filter(
  ([, kind]) => kind === core.UmrgenError || kind.prototype instanceof core.UmrgenError,
);

it("has the size that the README states", async () => {
  const { core: coreSize, "core and node": both } = await sizes();
  const kb = (bytes) => (bytes / 1024).toFixed(1);
  assert.ok(Number(kb(coreSize.gzipped)) <= 19, `the core has ${coreSize.gzipped} bytes`);
  assert.ok(Number(kb(both.gzipped)) <= 20, `core and node have ${both.gzipped} bytes`);
  const stated = `the core has **${kb(coreSize.gzipped)} KB**, with \`umrgen/node\` **${kb(both.gzipped)} KB** `;
  const plain = `(without gzip ${kb(coreSize.minified)} and ${kb(both.minified)} KB)`;
  assert.ok(read("README.md").includes(stated + plain), `the README should say: ${stated + plain}`);
});

it("declares its public names in one place", () => {
  assert.deepEqual(Object.keys(node).sort(), ["pollAndDownload", "saveImage"]);
  const names = Object.keys(core).filter((name) => !ERRORS.some(([error]) => error === name));
  assert.deepEqual(names.sort(), ["DEFAULTS", "Job", "Umrgen", "parseStatus", "sniff", "verify"]);
});

it("has the Python client's options, with its defaults", () => {
  const documented = rows("../docs/retrieval.md");
  documented.delete("connect_timeout"); // fetch has no such option
  assert.deepEqual([...documented.keys()].map(camel).sort(), Object.keys(core.DEFAULTS).sort());
  for (const [name, [value]] of documented) assert.equal(core.DEFAULTS[camel(name)], literal(value), name);
  const own = rows("README.md");
  for (const [name, value] of Object.entries(core.DEFAULTS)) assert.equal(literal(own.get(name)?.[0]), value, name);
});

it("has the Python client's errors, with their codes", () => {
  const documented = rows("../docs/errors.md");
  assert.deepEqual(
    ERRORS.map(([name]) => name).sort(),
    [...documented.keys()].filter((name) => /^[A-Z]/.test(name)).sort(),
  );
  const own = rows("README.md");
  for (const [name, Kind] of ERRORS) {
    const [code, , retryable] = documented.get(name);
    const error = new Kind();
    assert.deepEqual([error.name, error.code, error.retryable], [name, code, retryable === "yes"], name);
    assert.equal(own.get(name)?.[0], code, name);
    assert.ok(error.message.length > 10, name);
  }
});

it("uses Node modules only in umrgen/node", () => {
  const imports = (name) =>
    [...read(`src/${name}`).matchAll(/^(?:import|export) .* from "(.*)";$/gm)].map(([, from]) => from);
  for (const name of readdirSync(join(HERE, "src"))) {
    const allowed = name === "node.js" || name === "partial.js" ? /^(node:[a-z/]+|\.\/[a-z_]+\.js)$/ : /^\.\/[a-z_]+\.js$/;
    for (const from of imports(name)) assert.match(from, allowed, name);
    // `address.js` reads the environment where there is one; `references.js` opens a path where there are files.
    const code = read(`src/${name}`).replace("(globalThis).process?.env", "");
    if (!/^(node|partial)\.js$/.test(name)) assert.doesNotMatch(code, /\b(process|Buffer|require)\b/, name);
  }
});

it("has no import cycle", () => {
  const done = new Set();
  const visit = (name, trail) => {
    assert.ok(!trail.includes(name), [...trail, name].join(" -> "));
    if (done.has(name)) return;
    for (const [, from] of read(`src/${name}`).matchAll(/^(?:import|export) .* from "\.\/(.*)";$/gm))
      visit(from, [...trail, name]);
    done.add(name);
  };
  for (const name of readdirSync(join(HERE, "src"))) visit(name, []);
  assert.ok(done.size > 10);
});

it("has a lock file without registry addresses, and the version of the Python package", () => {
  const lock = read("package-lock.json");
  assert.doesNotMatch(lock, /resolved|:\/\/registry/);
  assert.match(lock, /integrity/);
  const { version, dependencies, license } = JSON.parse(read("package.json"));
  assert.deepEqual(
    [version, dependencies, license],
    [/__version__ = "(.*)"/.exec(read("../src/umrgen/__init__.py"))[1], undefined, "Apache-2.0"],
  );
});

it("has absolute links in package.json and the README", () => {
  const { homepage, repository, bugs } = JSON.parse(read("package.json"));
  for (const url of [homepage, bugs.url]) assert.match(url, /^https:\/\//);
  assert.equal(repository.directory, "js");
  for (const [, target] of read("README.md").matchAll(/\]\(([^)\s]+)\)/g)) assert.match(target, /^(https:\/\/|#)/);
});

it("works as an installed package, with types", () => {
  const directory = folder();
  const run = (command, ...args) => execFileSync(command, args, { cwd: directory, encoding: "utf8", stdio: "pipe" });
  const installed = join(directory, "node_modules", "umrgen");
  mkdirSync(installed, { recursive: true });
  const packed = run("npm", "pack", HERE, "--silent", "--pack-destination", directory).trim().split("\n").at(-1);
  run("tar", "-xzf", packed, "-C", installed, "--strip-components", "1");
  assert.deepEqual(readdirSync(installed).sort(), ["LICENSE", "README.md", "package.json", "src", "types"]);
  const use = `
    import { Umrgen, JobFailed, type Status } from "umrgen";
    import { saveImage } from "umrgen/node";
    const umrgen = new Umrgen({ baseUrl: "http://127.0.0.1", apiKey: "k", timeout: 60, onStall: "raise" });
    export async function main(signal: AbortSignal): Promise<number> {
      const job = await umrgen.submit("x", { width: 1024, signal });
      for await (const status of job) { const typed: Status = status; if (typed.step === null) continue; }
      await umrgen.submit("x", { references: ["a.png", new Blob([]), new Uint8Array(1)], seed: 1, onEvent: console.log });
      const saved = await saveImage(job, "x.png", { overwrite: true });
      const bytes: Uint8Array = (await umrgen.generate("x")).bytes;
      return saved.size + bytes.length + (await umrgen.jobs()).jobs.length;
    }
    export const failed = (error: unknown): string => (error instanceof JobFailed ? error.code : "");
  `;
  const options = [
    "--strict",
    "--noEmit",
    "--module",
    "nodenext",
    "--target",
    "es2022",
    "--lib",
    "es2023,dom",
    "--ignoreConfig",
  ];
  const tsc = (text) => {
    writeFileSync(join(directory, "use.mts"), text);
    return run(join(HERE, "node_modules", ".bin", "tsc"), ...options, "use.mts");
  };
  assert.equal(tsc(use), "");
  for (const [right, wrong] of [
    ['onStall: "raise"', 'onStall: "rise"'],
    ["timeout: 60", "timeOut: 60"],
    ["{ width: 1024, signal }", "{ widht: 1024, signal }"],
    ["{ width: 1024, signal }", '{ width: "1024", signal }'],
    ["{ width: 1024, signal }", "{ reference_images: [], signal }"],
    ["{ width: 1024, signal }", "{ references: [7], signal }"],
    ["overwrite: true", "overwrit: true"],
    ["typed.step === null", "typed.steps === null"],
    ["umrgen.jobs()", 'umrgen.jobs({ staet: "failed" })'],
  ]) {
    assert.ok(use.includes(right));
    assert.throws(() => tsc(use.replace(right, wrong)), `${wrong} must be a type error`);
  }
  const script =
    'import { Umrgen } from "umrgen"; import { saveImage } from "umrgen/node"; console.log(typeof Umrgen, typeof saveImage);';
  writeFileSync(join(directory, "use.mjs"), script);
  assert.equal(run(process.execPath, "use.mjs"), "function function\n");
});
