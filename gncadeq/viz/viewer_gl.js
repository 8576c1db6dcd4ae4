"use strict";
// One frame of values is a few bytes a node: the only thing sent to the GPU when the frame changes.
// The shader turns values into colours, so that ranges and colour maps change without new data.

const VERTEX = `#version 300 es
in vec3 position; in vec3 normal; in float c0; in float c1; in float c2;
uniform mat3 turn; uniform vec3 shift; uniform vec2 lens; uniform vec2 depth;
uniform float aside; uniform float lift;
uniform vec3 scale; uniform vec3 offset; uniform bool lookup; uniform vec3 missing;
uniform sampler2D table; uniform float size; uniform float minimum; uniform bool lines; uniform vec3 edge;
out vec3 color; out vec3 direction;
void main() {
  vec3 p = turn * position + shift;
  // A ball is as near as its nearest point, so that edges end at it.
  float z = min(p.z + lift, -0.001);
  gl_Position = vec4(p.xy * lens - vec2(aside * p.z, 0.0), -(depth.x + depth.y / z) * p.z, -p.z);
  gl_PointSize = max(size / -p.z, minimum);
  direction = turn * normal;
  vec3 code = 255.0 * vec3(c0, c1, c2);
  vec3 unit = clamp(code * scale + offset, 0.0, 1.0);
  bool gone = lookup ? code.x > 254.5 : max(code.x, max(code.y, code.z)) > 254.5;
  color = lines ? edge : gone ? missing
    : lookup ? texelFetch(table, ivec2(int(unit.x * 255.0 + 0.5), 0), 0).rgb : unit;
}`;

const FRAGMENT = `#version 300 es
precision highp float;
in vec3 color; in vec3 direction;
uniform bool balls; uniform bool lit;
out vec4 pixel;
void main() {
  vec3 n = direction;
  if (balls) {
    vec2 q = 2.0 * gl_PointCoord - 1.0;
    float d = dot(q, q);
    if (d > 1.0) discard;
    n = vec3(q.x, -q.y, sqrt(1.0 - d));
  }
  n = normalize(n);
  if (n.z < 0.0) n = -n;
  float diffuse = max(dot(n, normalize(vec3(-0.42, 0.55, 0.72))), 0.0);
  pixel = vec4(color * (lit ? clamp(0.52 + 0.06 * n.y + 0.5 * diffuse, 0.0, 1.0) : 1.0), 1.0);
}`;

const LENS = 3.8;  // a field of view of about 30 degrees
const hex = text => [1, 3, 5].map(i => parseInt(text.slice(i, i + 2), 16) / 255);
const pixelRatio = () => Math.min(window.devicePixelRatio || 1, 2);

function normals(position, face) {
  const out = new Float32Array(position.length);
  for (let f = 0; f < face.length; f += 3) {
    const [a, b, c] = [3 * face[f], 3 * face[f + 1], 3 * face[f + 2]];
    const ux = position[b] - position[a], uy = position[b + 1] - position[a + 1], uz = position[b + 2] - position[a + 2];
    const vx = position[c] - position[a], vy = position[c + 1] - position[a + 1], vz = position[c + 2] - position[a + 2];
    const x = uy * vz - uz * vy, y = uz * vx - ux * vz, z = ux * vy - uy * vx;
    for (const i of [a, b, c]) { out[i] += x; out[i + 1] += y; out[i + 2] += z; }
  }
  for (let i = 0; i < out.length; i += 3) {
    const length = Math.hypot(out[i], out[i + 1], out[i + 2]) || 1;
    out[i] /= length; out[i + 1] /= length; out[i + 2] /= length;
  }
  return out;
}

class Painter {
  constructor(canvas, scene) {
    this.scene = scene;
    const gl = this.gl = canvas.getContext("webgl2", { antialias: pixelRatio() < 2 });
    if (!gl) throw new Error("Expected a browser with WebGL 2 (got none). Turn on hardware acceleration, or use another browser");
    this.program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
      gl.attachShader(this.program, shader);
    }
    gl.linkProgram(this.program);
    if (!gl.getProgramParameter(this.program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(this.program));
    gl.useProgram(this.program);
    this.uniform = {};
    for (let i = 0; i < gl.getProgramParameter(this.program, gl.ACTIVE_UNIFORMS); i++) {
      const { name } = gl.getActiveUniform(this.program, i);
      this.uniform[name] = gl.getUniformLocation(this.program, name);
    }
    gl.enable(gl.DEPTH_TEST);
    if (scene.flat) gl.depthFunc(gl.LEQUAL);  // nodes lie upon edges
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
    this.codes = [];
  }

