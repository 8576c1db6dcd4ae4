"""A pool of states: what growing automata train on instead of always starting from the seed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, get_args

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from gncadeq.check import check_choice, check_count, check_seed, check_type
from gncadeq.choices import Injury
from gncadeq.transforms.damage import ball, cut


class SamplePool:
    r"""States of one or several graphs that live on from one training step to the next.

    `"Growing Neural Cellular Automata" <https://doi.org/10.23915/distill.00023>`_ (Mordvintsev et
    al. 2020, experiments 2 and 3): a rule that is trained on states which it has brought about
    itself learns to keep and to mend them. Slot :math:`s` holds a state of graph
    :math:`s \bmod G`. A step draws slots, sends the worst back to the seed, injures the best, runs
    the rule, and puts the states back:

    .. code-block:: python

        index, batch = pool.sample(8)
        z = pool.refresh(index, loss_of(batch.z, batch), reset=1, damage=2)
        z = nca(x, batch.edge_index, batch.edge_attr, batch.batch, z0=z, steps=steps)
        pool.update(index, z, steps)

    The worst are always those that have gone wrong with age, so a pool in which every slot is sent
    back grows no old states to learn from. ``elders`` slots are spared: they grow as old as the
    training lets them, and what drifts only after thousands of steps is seen, and trained away.

    All randomness comes from the seed. Memory is bounded by ``nbytes``, which is allocated at once;
    the graphs of the last few draws are kept besides.

    Args:
        graphs: The graph, or graphs of any sizes, with positions ``pos``.
        seeds: Their seed states ``[num_nodes, channels]``, one a graph.
        size: Number of slots, at least one a graph.
        seed: Seed of all draws.
        elders: How many slots, the first ones, return to the seed only when nothing lives in them.

    Raises:
        ValueError: If graphs and seeds don't fit, or the pool has fewer slots than graphs.

    Example:
        >>> from gncadeq.transforms import ImageToGraph, PixelKernels
        >>> data = PixelKernels()(ImageToGraph()(torch.zeros(1, 5, 5)))
        >>> pool = SamplePool(data, torch.ones(25, 4), size=6)
        >>> index, batch = pool.sample(2)
        >>> batch.z.shape, batch.num_graphs
        (torch.Size([50, 4]), 2)
        >>> pool.update(index, batch.z + 1, steps=10)
        >>> pool
        SamplePool(6 slots, 1 graph, 4 channels, oldest state 10 steps)
    """

    def __init__(
        self,
        graphs: Data | Sequence[Data],
        seeds: Tensor | Sequence[Tensor],
        size: int = 256,
        seed: int = 0,
        elders: int = 0,
    ) -> None:
        check_type("graphs", graphs, (Data, list, tuple))
        check_type("seeds", seeds, (Tensor, list, tuple))
        self.graphs = [graphs] if isinstance(graphs, Data) else list(graphs)
        self.seeds = [seeds] if isinstance(seeds, Tensor) else list(seeds)
        if not self.graphs or len(self.graphs) != len(self.seeds):
            raise ValueError(
                f"Expected one seed state a graph (got {len(self.seeds)} for {len(self.graphs)})"
            )
        size = check_count("size", size, len(self.graphs), hint="Every graph needs a slot")
        elders = check_count("elders", elders, 0, size)
        seed = check_seed(seed)
        for state in self.seeds:
            check_type("seeds", state, Tensor)
        channels = self.seeds[0].size(-1) if self.seeds[0].dim() else 0
        for k, (data, state) in enumerate(zip(self.graphs, self.seeds, strict=True)):
            if list(state.shape) != [data.num_nodes, channels]:
                raise ValueError(
                    f"Expected the seed of graph {k} of shape [{data.num_nodes}, {channels}] "
                    f"(got {list(state.shape)})"
                )
            if data.pos is None:
                raise ValueError(f"Expected positions 'pos' in graph {k}, to injure it (got none)")
        self.size, self.elders = size, elders
        self.states = [self.seeds[self.graph_of(s)].clone() for s in range(size)]
        self.age = torch.zeros(size, dtype=torch.long)
        self._generator = torch.Generator().manual_seed(seed)
        self._batches: dict[tuple[int, ...], Batch] = {}

    def graph_of(self, slot: int) -> int:
        """The graph of which a slot holds a state."""
        return slot % len(self.graphs)

    @property
    def nbytes(self) -> int:
        """Bytes of all states."""
        return sum(z.numel() * z.element_size() for z in self.states)

    def sample(self, n: int) -> tuple[Tensor, Batch]:
        """Draw ``n`` different slots.

        Returns:
            Their indices ``[n]``, and the batch of their graphs with the states as ``z``.

        Raises:
            ValueError: If the pool has fewer slots.
        """
        n = check_count("n", n, 1, self.size)
        index = torch.randperm(self.size, generator=self._generator)[:n]
        batch = self._batch(tuple(self.graph_of(s) for s in index.tolist()))
        batch.z = torch.cat([self.states[s] for s in index.tolist()])
        return index, batch

    def _batch(self, which: tuple[int, ...]) -> Batch:
        if which not in self._batches:  # one graph: always the same batch
            if len(self._batches) == 4:
                self._batches.pop(next(iter(self._batches)))
            self._batches[which] = Batch.from_data_list([self.graphs[g] for g in which])
        return copy.copy(self._batches[which])

    def refresh(
        self,
        index: Tensor,
        loss: Tensor,
        reset: int = 1,
        damage: int = 0,
        alive_channel: int | None = None,
        alive_threshold: float = 0.1,
        injury: Injury = "both",
    ) -> Tensor:
        """The states of a draw, the worst of them back at their seeds and the best injured.

        An injury sets nodes to zero: those in a ball of a random radius (an eighth to a third of
        the graph's extent) around a living node, or a third of the living ones beyond a random
        plane, one as often as the other.

        Args:
            index: Slots, as drawn.
            loss: ``[n]``, the loss of each state as it is now.
            reset: How many of the worst start again from the seed, elders excepted. A state in
                which nothing lives does so in any case.
            damage: How many of the best are injured (never one that was reset).
            alive_channel: The channel that tells which nodes live; ``None`` takes all.
            alive_threshold: The least value of a living node there.
            injury: ``"both"``, or ``"disc"``: balls alone, of the published radii, a twentieth to
                a fifth of the extent.

        Returns:
            ``[num_nodes, channels]``, in the order of the draw. The slots are left as they are
            until :meth:`update`, but for their age.

        Raises:
            ValueError: If there isn't one finite loss a slot, or a count is out of range.
        """
        n = index.numel()
        if list(loss.shape) != [n] or not bool(loss.isfinite().all()):
            raise ValueError(
                f"Expected one finite loss for each of {n} slots (got {loss.tolist()})"
            )
        reset = check_count("reset", reset, 0, n)
        damage = check_count("damage", damage, 0, n)
        check_choice("injury", injury, get_args(Injury))
        slots = index.tolist()
        states = [self.states[s] for s in slots]
        living = [None if alive_channel is None else z[:, alive_channel] > alive_threshold
                  for z in states]  # fmt: skip
        order = loss.argsort(descending=True, stable=True).tolist()
        again = [k for k in order if slots[k] >= self.elders][:reset]
        again += [k for k in order if (a := living[k]) is not None and not bool(a.any())]
        for k in set(again):
            states[k], self.age[slots[k]] = self.seeds[self.graph_of(slots[k])], 0
        for k in [k for k in order[n - damage :] if k not in again]:
            pos = self.graphs[self.graph_of(slots[k])].pos
            hurt = self._injury(pos, living[k], injury)
            states[k] = states[k].masked_fill(hurt.unsqueeze(1), 0.0)
        return torch.cat(states)

    def _injury(self, pos: Tensor, alive: Tensor | None, injury: Injury) -> Tensor:
        kind, size = torch.rand(2, generator=self._generator).tolist()
        if injury == "disc":
            return ball(pos, 1 / 20 + size * (1 / 5 - 1 / 20), self._generator, alive)
        if kind < 0.5:
            return cut(pos, 1 / 3, self._generator, alive)
        return ball(pos, 1 / 8 + size * (1 / 3 - 1 / 8), self._generator, alive)

    def update(self, index: Tensor, z: Tensor, steps: int | Tensor = 0) -> None:
        """Put states back.

        Args:
            index: Slots, as drawn.
            z: ``[num_nodes, channels]``, in the order of the draw.
            steps: How many steps older they are, together or each.

        Raises:
            ValueError: If the shape is wrong, or a state is not finite.
        """
        sizes = [self.states[s].size(0) for s in index.tolist()]
        expected = [sum(sizes), self.seeds[0].size(1)]
        if list(z.shape) != expected:
            raise ValueError(f"Expected states of shape {expected} (got {list(z.shape)})")
        if not bool(z.isfinite().all()):
            raise ValueError(
                "Expected finite states for the pool (got NaN or infinity). The rule has blown up: "
                "lower the learning rate"
            )
        for slot, state in zip(index.tolist(), torch.split(z.detach(), sizes), strict=True):
            self.states[slot].copy_(state)
        self.age[index] += steps

    def state_dict(self) -> dict[str, Any]:
        """States, ages and the state of the random draws; without the graphs."""
        return {
            "states": [z.clone() for z in self.states],
            "age": self.age.clone(),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken.

        Raises:
            ValueError: If it is of another pool.
        """
        found, mine = ([list(z.shape) for z in s] for s in (state["states"], self.states))
        if found != mine:
            raise ValueError(
                f"Expected {len(mine)} states of shapes such as {mine[0]} (got {len(found)}, such "
                f"as {found[0] if found else None}). Was it saved by another pool?"
            )
        for z, saved in zip(self.states, state["states"], strict=True):
            z.copy_(saved)
        self.age.copy_(state["age"])
        self._generator.set_state(state["generator"])

    def __repr__(self) -> str:
        g = len(self.graphs)
        return (
            f"{self.__class__.__name__}({self.size} slots, {g} graph{'s' if g > 1 else ''}, "
            f"{self.seeds[0].size(1)} channels, oldest state {int(self.age.max())} steps)"
        )
