"use strict";
// Rules in an order, each driven by the injection and by the states of earlier ones, maybe on levels.

function drives(drive) {  // what a part of a cascade is driven through: (graph, rows, whether from below) -> rows
  if (!drive) return (graph, y) => y;
  if (drive.kind === "dense") {
    const map = layers(drive);
    return (graph, y) => map(y, graph.n);
  }
  const weight = unpack(drive.weight), bias = unpack(drive.bias), to = weight.shape[2];
  return (graph, y, rises) => {
    const out = new Float32Array(graph.n * to);
    for (let i = 0; i < out.length; i++) out[i] = bias[i % to];
    return stencil(graph, weight, y, out, !rises);
  };
}

RULES.cascade = r => {  // every part takes its step at once, driven by the states of earlier parts
  const parts = r.parts.map(p => ({ ...p, rule: RULES[p.rule.kind](p.rule), drive: drives(p.drive), C: p.place[1] - p.place[0] }));
  const take = (z, rows, width, from, to) => {
    const out = new Float32Array(rows.length * (to - from));
    for (let i = 0, k = 0; i < rows.length; i++) for (let c = from; c < to; c++) out[k++] = z[rows[i] * width + c];
    return out;
  };
  const places = graph => graph.levels ?? [{ rows: Int32Array.from({ length: graph.n }, (_, i) => i), within: graph }];
  const driven = (part, level, x, states) => {
    const read = part.reads.map(q => q === "x" ? [x, r.in_channels] : [states[q], parts[q].C]);
    let [y] = read[0];
    if (read.length > 1) {
      const width = read.reduce((sum, [, w]) => sum + w, 0), n = level.rows.length;
      y = new Float32Array(n * width);
      let at = 0;
      for (const [rows, w] of read) {
        for (let i = 0; i < n; i++) for (let c = 0; c < w; c++) y[i * width + at + c] = rows[i * w + c];
        at += w;
      }
    }
    return part.rule.drive(level.within, part.drive(part.rises ? level.up : level.within, y, part.rises));
  };
  return {
    drive(graph, x) {
      const levels = places(graph), xs = levels.map(l => take(x, l.rows, r.in_channels, 0, r.in_channels));
      const fixed = parts.map(p => p.reads.every(q => q === "x") ? driven(p, levels[p.level], xs[p.level], []) : null);
      // Parts that read edges whatever their relation; on levels of a pyramid nodes read themselves, too.
      const bare = levels.map(l => graph.levels ? withLoops(l.within) : l.within).map(({ n, ptr, source }) => ({ n, ptr, source }));
      return { levels, bare, xs, fixed };
    },
    step(graph, { levels, bare, xs, fixed }, z, out) {
      const states = parts.map(p => take(z, levels[p.level].rows, r.channels, ...p.place));
      out.fill(0);
      parts.forEach((part, p) => {
        const level = levels[part.level], next = new Float32Array(states[p].length);
        const drive = fixed[p] ?? driven(part, level, xs[part.level], states);
        part.rule.step(part.plain ? bare[part.level] : level.within, drive, states[p], next);
        for (let i = 0, k = 0; i < level.rows.length; i++) {
          for (let c = part.place[0]; c < part.place[1]; c++) out[level.rows[i] * r.channels + c] = next[k++];
        }
      });
    },
  };
};
