"use strict";
// What is drawn: ink on a fine raster, the digits in it, and the cells that each digit becomes. As
// gncadeq.transforms.FindDigits does, a digit is brought to the size and the stroke that a rule knows.

const FINE = 8;  // raster pixels a cell, along a side

class Paper {
  constructor(rows, columns) {
    [this.rows, this.columns] = [rows, columns];
    [this.height, this.width] = [rows * FINE, columns * FINE];
    this.ink = new Float32Array(this.height * this.width);
  }

  clear() { this.ink.fill(0); }

  // A stroke of round ends from one place to another, in cells; ink 0 erases.
  stroke([x0, y0], [x1, y1], width, ink = 1) {
    [x0, y0, x1, y1] = [x0, y0, x1, y1].map(v => v * FINE);
    const radius = width * FINE / 2, dx = x1 - x0, dy = y1 - y0, length = dx * dx + dy * dy || 1;
    const low = v => Math.max(0, Math.floor(v - radius - 1)), high = (v, most) => Math.min(most, Math.ceil(v + radius + 1));
    for (let y = low(Math.min(y0, y1)); y < high(Math.max(y0, y1), this.height); y++) {
      for (let x = low(Math.min(x0, x1)); x < high(Math.max(x0, x1), this.width); x++) {
        const t = Math.min(Math.max(((x + 0.5 - x0) * dx + (y + 0.5 - y0) * dy) / length, 0), 1);
        const cover = radius + 0.5 - Math.hypot(x + 0.5 - x0 - t * dx, y + 0.5 - y0 - t * dy);
        if (cover <= 0) continue;
        const at = y * this.width + x, share = Math.min(cover, 1);
        this.ink[at] = ink ? Math.max(this.ink[at], ink * share) : this.ink[at] * (1 - share);
      }
    }
  }

  // One cell of one grey
  pixel(column, row, ink) {
    if (column < 0 || row < 0 || column >= this.columns || row >= this.rows) return;
    for (let y = row * FINE; y < (row + 1) * FINE; y++) {
      this.ink.fill(ink, y * this.width + column * FINE, y * this.width + (column + 1) * FINE);
    }
  }

  // Grey pictures [height, width] in [0, 1] become ink, centred
  picture(grey, height, width) {
    this.clear();
    const scale = Math.min(this.width / width, this.height / height);
    const left = (this.width - width * scale) / 2, top = (this.height - height * scale) / 2;
    for (let y = 0; y < this.height; y++) for (let x = 0; x < this.width; x++) {
      const [r, c] = [Math.floor((y + 0.5 - top) / scale), Math.floor((x + 0.5 - left) / scale)];
      if (r >= 0 && c >= 0 && r < height && c < width) this.ink[y * this.width + x] = grey[r * width + c];
    }
  }

  // The digits, each { image, height, width, x, y, pitch }: grey cells, and where they are on the paper.
  digits({ fit, size, canvas, stroke, threshold }) {
    const groups = group(this.ink, this.height, this.width), coarse = !fit && this.averages();
    return groups.map(({ mask, box }) => {
      if (fit) return fitted(mask, box, { size, canvas, stroke });
      const image = new Float32Array(coarse.length);
      for (let i = 0; i < mask.data.length; i++) if (mask.data[i] > 0) {
        const y = box.top + Math.floor(i / mask.width), x = box.left + i % mask.width;
        const cell = Math.floor(y / FINE) * this.columns + Math.floor(x / FINE);
        image[cell] = coarse[cell];
      }
      return { image, height: this.rows, width: this.columns, x: 0, y: 0, pitch: 1 };
    }).filter(digit => digit.image.some(v => v > threshold));
  }

  averages() {
    const out = new Float32Array(this.rows * this.columns);
    for (let y = 0; y < this.height; y++) for (let x = 0; x < this.width; x++) {
      out[Math.floor(y / FINE) * this.columns + Math.floor(x / FINE)] += this.ink[y * this.width + x] / FINE ** 2;
    }
    return out;
  }
}

