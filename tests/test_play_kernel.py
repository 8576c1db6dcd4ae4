"""The kernel of the page takes the steps that PyTorch takes, with the same masks, on every rule."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from page import decoded, run_node
from torch import nn
from torch_geometric.data import Data

from benchmarks._node import run_node as benchmark_node
from gncadeq import ConvCell, GraphDEQ, GrowingCell, MicroCell, TotalisticCell
from gncadeq.cells import (
    CascadeCell,
    DistanceCell,
    IGNNCell,
    Part,
    PropagationCell,
    SweepCell,
    SweepGrower,
)
from gncadeq.datasets import primitives
from gncadeq.dynamics.rollout import advance
from gncadeq.export.description import describe, packed
from gncadeq.models import ImageClassifier, SelfClassifier
from gncadeq.training.textures import texture_grid, texture_surface
from gncadeq.transforms import ImageToGraph, MeshToGraph, PixelKernels, Sweeps, TurnKernels
from gncadeq.viz.play import edge_graph, texture_scene

DRIVER = """
const graph = task.graph.pixels ? build(task.graph.pixels) : readGraph(task.graph);
function build({ height, width, levels, halo, living, filters, sweeps, periodic }) {
  let alive = unpack(living);
  if (halo) alive = withHalo(alive, height, width, halo);
  if (levels > 1) return pixelPyramid(alive, height, width, levels);
  const made = pixelGraph(alive, height, width, { periodic });
  if (filters) return withKernels(withLoops(made), unpack(filters), filters.shape[1]);
  return sweeps ? withKernels(made, sweepTable(), 12) : made;
}
const automaton = new Automaton(makeRule(task.rule), graph, unpack(task.x), unpack(task.z));
const found = { states: {}, n: graph.n };
if (task.solve) {
  const solved = solve(z => automaton.evaluate(z), automaton.z, task.solve);
  Object.assign(found, solved, { z: encode(solved.z) });
} else {
  const masks = task.masks && unpack(task.masks), n = graph.n;
  for (let t = 1; t <= 100; t++) {
    automaton.step(masks ? masks.subarray((t - 1) * n, t * n) : null);
    if ([1, 10, 100].includes(t)) found.states[t] = encode(automaton.z);
  }
  found.residual = automaton.residual().relative;
}
out(found);
"""


def run_kernel(task: dict[str, Any]) -> dict[str, Any]:
    return run_node(DRIVER, task)


def drawn(height: int = 9, width: int = 11) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, height, width, generator=generator)
    return image * (torch.rand(1, height, width, generator=generator) < 0.6)


def shaken(cell: nn.Module, size: float = 0.2) -> Any:
    """The cell with weights that no longer are what they start as."""
    generator = torch.Generator().manual_seed(1)
    for p in cell.parameters():
        p.data += size * torch.randn(p.shape, generator=generator) / max(p.shape[-1], 1) ** 0.5
    return cell.eval()


def pixels(image: torch.Tensor, **more: Any) -> dict[str, Any]:
    """What the page makes a graph of, of the living pixels of an image."""
    alive = image.amax(0) > more.pop("threshold", -1.0)
    shape = {"height": image.size(1), "width": image.size(2), "living": packed(alive.view(-1))}
    return {"pixels": {**shape, **more}}


def of_pixels(threshold: float, **more: Any) -> tuple[Data, dict[str, Any]]:
    image = drawn()
    data = ImageToGraph(living_threshold=threshold if threshold >= 0 else None, **more)(image)
    return data, pixels(image, threshold=threshold, **more)


def conv(update: str, injection: str, contraction: float | None = 0.9) -> Any:
    torch.manual_seed(0)
    cell = ConvCell(5, 5, update, injection, contraction, scale_spread=1.0)
    data, graph = of_pixels(0.02)
    data.x = torch.randn(data.num_nodes, 5)
    return cell, data, graph


def growing(bound: float | None, alive: int | None, in_channels: int) -> Any:
    torch.manual_seed(0)
    cell = shaken(GrowingCell(8, 3, 16, in_channels, alive, bound=bound), 0.1)
    filters = PixelKernels().table
    data = PixelKernels()(ImageToGraph()(drawn()))
    graph = pixels(drawn(), filters=packed(filters))
    data.x = torch.rand(data.num_nodes, in_channels)
    return cell, data, graph


def on_mesh(cell: Any, kernels: str) -> Any:
    data = MeshToGraph(kernels)(primitives.icosphere(2))
    data.x = torch.zeros(data.num_nodes, cell.in_channels)
    return shaken(cell, 0.05), data, edge_graph(data)


def life() -> Any:
    image = (drawn(12, 12) > 0.5).float()
    data = ImageToGraph(periodic=True)(image)
    data.x = data.x[:, :0]
    return TotalisticCell(channels=2), data, pixels(image, periodic=True)


def distances() -> Any:
    data, graph = of_pixels(0.02)
    data.x = (torch.rand(data.num_nodes, 2) < 0.05).float()
    return DistanceCell(2, ceiling=50.0), data, graph


def sweeps() -> Any:
    torch.manual_seed(0)
    data = Sweeps()(ImageToGraph()(torch.zeros(1, 7, 6)))
    data.x = torch.zeros(42, 1)
    data.x[17] = 1.0
    cell = SweepGrower(1, groups=4, kernels=3, channels=4, hidden_channels=10)
    return cell, data, pixels(torch.zeros(1, 7, 6), sweeps=True)


def cascade() -> Any:
    torch.manual_seed(0)
    drive = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4))
    parts = [Part(ConvCell(1, 4, contraction=0.5)), Part(ConvCell(4, 4, contraction=0.5), drive)]
    data, graph = of_pixels(0.02)
    return CascadeCell(parts, 1).eval(), data, graph


def pyramid() -> Any:
    image = torch.zeros(1, 28, 28)
    image[0, 5:23, 13:16], image[0, 10:12, 8:20] = 1.0, 0.5
    model = ImageClassifier.from_pretrained("mnist-pyramid")
    graph = pixels(image, threshold=0.02, halo=1, levels=3)
    return model.dynamics.cell, model.to_graph(image), graph


def consensus(name: str) -> Any:
    """Its classifier's parts, then means (and maxima) that neighbours pass on."""
    image = torch.zeros(1, 28, 28)
    image[0, 5:23, 13:16], image[0, 10:12, 8:20] = 1.0, 0.5
    model = SelfClassifier.from_pretrained(name)
    levels = model.to_graph.levels
    graph = pixels(image, threshold=0.02, halo=model.to_graph.halo, levels=levels)
    data = model.to_graph(image)
    if levels == 1:
        with torch.no_grad():
            data.x = model.inject(data.x, data.edge_index, data.edge_attr)[0]
    return model.cell, data, graph


