// The page: asks what is served, and opens the panel for it.

import { onTokenNeeded, sendForJson } from "/page/api.js";
import { setUpCalls } from "/page/calls.js";
import { setUpChat } from "/page/chat.js";
import { byId, show, showProblem } from "/page/dom.js";
import { setUpFiles } from "/page/files.js";
import { setUpInput } from "/page/input.js";
import { showInfo, showStatus } from "/page/info.js";
import { setUpSettings } from "/page/settings.js";
import { setUpText } from "/page/text.js";
import { askForToken } from "/page/token_dialog.js";

const MILLISECONDS_BETWEEN_LOOKS = 1000;

const SET_UP = {
  text: (info) => setUpWriting(info, "text"),
  chat: (info) => setUpWriting(info, "chat"),
  fill: setUpInput,
  translate: setUpInput,
  classify_text: setUpInput,
  classify_picture: setUpFiles,
  classify_sound: setUpFiles,
  transcribe: setUpFiles,
};

/** Open the panels for a model that writes texts. first: the mode that is chosen. */
function setUpWriting(info, first) {
  setUpSettings(info);
  setUpText(info);
  if (first === "text") {
    chooseMode("text");
    return;
  }
  setUpChat(info);
  show(byId("modes"));
  for (const input of document.querySelectorAll("[name=mode]")) {
    input.addEventListener("change", () => chooseMode(input.value));
    if (input.value === first) input.checked = true;
  }
  chooseMode(first);
}

function chooseMode(mode) {
  show(byId("text-panel"), mode === "text");
  show(byId("chat-panel"), mode === "chat");
  show(byId("settings"));
  for (const field of document.querySelectorAll("[data-for]")) {
    show(field, field.dataset.for === mode);
  }
}

/** Show how far the server is, until its model is ready or has failed. */
async function watchStatus(status) {
  showStatus(status);
  while (status === "compiling" || status === "unreachable") {
    await new Promise((resolve) => setTimeout(resolve, MILLISECONDS_BETWEEN_LOOKS));
    status = await currentStatus();
    showStatus(status);
  }
}

async function currentStatus() {
  try {
    return (await sendForJson("/v1/info")).status;
  } catch (error) {
    return statusOf(error);
  }
}

function statusOf(error) {
  return error.status === 401 ? "locked" : "unreachable";
}

async function start() {
  onTokenNeeded(askForToken);
  let info;
  try {
    info = await sendForJson("/v1/info");
  } catch (error) {
    showStatus(statusOf(error));
    showProblem(error);
    return;
  }
  showInfo(info);
  setUpCalls();
  SET_UP[info.kind](info);
  await watchStatus(info.status);
}

await start();
