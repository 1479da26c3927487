// The panel for texts that are answered as a whole: translated, filled in or labelled.

import { sendForJson } from "/page/api.js";
import { bars } from "/page/bars.js";
import { showCall } from "/page/calls.js";
import { byId, make, show, showProblem, submitOn } from "/page/dom.js";
import { named } from "/page/tokens.js";

const GAP = "[MASK]";

const PANELS = {
  translate: {
    title: "Translate a text",
    label: "Text",
    button: "Translate",
    path: "/v1/translate",
    render: renderTranslation,
  },
  fill: {
    title: "Fill the gaps of a text",
    label: `Text, with ${GAP} where a token is missing`,
    button: "Fill",
    path: "/v1/fill",
    render: renderFilled,
  },
  classify_text: {
    title: "Label a text",
    label: "Text",
    button: "Label",
    path: "/v1/classify",
    render: renderLabels,
  },
};

/** Open the panel. */
export function setUpInput(info) {
  const panel = PANELS[info.kind];
  const [form, area] = [byId("input-form"), byId("input")];
  byId("input-title").textContent = panel.title;
  byId("input-label").textContent = panel.label;
  byId("input-run").textContent = panel.button;
  show(byId("input-gap"), info.kind === "fill");
  byId("input-gap").addEventListener("click", () => {
    area.setRangeText(GAP, area.selectionStart, area.selectionEnd, "end");
    area.focus();
  });
  submitOn(area, form, (event) => event.ctrlKey || event.metaKey);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (area.value) await run(panel, info.name, area.value);
  });
  show(byId("input-panel"));
}

let newest = new AbortController();

/** Send a text, and show the answer. A text that is sent meanwhile takes its place. */
async function run(panel, model, input) {
  newest.abort();
  const { signal } = (newest = new AbortController());
  const result = byId("input-result");
  const json = { model, input };
  showProblem(null);
  result.replaceChildren(make("p", { class: "muted" }, "Working …"));
  try {
    const answer = await sendForJson(panel.path, { json, signal });
    if (signal.aborted) return;
    const warnings = (answer.warnings ?? []).map((text) => make("p", { class: "note" }, text));
    result.replaceChildren(...panel.render(answer.data[0]), ...warnings);
  } catch (error) {
    if (signal.aborted) return;
    result.replaceChildren();
    showProblem(error);
  }
  showCall({ path: panel.path, json });
}

function renderTranslation({ text, score }) {
  const note = typeof score === "number" ? `score ${score.toFixed(3)}` : "";
  return [
    make("article", {}, make("div", { class: "text" }, text), make("p", { class: "note" }, note)),
  ];
}

function renderFilled({ text, candidates }) {
  const gaps = candidates.map((gap, index) =>
    make(
      "section",
      {},
      make("h3", {}, candidates.length > 1 ? `Gap ${index + 1}` : "Candidates"),
      bars(
        gap.map(({ token, score }) => ({ label: named(token), score })),
        { label: `Candidates of gap ${index + 1}` },
      ),
    ),
  );
  return [make("article", {}, make("div", { class: "text" }, text)), ...gaps];
}

/** Return the elements for a label and the probabilities of all labels. */
export function renderLabels({ label, scores }) {
  return [
    make("p", { class: "verdict" }, label),
    bars(scores, { label: "Probabilities of the labels", chosen: label }),
  ];
}