def averages(how: Any) -> Any:
    data = MeshToGraph("isotropic")(primitives.icosphere(1))
    data.x, data.edge_attr = torch.rand(data.num_nodes, 3), data.edge_attr.abs()
    graph = edge_graph(data)
    data.edge_attr = data.edge_attr[:, 0]
    return PropagationCell(3, 0.05, how), data, graph


CASES = {
    "conv direct": lambda: conv("direct", "superposed"),
    "conv direct additive": lambda: conv("direct", "additive"),
    "conv residual": lambda: conv("residual", "superposed"),
    "growing": lambda: growing(None, 3, 0),
    "growing without vectors": lambda: growing(None, 3, 1),
    "growing bound anchored": lambda: growing(1.5, 3, 1),
    "growing all alive": lambda: growing(1.0, None, 2),
    "growing on a mesh": lambda: on_mesh(GrowingCell(8, 3, 16, 1, bound=1.5), "tangent"),
    "micro on a mesh": lambda: on_mesh(MicroCell(6, 3), "tangent"),
    "life": life,
    "distances": distances,
    "sweeps": sweeps,
    "cascade": cascade,
    "pyramid": pyramid,
    "consensus": lambda: consensus("mnist-pyramid"),
    "consensus of pixels": lambda: consensus("mnist"),
    "averages": lambda: averages("sym"),
    "averages by rows": lambda: averages("row"),
    "averages by Metropolis": lambda: averages("metropolis"),
}


