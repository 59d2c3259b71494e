// The four steps of the API with only `fetch`: submit, poll, build the URL, download.
//
//     UMRGEN_BASE_URL=... UMRGEN_API_KEY=... node plain_fetch.mjs "a lighthouse at dusk"
import { writeFile } from "node:fs/promises";

const baseUrl = process.env.UMRGEN_BASE_URL.replace(/\/$/, "");
const headers = { Authorization: `Bearer ${process.env.UMRGEN_API_KEY}`, "Content-Type": "application/json" };

async function call(path, options = {}) {
  const response = await fetch(baseUrl + path, { headers, ...options });
  const body = await response.json();
  if (!response.ok) throw new Error(`${response.status}: ${body.error}`);
  return body;
}

const { job_id } = await call("/api/v1/generate", {
  method: "POST",
  body: JSON.stringify({ prompt: process.argv[2] }),
});

let job;
while ((job = await call(`/api/v1/status/${job_id}`)).state !== "completed") {
  if (job.state === "failed") throw new Error(`job ${job_id} failed: ${job.error}`);
  await new Promise((resolve) => setTimeout(resolve, job.retry_after_ms));
}

const image = await fetch(baseUrl + job.image_url);
if (!image.ok) throw new Error(`the image: ${image.status}`);
await writeFile(`${job_id}.png`, Buffer.from(await image.arrayBuffer()), { flag: "wx" });
console.log(`${job_id}.png`);
