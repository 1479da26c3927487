// The call that was just made, for curl and for Python with OpenAI's client.

import { token } from "/page/api.js";
import { byId, notify, show } from "/page/dom.js";

const SAMPLING = ["top_k", "min_p", "repetition_penalty"];

/** Methods of OpenAI's client, with the parameters that it does not know: they go into `extra_body`. */
const METHODS = {
  "/v1/completions": { method: "completions.create", extra: [...SAMPLING, "response_format"] },
  "/v1/chat/completions": { method: "chat.completions.create", extra: SAMPLING },
  "/v1/audio/transcriptions": { method: "audio.transcriptions.create", extra: [] },
};

let call = null;

/** Make the choice of the language and the copy button work. */
export function setUpCalls() {
  for (const input of document.querySelectorAll("[name=language]")) {
    input.addEventListener("change", render);
  }
  byId("copy").addEventListener("click", copy);
}

/** Show a call. path: of the route; json: its body, or else fields and the name of a file. */
export function showCall({ path, json, fields, file }) {
  call = { path, json, fields, file };
  show(byId("call"));
  render();
}

function render() {
  if (call === null) return;
  const language = document.querySelector("[name=language]:checked").value;
  byId("call-code").textContent = (language === "curl" ? curl : python)(call);
}

async function copy() {
  const text = byId("call-code").textContent;
  try {
    await navigator.clipboard.writeText(text);
    notify("Copied");
    byId("copy").textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(byId("call-code"));
    notify("The call is selected: copy it with the keyboard");
    byId("copy").textContent = "Selected";
  }
  setTimeout(() => (byId("copy").textContent = "Copy"), 2000);
}

/** Return a call of curl in a POSIX shell. */
export function curl({ path, json, fields, file }) {
  const stream = json?.stream ? " -N" : "";
  const parts = [`curl${stream} ${quoted(location.origin + path)}`];
  if (token()) parts.push('-H "Authorization: Bearer $TRIFORM_TOKEN"');
  if (json !== undefined) {
    parts.push("-H 'Content-Type: application/json'", `-d ${quoted(JSON.stringify(json, null, 2))}`);
  } else {
    for (const [name, value] of Object.entries(fields)) {
      parts.push(`--form-string ${quoted(`${name}=${value}`)}`);
    }
    const name = file.replace(/["\\]/g, "\\$&");
    parts.push(`-F ${quoted(`file=@"${name}"`)}`);
  }
  return parts.join(" \\\n  ");
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** Return a call with OpenAI's client for Python. */
export function python({ path, json, fields, file }) {
  const key = token() ? 'os.environ["TRIFORM_TOKEN"]' : '"none"';
  const lines = token() ? ["import os", ""] : [];
  if (file !== undefined) lines.push("from pathlib import Path", "");
  lines.push("from openai import OpenAI", "");
  lines.push(`client = OpenAI(base_url=${literal(`${location.origin}/v1`)}, api_key=${key})`);
  lines.push(...(METHODS[path] ? known(path, json, fields, file) : other(path, json, fields, file)));
  return lines.join("\n");
}

function known(path, json, fields, file) {
  const { method, extra: names } = METHODS[path];
  const values = Object.entries(json ?? fields);
  const own = values.filter(([name]) => !names.includes(name));
  const extra = values.filter(([name]) => names.includes(name));
  const rows = own.map(([name, value]) => `    ${name}=${literal(value, 1)},`);
  if (extra.length) rows.push(`    extra_body=${literal(Object.fromEntries(extra), 1)},`);
  if (file !== undefined) rows.push(`    file=Path(${literal(file)}),`);
  const lines = [`answer = client.${method}(`, ...rows, ")"];
  const isChat = path === "/v1/chat/completions";
  if (file !== undefined) return [...lines, "print(answer.text)"];
  if (!json.stream) {
    const text = isChat ? "choice.message.content" : "choice.text";
    return [...lines, "for choice in answer.choices:", `    print(${text})`];
  }
  const text = isChat ? 'choice.delta.content or ""' : "choice.text";
  return [
    ...lines,
    "for chunk in answer:",
    "    for choice in chunk.choices:",
    `        print(${text}, end="", flush=True)`,
  ];
}

/** Return the lines for a route that OpenAI's client has no method for. */
function other(path, json, fields, file) {
  const rows = [`    ${literal(path.replace("/v1", ""))},`];
  rows.push(`    body=${literal(json ?? fields, 1)},`);
  if (file !== undefined) {
    rows.push(`    files={"file": Path(${literal(file)})},`);
    rows.push('    options={"headers": {"Content-Type": "multipart/form-data"}},');
  }
  rows.push("    cast_to=object,");
  return ["answer = client.post(", ...rows, ")", "print(answer)"];
}

function literal(value, depth = 0) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const [pad, end] = ["    ".repeat(depth + 1), "    ".repeat(depth)];
  const isList = Array.isArray(value);
  const items = isList
    ? value.map((one) => literal(one, depth + 1))
    : Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${literal(one, depth + 1)}`);
  const [open, close] = isList ? "[]" : "{}";
  const line = open + items.join(", ") + close;
  if (line.length < 60 && !line.includes("\n")) return line;
  return `${open}\n${items.map((item) => `${pad}${item},\n`).join("")}${end}${close}`;
}
