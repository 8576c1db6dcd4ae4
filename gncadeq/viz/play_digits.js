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

const YOUNG = 10;  // steps in which a new cell's averages are its own evidence, as gncadeq's EvidenceStart

class DigitScene extends Scene {
  constructor(info) {
    super(info);
    this.tools = ["draw", "erase", "pixel"];
    this.actions = { example: "Example", noise: "Noise", clear: "Clear" };
    [this.rate, this.fit, this.ink, this.rest] = [1, Boolean(info.find), 1, info.rest];
    this.speed = info.transform.levels > 1 ? 3 : 4;
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

  reset() {
    this.update();
    this.automaton.z.fill(0);
    this.young.fill(YOUNG);
    this.automaton.steps = 0;
    this.changed = true;
  }

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
    const young = new Uint8Array(n).fill(YOUNG);
    for (const digit of digits) this.inherit(digit, before, z, young);
    this.young = young;
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

  inherit(digit, before, z, young) {
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
        young[to] = this.young[at];
        break;
      }
    }));
  }

  step(rate) {
    this.update();
    if (!this.n) return;
    super.step(rate);
    const { z } = this.automaton, C = this.channels, { state: [from, to], spread } = this.info.readout;
    for (const digit of this.digits) for (const i of this.readers(digit).nodes) if (this.young[i]) {
      this.young[i]--;
      for (const [start] of spread) z.copyWithin(i * C + start, i * C + from, i * C + to);
    }
  }

  noise() {
    this.update();
    this.young.fill(0);
    super.noise();
  }

  solve(method) {
    this.update();
    this.young.fill(0);
    return super.solve(method);
  }

  // The nodes of the level that the readout sees, and of which of them every cell stands below
  readers(digit) {
    const top = digit.graph.levels?.at(-1);
    if (!top) return { nodes: Int32Array.from(digit.graph.cells, (_, i) => digit.first + i), above: digit.graph.cells.map((_, i) => i) };
    const height = digit.graph.levels.length - 1;
    return {
      nodes: top.rows.map(row => digit.first + row),
      above: digit.graph.cells.map(cell => top.number[(Math.floor(cell / digit.columns) >> height) * top.width + (cell % digit.columns >> height)]),
    };
  }

  // Of every digit the probabilities of its labels by the state of all its cells, from left to right
  votes() {
    this.update();
    const { z } = this.automaton, C = this.channels, { pool, state: [from, to] } = this.info.readout;
    return this.digits.map(digit => {
      const { nodes } = this.readers(digit), pooled = Float32Array.from({ length: pool.length * (to - from) }, (_, k) => {
        const c = from + k % (to - from), values = Array.from(nodes, i => z[i * C + c]);
        if (pool[Math.floor(k / (to - from))] === "mean") return values.reduce((sum, v) => sum + v, 0) / values.length;
        return values.reduce((most, v) => Math.max(most, v), 0);
      });
      return softmax(this.decode(pooled, 1));
    });
  }

  // The label that every cell decides for, by its own state alone, and its probability
  beliefs() {
    const { z } = this.automaton, C = this.channels, { spread } = this.info.readout, K = this.info.labels.length;
    const label = new Int32Array(this.n).fill(-1), sure = new Float32Array(this.n);
    for (const digit of this.digits) {
      const { nodes, above } = this.readers(digit), own = [];
      for (const i of nodes) for (const [from, to] of spread) own.push(...z.subarray(i * C + from, i * C + to));
      const logits = this.decode(Float32Array.from(own), nodes.length);
      const decided = Array.from(nodes, (_, k) => softmax(logits.subarray(k * K, k * K + K)));
      above.forEach((k, i) => {
        const best = decided[k].indexOf(Math.max(...decided[k]));
        [label[digit.first + i], sure[digit.first + i]] = [best, decided[k][best]];
      });
    }
    return { label, sure };
  }

  paintOwn(name, put, paper) {
    const { label, sure } = this.beliefs();
    for (let i = 0; i < this.n; i++) if (label[i] >= 0) {
      const color = TABLES.labels[label[i] % TABLES.labels.length], share = 0.25 + 0.75 * sure[i];
      put(i, color.map((v, k) => paper[k] + share * (v - paper[k])));
    }
  }

  sentence({ at }) {
    const votes = this.votes(), { labels } = this.info, best = p => labels[p.indexOf(Math.max(...p))];
    if (!votes.length) return "Draw a digit: every pixel that you touch becomes a cell, which reads its neighbours alone.";
    const { label } = this.beliefs(), cells = label.filter(v => v >= 0), count = new Map();
    for (const v of cells) count.set(v, (count.get(v) ?? 0) + 1);
    const said = [...count].sort((a, b) => b[1] - a[1]).slice(0, 3).map(([v, n]) => `${n} say ${labels[v]}`).join(", ");
    return `${cells.length} pixels run the same rule, and each decides by its own state alone: ${said}. They ${at ? "are at rest" : "are moving"}. ` +
      `All together read the ${votes.length > 1 ? "digits" : "digit"} ${votes.map(best).join(", ")}.`;
  }
}

SCENES.digits = DigitScene;
