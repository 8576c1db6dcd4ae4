"use strict";
// Digits that are drawn: their pixels are cells of a trained rule, and their states vote.

// A stroke for each digit, in a box of 14 × 20 cells; a pen lifts between lists.
const EXAMPLES = [
  [[7, 0, 3, 1, 1, 5, 0, 10, 1, 15, 3, 19, 7, 20, 11, 19, 13, 15, 14, 10, 13, 5, 11, 1, 7, 0]],
  [[8, 0, 7, 7, 6, 14, 5, 20]],
  [[1, 4, 4, 1, 8, 0, 12, 2, 13, 6, 11, 10, 6, 15, 1, 19, 1, 20, 7, 19, 14, 19]],
  [[1, 2, 5, 0, 10, 0, 12, 4, 10, 8, 6, 9, 11, 10, 13, 14, 12, 18, 8, 20, 3, 20, 0, 18]],
  [[3, 0, 2, 5, 1, 10, 6, 11, 13, 10], [12, 2, 11, 10, 10, 20]],
  [[12, 0, 4, 0, 3, 8, 8, 7, 12, 10, 13, 14, 11, 18, 6, 20, 1, 18]],
  [[11, 0, 6, 3, 2, 8, 1, 14, 3, 19, 8, 20, 12, 18, 13, 14, 10, 11, 5, 11, 2, 14]],
  [[0, 1, 7, 1, 13, 0, 10, 7, 7, 14, 6, 20]],
  [[11, 2, 7, 0, 3, 2, 3, 6, 7, 9, 11, 13, 11, 18, 7, 20, 3, 18, 3, 13, 7, 9, 11, 6, 11, 2]],
  [[12, 5, 9, 8, 4, 8, 2, 4, 5, 0, 10, 1, 12, 5, 11, 13, 9, 20]],
];

class DigitScene extends Scene {
  constructor(info) {
    super(info);
    this.tools = ["draw", "erase", "pixel"];
    this.actions = { example: "Example", noise: "Noise", clear: "Clear" };
    [this.rate, this.radius, this.fit, this.ink] = [1, info.find ? 14 : 8, Boolean(info.find), 1];
    this.encoder = info.encoder && [unpack(info.encoder.weight), unpack(info.encoder.bias)];
    this.decode = layers(info.readout);
    this.resize(info.columns);
    if (info.picture) this.picture(unpack(info.picture), ...info.picture.shape, 255);
    else this.example();
  }

  colors() { return ["label", "channels 0, 1, 2", ...super.colors()]; }

  resize(columns) {
    const old = this.paper;
    [this.rows, this.columns] = [this.info.rows, columns];
    this.paper = new Paper(this.rows, columns);
    if (old) for (let y = 0; y < old.height; y++) {
      this.paper.ink.set(old.ink.subarray(y * old.width, y * old.width + Math.min(old.width, this.paper.width)), y * this.paper.width);
    }
    this.edited = true;
  }

  example(digit = Math.floor(10 * Math.random())) {
    this.paper.clear();
    const scale = 0.85 * (this.info.find?.size ?? 20) / 20, left = this.columns / 2 - 7 * scale, top = this.rows / 2 - 10 * scale;
    for (const line of EXAMPLES[digit]) for (let k = 0; k + 3 < line.length; k += 2) {
      const [from, to] = [k, k + 2].map(at => [left + scale * line[at], top + scale * line[at + 1]]);
      this.paper.stroke(from, to, this.info.find?.stroke ?? 2.4);
    }
    this.edited = true;
  }

  clear() { this.paper.clear(); this.edited = true; }
  reset() { this.update(); this.automaton.z.fill(0); this.automaton.steps = 0; this.changed = true; }

  picture(grey, height, width, white = 1) {
    this.paper.picture(Float32Array.from(grey, v => v / white > 0.15 ? v / white : 0), height, width);
    this.edited = true;
  }

  touch(place, last, tool, brush) {
    if (tool === "pixel") this.paper.pixel(Math.floor(place[0]), Math.floor(place[1]), this.ink);
    else this.paper.stroke(last ?? place, place, tool === "erase" ? 2 * brush : brush, tool === "erase" ? 0 : this.ink);
    [this.edited, this.held] = [true, true];
  }

  release() { [this.edited, this.held] = [true, false]; }

  // The graph of what is on the paper. Cells keep the state of those that were in their place.
  update() {
    if (!this.edited) return;
    this.edited = false;
    const { transform, find } = this.info, { threshold, halo, levels } = transform;
    // While a stroke is drawn the cells stay where they are: they fit themselves when it ends.
    const drawn = this.paper.digits({ ...find, fit: this.fit && !this.held, threshold });
    const graphs = drawn.map(({ image, height, width }) => {
      const living = withHalo(image.map(v => Number(v > threshold)), height, width, halo);
      return levels > 1 ? pixelPyramid(living, height, width, levels) : pixelGraph(living, height, width);
    });
    const first = [];
    let n = 0;
    for (const graph of graphs) { first.push(n); n += graph.n; }
    const grey = new Float32Array(n), z = new Float32Array(n * this.channels), before = this.digits ?? [];
    const digits = drawn.map((digit, d) => {
      const nodes = new Int32Array(digit.image.length).fill(-1), graph = graphs[d];
      graph.cells.forEach((cell, i) => { nodes[cell] = first[d] + i; grey[first[d] + i] = digit.image[cell]; });
      const { x, y, pitch } = digit;
      return { ...digit, rows: digit.height, columns: digit.width, nodes, graph, first: first[d], x, y, pitch };
    });
    for (const digit of digits) this.inherit(digit, before, z);
    const graph = graphs.length ? joined(graphs) : { n: 0, ptr: new Int32Array(1), source: new Int32Array(), relation: new Uint8Array() };
    let x = grey;
    if (this.encoder) {
      const [weight, bias] = this.encoder, C = weight.shape[2];
      x = new Float32Array(n * C);
      for (let i = 0; i < x.length; i++) x[i] = bias[i % C];
      x = stencil(graph, weight, grey, x).map(v => Math.max(v, 0));
    }
    const steps = this.automaton?.steps ?? 0;
    if (!graphs.length && levels > 1) graph.levels = Array.from({ length: levels }, () => ({ rows: new Int32Array(), within: graph, up: graph }));
    this.automaton = new Automaton(this.rule, graph, x, z);
    this.automaton.steps = steps;
    [this.digits, this.patches, this.changed] = [digits, digits, true];
  }

