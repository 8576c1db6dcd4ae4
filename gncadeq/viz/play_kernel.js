"use strict";
// One step of a rule on a graph, on typed arrays. What a rule is comes from gncadeq.export.description.
// A graph is { n, ptr, source } with the edges into node i from ptr[i] to ptr[i + 1], and of every edge
// a relation (Uint8Array) or weights (Float32Array, `width` an edge); a pyramid has `levels` as well.

const ACTIVATIONS = { tanh: Math.tanh, relu: v => v > 0 ? v : v === v ? 0 : v, identity: v => v };

// out[i] += sum over edges of Wᵣᵀ y[source], W of shape [relations, in, out]
function stencil(graph, weight, y, out, center = true) {
  const [relations, from, to] = weight.shape, { n, ptr, source, relation } = graph, middle = relations >> 1;
  const add = (node, at, place) => {
    for (let c = 0; c < from; c++, at += to) {
      const v = y[node * from + c];
      if (v !== 0) for (let o = 0; o < to; o++) out[place + o] += v * weight[at + o];
    }
  };
  for (let i = 0; i < n; i++) {
    if (center) add(i, middle * from * to, i * to);
    for (let e = ptr[i]; e < ptr[i + 1]; e++) {
      if (center && relation[e] === middle && source[e] === i) continue;  // sensed already
      add(source[e], relation[e] * from * to, i * to);
    }
  }
  return out;
}

// y W + b for rows y [n, in], W of shape [in, out]
function dense(weight, bias, y, n) {
  const [from, to] = weight.shape, out = new Float32Array(n * to);
  for (let i = 0; i < n; i++) {
    for (let o = 0; o < to; o++) out[i * to + o] = bias ? bias[o] : 0;
    for (let c = 0; c < from; c++) {
      const v = y[i * from + c];
      if (v !== 0) for (let o = 0; o < to; o++) out[i * to + o] += v * weight[c * to + o];
    }
  }
  return out;
}

function layers(found) {  // a map of rows, as gncadeq.export.description.dense writes it
  const all = found.layers.map(layer => [unpack(layer.weight), unpack(layer.bias), ACTIVATIONS[layer.activation]]);
  return (y, n) => all.reduce((rows, [weight, bias, activation]) => dense(weight, bias, rows, n).map(activation), y);
}

