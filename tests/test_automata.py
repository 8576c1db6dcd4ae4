"""Classical automata on graphs: exact against independent references, and the laws."""

from __future__ import annotations

from fractions import Fraction

import networkx as nx
import numpy as np
import pytest
import torch
import torch_geometric.transforms as T
from binary_rules import BinaryCell, ThresholdCell
from scipy.ndimage import convolve
from torch_geometric.data import Batch, Data
from torch_geometric.nn import HypergraphConv
from torch_geometric.utils import from_networkx

from gncadeq import GraphDEQ, GraphNCA
from gncadeq.analysis import classify_attractor
from gncadeq.cells import (
    RelationCell,
    TotalisticCell,
    WrappedConvCell,
)
from gncadeq.dynamics import Status
from gncadeq.testing import assert_deterministic, assert_permutation_equivariant
from gncadeq.transforms import ImageToGraph, NeighborKernels

WINDOW = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]])
GLIDER = [".#.", "..#", "###"]
GUN = [
    "........................#...........", "......................#.#...........",
    "............##......##............##", "...........#...#....##............##",
    "##........#.....#...##..............", "##........#...#.##....#.#...........",
    "..........#.....#.......#...........", "...........#...#....................",
    "............##......................",
]  # fmt: skip


def image(pattern, height, width, row=1, column=1):
    out = torch.zeros(1, height, width)
    for r, line in enumerate(pattern):
        for c, mark in enumerate(line):
            out[0, row + r, column + c] = mark == "#"
    return out


def convolved(state, birth, survive, mode):
    count = convolve(state, WINDOW, mode=mode)
    return np.where(state == 1, np.isin(count, survive), np.isin(count, birth)).astype(np.int64)


def as_dict(edge_index, num_nodes):
    neighbors = {i: [] for i in range(num_nodes)}
    for j, i in edge_index.t().tolist():
        if i != j:
            neighbors[i].append(j)
    return neighbors


def run(cell, data, z0, steps=1, **options):
    x = z0.new_zeros(data.num_nodes, 0)
    return GraphNCA(cell, steps)(x, data.edge_index, z0=z0, **options)


def delaunay(num_nodes, seed=0):
    pos = torch.rand(num_nodes, 2, generator=torch.Generator().manual_seed(seed))
    return T.FaceToEdge()(T.Delaunay()(Data(pos=pos)))


# The Game of Life against a convolution


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("rule", ["B3/S23", "B36/S23", "B1357/S02468", "B/S", "B0/S8"])
def test_soups_on_grid_and_torus(periodic, rule):
    """Bit for bit, for 1000 steps, on a grid with a dead border and on a torus."""
    soup = (torch.rand(1, 17, 23) < 0.4).float()
    data = ImageToGraph(periodic=periodic)(soup)
    _, states = run(TotalisticCell.from_rulestring(rule), data, data.x, 1000,
                    return_trajectory=True)  # fmt: skip
    birth, survive = ([int(k) for k in part[1:]] for part in rule.split("/"))
    expected = soup[0].long().numpy()
    for state in states:
        assert np.array_equal(state.view(17, 23).numpy(), expected)
        expected = convolved(expected, birth, survive, "wrap" if periodic else "constant")


def test_a_glider_comes_round_the_torus():
    """One down and one right in four steps, so round a 9 × 9 torus in 36."""
    data = ImageToGraph(periodic=True)(image(GLIDER, 9, 9))
    start = data.x.view(9, 9)
    assert torch.equal(
        run(TotalisticCell(), data, data.x, 4).view(9, 9), start.roll((1, 1), (0, 1))
    )
    assert torch.equal(run(TotalisticCell(), data, data.x, 36), data.x)


