"""Known answers of masks, draws, centres and bounds: each would change with a plausible mistake."""

from __future__ import annotations

import copy
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch_geometric.nn import GCNConv

from gncadeq import (
    Cell,
    ConvCell,
    GraphDEQ,
    GraphNCA,
    GrowingCell,
    HopfieldCell,
    IGNNCell,
    MonotoneCell,
    NodeEdgeCell,
    RelationCell,
    SweepCell,
    WrappedConvCell,
)
from gncadeq.cells import StencilDrive, stencil, stencil_bound, stencil_norm
from gncadeq.cells.pyg.conv_growth import stretch
from gncadeq.dynamics import Partition, solve
from gncadeq.dynamics.frozen import Frozen
from gncadeq.transforms import ImageToGraph
from gncadeq.transforms.damage import ball

NO_EDGES = torch.zeros(2, 0, dtype=torch.long)


class Counter(Cell):
    """Adds one to every node in every step."""

    in_channels, channels = 0, 1

    def prepare(self, x, edge_index, edge_attr=None):
        return lambda z: z + 1


# Fire rate


def test_a_node_updates_with_the_fire_rate():
    """Not with one minus it: 20,000 nodes, 0.8 updates a step."""
    nca = GraphNCA(Counter(), steps=10, fire_rate=0.8)
    g = torch.Generator().manual_seed(0)
    z = nca(torch.zeros(20_000, 0), NO_EDGES, generator=g)
    assert float(z.mean()) == pytest.approx(8.0, abs=0.05)
    assert float(z.var()) == pytest.approx(10 * 0.8 * 0.2, rel=0.05)  # independent draws
    g.manual_seed(0)
    draws = torch.stack([torch.rand(20_000, 1, generator=g) for _ in range(10)])
    assert torch.equal(z, (draws < 0.8).sum(0).float())


# Life


def growing(channel: int, change: float) -> GrowingCell:
    """Adds ``change`` to one channel of every node, whatever it senses."""
    cell = GrowingCell(2, num_kernels=1, hidden_channels=1, alive_channel=0, alive_threshold=0.1)
    with torch.no_grad():
        cell.weight_z.zero_()
        cell.bias.fill_(1.0)
        cell.weight_out.zero_()
        cell.weight_out[channel] = change
    return cell


PATH = torch.tensor([[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]])


def test_a_node_lives_that_is_near_life_before_and_after_the_update():
    x, kernels = torch.zeros(4, 0), torch.ones(6, 1)
    z = torch.tensor([[1.0, 5.0], [0.0, 5.0], [0.0, 5.0], [0.0, 5.0]])
    # Alive before and after: node 0 and its neighbour.
    still = growing(1, 1.0)(z, x, PATH, kernels)
    assert still.tolist() == [[1.0, 6.0], [0.0, 6.0], [0.0, 0.0], [0.0, 0.0]]
    # Alive after the update alone: the nodes far from life before it stay dead.
    risen = growing(0, 1.0)(z, x, PATH, kernels)
    assert risen.tolist() == [[2.0, 5.0], [1.0, 5.0], [0.0, 0.0], [0.0, 0.0]]
    # Alive before the update alone: all die.
    fallen = growing(0, -1.0)(z, x, PATH, kernels)
    assert fallen.eq(0).all()


# Draws within a solve


class TwoDraws(Cell):
    """Dropout of the drive, once a solve, and of the step, the same in every evaluation."""

    in_channels = channels = 1

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def prepare(self, x, edge_index, edge_attr=None):
        drive = self.drop(torch.ones_like(x))
        return lambda z: 10 * drive + self.drop(torch.ones_like(z))


def test_dropout_of_drive_and_step_are_different_draws():
    """Each keeps half of 1,000 nodes; both keep a quarter."""
    torch.manual_seed(0)
    deq = GraphDEQ(TwoDraws(), solver="picard")
    z, solution = deq(torch.zeros(1000, 1), NO_EDGES, return_solution=True)
    assert bool(solution.converged.all())  # the step's draw stands still
    for value, share in ((0.0, 0.25), (2.0, 0.25), (20.0, 0.25), (22.0, 0.25)):
        assert float((z == value).float().mean()) == pytest.approx(share, abs=0.05)


def test_a_stream_is_repeated_and_differs_from_others():
    frozen = Frozen(7, [])
    found = []
    for stream in (0, 1, 0, 1):
        with frozen.evaluation(torch.device("cpu"), stream):
            found.append(torch.rand(3).tolist())
    assert found[0] == found[2] != found[1] == found[3]


# Injuries


