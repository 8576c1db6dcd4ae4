"""Randomness and batch statistics that stand still for the duration of a solve.

Dropout that drew a new mask in every evaluation would leave nothing to converge to, and running
statistics would count the solver's way. A cell with such modules in training mode is evaluated
from one seed throughout a solve, gradients included, and updates its running statistics once, at
the equilibrium. Any other cell is untouched.

Since a mask is drawn for all nodes at once, and batch statistics are those of all nodes, no graph
leaves the batch early in such a solve.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gncadeq.stateful import drops, has_statistics, scratch_buffers
from gncadeq.typing import Step


class Frozen:
    """The seed and the running statistics of one solve.

    Args:
        seed: What every evaluation draws from.
        norms: Modules whose buffers change in an evaluation.
    """

    def __init__(self, seed: int, norms: list[nn.Module]) -> None:
        self.seed, self.norms = seed, norms
        self.update_statistics = True
        """Whether the next evaluation updates the running statistics; it then becomes false."""

    @classmethod
    def of(cls, cell: nn.Module, generator: torch.Generator | None = None) -> Frozen | None:
        """What must be frozen in ``cell``, or ``None``, as for most.

        A module draws in training mode if it is one of torch's dropouts or :class:`torch.nn.RReLU`,
        has a positive number for its attribute ``dropout`` (as attention modules do), or says so
        itself by a true attribute ``draws_randomness``.
        """
        training = [m for m in cell.modules() if m.training]
        _check_alone(training)
        norms = [m for m in training if has_statistics(m)]
        if not norms and not any(_draws(m) for m in training):
            return None
        device = "cpu" if generator is None else generator.device
        seed = torch.randint(2**62, (), generator=generator, device=device)
        return cls(int(seed), list(norms))

    @staticmethod
    def concerns(cell: nn.Module) -> bool:
        """Whether something in ``cell`` draws, or changes its buffers, in an evaluation."""
        return any(has_statistics(m) or _draws(m) for m in cell.modules() if m.training)

    @contextmanager
    def evaluation(self, device: torch.device, stream: int = 0) -> Iterator[None]:
        """Draw from the seed within; leave the random state and the statistics as they were.

        Args:
            device: Where the cell draws.
            stream: What must not draw the same as another takes another number.
        """
        update, self.update_statistics = self.update_statistics, False
        with ExitStack() as stack:
            stack.enter_context(_seeded(self.seed + stream, device))
            if not update:
                stack.enter_context(scratch_buffers(self.norms))
            yield

    def step(self, step: Step) -> Step:
        """The same step, frozen; it cannot be restricted to some graphs."""

        def frozen_step(z: Tensor) -> Tensor:
            with self.evaluation(z.device):
                return step(z)

        return frozen_step


def _check_alone(modules: list[nn.Module]) -> None:
    """Refuse modules that wait for other processes, which take other numbers of steps."""
    waiting = [m for m in modules if isinstance(m, nn.SyncBatchNorm)]
    if waiting and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        raise TypeError(
            "Expected a cell that doesn't wait for other processes (got SyncBatchNorm, in "
            f"{dist.get_world_size()} of them): each takes as many steps as its graphs need, and "
            "would wait forever. Use BatchNorm1d within the cell, sync_batchnorm=False in Lightning"
        )


def _draws(module: nn.Module) -> bool:
    return (
        drops(module) or isinstance(module, nn.RReLU) or getattr(module, "draws_randomness", False)
    )


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    if device.type == "cpu":
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            yield
        return
    module: Any = torch.get_device_module(device)
    index = module.current_device() if device.index is None else device.index
    with torch.random.fork_rng(devices=[index], device_type=device.type):
        torch.default_generator.manual_seed(seed)
        with module.device(device) if hasattr(module, "device") else nullcontext():
            module.manual_seed(seed)
        yield