  attribute(name, content, size, type, normalized) {
    const { gl } = this, buffer = gl.createBuffer(), place = gl.getAttribLocation(this.program, name);
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.bufferData(gl.ARRAY_BUFFER, content, type === gl.FLOAT ? gl.STATIC_DRAW : gl.DYNAMIC_DRAW);
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, size, type, normalized, 0, 0);
    return buffer;
  }

  setGeometry(position, face, edge) {
    const { gl } = this;
    this.attribute("position", position, 3, gl.FLOAT, false);
    this.attribute("normal", normals(position, face), 3, gl.FLOAT, false);
    const empty = new Uint8Array(this.scene.nodes);
    this.buffers = ["c0", "c1", "c2"].map(c => this.attribute(c, empty, 1, gl.UNSIGNED_BYTE, true));
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, face.length ? face : edge, gl.STATIC_DRAW);
    this.faces = face.length;
    this.edges = face.length ? 0 : edge.length;
  }

  sendFrame(frame) {
    const { gl, scene: { nodes } } = this;
    this.codes.forEach((values, i) => {
      gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[i]);
      gl.bufferSubData(gl.ARRAY_BUFFER, 0, values, values.length === nodes ? 0 : frame * nodes, nodes);
    });
  }

  setTable(table) {
    const { gl } = this;
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, 256, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, table);
  }

  fit() {
    const { canvas } = this.gl, ratio = pixelRatio();
    const width = Math.max(1, Math.round(canvas.clientWidth * ratio));
    const height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    this.gl.viewport(0, 0, width, height);
  }

  // What is seen: from where, and on which part of the canvas (the panel covers `covered` of it).
  setCamera({ azimuth, elevation, distance, pan }, covered) {
    const { gl, uniform } = this, { width, height } = gl.canvas;
    const [ca, sa, ce, se] = [Math.cos(azimuth), Math.sin(azimuth), Math.cos(elevation), Math.sin(elevation)];
    // Columns: where the object's axes point to, seen from the camera.
    gl.uniformMatrix3fv(uniform.turn, false, [ca, -se * sa, ce * sa, 0, ce, se, -sa, -se * ca, ce * ca]);
    gl.uniform3f(uniform.shift, pan[0], pan[1], -distance);
    const free = width * (1 - covered), unit = LENS * Math.min(free, height);
    gl.uniform2f(uniform.lens, unit / width, unit / height);
    gl.uniform1f(uniform.aside, covered);
    const far = distance + 1.1, near = Math.max(distance - 1.1, 0.01);
    gl.uniform2f(uniform.depth, (far + near) / (far - near), 2 * far * near / (far - near));
    gl.uniform1f(uniform.size, this.scene.radius * unit);
    gl.uniform1f(uniform.minimum, 2 * pixelRatio());
  }

  setColors({ field, low, high }) {
    const { gl, uniform, scene } = this, labels = field.kind === "labels", span = high - low || 1;
    const scale = [0, 0, 0], offset = [0, 0, 0];
    field.planes.forEach((i, k) => {
      const plane = scene.planes[i];
      scale[k] = labels ? 1 / 255 : (plane.high - plane.low) / 254 / span;
      offset[k] = labels ? 0 : (plane.low - low) / span;
    });
    gl.uniform3fv(uniform.scale, scale);
    gl.uniform3fv(uniform.offset, offset);
    gl.uniform1i(uniform.lookup, field.kind !== "rgb");
    gl.uniform3fv(uniform.missing, hex(scene.missing));
  }

  draw(view, style, covered) {
    const { gl, uniform, scene } = this;
    this.fit();
    gl.clearColor(...hex(style.getPropertyValue("--paper").trim()), 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    this.setCamera(view, covered);
    this.setColors(view);
    const kind = (lines, balls) => {
      gl.uniform1i(uniform.lines, lines);
      gl.uniform1i(uniform.balls, balls);
      gl.uniform1f(uniform.lift, balls ? scene.radius : 0);
      gl.uniform1i(uniform.lit, !lines && !scene.flat);
    };
    if (this.faces) {
      kind(false, false);
      gl.drawElements(gl.TRIANGLES, this.faces, gl.UNSIGNED_INT, 0);
      return;
    }
    gl.uniform3fv(uniform.edge, hex(style.getPropertyValue("--edge").trim()));
    kind(true, false);
    if (this.edges) gl.drawElements(gl.LINES, this.edges, gl.UNSIGNED_INT, 0);
    kind(false, true);
    gl.drawArrays(gl.POINTS, 0, scene.nodes);
  }
}
