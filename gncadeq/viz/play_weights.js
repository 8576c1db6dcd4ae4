"use strict";
// Scenes of files that are brought: weights become the descriptions that gncadeq.viz.play makes, and
// a mesh another surface for a rule.

const MOST_EDGES = 400_000;  // of a mesh; longer kernels are shortened to that
const FILTERS = Float32Array.from([  // gncadeq.transforms.PixelKernels
  -1, 0, 1, -2, 0, 2, -1, 0, 1, -1, -2, -1, 0, 0, 0, 1, 2, 1, 0.5, 1, 0.5, 1, -6, 1, 0.5, 1, 0.5,
].map((_, k, all) => all[k % 3 * 9 + Math.floor(k / 3)] / 8));
FILTERS.shape = [9, 3];

const shaped = (values, ...shape) => Object.assign(Float32Array.from(values), { shape });
const transposed = matrix => {
  const [rows, columns] = matrix.shape;
  return shaped(matrix.map((_, k) => matrix[k % rows * columns + Math.floor(k / rows)]), columns, rows);
};
const rowsOf = (n, width, rows) => ({  // a matrix of few rows that are not zero
  shape: [n, width], rows: Int32Array.from(rows.keys()), values: Float32Array.from([...rows.values()].flat()),
});

// gncadeq.cells.stencil_bound: the norm of the Fourier symbol, by powers of MᴴM, at 16 × 16 frequencies
function stencilBound(weight) {
  const [relations, from, to] = weight.shape, side = Math.sqrt(relations), reach = Math.max(1, side >> 1), n = 16 * reach;
  let most = 0, start = Float64Array.from({ length: 2 * to }, (_, k) => 1 + k % 3);
  for (let a = 0; a < n; a++) for (let b = 0; b < n; b++) {
    if (a * n + b > (n - a) % n * n + (n - b) % n) continue;  // the conjugate of another
    const real = new Float64Array(from * to), imaginary = new Float64Array(from * to);
    for (let r = 0; r < relations; r++) {
      const angle = 2 * Math.PI / n * (a * (Math.floor(r / side) - (side >> 1)) + b * (r % side - (side >> 1))), [c, s] = [Math.cos(angle), Math.sin(angle)];
      for (let k = 0; k < from * to; k++) { real[k] += c * weight[r * from * to + k]; imaginary[k] += s * weight[r * from * to + k]; }
    }
    let [size, before, v] = [0, -1, start];
    for (let t = 0; t < 500 && Math.abs(size - before) > 1e-10 * size; t++) {
      const u = new Float64Array(2 * from), w = new Float64Array(2 * to);
      for (let i = 0; i < from; i++) for (let o = 0, k = i * to; o < to; o++, k++) {
        u[2 * i] += real[k] * v[2 * o] - imaginary[k] * v[2 * o + 1];
        u[2 * i + 1] += real[k] * v[2 * o + 1] + imaginary[k] * v[2 * o];
      }
      for (let i = 0; i < from; i++) for (let o = 0, k = i * to; o < to; o++, k++) {
        w[2 * o] += real[k] * u[2 * i] + imaginary[k] * u[2 * i + 1];
        w[2 * o + 1] += real[k] * u[2 * i + 1] - imaginary[k] * u[2 * i];
      }
      const [up, down] = [norm(w), norm(v)];
      [before, size] = [size, Math.sqrt(up / down)];
      v = w.map(x => x / Math.max(up, 1e-300));
    }
    [most, start] = [Math.max(most, size), v];
  }
  return most / Math.cos(Math.PI / 16) ** 2;
}

// gncadeq.ConvCell: the state's stencil within its bound
function convRule(tensors, at, { channels: C, contraction, spread, residual = false, activation = "tanh" }) {
  let weight = tensors[`${at}weight_z`];
  if (contraction) {
    const factor = contraction / Math.max(stencilBound(weight), contraction), scale = k => Math.exp(spread * k / Math.max(C - 1, 1));
    const bounded = weight.map((v, k) => v * factor * scale(k % C) / scale(Math.floor(k / C) % C));
    if (residual) for (let c = 0; c < C; c++) bounded[((bounded.length / C / C) >> 1) * C * C + c * C + c] -= 1;
    weight = shaped(bounded, ...weight.shape);
  }
  const bias = tensors[`${at}bias`] ?? shaped(new Array(C).fill(0), C), outer = tensors[`${at}weight_x`];
  return { kind: "conv", in_channels: outer ? outer.shape[1] : C, channels: C, residual, activation, weight_z: weight, bias, ...(outer && { weight_x: outer }) };
}

