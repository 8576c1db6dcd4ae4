"""Seconds until ``gncadeq --help`` answers, and that gncadeq takes over ``torch_geometric`` alone.

    python -m benchmarks imports

Fresh interpreters, in turn; medians of CPU time, which other processes disturb least. Writes
``runs/benchmarks/imports.json``.
"""

from __future__ import annotations

import subprocess
import sys
from statistics import median

from benchmarks._measure import save, show

COMMAND = "import sys; from gncadeq.cli import app; app({}, standalone_mode=False)"
CODES = {
    "python": "pass",
    "gncadeq --help": COMMAND.format(["--help"]),
    "gncadeq train --help": COMMAND.format(["train", "--help"]),
    "import torch_geometric": "import torch_geometric",
    "import gncadeq, and all of its names": "from gncadeq import *",
}


def main() -> None:
    """Measure, print, write."""
    times: dict[str, list[float]] = {name: [] for name in CODES}
    for _ in range(7):
        for name, code in CODES.items():
            run = subprocess.run(
                [sys.executable, "-W", "ignore", "-c",
                 f"import time\n{code}\nprint('\\n', time.process_time())"],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            times[name].append(float(run.stdout.splitlines()[-1]))
    rows = [{"what": name, "CPU s": median(t)} for name, t in times.items()]
    show("Imports", rows)
    save("imports", rows)


if __name__ == "__main__":
    main()
