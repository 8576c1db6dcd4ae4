const scene = page;

// ---- data -------------------------------------------------------------------------------------

async function unpack(id) {
  const element = $(id), packed = bytes(element.textContent);
  element.remove();  // its text is as large as the data
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

const planes = new Map();
function plane(i) {  // unpacked when first looked at
  if (!planes.has(i)) planes.set(i, unpack(`plane${i}`).then(buffer => {
    const codes = new Uint8Array(buffer), n = scene.nodes;
    for (let k = n; k < codes.length; k++) codes[k] += codes[k - n];  // undo the differences
    return codes;
  }));
  return planes.get(i);
}

// ---- state ------------------------------------------------------------------------------------

const state = {
  frame: 0, playing: false, field: null, low: 0, high: 1, map: Object.keys(scene.colormaps)[0],
  speed: scene.speed, drawn: 0,
};
const camera = new Camera();
let painter, dirty = true, clock = 0, wanted = -1;

function resetView() {
  camera.reset(scene.flat);
  dirty = true;
}

function zoom(factor) {
  camera.zoom(factor);
  dirty = true;
}

function setFrame(frame) {
  state.frame = Math.min(Math.max(Math.round(frame), 0), scene.frames - 1);
  $("frame").value = state.frame;
  $("counter").textContent = scene.steps ? `step ${scene.steps[state.frame]}`
    : `${state.frame} / ${scene.frames - 1}`;
  painter.sendFrame(state.frame);
  dirty = true;
}

function play(on = true) {
  state.playing = on && scene.frames > 1;
  if (state.playing && state.frame === scene.frames - 1) setFrame(0);
  clock = 0;
  $("play").textContent = state.playing ? "Pause" : "Play";
}

async function select(index) {
  const field = scene.fields[index];
  wanted = index;
  const loaded = await Promise.all(field.planes.map(plane));
  if (wanted !== index) return;  // something else was chosen meanwhile
  state.field = field;
  painter.codes = loaded;
  $("field").value = index;
  if (field.kind !== "labels") setRange(field.low, field.high);
  setTable();
  showLegend(field);
  setFrame(state.frame);
}

function setRange(low, high) {
  if (!Number.isFinite(low) || !Number.isFinite(high)) [low, high] = [state.low, state.high];
  [state.low, state.high] = [low, high];
  $("low").value = Number(low.toPrecision(4));
  $("high").value = Number(high.toPrecision(4));
  dirty = true;
}

function setTable() {
  const { field } = state, table = new Uint8Array(256 * 4).fill(255);
  if (field.kind === "labels") {
    field.palette.forEach((color, i) => table.set(hex(color).map(v => Math.round(255 * v)), 4 * i));
  } else {
    const map = bytes(scene.colormaps[state.map]);
    for (let i = 0; i < 256; i++) table.set(map.subarray(3 * i, 3 * i + 3), 4 * i);
  }
  painter.setTable(table);
  const bar = new ImageData(256, 1);
  for (let i = 0; i < 1024; i++) bar.data[i] = field.kind === "rgb" && i % 4 < 3 ? i >> 2 : table[i];
  $("bar").getContext("2d").putImageData(bar, 0, 0);
  dirty = true;
}

function showLegend(field) {
  const labels = field.kind === "labels";
  $("bar").hidden = $("range").hidden = labels;
  $("maps").hidden = field.kind !== "scalar";
  $("swatches").hidden = !labels;
  $("swatches").replaceChildren(...(field.labels ?? []).map((label, i) => {
    const item = document.createElement("span"), chip = document.createElement("i");
    chip.style.background = field.palette[i];
    item.append(chip, String(label));
    return item;
  }));
  $("gone").hidden = !field.planes.some(i => scene.planes[i].missing);
}

function setTheme(dark) {
  theme(dark);
  dirty = true;
}

// The share of the width that the panel takes; none where the window is too narrow for both.
function covered() {
  const share = $("panel").parentElement.getBoundingClientRect().right / $("view").clientWidth;
  return $("panel").open && share < 0.45 ? share : 0;
}

function tick(now) {
  if (state.playing) {
    if (clock) {
      const steps = Math.floor((now - clock) / 1000 * state.speed);
      if (steps > 0) {
        clock += steps * 1000 / state.speed;
        setFrame((state.frame + steps) % scene.frames);
      }
    } else clock = now;
  }
  if (dirty) {
    dirty = false;
    painter.draw({ ...state, ...camera }, getComputedStyle(document.documentElement), covered());
    state.drawn++;
  }
  requestAnimationFrame(tick);
}

// ---- controls ---------------------------------------------------------------------------------

function listenToKeys() {
  window.addEventListener("keydown", event => {
    if (["INPUT", "SELECT"].includes(event.target.tagName) || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === " " && ["BUTTON", "SUMMARY"].includes(event.target.tagName)) return;
    const action = {
      " ": () => play(!state.playing),
      ArrowRight: () => { play(false); setFrame(state.frame + 1); },
      ArrowLeft: () => { play(false); setFrame(state.frame - 1); },
      ArrowUp: () => zoom(0.9), ArrowDown: () => zoom(1 / 0.9),
      Home: () => setFrame(0), End: () => setFrame(scene.frames - 1),
      r: resetView, t: () => setTheme(!isDark()),
    }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
}

function listen() {
  camera.listen($("view"), () => { dirty = true; });
  listenToKeys();
  const option = (text, value) => new Option(text, value);
  $("field").append(...scene.fields.map((field, i) => option(field.name, i)));
  $("map").append(...Object.keys(scene.colormaps).map(name => option(name, name)));
  const speeds = [...new Set([1, 2, 5, 10, 20, 30, 60, scene.speed])].sort((a, b) => a - b);
  $("speed").append(...speeds.map(speed => option(`${speed} / s`, speed)));
  $("speed").value = scene.speed;
  $("frame").max = scene.frames - 1;
  $("player").hidden = scene.frames === 1;
  $("field").onchange = event => select(Number(event.target.value));
  $("map").onchange = event => { state.map = event.target.value; setTable(); };
  $("low").onchange = $("high").onchange = () => setRange(parseFloat($("low").value), parseFloat($("high").value));
  $("auto").onclick = () => { setRange(state.field.low, state.field.high); };
  $("play").onclick = () => play(!state.playing);
  $("frame").oninput = event => { play(false); setFrame(Number(event.target.value)); };
  $("speed").onchange = event => { state.speed = Number(event.target.value); clock = 0; };
  $("reset").onclick = resetView;
  $("theme").onclick = () => setTheme(!isDark());
  $("gone").firstChild.style.background = scene.missing;
  $("panel").open = window.innerWidth > 520;
  const count = (n, one, many) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
  $("facts").textContent = [
    count(scene.nodes, "node", "nodes"),
    scene.faces ? count(scene.faces, "face", "faces") : scene.edges ? count(scene.edges, "edge", "edges") : "",
    count(scene.frames, "frame", "frames"),
  ].filter(Boolean).join(", ");
  $("panel").ontoggle = () => { dirty = true; };
  new ResizeObserver(() => { dirty = true; }).observe($("view"));
  $("view").addEventListener("webglcontextlost", () => fail("The browser dropped the picture. Reload the page"));
}

// What programs may use.
window.viewer = {
  get frame() { return state.frame; }, get frames() { return scene.frames; },
  get playing() { return state.playing; },
  get drawn() { return state.drawn; }, get field() { return state.field?.name; },
  get fields() { return scene.fields.map(field => field.name); },
  get range() { return [state.low, state.high]; }, get errors() { return [...errors]; },
  get camera() { return { ...camera }; },
  setFrame, play, setRange, resetView, setTheme,
  pause: () => play(false),
  select: name => select(scene.fields.findIndex(field => field.name === name)),
  setSpeed: speed => { state.speed = speed; clock = 0; },
};

window.viewer.loaded = (async () => {
  if (typeof DecompressionStream === "undefined") {
    throw new Error("Expected a browser that unpacks gzip (got one without DecompressionStream). Use Chrome 80, Firefox 113, Safari 16.4 or later");
  }
  listen();
  setTheme(likesDark());
  painter = new Painter($("view"), scene);
  const position = Float32Array.from(new Uint16Array(await unpack("position")), v => v / 65535 * 2 - 1);
  painter.setGeometry(position, new Uint32Array(await unpack("face")), new Uint32Array(await unpack("edge")));
  resetView();
  await select(0);
  requestAnimationFrame(tick);
})().catch(error => fail(error.message));