def test_the_centre_of_a_ball_is_drawn_among_those_asked_for():
    """On a line of 30 nodes, of which three may be the centre."""
    pos = torch.arange(30.0)[:, None]
    among = torch.zeros(30, dtype=torch.bool)
    among[[4, 17, 23]] = True
    centres = set()
    for seed in range(40):
        hurt = ball(pos, 2 / 29, torch.Generator().manual_seed(seed), among).nonzero().flatten()
        assert len(hurt) == 5
        centres.add(int(hurt[2]))
    assert centres == {4, 17, 23}


# Bounds


@pytest.mark.parametrize("reach", [1, 2])
def test_a_stencil_bound_holds_between_the_samples(reach):
    """Taps R^(a + b) / 4 at (± reach, ± reach), with R a rotation by half a sample: the symbol's
    singular values are |cos cos|, whose largest, 1, lies between all samples."""
    angle = math.pi / 16
    rotation = torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]],
        dtype=torch.double,
    )
    side = 2 * reach + 1
    weight = torch.zeros(side, side, 2, 2, dtype=torch.double)
    for a in (-1, 1):
        for b in (-1, 1):
            power = torch.linalg.matrix_power(rotation, a + b)
            weight[reach + a * reach, reach + b * reach] = power / 4
    weight = weight.flatten(0, 1)
    assert float(stencil_norm(weight, 16 * reach)) == pytest.approx(math.cos(angle) ** 2)
    assert float(stencil_norm(weight, 32 * reach)) == pytest.approx(1.0)  # twice as many hit it
    assert float(stencil_bound(weight, 16)) == pytest.approx(1.0)


@pytest.mark.parametrize("kappa", [0.5, 0.9])
def test_the_residual_bound_is_attained(kappa):
    """z + tanh(K z + d) with K + I a shift by one pixel, all pixels saturated but one: that row is
    κ times its neighbour, whose own row is there as well, so the norm is √(1 + κ²)."""
    cell = ConvCell(1, 1, update="residual", contraction=kappa, scale_spread=0.0).double()
    with torch.no_grad():
        cell.weight_z.zero_()
        cell.weight_z[3] = 100.0  # the pixel to the left
        cell.weight_x.zero_()
        cell.weight_x[4] = 1e3
    bound = float(cell.lipschitz_bound())
    image = torch.ones(1, 3, 3, dtype=torch.double)
    image[0, 1, 1] = 0.0
    data = ImageToGraph()(image)
    step = cell.prepare(data.x, data.edge_index, data.edge_attr)
    jacobian = torch.autograd.functional.jacobian(step, torch.zeros(9, 1, dtype=torch.double))
    measured = float(torch.linalg.matrix_norm(jacobian.view(9, 9), 2))
    assert 1.0 < measured <= bound
    assert measured == pytest.approx(bound, rel=0.005)
    shift = kappa * math.cos(math.pi / 16) ** 2  # what the bound's allowance leaves of κ
    assert measured == pytest.approx(math.sqrt(1 + shift**2))


def test_the_largest_norm_of_a_stencil_is_found_again_when_its_weights_change(monkeypatch):
    torch.manual_seed(0)
    searches = []
    search = stencil._worst_frequency
    monkeypatch.setattr(
        stencil, "_worst_frequency", lambda *given: searches.append(given) or search(*given)
    )
    weight = torch.nn.Parameter(torch.randn(9, 5, 7))

    def check(count: int) -> None:
        symbol = torch.fft.fft2(weight.detach().view(3, 3, 5, 7), (16, 16), dim=(0, 1))
        largest = torch.linalg.svdvals(symbol).max()
        for _ in range(2):
            assert float(stencil_norm(weight, 16).detach()) == pytest.approx(float(largest), 1e-5)
        assert len(searches) == count

    with torch.inference_mode():
        check(1)
    stencil_norm(weight, 16).backward()  # after a search in inference mode
    check(1)
    for k in range(10):
        weight.data += 0.3 * torch.randn(9, 5, 7)  # which no version tells
        check(k + 2)
    weight.data = weight.data.double()
    check(12)
    copy.deepcopy(weight)
    with torch.no_grad():
        weight.mul_(0)
    check(13)


def test_a_signal_at_whose_front_the_residual_stays_one_is_kept():
    def step(z):  # each node takes over what the one before it had
        return torch.cat([torch.ones(1, 1), 0.5 * z[:-1]])

    solution = solve(
        step, torch.zeros(9, 1), Partition(None, 9), solver="picard", criterion="node",
        max_steps=5, atol=0.0,
    )  # fmt: skip
    assert float(solution.residual) == 1.0
    expected = torch.tensor([0.5**i if i < 5 else 0.0 for i in range(9)])
    torch.testing.assert_close(solution.state[:, 0], expected)


