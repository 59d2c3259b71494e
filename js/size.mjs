// How large this package is where it counts: bundled and minified, in bytes, and as it travels.
import { gzipSync } from "node:zlib";
import { fileURLToPath } from "node:url";
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
  return { minified: outputFiles[0].contents.length, gzipped: gzipSync(outputFiles[0].contents, { level: 9 }).length };
}

console.log(JSON.stringify({ core: await size(["index.js"]), "core and node": await size(["index.js", "node.js"]) }));
