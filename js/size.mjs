// The size of this package in bytes: bundled and minified, with and without gzip.
import { argv } from "node:process";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

/** @param {string[]} modules */
async function size(modules) {
  const contents = modules.map((name) => `export * from "./src/${name}";`).join("");
  const { outputFiles } = await build({
    stdin: { contents, resolveDir: fileURLToPath(new URL(".", import.meta.url)) },
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    external: ["node:*"],
    write: false,
  });
  const [{ contents: bytes }] = outputFiles;
  return { minified: bytes.length, gzipped: gzipSync(bytes, { level: 9 }).length };
}

export async function sizes() {
  return { core: await size(["index.js"]), "core and node": await size(["index.js", "node.js"]) };
}

if (argv[1] === fileURLToPath(import.meta.url)) console.log(JSON.stringify(await sizes(), null, 2));
