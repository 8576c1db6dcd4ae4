"""What all benchmarks share: alternating timings, peaks of memory, machine and load, tables.

Times are of the clock, with the processor time of this process in brackets. Both are the same on an
idle machine; where other work kept processors busy, a line below the table says so.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch_geometric.data import Data
from torch_geometric.datasets import Planetoid

from gncadeq.files.json_files import write_json

FOLDER = Path("runs/benchmarks")
_TURN = 0.02  # seconds that a turn lasts at least
_IDLE = 0.1  # processors that other work keeps busy at most, on a machine that is called idle


class Milliseconds(float):
    """Milliseconds of the clock, and ``cpu``, those of this process's processor time."""

    cpu: float

    def __new__(cls, wall: float, cpu: float) -> Milliseconds:
        """Both in milliseconds."""
        new = super().__new__(cls, wall)
        new.cpu = cpu
        return new

    @classmethod
    def middle(cls, times: Sequence[Milliseconds]) -> Milliseconds:
        """The medians of several."""
        return cls(median(times), median(t.cpu for t in times))

    def over(self, count: float) -> Milliseconds:
        """Of one of so many."""
        return Milliseconds(self / count, self.cpu / count)


def timed(run: Callable[[], Any], repeats: int = 1) -> tuple[Any, Milliseconds]:
    """What a run returns, and how long it took, the mean of several."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        result = run()
    spent = time.perf_counter() - wall, time.process_time() - cpu
    return result, Milliseconds(1e3 * spent[0], 1e3 * spent[1]).over(repeats)


def alternate(
    ways: Mapping[str, Callable[[], Any]], rounds: int = 15, seconds: float = 20.0
) -> dict[str, Milliseconds]:
    """Medians of every way, taken in turn so that all see the same machine.

    A way that is quick runs several times in its turn, as steps follow each other in a solve.

    Args:
        ways: What to time, by name.
        rounds: Most rounds; at least three are made.
        seconds: Stop after this long.
    """
    times: dict[str, list[Milliseconds]] = {name: [] for name in ways}
    repeats = {}
    for name, way in ways.items():
        way()
        repeats[name] = max(1, round(1e3 * _TURN / timed(way)[1]))
    begin = time.perf_counter()
    for k in range(rounds):
        if k >= 3 and time.perf_counter() - begin > seconds:
            break
        for name, way in ways.items():
            times[name].append(timed(way, repeats[name])[1])
    return {name: Milliseconds.middle(t) for name, t in times.items()}


def peak_bytes(run: Callable[[], Any]) -> int:
    """The most bytes of tensors alive at a time, above what was alive before.

    Every allocation and release of torch's CPU allocator counts, solver histories and temporary
    results included.
    """
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as prof:
        run()
    events = prof.profiler.kineto_results.events()
    moves = sorted(
        (e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]" and e.nbytes()
    )
    now = most = 0
    for _, size in moves:
        now += size
        most = max(most, now)
    return most


def cora(data_root: str) -> Data:
    """The graph of Cora, from ``DATA/Planetoid/Cora/raw``, which is left as it is."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(data_root) / "Planetoid" / "Cora" / "raw"
        shutil.copytree(raw, Path(folder) / "Cora" / "raw")
        return Planetoid(folder, "Cora")[0]


def copy_bandwidth() -> float:
    """Bytes a second that a large copy moves, read and written."""
    a = torch.randn(2**23)
    b = torch.empty_like(a)
    ms = alternate({"copy": lambda: b.copy_(a)}, rounds=9)["copy"]
    return 2 * a.nbytes / (1e-3 * ms)


def multiply_rate() -> float:
    """Floating-point operations a second of a large matrix product."""
    a = torch.randn(1024, 1024)
    out = torch.empty_like(a)
    ms = alternate({"mm": lambda: torch.mm(a, a, out=out)}, rounds=9)["mm"]
    return 2 * 1024**3 / (1e-3 * ms)


def machine() -> dict[str, Any]:
    """Where a result comes from."""
    names = ("torch", "torch-geometric", "torchdeq", "gncadeq")
    return {
        "system": f"{platform.system()} {platform.machine()}", "processor": _processor(),
        "cores": os.cpu_count(), "threads": torch.get_num_threads(),
        "python": platform.python_version(), **{n: version(n) for n in names},
        "environment": {k: v for k, v in os.environ.items() if k.startswith(("MALLOC_", "OMP_"))},
    }  # fmt: skip


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _busy() -> tuple[float, float]:
    """Seconds that all processors were busy since the machine started, and this process."""
    path, own = Path("/proc/stat"), os.times()
    if not path.is_file():
        return 0.0, 0.0
    user, nice, system, _, _, *more = map(int, path.read_text().splitlines()[0].split()[1:9])
    return (user + nice + system + sum(more)) / os.sysconf("SC_CLK_TCK"), sum(own[:4])


_BEGIN = time.perf_counter(), *_busy()


def other_load() -> float:
    """How many processors other work has kept busy since this program began."""
    begin, all_before, own_before = _BEGIN
    all_now, own_now = _busy()
    others = all_now - all_before - (own_now - own_before)
    return max(0.0, others / (time.perf_counter() - begin))


def save(name: str, rows: list[dict[str, Any]], **more: Any) -> None:
    """Write ``runs/benchmarks/NAME.json``, with processor times beside those of the clock."""
    rows = [
        {**row, **{f"{k}, cpu": v.cpu for k, v in row.items() if isinstance(v, Milliseconds)}}
        for row in rows
    ]
    record = {"machine": machine(), "other load": other_load(), **more, "rows": rows}
    write_json(FOLDER / f"{name}.json", record)


def show(title: str, rows: list[dict[str, Any]], formats: Mapping[str, str] | None = None) -> None:
    """Print rows as a table in Markdown; ``formats`` are format specifications by column."""
    formats, columns = formats or {}, list(rows[0])
    print(f"\n{title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        cells = (_text(row.get(c), formats.get(c, ".3g")) for c in columns)
        print(f"| {' | '.join(cells)} |")
    load = other_load()
    if load > _IDLE:
        print(f"\nBeside other work, which kept {load:.1f} processors busy: no figures to keep.")
    sys.stdout.flush()


def _text(value: Any, form: str) -> str:
    if value is None:
        return ""
    if isinstance(value, Milliseconds):
        return f"{value:{form}} ({value.cpu:{form}})"
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:{form}}"


__all__ = [
    "FOLDER", "Milliseconds", "alternate", "copy_bandwidth", "cora", "machine", "multiply_rate",
    "other_load", "peak_bytes", "save", "show", "timed",
]  # fmt: skip
