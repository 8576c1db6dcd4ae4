"""What all benchmarks share: alternating timings, peaks of memory, the machine, tables."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from gncadeq.files.json_files import write_json

FOLDER = Path("runs/benchmarks")
_TURN = 0.02  # seconds that a turn lasts at least


def alternate(
    ways: Mapping[str, Callable[[], Any]], rounds: int = 15, seconds: float = 20.0
) -> dict[str, float]:
    """Median milliseconds of every way, taken in turn so that all see the same machine.

    A way that is quick runs several times in its turn, as steps follow each other in a solve.

    Args:
        ways: What to time, by name.
        rounds: Most rounds; at least three are made.
        seconds: Stop after this long.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    repeats = {}
    for name, way in ways.items():
        way()
        start = time.perf_counter()
        way()
        repeats[name] = max(1, round(_TURN / (time.perf_counter() - start)))
    begin = time.perf_counter()
    for k in range(rounds):
        if k >= 3 and time.perf_counter() - begin > seconds:
            break
        for name, way in ways.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                way()
            times[name].append(1e3 * (time.perf_counter() - start) / repeats[name])
    return {name: median(t) for name, t in times.items()}


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


def save(name: str, rows: list[dict[str, Any]], **more: Any) -> None:
    """Write ``runs/benchmarks/NAME.json``."""
    record = {"machine": machine(), **more, "rows": rows}
    write_json(FOLDER / f"{name}.json", record)


def show(title: str, rows: list[dict[str, Any]], formats: Mapping[str, str] | None = None) -> None:
    """Print rows as a table; ``formats`` are format specifications by column."""
    from rich.console import Console
    from rich.table import Table

    formats = formats or {}
    table = Table(title=title, title_justify="left")
    columns = list(rows[0])
    for name in columns:
        text = isinstance(rows[0][name], str)
        table.add_column(name, justify="left" if text else "right")
    for row in rows:
        table.add_row(*(_text(row.get(c), formats.get(c, ".3g")) for c in columns))
    Console(width=120).print(table)


def _text(value: Any, form: str) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:{form}}"


__all__ = [
    "FOLDER", "alternate", "copy_bandwidth", "machine", "multiply_rate", "peak_bytes", "save",
    "show",
]  # fmt: skip
