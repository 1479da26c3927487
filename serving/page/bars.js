// Probabilities as bars.

import { make } from "/page/dom.js";
import { percentText } from "/page/info.js";

const MOST = 10;

/**
 * Return a list of bars, likeliest first; if there are many, the first ones and a button for all.
 * scores: objects with `label` and `score`. chosen: the label that is marked, if any.
 */
export function bars(scores, { label = "Probabilities", chosen = null } = {}) {
  const sorted = scores.toSorted((one, other) => other.score - one.score);
  const list = make("ol", { class: "bars", "aria-label": label });
  const put = (part) => list.append(...part.map((one) => row(one, one.label === chosen)));
  put(sorted.slice(0, MOST));
  if (sorted.length <= MOST) return list;
  const more = make("button", { type: "button", class: "plain" }, `Show all ${sorted.length}`);
  more.addEventListener("click", () => {
    put(sorted.slice(MOST));
    list.tabIndex = -1;
    list.focus();
    more.remove();
  });
  return make("div", {}, list, more);
}

function row({ label, score }, isChosen) {
  const fill = make("span", { class: "fill" });
  fill.style.width = `${100 * Math.min(Math.max(score, 0), 1)}%`;
  return make(
    "li",
    { class: isChosen ? "chosen" : null },
    make("span", { class: "label" }, label),
    make("span", { class: "track", "aria-hidden": "true" }, fill),
    make("span", { class: "share" }, percentText(score)),
  );
}
