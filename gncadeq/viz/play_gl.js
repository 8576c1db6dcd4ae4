"use strict";
// A surface, a graph or points: three bytes of colour a node are all that is sent when they change.

const VERTEX = `#version 300 es
in vec3 position; in vec3 normal; in vec3 paint;
uniform mat3 turn; uniform vec3 shift; uniform vec2 lens; uniform vec2 depth;
uniform float lift; uniform float size; uniform float minimum; uniform bool lines; uniform vec3 edge;
out vec3 color; out vec3 direction;
void main() {
  vec3 p = turn * position + shift;
  // A ball is as near as its nearest point, so that edges end at it.
  float z = min(p.z + lift, -0.001);
  gl_Position = vec4(p.xy * lens, -(depth.x + depth.y / z) * p.z, -p.z);
  gl_PointSize = max(size / -p.z, minimum);
  direction = turn * normal;
  color = lines ? edge : paint;
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
  constructor(canvas, mesh) {
    this.mesh = mesh;
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
    if (mesh.flat) gl.depthFunc(gl.LEQUAL);  // nodes lie upon edges
    const { position, face, edge } = mesh;
    this.normal = normals(position, face);
    this.nodes = position.length / 3;
    this.attribute("position", position, gl.FLOAT, 0);
    this.attribute("normal", this.normal, gl.FLOAT, 0);
    this.attribute("paint", new Uint8Array(4 * this.nodes), gl.UNSIGNED_BYTE, 4);  // stays bound
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, face.length ? face : edge, gl.STATIC_DRAW);
  }

  attribute(name, content, type, stride) {
    const { gl } = this, buffer = gl.createBuffer(), place = gl.getAttribLocation(this.program, name);
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.bufferData(gl.ARRAY_BUFFER, content, type === gl.FLOAT ? gl.STATIC_DRAW : gl.DYNAMIC_DRAW);
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, 3, type, true, stride, 0);
  }

  fit() {
    const { canvas } = this.gl, ratio = pixelRatio();
    const width = Math.max(1, Math.round(canvas.clientWidth * ratio));
    const height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    this.gl.viewport(0, 0, width, height);
  }

  setCamera({ azimuth, elevation, distance, pan }) {
    const { gl, uniform } = this, { width, height } = gl.canvas;
    const [ca, sa, ce, se] = [Math.cos(azimuth), Math.sin(azimuth), Math.cos(elevation), Math.sin(elevation)];
    // Columns: where the object's axes point to, seen from the camera.
    gl.uniformMatrix3fv(uniform.turn, false, [ca, -se * sa, ce * sa, 0, ce, se, -sa, -se * ca, ce * ca]);
    gl.uniform3f(uniform.shift, pan[0], pan[1], -distance);
    const unit = LENS * Math.min(width, height);
    gl.uniform2f(uniform.lens, unit / width, unit / height);
    const far = distance + 1.1, near = Math.max(distance - 1.1, 0.01);
    gl.uniform2f(uniform.depth, (far + near) / (far - near), 2 * far * near / (far - near));
    gl.uniform1f(uniform.size, this.mesh.radius * unit);
    gl.uniform1f(uniform.minimum, 2 * pixelRatio());
  }

  draw(camera, rgba) {
    const { gl, uniform, mesh } = this;
    this.fit();
    gl.bufferSubData(gl.ARRAY_BUFFER, 0, rgba);
    gl.clearColor(...hex(css("--paper")), 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    this.setCamera(camera);
    const kind = (lines, balls) => {
      gl.uniform1i(uniform.lines, lines);
      gl.uniform1i(uniform.balls, balls);
      gl.uniform1f(uniform.lift, balls ? mesh.radius : 0);
      gl.uniform1i(uniform.lit, !lines && !mesh.flat);
    };
    if (mesh.face.length) {
      kind(false, false);
      gl.drawElements(gl.TRIANGLES, mesh.face.length, gl.UNSIGNED_INT, 0);
      return;
    }
    gl.uniform3fv(uniform.edge, hex(css("--edge")));
    kind(true, false);
    if (mesh.edge.length) gl.drawElements(gl.LINES, mesh.edge.length, gl.UNSIGNED_INT, 0);
    kind(false, true);
    gl.drawArrays(gl.POINTS, 0, this.nodes);
  }
}
