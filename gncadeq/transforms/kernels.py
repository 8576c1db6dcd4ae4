"""Kernel weights for pixel graphs: the filters of growing neural cellular automata."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import Literal

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform

from gncadeq.check import check_choice, check_number, check_type

FILTERS: dict[str, list[list[float]]] = {
    "identity": [[0, 0, 0], [0, 1, 0], [0, 0, 0]],
    "sobel_x": [[-1 / 8, 0, 1 / 8], [-2 / 8, 0, 2 / 8], [-1 / 8, 0, 1 / 8]],
    "sobel_y": [[-1 / 8, -2 / 8, -1 / 8], [0, 0, 0], [1 / 8, 2 / 8, 1 / 8]],
    "laplacian": [[1 / 16, 2 / 16, 1 / 16], [2 / 16, -12 / 16, 2 / 16], [1 / 16, 2 / 16, 1 / 16]],
}
"""Filters as they are correlated with the image, by name."""

OF_PIXELS: dict[str, tuple[str, ...]] = {
    "tangent": ("sobel_x", "sobel_y", "laplacian"),
    "gradient": ("sobel_x", "sobel_y"),
    "isotropic": ("laplacian",),
}
"""The filters by which pixels sense what :class:`gncadeq.transforms.MeshToGraph` calls so."""

PIXEL = 0.754
"""The length ℓ of ``MeshToGraph(scale=ℓ)``, in pixels, of which the Laplacian is the pixels' own:
the Gaussian that ends at 3 ℓ has the variance of the binomial filter, half a square pixel."""


def surface_filters(kernels: Literal["isotropic", "tangent"] = "isotropic") -> list[Tensor]:
    r"""Filters by which pixels sense what vertices sense with ``MeshToGraph(kernels, scale=ℓ)``.

    A rule that was trained on a picture with these runs on any surface, where a pixel is then
    :math:`\ell / 0.754` long: the Laplacian :math:`\mathbf{G}_\ell - \mathbf{I}`, preceded in
    ``"tangent"`` by :math:`\ell \, \partial` to the right and upwards. On waves of 8 pixels or more
    the two agree to 4 %.

    Raises:
        ValueError: If ``kernels`` is neither ``"isotropic"`` nor ``"tangent"``.

    Example:
        >>> PixelKernels(surface_filters("tangent"))
        PixelKernels(filter, filter, filter)
    """
    check_choice("kernels", kernels, ("isotropic", "tangent"))
    right, down = torch.tensor(FILTERS["sobel_x"]), torch.tensor(FILTERS["sobel_y"])
    laplacian = torch.tensor(FILTERS["laplacian"])
    return [laplacian] if kernels == "isotropic" else [PIXEL * right, -PIXEL * down, laplacian]


class PixelKernels(BaseTransform):  # type: ignore[misc]
    r"""Turn the relations of a pixel graph into kernel weights.

    Every edge gets one weight a kernel, that of its offset in the filter, and every pixel a loop
    with the central weights: :class:`gncadeq.GrowingCell` then perceives the correlation of the
    state with the filters: Sobel's, divided by 8, and the nine-point Laplacian, divided by 16
    (`"Growing Neural Cellular Automata" <https://doi.org/10.23915/distill.00023>`_ and
    `"Self-Organising Textures" <https://doi.org/10.23915/distill.00027.003>`_).

    Args:
        kernels: Names among ``"sobel_x"``, ``"sobel_y"``, ``"laplacian"``, ``"identity"``, or
            filters ``[k, k]`` with odd ``k``.

    Returns (when called with ``Data`` that has relations in ``edge_attr``):
        ``Data`` with loops in ``edge_index``, and ``edge_attr`` ``[num_edges, num_kernels]``.

    Raises:
        ValueError: If a name is unknown, a filter isn't square and odd, or the graph has no
            relations, or relations outside the filters.

    Example:
        >>> from gncadeq.transforms import ImageToGraph
        >>> PixelKernels(("laplacian",))(ImageToGraph()(torch.rand(1, 4, 5))).edge_attr.shape
        torch.Size([130, 1])
    """

    def __init__(
        self, kernels: Sequence[str | Tensor] = ("sobel_x", "sobel_y", "laplacian")
    ) -> None:
        check_type("kernels", kernels, (tuple, list))
        filters = [_filter(k) for k in kernels]
        if not filters or len({f.numel() for f in filters}) > 1:
            sizes = [list(f.shape) for f in filters]
            raise ValueError(f"Expected at least one kernel, all of one size (got sizes {sizes})")
        self.names = [k if isinstance(k, str) else "filter" for k in kernels]
        self.table = torch.stack([f.flatten() for f in filters], 1)  # [k², K]

    def forward(self, data: Data) -> Data:
        """Replace ``edge_attr``; everything else is kept."""
        relation = data.edge_attr
        if relation is None or relation.is_floating_point() or relation.numel() != data.num_edges:
            raise ValueError(
                "Expected a pixel graph with integer relations in 'edge_attr' (got "
                f"{None if relation is None else relation.dtype}). "
                "gncadeq.transforms.ImageToGraph writes them"
            )
        relation = relation.view(-1).long()
        count = self.table.size(0)
        if relation.numel() and not 0 <= int(relation.min()) <= int(relation.max()) < count:
            raise ValueError(
                f"Expected relations in [0, {count}) for {isqrt(count)} x {isqrt(count)} filters "
                f"(got {int(relation.min())} to {int(relation.max())})"
            )
        _check_window(data, relation, isqrt(count))
        x = data.x
        table = self.table.to(relation.device)
        table = table if x is None or not x.is_floating_point() else table.to(x.dtype)
        others = data.edge_index[0] != data.edge_index[1]
        others |= relation != count // 2
        n = data.num_nodes
        loops = torch.arange(n, device=relation.device).expand(2, n)
        out = data.clone()
        out.edge_index = torch.cat([data.edge_index[:, others], loops], 1)
        out.edge_attr = torch.cat([table[relation[others]], table[count // 2].expand(n, -1)])
        return out

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({', '.join(self.names)})"


class TurnKernels(BaseTransform):  # type: ignore[misc]
    r"""Turn the kernels ``"tangent"`` of every node by its own angle, and stretch them.

    With the angles :math:`\theta_i` (radians, from right towards up) and the size :math:`s`, a node
    senses

    .. math::
        \tfrac{1}{s} (\cos\theta_i \, \partial_\text{right} + \sin\theta_i \, \partial_\text{up}),
        \quad
        \tfrac{1}{s} (\cos\theta_i \, \partial_\text{up} - \sin\theta_i \, \partial_\text{right}),
        \quad \tfrac{1}{s^2} \Delta .

    A rule's pattern is then turned by the angle that a node has, and about :math:`s` times as large
    as in its training.

    Args:
        size: :math:`s`.

    Returns (when called with ``Data`` with three kernel weights an edge, and ``angle`` ``[N]``):
        ``Data`` with turned weights in ``edge_attr``.

    Raises:
        ValueError: If the weights are not those of three kernels, or ``angle`` is not a
            floating-point number a node.

    Example:
        >>> from gncadeq.transforms import ImageToGraph
        >>> data = PixelKernels(surface_filters("tangent"))(ImageToGraph()(torch.rand(1, 4, 5)))
        >>> data.angle = torch.linspace(0, 3, 20)
        >>> TurnKernels()(data).edge_attr.shape
        torch.Size([130, 3])
    """

    def __init__(self, size: float = 1.0) -> None:
        self.size = check_number("size", size, above=0.0)

    def forward(self, data: Data) -> Data:
        """Replace ``edge_attr``; everything else is kept."""
        weight, angle = data.edge_attr, data.get("angle")
        if weight is None or weight.dim() != 2 or weight.size(1) != 3:
            raise ValueError(
                "Expected the weights [num_edges, 3] of the kernels 'tangent' in 'edge_attr' (got "
                f"{None if weight is None else list(weight.shape)}). Use "
                "PixelKernels(surface_filters('tangent')) or MeshToGraph('tangent')"
            )
        if angle is None or not angle.is_floating_point() or angle.shape != (data.num_nodes,):
            raise ValueError(
                f"Expected floating-point numbers [{data.num_nodes}] in 'angle' (got "
                f"{None if angle is None else f'{list(angle.shape)} of {angle.dtype}'})"
            )
        right, up, laplacian = weight.unbind(1)
        turned = angle.to(weight)[data.edge_index[1]]
        cos, sin = turned.cos() / self.size, turned.sin() / self.size
        columns = [cos * right + sin * up, cos * up - sin * right, laplacian / self.size**2]
        data.edge_attr = torch.stack(columns, 1)
        return data


def _check_window(data: Data, relation: Tensor, size: int) -> None:
    """Raise if positions say that the relations number another window than the filters'."""
    pos = data.pos
    if pos is None or pos.dim() != 2 or pos.size(1) != 2 or not relation.numel():
        return
    if bool((pos.amax(0) - pos.amin(0) < size).any()):  # so narrow that neighbours may wrap around
        return
    half = size // 2
    dx, dy = (pos[data.edge_index[0]] - pos[data.edge_index[1]]).long().unbind(1)
    near = (dx.abs() <= half) & (dy.abs() <= half)
    if bool(((dy + half) * size + dx + half != relation)[near].any()):
        raise ValueError(
            f"Expected relations numbered row by row in a {size} x {size} window, as the filters "
            "are (got others, by the positions of the pixels). Use filters of the graph's window"
        )


def _filter(kernel: str | Tensor) -> Tensor:
    if isinstance(kernel, str):
        return torch.tensor(FILTERS[check_choice("kernels", kernel, FILTERS)])
    check_type("kernels", kernel, (str, Tensor))
    if kernel.dim() != 2 or kernel.size(0) != kernel.size(1) or kernel.size(0) % 2 == 0:
        raise ValueError(f"Expected a square filter of odd size (got {list(kernel.shape)})")
    return kernel
