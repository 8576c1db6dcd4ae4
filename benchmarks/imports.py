"""Seconds that ``import gncadeq`` takes over ``import torch_geometric`` alone.

    python -m benchmarks imports

Fresh interpreters, in turn; medians of CPU time, which other processes disturb least. Writes
``runs/benchmarks/imports.json``.
"""

from __future__ import annotations

import subprocess
import sys
from statistics import median

from benchmarks._measure import save, show

CODE = "import time; import {}; print(time.process_time())"


def main() -> None:
    """Measure, print, write."""
    names = ("torch_geometric", "gncadeq")
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(7):
        for name in names:
            run = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", CODE.format(name)],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            times[name].append(float(run.stdout))
    rows = [{"import": name, "CPU s": median(t)} for name, t in times.items()]
    rows.append({"import": "difference", "CPU s": rows[1]["CPU s"] - rows[0]["CPU s"]})
    show("Imports", rows)
    save("imports", rows)


if __name__ == "__main__":
    main()
