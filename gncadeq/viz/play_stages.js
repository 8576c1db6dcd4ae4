"use strict";
// What draws a scene: cells on a flat canvas, or a surface with WebGL.

// Colour tables, of which the page brings the bytes
const TABLES = { accent: [53, 102, 168], warm: [245, 133, 24], good: [84, 162, 75], bad: [228, 87, 86] };

function setTables({ colormaps, labels }) {
  const table = packed => {
    const raw = unpack(packed);
    return unit => raw.subarray(3 * Math.round(255 * unit), 3 * Math.round(255 * unit) + 3);
  };
  TABLES.maps = Object.fromEntries(Object.entries(colormaps).map(([name, packed]) => [name, table(packed)]));
  [TABLES.channel, TABLES.rest] = [TABLES.maps.coolwarm, TABLES.maps.viridis];
  TABLES.labels = labels.map(text => hex(text).map(v => 255 * v));
}

class FlatStage {
  constructor(canvas, scene, pen) {
    [this.canvas, this.context, this.offscreen] = [canvas, canvas.getContext("2d"), document.createElement("canvas")];
    let last = null;
    const touch = (place, event) => scene.touch(place, last, event.buttons === 2 || event.button === 2 ? "erase" : pen.tool, pen.brush);
    const at = event => {
      const box = canvas.getBoundingClientRect(), ratio = canvas.width / box.width;
      return [((event.clientX - box.left) * ratio - this.left) / this.scale, ((event.clientY - box.top) * ratio - this.top) / this.scale];
    };
    canvas.onpointerdown = event => {
      canvas.setPointerCapture(event.pointerId);
      const place = at(event);
      touch(place, event);
      last = place;
    };
    canvas.onpointermove = event => {
      if (!last) return;
      for (const each of event.getCoalescedEvents?.() ?? [event]) {
        const place = at(each);
        touch(place, event);
        last = place;
      }
    };
    canvas.onpointerup = canvas.onpointercancel = () => { last = null; scene.release?.(); };
    canvas.ondblclick = event => scene.tools.includes("seed") && scene.touch(at(event), null, "seed", 0);
    canvas.oncontextmenu = event => event.preventDefault();
  }

  draw(scene) {
    const { canvas, context } = this, ratio = pixelRatio();
    const [w, h] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
    if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
    this.scale = Math.min(w / scene.columns, h / scene.rows);
    [this.left, this.top] = [(w - this.scale * scene.columns) / 2, (h - this.scale * scene.rows) / 2];
    context.fillStyle = css("--field");
    context.fillRect(0, 0, w, h);
    context.fillStyle = css(scene.ground ?? "--paper");
    context.fillRect(this.left, this.top, this.scale * scene.columns, this.scale * scene.rows);
    context.imageSmoothingEnabled = false;
    if (scene.paper) this.drawInk(scene.paper);
    for (const patch of scene.patches) this.drawPatch(patch, scene.rgba);
  }

  drawInk(paper) {
    const { context, offscreen } = this, image = new ImageData(paper.width, paper.height), color = css("--ink");
    const rgb = hex(color).map(v => 255 * v);
    paper.ink.forEach((v, i) => { if (v > 0) image.data.set([...rgb, 90 * v], 4 * i); });
    [offscreen.width, offscreen.height] = [paper.width, paper.height];
    offscreen.getContext("2d").putImageData(image, 0, 0);
    context.drawImage(offscreen, this.left, this.top, paper.columns * this.scale, paper.rows * this.scale);
  }

  drawPatch({ rows, columns, x, y, pitch, nodes, seamless }, rgba) {
    const { context, offscreen } = this, image = new ImageData(columns, rows), size = pitch * this.scale;
    nodes.forEach((node, cell) => {
      if (node < 0) return;
      for (let k = 0; k < 4; k++) image.data[4 * cell + k] = rgba[4 * node + k];
    });
    [offscreen.width, offscreen.height] = [columns, rows];
    offscreen.getContext("2d").putImageData(image, 0, 0);
    const [left, top] = [this.left + x * this.scale, this.top + y * this.scale];
    context.drawImage(offscreen, left, top, columns * size, rows * size);
    if (size < 7 || seamless) return;
    context.strokeStyle = css("--paper");
    context.lineWidth = Math.max(1, size / 14);
    context.beginPath();
    nodes.forEach((node, cell) => {
      if (node >= 0) context.rect(left + cell % columns * size, top + Math.floor(cell / columns) * size, size, size);
    });
    context.stroke();
  }
}

