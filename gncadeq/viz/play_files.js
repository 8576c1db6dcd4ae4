"use strict";
// Files that are brought: meshes as OBJ and PLY, and weights as safetensors.

function refuse(expected, got, remedy = "") { throw new Error(`Expected ${expected} (got ${got})${remedy}`); }

// { position: numbers [3 n], polygons: lists of vertices }
function readObj(text) {
  const position = [], polygons = [];
  for (const line of text.replace(/\\\r?\n/g, " ").split(/\r\n|\n|\r/)) {
    const words = line.split("#")[0].trim().split(/\s+/);
    if (words[0] === "v") position.push(...words.slice(1, 4).map(Number));
    else if (words[0] === "f" || words[0] === "fo") {
      polygons.push(words.slice(1).map(word => parseInt(word, 10)).map(k => k > 0 ? k - 1 : k + position.length / 3));
    }
  }
  return { position, polygons };
}

const PLY_TYPES = {
  char: "Int8", int8: "Int8", uchar: "Uint8", uint8: "Uint8", short: "Int16", int16: "Int16", ushort: "Uint16", uint16: "Uint16",
  int: "Int32", int32: "Int32", uint: "Uint32", uint32: "Uint32", float: "Float32", float32: "Float32", double: "Float64", float64: "Float64",
};

function readPly(buffer) {
  const start = new TextDecoder("latin1").decode(buffer.slice(0, 1 << 16)), end = /[\r\n]end_header[ \t]*(\r\n|\n|\r)/.exec(start), elements = [];
  if (!end) refuse("a PLY file with its header's end", "none");
  let format = "";
  for (const line of start.slice(0, end.index).split(/[\r\n]+/)) {
    const words = line.trim().split(/\s+/);
    if (words[0] === "format") format = words[1];
    if (words[0] === "element") elements.push({ name: words[1], rows: Number(words[2]), properties: [] });
    if (words[0] === "property") {
      const types = words.slice(1, -1).filter(word => word !== "list").map(word => PLY_TYPES[word] ?? refuse("a PLY header", `the type ${word}`));
      elements.at(-1)?.properties.push({ name: words.at(-1), type: types.at(-1), count: words[1] === "list" ? types[0] : null });
    }
  }
  const view = new DataView(buffer), little = format === "binary_little_endian", position = [], polygons = [];
  const words = format === "ascii" ? new TextDecoder().decode(buffer.slice(end.index + end[0].length)).trim().split(/\s+/) : null;
  let at = words ? 0 : end.index + end[0].length;
  const next = type => {
    if (words) return Number(words[at++]);
    const value = view[`get${type}`](at, little);
    at += Number(/\d+/.exec(type)[0]) / 8;
    return value;
  };
  for (const { name, rows, properties } of elements) for (let row = 0; row < rows; row++) {
    const found = {};
    for (const { name: key, type, count } of properties) {
      found[key] = count ? Array.from({ length: next(count) }, () => next(type)) : next(type);
    }
    if (name === "vertex") position.push(found.x, found.y, found.z);
    if (name === "face") polygons.push(found.vertex_indices ?? found.vertex_index ?? []);
  }
  return { position, polygons };
}

// A mesh { position, face } of a file, in float32, where vertices at the same place are one
function readMesh(name, buffer) {
  const { position, polygons } = /\.ply$/i.test(name) ? readPly(buffer) : readObj(new TextDecoder().decode(buffer));
  const places = new Map(), kept = [], number = [];
  for (let i = 0; i < position.length; i += 3) {
    const place = position.slice(i, i + 3).map(v => Math.fround(v) + 0), key = place.join();
    if (place.length < 3 || !place.every(Number.isFinite)) refuse("vertices of three numbers", `${position.slice(i, i + 3)} in ${name}`);
    if (!places.has(key)) { places.set(key, places.size); kept.push(...place); }
    number.push(places.get(key));
  }
  const face = [];
  for (const polygon of polygons) {
    const corners = polygon.map(k => number[k] ?? refuse(`faces of the vertices 1 to ${number.length}`, `another in ${name}`));
    for (let k = 1; k + 1 < corners.length; k++) face.push(corners[0], corners[k], corners[k + 1]);
  }
  if (!face.length) refuse("a mesh with faces", `none in ${name}`);
  return { position: Float32Array.from(kept), face: Uint32Array.from(face) };
}

// As gncadeq.viz.geometry: y up, centred, the farthest vertex at distance one
function upright(position, axes) {
  const n = position.length / 3, out = new Float64Array(3 * n);
  for (let k = 0; k < 3; k++) {
    let [low, high] = [Infinity, -Infinity];
    for (let i = 0; i < n; i++) { const v = position[3 * i + axes[k]]; low = Math.min(low, v); high = Math.max(high, v); }
    for (let i = 0; i < n; i++) out[3 * i + k] = position[3 * i + axes[k]] - (low + high) / 2;
  }
  let far = 1e-12;
  for (let i = 0; i < n; i++) far = Math.max(far, Math.hypot(out[3 * i], out[3 * i + 1], out[3 * i + 2]));
  return Float32Array.from(out, v => v / far);
}

// The architecture, configuration, card and tensors of weights that gncadeq saved
function readWeights(name, buffer) {
  const bad = got => refuse("weights saved by gncadeq", `${got} in ${name}`), view = new DataView(buffer);
  const size = buffer.byteLength > 8 ? Number(view.getBigUint64(0, true)) : Infinity;
  if (size + 8 > buffer.byteLength) bad("no header");
  const header = JSON.parse(new TextDecoder().decode(buffer.slice(8, 8 + size))), { architecture, config, card } = header.__metadata__ ?? {};
  if (!architecture || !config) bad("no configuration");
  const tensors = {};
  delete header.__metadata__;
  for (const [key, { dtype, shape, data_offsets: [from, to] }] of Object.entries(header)) {
    const Kind = { F32: Float32Array, F64: Float64Array, I64: BigInt64Array }[dtype] ?? bad(`numbers of type ${dtype}`);
    tensors[key] = Float32Array.from(new Kind(buffer.slice(8 + size + from, 8 + size + to)), Number);
    tensors[key].shape = shape;
  }
  return { architecture, config: JSON.parse(config), card: JSON.parse(card ?? "{}"), tensors };
}
