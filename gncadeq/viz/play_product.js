"use strict";
// out = max(out + A W, floor) for rows of A: with WebAssembly's 128-bit vectors where a browser has
// them, else on typed arrays. Columns of W are padded to multiples of 16.

const padded = columns => Math.ceil(columns / 16) * 16;

// The module, assembled: multiply(a, w, out, rows, inner, columns, floor), places in bytes.
function assembled() {
  const leb = n => n < 128 ? [n] : [n & 127 | 128, ...leb(n >> 7)], text = word => [word.length, ...new TextEncoder().encode(word)];
  const section = (id, bytes) => [id, ...leb(bytes.length), ...bytes];
  const get = k => [0x20, k], set = k => [0x21, k], int = n => [0x41, ...(n < 64 ? [n] : [n & 127 | 128, n >> 7])];
  const add = (k, ...bytes) => [...get(k), ...bytes, 0x6a, ...set(k)], simd = (...bytes) => [0xfd, ...bytes];
  const [ADD, MUL, MAX] = [simd(0xe4, 1), simd(0xe6, 1), simd(0xe9, 1)], again = [0x0d, 0], loop = (...parts) => [3, 0x40, ...parts.flat(), 0x0b];
  const load = (k, offset) => [...get(k), ...simd(0, 2, offset)];
  const [a, w, out, rows, inner, columns, floor, column, left, from, weights, x, acc] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
  const four = f => [0, 1, 2, 3].flatMap(f);
  const code = [
    ...loop(  // rows
      int(0), set(column),
      loop(  // 16 columns
        four(k => [...load(out, 16 * k), ...set(acc + k)]),
        get(a), set(from), get(w), get(column), int(2), [0x74, 0x6a], set(weights), get(inner), set(left),
        loop(  // the sum
          get(from), simd(9, 2, 0), set(x),
          four(k => [...get(acc + k), ...get(x), ...load(weights, 16 * k), ...MUL, ...ADD, ...set(acc + k)]),
          add(from, ...int(4)), add(weights, ...get(columns), ...int(2), 0x74),
          get(left), int(1), [0x6b, 0x22, left], again,
        ),
        four(k => [...get(out), ...get(acc + k), ...get(floor), ...simd(0x13), ...MAX, ...simd(0x0b, 2, 16 * k)]),
        add(out, ...int(64)), add(column, ...int(16)), get(column), get(columns), [0x49], again,
      ),
      add(a, ...get(inner), ...int(2), 0x74), get(rows), int(1), [0x6b, 0x22, rows], again,
    ), 0x0b,
  ];
  const body = [2, 4, 0x7f, 5, 0x7b, ...code];
  return Uint8Array.from([
    0, 0x61, 0x73, 0x6d, 1, 0, 0, 0,
    ...section(1, [1, 0x60, 7, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7d, 0]),
    ...section(2, [1, ...text("e"), ...text("m"), 2, 0, 1]), ...section(3, [1, 0]),
    ...section(7, [1, ...text("f"), 0, 0]), ...section(10, [1, ...leb(body.length), ...body]),
  ]);
}

// Room for arrays, and their product
class Products {
  constructor(floats, vectors = true) {
    try {
      if (!vectors) throw new Error("not wanted");
      const memory = new WebAssembly.Memory({ initial: Math.ceil(4 * floats / 65536) + 1 });
      this.multiplied = new WebAssembly.Instance(new WebAssembly.Module(assembled()), { e: { m: memory } }).exports.f;
      this.buffer = memory.buffer;
    } catch {  // an old browser, or one that forbids it
      this.buffer = new ArrayBuffer(4 * floats);
    }
    this.used = 0;
  }

  array(length) {
    const made = new Float32Array(this.buffer, this.used, length);
    this.used += 4 * length;
    return made;
  }

  // A matrix [columns, inner], as W [inner, padded columns]
  weights(matrix) {
    const [columns, inner] = matrix.shape, wide = padded(columns), made = this.array(inner * wide);
    for (let o = 0; o < columns; o++) for (let i = 0; i < inner; i++) made[i * wide + o] = matrix[o * inner + i];
    return made;
  }

  multiply(a, w, out, rows, inner, floor) {
    const columns = w.length / inner;
    if (this.multiplied) {
      if (rows) this.multiplied(a.byteOffset, w.byteOffset, out.byteOffset, rows, inner, columns, floor);
      return;
    }
    for (let i = 0; i < rows; i++) for (let c = 0; c < columns; c += 4) {
      const at = i * columns + c;
      let [p, q, r, s] = [out[at], out[at + 1], out[at + 2], out[at + 3]];
      for (let k = 0, j = c; k < inner; k++, j += columns) {
        const v = a[i * inner + k];
        p += v * w[j]; q += v * w[j + 1]; r += v * w[j + 2]; s += v * w[j + 3];
      }
      out[at] = p < floor ? floor : p; out[at + 1] = q < floor ? floor : q;
      out[at + 2] = r < floor ? floor : r; out[at + 3] = s < floor ? floor : s;
    }
  }
}