function stencilDrive(tensors, at) {  // gncadeq.cells.StencilDrive, its normalisation folded
  let weight = tensors[`${at}conv.weight`], bias = tensors[`${at}conv.bias`];
  const [mean, variance, gain, shift] = ["running_mean", "running_var", "weight", "bias"].map(name => tensors[`${at}norm.${name}`]);
  if (mean) {
    const scale = gain.map((g, c) => g / Math.sqrt(variance[c] + 1e-4));
    [weight, bias] = [shaped(weight.map((v, k) => v * scale[k % scale.length]), ...weight.shape), shaped(shift.map((v, c) => v - mean[c] * scale[c]), shift.length)];
  }
  return { kind: "stencil", weight, bias };
}

const layer = (weight, bias, activation = "identity") => ({ weight: transposed(weight), bias: bias ?? shaped(new Array(weight.shape[0]).fill(0), weight.shape[0]), activation });

// gncadeq.models.SelfClassifier of a classifier's parts, as gncadeq.viz.play.digit_scene writes it
function selfClassifying(parts, in_channels, pool) {
  const { level, place: [, width] } = parts.at(-1), last = parts.length - 1, alpha = (2 ** level / 32) ** 2 / 2;
  const spread = pool.map((how, k) => [width * (k + 1), width * (k + 2)]);
  pool.forEach((how, k) => parts.push({
    rule: { kind: how === "mean" ? "propagation" : "peak", in_channels: width, channels: width, alpha, normalization: "metropolis" },
    drive: null, reads: [last], level, rises: false, plain: true, place: spread[k],
  }));
  const channels = Math.max(...parts.map(part => part.place[1]));
  return { rule: { kind: "cascade", in_channels, channels, levels: level + 1, parts }, readout: { pool, state: [0, width], spread }, rest: alpha / 100 };
}

function digitsOf({ config, card, tensors }, made, encoder, found) {
  const { living_threshold: threshold, halo = 0, levels = 1, neighborhood = "moore", periodic = false } = config.transform, { inputs = {} } = card;
  if (config.in_channels !== 1 || neighborhood !== "moore" || periodic) refuse("a classifier of grey images with Moore neighbourhoods", `${config.in_channels} channels, ${neighborhood}`);
  return {
    kind: "digits", words: "Draw a digit, and its pixels read it.", rule: made.rule, rest: made.rest, encoder,
    readout: { kind: "dense", layers: found, ...made.readout }, transform: { threshold: threshold ?? -1, halo, levels },
    find: inputs.drawn ? { size: inputs.size, canvas: inputs.canvas, stroke: inputs.stroke_median } : null,
    labels: Array.from({ length: config.num_classes }, (_, k) => String(k)), rows: inputs.canvas ?? 28,
  };
}