// Pieces of ink, the small ones with the digit that they are above, below or inside; from left to right.
function group(ink, height, width) {
  const label = new Int32Array(ink.length), pieces = [], stack = [];
  for (let start = 0; start < ink.length; start++) {
    if (label[start] || ink[start] <= 0.02) continue;
    const piece = { left: width, top: height, right: 0, bottom: 0, area: 0, number: pieces.length + 1 };
    label[start] = piece.number;
    stack.push(start);
    while (stack.length) {
      const at = stack.pop(), y = Math.floor(at / width), x = at % width;
      piece.area++;
      [piece.left, piece.right] = [Math.min(piece.left, x), Math.max(piece.right, x + 1)];
      [piece.top, piece.bottom] = [Math.min(piece.top, y), Math.max(piece.bottom, y + 1)];
      for (let v = Math.max(0, y - 1); v <= Math.min(height - 1, y + 1); v++) {
        for (let u = Math.max(0, x - 1); u <= Math.min(width - 1, x + 1); u++) {
          const next = v * width + u;
          if (!label[next] && ink[next] > 0.02) { label[next] = piece.number; stack.push(next); }
        }
      }
    }
    pieces.push(piece);
  }
  const side = p => Math.max(p.right - p.left, p.bottom - p.top);
  const ordered = [...pieces].sort((a, b) => b.area - a.area), digits = [], largest = Math.max(...pieces.map(side), 1);
  for (const piece of ordered) {
    const near = digits.find(({ box }) => {
      const down = Math.max(piece.top, box.top) - Math.min(piece.bottom, box.bottom);
      const across = Math.min(piece.right, box.right) - Math.max(piece.left, box.left);
      return down <= 0.15 * largest && across >= 0.5 * Math.min(piece.right - piece.left, box.right - box.left);
    });
    if (!near) digits.push({ box: { ...piece }, numbers: new Set([piece.number]) });
    else {
      near.numbers.add(piece.number);
      const { box } = near;
      [box.left, box.top] = [Math.min(box.left, piece.left), Math.min(box.top, piece.top)];
      [box.right, box.bottom] = [Math.max(box.right, piece.right), Math.max(box.bottom, piece.bottom)];
    }
  }
  return digits.map(({ box, numbers }) => {
    const mask = { width: box.right - box.left, height: box.bottom - box.top };
    mask.data = new Float32Array(mask.width * mask.height);
    for (let y = 0; y < mask.height; y++) for (let x = 0; x < mask.width; x++) {
      const at = (y + box.top) * width + x + box.left;
      if (numbers.has(label[at])) mask.data[y * mask.width + x] = ink[at];
    }
    return { box, mask };
  }).sort((a, b) => a.box.left - b.box.left);
}

// Squared distances to the nearest marked place, along one line (Felzenszwalb & Huttenlocher 2012)
function parabolas(f, n, place, bound) {
  let k = 0;
  place[0] = 0;
  [bound[0], bound[1]] = [-Infinity, Infinity];
  for (let q = 1; q < n; q++) {
    let s;
    do {
      const p = place[k];
      s = (f[q] + q * q - f[p] - p * p) / (2 * (q - p));
    } while (s <= bound[k] && --k >= 0);
    place[++k] = q;
    [bound[k], bound[k + 1]] = [s, Infinity];
  }
  const out = new Float64Array(n);
  for (let q = 0, j = 0; q < n; q++) {
    while (bound[j + 1] < q) j++;
    out[q] = (q - place[j]) ** 2 + f[place[j]];
  }
  return out;
}

function distanceTo(marked, height, width) {
  const d = Float64Array.from(marked, m => m ? 0 : 1e10), most = Math.max(height, width);
  const place = new Int32Array(most), bound = new Float64Array(most + 1);
  for (let x = 0; x < width; x++) {
    const line = Float64Array.from({ length: height }, (_, y) => d[y * width + x]);
    parabolas(line, height, place, bound).forEach((v, y) => { d[y * width + x] = v; });
  }
  for (let y = 0; y < height; y++) d.set(parabolas(d.subarray(y * width, (y + 1) * width).slice(), width, place, bound), y * width);
  return d.map(Math.sqrt);
}

