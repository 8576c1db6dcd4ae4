"""The kernel on WebGL takes the steps that PyTorch takes, and the page takes the faster kernel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from page import Pages
from test_play_kernel import shaken

from gncadeq import GrowingCell, MicroCell
from gncadeq.datasets import primitives
from gncadeq.dynamics.rollout import advance
from gncadeq.training.shipped import load_shipped
from gncadeq.training.targets import anchor, seed_state
from gncadeq.training.textures import texture_grid, texture_surface
from gncadeq.transforms import ImageToGraph, MeshToGraph, PixelKernels, TurnKernels
from gncadeq.viz import grown_scene, life_scene, texture_scene, write_play


@pytest.fixture
def show(browser, tmp_path):
    """Opens a page, and afterwards sees to it that nothing went wrong and nothing was loaded."""
    pages = Pages(browser)

    def open_page(*scenes, address="", setup=None):
        path = write_play(tmp_path / f"{len(pages.opened)}.html", scenes)
        page = pages.open(path, address, setup=setup)
        page.evaluate("play.setPlaying(false), play.scene.reset()")
        return page

    yield open_page
    pages.close()


def state(page, channels: int) -> torch.Tensor:
    z = page.evaluate("Array.from(play.scene.automaton.z)")
    return torch.tensor(z).view(-1, channels)


def take(page, mask: torch.Tensor | None) -> None:
    page.evaluate("m => play.scene.automaton.step(m && Uint8Array.from(m))",
                  None if mask is None else mask.flatten().long().tolist())  # fmt: skip


def on_mesh() -> Any:
    cell = shaken(GrowingCell(8, 3, 18, 1, bound=1.5), 0.05)
    data = MeshToGraph("tangent")(primitives.icosphere(2))
    data.x = anchor(data)
    return cell, data, seed_state(data, 8)


def all_alive() -> Any:
    """Channels and hidden units that fill no texels, and an injection everywhere."""
    cell = shaken(GrowingCell(6, 3, 10, 2, None), 0.05)
    data = PixelKernels()(ImageToGraph()(torch.rand(1, 12, 13)))
    data.x = torch.rand(156, 2)
    return cell, data, torch.rand(156, 6)


CASES = {"gecko": lambda: load_shipped("gecko")[:3], "mesh": on_mesh, "all alive": all_alive}


@pytest.mark.parametrize(("name", "rate"), [("gecko", 0.5), ("mesh", 1.0), ("all alive", 0.5)])
def test_grown_states_are_those_of_pytorch(name: str, rate: float, show: Any) -> None:
    torch.manual_seed(0)
    cell, data, z = CASES[name]()
    page = show(grown_scene(cell, data, z), address="#kernel=webgl")
    assert page.evaluate("play.scene.automaton.kernel !== null")
    with torch.no_grad():
        step = cell.bind(data.x, data.edge_index, data.edge_attr)
        for t in range(1, 101):
            mask = torch.rand(len(z), 1) < rate if rate < 1 else None
            z = advance(step, z, mask=mask)
            take(page, mask)
            if t in (1, 10, 100):
                assert float((state(page, cell.channels) - z).abs().max()) < 1e-4, t
            if t == 20:  # what is wounded is wounded there, too
                page.evaluate("play.scene.touchNodes([3, 70, 99], 'erase')")
                z = z.clone()
                z[[3, 70, 99]] = 0


@pytest.mark.parametrize("on", ["pixels", "mesh"])
def test_textures_are_those_of_pytorch(on: str, show: Any) -> None:
    """Two rules by a field, and directions, which change on the way."""
    torch.manual_seed(0)
    grown = shaken(GrowingCell(6, 3, 10, 0, None, bound=2.0), 0.05)
    cells, mesh = [shaken(MicroCell(6, 3), 0.05), grown], primitives.torus(16, 8)
    data = texture_grid(12, "tangent") if on == "pixels" else texture_surface(mesh, "tangent")
    scene = texture_scene(
        dict(zip("ab", cells, strict=True)), None if on == "pixels" else mesh, "tangent", side=12
    )
    page = show(scene, address="#kernel=webgl")
    z, plain = state(page, 6), data.edge_attr
    field = torch.tensor(page.evaluate("Array.from(play.scene.graph.field)"))
    data.angle = torch.zeros(data.num_nodes)
    with torch.no_grad():
        for t in range(1, 101):
            if t in (5, 12):  # a stroke of direction, and one of the second rule
                page.evaluate("play.scene.touchNodes([3, 7, 50], 'direction', i => i / 9)")
                page.evaluate(f"play.scene.touchNodes([{t}, 90], 'b')")
                data.angle[[3, 7, 50]] = torch.tensor([3, 7, 50]) / 9
                field[[t, 90]] = 1
            weight = TurnKernels()(data.clone()).edge_attr
            mask = torch.rand(len(z), 1) < 0.5
            steps = [cell.bind(z[:, :0], data.edge_index, weight) for cell in cells]
            new = torch.where(field[:, None] == 0, steps[0](z), steps[1](z))
            z = torch.where(mask, new, z)
            take(page, mask)
            if t in (1, 10, 100):
                scale = float(z.abs().max().clamp(min=1.0))
                assert float((state(page, 6) - z).abs().max()) < 1e-4 * scale, t
    assert torch.equal(data.edge_attr, plain)


def test_the_faster_kernel_is_taken(show: Any) -> None:
    cell, data, z, _ = load_shipped("gecko")
    scenes = life_scene(side=16), grown_scene(cell, data, z)
    page = show(*scenes, address="#rule=1")
    times, webgl = page.evaluate("[play.scene.times, play.scene.automaton.kernel !== null]")
    assert webgl == (times["js"] >= 1 and times["webgl"] < times["js"])
    assert torch.equal(state(page, 16), z)  # which the trial leaves alone
    assert page.evaluate("play.scene.automaton.steps") == 0
    page.evaluate("play.setPlaying(true)")
    facts = page.locator("#facts")
    page.wait_for_timeout(1500)
    assert f"steps a second by {'WebGL' if webgl else 'typed arrays'}" in facts.inner_text()
    page.evaluate("play.show(0)")
    assert page.evaluate("[play.scene.times ?? null, play.scene.automaton.kernel]") == [None, None]
    forced = show(*scenes, address="#rule=1&kernel=js")
    assert forced.evaluate("[play.scene.times, play.scene.automaton.kernel]") == [{}, None]
    forced.evaluate("play.setSpeed(3)")
    assert "kernel=js" in forced.evaluate("location.hash")


def test_where_webgl_is_missing_or_lost_typed_arrays_go_on(show: Any) -> None:
    cell, data, z, _ = load_shipped("gecko")
    lacking = "WebGL2RenderingContext.prototype.getExtension = () => null"
    page = show(grown_scene(cell, data, z), address="#kernel=webgl", setup=lacking)
    assert page.evaluate("play.scene.automaton.kernel") is None
    page.evaluate("play.setPlaying(true)")
    page.wait_for_timeout(1500)
    said = "by typed arrays: no WebGL 2 with textures of floats."
    assert said in page.locator("#facts").inner_text()
    page = show(grown_scene(cell, data, z), address="#kernel=webgl")
    take(page, None)
    before = state(page, 16)
    page.evaluate("""GlKernel.shared.gl.getExtension("WEBGL_lose_context").loseContext()""")
    take(page, None)
    assert page.evaluate("play.scene.automaton.kernel") is None
    with torch.no_grad():
        expected = cell.bind(data.x, data.edge_index, data.edge_attr)(before)
    assert float((state(page, 16) - expected).abs().max()) < 1e-4
