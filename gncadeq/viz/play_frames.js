"use strict";
// A recording: a scene on a mesh or graph whose states come from frames instead of a rule.

async function unzip({ gzip, type }) {  // an array as gncadeq.viz.recording writes it
  if (typeof DecompressionStream === "undefined") {
    throw new Error("Expected a browser that unpacks gzip (got one without DecompressionStream). Use Chrome 80, Firefox 113, Safari 16.4 or later");
  }
  const stream = new Blob([bytes(gzip)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new window[`${type}Array`](await new Response(stream).arrayBuffer());
}

class RecordingScene {
  static async load(info) {  // what must be there before the first picture
    const { mesh } = info, [position, face, edge] = await Promise.all([mesh.position, mesh.face, mesh.edge].map(unzip));
    info.mesh = { ...mesh, position: Float32Array.from(position, v => v / 65535 * 2 - 1), face, edge };
    info.fields[0].codes = await RecordingScene.codes(info, info.fields[0]);
  }

  static codes({ planes, nodes }, field) {
    return Promise.all(field.planes.map(p => planes[p].codes ??= unzip(planes[p].zip).then(codes => {
      planes[p].zip = null;  // its text is as large as the data
      for (let k = nodes; k < codes.length; k++) codes[k] += codes[k - nodes];  // undo the differences
      return codes;
    })));
  }

  constructor(info) {
    const { mesh, nodes: n, frames, speed } = info;
    Object.assign(this, { info, mesh, n, frames, frame: 0, rate: 1, changed: true, tools: ["turn"], actions: {}, map: "viridis" });
    this.speeds = [...new Set([1, 2, 5, 10, 20, 30, 60, speed])].sort((a, b) => a - b);
    this.speed = this.speeds.indexOf(speed);
    this.rgba = new Uint8ClampedArray(4 * n).fill(255);
  }

  colors() { return this.info.fields.map(field => field.name); }
  step() { this.setFrame((this.frame + 1) % this.frames); }
  reset(stage) { stage.camera.reset(this.mesh.flat); this.changed = true; }

  setFrame(frame) {
    this.frame = clamp(Math.round(frame), 0, this.frames - 1);
    this.changed = true;
  }

  setField(name) {
    this.field = this.info.fields.find(field => field.name === name);
    this.setRange(this.field.low ?? 0, this.field.high ?? 1);  // labels have no range
  }

  setRange(low, high) {
    if (Number.isFinite(low) && Number.isFinite(high)) [this.low, this.high] = [low, high];
    this.changed = true;
  }

  setMap(name) { this.map = name; this.changed = true; }

  paint() {
    const { field, n, rgba, info, low, high } = this, { codes, kind } = field;
    if (!codes) {  // unpacked when first looked at
      RecordingScene.codes(info, field).then(found => { field.codes = found; this.changed = true; });
      return;
    }
    const gone = hex(info.missing), which = [0, 1, 2].map(k => kind === "rgb" ? k : 0), planes = which.map(k => codes[k]);
    const colors = which.map((p, k) => Uint8ClampedArray.from({ length: 255 }, (_, code) => {  // of every code
      const of = info.planes[field.planes[p]], unit = clamp((of.low + code / 254 * (of.high - of.low) - low) / (high - low || 1), 0, 1);
      return kind === "rgb" ? 255 * unit : kind === "scalar" ? TABLES.maps[this.map](unit)[k] : 255 * hex(field.palette[code] ?? info.missing)[k];
    }));
    const starts = planes.map(plane => plane.length === n ? 0 : this.frame * n);
    const [[a, b, c], [p, q, r]] = [planes, starts];
    for (let i = 0; i < n; i++) {
      const codes = [a[p + i], b[q + i], c[r + i]], missing = codes.includes(255);
      for (let k = 0; k < 3; k++) rgba[4 * i + k] = missing ? 255 * gone[k] : colors[k][codes[k]];
    }
  }

  // The frame's number, and what the colours mean
  legend() {
    const { field, info, low, high } = this, { labels, palette, kind } = field;
    setting("frame", this.frame, info.steps ? `step ${info.steps[this.frame]}` : `${this.frame} / ${this.frames - 1}`);
    for (const [id, value] of [["low", low], ["high", high]]) $(id).value = Number(value.toPrecision(4));
    $("map").value = this.map;
    $("range").hidden = $("bar").hidden = Boolean(labels);
    $("maps").hidden = kind !== "scalar";
    $("gone").hidden = !field.planes.some(p => info.planes[p].missing);
    $("gone").firstChild.style.background = info.missing;
    $("swatches").replaceChildren(...(labels ?? []).map((label, i) => {
      const item = document.createElement("span"), chip = document.createElement("i");
      chip.style.background = palette[i];
      item.append(chip, String(label));
      return item;
    }));
    const bar = new ImageData(256, 1);
    for (let i = 0; i < 256; i++) bar.data.set([...(kind === "rgb" ? [i, i, i] : TABLES.maps[this.map](i / 255)), 255], 4 * i);
    $("bar").getContext("2d").putImageData(bar, 0, 0);
  }

  sentence() {
    const { face, edge } = this.mesh, count = (n, one, many) => n ? [`${n.toLocaleString("en")} ${n === 1 ? one : many}`] : [];
    const parts = [...count(this.n, "node", "nodes"), ...count(face.length / 3, "face", "faces"), ...count(edge.length / 2, "edge", "edges"), ...count(this.frames, "frame", "frames")];
    return `A recording: ${parts.join(", ")}. Drag: turn. Wheel: zoom. Shift-drag: move. Space: play. Arrows: frames, and zoom. R: reset view. T: dark or light.`;
  }

  keys({ camera }) {  // those that other scenes have not
    const go = frame => () => { setPlaying(false); this.setFrame(frame); }, zoom = factor => () => { camera.zoom(factor); this.changed = true; };
    return {
      arrowright: go(this.frame + 1), arrowleft: go(this.frame - 1), home: go(0), end: go(this.frames - 1),
      arrowup: zoom(0.9), arrowdown: zoom(1 / 0.9),
    };
  }
}

SCENES.recording = RecordingScene;