  inherit(digit, before, z) {
    if (!before.length) return;
    const old = this.automaton.z, C = this.channels;
    const levels = d => d.graph.levels ?? [{ within: d.graph, width: d.columns, height: d.rows, rows: null, number: null }];
    levels(digit).forEach((level, l) => level.within.cells.forEach((cell, i) => {
      const px = digit.x + (cell % level.width + 0.5) * digit.pitch * 2 ** l;
      const py = digit.y + (Math.floor(cell / level.width) + 0.5) * digit.pitch * 2 ** l;
      for (const other of before) {
        const there = levels(other)[l], size = other.pitch * 2 ** l;
        const c = Math.floor((px - other.x) / size), r = Math.floor((py - other.y) / size);
        if (c < 0 || r < 0 || c >= there.width || r >= there.height) continue;
        const from = there.number ? there.number[r * there.width + c] : other.nodes[r * other.columns + c] - other.first;
        if (from < 0) continue;
        const at = other.first + (there.rows ? there.rows[from] : from), to = digit.first + (level.rows ? level.rows[i] : i);
        z.set(old.subarray(at * C, at * C + C), to * C);
        break;
      }
    }));
  }

  step(rate) {
    this.update();
    if (this.n) super.step(rate);
  }

  solve(method) {
    this.update();
    return super.solve(method);
  }

  // What the readout sees of the window of a radius around every cell of a digit, as pool_around does:
  // the mean state, or the mean and the maximum of the top level. Infinite: of the whole digit.
  pooled(digit, radius = Infinity) {
    const { z } = this.automaton, C = this.channels, peak = this.info.readout.pool === "peak";
    const F = peak ? this.info.readout.channels : C, top = digit.graph.levels?.at(-1);
    const scale = peak ? 2 ** (digit.graph.levels.length - 1) : 1;
    const nodes = peak ? top.rows : digit.graph.cells.map((_, i) => i);
    const cells = peak ? top.within.cells : digit.graph.cells, width = peak ? top.width : digit.columns;
    const centers = radius === Infinity ? [0] : digit.graph.cells, out = new Float32Array(centers.length * F * (peak ? 2 : 1));
    centers.forEach((center, k) => {
      const row = Math.floor(center / digit.columns), col = center % digit.columns, at = k * F * (peak ? 2 : 1);
      let weight = 0;
      cells.forEach((cell, i) => {
        const y = Math.floor(cell / width) * scale, x = cell % width * scale;
        const overlap = (from, middle) => Math.min(from + scale, middle + radius + 1) - Math.max(from, middle - radius);
        const share = radius === Infinity ? 1 : Math.max(overlap(y, row), 0) * Math.max(overlap(x, col), 0);
        if (share <= 0) return;
        weight += share;
        const from = (digit.first + nodes[i]) * C;
        for (let f = 0; f < F; f++) {
          out[at + f] += share * z[from + f];
          if (peak) out[at + F + f] = Math.max(out[at + F + f], z[from + f]);
        }
      });
      for (let f = 0; f < F; f++) out[at + f] /= weight || 1;
    });
    return out;
  }

  // Of every digit the probabilities of its labels, from left to right
  votes() {
    this.update();
    return this.digits.map(digit => softmax(this.decode(this.pooled(digit), 1)));
  }

  // The label that every cell believes in, with its probability
  beliefs() {
    const K = this.info.labels.length, label = new Int32Array(this.n).fill(-1), sure = new Float32Array(this.n);
    for (const digit of this.digits) {
      const count = digit.graph.cells.length, logits = this.decode(this.pooled(digit, this.radius), count);
      for (let i = 0; i < count; i++) {
        const p = softmax(logits.subarray(i * K, i * K + K)), best = p.indexOf(Math.max(...p));
        [label[digit.first + i], sure[digit.first + i]] = [best, p[best]];
      }
    }
    return { label, sure };
  }

  paintOwn(name, put, paper) {
    const { label, sure } = this.beliefs();
    this.agreeing = label;
    for (let i = 0; i < this.n; i++) if (label[i] >= 0) {
      const color = TABLES.labels[label[i] % TABLES.labels.length], share = 0.25 + 0.75 * sure[i];
      put(i, color.map((v, k) => paper[k] + share * (v - paper[k])));
    }
  }

  sentence({ at }) {
    const votes = this.votes(), { labels } = this.info;
    if (!votes.length) return "Draw a digit: every pixel that you touch becomes a cell, which reads its eight neighbours alone.";
    const named = votes.map(p => labels[p.indexOf(Math.max(...p))]);
    const cells = this.digits.reduce((sum, d) => sum + d.graph.cells.length, 0);
    return `${cells} pixels run the same rule and read their neighbours alone. They ${at ? "have come to rest" : "are moving"}, ` +
      `and read ${named.length > 1 ? "the digits " : "the digit "}${named.join(", ")}.`;
  }
}

SCENES.digits = DigitScene;