def test_gosper_gun_fires_every_thirty_steps():
    data = ImageToGraph()(image(GUN, 80, 100))
    _, states = run(TotalisticCell(), data, data.x, 120, return_trajectory=True)
    assert states[::30].sum((1, 2)).tolist() == [36, 41, 46, 51, 56]  # a glider has five cells
    expected = data.x.view(80, 100).long().numpy()
    for state in states:
        assert np.array_equal(state.view(80, 100).numpy(), expected)
        expected = convolved(expected, [3], [2, 3], "constant")


# Any graph against dictionaries


def graphs():
    torch.manual_seed(0)
    yield delaunay(60)
    yield from_networkx(nx.karate_club_graph())
    yield from_networkx(nx.watts_strogatz_graph(50, 6, 0.2, seed=0))
    yield from_networkx(nx.gn_graph(40, seed=0))  # directed
    edge_index = torch.randint(0, 29, (2, 120))  # loops, edges that occur twice, a lonely node
    yield Data(edge_index=edge_index, num_nodes=30)


@pytest.mark.parametrize(
    "data", list(graphs()), ids=["delaunay", "karate", "small world", "tree", "multi"]
)
def test_any_graph(data):
    """Bit for bit, for 1000 steps, against dictionaries of lists and exact fractions."""
    n, neighbors = data.num_nodes, as_dict(data.edge_index, data.num_nodes)
    kappa = Fraction(42, 100)

    def life(s, k, d):
        return k in (2, 3) if s else k == 3

    def flip(s, k, d):
        return s ^ (d > 0 and Fraction(k, d) > kappa)

    def majority(s, k, d):
        return d > 0 and 2 * k > d

    cells = {
        life: TotalisticCell(), flip: ThresholdCell(0.42), majority: ThresholdCell(0.5, "set")
    }  # fmt: skip
    for rule, cell in cells.items():
        z0 = (torch.rand(n, 1) < 0.5).double()
        _, states = run(cell, data, z0, 1000, return_trajectory=True)
        expected = [bool(s) for s in z0]
        for state in states:
            assert state.flatten().tolist() == expected
            expected = [
                bool(rule(expected[i], sum(expected[j] for j in neighbors[i]), len(neighbors[i])))
                for i in range(n)
            ]


def test_the_threshold_is_the_decimal_number():
    """21 of 50 is not above 0.42, though the nearest float32, and float64 sums, may say so."""
    hub = Data(edge_index=torch.stack([torch.arange(1, 51), torch.zeros(50).long()]), num_nodes=51)
    z0 = torch.zeros(51, 3)
    for channel, alive in enumerate((20, 21, 22)):
        z0[1 : alive + 1, channel] = 1
    assert run(ThresholdCell(0.42, channels=3), hub, z0)[0].tolist() == [0, 0, 1]
    assert run(ThresholdCell(Fraction(2, 5), channels=3), hub, z0)[0].tolist() == [0, 1, 1]


def test_counts_beyond_the_precision_of_half():
    """2049 isn't a number of float16, nor 257 one of bfloat16; counts are exact all the same."""
    n = 2051
    data = Data(edge_index=torch.stack([torch.arange(1, n), torch.zeros(n - 1).long()]))
    cell = TotalisticCell(birth={2049}, survive=())
    for dtype in (torch.half, torch.bfloat16):
        z0 = torch.ones(n, 1, dtype=dtype)
        z0[0] = 0
        for living in (2048, 2049, 2050):
            z0[1:, 0] = (torch.arange(n - 1) < living).to(dtype)
            z = cell(z0, torch.zeros(n, 0), data.edge_index)
            assert float(z[0]) == (living == 2049)
            assert z.dtype == dtype


# As a message-passing network


@pytest.mark.parametrize(
    "rule", ["B3/S23", "B36/S23", "B1357/S02468", "B/S", "B0/S8", "B/S012345678"]
)
def test_as_a_network(rule):
    """The network has the same states, without rounding, for 1000 steps."""
    cell = TotalisticCell.from_rulestring(rule)
    data = NeighborKernels(("sum",))(
        ImageToGraph(periodic=True)((torch.rand(1, 12, 15) < 0.4).float())
    )
    with torch.no_grad():
        network = GraphNCA(cell.to_growing(), 1000)
        z = network(data.x[:, :0], data.edge_index, data.edge_attr, z0=data.x)
    assert torch.equal(z, run(cell, data, data.x, 1000))


