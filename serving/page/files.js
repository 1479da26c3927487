// The panel for pictures and recordings.

import { sendForJson } from "/page/api.js";
import { showCall } from "/page/calls.js";
import { hasCamera, takePicture } from "/page/camera.js";
import { byId, make, show, showProblem, whileDisabled } from "/page/dom.js";
import { renderLabels } from "/page/input.js";
import { canRecord, Recording } from "/page/recorder.js";
import { asWav } from "/page/wav.js";

const PANELS = {
  classify_picture: {
    title: "Label a picture",
    accept: "image/*",
    help: "Drop a picture here, paste it, choose a file, or take one with the camera.",
    path: "/v1/classify",
    render: renderLabels,
  },
  classify_sound: {
    title: "Label a recording",
    accept: "audio/*",
    help: "Drop a recording here, choose a file, or record with the microphone.",
    path: "/v1/classify",
    render: renderLabels,
  },
  transcribe: {
    title: "Transcribe a recording",
    accept: "audio/*",
    help: "Drop a recording here, choose a file, or record with the microphone.",
    path: "/v1/audio/transcriptions",
    render: ({ text }) => [make("article", {}, make("div", { class: "text" }, text || "(nothing)"))],
  },
};

/** Names of files that the server decodes itself. Others become WAV here, if the browser can. */
const DECODED = /\.(wav|flac|ogg|oga|opus|mp3|aiff?)$/i;

const NEEDS_SECURITY =
  "The browser gives a page the camera and the microphone only over HTTPS, or on this machine.";

/** Open the panel. */
export function setUpFiles(info) {
  const panel = new FilePanel(info, PANELS[info.kind]);
  byId("file-title").textContent = panel.kind.title;
  byId("file-help").textContent = panel.kind.help;
  byId("file").accept = panel.kind.accept;
  const isPicture = info.kind === "classify_picture";
  if (isPicture ? hasCamera() : canRecord()) show(byId(isPicture ? "camera" : "record"));
  else byId("file-help").append(` ${NEEDS_SECURITY}`);
  listen(panel);
  show(byId("file-panel"));
}

function listen(panel) {
  const [drop, file] = [byId("drop"), byId("file")];
  byId("choose").addEventListener("click", () => file.click());
  byId("camera").addEventListener("click", () => panel.photograph());
  byId("record").addEventListener("click", () => panel.toggleRecording());
  file.addEventListener("change", () => {
    if (file.files.length) panel.take(file.files[0]);
    file.value = "";
  });
  for (const name of ["dragenter", "dragover"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) drop.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (event.dataTransfer.files.length) panel.take(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) panel.take(event.clipboardData.files[0]);
  });
}

class FilePanel {
  constructor(info, kind) {
    this.info = info;
    this.kind = kind;
    this.recording = null;
    this.controller = new AbortController();
    this.preview = null;
  }

  get rate() {
    return Math.max(this.info.sample_rate ?? 16_000, 8000);
  }

  /** Show a file, send it, and show the answer. A file that comes meanwhile takes its place. */
  async take(given) {
    this.controller.abort();
    const controller = (this.controller = new AbortController());
    const result = byId("file-result");
    showProblem(null);
    result.replaceChildren(make("p", { class: "muted" }, "Working …"));
    try {
      const isSound = this.kind.accept === "audio/*";
      const file = isSound && !DECODED.test(given.name) ? await asWav(given, this.rate) : given;
      if (controller.signal.aborted) return;
      this.show(file);
      this.checkSize(file);
      const form = new FormData();
      form.append("model", this.info.name);
      form.append("file", file);
      showCall({ path: this.kind.path, fields: { model: this.info.name }, file: file.name });
      const answer = await sendForJson(this.kind.path, { form, signal: controller.signal });
      if (!controller.signal.aborted) result.replaceChildren(...this.kind.render(answer));
    } catch (error) {
      if (controller.signal.aborted) return;
      result.replaceChildren();
      showProblem(error);
    }
  }

  checkSize(file) {
    const most = this.info.limits.max_upload_bytes;
    if (file.size > most) {
      throw new Error(`the file has ${file.size} bytes, and the limit here is ${most}`);
    }
  }

  show(file) {
    if (this.preview !== null) URL.revokeObjectURL(this.preview);
    this.preview = URL.createObjectURL(file);
    const isSound = this.kind.accept === "audio/*";
    const shown = isSound
      ? make("audio", { src: this.preview, controls: true })
      : make("img", { src: this.preview, alt: file.name });
    byId("preview").replaceChildren(shown, make("p", { class: "muted" }, file.name));
    show(byId("preview"));
  }

  async photograph() {
    try {
      const file = await whileDisabled(byId("camera"), takePicture);
      if (file !== null) await this.take(file);
    } catch (error) {
      showProblem(new Error(`the camera can't be used: ${error.message}`));
    }
  }

  async toggleRecording() {
    if (this.recording !== null) {
      await this.finishRecording();
      return;
    }
    const most = this.info.limits.max_sound_seconds;
    const recording = new Recording((seconds, level) => {
      byId("recording-time").textContent = `${Math.floor(seconds)} s`;
      byId("recording-level").value = level;
      if (seconds >= most - 0.5) this.finishRecording();
    });
    try {
      await whileDisabled(byId("record"), () => recording.start());
    } catch (error) {
      showProblem(new Error(`the microphone can't be used: ${error.message}`));
      return;
    }
    this.recording = recording;
    this.showRecording(true);
  }

  async finishRecording() {
    const recording = this.recording;
    if (recording === null) return;
    this.recording = null;
    this.showRecording(false);
    await this.take(await recording.stop(this.rate));
  }

  showRecording(isOn) {
    byId("record").textContent = isOn ? "Stop recording" : "Record";
    byId("record").classList.toggle("danger", isOn);
    show(byId("recording"), isOn);
  }
}
