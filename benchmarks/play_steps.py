"""Steps a second of the page of ``gncadeq play``: its kernel under node, its frames in Chromium."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks._measure import save, show
from benchmarks._node import run_node
from gncadeq import GrowingCell
from gncadeq.commands.play import gallery
from gncadeq.datasets import primitives
from gncadeq.export.description import describe, packed
from gncadeq.training.targets import anchor, picture_target
from gncadeq.transforms import MeshToGraph
from gncadeq.viz import grown_scene, write_play

DRIVER = """
let seed = 1;
Math.random = () => (seed = seed * 48271 % 2147483647) / 2147483647;
const { info, seconds } = JSON.parse(require("fs").readFileSync(0, "utf8"));
if (info.kind === "digits") info.columns = 42;
const scene = new SCENES[info.kind](info);
if (info.kind === "grow") scene.automaton.z.fill(0.2);
scene.update?.();
for (let i = 0; i < 20; i++) scene.step(1);
const begin = process.cpuUsage().user;
const spent = () => (process.cpuUsage().user - begin) / 1e6;
let steps = 0;
while (spent() < seconds) { scene.step(1); steps++; }
console.log(JSON.stringify({ cells: scene.n, rate: steps / spent() }));
"""


KERNELS = """
const { info, seconds } = JSON.parse(require("fs").readFileSync(0, "utf8"));
const { position, face } = info.mesh, made = surface(unpack(position), unpack(face));
const spent = () => process.cpuUsage().user / 1e6, began = spent();
const graph = meshGraph(made, info.senses), ready = spent();
const z = new Float32Array(graph.n * info.rule.channels).fill(0.2);
const automaton = new Automaton(makeRule(info.rule), graph, new Float32Array(graph.n), z);
let steps = 0;
while (spent() - ready < seconds) { automaton.step(); steps++; }
console.log(JSON.stringify({ edges: graph.source.length, "seconds to make": ready - began,
  "MB of memory": process.memoryUsage().rss / 1e6, "steps a second": steps / (spent() - ready) }));
"""


def kernels(seconds: float) -> list[dict[str, float]]:
    """What longer kernels cost on 10,242 vertices: made in the page, and a step with them."""
    mesh = primitives.icosphere(5)
    info: dict[str, Any] = {
        "rule": describe(GrowingCell(16, 3, 96, 1, alive_channel=None, bound=2.5)),
        "mesh": {"position": packed(mesh.pos), "face": packed(mesh.face.T.contiguous())},
    }
    rows: list[dict[str, float]] = []
    for scale in (0.02, 0.04, 0.06, 0.085):
        info["senses"] = {"kernels": "tangent", "axes": [0, 1, 2], "scale": scale}
        rows.append(json.loads(run_node(KERNELS, json.dumps({"info": info, "seconds": seconds}))))
        print(rows[-1], flush=True)
    return rows


def scenes() -> dict[str, dict[str, Any]]:
    """What is timed, by name: the gallery, and two large graphs on which every cell lives."""
    torch.manual_seed(0)
    found = {scene["name"]: scene for scene in gallery()}
    cell = GrowingCell(16, 3, 96, 1, alive_channel=None, bound=2.5)
    grid = picture_target(torch.zeros(4, 40, 40))
    mesh = MeshToGraph("tangent")(primitives.icosphere(5))
    for name, data in (("grid of 1,600 cells", grid), ("mesh of 10,242 vertices", mesh)):
        data.x = anchor(data)
        z0 = torch.zeros(data.num_nodes, 16)
        found[name] = grown_scene(cell, data, z0, 1.0, name)
    return found


def kernel(info: dict[str, Any], seconds: float) -> dict[str, float]:
    """Steps in a second of processor time, of the kernel alone."""
    return dict(json.loads(run_node(DRIVER, json.dumps({"info": info, "seconds": seconds}))))


def frames(info: dict[str, Any], seconds: float) -> dict[str, float]:
    """Milliseconds of a step and of a drawn frame in headless Chromium, without a graphics card."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or sys.exit("Expected chromium on the path")
    options = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader",
               "--enable-unsafe-swiftshader"]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = write_play(Path(folder) / "page.html", [info])
        browser = playwright.chromium.launch(executable_path=program, args=options)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(path.as_uri() + "#kernel=js")
        found = page.evaluate(
            """seconds => { play.setPlaying(false); const { scene, stage } = play;
            if (scene.info.kind === "grow") scene.automaton.z.fill(0.2);
            const each = f => { for (let i = 0; i < 10; i++) f();
              const begin = performance.now(); let n = 0;
              while (performance.now() - begin < 1e3 * seconds) { f(); n++; }
              return (performance.now() - begin) / n; };
            const draw = () => { scene.paint(play.state.color, [255, 255, 255]);
              stage.draw(scene); };
            const webgl = scene.times && fasterKernel(scene.automaton).webgl;
            if (webgl) scene.automaton.kernel = null;
            return { step: each(() => scene.step(1)), frame: each(draw), webgl }; }""",
            seconds,
        )  # fmt: skip
        browser.close()
    return dict(found)


def main() -> None:
    """Time, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of processor time, each")
    parser.add_argument("--kernel", action="store_true", help="leave the browser out")
    parser.add_argument("--plain", action="store_true", help="without WebAssembly's vectors")
    parser.add_argument("--edges", action="store_true", help="of longer kernels on a mesh alone")
    args = parser.parse_args()
    if args.edges:
        found = kernels(args.seconds)
        show("kernels of a mesh", found, dict.fromkeys(list(found[0])[1:], ".1f"))
        save("play_edges", found)
        return
    rows = []
    for name, info in scenes().items():
        info["rule"]["vectors"] = not args.plain
        found = kernel(info, args.seconds)
        row = {"rule": name, "cells": found["cells"], "steps a second": found["rate"]}
        if not args.kernel:
            shown = frames(info, args.seconds)
            row |= {"ms a step, Chromium": shown["step"], "ms a frame": shown["frame"],
                    "ms a step, WebGL": shown["webgl"] or float("nan")}  # fmt: skip
        rows.append(row)
        print(row, flush=True)
    show("the page of gncadeq play", rows, {name: ".1f" for name in list(rows[0])[2:]})
    save("play_steps", rows, plain=args.plain)


if __name__ == "__main__":
    main()
