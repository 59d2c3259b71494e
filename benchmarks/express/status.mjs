// The status call on Express 4, at its least: bearer, lookup, JSON. The measure for `benchmarks/server.py status`.
import { readFileSync } from "node:fs";
import express from "express";

const [key, path] = process.argv.slice(2);
const jobs = new Map(Object.entries(JSON.parse(readFileSync(path, "utf8"))));
const app = express();
app.disable("x-powered-by");
app.use("/api", (request, response, next) => {
  if (request.headers.authorization !== `Bearer ${key}`) return response.status(401).json({ error: "Unauthorized" });
  next();
});
app.get("/api/v1/status/:id", (request, response) => {
  const job = jobs.get(request.params.id);
  if (!job) return response.status(404).json({ error: "Job not found" });
  response.json(job);
});
const server = app.listen(0, "127.0.0.1", () => console.log(server.address().port));