def task_of(name: str) -> tuple[Any, Data, torch.Tensor, dict[str, Any]]:
    cell, data, graph = CASES[name]()
    generator = torch.Generator().manual_seed(2)
    z = torch.rand(data.num_nodes, cell.channels, generator=generator)
    task = {
        "rule": describe(cell) | {"vectors": "without" not in name},
        "graph": graph,
        "x": packed(data.x),
        "z": packed(z),
    }
    return cell, data, z, task


@pytest.mark.parametrize("masked", [False, True], ids=["synchronous", "half"])
@pytest.mark.parametrize("name", CASES)
def test_states_are_those_of_pytorch(name: str, masked: bool) -> None:
    cell, data, z, task = task_of(name)
    masks = None
    if masked:
        generator = torch.Generator().manual_seed(3)
        masks = torch.rand(100, data.num_nodes, generator=generator) < 0.5
        task["masks"] = packed(masks)
    found = run_kernel(task)
    assert found["n"] == data.num_nodes
    with torch.no_grad():
        step = cell.bind(data.x, data.edge_index, data.edge_attr)
        for t in range(1, 101):
            z = advance(step, z, 1.0, None if masks is None else masks[t - 1][:, None])
            if t in (1, 10, 100):
                got = decoded(found["states"][str(t)], cell.channels)
                scale = float(z.abs().max().clamp(min=1.0))
                assert float((got - z).abs().max()) < 1e-4 * scale, (name, t)
        fz = step(z)
    expected = float((fz - z).norm() / fz.norm().clamp(min=1e-30))
    assert found["residual"] == pytest.approx(expected, rel=1e-2, abs=1e-5)


@pytest.mark.parametrize("method", ["picard", "anderson"])
@pytest.mark.parametrize("name", ["conv direct", "conv residual", "cascade", "pyramid", "sweeps"])
def test_the_equilibrium_is_that_of_the_solver(name: str, method: str) -> None:
    cell, data, _, task = task_of(name)
    task["solve"] = {"method": method, "tol": 1e-6, "maxSteps": 2000}
    found = run_kernel(task)
    assert found["converged"], found["residual"]
    deq = GraphDEQ(cell, tol=1e-6, max_steps=2000)
    with torch.no_grad():
        star = deq(data.x, data.edge_index, data.edge_attr)
    got = decoded(found["z"], cell.channels)
    assert float((got - star).norm() / star.norm()) < 1e-4
    if method == "anderson" and name.startswith("conv"):  # sweeps rest after finitely many steps
        task["solve"]["method"] = "picard"
        assert found["steps"] <= run_kernel(task)["steps"]


def test_cells_that_cannot_play_say_so() -> None:
    class Other(ConvCell):
        def prepare(self, *args: Any, **kwargs: Any) -> Any:
            return super().prepare(*args, **kwargs)

    with pytest.raises(ValueError, match=r"a cell that plays in a page.*got IGNNCell"):
        describe(IGNNCell(2, 3))
    with pytest.raises(ValueError, match="got Other, which overrides its 'prepare'"):
        describe(Other(1, 2))
    with pytest.raises(ValueError, match=r"got one with distances=\.\.\."):
        describe(SweepCell(3, 4, distances=1))
    drive = nn.Sequential(nn.Linear(1, 4), nn.Dropout())
    cell = CascadeCell([Part(ConvCell(4, 4), drive)], 1)
    with pytest.raises(ValueError, match=r"ReLU and Tanh \(got Dropout"):
        describe(cell)


