"use strict";
// Textures that are painted into each other: a field says of every node which rule it runs.

// Several rules of the same channels; node i takes the step of rule graph.field[i].
RULES.grafted = r => {
  const rules = r.rules.map(makeRule), C = r.channels;
  let own = new Float32Array(0);
  return {
    drive: graph => rules.map(rule => rule.drive(graph, own)),  // of no injection
    step(graph, drives, z, out, mask) {
      if (own.length !== z.length) own = new Float32Array(z.length);
      rules.forEach((rule, k) => {
        const nodes = graph.field.map((v, i) => Number(v === k && (!mask || mask[i])));
        if (!nodes.includes(1)) return;
        rule.step(graph, drives[k], z, own, nodes);
        nodes.forEach((on, i) => { if (on) out.set(own.subarray(i * C, i * C + C), i * C); });
      });
    },
  };
};

class TextureScene extends GridScene {
  constructor(info) {
    super(info);
    this.names = info.textures;
    this.directed = this.graph.width > 1;
    this.tools = [...(this.mesh ? ["turn"] : []), ...this.names, ...(this.directed ? ["direction"] : []), "erase"];
    this.actions = { noise: "Noise", halves: "Halves", ...(this.directed && { straight: "Straight" }) };
    [this.rate, this.size, this.turn, this.rest] = [info.fire_rate, 1, 0, 1e-3];
    this.automaton = new Automaton(this.rule, this.graph, null);
    this.plain = this.graph.weight;
    for (const patch of this.patches ?? []) patch.seamless = true;
    this.graph.weight = this.plain.slice();
    this.angle = new Float32Array(this.n);  // of every node, in radians from right towards up
    this.reset();
    this.halves();
  }

  colors() { return ["pattern", ...(this.names.length > 1 ? ["rules"] : []), ...(this.directed ? ["direction"] : []), ...super.colors()]; }

  noise(nodes = null) {
    const { z } = this.automaton, C = this.channels;
    for (const i of nodes ?? Array(this.n).keys()) for (let c = i * C; c < i * C + C; c++) z[c] = this.info.noise * gaussian();
    if (!nodes) this.automaton.steps = 0;
    this.changed = true;
  }

  reset() { this.noise(); }

  halves() {  // as many parts as there are textures, from left to right
    const order = Array.from({ length: this.n }, (_, i) => i).sort((a, b) => this.place(a)[0] - this.place(b)[0]);
    this.graph.field = new Uint8Array(this.n);
    order.forEach((i, k) => { this.graph.field[i] = Math.floor(k * this.names.length / this.n); });
    this.edit();
  }

  edit() {  // other kernels hold copies of the graph
    this.graph.edited = (this.graph.edited ?? 0) + 1;
    this.changed = true;
  }

  // Patterns `size` times as large as in training, turned by so many degrees and by every node's own angle
  setPattern(size, turn) {
    [this.size, this.turn] = [size, turn];
    this.turnKernels(Array(this.n).keys());
  }

  // gncadeq.transforms.TurnKernels: derivatives are divided by the size, the Laplacian by its square.
  turnKernels(nodes) {
    const { plain, graph: { width: K, weight, ptr } } = this, s = 1 / this.size;
    for (const i of nodes) {
      const angle = this.turn * Math.PI / 180 + this.angle[i], [cos, sin] = [Math.cos(angle) * s, Math.sin(angle) * s];
      for (let e = ptr[i] * K; e < ptr[i + 1] * K; e += K) {
        if (K > 1) {
          weight[e] = cos * plain[e] + sin * plain[e + 1];
          weight[e + 1] = cos * plain[e + 1] - sin * plain[e];
        }
        weight[e + K - 1] = s * s * plain[e + K - 1];
      }
    }
    this.edit();
  }

  straight() {
    this.angle.fill(0);
    this.setPattern(this.size, this.turn);
  }

  touchNodes(nodes, tool, angleOf) {
    if (tool === "direction") {  // that of the stroke, which a click has none of
      if (!angleOf) return;
      for (const i of nodes) this.angle[i] = angleOf(i) - this.turn * Math.PI / 180;
      this.turnKernels(nodes);
    } else if (tool === "erase") this.noise(nodes);
    else if (this.names.includes(tool)) for (const i of nodes) this.graph.field[i] = this.names.indexOf(tool);
    this.edit();
  }

  paintOwn(name, put, paper) {
    const { z } = this.automaton, C = this.channels, { field } = this.graph;
    if (name === "rules") for (let i = 0; i < this.n; i++) put(i, TABLES.labels[field[i]]);
    else if (name === "direction") {
      for (let i = 0; i < this.n; i++) put(i, [0, 1, 2].map(c => 255 * (0.5 + 0.5 * Math.cos(this.angle[i] + this.turn * Math.PI / 180 - 2 * Math.PI * c / 3))));
    } else for (let i = 0; i < this.n; i++) put(i, [0, 1, 2].map(c => 255 * (z[i * C + c] + 0.5)));
  }

  sentence() {
    const many = this.names.length > 1 ? `Where ${this.names.join(" and ")} meet they grow into each other: choose one, and paint.` : "Erase some of it, and it grows again.";
    return `${this.n.toLocaleString("en")} cells of ${this.channels} numbers make a texture from noise; each reads its nearest neighbours alone. ${many}`;
  }
}

SCENES.texture = TextureScene;