def test_as_a_network_on_any_graph():
    data = NeighborKernels(("sum",))(delaunay(200))
    degree = int(torch.bincount(data.edge_index[1]).max())
    cell, z0 = TotalisticCell({2, degree}, {1, 4}), (torch.rand(200, 1) < 0.5).float()
    with torch.no_grad():
        network = GraphNCA(cell.to_growing(degree), 100)
        z = network(torch.zeros(200, 0), data.edge_index, data.edge_attr, z0=z0)
    assert torch.equal(z, run(cell, data, z0, 100))
    small = GraphNCA(cell.to_growing(degree - 1), 1)
    with pytest.raises(
        ValueError, match=rf"at most {degree - 1} neighbours \(got one with {degree}"
    ):
        small(torch.zeros(200, 0), data.edge_index, data.edge_attr, z0=z0)


def test_binary_cell_rounds_what_it_wraps():
    inner = TotalisticCell().to_growing()
    with torch.no_grad():
        inner.weight_out.mul_(1.05)  # a rule that is right to five per cent of every change
    data = NeighborKernels(("sum",))(ImageToGraph()((torch.rand(1, 20, 20) < 0.4).float()))
    args = data.x[:, :0], data.edge_index, data.edge_attr
    expected = run(TotalisticCell(), data, data.x, 200)
    with torch.no_grad():
        assert torch.equal(GraphNCA(BinaryCell(inner), 200)(*args, z0=data.x), expected)
        assert not torch.equal(
            GraphNCA(inner, 20)(*args, z0=data.x), run(TotalisticCell(), data, data.x, 20)
        )
    assert BinaryCell(inner).cell is inner


# The laws


CELLS = {"life": lambda: TotalisticCell(channels=2), "flip": lambda: ThresholdCell(channels=2),
         "majority": lambda: ThresholdCell(0.5, "set", channels=2)}  # fmt: skip


@pytest.mark.parametrize("name", CELLS)
def test_laws(name):
    cell = CELLS[name]()
    parts = [delaunay(n, seed=n) for n in (20, 50, 35)]
    for data in parts:
        data.x = torch.zeros(data.num_nodes, 0, dtype=torch.double)
        data.z = (torch.rand(data.num_nodes, 2) < 0.5).double()
    assert_permutation_equivariant(cell, parts[0])
    # Batch law, alone and together, and the step cut down to some graphs
    batch = Batch.from_data_list(parts)
    together = run(cell, batch, batch.z, 50, batch=batch.batch)
    alone = torch.cat([run(cell, data, data.z, 50) for data in parts])
    assert torch.equal(together, alone)
    nodes = (batch.batch != 1).nonzero().flatten()
    step = cell.prepare(batch.x, batch.edge_index)
    assert torch.equal(step.restrict(nodes)(batch.z[nodes]), step(batch.z)[nodes])
    # Determinism law, and asynchronous runs: only what fires may move
    assert_deterministic(GraphDEQ(cell, "picard", max_steps=20, on_failure="ignore"), batch)
    runs = [
        GraphNCA(cell, 9, fire_rate=0.5)(
            batch.x, batch.edge_index, z0=batch.z, generator=torch.Generator().manual_seed(3)
        )
        for _ in range(2)
    ]
    assert torch.equal(*runs)


