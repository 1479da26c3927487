// What texts and conversations share: an answer that grows, and can be stopped.

import { events, send, sendForJson } from "/page/api.js";
import { make } from "/page/dom.js";
import { scoresOf, TokenText } from "/page/tokens.js";

const REASONS = { stop: "complete", tool_calls: "a function is called" };

/** An answer on the page. name: what it is called; before: a text that stands before it. */
export class Answer {
  constructor({ name, before = "", isScored }) {
    this.text = "";
    this.reason = null;
    this.note = make("p", { class: "note" });
    this.written = make("span", { class: "written" });
    const prompt = before ? make("span", { class: "given" }, before) : null;
    this.tokens = isScored ? new TokenText(name, prompt) : null;
    const body = this.tokens?.element ?? make("div", { class: "text" }, prompt, this.written);
    this.element = make("article", { "aria-label": name, "aria-busy": "true" }, body, this.note);
  }

  push({ text, scores, reason }) {
    this.text += text;
    this.written.append(text);
    this.tokens?.push(scores);
    this.reason = reason ?? this.reason;
  }

  /** End the answer. note: a sentence about it. */
  end(note) {
    this.element.setAttribute("aria-busy", "false");
    this.note.textContent = note;
  }
}

/**
 * Send a request for texts, and pass on their parts as they come: onPart({index, text, scores,
 * reason}). Return figures: usage, seconds, and firstSeconds until the first part.
 */
export async function write(path, body, { signal, onPart }) {
  const began = performance.now();
  const seconds = () => (performance.now() - began) / 1000;
  let [firstSeconds, usage] = [null, null];
  const options = { json: body, signal };
  const take = (answer) => {
    firstSeconds ??= seconds();
    usage = answer.usage ?? usage;
    for (const choice of answer.choices) onPart(partOf(choice));
  };
  if (body.stream) for await (const event of events(await send(path, options))) take(event);
  else take(await sendForJson(path, options));
  return { usage, seconds: seconds(), firstSeconds };
}

function partOf(choice) {
  const message = choice.delta ?? choice.message;
  const text = choice.text ?? message.content ?? "";
  const calls = (message?.tool_calls ?? []).map((call) => JSON.stringify(call.function));
  return {
    index: choice.index,
    text: text + calls.join("\n"),
    scores: scoresOf(choice.logprobs),
    reason: choice.finish_reason,
  };
}

/**
 * Return why an answer has ended, in words. tokens: how many it has, null if that is not known; most:
 * how many were asked for.
 */
export function reasonText(reason, { tokens, most }) {
  if (reason !== "length") return REASONS[reason] ?? reason ?? "";
  if (tokens === null) return "the limit of tokens was reached";
  if (tokens < most) return "the model's context is full";
  return `the limit of ${tokensText(tokens)} was reached`;
}

function tokensText(count) {
  return count === 1 ? "1 token" : `${count} tokens`;
}

/** Return how many tokens were written, and how fast. */
export function figuresText({ usage, seconds, firstSeconds }, isStreamed) {
  const parts = [];
  if (usage !== null) {
    const count = usage.completion_tokens;
    parts.push(`${tokensText(count)} in ${seconds.toFixed(2)} s`);
    if (seconds > 0 && count > 1) parts.push(`${Math.round(count / seconds)} tokens/s`);
  }
  if (isStreamed && firstSeconds !== null) parts.push(`first after ${firstSeconds.toFixed(2)} s`);
  return parts.join(" · ");
}

/**
 * Two buttons: one that starts a run, and one that stops it. The focus stays with them, so a key that
 * is held would go on to the other button: its repetitions are dropped.
 */
export class Controls {
  constructor(run, stop) {
    this.run = run;
    this.stop = stop;
    this.controller = null;
    stop.addEventListener("click", () => this.controller?.abort());
    for (const button of [run, stop]) button.addEventListener("keydown", dropRepeated);
  }

  get isRunning() {
    return this.controller !== null;
  }

  /** Begin a run, and return the signal that the stop button gives. */
  begin() {
    this.controller = new AbortController();
    this.swap(this.run, this.stop);
    return this.controller.signal;
  }

  end() {
    this.controller = null;
    this.swap(this.stop, this.run);
  }

  swap(from, to) {
    const hasFocus = document.activeElement === from;
    to.disabled = false;
    if (hasFocus) to.focus();
    from.disabled = true;
  }
}

function dropRepeated(event) {
  if (event.repeat && event.key === "Enter") event.preventDefault();
}
