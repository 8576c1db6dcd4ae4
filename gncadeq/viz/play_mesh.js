"use strict";
// Kernels of a surface, in double precision, as gncadeq.transforms.MeshToGraph makes them.

const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const inner3 = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const lengthOf = a => Math.sqrt(inner3(a, a));
const times = (a, s) => [a[0] * s, a[1] * s, a[2] * s];
const apart = (a, b) => [a[0] - b[0], a[1] - b[1], a[2] - b[2]];

const CUTOFF = 3, FLOOR = Math.exp(-(CUTOFF ** 2) / 2), LEAST_SPREAD = 0.05, LARGEST = 6, SHORTEST = 1e-2;

// Normals and areas of the vertices, and of every vertex its neighbours, each with the sum of the
// cotangents of the angles that are opposite to the edge, halved
function surface(position, face) {
  const n = position.length / 3, at = i => [position[3 * i], position[3 * i + 1], position[3 * i + 2]];
  const total = Array.from({ length: n }, () => [0, 0, 0]), size = new Float64Array(n), area = new Float64Array(n), flat = new Map();
  const near = Array.from({ length: n }, () => new Map()), proper = [];
  let around = 0;  // the faces
  for (let f = 0; f < face.length; f += 3) {
    const corner = [face[f], face[f + 1], face[f + 2]], p = corner.map(at), normal = cross(apart(p[1], p[0]), apart(p[2], p[0])), twice = lengthOf(normal);
    const longest = Math.max(...[0, 1, 2].map(k => lengthOf(apart(p[k], p[(k + 1) % 3])))), thin = twice <= 1e-6 * longest ** 2;
    around += [0, 1, 2].reduce((sum, k) => sum + lengthOf(apart(p[k], p[(k + 1) % 3])), 0);
    corner.forEach((i, k) => {
      area[i] += twice / 6;
      const [u, v] = [corner[(k + 1) % 3], corner[(k + 2) % 3]];
      const half = thin ? 0 : 0.5 * inner3(apart(p[(k + 1) % 3], p[k]), apart(p[(k + 2) % 3], p[k])) / twice;
      if (u !== v) for (const [a, b] of [[u, v], [v, u]]) near[a].set(b, (near[a].get(b) ?? 0) + half);
      if (thin) return;
      for (let c = 0; c < 3; c++) total[i][c] += normal[c];
      size[i] += twice;
    });
    if (!thin) proper.push([corner, normal, twice]);
  }
  total.forEach((normal, i) => { if (lengthOf(normal) < 0.1 * size[i]) flat.set(i, [0, 0, 0, 0, 0, 0, 0, 0, 0]); });
  // Where faces of both orientations meet the normal is that of their plane: of Σ n nᵀ the first axis.
  for (const [corner, normal, twice] of proper) for (const i of corner) {
    flat.get(i)?.forEach((_, k, m) => { m[k] += normal[Math.floor(k / 3)] * normal[k % 3] / twice / size[i]; });
  }
  for (let [i, m] of flat) {
    for (let k = 0; k < 30; k++) {
      const squared = m.map((_, e) => [0, 1, 2].reduce((sum, c) => sum + m[3 * Math.floor(e / 3) + c] * m[3 * c + e % 3], 0)), most = Math.max(...squared, 1e-300);
      m = squared.map(v => v / most);
    }
    total[i] = [0, 1, 2].map(k => m.slice(3 * k, 3 * k + 3)).sort((a, b) => lengthOf(b) - lengthOf(a))[0];
  }
  const normal = total.map(v => times(v, 1 / Math.max(lengthOf(v), 1e-300)).map(Math.fround));
  const neighbors = near.map(map => [...map].sort((a, b) => a[0] - b[0]));
  return { n, at, normal, area, neighbors, edge: around / Math.max(face.length, 1) };
}

function frameOf(normal, spare) {  // (east, north) of a tangent plane, north is y projected onto it
  const up = [0, 1, 0], n = lengthOf(normal) < 0.5 ? up : normal, flat = v => apart(v, times(n, inner3(n, v)));
  let north = flat(up);
  if (lengthOf(north) < 1e-3) north = flat([0, 1, 2].map(k => Number(k === spare)));
  north = times(north, 1 / lengthOf(north));
  return [cross(north, n), north];
}

// gncadeq.transforms.surface_operators.least_squares_gradient, at one vertex
function gradient(offset, far, weight, unit) {
  const spread = Math.max(weight.reduce((sum, w, e) => sum + w * far[e] ** 2, 0), 1e-300), share = weight.map(w => w / spread);
  let [xx, xy, yy] = [0, 0, 0];
  offset.forEach(([x, y], e) => { xx += share[e] * x * x; xy += share[e] * x * y; yy += share[e] * y * y; });
  const middle = (xx + yy) / 2, away = Math.hypot((xx - yy) / 2, xy), [large, small] = [middle + away, middle - away].map(v => Math.max(v, LEAST_SPREAD));
  // Of the axes' projections P and I − P: P / large + (I − P) / small
  const [pxx, pxy, pyy] = away > 0 ? [0.5 + (xx - yy) / 4 / away, xy / 2 / away, 0.5 - (xx - yy) / 4 / away] : [1, 0, 0];
  const [a, b] = [1 / large - 1 / small, 1 / small], [ixx, ixy, iyy] = [a * pxx + b, a * pxy, a * pyy + b];
  const out = offset.map(([x, y], e) => [ixx * x + ixy * y, ixy * x + iyy * y].map(v => v * share[e] * unit));
  const own = out.reduce((sum, v) => [sum[0] + v[0], sum[1] + v[1]], [0, 0]);
  const most = out.reduce((sum, v) => sum + Math.hypot(...v), Math.hypot(...own));
  return out.map(v => v.map(c => c * LARGEST / Math.max(most, LARGEST)));
}