// Each makes of a description { drive(graph, x), step(graph, drive, z, out, mask) }: what depends on
// the injection alone, and the next state. `growing` takes the mask into its step; of others, states that it keeps may be left out.
const RULES = {
  conv(r) {  // z' = φ(K z + d), or z + φ(K z + d)
    const inner = unpack(r.weight_z), bias = unpack(r.bias), outer = r.weight_x && unpack(r.weight_x);
    const C = r.channels, activation = ACTIVATIONS[r.activation];
    return {
      drive(graph, x) {
        const d = new Float32Array(graph.n * C);
        for (let i = 0; i < d.length; i++) d[i] = bias[i % C] + (outer ? 0 : x[i]);
        return outer ? stencil(graph, outer, x, d) : d;
      },
      step(graph, drive, z, out) {
        out.set(drive);
        stencil(graph, inner, z, out);
        for (let i = 0; i < out.length; i++) out[i] = activation(out[i]) + (r.residual ? z[i] : 0);
      },
    };
  },

  feedforward(r) {
    return {
      drive: (graph, x) => x.map(ACTIVATIONS[r.activation]),
      step(graph, drive, z, out) { out.set(drive); },
    };
  },

  growing(r) {  // v = z + m W₂ ReLU(W₁ [z, y¹, …, yᴷ] + d),  z' = a(z) a(v) v
    const { channels: C, kernels: K, hidden: H, bound, alive, threshold, in_channels: F } = r, S = C * (1 + K);
    const bias = unpack(r.bias), outer = r.weight_x && unpack(r.weight_x), [W, O] = [padded(H), padded(C)], BLOCK = 64;
    const products = new Products(S * W + W * O + BLOCK * (S + W + O), r.vectors);
    const inside = products.weights(unpack(r.inside)), outside = products.array(W * O), own = unpack(r.outside);
    for (let o = 0; o < C; o++) for (let h = 0; h < H; h++) outside[h * O + o] = own[o * H + h];
    const [senses, hidden, update] = [S, W, O].map(width => products.array(BLOCK * width));
    const think = rows => {  // from senses and the drive, which lies in `hidden`, to the update
      products.multiply(senses, inside, hidden, rows, S, 0);
      update.fill(0, 0, rows * O);
      products.multiply(hidden, outside, update, rows, W, -Infinity);
    };
    hidden.set(bias);
    senses.fill(0, 0, S);
    think(1);
    const idle = update.slice(0, C);  // what happens where nothing is sensed
    const lives = ({ ptr, source }, z, i) => {
      if (z[i * C + alive] > threshold) return true;
      for (let e = ptr[i]; e < ptr[i + 1]; e++) if (z[source[e] * C + alive] > threshold) return true;
      return false;
    };
    const sense = ({ ptr, source, weight }, z, i, at) => {  // whether anything is sensed
      let any = false;
      for (let c = 0; c < C; c++) any = (senses[at + c] = z[i * C + c]) !== 0 || any;
      senses.fill(0, at + C, at + S);
      for (let e = ptr[i]; e < ptr[i + 1]; e++) {
        const from = source[e] * C;
        for (let k = 0, s = at + C; k < K; k++, s += C) {
          const w = weight[e * K + k];
          if (w !== 0) for (let c = 0; c < C; c++) senses[s + c] += w * z[from + c];
        }
      }
      for (let s = at + C; s < at + S && !any; s++) any = senses[s] !== 0;
      return any;
    };
    return {
      drive(graph, x) {  // W₁'s part of the injection, of the nodes that have any
        const rows = new Map();
        for (let i = 0; i < graph.n; i++) {
          const row = x.subarray(i * F, i * F + F);
          if (row.every(v => v === 0)) continue;
          rows.set(i, bias.map((b, h) => row.reduce((sum, v, f) => sum + v * outer[h * F + f], b)));
        }
        return rows;
      },
      step(graph, drive, z, out, mask) {
        const { n } = graph, nodes = [];
        const put = (i, from, at) => {
          for (let c = 0; c < C; c++) {
            const v = z[i * C + c] + (from ? from[at + c] : 0);
            out[i * C + c] = bound ? v > bound ? bound : v < -bound ? -bound : v : v;
          }
        };
        const flush = () => {
          think(nodes.length);
          nodes.forEach((i, k) => put(i, update, k * O));
          nodes.length = 0;
        };
        for (let i = 0; i < n; i++) {
          if (mask && !mask[i]) { put(i); continue; }
          const any = sense(graph, z, i, nodes.length * S), driven = drive.get(i);
          if (!any && !driven) { put(i, idle, 0); continue; }
          hidden.set(driven ?? bias, nodes.length * W);
          hidden.fill(0, nodes.length * W + H, (nodes.length + 1) * W);
          if (nodes.push(i) === BLOCK) flush();
        }
        if (nodes.length) flush();
        if (alive === null) return;
        const kept = new Uint8Array(n);
        for (let i = 0; i < n; i++) kept[i] = lives(graph, z, i) && lives(graph, out, i);
        for (let i = 0; i < n; i++) if (!kept[i]) out.fill(0, i * C, i * C + C);
      },
    };
  },

  micro(r) {  // z' = z + W [z, y, |z|, |y|] + b
    const { channels: C, kernels: K } = r, bias = unpack(r.bias), S = 4 * C, O = padded(C), BLOCK = 64;
    const products = new Products(S * O + BLOCK * (S + O), r.vectors), matrix = products.weights(unpack(r.weight));
    const senses = products.array(BLOCK * S), update = products.array(BLOCK * O);
    return {
      drive: () => null,
      step({ n, ptr, source, weight }, drive, z, out, mask) {
        const nodes = [];
        const flush = () => {
          for (let k = 0; k < nodes.length; k++) for (let o = 0; o < O; o++) update[k * O + o] = o < C ? bias[o] : 0;
          products.multiply(senses, matrix, update, nodes.length, S, -Infinity);
          nodes.forEach((i, k) => { for (let o = 0; o < C; o++) out[i * C + o] = z[i * C + o] + update[k * O + o]; });
          nodes.length = 0;
        };
        for (let i = 0; i < n; i++) {
          if (mask && !mask[i]) continue;  // its state is kept, and none of its senses are needed
          const at = nodes.length * S;
          for (let c = 0; c < C; c++) [senses[at + c], senses[at + C + c]] = [z[i * C + c], 0];
          for (let e = ptr[i]; e < ptr[i + 1]; e++) {
            const from = source[e] * C, w = e * K;
            for (let c = 0, k = 0; c < C; c++, k = k + 1 === K ? 0 : k + 1) senses[at + C + c] += weight[w + k] * z[from + c];
          }
          for (let c = at; c < at + 2 * C; c++) senses[c + 2 * C] = Math.abs(senses[c]);
          if (nodes.push(i) === BLOCK) flush();
        }
        flush();
      },
    };
  },

  totalistic(r) {  // birth and survival by the number of living neighbours
    const table = unpack(r.table), most = table.shape[1] - 1, C = r.channels;
    return {
      drive: () => null,
      step({ n, ptr, source }, drive, z, out) {
        for (let i = 0; i < n; i++) for (let c = 0; c < C; c++) {
          let count = 0;
          for (let e = ptr[i]; e < ptr[i + 1]; e++) if (source[e] !== i && z[source[e] * C + c] > 0.5) count++;
          out[i * C + c] = table[(z[i * C + c] > 0.5 ? most + 1 : 0) + Math.min(count, most)];
        }
      },
    };
  },

  distance(r) {  // z' = min(source, min over neighbours of z + 1, ceiling)
    const C = r.channels;
    return {
      drive: (graph, x) => x.map(v => v > 0.5 ? 0 : r.ceiling),
      step({ n, ptr, source }, drive, z, out) {
        for (let i = 0; i < n; i++) for (let c = 0; c < C; c++) {
          let least = drive[i * C + c];
          for (let e = ptr[i]; e < ptr[i + 1]; e++) least = Math.min(least, z[source[e] * C + c] + 1);
          out[i * C + c] = least;
        }
      },
    };
  },

  propagation(r) {  // (1 − α) Â z + α x, with a loop for nodes that have none
    const C = r.channels, made = new WeakMap();
    const normalized = graph => {
      const { n, ptr, source, relation } = graph, degree = new Float64Array(n), loops = new Int32Array(n), own = new Float64Array(n);
      const weight = Float64Array.from(source, (_, e) => graph.weight ? graph.weight[e] : relation ? relation[e] : 1);
      for (let i = 0; i < n; i++) {
        for (let e = ptr[i]; e < ptr[i + 1]; e++) { degree[i] += Math.abs(weight[e]); loops[i] += Number(source[e] === i); }
        if (!loops[i]) degree[i] += own[i] = 1;
        degree[i] ||= 1;
      }
      for (let i = 0; i < n; i++) {
        const over = j => r.normalization === "metropolis" ? Math.max(degree[i], degree[j]) : r.normalization === "row" ? degree[i] : Math.sqrt(degree[i] * degree[j]);
        let heard = 0;
        for (let e = ptr[i]; e < ptr[i + 1]; e++) {
          weight[e] /= over(source[e]);
          if (source[e] !== i) heard += Math.abs(weight[e]);
          else if (r.normalization === "metropolis") weight[e] = 0;
        }
        own[i] = r.normalization === "metropolis" ? 1 - heard : own[i] / over(i);
      }
      return { weight, own };
    };
    return {
      drive: (graph, x) => x.map(v => r.alpha * v),
      step(graph, drive, z, out) {
        if (!made.has(graph)) made.set(graph, normalized(graph));
        const { weight, own } = made.get(graph), { n, ptr, source } = graph;
        for (let i = 0; i < n; i++) for (let c = 0; c < C; c++) {
          let sum = own[i] * z[i * C + c];
          for (let e = ptr[i]; e < ptr[i + 1]; e++) sum += weight[e] * z[source[e] * C + c];
          out[i * C + c] = drive[i * C + c] + (1 - r.alpha) * sum;
        }
      },
    };
  },

  peak(r) {  // max(x, (1 − α) max over neighbours of z)
    const C = r.channels;
    return {
      drive: (graph, x) => x,
      step({ n, ptr, source }, drive, z, out) {
        for (let i = 0; i < n; i++) for (let c = 0; c < C; c++) {
          let most = drive[i * C + c];
          for (let e = ptr[i]; e < ptr[i + 1]; e++) most = Math.max(most, (1 - r.alpha) * z[source[e] * C + c]);
          out[i * C + c] = most;
        }
      },
    };
  },

  sweep(r) {  // tanh(Σₖ Wₖᵀ Σⱼ aᵏ zⱼ + d), group by group
    const { groups: P, kernels: K, channels } = r, C = channels / P, matrix = unpack(r.weight);
    const bias = unpack(r.bias), outer = r.weight_x && unpack(r.weight_x), sensed = new Float64Array(K * C);
    return {
      drive(graph, x) {
        if (outer) return dense(outer, bias, x, graph.n);
        return x.map((v, i) => v + bias[i % channels]);
      },
      step({ n, ptr, source, weight, width }, drive, z, out) {
        const inner = width ?? 1;
        for (let i = 0; i < n; i++) for (let p = 0; p < P; p++) {
          sensed.fill(0);
          let reads = false;
          for (let e = ptr[i]; e < ptr[i + 1]; e++) for (let k = 0; k < K; k++) {
            const w = weight ? weight[e * inner + p * K + k] : 1;
            if (w === 0) continue;
            reads = true;
            for (let c = 0; c < C; c++) sensed[k * C + c] += w * z[source[e] * channels + p * C + c];
          }
          for (let o = 0; o < C; o++) {
            let a = drive[i * channels + p * C + o];
            if (reads) for (let s = 0; s < K * C; s++) a += sensed[s] * matrix[(p * K * C + s) * C + o];
            out[i * channels + p * C + o] = Math.tanh(a);
          }
        }
      },
    };
  },
};

function makeRule(description) {
  if (!RULES[description.kind]) throw new Error(`Expected one of the rules ${Object.keys(RULES)} (got ${description.kind})`);
  return { ...RULES[description.kind](description), ...description };
}