def test_parameters_are_drawn_with_their_variance():
    torch.manual_seed(0)
    drive = StencilDrive(40, 50)
    drive.reset_parameters()
    std = float(drive.conv.weight.std())
    assert std == pytest.approx((2 / (40 * 9)) ** 0.5, rel=0.02)
    gain = SweepCell(2, channels=6, kernels=3, gain=1.5).weight[0].detach()
    norms = torch.linalg.svdvals(gain)
    for k, size in enumerate((1.5, 1.5 / 3**0.5, 1.5 / 3**0.5)):
        torch.testing.assert_close(norms[k], torch.full((6,), size))


def test_the_bound_of_nodes_and_edges_is_kappa_where_weights_are_large():
    cell = NodeEdgeCell({"node": 2, "edge": 1}, {"node": 3, "edge": 2}, kappa=0.7)
    with torch.no_grad():
        for name, weight in cell.weight.items():
            weight.fill_(0.0 if name in ("source", "target", "edge") else 5.0)
    assert float(cell.lipschitz_bound()) == pytest.approx(0.7)


def test_the_step_of_a_monotone_cell_has_the_step_size_of_its_bound():
    cell, data = MonotoneCell(1, 3), ImageToGraph()(torch.rand(1, 4, 4))
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.mul_(3.0)
    step = cell.prepare(data.x, data.edge_index, data.edge_attr)
    torch.testing.assert_close(step.step_size, cell.step_size())


def test_a_map_that_ignores_the_state_does_not_stretch():
    ones = torch.ones(3, 2)
    found = stretch(lambda z: ones, torch.rand(3, 2), torch.ones(3), torch.zeros(3).long(), 1, 4)
    assert found.tolist() == [0.0]


def test_the_residual_form_starts_with_a_centre_that_pulls_back():
    """K_z is -0.8 I at the centre, and half as random as in the direct form."""
    most = 0.5 / math.sqrt(9 * 3)
    weight = ConvCell(2, 3, update="residual").weight_z.detach().clone()
    weight[4] += 0.8 * torch.eye(3)
    assert 0.9 * most < float(weight.abs().max()) <= most + 1e-6


def test_the_energy_is_infinite_outside_of_its_domain_alone():
    """φ(z) = ((1 + z) ln(1 + z) + (1 - z) ln(1 - z)) / 2, which is ln 2 at both ends."""
    cell = HopfieldCell(1, 1).double()
    with torch.no_grad():
        for p in cell.parameters():
            p.zero_()
    step = cell.prepare(torch.zeros(5, 1).double(), NO_EDGES)
    z = torch.tensor([[1.0], [-1.0], [0.0], [1.5], [-1.01]]).double()
    ends = math.log(2)
    assert step.energy(z).tolist() == pytest.approx([ends, ends, 0.0, math.inf, math.inf])


def test_a_normalised_drive_has_the_bound_of_the_folded_one_and_none_in_training():
    """Where the statistics are those of the batch, a change of one node changes all others."""
    data = ImageToGraph()(torch.rand(2, 4, 5, dtype=torch.double))
    drive = StencilDrive(2, 3).double()
    drive(data.x, data.edge_index, data.edge_attr)
    graph = {"edge_index": data.edge_index, "edge_attr": data.edge_attr, "num_nodes": 20}
    assert drive.bound(**graph) == math.inf
    bound = drive.eval().bound(**graph)
    matrix = torch.autograd.functional.jacobian(
        lambda x: drive(x, data.edge_index, data.edge_attr), data.x
    )
    stretch = float(torch.linalg.matrix_norm(matrix.reshape(60, 40), 2))
    drive.fold()
    assert bound == pytest.approx(drive.bound(**graph))
    assert 0.3 * bound < stretch <= bound * (1 + 1e-9)


@pytest.mark.parametrize(
    "make",
    [
        partial(ConvCell, 2, 3),
        partial(IGNNCell, 2, 3),
        partial(WrappedConvCell, GCNConv(3, 3), 2),
        partial(RelationCell, {"a": 2}, 3, [("a", "to", "a")]),
    ],
    ids=lambda make: make.func.__name__,
)
def test_cells_have_a_bias_unless_told_otherwise(make):
    count = [sum(p.numel() for p in cell.parameters()) for cell in (make(), make(bias=False))]
    assert count[0] - count[1] == 3
