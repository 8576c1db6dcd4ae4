"""Which nodes an injury takes: a ball around a node, or all beyond a plane."""

from __future__ import annotations

import torch
from torch import Tensor

from gncadeq.check import check_number, check_type
from gncadeq.typing import OptTensor


def ball(
    pos: Tensor,
    radius: float,
    generator: torch.Generator | None = None,
    among: OptTensor = None,
) -> Tensor:
    r"""The nodes ``[num_nodes]`` (booleans) within a ball around a random node: a disc on pixels.

    .. math::
        \{ i : \lVert \mathbf{p}_i - \mathbf{p}_c \rVert \le r \, d \} , \qquad
        d = \max_k ( \max_i p_{ik} - \min_i p_{ik} )

    Args:
        pos: Positions ``[num_nodes, dims]``.
        radius: Radius :math:`r`, positive, relative to the longest side :math:`d` of their box.
        generator: The source of randomness for the centre.
        among: ``[num_nodes]`` booleans: where the centre is drawn; by default anywhere. Where it
            marks no node, none is damaged.

    Raises:
        ValueError: If the radius isn't positive, or a shape is wrong.

    Example:
        >>> pos = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
        >>> ball(pos, radius=0.1, among=torch.tensor([False, True, False, False]))
        tensor([ True,  True,  True, False])
    """
    among = _check(pos, among)
    radius = check_number("radius", radius, above=0.0)
    candidates = among.nonzero().flatten()
    if candidates.numel() == 0:
        return torch.zeros_like(among)
    draw = int(torch.randint(candidates.numel(), (), generator=generator))
    side = (pos.amax(0) - pos.amin(0)).max()
    inside: Tensor = (pos - pos[candidates[draw]]).norm(dim=1) <= radius * side
    return inside


def cut(
    pos: Tensor,
    share: float = 1 / 3,
    generator: torch.Generator | None = None,
    among: OptTensor = None,
) -> Tensor:
    r"""The nodes ``[num_nodes]`` (booleans) beyond a plane in a random direction.

    .. math::
        \{ i : \mathbf{p}_i^\top \mathbf{n} > q \} , \qquad \mathbf{n} \sim
        \mathcal{U}(\mathcal{S}^{d-1})

    with :math:`q` the quantile :math:`1 - s` of :math:`\mathbf{p}_i^\top \mathbf{n}`.

    Args:
        pos: Positions ``[num_nodes, dims]``.
        share: Share :math:`s` in (0, 1) of the nodes, up to ties and rounding.
        generator: The source of randomness for the direction.
        among: ``[num_nodes]`` booleans: the nodes of which the plane takes the share (it hurts the
            others beyond it as well); by default all.

    Raises:
        ValueError: If the share or a shape is wrong.

    Example:
        >>> int(cut(torch.rand(90, 2), share=1 / 3).sum())
        30
    """
    among = _check(pos, among)
    share = check_number("share", share, above=0.0, below=1.0)
    direction = torch.randn(pos.size(1), generator=generator).to(pos)
    height = pos @ (direction / direction.norm())
    ranked = height[among].sort().values
    if ranked.numel() == 0:
        return torch.zeros_like(among)
    kept = min(ranked.numel() - 1, max(0, round((1 - share) * ranked.numel()) - 1))
    beyond: Tensor = height > ranked[kept]
    return beyond


def _check(pos: Tensor, among: OptTensor) -> Tensor:
    check_type("pos", pos, Tensor)
    if pos.dim() != 2 or pos.numel() == 0 or not pos.is_floating_point():
        raise ValueError(f"Expected 'pos' of shape [num_nodes, dims] (got {list(pos.shape)})")
    if among is None:
        return torch.ones(pos.size(0), dtype=torch.bool, device=pos.device)
    if among.dtype != torch.bool or list(among.shape) != [pos.size(0)]:
        raise ValueError(
            f"Expected 'among' as [{pos.size(0)}] booleans (got {list(among.shape)}, {among.dtype})"
        )
    return among
