"use strict";
// A rule with its graph and its state: steps, the residual, and the equilibrium by a solver.

const norm = v => {
  let sum = 0;
  for (let i = 0; i < v.length; i++) sum += v[i] * v[i];
  return Math.sqrt(sum);
};
const dot = (a, b) => {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
};
const minus = (a, b) => a.map((v, i) => v - b[i]);

class Automaton {
  constructor(rule, graph, x, z = null) {
    [this.rule, this.graph] = [rule, graph];
    this.kernel = null;  // another one than that on typed arrays
    this.z = z ?? new Float32Array(graph.n * rule.channels);
    this.next = new Float32Array(this.z.length);
    this.steps = 0;
    this.setInjection(x ?? new Float32Array(0));
  }

  get z() {  // whoever has it may change it
    if (this.ahead) this.kernel.read(this.state);
    this.ahead = false;
    if (this.kernel) this.kernel.fresh = false;
    return this.state;
  }

  set z(state) {
    [this.state, this.ahead] = [state, false];
    if (this.kernel) this.kernel.fresh = false;
  }

  setInjection(x) {
    this.x = x;
    this.drive = this.rule.drive(this.graph, x);
  }

  // f(z), of the whole graph at once
  evaluate(z = this.z, out = new Float32Array(z.length)) {
    this.rule.step(this.graph, this.drive, z, out, null);
    return out;
  }

  // One step of the automaton, of the nodes that the mask updates: z + m (f(z) - z). A growing rule
  // takes the mask into its own step, since nodes live or die after it.
  step(mask = null) {
    this.steps++;
    if (this.kernel?.lost) [this.kernel, this.ahead] = [null, false];  // on from what was read last
    if (this.kernel) {
      this.kernel.step(this.state, mask);
      this.ahead = true;
      return;
    }
    const { z, next } = this, C = this.rule.channels;
    this.rule.step(this.graph, this.drive, z, next, mask);
    if (mask && this.rule.kind !== "growing") {
      for (let i = 0; i < mask.length; i++) if (!mask[i]) for (let c = i * C; c < i * C + C; c++) next[c] = z[c];
    }
    [this.z, this.next] = [next, z];
  }

  draw(rate, random = Math.random) {  // an update mask, or none at a rate of one
    if (rate >= 1) return null;
    return Uint8Array.from({ length: this.graph.n }, () => random() < rate);
  }

  // ‖f(z) − z‖ / ‖f(z)‖, and the distance that each node would go
  residual(fz = this.evaluate()) {
    const C = this.rule.channels, node = new Float32Array(this.graph.n);
    let total = 0;
    for (let i = 0; i < node.length; i++) {
      let sum = 0;
      for (let c = i * C; c < i * C + C; c++) sum += (fz[c] - this.z[c]) ** 2;
      total += sum;
      node[i] = Math.sqrt(sum);
    }
    return { relative: total ? Math.sqrt(total) / Math.max(norm(fz), 1e-30) : 0, node };
  }
}

// The weights of differences: argmin ‖g − Σ γ dg‖, by the normal equations with a small ridge
function mixing(dg, g) {
  const m = dg.length, a = dg.map((u, i) => [...dg.map((v, j) => dot(u, v) + (i === j ? 1e-10 : 0)), dot(u, g)]);
  for (let i = 0; i < m; i++) {
    let p = i;
    for (let k = i + 1; k < m; k++) if (Math.abs(a[k][i]) > Math.abs(a[p][i])) p = k;
    [a[i], a[p]] = [a[p], a[i]];
    for (let k = i + 1; k < m; k++) {
      const q = a[k][i] / a[i][i];
      for (let j = i; j <= m; j++) a[k][j] -= q * a[i][j];
    }
  }
  const out = new Array(m).fill(0);
  for (let i = m - 1; i >= 0; i--) {
    out[i] = a[i][m];
    for (let j = i + 1; j < m; j++) out[i] -= a[i][j] * out[j];
    out[i] /= a[i][i];
  }
  return out.every(Number.isFinite) ? out : out.fill(0);
}

// z = f(z) by Picard's iteration, or by Anderson's with so many differences (Walker & Ni 2011).
// Returns the state of the least residual.
function solve(f, z0, { method = "anderson", tol = 1e-5, maxSteps = 400, history = 5 } = {}) {
  let z = z0.slice(), last = null, best = { z, residual: Infinity };
  const dgs = [], dxs = [];
  for (let steps = 1; steps <= maxSteps; steps++) {
    const fz = f(z), g = minus(fz, z), moved = norm(g);
    const residual = moved ? moved / Math.max(norm(fz), 1e-30) : 0;
    if (!Number.isFinite(residual)) return { ...best, steps, converged: false };
    if (residual < best.residual) best = { z, residual };
    if (residual <= tol) return { ...best, steps, converged: true };
    let next = fz;
    if (method === "anderson") {
      if (last) {
        const dg = minus(g, last.g), dz = minus(z, last.z), size = norm(dg);
        if (size > 0) {
          dgs.push(dg.map(v => v / size));
          dxs.push(dz.map((v, i) => (v + dg[i]) / size));
        }
        if (dgs.length > history) { dgs.shift(); dxs.shift(); }
      }
      last = { z, g };
      if (dgs.length) {
        const gamma = mixing(dgs, g);
        next = fz.map((v, i) => gamma.reduce((sum, w, k) => sum - w * dxs[k][i], v));
      }
    }
    z = next;
  }
  return { ...best, steps: maxSteps, converged: false };
}
