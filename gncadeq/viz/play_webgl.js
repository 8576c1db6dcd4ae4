"use strict";
// The steps of growing rules, of MicroCell and of several of them by a field, as passes over textures of
// floats: a texel holds four channels of a node. The kernel on typed arrays stays the reference.

const WIDE = 2048, PASS = `#version 300 es
precision highp float; precision highp int; precision highp sampler2D; precision highp isampler2D; precision highp usampler2D;
uniform int count;
ivec2 at(int t) { return ivec2(t & ${WIDE - 1}, t >> ${Math.log2(WIDE)}); }
`, EDGES = `uniform isampler2D ptr, source;
int edge(int i) { return texelFetch(ptr, at(i), 0).x; }
int from(int e) { return texelFetch(source, at(e), 0).x; }
`, PRODUCT = `uniform sampler2D matrix; uniform usampler2D mask; uniform int rule;
bool updates(int i) { return int(texelFetch(mask, at(i), 0).x) == rule; }
vec4 product(vec4 v, int m) {
  return v.x * texelFetch(matrix, at(m), 0) + v.y * texelFetch(matrix, at(m + 1), 0)
    + v.z * texelFetch(matrix, at(m + 2), 0) + v.w * texelFetch(matrix, at(m + 3), 0);
}
`, MAIN = "void main() {\n  int t = int(gl_FragCoord.x) + int(gl_FragCoord.y) * " + WIDE + ";\n  if (t >= count) discard;\n";

class Passes {  // textures and programs of one context
  constructor() {
    const gl = this.gl = document.createElement("canvas").getContext("webgl2");
    if (!gl?.getExtension("EXT_color_buffer_float")) throw new Error("no WebGL 2 with textures of floats");
    gl.bindVertexArray(gl.createVertexArray());
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    this.kinds = {
      float: [gl.RGBA32F, gl.RGBA, gl.FLOAT, 4, Float32Array], int: [gl.R32I, gl.RED_INTEGER, gl.INT, 1, Int32Array],
      byte: [gl.R8UI, gl.RED_INTEGER, gl.UNSIGNED_BYTE, 1, Uint8Array],
    };
  }

  texture(kind, texels) {
    const { gl } = this, height = Math.max(1, Math.ceil(texels / WIDE)), made = { kind, texels, height, texture: gl.createTexture() };
    this.made.push(made);
    if (height > gl.getParameter(gl.MAX_TEXTURE_SIZE)) throw new Error("too large");
    gl.bindTexture(gl.TEXTURE_2D, made.texture);
    gl.texStorage2D(gl.TEXTURE_2D, 1, this.kinds[kind][0], WIDE, height);
    for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, gl.NEAREST);
    return made;
  }

  fill(made, values) {  // of texels one after the other
    const { gl } = this, [, format, type, size, Type] = this.kinds[made.kind];
    made.room ??= new Type(WIDE * made.height * size);
    made.room.set(values);
    gl.bindTexture(gl.TEXTURE_2D, made.texture);
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, WIDE, made.height, format, type, made.room);
    return made;
  }

  target(...textures) {
    const { gl } = this, frame = gl.createFramebuffer(), places = textures.map((_, k) => gl.COLOR_ATTACHMENT0 + k);
    gl.bindFramebuffer(gl.FRAMEBUFFER, frame);
    textures.forEach(({ texture }, k) => gl.framebufferTexture2D(gl.FRAMEBUFFER, places[k], gl.TEXTURE_2D, texture, 0));
    gl.drawBuffers(places);
    return { frame, texels: textures[0].texels, height: textures[0].height };
  }

  program(source) {
    const { gl } = this, program = gl.createProgram(), uniforms = {};
    const vertex = "#version 300 es\nvoid main() { gl_Position = vec4(vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4.0 - 1.0, 0.0, 1.0); }";
    for (const [kind, text] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, PASS + source]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getAttachedShaders(program).map(s => gl.getShaderInfoLog(s)).join());
    for (let k = 0; k < gl.getProgramParameter(program, gl.ACTIVE_UNIFORMS); k++) {
      const { name } = gl.getActiveUniform(program, k);
      uniforms[name] = gl.getUniformLocation(program, name);
    }
    return { program, uniforms };
  }

  run({ program, uniforms }, target, inputs) {
    const { gl } = this;
    gl.useProgram(program);
    gl.bindFramebuffer(gl.FRAMEBUFFER, target.frame);
    gl.viewport(0, 0, WIDE, target.height);
    let unit = 0;
    for (const [name, value] of Object.entries({ count: target.texels, ...inputs })) if (uniforms[name]) {
      if (value.texture) {
        gl.activeTexture(gl.TEXTURE0 + unit);
        gl.bindTexture(gl.TEXTURE_2D, value.texture);
      }
      gl.uniform1i(uniforms[name], value.texture ? unit++ : value);
    }
    gl.activeTexture(gl.TEXTURE0);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }
}

