"use strict";
// What all scripts use.

const SCENES = {};  // kinds of scenes, by name

const clamp = (v, low, high) => Math.min(Math.max(v, low), high);

function bytes(text) {
  const raw = atob(text), out = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
  return out;
}

function unpack(packed) {  // an array as gncadeq.export.description.packed writes it; others stay
  if (ArrayBuffer.isView(packed)) return packed;
  const raw = bytes(packed.f32 ?? packed.i32 ?? packed.u8);
  const out = packed.f32 !== undefined ? new Float32Array(raw.buffer)
    : packed.i32 !== undefined ? new Int32Array(raw.buffer) : raw;
  out.shape = packed.shape;
  return out;
}