def test_equilibria_of_the_kernel_stay_where_they_are_under_every_mask() -> None:
    _, data, _, task = task_of("conv direct")
    task["solve"] = {"method": "anderson", "tol": 1e-7, "maxSteps": 500}
    star = run_kernel(task)["z"]
    masks = torch.rand(100, data.num_nodes, generator=torch.Generator().manual_seed(4)) < 0.3
    del task["solve"]
    task |= {"masks": packed(masks), "z": {"shape": [data.num_nodes, 5], "f32": star}}
    moved = decoded(run_kernel(task)["states"]["100"], 5) - decoded(star, 5)
    assert float(moved.abs().max()) < 1e-5


@pytest.mark.parametrize("kernels", ["isotropic", "tangent"])
@pytest.mark.parametrize("on", ["pixels", "mesh"])
def test_textures_are_grafted_as_by_pytorch(on: str, kernels: Any) -> None:
    """Two rules, of which a field says which a node runs, and patterns of another size, turned
    by a direction of all nodes and by each node's own."""
    count = {"isotropic": 1, "tangent": 3}[kernels]
    grown = GrowingCell(6, count, 10, 0, None, bound=2.0)
    cells = [shaken(MicroCell(6, count), 0.05), shaken(grown, 0.05)]
    with pytest.raises(ValueError, match=f"without injection, with the {count} {kernels} kernels"):
        texture_scene({"a": MicroCell(6, count), "b": GrowingCell(6, count, 10, 1)}, None, kernels)
    mesh = primitives.torus(16, 8)
    data = texture_grid(12, kernels) if on == "pixels" else texture_surface(mesh, kernels)
    scene = texture_scene(
        dict(zip("ab", cells, strict=True)), None if on == "pixels" else mesh, kernels, side=12
    )
    generator = torch.Generator().manual_seed(0)
    z = 0.3 * torch.randn(data.num_nodes, 6, generator=generator)
    field = (torch.rand(data.num_nodes, generator=generator) < 0.5).byte()
    masks = torch.rand(100, data.num_nodes, generator=generator) < 0.5
    size, turn = 1.25, 30.0
    angle = 6 * torch.rand(data.num_nodes, generator=generator)
    driver = """const scene = new TextureScene(task.scene), states = {};
    scene.graph.field = unpack(task.field);
    scene.angle = unpack(task.angle);
    scene.setPattern(task.size, task.turn);
    scene.automaton.z = unpack(task.z);
    for (let t = 1; t <= 100; t++) {
      scene.automaton.step(unpack(task.masks).subarray((t - 1) * scene.n, t * scene.n));
      if ([1, 10, 100].includes(t)) states[t] = encode(scene.automaton.z);
    }
    out({ states });"""
    found = run_node(driver, {
        "scene": scene, "field": packed(field), "z": packed(z), "masks": packed(masks),
        "size": size, "turn": turn, "angle": packed(angle),
    })  # fmt: skip
    weight = data.edge_attr / size**2
    if count == 3:
        data.angle = torch.tensor(turn).deg2rad() + angle
        weight = TurnKernels(size)(data).edge_attr
    with torch.no_grad():
        steps = [cell.bind(z[:, :0], data.edge_index, weight) for cell in cells]
        for t in range(1, 101):
            new = torch.where(field[:, None] == 0, steps[0](z), steps[1](z))
            z = torch.where(masks[t - 1][:, None], new, z)
            if t in (1, 10, 100):
                got = decoded(found["states"][str(t)], 6)
                scale = float(z.abs().max().clamp(min=1.0))
                assert float((got - z).abs().max()) < 1e-4 * scale, t


def test_benchmarks_say_what_node_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert benchmark_node("console.log(6 * 7)", "") == "42\n"
    with pytest.raises(SystemExit, match=r"Expected node to run .* \(got RangeError: too much\)"):
        benchmark_node("throw new RangeError('too much')", "")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match="Expected node on the path"):
        benchmark_node("", "")