const ARCHITECTURES = {
  PixelGraphClassifier(weights) {
    const { config: { channels, contraction, update, injection }, tensors } = weights, rule = convRule(tensors, "dynamics.cell.", { channels, contraction, spread: 3, residual: update === "residual" });
    let [first, bias] = [tensors["readout.lin1.weight"], tensors["readout.lin1.bias"]];
    const [mean, variance] = ["running_mean", "running_var"].map(name => tensors[`readout.norm.${name}`]);
    if (mean) {
      first = shaped(first.map((v, k) => v / Math.sqrt(variance[k % channels] + 1e-5)), ...first.shape);
      bias = shaped(bias.map((v, o) => mean.reduce((sum, m, c) => sum - first[o * channels + c] * m, v)), bias.length);
    }
    const part = { rule, drive: null, reads: ["x"], level: 0, rises: false, plain: false, place: [0, channels] };
    const decode = [layer(first, bias, "relu"), layer(tensors["readout.lin2.weight"], tensors["readout.lin2.bias"])];
    return digitsOf(weights, selfClassifying([part], channels, ["mean"]), { weight: tensors["encoder.weight"], bias: tensors["encoder.bias"] }, decode);
  },

  PyramidClassifier(weights) {
    const { config: { channels, contraction }, tensors } = weights, parts = channels.map((C, level) => ({
      rule: level ? convRule(tensors, `dynamics.cell.parts.${level}.cell.`, { channels: C, contraction, spread: 0, activation: "relu" })
        : { kind: "feedforward", in_channels: C, channels: C, activation: "relu" },
      drive: stencilDrive(tensors, `dynamics.cell.parts.${level}.drive.`), reads: [level ? level - 1 : "x"], level, rises: level > 0, plain: false, place: [0, C],
    }));
    return digitsOf(weights, selfClassifying(parts, 1, ["mean", "max"]), null, [layer(tensors["readout.lin.weight"], tensors["readout.lin.bias"])]);
  },

  GrowingCell(weights, page, current) {
    const { config: c, tensors: { weight_z, weight_x, weight_out, bias } } = weights;
    const rule = {
      kind: "growing", in_channels: c.in_channels, channels: c.channels, kernels: c.num_kernels, hidden: c.hidden_channels, bound: c.bound,
      alive: c.alive_channel, threshold: c.alive_threshold, inside: weight_z, bias, outside: weight_out, ...(weight_x && { weight_x }),
    };
    return c.alive_channel === null && !c.in_channels ? texturesOf(weights, rule, page, current) : grownOn(weights, rule, page, current);
  },

  MicroCell(weights, page, current) {
    const { config: { channels, num_kernels: kernels }, tensors: { weight, bias } } = weights;
    return texturesOf(weights, { kind: "micro", in_channels: 0, channels, kernels, weight, bias }, page, current);
  },

  SweepGrower(weights, page, current) {
    const { config: { in_channels: F, groups, kernels, channels: C, hidden_channels: H }, tensors } = weights, width = groups * C;
    const sweep = (k, more) => ({ kind: "sweep", in_channels: F, channels: width, groups, kernels, weight: tensors[`parts.${k}.cell.weight`], bias: new Float32Array(width), ...more });
    const drive = k => ({ kind: "dense", layers: [layer(tensors[`parts.${k}.drive.weight`])] });
    const part = (rule, drive, reads, place) => ({ rule, drive, reads, level: 0, rises: false, plain: false, place });
    const parts = [
      part(sweep(0, { weight_x: tensors["parts.0.cell.weight_x"] }), null, ["x"], [4, 4 + width]),
      part(sweep(1), drive(1), [0], [4 + width, 4 + 2 * width]),
      part({ kind: "feedforward", in_channels: H, channels: H, activation: "tanh" }, drive(2), [0, 1], [4 + 2 * width, 4 + 2 * width + H]),
      part({ kind: "feedforward", in_channels: 4, channels: 4, activation: "identity" }, drive(3), [2], [0, 4]),
    ];
    return grownOn(weights, { kind: "cascade", in_channels: F, channels: 4 + 2 * width + H, levels: 1, parts }, page, current);
  },
};

// A texture beside those of a scene that has such rules, or alone on a torus of pixels
function texturesOf({ name, card }, rule, page, current) {
  const { channels, kernels } = rule, host = [current, ...page.scenes].find(scene => scene.kind === "texture" && scene.rule.channels === channels && scene.rule.rules[0].kernels === kernels);
  if (host) return { ...host, facts: "", rule: { ...host.rule, rules: [rule, ...host.rule.rules] }, textures: [name, ...host.textures.map(other => other === name ? `${name} before` : other)] };
  if (kernels !== 1 && kernels !== 3) refuse("weights of a texture with one or three kernels", kernels);
  const filters = FILTERS.map((v, k) => v * [0.754, -0.754, 1][k % 3]).filter((_, k) => k % 3 >= 3 - kernels);  // surface_filters
  return {
    kind: "texture", words: "A texture grows from noise, and can be painted.", noise: 0.3, fire_rate: card.fire_rate ?? 0.5, textures: [name],
    rule: { kind: "grafted", in_channels: 0, channels, rules: [rule] }, graph: { pixels: { height: 96, width: 96, periodic: true, filters: shaped(filters, 9, kernels) } },
  };
}

// A grown rule on what it was grown on: pixels, or a surface of the page
function grownOn({ card, config }, rule, page, current) {
  const { senses = card.config && { ...card.config, on: card.config.on === "grid" ? "pixels" : "surface", size: [card.config.size, card.config.size] } } = card;
  const sweeps = rule.kind !== "growing", info = { kind: "grow", words: "A pattern grows from one cell, and mends.", rule, fire_rate: card.fire_rate ?? 0.5 };
  if (senses ? senses.on === "surface" : config.kernels === 4) {
    const host = [current, ...page.scenes].find(scene => scene.senses) ?? refuse("a scene on a surface in this page, for weights of one", "none");
    return onMesh({ ...host, ...info, senses: { axes: host.senses.axes, kernels: senses?.kernels, scale: sweeps ? senses?.scale ?? "edge" : senses.scale, sweeps } }, host.mesh);
  }
  if (senses ? senses.on !== "pixels" : !sweeps && config.num_kernels !== 3) refuse("weights of a rule of pixels or of a surface with faces", senses?.on ?? `${config.num_kernels} kernels`);
  const [height, width] = [senses?.size?.[0] ?? 40, senses?.size?.[1] ?? 40];
  return { ...info, graph: { pixels: { height, width, ...(sweeps ? { sweeps } : { filters: FILTERS }) } }, ...seeded(rule, height * width, card.seed_node ?? Math.floor((height - 1) / 2) * width + Math.floor((width - 1) / 2)) };
}

