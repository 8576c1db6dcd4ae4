"""On how many threads torch works in a command: one, unless told otherwise."""

from __future__ import annotations

import os
import sys

# A solve is made of hundreds of small operations. With several threads each of them ends in a
# barrier, at which threads spin by default: beside other work that is slower than one thread.
_DEFAULTS = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}
_chosen: set[str] = set()


def set_defaults() -> None:
    """Give OpenMP one thread and short waits, where the environment says nothing of them.

    OpenMP reads the environment when torch is imported, so this comes first. Processes that the
    command starts inherit it.
    """
    for name, value in _DEFAULTS.items():
        if name not in os.environ:
            os.environ[name] = value
            _chosen.add(name)


def use_threads(count: int) -> None:
    """Let torch's operations use so many threads in this process."""
    os.environ |= {"OMP_NUM_THREADS": str(count), "MKL_NUM_THREADS": str(count)}
    _chosen.add("OMP_NUM_THREADS")
    if "torch" in sys.modules:  # which has read the environment
        import torch

        torch.set_num_threads(count)


def threads_in_python(now: int) -> int:
    """On how many threads torch works in Python here, if it works on ``now`` in a command."""
    return usable_cores() if "OMP_NUM_THREADS" in _chosen else now


def usable_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def crowded(threads: int, load: float, cores: int) -> str | None:
    """A sentence if other work leaves too few cores for several threads, else ``None``.

    Args:
        threads: On how many threads torch works.
        load: How many cores are busy, by the system's average of the last minute.
        cores: How many there are.

    Example:
        >>> crowded(2, load=0.1, cores=2), crowded(1, load=5.0, cores=2)
        (None, None)
        >>> crowded(2, load=1.5, cores=2)[:62]
        'Expected 2 idle cores for 2 threads (got a load of 1.5 on 2). '
    """
    if threads == 1 or load < cores - threads + 0.5:
        return None
    return (
        f"Expected {threads} idle cores for {threads} threads (got a load of {load:.1f} on "
        f"{cores}). Every operation waits for its slowest thread: set OMP_NUM_THREADS=1"
    )
