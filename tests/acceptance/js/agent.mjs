/**
 * The calls of a model that has read the tools' descriptions: it draws, repeats a call that was cut off, and waits.
 * A script that imports this gets its settings as JSON in its first argument, and prints one line when it is connected
 * and one with the outcome.
 */
export const settings = JSON.parse(process.argv[2]);

const MOST_CALLS = 200;

/**
 * Draw one image. `call(name, arguments)` calls a tool; `isCut(error)` is true for a time limit of the host.
 */
export async function draw(call, isCut) {
  console.log(JSON.stringify({ connected: true }));
  const outcome = { calls: 0, cut: 0, states: [], answer: {} };
  while (outcome.answer.state !== "completed") {
    if (++outcome.calls > MOST_CALLS) throw new Error(`not completed after ${MOST_CALLS} calls`);
    const { job_id } = outcome.answer;
    try {
      const result = await (job_id ? call("wait_for_job", { job_id }) : call("generate_image", settings.request));
      if (result.isError) throw new Error(JSON.stringify(result.content));
      outcome.answer = result.structuredContent;
      outcome.states.push(outcome.answer.state);
    } catch (error) {
      if (!isCut(error)) throw error;
      outcome.cut += 1;
    }
  }
  console.log(JSON.stringify(outcome));
}
