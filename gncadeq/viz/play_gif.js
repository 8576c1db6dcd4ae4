"use strict";
// Animated GIFs (CompuServe's GIF89a) of one palette of 256 colours.

// Colours in boxes of five bits a channel are split at the median of the longest side (Heckbert 1982).
function palette(frames) {
  const bins = new Map();
  for (const rgba of frames) for (let i = 0; i < rgba.length; i += 4) {
    const key = rgba[i] >> 3 << 10 | rgba[i + 1] >> 3 << 5 | rgba[i + 2] >> 3, bin = bins.get(key) ?? [0, 0, 0, 0];
    for (let k = 0; k < 3; k++) bin[k] += rgba[i + k];
    bin[3]++;
    bins.set(key, bin);
  }
  const mean = (bin, k) => bin[k] / bin[3], span = (box, k) => Math.max(...box.map(bin => mean(bin, k))) - Math.min(...box.map(bin => mean(bin, k)));
  const measured = box => {
    const spans = [0, 1, 2].map(k => span(box, k)), side = spans.indexOf(Math.max(...spans)), count = box.reduce((sum, bin) => sum + bin[3], 0);
    return { box, side, worth: box.length > 1 ? spans[side] * Math.sqrt(count) : -1, count };
  };
  const boxes = [measured([...bins.values()])];
  while (boxes.length < 256) {
    const at = boxes.reduce((best, box, k) => box.worth > boxes[best].worth ? k : best, 0), { box, side, worth, count } = boxes[at];
    if (worth < 0) break;
    box.sort((a, b) => mean(a, side) - mean(b, side));
    let cut = 0;
    for (let sum = 0; cut < box.length - 2 && sum + box[cut][3] < count / 2; cut++) sum += box[cut][3];
    boxes.splice(at, 1, measured(box.slice(0, cut + 1)), measured(box.slice(cut + 1)));
  }
  return boxes.map(({ box, count }) => [0, 1, 2].map(k => Math.round(box.reduce((sum, bin) => sum + bin[k], 0) / count)));
}

// Codes of strings that were seen before (Welch 1984), in blocks of at most 255 bytes
function compressed(indices) {
  const out = [8], block = [], table = new Map();
  let [width, next, bits, held] = [9, 258, 0, 0];
  const byte = value => { if (block.push(value) === 255) out.push(255, ...block.splice(0)); };
  const code = value => {
    held |= value << bits;
    for (bits += width; bits >= 8; bits -= 8, held >>= 8) byte(held & 255);
  };
  code(256);
  let prefix = indices[0];
  for (let i = 1; i < indices.length; i++) {
    const key = prefix << 8 | indices[i], known = table.get(key);
    if (known !== undefined) { prefix = known; continue; }
    code(prefix);
    if (next < 4096) {
      if (next === 1 << width) width++;
      table.set(key, next++);
    } else {
      code(256);
      table.clear();
      [width, next] = [9, 258];
    }
    prefix = indices[i];
  }
  code(prefix);
  if (next === 1 << width && width < 12) width++;
  code(257);
  if (bits) byte(held & 255);
  if (block.length) out.push(block.length, ...block);
  return [...out, 0];
}

// Frames of RGBA bytes, each shown for so many hundredths of a second
function encodeGif(frames, width, height, delay) {
  const colors = palette(frames), nearest = new Map(), low = v => [v & 255, v >> 8 & 255], text = word => Array.from(word, c => c.charCodeAt(0));
  const parts = [[...text("GIF89a"), ...low(width), ...low(height), 0xf7, 0, 0, ...Array.from({ length: 768 }, (_, k) => colors[Math.floor(k / 3)]?.[k % 3] ?? 0), 0x21, 0xff, 11, ...text("NETSCAPE2.0"), 3, 1, 0, 0, 0]];
  for (const rgba of frames) {
    const indices = new Uint8Array(width * height);
    for (let p = 0, i = 0; p < indices.length; p++, i += 4) {
      const key = rgba[i] << 16 | rgba[i + 1] << 8 | rgba[i + 2];
      if (!nearest.has(key)) {
        const far = colors.map(color => (color[0] - rgba[i]) ** 2 + (color[1] - rgba[i + 1]) ** 2 + (color[2] - rgba[i + 2]) ** 2);
        nearest.set(key, far.indexOf(Math.min(...far)));
      }
      indices[p] = nearest.get(key);
    }
    parts.push([0x21, 0xf9, 4, 0, ...low(delay), 0, 0, 0x2c, 0, 0, 0, 0, ...low(width), ...low(height), 0], compressed(indices));
  }
  return new Blob([...parts, [0x3b]].map(part => Uint8Array.from(part)), { type: "image/gif" });
}
