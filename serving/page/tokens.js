// A text whose tokens are coloured by their probabilities, with the alternatives to each.

import { bars } from "/page/bars.js";
import { make } from "/page/dom.js";
import { percentText } from "/page/info.js";

/** A token is coloured by the first of these that its probability reaches; below all, the last. */
const LEVELS = [0.8, 0.5, 0.2, 0.05];

/**
 * Return the scores of a choice's log-probabilities, in either of OpenAI's forms: objects with
 * `text`, `score` and `others`, which are pairs of a text and its score. Scores are probabilities.
 */
export function scoresOf(logprobs) {
  if (!logprobs) return [];
  if (logprobs.content) {
    return logprobs.content.map((one) => ({
      text: one.token,
      score: Math.exp(one.logprob),
      others: one.top_logprobs.map(({ token, logprob }) => [token, Math.exp(logprob)]),
    }));
  }
  return logprobs.tokens.map((text, index) => ({
    text,
    score: Math.exp(logprobs.token_logprobs[index] ?? 0),
    others: Object.entries(logprobs.top_logprobs?.[index] ?? {}).map(([token, logprob]) => [
      token,
      Math.exp(logprob),
    ]),
  }));
}

/**
 * A text of coloured tokens: one stop of the tab key, and arrow keys from token to token. before: an
 * element that stands before them, or null.
 */
export class TokenText {
  constructor(name, before) {
    this.tokens = [];
    this.chosen = null;
    this.box = make("span", {
      class: "tokens",
      role: "listbox",
      "aria-label": `${name}: tokens by probability; arrow keys move`,
      "aria-orientation": "horizontal",
      onkeydown: (event) => this.move(event),
    });
    this.details = make("div", { class: "alternatives", role: "status" });
    const text = make("div", { class: "text" }, before, this.box);
    this.element = make("div", { class: "scored" }, text, legend(), this.details);
    this.details.append(make("p", { class: "muted" }, "Point at a token to see its alternatives."));
  }

  push(scores) {
    for (const score of scores) {
      const number = this.tokens.length;
      const token = make(
        "span",
        {
          class: `token level-${levelOf(score.score)}`,
          role: "option",
          tabindex: number === 0 ? 0 : -1,
          "aria-label": `${named(score.text)}, ${percentText(score.score)}`,
          "aria-selected": "false",
          onmouseenter: () => this.choose(number),
          onfocus: () => this.choose(number),
          onclick: () => this.choose(number),
        },
        visible(score.text),
      );
      this.tokens.push({ token, score });
      this.box.append(token);
    }
  }

  choose(number) {
    if (this.chosen === number) return;
    this.tokens[this.chosen]?.token.setAttribute("aria-selected", "false");
    this.chosen = number;
    const { token, score } = this.tokens[number];
    token.setAttribute("aria-selected", "true");
    const others = score.others.some(([text]) => text === score.text)
      ? score.others
      : [[score.text, score.score], ...score.others];
    this.details.classList.add("filled");
    this.details.replaceChildren(
      make("p", {}, make("b", {}, named(score.text)), ` had ${percentText(score.score)}`),
      bars(
        others.map(([text, value]) => ({ label: named(text), score: value })),
        { label: "Alternatives", chosen: named(score.text) },
      ),
    );
  }

  move(event) {
    const last = this.tokens.length - 1;
    const at = this.tokens.findIndex(({ token }) => token === document.activeElement);
    const to = {
      ArrowRight: Math.min(at + 1, last),
      ArrowDown: Math.min(at + 1, last),
      ArrowLeft: Math.max(at - 1, 0),
      ArrowUp: Math.max(at - 1, 0),
      Home: 0,
      End: last,
    }[event.key];
    if (to === undefined || last < 0) return;
    event.preventDefault();
    for (const { token } of this.tokens) token.tabIndex = -1;
    this.tokens[to].token.tabIndex = 0;
    this.tokens[to].token.focus();
  }
}

function levelOf(score) {
  const level = LEVELS.findIndex((least) => score >= least);
  return level < 0 ? LEVELS.length : level;
}

function legend() {
  const names = [...LEVELS.map((least) => `from ${100 * least} %`), "less"];
  return make(
    "p",
    { class: "legend", "aria-hidden": "true" },
    ...names.map((name, level) => make("span", { class: `level-${level}` }, name)),
  );
}

/** Return a token as it stands in the text: the ends of lines can be seen. */
function visible(text) {
  return text.replace(/^bytes:/, "").replaceAll("\n", "↵\n");
}

/** Return a token by a name that can be seen. */
export function named(text) {
  return text.replace(/^bytes:/, "").replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(" ", "␣");
}
