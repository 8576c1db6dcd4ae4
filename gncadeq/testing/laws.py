"""The laws of cells and dynamics."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from gncadeq.cells import Cell
from gncadeq.dynamics import GraphDEQ, GraphNCA, Status
from gncadeq.graph.rows import declared_rows, rows_of
from gncadeq.testing.graphs import batch_of, context_of, graph_of, graphs_of, solve_on


def assert_permutation_equivariant(cell: Cell, data: Data, atol: float = 1e-10) -> None:
    r"""Renumbering nodes renumbers the result; the order of edges doesn't matter.

    .. math::
        f(\mathbf{P} \mathbf{z}, \mathbf{P} \mathbf{x}; \mathbf{P} \mathcal{G}) =
        \mathbf{P} f(\mathbf{z}, \mathbf{x}; \mathcal{G})

    Args:
        cell: The cell.
        data: A graph with ``x`` and what the cell reads of edges.
        atol: Largest difference.

    Raises:
        AssertionError: If a permutation drawn at random changes the result.

    Example:
        >>> from gncadeq import ConvCell
        >>> from gncadeq.transforms import ImageToGraph
        >>> data = ImageToGraph()(torch.rand(1, 3, 3, dtype=torch.double))
        >>> assert_permutation_equivariant(ConvCell(1, 2).double(), data)
    """
    n = int(data.num_nodes)
    z = torch.randn(n, cell.channels, dtype=data.x.dtype)
    context = context_of(cell, data)
    expected = cell(z, *graph_of(data), **context)
    order = torch.randperm(n)
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(n)
    edges = torch.randperm(data.edge_index.size(1))
    edge_attr = None if data.edge_attr is None else data.edge_attr[edges]
    rows = rows_of(context, declared_rows(cell.context), n, data.edge_index, None)
    order_of = {"node": order, "edge": edges}
    context = {k: v[order_of[rows[k]]] if rows[k] in order_of else v for k, v in context.items()}
    edge_index = inverse[data.edge_index][:, edges]
    out = cell(z[order], data.x[order], edge_index, edge_attr, **context)
    torch.testing.assert_close(out, expected[order], atol=atol, rtol=0)


def assert_local(cell: Cell, data: Data, steps: int = 3) -> None:
    r"""After t steps a node depends on its t-hop neighbourhood alone.

    Args:
        cell: The cell.
        data: A graph, of which node 0's injection is changed.
        steps: Number of steps t.

    Raises:
        AssertionError: If the change moves a node that edges don't reach, or not node 0.

    Example:
        >>> from gncadeq import ConvCell
        >>> from gncadeq.transforms import ImageToGraph
        >>> data = ImageToGraph()(torch.rand(1, 9, 9, dtype=torch.double))
        >>> assert_local(ConvCell(1, 2).double(), data)
    """
    nca = GraphNCA(cell, steps)
    with torch.no_grad():
        before = nca(*graph_of(data), **context_of(cell, data))
        changed = data.x.clone()
        changed[0] += 1.0
        after = nca(changed, *graph_of(data)[1:], **context_of(cell, data))
    reached = torch.zeros(data.num_nodes, dtype=torch.bool)
    reached[0] = True
    for _ in range(steps):
        reached[data.edge_index[1, reached[data.edge_index[0]]]] = True
    moved = (before != after).any(dim=1)
    beyond = (moved & ~reached).nonzero().flatten().tolist()
    assert not beyond, f"Nodes {beyond} moved, which {steps} steps from node 0 don't reach"
    assert bool(moved[0]), "Node 0 did not move when its injection changed"


def assert_bounded_perception(data: Data, largest: float = 6.0, atol: float = 1e-4) -> None:
    r"""Kernel weights are finite, blind to constants, and no larger than on an even mesh.

    .. math::
        \sum_{e = (j \to i)} w_{ek} = 0, \qquad \sum_{e = (j \to i)} |w_{ek}| \le c

    for every node and kernel, loops included: what a node perceives is at most :math:`c` times the
    largest state around it. Laplacians have :math:`c = 2`; gradients of
    :class:`gncadeq.transforms.MeshToGraph` 6, and of :class:`gncadeq.transforms.PointsToGraph` 6 in
    the plane and 9 in space.

    Args:
        data: A graph whose ``edge_attr`` ``[num_edges, num_kernels]`` are kernel weights.
        largest: The bound :math:`c`.
        atol: Largest rounding error of the sums.

    Raises:
        AssertionError: If a weight is not finite, or a node's row breaks a law.

    Example:
        >>> from gncadeq.datasets import primitives
        >>> from gncadeq.transforms import MeshToGraph
        >>> assert_bounded_perception(MeshToGraph("tangent")(primitives.torus(9, 5)))
    """
    weight, target = data.edge_attr.double(), data.edge_index[1]
    bad = (~weight.isfinite()).any(1).nonzero().flatten()
    assert not bad.numel(), f"Edge {int(bad[0])} has the weights {weight[bad[0]].tolist()}"
    zero = weight.new_zeros(int(data.num_nodes), weight.size(1))
    for what, rows, most in (
        ("add up to", zero.index_add(0, target, weight), 0.0),
        ("have the norm", zero.index_add(0, target, weight.abs()), largest),
    ):
        node = int(rows.abs().amax(1).argmax()) if rows.numel() else 0
        found = rows[node].tolist() if rows.numel() else []
        assert all(abs(value) <= most + atol for value in found), (
            f"The weights of node {node} {what} {found}, beyond {most:g}"
        )


def assert_batch_independent(
    deq: GraphDEQ,
    batch: Batch,
    atol: float = 1e-9,
    step_slack: int = 0,
    expansive: Sequence[bool] | None = None,
) -> None:
    """A graph in a batch gets the state, the steps, the status and the gradient that it gets alone.

    The law holds whatever the other graphs of the batch do: some may diverge or return NaN.

    Args:
        deq: The dynamics; give it ``on_failure="ignore"`` if graphs fail.
        batch: Several graphs.
        atol: Largest difference of states and of gradients to the injection.
        step_slack: Largest difference of the number of steps, where rounding may decide. If
            positive, graphs that fail need not fail alike: they may be chaotic.
        expansive: For every graph, whether its map is expansive: then its result, which rounding
            decides, isn't compared.

    Raises:
        AssertionError: If a graph's result depends on the other graphs of its batch.

    Example:
        >>> from gncadeq import ConvCell
        >>> from gncadeq.transforms import ImageToGraph
        >>> to_graph = ImageToGraph()
        >>> shapes = ((3, 4), (6, 5))
        >>> graphs = [to_graph(torch.rand(1, *s, dtype=torch.double)) for s in shapes]
        >>> deq = GraphDEQ(ConvCell(1, 2, contraction=0.5).double(), tol=1e-10)
        >>> assert_batch_independent(deq, Batch.from_data_list(graphs))
    """

    def run(data: Data) -> tuple[Tensor, Tensor, list[int], list[int]]:
        data = data.clone()
        data.x = data.x.clone().requires_grad_()
        z, solution = solve_on(deq, data, return_solution=True)
        grad = torch.zeros_like(data.x)
        if z.requires_grad:
            finite = z.pow(3)[data.x.isfinite().all(1)]
            (found,) = torch.autograd.grad(finite.sum(), data.x, allow_unused=True)
            grad = grad if found is None else found
        return z.detach(), grad, solution.num_steps.tolist(), solution.status.tolist()

    z, grad, steps, status = run(batch)
    for k, data in enumerate(graphs_of(batch, deq.cell)):
        mine = batch.batch == k
        alone = run(data)
        if step_slack and Status.CONVERGED not in (status[k], alone[3][0]):
            continue
        if expansive is not None and expansive[k]:
            continue
        assert status[k] == alone[3][0], (
            f"Graph {k} ends with {Status(status[k]).name} in the batch, and with "
            f"{Status(alone[3][0]).name} alone"
        )
        assert abs(steps[k] - alone[2][0]) <= step_slack, (
            f"Graph {k} takes {steps[k]} steps in the batch, and {alone[2][0]} alone"
        )
        torch.testing.assert_close(z[mine], alone[0], atol=atol, rtol=0)
        if status[k] == Status.CONVERGED:
            torch.testing.assert_close(grad[mine], alone[1], atol=atol, rtol=0)


def assert_one_rule(deq: GraphDEQ, data: Data, steps: int = 400, atol: float = 1e-7) -> None:
    """The equilibrium is at rest under the automaton, and every rollout reaches it.

    Args:
        deq: The dynamics of a contractive cell.
        data: A graph, or a batch.
        steps: Steps of the rollouts, synchronous and asynchronous, from Gaussian noise.
        atol: Largest difference of states.

    Raises:
        AssertionError: If the automaton leaves the equilibrium or doesn't find it.

    Example:
        >>> from gncadeq import ConvCell
        >>> from gncadeq.transforms import ImageToGraph
        >>> data = ImageToGraph()(torch.rand(1, 3, 3, dtype=torch.double))
        >>> assert_one_rule(GraphDEQ(ConvCell(1, 2, contraction=0.5).double(), tol=1e-10), data)
    """
    with torch.no_grad():
        z, context = solve_on(deq, data), context_of(deq.cell, data)
        for fire_rate in (1.0, 0.5):
            rest = deq.as_nca(fire_rate=fire_rate, steps=5)
            assert rest.cell is deq.cell, "The automaton has a copy of the cell"
            torch.testing.assert_close(rest(*graph_of(data), z0=z, **context), z, atol=atol, rtol=0)
            nca = GraphNCA(deq.cell, steps, fire_rate=fire_rate, start="normal")
            torch.testing.assert_close(nca(*graph_of(data), **context), z, atol=atol, rtol=0)


def assert_honest_residual(deq: GraphDEQ, batch: Data, atol: float = 1e-12) -> None:
    r"""The reported residual is that of the returned state, by one more step.

    .. math::
        \lVert f(\mathbf{z}) - \mathbf{z} \rVert / \lVert f(\mathbf{z}) \rVert

    Args:
        deq: The dynamics.
        batch: Graphs on which the cell is finite.
        atol: Largest difference.

    Raises:
        AssertionError: If the solution reports another residual, or a status that contradicts it.

    Example:
        >>> from gncadeq import ConvCell
        >>> from gncadeq.transforms import ImageToGraph
        >>> data = ImageToGraph()(torch.rand(1, 3, 3, dtype=torch.double))
        >>> assert_honest_residual(GraphDEQ(ConvCell(1, 2, contraction=0.5).double()), data)
    """
    with torch.no_grad():
        z, solution = solve_on(deq, batch, return_solution=True)
        context, of_node = context_of(deq.cell, batch), batch_of(batch)[0]
        if of_node is not None and "batch" in deq.cell.context:
            context["batch"] = of_node
        fz = deq.cell(z, *graph_of(batch), **context)
    for k in range(solution.num_graphs):
        mine = slice(None) if of_node is None else of_node == k
        diff = (fz[mine] - z[mine]).norm()
        expected = 0.0 if float(diff) == 0 else float(diff / fz[mine].norm())
        reported = float(solution.residual[k])
        assert abs(expected - reported) <= atol, (
            f"Graph {k} reports the residual {reported:.3e}; its state has {expected:.3e}"
        )
        assert bool(solution.converged[k]) == (reported <= deq.tol)


def assert_deterministic(deq: GraphDEQ, data: Data, seed: int = 0) -> None:
    """Equal seeds give equal results, and a solve leaves torch's random state alone.

    Args:
        deq: The dynamics; a cell that draws (dropout) draws from the generator it is given.
        data: A graph, or a batch.
        seed: The seed.

    Raises:
        AssertionError: If two solves differ, or torch's global random state moved.

    Example:
        >>> from gncadeq import ConvCell
        >>> from gncadeq.transforms import ImageToGraph
        >>> data = ImageToGraph()(torch.rand(1, 3, 3))
        >>> assert_deterministic(GraphDEQ(ConvCell(1, 2, contraction=0.5), start="normal"), data)
    """
    state = torch.get_rng_state()
    first, second = (
        solve_on(deq, data, generator=torch.Generator().manual_seed(seed)) for _ in range(2)
    )
    assert torch.equal(first, second), "Two solves from one seed differ"
    assert torch.equal(torch.get_rng_state(), state), "A solve moved torch's random state"
