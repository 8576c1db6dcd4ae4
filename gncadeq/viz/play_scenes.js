"use strict";
// What a page shows: a rule on a graph, what pointers do to it, and its colours.

const gaussian = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());

function softmax(logits) {
  const most = Math.max(...logits), e = Array.from(logits, v => Math.exp(v - most)), sum = e.reduce((a, b) => a + b, 0);
  return e.map(v => v / sum);
}

function sparse({ shape, rows, values }) {  // a matrix of few rows that are not zero
  const out = new Float32Array(shape[0] * shape[1]), own = unpack(values);
  unpack(rows).forEach((row, k) => out.set(own.subarray(k * shape[1], (k + 1) * shape[1]), row * shape[1]));
  return out;
}

// Where a stroke goes that went `way` before, by its last piece of about so much length
function bent(way, from, to, length) {
  if (!way) return [0, 0];
  const [dx, dy] = [to[0] - from[0], to[1] - from[1]], kept = Math.exp(-Math.hypot(dx, dy) / length);
  return [kept * way[0] + dx, kept * way[1] + dy];
}

class Scene {
  constructor(info) {
    this.info = info;
    this.rule = makeRule(info.rule);
    this.changed = true;  // whether there is something new to draw
    this.rest = 1e-3;  // the residual that is rest
    this.speed = { digits: 2, life: 2, grow: 3, maze: 4, texture: 4, voronoi: 3 }[info.kind];  // of the page's SPEEDS
  }

  get n() { return this.automaton.graph.n; }
  get channels() { return this.rule.channels; }
  colors() { return Array.from({ length: this.channels }, (_, c) => `channel ${c}`).concat("residual"); }

  noise() {  // Gaussian, as GraphNCA(start="normal")
    const { z } = this.automaton;
    for (let i = 0; i < z.length; i++) z[i] = gaussian();
    this.automaton.steps = 0;
    this.changed = true;
  }

  step(rate) {
    this.automaton.step(this.automaton.draw(rate));
    this.changed = true;
  }

  // The automaton goes to the solver's state; how it went
  solve(method) {
    const { automaton } = this, before = automaton.z;
    const found = solve(z => automaton.evaluate(z), before, { method, tol: Math.min(this.rest / 10, 1e-6), maxSteps: 3000 });
    automaton.z = found.z.slice();
    this.changed = true;
    return { ...found, moved: norm(minus(found.z, before)) / Math.max(norm(found.z), 1e-30) };
  }

  // Colours [n, 4] of all nodes, in the colours that are named
  paint(name, paper) {
    const { n, channels: C, automaton: { z } } = this;
    if (this.rgba?.length !== 4 * n) this.rgba = new Uint8ClampedArray(4 * n).fill(255);
    const { rgba } = this, put = (i, color) => { [rgba[4 * i], rgba[4 * i + 1], rgba[4 * i + 2]] = color; };
    if (name === "residual") {
      const { node } = this.automaton.residual();
      for (let i = 0; i < n; i++) put(i, TABLES.rest(clamp(1 + Math.log10(node[i] + 1e-12) / 5, 0, 1)));
    } else if (name === "channels 0, 1, 2") {
      for (let i = 0; i < n; i++) put(i, [0, 1, 2].map(c => 255 * (0.5 + 0.5 * z[i * C + c])));
    } else if (name === "colours") {
      for (let i = 0; i < n; i++) {
        const alpha = clamp(z[i * C + 3], 0, 1);
        put(i, [0, 1, 2].map(c => 255 * clamp(z[i * C + c], 0, 1) + (1 - alpha) * paper[c]));
      }
    } else if (name.startsWith("channel ")) {
      const c = Number(name.slice(8)), size = this.span ?? 1;
      for (let i = 0; i < n; i++) put(i, TABLES.channel(clamp(0.5 + 0.5 * z[i * C + c] / size, 0, 1)));
    } else this.paintOwn(name, put, paper);
    return rgba;
  }
}

// Scenes whose nodes are the pixels of one grid, or the vertices of a mesh
class GridScene extends Scene {
  constructor(info) {
    super(info);
    const { graph, mesh } = info;
    if (graph?.pixels) {
      const { height, width, filters, sweeps, periodic } = graph.pixels, made = pixelGraph(new Uint8Array(height * width).fill(1), height, width, { periodic });
      this.graph = sweeps ? withKernels(made, sweepTable(), 12) : withKernels(withLoops(made), unpack(filters), filters.shape[1]);
      this.setGrid(height, width, made);
    } else if (mesh) {
      const { position, face, edge, radius, flat } = mesh, [faces, edges] = [face, edge].map(packed => Uint32Array.from(unpack(packed)));
      this.mesh = { position: unpack(position), face: faces, edge: edges, radius, flat };
      if (info.senses) this.graph = (info.senses.sweeps ? sweepGraph : meshGraph)(surface(this.mesh.position, faces), info.senses);
      else if (graph) this.graph = readGraph(graph);
    }
  }

