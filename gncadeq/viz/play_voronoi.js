"use strict";
// Seeds on random cells, or on a surface: every cell knows how far each seed is, and takes its colour.

// Random points, of which every pixel of a raster belongs to the nearest; neighbours share a border.
function tessellation(count, side) {
  let state = 1;
  const random = () => (state = state * 48271 % 2147483647) / 2147483647, grid = Math.ceil(Math.sqrt(count)), points = [];
  for (let k = 0; k < count; k++) points.push([(k % grid + 0.1 + 0.8 * random()) * side / grid, (Math.floor(k / grid) + 0.1 + 0.8 * random()) * side / Math.ceil(count / grid)]);
  const high = Math.ceil(count / grid), nodes = new Int32Array(side * side), lists = points.map(() => new Set());
  for (let y = 0; y < side; y++) for (let x = 0; x < side; x++) {
    const [r, c] = [Math.floor((y + 0.5) * high / side), Math.floor((x + 0.5) * grid / side)];
    let [best, least] = [-1, Infinity];
    for (let v = Math.max(r - 2, 0); v <= Math.min(r + 2, high - 1); v++) for (let u = Math.max(c - 2, 0); u <= Math.min(c + 2, grid - 1); u++) {
      const k = v * grid + u, far = k < count ? Math.hypot(points[k][0] - x - 0.5, points[k][1] - y - 0.5) : Infinity;
      if (far < least) [best, least] = [k, far];
    }
    nodes[y * side + x] = best;
    for (const near of [x ? nodes[y * side + x - 1] : best, y ? nodes[(y - 1) * side + x] : best]) if (near !== best) {
      lists[best].add(near);
      lists[near].add(best);
    }
  }
  return { nodes, graph: fromLists(lists.map(list => [...list].sort((a, b) => a - b).map(j => [j, 0]))) };
}

class VoronoiScene extends GridScene {
  constructor(info) {
    super(info);
    this.tools = [...(this.mesh ? ["turn"] : []), "seed", "remove"];
    this.actions = { fresh: "New seeds", clear: "Clear" };
    this.rate = 1;
    if (this.mesh) this.graph = fromLists(surface(this.mesh.position, this.mesh.face).neighbors.map(list => list.map(([j]) => [j, 0])));
    else {
      const { nodes, graph } = tessellation(info.cells, info.side);
      [this.graph, this.rows, this.columns] = [graph, info.side, info.side];
      this.patches = [{ rows: info.side, columns: info.side, x: 0, y: 0, pitch: 1, nodes, seamless: true }];
    }
    this.automaton = new Automaton(this.rule, this.graph, new Float32Array(this.graph.n * this.channels));
    this.seeds = [];  // { node, channel }, the oldest first
    this.reset();
    this.fresh();
  }

  colors() { return ["nearest seed", "borders", ...super.colors()]; }
  reset() { this.automaton.z.fill(this.rule.ceiling); this.automaton.steps = 0; this.changed = true; }
  noise() { this.reset(); }
  clear() { this.setSeeds([]); }

  fresh() {
    const nodes = new Set();
    while (nodes.size < Math.min(6, this.channels, this.n)) nodes.add(Math.floor(Math.random() * this.n));
    this.setSeeds([...nodes].map((node, channel) => ({ node, channel })));
  }

  setSeeds(seeds) {
    this.seeds = seeds;
    const x = new Float32Array(this.n * this.channels);
    for (const { node, channel } of seeds) x[node * this.channels + channel] = 1;
    this.automaton.setInjection(x);
    this.changed = true;
  }

  // A new seed, or another place of the one that is held or near; of too many the oldest goes.
  plant(node, held) {
    const { z } = this.automaton, C = this.channels, near = this.seeds.find(seed => seed.node === node || z[node * C + seed.channel] <= (this.mesh ? 4 : 1));
    const seed = held ? this.held : near;
    if (seed) seed.node = node;
    else {
      if (this.seeds.length === C) this.seeds.shift();
      const used = new Set(this.seeds.map(other => other.channel));
      this.seeds.push({ node, channel: Array.from({ length: C }, (_, c) => c).find(c => !used.has(c)) });
    }
    this.held = seed ?? this.seeds.at(-1);
    this.setSeeds(this.seeds);
  }

  touch(place, last, tool, brush) {
    const [cell] = this.cellsWithin(...place, 0);
    if (cell === undefined) return;
    const node = this.patches[0].nodes[cell];
    if (tool === "seed") this.plant(node, last && this.held);
    else this.touchNodes([node], tool);
  }

  touchNodes(nodes, tool) {
    if (!nodes.length) return;
    const { z } = this.automaton, C = this.channels;
    if (tool === "seed") this.plant(nodes[0], null);
    else this.setSeeds(this.seeds.filter(seed => !nodes.some(i => z[i * C + seed.channel] <= 2)));
  }

  // The channel of the nearest seed of every cell, or none; of equals the first
  labels() {
    const { z } = this.automaton, C = this.channels, { ceiling } = this.rule;
    return Int32Array.from({ length: this.n }, (_, i) => {
      let best = -1;
      for (let c = 0; c < C; c++) if (z[i * C + c] < (best < 0 ? ceiling : z[i * C + best])) best = c;
      return best;
    });
  }

  paintOwn(name, put, paper) {
    const label = this.labels(), { z, graph: { ptr, source } } = this.automaton, C = this.channels, ink = paper.map(v => 255 - v);
    let far = 1;
    label.forEach((c, i) => { if (c >= 0) far = Math.max(far, z[i * C + c]); });
    const mixed = (a, b, share) => a.map((v, k) => v + share * (b[k] - v));
    label.forEach((c, i) => {
      if (c < 0) { put(i, paper); return; }
      const border = name === "borders" && source.subarray(ptr[i], ptr[i + 1]).some(j => label[j] !== c);
      put(i, border ? ink : mixed(TABLES.labels[c], paper, name === "borders" ? 0.75 : 0.15 + 0.5 * z[i * C + c] / far));
    });
    for (const { node } of this.seeds) put(node, ink);
  }

  sentence({ at }) {
    const reached = this.labels().filter(c => c >= 0).length;
    if (!this.seeds.length) return "Click, and a seed is sown: every cell holds one more than the least of its neighbours' distances to it.";
    return `${this.n.toLocaleString("en")} cells each hold their distances to ${this.seeds.length} seeds, one more than the least of their neighbours', and take the colour of the nearest. ` +
      `${reached.toLocaleString("en")} ${at ? "have one, and nothing moves" : "have one so far"}. Drag a seed, and the borders follow.`;
  }
}

SCENES.voronoi = VoronoiScene;
