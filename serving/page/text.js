// The panel that continues a text.

import { showCall } from "/page/calls.js";
import { byId, showProblem, Spoken, submitOn } from "/page/dom.js";
import { areValid, offerExamples, readSettings } from "/page/settings.js";
import { Answer, Controls, noteOf, write } from "/page/writing.js";

const PATH = "/v1/completions";

/** Open the panel. */
export function setUpText(info) {
  const [form, prompt] = [byId("text-form"), byId("prompt")];
  const controls = new Controls(byId("text-run"), byId("text-stop"));
  offerExamples(byId("prompt-examples"), prompt, info.kind === "text" ? info.prompts : []);
  if (info.kind === "text" && info.prompts.length) prompt.value = info.prompts[0];
  submitOn(prompt, form, (event) => event.ctrlKey || event.metaKey);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!controls.isRunning && areValid()) await run(info.name, prompt.value, controls);
  });
}

async function run(model, prompt, controls) {
  const body = { model, prompt, ...readSettings("text") };
  const count = body.n ?? 1;
  const answers = Array.from({ length: count }, (_, index) => {
    const name = count > 1 ? `Continuation ${index + 1} of ${count}` : "Continuation";
    return new Answer({ name, before: prompt, isScored: body.logprobs !== undefined });
  });
  showProblem(null);
  byId("text-outputs").replaceChildren(...answers.map((answer) => answer.element));
  const spoken = new Spoken();
  const onPart = (part) => {
    answers[part.index].push(part);
    if (part.index === 0) spoken.push(part.text);
  };
  try {
    const figures = await write(PATH, body, { signal: controls.begin(), onPart });
    for (const answer of answers) answer.end(noteOf(answer.reason, figures, body.stream));
  } catch (error) {
    const isStopped = error.name === "AbortError";
    for (const answer of answers) answer.end(isStopped ? "stopped" : "broken off");
    if (!isStopped) showProblem(error);
  } finally {
    controls.end();
    spoken.finish();
  }
  showCall({ path: PATH, json: body });
}
