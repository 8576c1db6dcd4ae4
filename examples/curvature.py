"""What a vertex can see of its surface's shape: the principal curvatures."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform

from gncadeq.check import check_number
from gncadeq.graph.perception import Perception
from gncadeq.transforms.mesh import MeshToGraph


class PrincipalCurvatures(BaseTransform):  # type: ignore[misc]
    r"""Append the principal curvatures of a surface, times a length, to the node features.

    .. math::
        \mathbf{S} = \ell \nabla \bar{\mathbf{n}}, \qquad \bar{\mathbf{n}} = \frac{\mathbf{G}_\ell
        \mathbf{n}}{\lVert \mathbf{G}_\ell \mathbf{n} \rVert}, \qquad
        \ell \kappa_{1, 2} = \tfrac{1}{2} \mathrm{tr}\, \mathbf{S} \pm \sqrt{\max \big( 0,
        \tfrac{1}{2} \lVert \mathbf{S} \rVert_F^2 - \tfrac{1}{4} (\mathrm{tr}\, \mathbf{S})^2
        \big)}

    with the Gaussian mean :math:`\mathbf{G}_\ell` and the gradient along the surface
    :math:`\ell \nabla` of :class:`MeshToGraph`, and the symmetric part of :math:`\mathbf{S}`. They
    are invariant to rotations and translations, and to scalings that take :math:`\ell` along;
    turning faces inside out changes their sign and order. Convex is positive. Details smaller than
    :math:`\ell` are smoothed away.

    Args:
        scale: The length :math:`\ell` in the units of ``pos``, see :class:`MeshToGraph`.

    Returns (when called with ``Data`` of ``pos`` ``[N, 3]`` and ``face`` ``[3, F]``):
        The same with :math:`\ell \kappa_1 \ge \ell \kappa_2` as two more columns of ``x``.

    Raises:
        ValueError: As :class:`MeshToGraph`.

    Example:
        >>> from gncadeq.datasets import primitives
        >>> data = PrincipalCurvatures(scale=0.1)(primitives.icosphere(4))
        >>> data.x.mean(0)  # 0.1 times the curvature of the unit sphere
        tensor([0.1002, 0.0998])
    """

    def __init__(self, scale: float) -> None:
        self.scale = check_number("scale", scale, above=0.0)
        self._kernels = MeshToGraph("harmonics", scale=scale)

    def forward(self, data: Data) -> Data:
        """Append two columns to ``x``."""
        graph = self._kernels(Data(pos=data.pos, face=data.face))
        sense = Perception(graph.edge_index, graph.edge_attr, graph.num_nodes)
        normal = graph.normal
        smooth = F.normalize(normal + sense(normal)[:, 0], dim=1)  # the kernel is G - I
        gradient = sense(smooth)[:, 1:]  # [N, 3 of the derivative, 3 of the normal]
        shape = (gradient + gradient.transpose(1, 2)) / 2
        mean = shape.diagonal(dim1=1, dim2=2).sum(1) / 2
        square = shape.square().sum((1, 2)) / 2
        spread = (square - mean.square()).clamp_min(0.0).sqrt()
        both = torch.stack([mean + spread, mean - spread], dim=1)
        if data.x is not None:  # in its own type, unless that has no fractions
            x = data.x.view(-1, 1) if data.x.dim() == 1 else data.x
            x = x if x.is_floating_point() else x.to(both.dtype)
            both = torch.cat([x, both.to(x.dtype)], dim=1)
        data.x = both
        return data

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}(scale={self.scale})"
