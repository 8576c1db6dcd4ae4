"""Back-propagation through time stores what is documented."""

from __future__ import annotations

import weakref

import pytest
import torch
from toys import NoisyCell, conv_cell

from gncadeq import Cell, GraphNCA
from gncadeq.testing import (
    assert_gradients_close,
    gradients,
)

# Back-propagation through time


class Watched(Cell):
    """Counts the states that are alive."""

    def __init__(self, cell):
        super().__init__()
        self.cell, self.in_channels, self.channels = cell, cell.in_channels, cell.channels
        self.states, self.evaluations, self.most = [], 0, 0

    def prepare(self, x, edge_index, edge_attr=None):
        step = self.cell.prepare(x, edge_index, edge_attr)

        def watched(z):
            out = step(z)
            self.states.append(weakref.ref(out))
            self.evaluations += 1
            self.most = max(self.most, self.alive())
            return out

        return watched

    def alive(self):
        return sum(state() is not None for state in self.states)


@pytest.mark.parametrize(
    ("steps", "every", "stored", "most"),
    [
        (25, "sqrt", 5, 10),  # 5 segments of 5
        (26, "sqrt", 5, 11),  # 4 segments of 6, and 2 steps
        (24, 4, 6, 10),
        (1, "sqrt", 1, 2),
        (12, None, 12, 12),
    ],
)
def test_checkpointed_rollouts_store_what_is_documented(steps, every, stored, most, small):
    cell = conv_cell("residual")
    expected = gradients(GraphNCA(cell, steps), small)
    watched = Watched(cell)
    nca = GraphNCA(watched, steps, checkpoint_every=every)
    x = small.x.clone().requires_grad_()
    z = nca(x, small.edge_index, small.edge_attr, small.batch)
    assert watched.alive() <= stored
    loss = (z.pow(2) + z).sum()
    loss.backward()
    assert watched.most <= most
    assert watched.evaluations <= 2 * steps
    assert_gradients_close([x.grad, *(p.grad for p in cell.parameters())], expected, rtol=1e-12)


@pytest.mark.parametrize(("dropout", "fire_rate"), [(0.3, 1.0), (0.0, 0.5)])
def test_checkpointed_rollouts_keep_their_masks(dropout, fire_rate, small):
    cell = NoisyCell(2, dropout).double()
    found = []
    for every in (None, 3, "sqrt"):
        torch.manual_seed(4)
        found.append(gradients(GraphNCA(cell, 10, fire_rate, checkpoint_every=every), small))
    assert_gradients_close(found[1], found[0], rtol=1e-12)
    assert_gradients_close(found[2], found[0], rtol=1e-12)


@pytest.mark.parametrize("every", [0, -1, "root"])
def test_bad_segments_are_refused(every):
    with pytest.raises(TypeError if every == "root" else ValueError, match="'checkpoint_every'"):
        GraphNCA(conv_cell(), checkpoint_every=every)
    assert GraphNCA(conv_cell(), 0, checkpoint_every="sqrt")._segment(0) == 1
