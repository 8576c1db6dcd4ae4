"use strict";
// Graphs of pixels, made as gncadeq.transforms makes them, and graphs that came with the page.

const OFFSETS = [0, 1, 2, 3, 4, 5, 6, 7, 8].map(r => [Math.floor(r / 3) - 1, r % 3 - 1]);  // [down, right]
const MOORE = [0, 1, 2, 3, 5, 6, 7, 8];

// From lists of edges by target
function fromLists(lists) {
  const ptr = new Int32Array(lists.length + 1);
  lists.forEach((list, i) => { ptr[i + 1] = ptr[i] + list.length; });
  const source = new Int32Array(ptr[lists.length]), relation = new Uint8Array(source.length);
  lists.flat().forEach(([from, kind], e) => { [source[e], relation[e]] = [from, kind]; });
  return { n: lists.length, ptr, source, relation };
}

// The graph of the living pixels of a picture; `cells` are their numbers in it, row by row.
function pixelGraph(living, height, width, { relations = MOORE, periodic = false } = {}) {
  const number = new Int32Array(height * width).fill(-1), cells = [];
  for (let i = 0; i < living.length; i++) if (living[i]) number[i] = cells.push(i) - 1;
  const lists = cells.map(cell => {
    const row = Math.floor(cell / width), col = cell % width, list = [];
    for (const r of relations) {
      let [y, x] = [row + OFFSETS[r][0], col + OFFSETS[r][1]];
      if (periodic) [y, x] = [(y + height) % height, (x + width) % width];
      if (y >= 0 && x >= 0 && y < height && x < width && number[y * width + x] >= 0) list.push([number[y * width + x], r]);
    }
    return list;
  });
  return { ...fromLists(lists), cells: Int32Array.from(cells) };
}

// Every pixel senses itself, too.
function withLoops(graph) {
  const lists = Array.from({ length: graph.n }, (_, i) => [[i, 4]]);
  for (let i = 0; i < graph.n; i++) {
    for (let e = graph.ptr[i]; e < graph.ptr[i + 1]; e++) lists[i].push([graph.source[e], graph.relation[e]]);
  }
  return { ...graph, ...fromLists(lists) };
}

// A graph that came with the page (gncadeq.viz.play.edge_graph)
function readGraph({ ptr, source, weight }) {
  return { n: ptr.shape[0] - 1, ptr: unpack(ptr), source: unpack(source), weight: unpack(weight), width: weight.shape[1] };
}

// gncadeq.transforms.PixelKernels: of every edge the weights [K] of its relation in a table [9, K]
function withKernels(graph, table, K) {
  const weight = new Float32Array(graph.source.length * K);
  for (let e = 0; e < graph.source.length; e++) {
    for (let k = 0; k < K; k++) weight[e * K + k] = table[graph.relation[e] * K + k];
  }
  return { ...graph, weight, width: K };
}

// gncadeq.transforms.Sweeps: a table for withKernels, of four directions and three weights each
function sweepTable() {
  const table = new Float32Array(9 * 12), ways = [[1, 1], [1, -1], [-1, 1], [-1, -1]];
  OFFSETS.forEach(([down, right], r) => ways.forEach(([y, x], p) => [0, 1, 2].forEach(k => {
    table[r * 12 + p * 3 + k] = Number(down === y * (k !== 1) && right === x * (k !== 0));
  })));
  return table;
}

// gncadeq.transforms.pyramid.pixel_pyramids: levels of coarser pixels above the living ones
function pixelPyramid(living, height, width, count) {
  const levels = [], source = [];
  let n = 0;
  for (let l = 0; l < count; l++) {
    const graph = pixelGraph(living, height, width), below = levels[l - 1];
    const level = { within: graph, height, width, rows: graph.cells.map((_, i) => n + i), number: null };
    n += graph.n;
    level.number = new Int32Array(height * width).fill(-1);
    graph.cells.forEach((cell, i) => { level.number[cell] = i; });
    if (below) level.up = fromLists(Array.from(graph.cells, cell => {
      const row = 2 * Math.floor(cell / width), col = 2 * (cell % width), list = [];
      OFFSETS.forEach(([down, right], r) => {
        const [y, x] = [row + down, col + right];
        if (y < 0 || x < 0 || y >= below.height || x >= below.width) return;
        const from = below.number[y * below.width + x];
        if (from >= 0) list.push([from, r]);
      });
      return list;
    }));
    levels.push(level);
    const [tall, wide] = [Math.ceil(height / 2), Math.ceil(width / 2)], coarse = new Uint8Array(tall * wide);
    graph.cells.forEach(cell => { coarse[(Math.floor(cell / width) >> 1) * wide + (cell % width >> 1)] = 1; });
    [living, height, width] = [coarse, tall, wide];
  }
  return { n, levels, cells: levels[0].within.cells, source };
}

// Pixels within so many rings around the living ones
function withHalo(living, height, width, rings) {
  const out = new Uint8Array(living.length);
  for (let i = 0; i < living.length; i++) if (living[i]) {
    const row = Math.floor(i / width), col = i % width;
    for (let y = Math.max(0, row - rings); y <= Math.min(height - 1, row + rings); y++) {
      for (let x = Math.max(0, col - rings); x <= Math.min(width - 1, col + rings); x++) out[y * width + x] = 1;
    }
  }
  return out;
}

// Several graphs as one
function joined(graphs) {
  const join = (Type, arrays) => {
    const out = new Type(arrays.reduce((sum, a) => sum + a.length, 0));
    arrays.reduce((at, a) => { out.set(a, at); return at + a.length; }, 0);
    return out;
  };
  const shifted = (list, starts) => list.map((a, k) => a.map(v => v + starts[k]));
  const starts = counts => counts.map((_, k) => counts.slice(0, k).reduce((sum, c) => sum + c, 0));
  const flat = list => {
    const edges = starts(list.map(g => g.source.length)), ptrs = shifted(list.map(g => g.ptr), edges);
    return (sources, n) => ({
      n, ptr: join(Int32Array, [...ptrs.map(p => p.subarray(0, p.length - 1)), Int32Array.of(edges.length ? edges.at(-1) + list.at(-1).source.length : 0)]),
      source: join(Int32Array, shifted(list.map(g => g.source), sources)),
      relation: join(Uint8Array, list.map(g => g.relation)),
    });
  };
  const first = starts(graphs.map(g => g.n)), n = graphs.reduce((sum, g) => sum + g.n, 0);
  if (!graphs[0]?.levels) return flat(graphs)(first, n);
  const levels = graphs[0].levels.map((_, l) => {
    const own = graphs.map(g => g.levels[l]), counts = own.map(v => v.rows.length), total = counts.reduce((s, c) => s + c, 0);
    const level = {
      rows: join(Int32Array, shifted(own.map(v => v.rows), first)), within: flat(own.map(v => v.within))(starts(counts), total),
    };
    if (l) level.up = flat(own.map(v => v.up))(starts(graphs.map(g => g.levels[l - 1].rows.length)), total);
    return level;
  });
  return { n, levels };
}
