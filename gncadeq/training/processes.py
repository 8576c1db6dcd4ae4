"""Processes that train one model together: who they are, how they start, what they agree on."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.multiprocessing.spawn import ProcessException, spawn

from gncadeq.training.stopping import StopSignals

_LOOK = 0.2  # seconds between two looks at signals
_GRACE = 20.0  # seconds in which processes may end by themselves


@dataclass(frozen=True)
class Processes:
    """A process among those that train one model, each on its share of every batch.

    Attributes:
        rank: Which one this is.
        count: How many there are, on all machines.
        local_count: How many there are on this machine.

    Example:
        >>> Processes(rank=1, count=2).share(torch.arange(6))
        tensor([1, 3, 5])
    """

    rank: int = 0
    count: int = 1
    local_count: int = 1

    @classmethod
    def here(cls) -> Processes:
        """What ``torchrun`` (or :func:`launch`) says of this process; one alone without it."""
        if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
            return cls()
        count = int(os.environ["WORLD_SIZE"])
        local = int(os.environ.get("LOCAL_WORLD_SIZE", count))
        return cls(int(os.environ["RANK"]), count, local)

    def share(self, whole: Tensor, dim: int = 0) -> Tensor:
        """This process's part of what belongs to all: every ``count``-th entry."""
        every = [slice(None)] * dim + [slice(self.rank, None, self.count)]
        return whole[tuple(every)]


ALONE = Processes()


def gathered(value: Tensor) -> Tensor:
    """The values of all processes, ``[count, *value.shape]``."""
    if not _together():
        return value.unsqueeze(0)
    parts = [torch.empty_like(value) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, value.contiguous())
    return torch.stack(parts)


def stop_together(cause: str | None, device: torch.device) -> None:
    """Raise in all processes if one has a cause to, rather than leave the others waiting.

    Raises:
        FloatingPointError: With the first cause.
    """
    causes = [cause]
    if _together():
        some = torch.tensor(int(cause is not None), device=device)
        dist.all_reduce(some)
        if bool(some):
            causes = [None] * dist.get_world_size()
            dist.all_gather_object(causes, cause)
    for found in causes:
        if found is not None:
            raise FloatingPointError(found)


def launch(run: Callable[..., None], count: int, *arguments: Any) -> None:
    """Call ``run(*arguments)`` in ``count`` new processes of this machine, and wait for them.

    Args:
        run: A function of a module, that can be pickled.
        count: Number of processes.
        arguments: Its arguments, which can be pickled.

    Raises:
        RuntimeError: If a process was killed.
        BaseException: What ``run`` raised in one of them; the others are ended.
    """
    context = mp.get_context("spawn")
    errors = context.SimpleQueue()
    threads = max(1, torch.get_num_threads() // count)
    given = (run, count, _free_port(), threads, errors, arguments)
    workers = spawn(_worker, given, nprocs=count, join=False)  # type: ignore[no-untyped-call]
    stop, asked = StopSignals(), 0.0
    try:
        with stop:
            while not workers.join(timeout=_LOOK, grace_period=_GRACE):
                if stop.received is not None and not asked:
                    asked = time.monotonic()
                    _signal(workers.processes, stop.received)
                if asked and time.monotonic() - asked > _GRACE:
                    raise stop.error()
    except ProcessException as error:
        if stop.received is not None:
            raise stop.error() from None
        first = None if errors.empty() else errors.get()
        killed = [i for i, p in enumerate(workers.processes) if p.exitcode == -signal.SIGKILL]
        if first is not None and not killed:
            raise first from None
        raise RuntimeError(
            f"Expected {count} processes to end by themselves (got process {killed or '?'} killed: "
            "for memory?). The run can be resumed"
        ) from (first or error)
    finally:
        _signal(workers.processes, signal.SIGINT)
        for process in workers.processes:
            process.join(_GRACE)
            process.kill()
            process.join()
    if not errors.empty():
        raise errors.get()


def _signal(processes: Iterable[Any], which: signal.Signals) -> None:
    for process in processes:
        if process.is_alive():
            with contextlib.suppress(ProcessLookupError):  # it has ended since
                os.kill(process.pid, which)


def _worker(
    rank: int,
    run: Callable[..., None],
    count: int,
    port: int,
    threads: int,
    errors: Any,
    arguments: tuple[Any, ...],
) -> None:
    # The variables of torchrun, so that there is one way for a process to know who it is.
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    torch.set_num_threads(threads)
    try:
        run(*arguments)
    except BaseException as error:
        errors.put(error)
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def _together() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
