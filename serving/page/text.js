// The panel that continues a text.

import { showCall } from "/page/calls.js";
import { byId, make, showProblem, Spoken, submitOn } from "/page/dom.js";
import { areValid, offerExamples, readSettings } from "/page/settings.js";
import { Answer, Controls, figuresText, reasonText, write } from "/page/writing.js";

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
    if (!controls.isRunning && areValid("text")) await run(info.name, prompt.value, controls);
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
    const note = figuresText(figures, body.stream);
    const tokens = count > 1 ? null : (figures.usage?.completion_tokens ?? null);
    const limit = { tokens, most: body.max_tokens };
    for (const answer of answers) answer.end(reasonText(answer.reason, limit));
    if (count > 1) byId("text-outputs").append(make("p", { class: "note" }, `In all ${note}`));
    else answers[0].note.append(` · ${note}`);
  } catch (error) {
    const isStopped = error.name === "AbortError";
    for (const answer of answers) answer.end(isStopped ? "stopped" : "broken off");
    if (!isStopped) {
      if (answers.every((answer) => answer.text === "")) byId("text-outputs").replaceChildren();
      showProblem(error);
    }
  } finally {
    controls.end();
    spoken.finish();
  }
  showCall({ path: PATH, json: body });
}
