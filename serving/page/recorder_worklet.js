// Runs in the thread of the sound: passes on what the microphone hears, mono, in blocks.

const BLOCK = 4096;

class Recorder extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Float32Array(BLOCK);
    this.filled = 0;
    this.isOver = false;
    this.port.onmessage = () => {
      this.port.postMessage({ samples: this.block.slice(0, this.filled), isLast: true });
      this.isOver = true;
    };
  }

  process([channels]) {
    if (this.isOver) return false;
    const length = channels.length ? channels[0].length : 0;
    for (let i = 0; i < length; i += 1) {
      let sum = 0;
      for (const channel of channels) sum += channel[i];
      this.block[this.filled] = sum / channels.length;
      this.filled += 1;
      if (this.filled === BLOCK) {
        this.port.postMessage({ samples: this.block.slice(), isLast: false });
        this.filled = 0;
      }
    }
    return true;
  }
}

registerProcessor("recorder", Recorder);