class MeshStage {
  constructor(canvas, scene, pen) {
    this.canvas = canvas;
    this.painter = new Painter(canvas, scene.mesh);
    this.normal = this.painter.normal;
    this.camera = new Camera();
    this.camera.reset(scene.mesh.flat);
    [this.mesh, this.frames] = [scene.mesh, scene.graph?.frames];
    canvas.addEventListener("webglcontextlost", () => fail("The browser dropped the picture. Reload the page"));
    let [way, last] = [null, null];
    const touch = event => {
      if (pen.tool === "turn" || event.shiftKey || event.buttons !== 1) return false;
      const place = [event.clientX, event.clientY];
      const from = way ? last : place;
      way = bent(way, last, place, 12);
      last = place;
      scene.touchNodes(this.under(place, pen.tool === "seed" ? 0 : pen.brush, from), pen.tool, way.some(v => v) ? i => this.angleOf(i, way) : null);
      return true;
    };
    canvas.addEventListener("pointerdown", event => {
      way = null;
      touch(event);
    });
    this.camera.listen(canvas, () => { scene.changed = true; }, touch);
    canvas.addEventListener("dblclick", event => scene.tools.includes("seed") && scene.touchNodes(this.under([event.clientX, event.clientY], 0), "seed"));
  }

  turned(v, k = 0) {  // as the camera sees it
    const { azimuth, elevation } = this.camera;
    const [ca, sa, ce, se] = [Math.cos(azimuth), Math.sin(azimuth), Math.cos(elevation), Math.sin(elevation)];
    return [ca * v[k] - sa * v[k + 2], -se * sa * v[k] + ce * v[k + 1] - se * ca * v[k + 2], ce * sa * v[k] + se * v[k + 1] + ce * ca * v[k + 2]];
  }

  // The direction in a vertex's tangent plane that goes the same way on the canvas, from east towards north
  angleOf(i, [right, down]) {
    const [[ex, ey], [nx, ny]] = this.frames[i].map(axis => this.turned(axis)), area = ex * ny - ey * nx;
    return Math.atan2((-ex * down - ey * right) / area, (right * ny + down * nx) / area);
  }

  // Where the vertices are on the canvas, and whether they face it
  projected(i) {
    const { distance, pan } = this.camera, { position } = this.mesh;
    const p = this.turned(position, 3 * i), normal = this.turned(this.normal, 3 * i), z = p[2] - distance;
    const { clientWidth: w, clientHeight: h } = this.canvas, unit = LENS * Math.min(w, h) / 2 / -z;
    return { x: w / 2 + (p[0] + pan[0]) * unit, y: h / 2 - (p[1] + pan[1]) * unit, unit, front: !this.mesh.face.length || normal[0] * (p[0] + pan[0]) + normal[1] * (p[1] + pan[1]) + normal[2] * z < 0 };
  }

  // The vertices under a pointer on its way, with the one that is nearest first
  under(place, brush, last = place) {
    const box = this.canvas.getBoundingClientRect(), found = [], [dx, dy] = [place[0] - last[0], place[1] - last[1]];
    for (let i = 0; i < this.normal.length / 3; i++) {
      const { x, y, unit, front } = this.projected(i);
      const [u, v] = [x + box.left - last[0], y + box.top - last[1]], t = clamp((u * dx + v * dy) / (dx * dx + dy * dy || 1), 0, 1);
      const away = Math.hypot(u - t * dx, v - t * dy);
      if (front && away < (brush ? Math.max(0.04 * brush, 0.06) : 0.2) * unit) found.push([away, i]);
    }
    return found.sort((a, b) => a[0] - b[0]).map(pair => pair[1]).slice(0, brush ? undefined : 1);
  }

  draw(scene) {
    this.painter.draw(this.camera, scene.rgba);
  }
}
