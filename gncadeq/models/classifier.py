"""What classifiers have in common: encode, run the dynamics, read out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from gncadeq.dynamics import GraphDEQ, GraphNCA, Partition, Solution
from gncadeq.typing import Adj, OptTensor


class Classifier(nn.Module, ABC):
    r"""An encoder, dynamics and a readout.

    .. math::
        \mathbf{u} = \mathrm{encode}(\mathbf{x}; \mathcal{G}), \qquad
        \mathbf{z}^\star = f(\mathbf{z}^\star, \mathbf{u}; \mathcal{G}), \qquad
        \mathbf{y} = \mathrm{readout}(\mathbf{u}, \mathbf{z}^\star)

    Attributes:
        dynamics: The :class:`gncadeq.GraphDEQ`, or an automaton put in its place:
            ``model.dynamics = model.dynamics.as_nca(steps=500, fire_rate=0.5)``.
    """

    dynamics: GraphDEQ | GraphNCA

    @abstractmethod
    def inject(
        self, x: Tensor, edge_index: Adj, edge_attr: OptTensor
    ) -> tuple[Tensor, Adj, OptTensor]:
        """Check the input; return the injection, and the edges as the cell takes them."""

    @abstractmethod
    def read(self, u: Tensor, z: Tensor, edges: Adj, partition: Partition) -> Tensor:
        """Return the logits of the injection and the state that the dynamics ended in.

        ``edges`` are those that :meth:`inject` returned.
        """

    @overload
    def forward(
        self, x: Tensor, edge_index: Adj, edge_attr: OptTensor = ..., batch: OptTensor = ...,
        *, z0: OptTensor = ..., batch_size: int | None = ...,
        generator: torch.Generator | None = ..., return_solution: Literal[False] = ...,
        **context: OptTensor,
    ) -> Tensor: ...  # fmt: skip

    @overload
    def forward(
        self, x: Tensor, edge_index: Adj, edge_attr: OptTensor = ..., batch: OptTensor = ...,
        *, z0: OptTensor = ..., batch_size: int | None = ...,
        generator: torch.Generator | None = ..., return_solution: Literal[True],
        **context: OptTensor,
    ) -> tuple[Tensor, Solution]: ...  # fmt: skip

    def forward(
        self,
        x: Tensor,
        edge_index: Adj,
        edge_attr: OptTensor = None,
        batch: OptTensor = None,
        *,
        z0: OptTensor = None,
        batch_size: int | None = None,
        generator: torch.Generator | None = None,
        return_solution: bool = False,
        **context: OptTensor,
    ) -> Tensor | tuple[Tensor, Solution]:
        """Classify what the model is for: every node, or every graph.

        Args:
            x: Node features ``[num_nodes, in_channels]``.
            edge_index: Edge indices.
            edge_attr: What the cell wants to know of every edge.
            batch: Ascending graph index of every node; ``None`` for a single graph.
            z0: The start of the dynamics.
            batch_size: Number of graphs, which spares a device synchronisation.
            generator: The source of randomness of the dynamics.
            return_solution: Also return the :class:`gncadeq.Solution`.
            context: What else the cell takes by name, see :attr:`gncadeq.Cell.context`; and the
                ``halo`` of the dynamics, for a classifier of nodes.

        Raises:
            ValueError: On shapes that don't fit; and, if the card of loaded weights states what
                their training images were like, on graphs of another kind, see
                :func:`gncadeq.models.inputs.check_kind`.
        """
        u, edges, edge_attr = self.inject(x, edge_index, edge_attr)
        partition = Partition(batch, x.size(0), batch_size, like=x)
        z, solution = self.dynamics(
            u, edges, edge_attr, None if batch is None else partition, z0=z0,
            batch_size=batch_size, generator=generator, return_solution=True, **context,
        )  # fmt: skip
        logits = self.read(u, z, edges, partition)
        return (logits, solution) if return_solution else logits

    def settle(
        self,
        x: Tensor,
        edge_index: Adj,
        edge_attr: OptTensor = None,
        batch: OptTensor = None,
        *,
        batch_size: int | None = None,
        **options: Any,
    ) -> tuple[Tensor, Partition, Solution]:
        """Run the dynamics without the readout; arguments as for a call.

        Returns:
            The state ``[num_nodes, channels]``, with its gradient, the nodes of each graph, and
            the solution.
        """
        partition = Partition(batch, x.size(0), batch_size, like=x)
        u, edge_index, edge_attr = self.inject(x, edge_index, edge_attr)
        z, solution = self.dynamics(
            u, edge_index, edge_attr, None if batch is None else partition,
            batch_size=partition.num_graphs, return_solution=True, **options,
        )  # fmt: skip
        return z, partition, solution
