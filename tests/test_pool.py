"""The sample pool and the injuries it inflicts."""

from __future__ import annotations

import pytest
import torch
from torch_geometric.data import Data

from gncadeq.training import SamplePool
from gncadeq.transforms import ImageToGraph, PixelKernels
from gncadeq.transforms.damage import ball, cut


def grid(height, width):
    return PixelKernels()(ImageToGraph()(torch.zeros(1, height, width)))


def make(size=8, seed=0):
    graphs = [grid(5, 5), grid(3, 8)]
    return SamplePool(graphs, [torch.full((25, 6), 1.0), torch.full((24, 6), 2.0)], size, seed)


def test_states_of_different_graphs_stay_with_their_graphs():
    pool = make()
    for k in range(1, 6):
        index, batch = pool.sample(5)
        assert len(set(index.tolist())) == 5
        sizes = [(25, 24)[s % 2] for s in index.tolist()]
        assert batch.batch.bincount().tolist() == sizes
        assert batch.num_nodes == batch.z.size(0) == sum(sizes)
        z = torch.cat([torch.full((n, 6), 100.0 * k + s) for s, n in zip(index, sizes)])  # noqa: B905
        pool.update(index, z, steps=7)
        for s in index.tolist():
            assert bool((pool.states[s] == 100.0 * k + s).all())
    assert int(pool.age.sum()) == 5 * 5 * 7
    assert pool.nbytes == 4 * 6 * (4 * 25 + 4 * 24)


def test_the_worst_starts_again_and_the_best_is_injured():
    pool = make()
    index = torch.tensor([4, 1, 6])
    z = torch.randn(25 + 24 + 25, 6).abs() + 1
    pool.update(index, z, steps=30)
    loss = torch.tensor([0.1, 0.3, 0.2])
    new = pool.refresh(index, loss, reset=1, damage=1)
    first, second, third = new.split([25, 24, 25])
    assert torch.equal(second, pool.seeds[1])  # the worst
    assert torch.equal(third, pool.states[6])  # neither
    gone = (first == 0).all(1)
    assert 0 < int(gone.sum()) < 25
    assert torch.equal(first[~gone], pool.states[4][~gone])
    assert pool.age[index].tolist() == [30, 0, 30]
    assert torch.equal(torch.cat([pool.states[s] for s in (4, 1, 6)]), z)  # until the update
    whole = pool.refresh(index, loss, reset=0, damage=0)
    assert torch.equal(whole, z)
    everyone = pool.refresh(index, loss, reset=3, damage=3)  # a seed isn't injured
    assert torch.equal(everyone, torch.cat([pool.seeds[0], pool.seeds[1], pool.seeds[0]]))


def test_elders_return_to_the_seed_only_when_dead():
    pool = SamplePool(grid(5, 5), torch.ones(25, 6), size=4, elders=2)
    index = torch.tensor([0, 1, 2])
    z = torch.full((75, 6), 3.0)
    z[25:50] = 0.0  # slot 1 is dead
    pool.update(index, z, steps=100)
    new = pool.refresh(index, torch.tensor([9.0, 0.1, 0.2]), reset=1, alive_channel=3)
    assert new.view(3, -1).amax(1).tolist() == [3.0, 1.0, 1.0]
    assert pool.age.tolist() == [100, 0, 0, 0]
    whole = pool.refresh(index, torch.zeros(3), reset=0, damage=0)  # nothing is said of life
    assert torch.equal(whole, z)


def test_injuries_take_the_living():
    pool = SamplePool(grid(12, 12), torch.zeros(144, 6), size=2)
    z = torch.zeros(144, 6)
    z[:36, 3] = 1.0  # the upper quarter lives
    for _ in range(20):
        pool.update(torch.tensor([0]), z)
        new = pool.refresh(torch.tensor([0]), torch.tensor([1.0]), 0, 1, alive_channel=3)
        assert int(new[:, 3].sum()) < 36


def test_discs_are_of_the_published_sizes():
    pool = SamplePool(grid(21, 21), torch.zeros(441, 4), size=2)
    widths = []
    for _ in range(40):
        pool.update(torch.tensor([0]), torch.ones(441, 4))
        new = pool.refresh(torch.tensor([0]), torch.tensor([1.0]), 0, 1, 3, injury="disc")
        hurt = pool.graphs[0].pos[new[:, 3] == 0]
        widths.append(float((hurt.amax(0) - hurt.amin(0)).max()) / 20)
    assert min(widths) < 0.2 < max(widths) <= 0.4
    with pytest.raises(ValueError, match="injury"):
        pool.refresh(torch.tensor([0]), torch.tensor([1.0]), injury="discs")


