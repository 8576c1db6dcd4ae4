"use strict";
// What is saved of the canvas: films and GIFs.

function save(href, name) {
  const link = document.createElement("a");
  [link.href, link.download] = [href, name];
  link.click();
}

let recorder = null;
function film() {  // begins or ends a recording of the canvas
  if (recorder) { recorder.stop(); return; }
  if (!window.MediaRecorder || !canvas.captureStream) { fail("Expected a browser that records a canvas (got none). Use a current one"); return; }
  const parts = [];
  recorder = new MediaRecorder(canvas.captureStream(30));
  recorder.ondataavailable = event => parts.push(event.data);
  recorder.onstop = () => {
    save(URL.createObjectURL(new Blob(parts, { type: "video/webm" })), `${scene.info.name}.webm`);
    recorder = null;
    $("film").textContent = "Film";
  };
  recorder.start();
  $("film").textContent = "End film";
}

const GIF = { side: 360, frames: 60, delay: 10 };  // pixels, frames, hundredths of a second
let shots = null;
function gif() {  // begins or ends a GIF of the canvas, which ends by itself after some seconds
  if (!shots) { shots = []; return; }
  const [{ width, height }] = shots, blob = encodeGif(shots.map(shot => shot.data), width, height, GIF.delay);
  save(URL.createObjectURL(blob), `${scene.info.name}.gif`);
  shots = null;
  $("gif").textContent = "GIF";
}

function shoot() {  // one frame; a canvas of WebGL can be read while it is drawn alone
  draw();
  const scale = Math.min(1, GIF.side / Math.max(canvas.width, canvas.height)), first = shots[0];
  const [w, h] = first ? [first.width, first.height] : [canvas.width, canvas.height].map(v => Math.max(1, Math.round(v * scale)));
  const sketch = new OffscreenCanvas(w, h).getContext("2d", { willReadFrequently: true });
  sketch.drawImage(canvas, 0, 0, w, h);
  shots.push(sketch.getImageData(0, 0, w, h));
  $("gif").textContent = `End GIF (${shots.length})`;
  if (shots.length === GIF.frames) gif();
}
