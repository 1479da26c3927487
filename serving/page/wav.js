// Recordings as WAV files: mono, 16-bit PCM.

const HEADER_BYTES = 44;

/** Return samples from -1 to 1 as a WAV file. rate: samples per second. */
export function wavOf(samples, rate) {
  const view = new DataView(new ArrayBuffer(HEADER_BYTES + 2 * samples.length));
  const put = (at, text) => [...text].forEach((sign, i) => view.setUint8(at + i, sign.charCodeAt(0)));
  put(0, "RIFF");
  view.setUint32(4, HEADER_BYTES - 8 + 2 * samples.length, true);
  put(8, "WAVEfmt ");
  view.setUint32(16, 16, true); // size of this part
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // channels
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true); // bytes per second
  view.setUint16(32, 2, true); // bytes per frame
  view.setUint16(34, 16, true); // bits per sample
  put(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((sample, i) => {
    const bounded = Math.max(-1, Math.min(1, sample));
    view.setInt16(HEADER_BYTES + 2 * i, Math.round(bounded * 32767), true);
  });
  return new Blob([view], { type: "audio/wav" });
}

/** Return the samples of an AudioBuffer, mono, at another rate. */
export async function resampled(buffer, rate) {
  const length = Math.max(1, Math.round(buffer.duration * rate));
  const context = new OfflineAudioContext(1, length, rate);
  const source = new AudioBufferSourceNode(context, { buffer });
  source.connect(context.destination);
  source.start();
  return (await context.startRendering()).getChannelData(0);
}

/** Return a file that the browser can decode as WAV; the file itself if it can't. */
export async function asWav(file, rate) {
  try {
    const context = new OfflineAudioContext(1, 1, rate);
    const buffer = await context.decodeAudioData(await file.arrayBuffer());
    const name = file.name.replace(/\.[^.]*$/, "") || "recording";
    const content = wavOf(await resampled(buffer, rate), rate);
    return new File([content], `${name}.wav`, { type: "audio/wav" });
  } catch {
    return file;
  }
}