// Twice the area over the length of the outline, as gncadeq.transforms.digits.stroke_width
function strokeWidth(image, height, width) {
  const at = (y, x) => y < 0 || x < 0 || y >= height || x >= width ? 0 : image[y * width + x];
  let area = 0, outline = 0;
  for (let y = -1; y < height; y++) for (let x = -1; x < width; x++) {
    area += at(y, x);
    outline += Math.hypot(at(y, x + 1) - at(y, x), at(y + 1, x) - at(y, x));
  }
  return outline ? 2 * area / outline : 0;
}

// A digit as cells: its longer side `size` cells, its strokes `stroke` wide, its middle in the canvas's
function fitted(mask, box, { size, canvas, stroke }) {
  const pad = Math.ceil(0.35 * Math.max(mask.width, mask.height)) + 2;
  const width = mask.width + 2 * pad, height = mask.height + 2 * pad, inside = new Uint8Array(width * height);
  const full = mask.data.reduce((most, v) => Math.max(most, v), 0);
  for (let y = 0; y < mask.height; y++) for (let x = 0; x < mask.width; x++) {
    inside[(y + pad) * width + x + pad] = mask.data[y * mask.width + x] > full / 2;
  }
  const out = distanceTo(inside, height, width), within = distanceTo(inside.map(v => 1 - v), height, width);
  const depth = within.map((v, i) => v - out[i] + (v > out[i] ? -0.5 : 0.5));
  const deepest = depth.reduce((most, v) => Math.max(most, v), 0);
  // At a level of the depth: cells of this pitch, whose box is that of what lies deeper.
  const at = level => {
    let [left, top, right, bottom] = [width, height, 0, 0];
    for (let i = 0; i < depth.length; i++) if (depth[i] > level) {
      const y = Math.floor(i / width), x = i % width;
      [left, right, top, bottom] = [Math.min(left, x), Math.max(right, x + 1), Math.min(top, y), Math.max(bottom, y + 1)];
    }
    const pitch = Math.max(right - left, bottom - top) / size;
    const w = Math.max(1, Math.ceil((right - left) / pitch - 1e-6)), h = Math.max(1, Math.ceil((bottom - top) / pitch - 1e-6));
    const x0 = (left + right) / 2 - w * pitch / 2, y0 = (top + bottom) / 2 - h * pitch / 2, image = new Float32Array(w * h);
    for (let i = 0; i < image.length; i++) {
      for (let v = 0; v < FINE; v++) for (let u = 0; u < FINE; u++) {
        const y = y0 + (Math.floor(i / w) + (v + 0.5) / FINE) * pitch, x = x0 + (i % w + (u + 0.5) / FINE) * pitch;
        const d = bilinear(depth, height, width, y - 0.5, x - 0.5) - level;
        image[i] += Math.min(Math.max(d * FINE / pitch + 0.5, 0), 1) / FINE ** 2;
      }
    }
    return { image, h, w, x0, y0, pitch };
  };
  const first = at(0), excess = (strokeWidth(first.image, first.h, first.w) - stroke) / 2 * first.pitch;
  const { image, h, w, x0, y0, pitch } = at(Math.min(excess, deepest - 1));
  let [total, row, column] = [0, 0, 0];
  image.forEach((v, i) => { total += v; row += v * Math.floor(i / w); column += v * (i % w); });
  const place = (middle, n) => Math.min(Math.max(Math.round(canvas / 2 - 0.5 - middle / total), 0), Math.max(canvas - n, 0));
  const [down, right] = [place(row, h), place(column, w)], side = Math.max(canvas, h, w), grey = new Float32Array(side * side);
  image.forEach((v, i) => { grey[(Math.floor(i / w) + down) * side + i % w + right] = v; });
  const cell = pitch / FINE, corner = (edge, start, shift) => (edge - pad + start) / FINE - shift * cell;
  return {
    image: grey, height: side, width: side, pitch: cell,
    x: corner(box.left, x0, right), y: corner(box.top, y0, down),
  };
}

function bilinear(value, height, width, y, x) {
  y = Math.min(Math.max(y, 0), height - 1.001);
  x = Math.min(Math.max(x, 0), width - 1.001);
  const v = Math.floor(y), u = Math.floor(x), at = v * width + u, [b, a] = [y - v, x - u];
  return (1 - b) * ((1 - a) * value[at] + a * value[at + 1]) + b * ((1 - a) * value[at + width] + a * value[at + width + 1]);
}
