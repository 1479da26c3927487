// What is served, with its figures.

import { byId, make, show } from "/page/dom.js";
import { offerFile } from "/page/offered_file.js";

const KINDS = {
  text: "writes texts",
  chat: "answers in conversations",
  fill: "fills gaps in texts",
  translate: "rewrites texts, as in translation",
  classify_text: "labels texts",
  classify_picture: "labels pictures",
  classify_sound: "labels recordings",
  transcribe: "transcribes recordings",
};

const STATUS = {
  ready: "Ready",
  compiling: "Getting ready: programs are being compiled",
  stopping: "Stopping",
  failed: "The model has failed",
  locked: "Locked",
  unreachable: "Not reached",
};

const NAMES = {
  accuracy_top5: "top-5 accuracy",
  bleu: "BLEU",
  chrf: "chrF",
  wer: "word error rate",
  cer: "character error rate",
};

const SHARES = new Set(["accuracy", "accuracy_top5", "exact_match", "wer", "cer"]);

/** Format a count: 12,400 or 1.24 M. */
export function countText(number) {
  for (const [size, unit] of [[1e12, "T"], [1e9, "G"], [1e6, "M"]]) {
    if (number >= 0.9995 * size) return `${Number((number / size).toPrecision(3))} ${unit}`;
  }
  return number.toLocaleString("en");
}

/** Format a share as a percentage: 0.978 as 97.8 %; one that is not zero never as 0. */
export function percentText(share) {
  if (share > 0 && share < 0.001) return "< 0.1 %";
  return `${(100 * share).toFixed(1)} %`;
}

function nameText(name) {
  return NAMES[name] ?? name.replaceAll("_", " ");
}

function valueText(name, value) {
  if (value === null) return "not finite";
  if (SHARES.has(name)) return percentText(value);
  if (name === "bleu" || name === "chrf") return value.toFixed(1);
  if (name === "bits_per_byte") return value.toFixed(3);
  if (name === "perplexity") return String(Number(value.toPrecision(4)));
  const size = Math.abs(value);
  return size === 0 || (size >= 0.01 && size < 1000) ? value.toFixed(4) : value.toPrecision(3);
}

function durationText(seconds) {
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

/** Return the figure that says most of a model, as the report does. */
function headlineOf(metrics, best) {
  if (best in metrics && best !== "loss") return best;
  const known = ["bits_per_byte", "bleu", "wer"].find((name) => name in metrics);
  if (known) return known;
  return "accuracy" in metrics && !("perplexity" in metrics) ? "accuracy" : "loss";
}

/** Show whether the server can answer. */
export function showStatus(status) {
  const box = byId("status");
  box.textContent = STATUS[status] ?? status;
  box.dataset.status = status;
}

/** Show what is served. */
export function showInfo(info) {
  document.title = info.name;
  byId("name").textContent = info.name;
  byId("summary").textContent =
    `A model of ${countText(info.parameters)} parameters that ${KINDS[info.kind]}`;
  showFacts(info);
  showFigures(info);
  if (info.has_report) offerFile(byId("report-link"), byId("report-save"), "report.html");
  show(byId("about"));
}

function showFacts(info) {
  const model = Object.entries(info.model).map(
    ([name, value]) => `${name.replaceAll("_", " ")} ${Array.isArray(value) ? value.join(", ") : value}`,
  );
  const [height, width, channels] = info.image_shape ?? [];
  const facts = [
    ["Step", info.step.toLocaleString("en")],
    ["Task", nameText(info.task)],
    ["Architecture", nameText(info.architecture)],
    ["Shape", model.join(" · ")],
    ["Parameters", countText(info.parameters)],
    ["Data", nameText(info.data)],
    ["Context", contextText(info)],
    ["Picture", info.image_shape && `${width} × ${height} pixels, ${channels === 1 ? "grey" : "colour"}`],
    ["Sample rate", info.sample_rate && `${info.sample_rate.toLocaleString("en")} Hz`],
    ["Classes", info.classes && classesText(info.classes)],
    ["Trained for", info.training_seconds && durationText(info.training_seconds)],
  ];
  const rows = facts.filter(([, value]) => value);
  byId("facts").replaceChildren(
    ...rows.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))),
  );
}

function contextText(info) {
  if (info.context !== null) return `${info.context.toLocaleString("en")} tokens`;
  return info.kind === "text" || info.kind === "chat" ? "not limited" : null;
}

function classesText(classes) {
  const shown = classes.slice(0, 12).join(", ");
  return classes.length > 12 ? `${classes.length}: ${shown}, …` : shown;
}

function showFigures(info) {
  const names = Object.keys(info.metrics);
  show(byId("figures-title"), names.length > 0);
  if (!names.length) {
    byId("figures-note").textContent = "This step was not evaluated.";
    return;
  }
  const best = headlineOf(info.metrics, info.best_metric);
  if (best in info.metrics) {
    byId("headline").replaceChildren(
      make("span", { class: "value" }, valueText(best, info.metrics[best])),
      make("span", { class: "muted" }, nameText(best)),
    );
  }
  byId("figures").replaceChildren(
    ...names.map((name) =>
      make(
        "tr",
        {},
        make("th", { scope: "row" }, nameText(name)),
        make("td", {}, valueText(name, info.metrics[name])),
      ),
    ),
  );
  const settings = Object.entries(info.measured_by).map(
    ([name, value]) => `${name.replaceAll("_", " ")} ${value}`,
  );
  const parts = [info.examples !== null && examplesText(info.examples)];
  byId("figures-note").textContent = [...parts, ...settings].filter(Boolean).join(" · ");
}

function examplesText(count) {
  return count === 1 ? "1 example" : `${count.toLocaleString("en")} examples`;
}