class GlKernel {
  constructor({ rule, graph, x }) {
    const rules = rule.kind === "grafted" ? rule.rules : [rule], { channels: C } = rule, { n } = graph;
    if (!rules.every(({ kind }) => kind === "growing" || kind === "micro")) throw new Error("another rule");
    const gpu = this.gpu = GlKernel.shared ??= new Passes(), Q = Math.ceil(C / 4);
    this.made = gpu.made = [];
    Object.assign(this, { graph, n, C, Q, fresh: false, masked: true });
    this.states = Array.from({ length: 3 }, () => gpu.texture("float", n * Q));
    this.targets = this.states.map(state => gpu.target(state));
    this.ptr = gpu.fill(gpu.texture("int", n + 1), graph.ptr);
    this.source = gpu.fill(gpu.texture("int", graph.source.length), graph.source);
    this.weight = gpu.texture("float", graph.source.length);
    this.mask = gpu.texture("byte", n);
    this.sensed = Array.from({ length: graph.width }, () => gpu.texture("float", n * Q));
    this.rules = rules.map((one, k) => this[one.kind](one, k + 1, rules.length === 1, x));
  }

  get lost() { return this.gpu.gl.isContextLost(); }
  free() { for (const { texture } of this.made) this.gpu.gl.deleteTexture(texture); }

  // A matrix [outputs, parts of C inputs each], as four texels for four inputs of four outputs
  matrix(values, outputs, parts) {
    const { gpu, C, Q } = this, rows = Math.ceil(outputs / 4), out = new Float32Array(16 * rows * parts * Q);
    for (let o = 0; o < outputs; o++) for (let p = 0; p < parts; p++) for (let c = 0; c < C; c++) {
      out[((o >> 2) * parts * Q + p * Q + (c >> 2)) * 16 + (c & 3) * 4 + (o & 3)] = values[(o * parts + p) * C + c];
    }
    return gpu.fill(gpu.texture("float", out.length / 4), out);
  }

  sense(sum) {  // y of every node's four channels; `sum` adds what an edge of weights w and state v brings
    const names = this.sensed.map((_, k) => k);
    return this.gpu.program(`${EDGES}uniform sampler2D z, weight;
${names.map(k => `layout(location = ${k}) out vec4 y${k};`).join("\n")}
${MAIN}  int i = t / ${this.Q}, q = t % ${this.Q}, end = edge(i + 1);
  ${names.map(k => `y${k} = vec4(0);`).join(" ")}
  for (int e = edge(i); e < end; e++) {
    vec4 w = texelFetch(weight, at(e), 0), v = texelFetch(z, at(from(e) * ${this.Q} + q), 0);
    ${sum}
  }
}`);
  }

