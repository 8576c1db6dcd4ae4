"""How well a growing automaton grows, keeps and mends its target."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import scatter

from gncadeq.cells import GrowingCell, SweepGrower
from gncadeq.check import check_choice, check_count, check_seed
from gncadeq.choices import Damage
from gncadeq.dynamics import GraphNCA
from gncadeq.transforms.damage import ball, cut
from gncadeq.typing import Adj, OptTensor


def color_error(z: Tensor, color: Tensor, batch: OptTensor = None) -> Tensor:
    r"""The mean squared error of the first four channels, for each graph.

    .. math::
        \frac{1}{4 |\mathcal{V}|} \sum_{i \in \mathcal{V}} \sum_{c < 4} (z_{ic} - t_{ic})^2

    Args:
        z: States ``[num_nodes, channels]``.
        color: The target ``[num_nodes, 4]``, colours multiplied by alpha.
        batch: The graph of every node, ascending; ``None`` for a single graph.

    Returns:
        ``[num_graphs]``.

    Example:
        >>> color_error(torch.zeros(3, 6), torch.ones(3, 4), torch.tensor([0, 0, 1]))
        tensor([1., 1.])
    """
    error = (z[:, :4] - color).square().mean(1)
    if batch is None:
        return error.mean(0, keepdim=True)
    mean: Tensor = scatter(error, batch, reduce="mean")
    return mean


def relative_residual(z: Tensor, fz: Tensor) -> float:
    """``‖f(z) − z‖ / ‖f(z)‖`` of a single graph's state; zero where nothing moves."""
    diff = float((fz - z).norm())
    return diff / max(float(fz.norm()), 1e-30) if diff else 0.0


@dataclass(frozen=True)
class Moment:
    """One moment of a :class:`Trial`.

    Attributes:
        event: ``"seed"``, ``"growth"``, ``"damage"`` or ``"recovery"``.
        steps: Steps of the automaton since the seed.
        error: Mean squared error of the colours (:func:`color_error`).
        residual: Relative residual of a synchronous step, ``‖f(z) − z‖ / ‖f(z)‖``.
        alive: Share of the nodes that live.
        color: ``[num_nodes, 4]``, the colours, or ``None`` if they weren't kept.
    """

    event: str
    steps: int
    error: float
    residual: float
    alive: float
    color: Tensor | None

    def summary(self) -> dict[str, Any]:
        """All but the colours, as JSON takes it."""
        return {k: v for k, v in self.__dict__.items() if k != "color"}


class Trial:
    """An automaton on its target graph, run, injured and run on; every look at it is kept.

    Args:
        cell: The rule.
        data: The target graph, with ``color`` ``[num_nodes, 4]``, and the injection as ``x`` if the
            cell has one.
        z0: The state to start from, such as :func:`gncadeq.training.targets.seed_state`.
        fire_rate: Probability that a node updates in a step.
        seed: Seed of update masks and injuries.
        keep_colors: Whether moments keep their colours, for pictures.

    Raises:
        ValueError: If the cell has an injection and the graph has none.

    Example:
        >>> from gncadeq.training.targets import picture_target, seed_state
        >>> data = picture_target(torch.rand(4, 5, 5))
        >>> trial = Trial(GrowingCell(8), data, seed_state(data, 8))
        >>> trial.run(20).steps, trial.damage("third").event
        (20, 'damage')
    """

    def __init__(
        self,
        cell: GrowingCell | SweepGrower,
        data: Data,
        z0: Tensor,
        fire_rate: float = 0.5,
        seed: int = 0,
        keep_colors: bool = True,
    ) -> None:
        if cell.in_channels and data.get("x") is None:
            raise ValueError(
                f"Expected an injection 'x' of {cell.in_channels} channels in the target graph "
                "(got none). data.x = gncadeq.training.targets.anchor(data)"
            )
        self.nca = GraphNCA(cell, fire_rate=fire_rate)
        self.cell, self.data, self.keep_colors = cell, data, keep_colors
        self.z, self.steps = z0, 0
        self.graph: tuple[Tensor, Adj, Tensor] = (
            data.x if cell.in_channels else z0[:, :0], data.edge_index, data.edge_attr,
        )  # fmt: skip
        self._generator = torch.Generator().manual_seed(check_seed(seed))
        self.moments: list[Moment] = []
        self._look("seed")

    def _look(self, event: str) -> Moment:
        with torch.no_grad():
            fz = self.cell(self.z, *self.graph)
        moment = Moment(
            event, self.steps, float(color_error(self.z, self.data.color)),
            relative_residual(self.z, fz), float(self._alive().double().mean()),
            self.z[:, :4].clone().cpu() if self.keep_colors else None,
        )  # fmt: skip
        self.moments.append(moment)
        return moment

    def _alive(self) -> Tensor:
        channel = self.cell.alive_channel
        if channel is None:
            return torch.ones_like(self.z[:, 0], dtype=torch.bool)
        return self.z[:, channel] > self.cell.alive_threshold

    @torch.no_grad()
    def run(self, steps: int, event: str = "growth") -> Moment:
        """Run some steps and look."""
        self.z = self.nca(*self.graph, z0=self.z, steps=steps, generator=self._generator)
        self.steps += steps
        return self._look(event)

    def film(self, steps: int, every: int, event: str = "growth") -> Iterator[Moment]:
        """Run some steps, looking every so many, and at the end."""
        done = 0
        steps = check_count("steps", steps)
        every = check_count("every", every, 1)
        while done < steps:
            count = min(every, steps - done)
            done += count
            yield self.run(count, event)

    def damage(self, kind: Damage, radius: float = 0.2) -> Moment:
        """Set nodes to zero: a ``"third"`` of the living beyond a plane, or a ``"disc"``.

        Raises:
            ValueError: If the kind is unknown.
        """
        check_choice("kind", kind, ("third", "disc"))
        pos, alive = self.data.pos, self._alive()
        if kind == "third":
            hurt = cut(pos, 1 / 3, self._generator, alive)
        else:
            hurt = ball(pos, radius, self._generator, alive)
        self.z = self.z.masked_fill(hurt.unsqueeze(1), 0.0)
        return self._look("damage")