  place(i) {  // of a node, in the plane or in space
    if (this.mesh) return this.mesh.position.subarray(3 * i, 3 * i + 3);
    return [this.graph.cells[i] % this.columns, Math.floor(this.graph.cells[i] / this.columns)];
  }

  setGrid(rows, columns, graph) {
    [this.rows, this.columns] = [rows, columns];
    const nodes = new Int32Array(rows * columns).fill(-1);
    graph.cells.forEach((cell, i) => { nodes[cell] = i; });
    this.patches = [{ rows, columns, x: 0, y: 0, pitch: 1, nodes }];
  }

  // The cells that a brush covers on its way
  cellsAlong(place, last, radius) {
    const from = last ?? place, steps = Math.ceil(2 * Math.hypot(place[0] - from[0], place[1] - from[1])), found = new Set();
    for (let k = 0; k <= steps; k++) {
      const share = steps ? k / steps : 1, [x, y] = [0, 1].map(i => from[i] + share * (place[i] - from[i]));
      for (const cell of this.cellsWithin(x, y, radius)) found.add(cell);
    }
    return [...found];
  }

  cellsWithin(x, y, radius) {
    const found = [];
    for (let r = Math.floor(y - radius); r <= y + radius; r++) for (let c = Math.floor(x - radius); c <= x + radius; c++) {
      if (r < 0 || c < 0 || r >= this.rows || c >= this.columns) continue;
      if (Math.hypot(r + 0.5 - y, c + 0.5 - x) <= Math.max(radius, 0.71)) found.push(r * this.columns + c);
    }
    return found;
  }

  touch(place, last, tool, brush) {
    const cells = this.cellsAlong(place, last, tool === "seed" ? 0 : brush / 2), way = this.way = bent(last && this.way, last, place, 2);
    const angle = Math.atan2(-way[1], way[0]);
    this.touchNodes(cells.map(cell => this.patches[0].nodes[cell]).filter(i => i >= 0), tool, way.some(v => v) ? () => angle : null);
  }
}

class GrowScene extends GridScene {
  constructor(info) {
    super(info);
    this.span = 2;
    this.tools = [...(this.mesh ? ["turn"] : []), "erase", "seed"];
    this.actions = { third: "Cut a third", noise: "Noise" };
    this.automaton = new Automaton(this.rule, this.graph, this.graph.marks ?? sparse(info.x), sparse(info.z0));
    this.start = this.automaton.z.slice();
    this.rate = info.fire_rate;
    this.alive = info.rule.alive ?? 3;
  }

  colors() { return ["colours", ...super.colors()]; }

  reset() {
    this.automaton.z = this.start.slice();
    this.automaton.steps = 0;
    this.changed = true;
  }

  touchNodes(nodes, tool) {
    const { z } = this.automaton, C = this.channels;
    for (const i of nodes) {
      z.fill(0, i * C, i * C + C);
      if (tool === "seed") z.fill(1, i * C + 3, i * C + C);
    }
    this.changed = true;
  }

  living() {
    const { z } = this.automaton, C = this.channels;
    return Array.from({ length: this.n }, (_, i) => i).filter(i => z[i * C + this.alive] > 0.1);
  }

  third() {  // a third of the living beyond a plane, as gncadeq.transforms.damage.cut
    const living = this.living(), way = Array.from(this.place(0), () => Math.random() - 0.5);
    const along = living.map(i => [this.place(i).reduce((sum, v, k) => sum + v * way[k], 0), i]).sort((a, b) => a[0] - b[0]);
    this.touchNodes(along.slice(0, Math.floor(along.length / 3)).map(pair => pair[1]), "erase");
  }

  sentence({ at }) {
    const alive = this.living().length, { n } = this;
    return `${n.toLocaleString("en")} cells run the same rule, and each reads its neighbours alone. ` +
      `${alive.toLocaleString("en")} of them are alive; ${at ? "nothing moves any more" : "they are still moving"}. Wound it: it mends.`;
  }
}

class LifeScene extends GridScene {
  constructor(info) {
    super(info);
    this.tools = ["draw", "erase"];
    this.actions = { noise: "Soup", clear: "Clear" };
    [this.rate, this.span] = [1, 1];
    const graph = pixelGraph(new Uint8Array(info.rows * info.columns).fill(1), info.rows, info.columns, { periodic: true });
    this.setGrid(info.rows, info.columns, graph);
    this.automaton = new Automaton(this.rule, graph, null);
    this.noise();
  }

  colors() { return ["alive"]; }
  reset() { this.noise(); }
  clear() { this.automaton.z.fill(0); this.changed = true; }

  noise() {
    const { z } = this.automaton;
    for (let i = 0; i < z.length; i++) z[i] = Number(Math.random() < 0.25);
    this.automaton.steps = 0;
    this.changed = true;
  }

  touchNodes(nodes, tool) {
    for (const i of nodes) this.automaton.z[i] = Number(tool === "draw");
    this.changed = true;
  }