  growing(r, number, alone, x) {
    const { gpu, n, C, Q, sensed } = this, { hidden: H, kernels: K, alive, bound } = r, wide = Math.ceil(H / 4), senses = ["z", ...sensed.map((_, k) => `y${k}`)];
    const inside = this.matrix(unpack(r.inside), H, 1 + K), own = unpack(r.outside), outside = new Float32Array(16 * Q * wide);
    for (let c = 0; c < C; c++) for (let h = 0; h < H; h++) outside[((c >> 2) * wide + (h >> 2)) * 16 + (h & 3) * 4 + (c & 3)] = own[c * H + h];
    const driven = r.drive ? r.drive(this.graph, x) : new Map(), rows = new Int32Array(n), drive = new Float32Array(4 * wide * (1 + driven.size));
    [unpack(r.bias), ...driven.values()].forEach((row, k) => drive.set(row, 4 * wide * k));
    [...driven.keys()].forEach((i, k) => { rows[i] = k + 1; });
    const hidden = gpu.texture("float", n * wide), life = gpu.texture("float", n), limit = bound ? `v = clamp(v, -float(${bound}), float(${bound}));` : "";
    const think = gpu.program(`${PRODUCT}uniform sampler2D drive, ${senses.join()}; uniform isampler2D row; out vec4 a;
${MAIN}  int i = t / ${wide}, h = t % ${wide};
  if (!updates(i)) { a = vec4(0); return; }
  a = texelFetch(drive, at(texelFetch(row, at(i), 0).x * ${wide} + h), 0);
  for (int q = 0; q < ${Q}; q++) {
    ${senses.map((name, s) => `a += product(texelFetch(${name}, at(i * ${Q} + q), 0), (h * ${(1 + K) * Q} + ${s * Q} + q) * 4);`).join("\n    ")}
  }
  a = max(a, 0.0);
}`);
    const act = gpu.program(`${PRODUCT}uniform sampler2D z, kept, hidden; out vec4 v;
${MAIN}  int i = t / ${Q}, q = t % ${Q};
  v = texelFetch(kept, at(t), 0);
  if (updates(i)) {
    v = texelFetch(z, at(t), 0);
    for (int h = 0; h < ${wide}; h++) v += product(texelFetch(hidden, at(i * ${wide} + h), 0), (q * ${wide} + h) * 4);
    ${limit}
  } ${alone ? limit : ""}
}`);
    const made = {
      number, sense: this.sense(sensed.map((_, k) => `y${k} += w[${k}] * v;`).join(" ")), think, act, hidden: gpu.target(hidden),
      of: { matrix: inside, drive: gpu.fill(gpu.texture("float", drive.length / 4), drive), row: gpu.fill(gpu.texture("int", n), rows) },
      out: { hidden, matrix: gpu.fill(gpu.texture("float", outside.length / 4), outside) },
    };
    if (alive === null) return made;
    return Object.assign(made, {
      life, lives: gpu.target(life),
      check: gpu.program(`${EDGES}uniform sampler2D z, next; out vec4 life;
bool alive(sampler2D s, int i) { return texelFetch(s, at(i * ${Q} + ${alive >> 2}), 0)[${alive & 3}] > float(${r.threshold}); }
${MAIN}  bool before = alive(z, t), after = alive(next, t);
  for (int e = edge(t), end = edge(t + 1); e < end && !(before && after); e++) {
    before = before || alive(z, from(e));
    after = after || alive(next, from(e));
  }
  life = vec4(before && after);
}`),
      survive: gpu.program(`uniform sampler2D next, life; out vec4 v;
${MAIN}  v = texelFetch(life, at(t / ${Q}), 0).x > 0.5 ? texelFetch(next, at(t), 0) : vec4(0);
}`),
    });
  }

  micro(r, number) {
    const { gpu, C, Q } = this, K = r.kernels, bias = new Float32Array(4 * Q);
    bias.set(unpack(r.bias));
    const kernel = j => K === 1 ? "w.x" : `w[(4 * q + ${j}) % ${K}]`;
    return {
      number, sense: this.sense(`y0 += vec4(${[0, 1, 2, 3].map(kernel).join()}) * v;`),
      out: { matrix: this.matrix(unpack(r.weight), C, 4), bias: gpu.fill(gpu.texture("float", Q), bias) },
      act: gpu.program(`${PRODUCT}uniform sampler2D z, kept, y0, bias; out vec4 v;
${MAIN}  int i = t / ${Q}, q = t % ${Q};
  v = texelFetch(kept, at(t), 0);
  if (!updates(i)) return;
  v = texelFetch(z, at(t), 0) + texelFetch(bias, at(q), 0);
  for (int s = 0; s < ${Q}; s++) {
    vec4 own = texelFetch(z, at(i * ${Q} + s), 0), near = texelFetch(y0, at(i * ${Q} + s), 0);
    int m = (q * ${4 * Q} + s) * 4;
    v += product(own, m) + product(near, m + ${4 * Q}) + product(abs(own), m + ${8 * Q}) + product(abs(near), m + ${12 * Q});
  }
}`),
    };
  }

