// Records the microphone.

import { resampled, wavOf } from "/page/wav.js";

/** Return whether this browser gives the page a microphone: it does so on secure origins only. */
export function canRecord() {
  return Boolean(navigator.mediaDevices?.getUserMedia) && "AudioWorkletNode" in window;
}

/** A recording that goes on until `stop`. onProgress(seconds, level): level from 0 to 1. */
export class Recording {
  constructor(onProgress) {
    this.onProgress = onProgress;
    this.blocks = [];
    this.length = 0;
  }

  /** Ask for the microphone, and begin. Throws an Error if the user or the browser refuses. */
  async start() {
    this.stream = await navigator.mediaDevices.getUserMedia({
      audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false },
    });
    try {
      await this.listen();
    } catch (error) {
      await this.release();
      throw error;
    }
  }

  async listen() {
    this.context = new AudioContext();
    await this.context.audioWorklet.addModule("/page/recorder_worklet.js");
    this.node = new AudioWorkletNode(this.context, "recorder");
    this.isOver = new Promise((resolve) => {
      this.node.port.onmessage = ({ data }) => {
        this.take(data.samples);
        if (data.isLast) resolve();
      };
    });
    const source = new MediaStreamAudioSourceNode(this.context, { mediaStream: this.stream });
    source.connect(this.node).connect(this.context.destination); // Its output is silence.
    await this.context.resume();
  }

  async release() {
    for (const track of this.stream.getTracks()) track.stop();
    await this.context?.close();
  }

  take(samples) {
    this.blocks.push(samples);
    this.length += samples.length;
    let most = 0;
    for (const sample of samples) most = Math.max(most, Math.abs(sample));
    this.onProgress(this.length / this.context.sampleRate, most);
  }

  /** End the recording, and return it as a WAV file with `rate` samples per second. */
  async stop(rate) {
    this.node.port.postMessage("stop");
    await this.isOver;
    await this.release();
    const buffer = new AudioBuffer({
      length: Math.max(this.length, 1),
      sampleRate: this.context.sampleRate,
    });
    let at = 0;
    for (const block of this.blocks) {
      buffer.copyToChannel(block, 0, at);
      at += block.length;
    }
    return new File([wavOf(await resampled(buffer, rate), rate)], "recording.wav", {
      type: "audio/wav",
    });
  }
}