@pytest.mark.parametrize("name", CELLS)
def test_locality_law(name):
    """One node changed: after t steps nothing beyond t hops has moved, and something within has."""
    cell, data = CELLS[name](), delaunay(300)
    z0 = (torch.rand(300, 2) < 0.5).float()
    changed = z0.clone()
    changed[0] = 1 - changed[0]
    reached = torch.zeros(300, dtype=torch.bool)
    reached[0] = True
    moved_at_all = False
    for t in range(1, 5):
        reached[data.edge_index[1, reached[data.edge_index[0]]]] = True
        moved = (run(cell, data, z0, t) != run(cell, data, changed, t)).any(1)
        assert not bool((moved & ~reached).any())
        moved_at_all |= bool(moved.any())
    assert moved_at_all
    assert not bool(reached.all())


def test_one_rule_law():
    """A still life is an equilibrium, whichever nodes fire."""
    data = ImageToGraph()(image(["##", "##"], 6, 6, 2, 2))
    x, deq = data.x[:, :0], GraphDEQ(TotalisticCell(), "picard")
    z, solution = deq(x, data.edge_index, z0=data.x, return_solution=True)
    assert torch.equal(z, data.x)
    assert bool(solution.converged.all())
    assert float(solution.residual) == 0.0
    assert torch.equal(deq.as_nca(fire_rate=0.5)(x, data.edge_index, z0=z, steps=20), data.x)


# What they settle into


def test_ash():
    """Block, blinker and pulsar, nothing, and a glider that comes round an 8 × 8 torus."""
    arm = "..###...###.."
    side = "#....#.#....#"
    pulsar = [arm, "." * 13, side, side, side, arm, "." * 13, arm, side, side, side, "." * 13, arm]
    patterns = [["##", "##"], ["###"], pulsar, []]
    to_graph = ImageToGraph(periodic=True)
    parts = [to_graph(image(p, 19, 19, 3, 3)) for p in patterns]
    parts.append(to_graph(image(GLIDER, 8, 8)))
    batch = Batch.from_data_list(parts)
    step = TotalisticCell().prepare(batch.x[:, :0], batch.edge_index)
    census = classify_attractor(
        step, batch.x, batch.batch, transient=10, max_period=40, lyapunov_steps=4
    )
    assert census.names() == ["fixed point", "period 2", "period 3", "fixed point", "period 32"]
    assert census.recurrence[:3].tolist() == [0, 0, 0]


def test_majority_settles_into_periods_of_at_most_two():
    """Goles and Olivos (1980): so do all symmetric threshold networks."""
    parts = [delaunay(n, seed=n) for n in range(30, 50)]
    batch = Batch.from_data_list(parts)
    z0 = (torch.rand(batch.num_nodes, 1) < 0.5).float()
    step = ThresholdCell(0.5, "set").prepare(z0[:, :0], batch.edge_index)
    census = classify_attractor(
        step, z0, batch.batch, transient=60, max_period=12, lyapunov_steps=2
    )
    assert set(census.names()) <= {"fixed point", "period 2"}
    assert set(census.period.tolist()) <= {1, 2}


# What is refused


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"'birth' to be a whole number .* \(got -1\)"):
        TotalisticCell(birth=[-1])
    with pytest.raises(TypeError, match=r"'survive' to be a whole number .* \(got 2.5\)"):
        TotalisticCell(survive=[2.5])
    with pytest.raises(ValueError, match=r"rulestring such as 'B3/S23' \(got '23/3'\)"):
        TotalisticCell.from_rulestring("23/3")
    with pytest.raises(ValueError, match=r"'channels' to be .* \(got 0\)"):
        ThresholdCell(channels=0)
    with pytest.raises(ValueError, match=r"'threshold' to be .* \(got 1.5\)"):
        ThresholdCell(1.5)
    with pytest.raises(ValueError, match="'flip' or 'set'"):
        ThresholdCell(update="swap")
    with pytest.raises(ValueError, match="channels=1"):
        TotalisticCell(channels=2).to_growing()
    with pytest.raises(ValueError, match=r"in \[0, 2\)"):
        run(
            TotalisticCell(),
            Data(edge_index=torch.tensor([[0], [2]]), num_nodes=2),
            torch.ones(2, 1),
        )
    with pytest.raises(ValueError, match=r"\[num_nodes, in_channels\] = \[\*, 0\]"):
        TotalisticCell()(torch.ones(2, 1), torch.ones(2, 1), torch.tensor([[0], [1]]))
    with pytest.raises(ValueError, match="Did you mean 'mean'"):
        NeighborKernels(("means",))
    with pytest.raises(ValueError, match="sequence of kernels"):
        NeighborKernels("sum")
    with pytest.raises(ValueError, match="'edge_index'"):
        NeighborKernels()(Data(pos=torch.rand(3, 2)))