  // What may change between steps: the weights and the rules of nodes, and the mask
  prepare(mask) {
    const { gpu, graph, n } = this, edited = graph.edited ?? 0;
    if (edited !== this.edited) {
      const K = graph.width, four = new Float32Array(4 * graph.source.length);
      for (let e = 0; e < graph.source.length; e++) for (let k = 0; k < K; k++) four[4 * e + k] = graph.weight[e * K + k];
      gpu.fill(this.weight, four);
    }
    if (mask || this.masked || edited !== this.edited) gpu.fill(this.mask, Uint8Array.from({ length: n }, (_, i) => !mask || mask[i] ? 1 + (graph.field?.[i] ?? 0) : 0));
    [this.edited, this.masked] = [edited, Boolean(mask)];
  }

  step(state, mask) {
    const { gpu, C, Q, n, ptr, source, weight, mask: chosen, sensed, states } = this;
    if (!this.fresh) {
      let four = state;
      if (C % 4) {
        four = new Float32Array(4 * Q * n);
        for (let i = 0; i < n; i++) four.set(state.subarray(i * C, i * C + C), 4 * Q * i);
      }
      gpu.fill(states[0], four);
      this.fresh = true;
    }
    this.prepare(mask);
    const graph = { ptr, source, weight, mask: chosen }, senses = Object.fromEntries(sensed.map((y, k) => [`y${k}`, y])), [z] = states;
    let at = 0;  // of the states, where the next one is so far
    const write = (program, inputs) => {
      const to = at === 1 ? 2 : 1;
      gpu.run(program, this.targets[to], { ...graph, z, ...inputs });
      at = to;
    };
    this.whole ??= gpu.target(...sensed);
    for (const rule of this.rules) {
      gpu.run(rule.sense, this.whole, { ...graph, z });
      if (rule.think) gpu.run(rule.think, rule.hidden, { ...graph, ...senses, ...rule.of, z, rule: rule.number });
      write(rule.act, { ...senses, ...rule.out, kept: states[at], rule: rule.number });
      if (!rule.check) continue;
      const next = states[at];
      gpu.run(rule.check, rule.lives, { ...graph, z, next });
      write(rule.survive, { next, life: rule.life });
    }
    for (const list of [states, this.targets]) [list[0], list[at]] = [list[at], list[0]];
  }

  read(state) {
    const { gpu: { gl }, C, Q, n, targets: [{ frame, height }] } = this, four = this.four ??= new Float32Array(4 * WIDE * height);
    gl.bindFramebuffer(gl.FRAMEBUFFER, frame);
    gl.readPixels(0, 0, WIDE, height, gl.RGBA, gl.FLOAT, four);
    if (C % 4 === 0) state.set(four.subarray(0, n * C));
    else for (let i = 0; i < n; i++) state.set(four.subarray(4 * Q * i, 4 * Q * i + C), i * C);
  }
}

// The faster kernel of an automaton, by some steps of each where many nodes are active; how long a step of each took
function fasterKernel(automaton, wanted) {
  const before = automaton.z.slice(), time = (steps, limit = 60) => {
    automaton.z = new Float32Array(before.length).fill(0.2);
    automaton.step();
    automaton.z[0] += 0;  // waits for what was begun
    let taken = 0;
    const begin = performance.now();
    do { for (let k = 0; k < steps; k++) automaton.step(); taken += steps; automaton.z[0] += 0; } while (performance.now() - begin < limit);
    return (performance.now() - begin) / taken;
  };
  const { steps } = automaton, found = {};
  if (!wanted) found.js = time(1);
  if (wanted !== "js" && !(found.js < 1)) try {  // a shorter step would not be noticed
    automaton.kernel = new GlKernel(automaton);
    if (!wanted) found.webgl = time(4);
    if (found.webgl >= found.js) {
      automaton.kernel.free();
      automaton.kernel = null;
    }
  } catch (error) { found.reason = error.message; }
  automaton.z = before;
  automaton.steps = steps;
  return found;
}

function kernelWords({ times, automaton: { kernel } }) {  // which takes the steps, and why
  if (!times) return "";
  const { js, webgl, reason } = times, both = webgl ? ` (${js.toFixed(1)} ms a step, WebGL ${webgl.toFixed(1)})` : "";
  return ` by ${kernel ? "WebGL" : "typed arrays"}${both}${reason && state.kernel ? `: ${reason}` : ""}`;
}
