"""Whether a state comes to rest or runs away, by how its size and its steps change."""

from __future__ import annotations

import numpy as np

from gncadeq.dynamics.solvers.base import Numbers


class Growth:
    r"""How the states of a solve have grown, for every graph in the batch.

    The relative residual of a state that runs away is small only because the state is large:
    ``z + 1`` has no fixed point, and :math:`1 / \lVert \mathbf{z} \rVert` is soon below any
    tolerance. So a state that has more than doubled since the start is compared with the last one
    before it doubled. The residual :math:`\lVert f(\mathbf{z}) - \mathbf{z} \rVert` over that one's
    is, were the map affine, about twice the relative error.

    Args:
        first: The norms of the start.
        tol: Bound on the relative residual.

    Attributes:
        first: The norms of the start or of its image, whichever is larger.
    """

    def __init__(self, first: Numbers, tol: float) -> None:
        self.first, self.tol = first, tol
        self.base: Numbers | None = None  # the size at which the state doubled last
        self.last = self.before = np.full_like(first, np.inf)  # residuals: the last, before that

    @np.errstate(invalid="ignore", over="ignore")
    def check(self, residual: Numbers, size: Numbers) -> tuple[Numbers, Numbers]:
        """Take in ``‖f(z) − z‖`` and ``‖f(z)‖``.

        Returns:
            Which states are so large that a step as long as before would be lost in rounding, and
            whose residual is small only because the state is large.
        """
        finite = np.maximum(residual, size) < np.inf
        if self.base is None:
            self.base = self.first = np.maximum(self.first, np.where(finite, size, 0.0))
        doubled = finite & (size > 2 * self.base)
        self.before = np.where(doubled, self.last, self.before)
        self.base = np.where(doubled, size, self.base)
        self.last = np.where(finite, residual, self.last)
        grown = size > 2 * self.first
        rounding = 4 * np.finfo(size.dtype).eps * size
        lost: Numbers = grown & (rounding > self.before / 8)
        # Where the tolerance was met before the state doubled, that it is met now says nothing:
        # then the residual has to be smaller by more.
        share = np.where(self.before < self.tol * size, 0.02, 0.5)
        large = residual > np.maximum(share * self.before, rounding)
        return lost, grown & large

    def keep(self, graphs: Numbers) -> None:
        """Let the other graphs leave the batch."""
        self.first, self.last, self.before = (
            value[graphs] for value in (self.first, self.last, self.before)
        )
        self.base = None if self.base is None else self.base[graphs]