def test_empty_graphs():
    none = torch.zeros(2, 0, dtype=torch.long)
    for cell in (TotalisticCell(birth={0}, survive=()), ThresholdCell()):
        assert cell(torch.zeros(0, 1), torch.zeros(0, 0), none).shape == (0, 1)
    z = torch.tensor([[0.0], [1.0]])
    assert TotalisticCell({0}, ())(z, z[:, :0], none).flatten().tolist() == [1, 0]
    assert torch.equal(ThresholdCell(0.0)(z, z[:, :0], none), z)


def test_neighbor_kernels_drop_loops_and_average():
    data = NeighborKernels()(
        Data(edge_index=torch.tensor([[0, 1, 2, 2], [1, 1, 1, 0]]), num_nodes=4)
    )
    assert data.edge_index.tolist() == [[0, 2, 2], [1, 1, 0]]
    assert data.edge_attr.tolist() == [[1, 0.5], [1, 0.5], [1, 1]]


@pytest.mark.parametrize(
    "cell",
    [
        TotalisticCell(), ThresholdCell(), ThresholdCell(0.5, "set"),
        BinaryCell(TotalisticCell().to_growing()),
    ],
    ids=lambda cell: type(cell).__name__,
)  # fmt: skip
def test_nan_is_not_a_dead_node(cell):
    edge_index, batch = torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]]), torch.tensor([0, 0, 1, 1])
    z0 = torch.tensor([[float("nan")], [1.0], [1.0], [0.0]])
    nca, ones = GraphNCA(cell, steps=3), torch.ones(4, 1)
    with pytest.warns(Warning, match="Expected finite states after 3 steps"):
        z, solution = nca(z0[:, :0], edge_index, ones, batch, z0=z0, return_solution=True)
    assert z[0].isnan()
    assert solution.status.tolist()[0] == int(Status.NON_FINITE)
    alone = nca(z0[2:, :0], edge_index[:, :2], ones[:2], z0=z0[2:])
    assert torch.equal(z[2:], alone)


def test_binary_cell_sees_graphs_as_its_cell_does():
    typed = RelationCell({"a": 2, "b": 1}, 4, [("a", "to", "b"), ("b", "of", "a")])
    x = {"a": torch.rand(3, 2), "b": torch.rand(2, 1)}
    edges = torch.tensor([[0, 1], [1, 0]])
    graph = {("a", "to", "b"): edges, ("b", "of", "a"): edges}
    z = GraphNCA(BinaryCell(typed), steps=1)(x, graph)
    image = GraphNCA(typed, steps=1)(x, graph)
    for name in x:
        assert torch.equal(z[name], (image[name] > 0.5).float())
    hyper = WrappedConvCell(HypergraphConv(4, 4), in_channels=2)
    assert BinaryCell(hyper).hypergraph


def test_neighbor_kernels_take_all_that_edges_carry_along():
    edge_index = torch.tensor([[0, 1, 1], [1, 1, 0]])
    data = Data(edge_index=edge_index, edge_weight=torch.tensor([5.0, 6.0, 7.0]), num_nodes=2)
    assert NeighborKernels()(data).edge_weight.tolist() == [5.0, 7.0]
    assert data.num_edges == 3  # the original is left alone
