"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gncadeq import ConvCell, GraphDEQ
from gncadeq.transforms import ImageToGraph

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.append(str(REPOSITORY / "examples"))  # what serves one example lies beside it

FLAGS = (
    "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


def run_page(name: str) -> dict:
    """Run the Python blocks of a page of the documentation in turn; returns what they define."""
    blocks = re.findall(
        r"```python\n(.*?)```", (REPOSITORY / "docs" / f"{name}.md").read_text(), re.S
    )
    assert blocks
    names: dict = {}
    for block in blocks:
        exec(compile(block, f"{name}.md", "exec"), names)
    return names


def killed(run: Callable[[], object]) -> None:
    """Call ``run`` in a fork of this process, which must end by SIGKILL."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # a fork doesn't have the other threads
        try:
            run()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.fixture(autouse=True)
def _deterministic():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    """A folder with the four MNIST files, or a skip that says where they were looked for."""
    places = [os.environ.get("GNCADEQ_DATA"), REPOSITORY / "datasets"]
    for place in places:
        if place and (Path(place) / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz").is_file():
            return Path(place)
    pytest.skip("needs MNIST/raw under $GNCADEQ_DATA or datasets/")


@pytest.fixture(scope="session")
def mesh_root() -> Path:
    """A folder with three meshes, or a skip that says where it was looked for."""
    for place in (os.environ.get("GNCADEQ_DATA"), REPOSITORY / "datasets"):
        if place and (Path(place) / "meshes" / "spot.obj").is_file():
            return Path(place) / "meshes"
    pytest.skip("needs meshes/ (spot, stanford-bunny, suzanne) under $GNCADEQ_DATA or datasets/")


@pytest.fixture
def ragged():
    """A batch of living-pixel graphs of different sizes, float64."""
    to_graph = ImageToGraph(living_threshold=0.3)
    shapes = ((5, 6), (9, 4), (12, 12), (3, 3))
    from torch_geometric.data import Batch

    return Batch.from_data_list([to_graph(torch.rand(2, *s, dtype=torch.double)) for s in shapes])


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium, or a skip that says what is missing."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright, of the dev extra"
    )
    found = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    program = next((path for path in found if path), None)
    if program is None:
        pytest.skip("needs chromium on the path (Debian: apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        yield running
        running.close()


@pytest.fixture
def small():
    """Two graphs of living pixels, float64."""
    return ImageToGraph(living_threshold=0.3).batch(torch.rand(2, 2, 4, 3, dtype=torch.double))


@pytest.fixture
def equilibrium(ragged):
    """A cell, its step on the ragged batch, and the equilibrium."""
    cell = ConvCell(2, 6, contraction=0.95, scale_spread=1.0).double()
    deq = GraphDEQ(cell, tol=1e-10, max_steps=500)
    with torch.no_grad():
        z = deq(ragged.x, ragged.edge_index, ragged.edge_attr, ragged.batch)
        return cell, cell.prepare(ragged.x, ragged.edge_index, ragged.edge_attr), z
