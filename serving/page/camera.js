// Takes a picture with the camera.

import { byId } from "/page/dom.js";

/** Return whether this browser gives the page a camera: it does so on secure origins only. */
export function hasCamera() {
  return Boolean(navigator.mediaDevices?.getUserMedia);
}

/**
 * Show what the camera sees. Resolves to a picture as a PNG file, or null if the user cancels.
 * Throws an Error if the user or the browser refuses.
 */
export async function takePicture() {
  const [dialog, video] = [byId("camera-dialog"), byId("camera-video")];
  const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  try {
    byId("camera-take").disabled = true;
    video.onloadeddata = () => (byId("camera-take").disabled = false);
    video.srcObject = stream;
    dialog.showModal();
    const isTaken = await new Promise((resolve) => {
      byId("camera-take").onclick = () => resolve(true);
      byId("camera-cancel").onclick = () => resolve(false);
      dialog.onclose = () => resolve(false);
    });
    return isTaken ? await pictureOf(video) : null;
  } finally {
    for (const track of stream.getTracks()) track.stop();
    video.srcObject = null;
    dialog.close();
  }
}

async function pictureOf(video) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  const content = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  return new File([content], "picture.png", { type: "image/png" });
}
