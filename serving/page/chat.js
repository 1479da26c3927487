// The panel for a conversation.

import { showCall } from "/page/calls.js";
import { byId, make, showProblem, Spoken, submitOn } from "/page/dom.js";
import { areValid, offerExamples, readSettings } from "/page/settings.js";
import { Answer, Controls, figuresText, reasonText, write } from "/page/writing.js";

const PATH = "/v1/chat/completions";

/** Open the panel. */
export function setUpChat(info) {
  const [form, message] = [byId("chat-form"), byId("message")];
  const controls = new Controls(byId("chat-send"), byId("chat-stop"));
  const messages = [];
  offerExamples(byId("message-examples"), message, info.prompts);
  submitOn(message, form, (event) => !event.shiftKey);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!controls.isRunning && message.value.trim() && areValid("chat")) {
      await take(info.name, messages, message, controls);
    }
  });
  byId("chat-clear").addEventListener("click", () => {
    controls.controller?.abort();
    messages.length = 0;
    byId("conversation").replaceChildren();
    showProblem(null);
    message.focus();
  });
}

/** Take the user's turn, and the assistant's. messages: the conversation, which grows. */
async function take(model, messages, area, controls) {
  const said = { role: "user", content: area.value };
  const system = byId("system").value.trim();
  const opening = system ? [{ role: "system", content: system }] : [];
  const { max_tokens: most, ...settings } = readSettings("chat");
  const body = {
    model,
    messages: [...opening, ...messages, said],
    max_completion_tokens: most,
    ...settings,
  };
  const answer = new Answer({ name: "Answer", isScored: body.logprobs === true });
  const turns = [turn("user", make("div", { class: "text" }, said.content)), turn("assistant", answer.element)];
  const list = byId("conversation");
  showProblem(null);
  list.append(...turns);
  area.value = "";
  follow(list, true);
  const spoken = new Spoken();
  const onPart = (part) => {
    const isFollowed = list.scrollTop + list.clientHeight > list.scrollHeight - 40;
    answer.push(part);
    spoken.push(part.text);
    follow(list, isFollowed);
  };
  let isKept = true;
  try {
    const figures = await write(PATH, body, { signal: controls.begin(), onPart });
    const tokens = figures.usage?.completion_tokens ?? null;
    const reason = reasonText(answer.reason, { tokens, most });
    answer.end(`${reason} · ${figuresText(figures, body.stream)}`);
  } catch (error) {
    const isStopped = error.name === "AbortError";
    isKept = isStopped || answer.text !== "";
    answer.end(isStopped ? "stopped" : "broken off");
    if (!isStopped) showProblem(error);
  } finally {
    controls.end();
    spoken.finish();
  }
  showCall({ path: PATH, json: body });
  if (!turns[0].isConnected) return;
  if (isKept) {
    messages.push(said, { role: "assistant", content: answer.text });
    return;
  }
  for (const one of turns) one.remove();
  area.setRangeText(said.content + (area.value ? "\n" : ""), 0, 0, "preserve"); // Before what was typed.
}

function turn(role, content) {
  const name = role === "user" ? "You" : "Assistant";
  return make("li", { class: role }, make("p", { class: "role" }, name), content);
}

function follow(list, isFollowed) {
  if (isFollowed) list.scrollTop = list.scrollHeight;
}
