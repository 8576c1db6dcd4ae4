"""Run every example in its smoke mode, as many at a time as there are processors.

    python tests/run_examples.py                  # all
    python tests/run_examples.py chains reach     # some

Each example runs in a process of its own, forked from one that has imported the packages that most
of them need: importing takes longer than most of them do. What an example prints is shown if it
fails. Exits with 1 if one fails.
"""

from __future__ import annotations

import importlib
import multiprocessing
import multiprocessing.connection
import os
import runpy
import sys
import tempfile
import time
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "examples"
IMPORTED = ("torch", "torch_geometric.nn", "torchdeq", "torchvision", "matplotlib.pyplot",
            "scipy.sparse", "sklearn.datasets", "lightning")  # fmt: skip


def run(script: Path, output: Path) -> None:
    """In a process of its own: what ``python script --smoke`` does, printed to a file."""
    with output.open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    sys.argv, sys.path[0] = [str(script), "--smoke"], str(script.parent)
    runpy.run_path(str(script), run_name="__main__")


def main(names: list[str]) -> int:
    """Run them, and say of each how long it took."""
    scripts = [FOLDER / f"{name}.py" for name in names] or sorted(FOLDER.glob("*.py"))
    for name in IMPORTED:
        importlib.import_module(name)
    context, failed = multiprocessing.get_context("fork"), 0
    running: dict[int, tuple[multiprocessing.process.BaseProcess, Path, Path, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        while scripts or running:
            while scripts and len(running) < (os.cpu_count() or 1):
                script = scripts.pop(0)
                output = Path(folder) / f"{script.stem}.txt"
                process = context.Process(target=run, args=(script, output))
                process.start()
                running[process.sentinel] = process, script, output, time.monotonic()
            for sentinel in multiprocessing.connection.wait(list(running)):
                process, script, output, begun = running.pop(sentinel)
                process.join()
                seconds = time.monotonic() - begun
                print(f"{script.stem:28s}{seconds:7.1f} s  exit {process.exitcode}", flush=True)
                if process.exitcode != 0:
                    failed += 1
                    print(output.read_text(errors="replace"), flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