function seeded(rule, n, seed) {  // the injection and the first state
  const C = rule.channels, F = rule.in_channels, z0 = rowsOf(n, C, new Map([[seed, Array.from({ length: C }, (_, c) => Number(c > 2 && rule.kind === "growing"))]]));
  return { z0, x: F ? rowsOf(n, F, new Map([[seed, new Array(F).fill(1)]])) : rowsOf(n, 0, new Map()) };
}

const meshOf = (position, face) => ({ position: unpack(position), face: unpack(face), edge: new Uint32Array(0), radius: 0, flat: false });

// The length of kernels, or a shorter one of which the surface has no more edges than a page holds
function fittingScale(made, trained, corners, reach) {
  const most = MOST_EDGES.toLocaleString("en"), tooMany = () => refuse(`a mesh whose kernels have at most ${most} edges`, `${made.n.toLocaleString("en")} vertices`, ". Simplify it");
  if (!trained) return made.n + corners > MOST_EDGES ? tooMany() : trained;
  const area = made.area.reduce((a, b) => a + b, 0), least = trained === "edge" ? made.edge : Math.min(trained, meanEdge(made));
  let scale = trained === "edge" ? made.edge : Math.min(trained, 1.2 * Math.sqrt(MOST_EDGES * area / (reach ** 2 * Math.PI)) / made.n);
  for (;;) {
    if (scale < least || 32 * made.n > 2 * MOST_EDGES) tooMany();
    const edges = balls(made, reach * scale).reduce((sum, ball) => sum + ball.length, made.n);
    if (edges <= MOST_EDGES) return trained === "edge" ? trained : scale;
    scale *= 0.99 * Math.sqrt(MOST_EDGES / edges);
  }
}

// The rule of a scene on another surface
function onMesh(info, { position, face }) {
  const { trained = info.senses.scale, sweeps } = info.senses;
  let mesh = meshOf(position, face), made = surface(mesh.position, mesh.face);
  const given = made.n;
  while (trained > 0 && trained < meanEdge(made) * (sweeps ? 1 : 0.5) && 32 * made.n < MOST_EDGES) {  // too coarse
    mesh = meshOf(...Object.values(subdivided(mesh)));
    made = surface(mesh.position, mesh.face);
  }
  const finer = made.n > given ? " Its faces are divided, for such short kernels." : "";
  const scale = fittingScale(made, trained, mesh.face.length, sweeps ? 2 : CUTOFF);
  const shorter = scale < trained ? ` Its kernels are ${Math.round(100 * scale / trained)} % as long as where it was trained.` : "";
  const anchor = info.kind === "grow" && frontOf(made);
  return { ...info, mesh, senses: { ...info.senses, scale, trained, anchor }, ...(info.kind === "grow" && seeded(info.rule, made.n, anchor)), facts: `${made.n.toLocaleString("en")} vertices.${finer}${shorter}` };
}

// A new scene of a page, made of a file and of the scene that is shown
function bring(name, buffer, page, current) {
  const make = /\.safetensors$/i.test(name) ? bringWeights : bringMesh;
  try {
    return { ...make(name, buffer, page, current), name: name.replace(/\.[^.]*$/, "") };
  } catch (error) {  // whatever a damaged file brings about
    if (error.message.startsWith("Expected")) throw error;
    return refuse("a file that can be read", `${name}: ${error.message}`);
  }
}

function bringWeights(name, buffer, page, current) {
  const weights = readWeights(name, buffer), make = ARCHITECTURES[weights.architecture];
  if (!make) refuse(`weights of ${Object.keys(ARCHITECTURES).join(", ")}`, weights.architecture);
  const count = Object.entries(weights.tensors).reduce((sum, [key, v]) => sum + (/\.norm\.(running|num)/.test(key) ? 0 : v.length), 0);
  const info = make({ ...weights, name: name.replace(/\.[^.]*$/, "") }, page, current);
  return { ...info, facts: `${count.toLocaleString("en")} parameters. ${info.facts ?? ""}`.trim() };
}

function bringMesh(name, buffer, page, current) {
  const { position, face } = readMesh(name, buffer);
  if (current.kind === "voronoi") return { ...current, mesh: meshOf(upright(position, [0, 1, 2]), face) };
  const likely = [current, ...page.scenes.filter(scene => scene.kind === current.kind), ...page.scenes];
  const host = likely.find(scene => scene.senses) ?? refuse("a scene of a rule on a surface in this page, for a mesh", "none");
  return onMesh(host, { position: upright(position, host.senses.axes), face });
}
