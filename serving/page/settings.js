// The settings of texts that are written token by token.

import { byId, make, show } from "/page/dom.js";

/** Number of alternatives that are asked for with each token. */
const ALTERNATIVES = 5;

/** Return the fields of numbers; with a mode, text or chat, those that it has. */
function inputs(mode) {
  const all = [...document.querySelectorAll("#settings [data-name]")];
  return mode ? all.filter((one) => !one.closest(`[data-for]:not([data-for="${mode}"])`)) : all;
}

/** Bound the settings by the limits of the server. */
export function setUpSettings(info) {
  const most = info.limits.max_tokens;
  const room = info.context === null ? most : Math.min(info.context, most);
  byId("max-tokens").max = most;
  byId("max-tokens").defaultValue = Math.min(128, Math.max(Math.floor(room / 2), 1));
  byId("answers").max = info.limits.max_n;
  byId("settings-reset").addEventListener("click", () => {
    for (const input of inputs()) input.value = input.defaultValue;
    for (const id of ["system", "stops"]) byId(id).value = "";
    for (const id of ["logprobs", "json"]) byId(id).checked = false;
    byId("stream").checked = true;
  });
}

/** Return whether a mode's settings are within their bounds; else point to the first that is not. */
export function areValid(mode) {
  const wrong = inputs(mode).find((input) => !input.checkValidity());
  if (wrong === undefined) return true;
  byId("settings").open = true;
  wrong.reportValidity();
  return false;
}

/** Return the fields of a request that differ from the defaults. mode: text or chat. */
export function readSettings(mode) {
  const fields = {};
  for (const input of inputs(mode)) {
    const isDefault = input.value === "" || Number(input.value) === Number(input.defaultValue);
    if (!isDefault || input.id === "max-tokens") fields[input.dataset.name] = Number(input.value);
  }
  const stops = byId("stops").value.split("\n").filter(Boolean).map(unescaped);
  if (stops.length) fields.stop = stops;
  if (byId("json").checked) fields.response_format = { type: "json_object" };
  if (byId("logprobs").checked && mode === "text") fields.logprobs = ALTERNATIVES;
  if (byId("logprobs").checked && mode === "chat") {
    Object.assign(fields, { logprobs: true, top_logprobs: ALTERNATIVES });
  }
  if (byId("stream").checked) {
    Object.assign(fields, { stream: true, stream_options: { include_usage: true } });
  }
  return fields;
}

function unescaped(text) {
  const signs = { n: "\n", t: "\t", "\\": "\\" };
  return text.replace(/\\([nt\\])/g, (_, sign) => signs[sign]);
}

/** Offer texts to try, each as a button that puts it into `area`. */
export function offerExamples(box, area, texts) {
  show(box, texts.length > 0);
  box.replaceChildren(
    ...texts.map((text) =>
      make("button", { type: "button", class: "example", onclick: () => put(area, text) }, shown(text)),
    ),
  );
}

function put(area, text) {
  area.value = text;
  area.focus();
}

function shown(text) {
  const line = text.replaceAll("\n", "↵");
  return line.length > 40 ? `${line.slice(0, 39)}…` : line;
}