  paintOwn(name, put, paper) {
    for (let i = 0; i < this.n; i++) put(i, this.automaton.z[i] > 0.5 ? TABLES.accent : paper);
  }

  sentence() {
    const alive = this.automaton.z.reduce((sum, v) => sum + v, 0);
    return `A cell counts its eight living neighbours: ${this.info.words} ${alive.toLocaleString("en")} of ${this.n.toLocaleString("en")} live.`;
  }
}

class MazeScene extends GridScene {
  constructor(info) {
    super(info);
    this.tools = ["wall", "open", "start", "goal"];
    this.ground = "--wall";
    this.actions = { fresh: "New maze", clear: "Clear" };
    [this.rate, this.rows, this.columns] = [1, info.side, info.side];
    this.fresh();
  }

  colors() { return ["way", "residual"]; }
  reset() { this.automaton.z.fill(this.rule.ceiling); this.automaton.steps = 0; this.changed = true; }
  noise() { this.reset(); }

  setOpen(open, keep = true) {  // walls are no nodes; the distances of the others stay
    const old = keep && this.automaton?.z, before = this.patches?.[0].nodes;
    this.open = open;
    const graph = pixelGraph(open, this.rows, this.columns, { relations: [1, 3, 5, 7] });
    this.setGrid(this.rows, this.columns, graph);
    const x = new Float32Array(2 * graph.n), z = new Float32Array(2 * graph.n).fill(this.rule.ceiling);
    graph.cells.forEach((cell, i) => {
      x[2 * i] = Number(cell === this.start);
      x[2 * i + 1] = Number(cell === this.goal);
      if (old && before[cell] >= 0) z.set(old.subarray(2 * before[cell], 2 * before[cell] + 2), 2 * i);
    });
    this.automaton = new Automaton(this.rule, graph, x, z);
    this.changed = true;
  }

  fresh() {  // a tree by depth-first search, and some walls opened
    const { rows, columns } = this, open = new Uint8Array(rows * columns), stack = [[1, 1]];
    open[columns + 1] = 1;
    while (stack.length) {
      const [r, c] = stack.at(-1);
      const ways = [[0, 2], [0, -2], [2, 0], [-2, 0]].filter(([v, u]) => r + v > 0 && c + u > 0 && r + v < rows - 1 && c + u < columns - 1 && !open[(r + v) * columns + c + u]);
      if (!ways.length) { stack.pop(); continue; }
      const [v, u] = ways[Math.floor(Math.random() * ways.length)];
      open[(r + v / 2) * columns + c + u / 2] = open[(r + v) * columns + c + u] = 1;
      stack.push([r + v, c + u]);
    }
    for (let k = 0; k < rows; k++) open[(1 + Math.floor(Math.random() * (rows - 2))) * columns + 1 + Math.floor(Math.random() * (columns - 2))] = 1;
    [this.start, this.goal] = [columns + 1, (rows - 2) * columns + columns - 2];
    open[this.start] = open[this.goal] = 1;
    this.setOpen(open, false);
  }

  clear() { this.setOpen(new Uint8Array(this.rows * this.columns).fill(1)); }

  touch(place, last, tool, brush) {
    const open = this.open.slice(), one = this.cellsWithin(...place, 0);
    if (tool === "start" || tool === "goal") {
      for (const cell of one) { this[tool] = cell; open[cell] = 1; }
    } else for (const cell of this.cellsAlong(place, last, brush / 2)) {
      if (cell !== this.start && cell !== this.goal) open[cell] = Number(tool === "open");
    }
    this.setOpen(open);
  }

  get length() {  // of a shortest way, infinite where there is none
    const far = this.automaton.z[2 * this.patches[0].nodes[this.goal]];
    return far < this.rule.ceiling ? far : Infinity;
  }

  paintOwn(name, put, paper) {
    const { z, graph } = this.automaton, { ceiling } = this.rule;
    const { length } = this;
    let far = 1;
    for (let i = 0; i < z.length; i += 2) if (z[i] < ceiling) far = Math.max(far, z[i]);
    for (let i = 0; i < this.n; i++) {
      const cell = graph.cells[i], near = 1 - Math.min(z[2 * i] / far, 1), on = z[2 * i] + z[2 * i + 1] === length;
      put(i, cell === this.start ? TABLES.good : cell === this.goal ? TABLES.bad : on ? TABLES.warm
        : paper.map((v, k) => v + 0.55 * near * (TABLES.accent[k] - v)));
    }
  }

  sentence({ at }) {
    return "Every open cell holds one more than its nearest neighbour's distance to the start, and to the goal. " +
      (this.length < Infinity ? `The cells on a shortest way light up: ${this.length} steps${at ? "" : " so far"}.` : "No way reaches the goal yet.");
  }
}

Object.assign(SCENES, { grow: GrowScene, life: LifeScene, maze: MazeScene });