def test_a_pool_is_its_seed_and_resumes():
    def draws(pool, count):
        out = []
        for _ in range(count):
            index, batch = pool.sample(3)
            z = pool.refresh(index, batch.z.new_ones(3), reset=0, damage=2)
            pool.update(index, z + 1, steps=torch.arange(3))
            out.append((index, z))
        return out

    def same(left, right):
        return all(torch.equal(i, j) and torch.equal(y, z) for (i, y), (j, z) in zip(left, right))  # noqa: B905

    whole = draws(make(), 8)
    assert same(whole, draws(make(), 8))
    assert not same(whole, draws(make(seed=1), 8))
    pool = make()
    assert same(whole[:5], draws(pool, 5))
    saved = pool.state_dict()
    draws(pool, 3)
    again = make(seed=5)
    again.load_state_dict(saved)
    assert same(whole[5:], draws(again, 3))
    assert torch.equal(pool.age, again.age)


def test_what_does_not_fit_is_refused():
    pool = make()
    index = torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"'n' to be .* of at most 8"):
        pool.sample(9)
    with pytest.raises(ValueError, match=r"shape \[49, 6\]"):
        pool.update(index, torch.zeros(50, 6))
    with pytest.raises(ValueError, match="Expected finite states"):
        pool.update(index, torch.full((49, 6), float("nan")))
    with pytest.raises(ValueError, match="one finite loss"):
        pool.refresh(index, torch.tensor([0.0, float("nan")]))
    with pytest.raises(ValueError, match=r"'damage' to be .* of at most 2"):
        pool.refresh(index, torch.zeros(2), damage=3)
    with pytest.raises(ValueError, match="Every graph needs a slot"):
        make(size=1)
    with pytest.raises(ValueError, match="positions 'pos' in graph 0"):
        SamplePool(Data(num_nodes=2), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"seed of graph 0 of shape \[25, 6\]"):
        SamplePool(grid(5, 5), torch.zeros(24, 6))
    with pytest.raises(ValueError, match="another pool"):
        pool.load_state_dict(make(size=6).state_dict())


@pytest.mark.parametrize("dims", [2, 3])
def test_a_ball_is_a_ball_and_a_cut_takes_its_share(dims):
    pos = torch.rand(500, dims, generator=torch.Generator().manual_seed(1))
    side = float((pos.amax(0) - pos.amin(0)).max())
    for k in range(10):
        generator = torch.Generator().manual_seed(k)
        hurt = ball(pos, 0.25, generator)
        inside = torch.cdist(pos, pos) <= 0.25 * side
        assert bool((inside == hurt).all(1).any())  # it is the ball around one of the nodes
        living = pos[:, 0] > 0.5
        beyond = cut(pos, 1 / 3, generator, living)
        share = float((beyond & living).sum() / living.sum())
        assert abs(share - 1 / 3) < 0.01
        # A hyperplane separates: the convex combinations of one side stay clear of the other's.
        assert _separable(pos[beyond], pos[~beyond])
    assert torch.equal(ball(pos, 0.1, torch.Generator().manual_seed(3)),
                       ball(pos, 0.1, torch.Generator().manual_seed(3)))  # fmt: skip


def _separable(left, right):
    from scipy.optimize import linprog

    dims = left.size(1)
    rows = torch.cat([torch.cat([-left, torch.ones(len(left), 1)], 1),
                      torch.cat([right, -torch.ones(len(right), 1)], 1)])  # fmt: skip
    done = linprog(
        [0.0] * (dims + 1), A_ub=rows.double().numpy(), b_ub=[-1e-3] * len(rows),
        bounds=[(-1e5, 1e5)] * (dims + 1),
    )  # fmt: skip
    return done.success


def test_nobody_lives_nobody_is_hurt():
    pos, dead = torch.rand(9, 2), torch.zeros(9, dtype=torch.bool)
    assert not bool(ball(pos, 0.5, among=dead).any())
    assert not bool(cut(pos, 0.5, among=dead).any())
    with pytest.raises(ValueError, match="'radius' to be a finite number above 0"):
        ball(pos, 0.0)
    with pytest.raises(ValueError, match="'share' to be a finite number above 0 and below 1"):
        cut(pos, 1.0)
    with pytest.raises(ValueError, match=r"as \[9\] booleans"):
        cut(pos, 0.5, among=torch.zeros(8, dtype=torch.bool))
