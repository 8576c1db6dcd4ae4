"use strict";
// The page: its scenes, its controls, and the loop that steps and draws.

function tell(text) {  // for some time
  $("message").textContent = text;
  $("message").hidden = false;
  setTimeout(() => { $("message").hidden = errors.length === 0; }, 8000);
}

const SPEEDS = [1, 3, 10, 30, 60, 120, 240, Infinity], STILL = 1e-8;  // the residual below which no steps are taken
const made = new Map();  // the scenes that were looked at
const state = {
  index: 0, playing: true, speed: 3, color: "", tool: "", brush: 2.4, residual: NaN, history: [], due: 0, last: 0,
  drawn: 0, taken: 0, since: 0, shot: 0, rates: { steps: 0, frames: 0 },
};
let scene = null, stage = null, canvas = null;

// ---- scenes -----------------------------------------------------------------------------------

function columnsFor(info) {  // the paper is as wide as the stage
  const { clientWidth: w, clientHeight: h } = $("stage");
  return Math.min(Math.max(Math.round(info.rows * w / Math.max(h, 1)), info.rows), 64);
}

function show(index) {
  if (shots?.length) gif();
  const { kind } = page.scenes[index], recorded = kind === "recording";
  const info = page.scenes[index];
  if (info.kind === "digits") info.columns = columnsFor(info);
  if (!made.has(index)) {
    const scene = new SCENES[info.kind](info), canvas = document.createElement("canvas");
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${info.name}: ${info.words}`);
    $("stage").prepend(canvas);
    if (["growing", "grafted"].includes(scene.rule?.kind)) scene.times = fasterKernel(scene.automaton, state.kernel);
    made.set(index, { scene, canvas, stage: new (scene.mesh ? MeshStage : FlatStage)(canvas, scene, state) });
  }
  for (const one of made.values()) one.canvas.hidden = true;
  ({ scene, canvas, stage } = made.get(index));
  canvas.hidden = false;
  Object.assign(state, { index, history: [], residual: NaN, due: 0, brush: scene.paper ? info.find?.stroke ?? 2.4 : 5 });
  [...$("scenes").children].forEach((button, i) => button.setAttribute("aria-current", i === index));
  $("scenes").children[index].scrollIntoView({ inline: "nearest", block: "nearest" });
  setButtons("tools", scene.tools, tool => setTool(tool));
  setButtons("actions", Object.keys(scene.actions), action => act(action), action => scene.actions[action]);
  $("color").replaceChildren(...scene.colors().map(name => new Option(name, name)));
  $("tools").hidden = scene.tools.length === 1;
  $("of-rules").hidden = $("keys").hidden = recorded;
  $("of-recordings").hidden = $("timeline").hidden = !recorded;
  $("play").hidden = $("step").hidden = $("player").hidden = scene.frames === 1;
  $("reset").textContent = recorded ? "Reset view" : "Start again";
  $("of-digits").hidden = $("votes").hidden = !scene.paper;
  $("brushes").hidden = recorded || Boolean(scene.plant);
  $("of-textures").hidden = !scene.setPattern;
  $("solvers").hidden = ["totalistic", "grafted"].includes(scene.rule?.kind);
  $("solved").textContent = "";
  $("speed").max = (scene.speeds ?? SPEEDS).length - 1;
  if (recorded) $("frame").max = scene.frames - 1;
  if (scene.paper) $("fit").disabled = !scene.info.find;
  setColor(scene.colors()[0]);
  setTool(scene.tools[0]);
  setRate(scene.rate);
  setSpeed(scene.speed);
  setBrush(state.brush);
  if (scene.paper) { setFit(scene.fit); setInk(scene.ink); setBars(); }
  if (scene.setPattern) { $("directions").hidden = !scene.directed; setSize(scene.size); setTurn(scene.turn); }
  $("facts").textContent = info.facts;
  scene.changed = true;
}

function setButtons(place, names, chosen, word = name => name[0].toUpperCase() + name.slice(1)) {
  $(place).replaceChildren(...names.map(name => {
    const button = document.createElement("button");
    [button.textContent, button.dataset.name, button.onclick] = [word(name), name, () => chosen(name)];
    return button;
  }));
}

function act(name) {
  scene[name](stage);
  state.history = [];
  $("solved").textContent = "";
}

function setTool(name) {
  state.tool = name;
  for (const button of $("tools").children) button.setAttribute("aria-pressed", button.dataset.name === name);
  if (canvas) canvas.style.cursor = name === "turn" ? "grab" : "crosshair";
}

function setting(id, value, words) {
  $(id).value = value;
  if ($(`${id}-now`)) $(`${id}-now`).textContent = words;
  scene.changed = true;
  remember();
}

const speedNow = () => (scene.speeds ?? SPEEDS)[state.speed];
const setSpeed = index => { state.speed = scene.speed = index; state.due = 0; setting("speed", index, speedNow() < Infinity ? speedNow() : "as many as it can"); };
const setRate = rate => { scene.rate = rate; setting("rate", rate, `${Math.round(100 * rate)} %`); };
const setColor = name => { state.color = name; scene.setField?.(name); setting("color", name); };
const setBrush = width => { state.brush = width; setting("brush", width, Number(width.toFixed(1))); };
const setInk = ink => { scene.ink = ink; setting("ink", ink, `${Math.round(100 * ink)} %`); };
const setSize = size => { scene.setPattern(size, scene.turn); setting("size", size, `${Math.round(100 * size)} %`); };
const setTurn = turn => { scene.setPattern(scene.size, turn); setting("turn", turn, `${turn}°`); };
const setFit = on => { scene.fit = on; $("fit").checked = on; scene.edited = true; remember(); };

function setBars() {
  $("votes").replaceChildren(...scene.info.labels.map((label, k) => {
    const row = document.createElement("div"), [name, bar, share] = ["span", "i", "span"].map(tag => document.createElement(tag));
    [row.className, name.textContent] = ["bar", label];
    bar.style.background = page.labels[k % page.labels.length];
    row.append(name, bar, share);
    return row;
  }));
}

function setTheme(dark) {
  theme(dark);
  if (scene) scene.changed = true;
  remember();
}

function setPlaying(on) {
  state.playing = on;
  state.due = 0;
  $("play").textContent = on ? "Pause" : "Play";
}

function step() {
  scene.step(scene.rate);
  state.taken++;
}

function jump(method) {
  if (scene.n === 0 || !scene.automaton) return;
  const found = scene.solve(method), moved = found.moved < 1e-4 ? "where it was already" : `${found.moved.toFixed(found.moved < 0.01 ? 4 : 2)} of its size away`;
  $("solved").textContent = found.converged
    ? `${method === "anderson" ? "Anderson" : "Picard"}: ${found.steps} evaluations to a residual of ${found.residual.toExponential(1)}, ${moved}. The rule leaves this state alone: nothing moves.`
    : `No rest in ${found.steps} evaluations: the least residual was ${found.residual.toExponential(1)}.`;
  look();
}

// ---- what one sees ----------------------------------------------------------------------------

function look() {  // measure the residual of the state, and write it down
  scene.update?.();
  if (!scene.automaton) { $("sentence").textContent = scene.sentence(); return; }
  state.residual = scene.n ? scene.automaton.residual().relative : NaN;
  state.history.push(state.residual);
  if (state.history.length > 240) state.history.shift();
  const { residual } = state, rest = residual <= scene.rest;
  $("lamp").className = Number.isNaN(residual) ? "" : rest ? "rest" : "moving";
  $("residual").textContent = Number.isNaN(residual) ? "Nothing is alive"
    : `${rest ? "At rest" : "Moving"}: residual ${residual === 0 ? "0" : residual.toExponential(1)}, step ${scene.automaton.steps.toLocaleString("en")}`;
  $("sentence").textContent = `${scene.sentence({ at: rest })}`;
  if (scene.paper) showVotes();
  plot();
}

function showVotes() {
  const votes = scene.votes(), shown = votes[Math.min(scene.shown ?? votes.length - 1, votes.length - 1)];
  [...$("votes").children].forEach((row, k) => {
    const p = shown?.[k] ?? 0;
    row.children[1].style.width = `${100 * p}%`;
    row.children[2].textContent = `${(100 * p).toFixed(0)} %`;
    row.classList.toggle("best", shown !== undefined && p === Math.max(...shown));
  });
}

function plot() {
  const element = $("plot"), context = element.getContext("2d"), ratio = pixelRatio();
  const [w, h] = [element.clientWidth * ratio, element.clientHeight * ratio];
  if (!w) return;
  [element.width, element.height] = [w, h];
  const y = v => h * (1 - clamp((Math.log10(v + 1e-9) + 8) / 8.5, 0, 1));
  context.strokeStyle = css("--line");
  context.beginPath();
  for (const v of [1, 1e-3, 1e-6]) { context.moveTo(0, y(v)); context.lineTo(w, y(v)); }
  context.stroke();
  context.fillStyle = css("--faint");
  context.font = `${10 * ratio}px system-ui`;
  context.textAlign = "right";
  for (const [v, word] of [[1, "1"], [1e-3, "0.001"], [1e-6, "1e-6"]]) context.fillText(word, w, y(v) + 10 * ratio);
  context.strokeStyle = css("--accent");
  context.lineWidth = 1.5 * ratio;
  context.beginPath();
  state.history.forEach((v, k) => context.lineTo(w * k / 239, y(v)));
  context.stroke();
}

function draw() {
  scene.paint(state.color, hex(css("--paper")).map(v => 255 * v));
  stage.draw(scene);
  scene.legend?.();
  state.drawn++;
}

function tick(now) {
  const passed = Math.min((now - state.last) / 1000, 0.1);
  state.last = now;
  scene.update?.();
  const still = state.residual <= STILL && !scene.changed, before = state.taken;
  if (state.playing && !still) {
    state.due += passed * speedNow();
    const until = performance.now() + 13;
    while (state.due >= 1 && performance.now() < until) { step(); state.due--; }
    if (state.due >= 1) state.due = 0;  // slower than was asked for
  }
  if (scene.changed) {
    scene.changed = false;
    if (state.drawn % 4 === 0 || state.taken === before) look();
    draw();
  }
  if (shots && now - state.shot >= 10 * GIF.delay) {
    state.shot = now;
    shoot();
  }
  state.frames = (state.frames ?? 0) + 1;
  if (now - state.since > 1000) {
    const seconds = (now - state.since) / 1000;
    state.rates = { steps: state.taken / seconds, frames: state.frames / seconds };
    [state.taken, state.frames, state.since] = [0, 0, now];
    if (scene.automaton) $("facts").textContent = `${scene.info.facts} ${Math.round(state.rates.steps)} steps a second${kernelWords(scene)}.`;
    look();
  }
  requestAnimationFrame(tick);
}

// ---- controls ---------------------------------------------------------------------------------

function remember() {  // the settings, in the address
  if (!state.ready) return;
  const words = { rule: state.index, speed: state.speed, rate: scene.rate, colour: state.color, dark: Number(isDark()), ...(state.kernel && { kernel: state.kernel }) };
  if (scene.paper) Object.assign(words, { fit: Number(scene.fit) });
  try { history.replaceState(null, "", `#${new URLSearchParams(words)}`); } catch { /* some browsers keep no address of a file */ }
}

function recall() {
  const words = new URLSearchParams(location.hash.slice(1)), number = (name, low, high, usual) => {
    const v = Number(words.get(name) ?? NaN);
    return Number.isFinite(v) ? clamp(v, low, high) : usual;
  };
  state.kernel = ["js", "webgl"].find(name => name === words.get("kernel"));
  show(Math.round(number("rule", 0, page.scenes.length - 1, 0)));
  setSpeed(Math.round(number("speed", 0, $("speed").max, scene.speed)));
  setRate(number("rate", 0.1, 1, scene.rate));
  if (scene.colors().includes(words.get("colour"))) setColor(words.get("colour"));
  if (scene.paper) {
    if (words.has("fit") && scene.info.find) setFit(words.get("fit") === "1");
  }
  setTheme(words.has("dark") ? words.get("dark") === "1" : likesDark());
}

async function openFile(file) {  // a mesh or weights become another scene, a picture lies on the paper
  if (typeof bring === "undefined") return;  // a page of recordings
  try {
    if (/\.(obj|ply|safetensors)$/i.test(file.name)) {
      page.scenes.push(bring(file.name, await file.arrayBuffer(), page, scene.info));
      setScenes();
      show(page.scenes.length - 1);
      remember();
    } else if (scene.picture) await bringPicture(file);
    else refuse("a mesh (OBJ, PLY) or weights (safetensors), or a scene of digits for a picture", file.name);
  } catch (error) { tell(error.message); }
}

async function bringPicture(file) {  // bright on dark, as the rule knows it
  const bitmap = await createImageBitmap(file).catch(() => refuse("a picture, a mesh (OBJ, PLY) or weights (safetensors)", file.name)), scale = Math.min(1, 400 / Math.max(bitmap.width, bitmap.height));
  const [w, h] = [Math.round(bitmap.width * scale), Math.round(bitmap.height * scale)], sketch = new OffscreenCanvas(w, h).getContext("2d");
  sketch.drawImage(bitmap, 0, 0, w, h);
  const { data } = sketch.getImageData(0, 0, w, h);
  let grey = Float32Array.from({ length: w * h }, (_, i) => (data[4 * i] + data[4 * i + 1] + data[4 * i + 2]) / 765);
  if (grey.reduce((sum, v) => sum + v, 0) / grey.length > 0.5) grey = grey.map(v => 1 - v);
  scene.picture(grey, h, w);
}

function setScenes() {
  setButtons("scenes", page.scenes.map((_, i) => String(i)), i => { show(Number(i)); remember(); }, i => page.scenes[i].name);
  $("scenes").hidden = page.scenes.length === 1;
}

function listen() {
  setScenes();
  $("open").hidden = typeof bring === "undefined";
  $("map").append(...Object.keys(page.colormaps).map(name => new Option(name, name)));
  $("map").onchange = event => scene.setMap(event.target.value);
  $("low").onchange = $("high").onchange = () => scene.setRange(parseFloat($("low").value), parseFloat($("high").value));
  $("auto").onclick = () => scene.setField(state.color);
  $("frame").oninput = () => { setPlaying(false); scene.setFrame(Number($("frame").value)); };
  $("play").onclick = () => setPlaying(!state.playing);
  $("step").onclick = () => { setPlaying(false); step(); };
  $("reset").onclick = () => act("reset");
  for (const button of $("solvers").children) button.onclick = () => jump(button.dataset.method);
  $("theme").onclick = () => setTheme(!isDark());
  for (const [id, set] of Object.entries({ speed: setSpeed, rate: setRate, brush: setBrush, ink: setInk, size: setSize, turn: setTurn })) {
    $(id).oninput = event => set(Number(event.target.value));
  }
  $("fit").onchange = event => setFit(event.target.checked);
  $("color").onchange = event => setColor(event.target.value);
  $("picture").onclick = () => { draw(); save(canvas.toDataURL("image/png"), `${scene.info.name}.png`); };
  $("film").onclick = film;
  $("gif").onclick = () => { if (!shots || shots.length) gif(); };
  $("link").onclick = () => {
    remember();
    navigator.clipboard?.writeText(location.href).then(() => { $("link").textContent = "Copied"; }, () => { $("link").textContent = "In the address"; });
    setTimeout(() => { $("link").textContent = "Copy link"; }, 1500);
  };
  window.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
    if (event.key === " " ? event.target.tagName === "BUTTON" : event.target.type === "number") return;
    const next = scene.tools[(scene.tools.indexOf(state.tool) + 1) % scene.tools.length];
    const action = {
      " ": () => setPlaying(!state.playing), ".": () => { setPlaying(false); step(); }, r: () => act("reset"), s: () => jump("anderson"),
      e: () => setTool(next), c: () => scene.clear && act("clear"), n: () => scene.noise && act("noise"), t: () => $("theme").click(), ...scene.keys?.(stage),
    }[event.key.toLowerCase()] ?? (page.scenes[event.key - 1] && (() => { show(event.key - 1); remember(); }));
    if (!action) return;
    event.preventDefault();
    action();
  });
  window.addEventListener("dragover", event => event.preventDefault());
  window.addEventListener("drop", event => {
    event.preventDefault();
    for (const file of event.dataTransfer.files) openFile(file);
  });
  $("open").onclick = () => $("file").click();
  $("file").onchange = () => {
    for (const file of $("file").files) openFile(file);
    $("file").value = "";
  };
  new ResizeObserver(() => {
    if (scene?.paper && columnsFor(scene.info) !== scene.columns) scene.resize(columnsFor(scene.info));
    if (scene) scene.changed = true;
  }).observe($("stage"));
}

window.play = {  // what programs may use
  errors, state, get scene() { return scene; }, get canvas() { return canvas; }, get stage() { return stage; },
  show, setSpeed, setRate, setColor, setTool, setBrush, setInk, setFit, setSize, setTurn, setTheme, setPlaying, step, jump, look, openFile,
};
window.play.loaded = (async () => {
  for (const info of page.scenes) await SCENES[info.kind].load?.(info);
  setTables(page);
  listen();
  recall();
  state.ready = true;
  if (page.scenes[state.index].paused) setPlaying(false);
  requestAnimationFrame(tick);
})().catch(error => fail(error.message));
