"""How a node's state depends on every other node: how far information travels."""

from __future__ import annotations

from collections.abc import Callable

import scipy  # its parts load when they are used
import torch
from torch import Tensor
from torch_geometric.utils import to_scipy_sparse_matrix

from gncadeq.analysis.jacobian import Jacobian, check_state
from gncadeq.check import check_count, check_number, check_value
from gncadeq.dynamics import Partition, solve
from gncadeq.graph.neighborhood import check_edge_index, check_range
from gncadeq.typing import Step


def sensitivity(
    step: Step,
    z: Tensor,
    node: int,
    *,
    steps: int | None = None,
    tol: float = 1e-6,
    max_steps: int = 1000,
) -> Tensor:
    r"""The sensitivity of a node's state to that of every node of its graph.

    At an equilibrium :math:`\mathbf{z}^\star`, how far :math:`\mathbf{z}_i^\star` moves if a small
    :math:`\mathbf{e}_j` is added to the update of node :math:`j` in every step (implicit function
    theorem); with ``steps``, how far :math:`\mathbf{z}_i^t` moves if the start of node :math:`j`
    does:

    .. math::
        s_j = \Big\lVert \big[ (\mathbf{I} - \mathbf{J})^{-1} \big]_{ij} \Big\rVert_F
        \qquad \text{or} \qquad
        s_j = \Big\lVert \frac{\partial \mathbf{z}_i^t}{\partial \mathbf{z}_j^0} \Big\rVert_F

    Args:
        step: Any map of states ``[num_nodes, channels]``.
        z: The equilibrium, or the start of ``steps`` steps.
        node: The node :math:`i`; negative numbers count from the end.
        steps: Number of steps :math:`t`; ``None`` for the equilibrium.
        tol: Relative residual of the equilibrium's linear systems, one a channel; sensitivities
            this much smaller than the largest are not to be relied on.
        max_steps: Their step limit.

    Returns:
        ``[num_nodes]``; zero beyond :math:`t` hops of the node.

    Raises:
        ConvergenceError: If a linear system doesn't converge, as where a step's Jacobian has the
            eigenvalue one.
        ValueError: If there is no such node, or the state or step isn't what the analysis needs.

    Example:
        >>> f = lambda z: 0.5 * z.roll(1, dims=0)  # node i listens to node i - 1
        >>> sensitivity(f, torch.zeros(4, 1), node=3, steps=2)
        tensor([0.0000, 0.2500, 0.0000, 0.0000])
        >>> sensitivity(f, torch.zeros(4, 1), node=3)
        tensor([0.1333, 0.2667, 0.5333, 1.0667])
    """
    check_state(z)
    node = check_count("node", node, -z.size(0), z.size(0) - 1)
    tol = check_number("tol", tol, above=0.0)
    max_steps = check_count("max_steps", max_steps, 1)
    steps = check_value("steps", steps, int | None)
    z = z.detach()
    pull = _response(step, z, tol, max_steps) if steps is None else _through(step, z, steps)
    total = z.new_zeros(z.size(0))
    for channel in range(z.size(1)):
        unit = torch.zeros_like(z)
        unit[node, channel] = 1.0
        total += pull(unit).square().sum(1)
    return total.sqrt()


def _response(step: Step, z: Tensor, tol: float, max_steps: int) -> Callable[[Tensor], Tensor]:
    jacobian = Jacobian(step, z)
    jacobian.check_differentiable()
    partition = Partition(None, z.size(0), like=z)

    def pull(unit: Tensor) -> Tensor:
        # u = (I - Jᵀ)⁻¹ e
        solution = solve(
            lambda u: unit + jacobian.vjp(u), unit, partition, tol=tol, max_steps=max_steps
        )
        solution.report("raise")
        return solution.state

    return pull


def _through(step: Step, z: Tensor, steps: int) -> Callable[[Tensor], Tensor]:
    with torch.enable_grad():
        start = end = z.clone().requires_grad_()
        for _ in range(steps):
            end = step(end)

    def pull(unit: Tensor) -> Tensor:
        if not end.requires_grad:
            return torch.zeros_like(z)
        (out,) = torch.autograd.grad(end, start, unit, retain_graph=True, allow_unused=True)
        return torch.zeros_like(z) if out is None else out

    return pull


def hop_distance(edge_index: Tensor, node: int, num_nodes: int) -> Tensor:
    """The least number of edges from every node to ``node``; -1 where there is no way.

    Args:
        edge_index: ``[2, num_edges]``, sources first.
        node: The target.
        num_nodes: Number of nodes.

    Example:
        >>> hop_distance(torch.tensor([[0, 1], [1, 2]]), node=2, num_nodes=4)
        tensor([ 2,  1,  0, -1])
    """
    num_nodes = check_count("num_nodes", num_nodes, 1)
    check_edge_index(edge_index)
    check_range("edge_index", edge_index, num_nodes, "num_nodes")
    node = check_count("node", node, 0, num_nodes - 1)
    graph = to_scipy_sparse_matrix(edge_index.flip(0), num_nodes=num_nodes)
    hops = scipy.sparse.csgraph.shortest_path(graph, unweighted=True, indices=node)
    return torch.from_numpy(hops).nan_to_num(posinf=-1).long().to(edge_index.device)


def influence_by_hop(value: Tensor, hops: Tensor) -> Tensor:
    """The mean sensitivity of the nodes at every distance ``[largest distance + 1]``.

    Args:
        value: ``[num_nodes]``, from :func:`sensitivity`.
        hops: ``[num_nodes]``, from :func:`hop_distance`; unreachable nodes don't count.

    Example:
        >>> influence_by_hop(torch.tensor([2.0, 1.0, 3.0, 9.0]), torch.tensor([0, 1, 1, -1]))
        tensor([2., 2.])
    """
    there = hops >= 0
    hop, order = hops[there].sort(stable=True)
    return Partition(hop, hop.numel()).mean(value[there][order])