// The vertices that each reaches along edges within its ball, in order
function balls({ n, at, neighbors }, radius) {
  const seen = new Int32Array(n).fill(-1);
  return Array.from({ length: n }, (_, i) => {
    const center = at(i), found = [], queue = [i];
    seen[i] = i;
    while (queue.length) for (const [j] of neighbors[queue.pop()]) {
      if (seen[j] === i) continue;
      const far = lengthOf(apart(at(j), center));
      if (far > radius) continue;
      seen[j] = i;
      queue.push(j);
      found.push([j, far]);
    }
    return found.sort((a, b) => a[0] - b[0]);
  });
}

function meanEdge({ n, at, neighbors }) {
  let [sum, count] = [0, 0];
  for (let i = 0; i < n; i++) for (const [j] of neighbors[i]) { sum += lengthOf(apart(at(j), at(i))); count++; }
  return count ? sum / count : 0;
}

// The graph of a surface { position, face } in a page: y is up, and `axes` were right, up and front.
// The length of kernels may be that of an "edge", the mean one of the faces.
function meshGraph(made, { kernels, scale: given, axes, centered }) {
  const { n, at, normal, area, neighbors } = made, scale = given === "edge" ? made.edge : given, mean = meanEdge(made), rows = [];
  const spare = axes.indexOf(axes[1] === 1 ? 0 : 1), width = { isotropic: 1, tangent: 3, harmonics: 4 }[kernels];
  if (scale && scale < 0.5 * mean) throw new Error(`Expected a finer mesh for kernels of length ${scale.toPrecision(2)} (got edges of length ${mean.toPrecision(2)} on average)`);
  const frames = kernels === "isotropic" ? null : Array.from(normal, v => frameOf(v, spare));
  const near = scale ? balls(made, CUTOFF * scale) : neighbors.map((list, i) => list.map(([j]) => [j, lengthOf(apart(at(j), at(i)))]));
  const cotangent = neighbors.map(list => list.map(([, half]) => Math.max(half, 0))), bare = cotangent.map(list => list.reduce((a, b) => a + b, 0) <= 1e-12);
  for (let i = 0; i < n; i++) {
    const far = near[i].map(pair => pair[1]), byDistance = far.map(d => mean > 0 ? mean / Math.max(d, mean * SHORTEST) : 1);
    const raw = scale ? near[i].map(([j, d]) => Math.max(Math.exp(-d * d / (2 * scale * scale)) - FLOOR, 0) * area[j])
      : near[i].map(([j], e) => bare[i] || bare[j] ? byDistance[e] : cotangent[i][e]);
    const sum = Math.max(raw.reduce((a, b) => a + b, scale ? area[i] * (1 - FLOOR) : 0), 1e-300), laplacian = raw.map(w => w / sum);
    let columns = laplacian.map(w => [w]);
    if (frames) {
      const frame = frames[i], center = at(i), offset = near[i].map(([j]) => frame.map(axis => inner3(axis, apart(at(j), center))));
      const fitted = scale ? gradient(offset, far, laplacian, scale) : gradient(offset, far, byDistance, far.reduce((a, b) => a + b, 0) / Math.max(far.length, 1));
      columns = fitted.map(([east, north], e) => kernels === "tangent" ? [east, north, laplacian[e]]
        : [laplacian[e], ...[0, 1, 2].map(k => axes.indexOf(k)).map(k => east * frame[0][k] + north * frame[1][k])]);
    }
    if (frames && centered) {  // gncadeq.transforms.surface_operators.centered_rows
      const total = Math.max(laplacian.reduce((a, b) => a + b, 0), 1e-300), sums = [0, 1].map(k => columns.reduce((s, column) => s + column[k], 0));
      columns = columns.map((column, e) => column.map((w, k) => k < 2 ? w - sums[k] * laplacian[e] / total : w));
    }
    columns = columns.map(column => column.map(Math.fround));
    const loop = Array.from({ length: width }, (_, k) => -columns.reduce((s, column) => s + column[k], 0));
    rows.push([...near[i].map(([j], e) => [j, columns[e]]), [i, loop]].sort((a, b) => a[0] - b[0]));
  }
  return { ...fromRows(rows, width), frames };
}

