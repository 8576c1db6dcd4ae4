"""Mesh readers: the table of the tests through gncadeq and trimesh, and the time for a mesh."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gncadeq.datasets import load_mesh

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))


def ours(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and triangles by gncadeq."""
    data = load_mesh(path)
    return data.pos.numpy(), data.face.t().numpy()


def theirs(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and triangles by trimesh, which is asked to keep the vertices as they are."""
    import trimesh

    mesh = trimesh.load_mesh(path, process=False)
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


def outcome(read: Callable[[Path], tuple[np.ndarray, np.ndarray]], path: Path, row: object) -> str:
    """Whether the vertices and triangles are right, in order; colours are not compared."""
    try:
        pos, face = read(path)
    except Exception:
        return "refused"
    right = np.shape(pos) == np.shape(row.pos) and np.allclose(pos, row.pos, atol=1e-6)
    corners = [sorted(corner) for corner in np.asarray(face).tolist()]
    return "right" if right and corners == [sorted(c) for c in row.face] else "wrong"


def seconds(read: Callable[[Path], object], path: Path, repeats: int = 3) -> float:
    """Process CPU time, the least of several."""
    best = float("inf")
    for _ in range(repeats):
        began = time.process_time()
        read(path)
        best = min(best, time.process_time() - began)
    return best


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mesh", type=Path, help="also time reading this mesh")
    options = parser.parse_args()
    from mesh_grammar import ROWS

    warnings.simplefilter("ignore")
    found: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for row in ROWS:
            path = Path(folder) / f"a.{row.ending}"
            path.write_bytes(row.content)
            count = found.setdefault(row.ending.removesuffix(".gz"), Counter())
            count["rows"] += 1
            count["gncadeq " + outcome(ours, path, row)] += 1
            count["trimesh " + outcome(theirs, path, row)] += 1
    columns = ["rows", *(f"{who} {what}" for who in ("gncadeq", "trimesh")
                         for what in ("right", "wrong", "refused"))]  # fmt: skip
    print("| format | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for ending, count in found.items():
        print(f"| {ending} | " + " | ".join(str(count[column]) for column in columns) + " |")
    if options.mesh:
        names = ("gncadeq, with normals and the count of defects,", ours), ("trimesh", theirs)
        for name, read in names:
            print(f"{name}: {seconds(read, options.mesh):.3f} CPU seconds for {options.mesh.name}")


if __name__ == "__main__":
    main()