function fromRows(rows, width) {  // of every vertex [source, weights] of its edges
  const n = rows.length, ptr = new Int32Array(n + 1);
  rows.forEach((row, i) => { ptr[i + 1] = ptr[i] + row.length; });
  const source = new Int32Array(ptr[n]), weight = new Float32Array(ptr[n] * width);
  rows.forEach((row, i) => row.forEach(([j, column], e) => { source[ptr[i] + e] = j; weight.set(column, (ptr[i] + e) * width); }));
  return { n, ptr, source, weight, width };
}

// Where a pattern begins: in the largest part, the vertex that is nearest to the middle of the front
function frontOf({ n, at, neighbors }) {
  const part = new Int32Array(n).fill(-1), sizes = [];
  for (let i = 0; i < n; i++) if (part[i] < 0) {
    const stack = [i];
    part[i] = sizes.push(0) - 1;
    while (stack.length) {
      const k = stack.pop();
      sizes[part[i]]++;
      for (const [j] of neighbors[k]) if (part[j] < 0) { part[j] = part[i]; stack.push(j); }
    }
  }
  const places = Array.from({ length: n }, (_, i) => at(i)), most = sizes.indexOf(Math.max(...sizes));
  const box = [0, 1, 2].map(k => places.reduce(([low, high], p) => [Math.min(low, p[k]), Math.max(high, p[k])], [Infinity, -Infinity]));
  const goal = box.map(([low, high], k) => k === 2 ? high : (low + high) / 2), far = places.map((p, i) => part[i] === most ? lengthOf(apart(p, goal)) : Infinity);
  const least = far.reduce((a, b) => Math.min(a, b)) + 1e-4 * Math.max(...box.map(([low, high]) => high - low));
  return far.findIndex(d => d <= least);
}

// gncadeq.transforms.SurfaceSweeps from one vertex; `marks` are the injection.
function sweepGraph({ n, at, normal, area, neighbors, edge }, { scale: given, axes, anchor }) {
  const scale = given === "edge" ? edge : given, places = Array.from({ length: n }, (_, i) => at(i)), boxes = new Map(), far = new Float64Array(n).fill(Infinity);
  const box = (p, step = [0, 0, 0]) => p.map((v, k) => Math.floor(v / 2 / scale) + step[k]).join();
  places.forEach((p, i) => boxes.set(box(p), [...boxes.get(box(p)) ?? [], i]));
  const around = Array.from({ length: 27 }, (_, k) => [k % 3 - 1, Math.floor(k / 3) % 3 - 1, Math.floor(k / 9) - 1]);
  const near = places.map((p, i) => {  // [vertex, distance] of those within reach on the same side, and of the mesh's neighbours
    const found = new Map(neighbors[i].map(([j]) => [j, lengthOf(apart(places[j], p))]));
    for (const step of around) for (const j of boxes.get(box(p, step)) ?? []) {
      const length = lengthOf(apart(places[j], p));
      if (j !== i && length <= 2 * scale && inner3(normal[i], normal[j]) > 0) found.set(j, length);
    }
    return [...found].sort((a, b) => a[0] - b[0]);
  });
  far[anchor] = 0;
  for (let queue = [anchor]; queue.length;) {  // shortest ways
    const next = new Set();
    for (const i of queue) for (const [j, length] of near[i]) if (far[i] + length < far[j]) { far[j] = far[i] + length; next.add(j); }
    queue = [...next];
  }
  const rows = near.map((list, i) => {
    const nearer = list.map(([j, length]) => ({ j, length, gain: far[i] - far[j] })).filter(({ gain }) => gain > 0), most = nearer.filter(({ gain }) => gain > scale / 2);
    const chosen = most.length ? most : nearer, weight = chosen.map(({ j, length, gain }) => Math.exp(-0.5 * (length / scale) ** 2) * area[j] * Math.max(gain / scale - 0.5, 1e-3));
    const total = Math.max(weight.reduce((a, b) => a + b, 0), 1e-300);
    return chosen.map(({ j }, e) => {
      const offset = apart(places[j], places[i]), along = apart(offset, times(normal[i], inner3(offset, normal[i]))), w = weight[e] / total;
      return [j, [w, ...[0, 1, 2].map(k => w * along[axes.indexOf(k)] / scale)]];
    });
  });
  const marks = Float32Array.from(places, p => {
    const away = lengthOf(apart(p, places[anchor])) / scale;
    return away <= 3 ? Math.exp(-0.5 * away ** 2) : 0;
  });
  return { ...fromRows(rows, 4), marks };
}

// Faces in four, at the middles of their edges
function subdivided({ position, face }) {
  const places = Array.from(position), middles = new Map();
  const middle = (i, j) => {
    const key = `${Math.min(i, j)},${Math.max(i, j)}`;
    if (!middles.has(key)) {
      middles.set(key, places.length / 3);
      for (let k = 0; k < 3; k++) places.push((position[3 * i + k] + position[3 * j + k]) / 2);
    }
    return middles.get(key);
  };
  const faces = [];
  for (let f = 0; f < face.length; f += 3) {
    const [a, b, c] = face.subarray(f, f + 3), [d, e, g] = [middle(a, b), middle(b, c), middle(c, a)];
    faces.push(a, d, g, d, b, e, g, e, c, d, e, g);
  }
  return { position: Float32Array.from(places), face: Uint32Array.from(faces) };
}
