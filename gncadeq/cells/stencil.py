"""Convolution by relative offsets: on a pixel grid exactly ``conv2d``."""

from __future__ import annotations

import math
from collections.abc import MutableMapping
from functools import lru_cache
from math import isqrt
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from gncadeq.cell import check_graph
from gncadeq.cells.separable import assign
from gncadeq.check import check_count, check_flag, check_type
from gncadeq.graph.neighborhood import Neighborhood, check_edge_index
from gncadeq.graph.recording import transforms_active
from gncadeq.graph.relations import weighted_relations
from gncadeq.typing import Adj, OptTensor


def prepare_neighborhood(
    edge_index: Adj,
    relation: OptTensor,
    num_nodes: int,
    num_relations: int,
    kind: Literal["auto", "grid", "csr"] = "auto",
) -> Neighborhood:
    """Sort the edges by relation and let every node sense itself through the central one.

    Cells do this in every solve. Done beforehand, the neighbourhood takes the place of
    ``edge_index`` (with ``edge_attr=None``): to solve on one graph many times, or to force a form.
    A neighbourhood that is prepared already is returned as it is.

    An edge whose direction lies between those of the window has several relations: weights
    ``[num_edges, num_relations]`` say what it counts in each, and nothing is added to them, so a
    node senses itself by an edge (:class:`gncadeq.transforms.SoftDirections` writes them).

    Args:
        edge_index: Edge indices ``[2, num_edges]``.
        relation: The relation of every edge, or its weight in each.
        num_nodes: Number of nodes.
        num_relations: Number of relations, the central one included.
        kind: The form, see :class:`~gncadeq.graph.neighborhood.Neighborhood`.

    Example:
        >>> from gncadeq import ConvCell
        >>> from gncadeq.transforms import ImageToGraph
        >>> data, cell = ImageToGraph()(torch.rand(1, 5, 5)), ConvCell(1, 4)
        >>> hood = prepare_neighborhood(data.edge_index, data.edge_attr, 25, 9, kind="csr")
        >>> cell.prepare(data.x, data.edge_index, data.edge_attr).kind
        'grid'
        >>> cell.prepare(data.x, hood).kind
        'csr'

    Raises:
        ValueError: If ``relation`` is missing, or not one entry or a row of weights an edge.
        TypeError: If ``relation`` is of another type.
    """
    if isinstance(edge_index, Neighborhood):
        if edge_index.num_relations != num_relations:
            raise ValueError(
                f"Expected a neighborhood with {num_relations} relations "
                f"(got {edge_index.num_relations})"
            )
        return edge_index
    if not torch.compiler.is_compiling():  # where sizes are symbols
        num_nodes = check_count("num_nodes", num_nodes)
        num_relations = check_count("num_relations", num_relations, 1)
    check_edge_index(edge_index)
    if isinstance(relation, Tensor) and relation.is_floating_point() and relation.dim() == 2:
        ends, kinds, weight = weighted_relations(edge_index.long(), relation, num_relations)
        return Neighborhood(ends, kinds, num_nodes, num_relations, kind, weight=weight)
    relation = _check_relation(relation, edge_index.size(1))
    center = num_relations // 2
    neighbors = (relation != center) | (edge_index[0] != edge_index[1])
    if not bool(neighbors.all()):  # the node itself is sensed once, whatever the edges say
        edge_index, relation = edge_index[:, neighbors], relation[neighbors]
    node = torch.arange(num_nodes, device=edge_index.device)
    edge_index = torch.cat([edge_index.long(), node.expand(2, -1)], dim=1)
    relation = torch.cat([relation.long(), relation.new_full((num_nodes,), center).long()])
    return Neighborhood(edge_index, relation, num_nodes, num_relations, kind)


def _check_relation(relation: OptTensor, num_edges: int) -> Tensor:
    if relation is None:
        raise ValueError(
            "Expected 'edge_attr' with the relation (relative offset) of every edge (got None). "
            "gncadeq.transforms.ImageToGraph writes it"
        )
    check_type("edge_attr", relation, Tensor)
    if relation.is_floating_point() or relation.dtype == torch.bool:
        raise TypeError(f"Expected integer relations in 'edge_attr' (got {relation.dtype})")
    relation = relation.view(-1) if relation.dim() == 2 and relation.size(1) == 1 else relation
    if relation.dim() != 1 or relation.numel() != num_edges:
        raise ValueError(
            f"Expected 'edge_attr' of shape [num_edges] = [{num_edges}] "
            f"(got {list(relation.shape)})"
        )
    return relation


class StencilConv(nn.Module):
    r"""Message passing with one matrix for each relative offset.

    .. math::
        \mathbf{y}_i = \mathbf{b} + \sum_{j \in \mathcal{N}(i) \cup \{i\}}
        \mathbf{K}_{r(i,j)}^\top \, \mathbf{x}_j

    where :math:`r(i,j)` numbers the offset of the source from the target, row by row in a
    ``kernel_size`` × ``kernel_size`` window. On a full pixel grid this is
    :class:`torch.nn.Conv2d` with zero padding; where pixels are absent, with zeros in their place.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Odd width of the window.
        bias: Whether to add a bias.

    Shapes:
        - **input:** node features :math:`(|\mathcal{V}|, F_{in})`, edge indices
          :math:`(2, |\mathcal{E}|)`, edge relations :math:`(|\mathcal{E}|)`
        - **output:** node features :math:`(|\mathcal{V}|, F_{out})`

    Example:
        >>> from gncadeq.transforms import ImageToGraph
        >>> data = ImageToGraph()(torch.rand(1, 5, 4))
        >>> conv = StencilConv(1, 8)
        >>> conv(data.x, data.edge_index, data.edge_attr).shape
        torch.Size([20, 8])
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, bias: bool = True
    ) -> None:
        super().__init__()
        in_channels = check_count("in_channels", in_channels, 1)
        out_channels = check_count("out_channels", out_channels, 1)
        kernel_size = check_count("kernel_size", kernel_size, 1, odd=True)
        check_flag("bias", bias)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.num_relations = kernel_size**2
        self.weight = nn.Parameter(torch.empty(self.num_relations, in_channels, out_channels))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self, gain: float = 1.0) -> None:
        """Draw uniform parameters of variance ``gain² / (3 · fan_in)``, as torch's convolutions."""
        bound = gain / math.sqrt(self.in_channels * self.num_relations)
        assign(self, "weight", torch.empty_like(self.weight).uniform_(-bound, bound))
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(
        self,
        x: Tensor,
        edge_index: Adj,
        edge_attr: OptTensor = None,
    ) -> Tensor:
        """Convolve ``x``; see :class:`StencilConv`."""
        check_graph(x, edge_index, self.in_channels, self.weight.dtype)
        hood = prepare_neighborhood(edge_index, edge_attr, x.size(0), self.num_relations)
        out = hood.stencil(self.weight)(x)
        return out if self.bias is None else out + self.bias

    def to_conv2d(self) -> nn.Conv2d:
        """The ``Conv2d`` that this is on a full pixel grid, with a copy of the weights."""
        return stencil_to_conv2d(self.weight, self.bias)

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}({self.in_channels}, {self.out_channels}, "
            f"kernel_size={isqrt(self.num_relations)})"
        )


@torch.no_grad()
def stencil_to_conv2d(weight: Tensor, bias: OptTensor) -> nn.Conv2d:
    """Turn a stencil ``[kernel², in, out]`` into a ``Conv2d`` with zero padding."""
    r, cin, cout = weight.shape
    k = isqrt(r)
    conv = nn.Conv2d(cin, cout, k, padding=k // 2, bias=bias is not None, dtype=weight.dtype)
    conv = conv.to(weight.device)
    conv.weight.copy_(weight.view(k, k, cin, cout).permute(3, 2, 0, 1))
    if bias is not None and conv.bias is not None:
        conv.bias.copy_(bias)
    return conv


def _symbol(weight: Tensor, phase: Tensor) -> Tensor:
    r"""The Fourier symbol of a stencil ``[kernel², in_channels, out_channels]``,
    :math:`\hat{\mathbf{K}}(\omega) = \sum_r \mathbf{K}_r e^{\mathrm{i} \omega \cdot \delta_r}`.
    """
    return torch.einsum("fr,rio->fio", phase, weight.to(phase.dtype))


def _phases_like(weight: Tensor, frequencies: int) -> Tensor:
    single = weight.dtype != torch.double
    return torch.from_numpy(_phases(isqrt(weight.size(0)), frequencies, single)).to(weight.device)


@lru_cache(maxsize=32)
def _phases(kernel_size: int, n: int, single: bool) -> Any:
    r""":math:`e^{\mathrm{i} \omega \cdot \delta_r}`, ``[num_samples, kernel²]``."""
    a, b = (axis.ravel() for axis in np.meshgrid(np.arange(n), np.arange(n), indexing="ij"))
    half = (a * n + b) <= ((-a) % n) * n + ((-b) % n)  # the other half is conjugate
    omega = np.stack([a[half], b[half]], 1) * (2 * math.pi / n)
    step = np.arange(kernel_size) - kernel_size // 2
    offset = np.stack(np.meshgrid(step, step, indexing="ij"), -1).reshape(-1, 2)
    phase = np.exp(1j * omega @ offset.T)
    return phase.astype(np.complex64) if single else phase


def stencil_norm(weight: Tensor, frequencies: int = 64) -> Tensor:
    r"""The operator norm of a stencil ``[kernel², in_channels, out_channels]``,
    :math:`\max_\omega \lVert \hat{\mathbf{K}}(\omega) \rVert_2` over samples of both frequencies.

    On the infinite grid the supremum is the exact norm; a pixel graph whose pixels sense all of the
    window's pixels that are present sees a compression of that operator, of no larger norm. (Von
    Neumann graphs drop taps of a 3 × 3 stencil: bound what is left.)

    Where the largest norm is, is found once for the values of a parameter.

    Example:
        >>> blur = torch.full((9, 1, 1), 1 / 9)  # passes the mean unchanged
        >>> round(stencil_norm(blur).item(), 3)
        1.0
    """
    phase = _phases_like(weight, check_count("frequencies", frequencies, 1))
    if transforms_active():
        worst = _worst_frequency(weight, phase, None)
    else:
        worst = _remembered(weight, phase, _WORST.setdefault(weight, {}))
    # Only there is the norm differentiated.
    norm: Tensor = torch.linalg.svdvals(_symbol(weight, phase[worst, None])[0])[0]
    return norm


def _remembered(weight: Tensor, phase: Tensor, known: dict[int, tuple[Tensor, int]]) -> int:
    """What :func:`_worst_frequency` returns, found once for the values of ``weight``."""
    values, worst = known.get(len(phase), (None, None))
    if values is None or worst is None or not _same(values, weight):
        worst = _worst_frequency(weight, phase, worst)
        known[len(phase)] = weight.detach().clone(), worst
    return worst


# Of parameters, by the number of samples: their values, compared because versions don't tell of
# changes through ``.data``, and the sample with the largest norm.
_WORST: MutableMapping[Tensor, dict[int, tuple[Tensor, int]]] = WeakTensorKeyDictionary()


def _same(values: Tensor, weight: Tensor) -> bool:
    alike = values.dtype == weight.dtype and values.device == weight.device
    return alike and torch.equal(values, weight)


@torch.no_grad()
def _worst_frequency(weight: Tensor, phase: Tensor, guess: int | None) -> int:
    r"""The sample at which the norm is largest.

    The norm at ``guess`` is :math:`s`. Where :math:`s^2 \mathbf{I} - \mathbf{M}^H \mathbf{M}` has a
    Cholesky factor the norm is smaller; of the other samples, which are few if the guess is good,
    the norms are computed.
    """
    scale = weight.abs().sum(0).max().clamp(min=torch.finfo(weight.dtype).tiny)
    symbol = _symbol(weight / scale, phase)  # whose squares stay finite
    g = symbol.mH @ symbol
    if guess is None:
        guess = int(g.diagonal(dim1=1, dim2=2).real.sum(1).argmax())
    size = torch.linalg.svdvals(symbol[guess])[0].square() * (1 - _ROUNDING)
    g.neg_().diagonal(dim1=1, dim2=2).add_(size)
    rivals = (torch.linalg.cholesky_ex(g)[1] > 0).nonzero().flatten()  # the guess is one of them
    return int(rivals[torch.linalg.svdvals(symbol[rivals])[:, 0].argmax()])


_ROUNDING = 1e-4  # relative, of what is taken for smaller


def stencil_bound(weight: Tensor, frequencies: int = 16) -> Tensor:
    r"""An upper bound on :func:`stencil_norm` that no frequency exceeds.

    Between samples a trigonometric polynomial of degree :math:`d` exceeds its largest sample by at
    most :math:`1 / \cos(\pi d / n)` in each of the two frequencies, so this is the norm sampled
    with :math:`n = d \cdot` ``frequencies``, enlarged by
    :math:`\cos(\pi /` ``frequencies`` :math:`)^{-2}`: 4 % with 16, 0.25 % with 64.

    Args:
        weight: ``[kernel², in_channels, out_channels]``.
        frequencies: Samples for each unit of the stencil's reach :math:`d`.
    """
    frequencies = check_count("frequencies", frequencies, 3)
    check_type("weight", weight, Tensor)
    if weight.dim() != 3 or not weight.is_floating_point():
        raise ValueError(
            "Expected floating-point 'weight' of shape [kernel², in_channels, out_channels] (got "
            f"{list(weight.shape)}, {weight.dtype})"
        )
    reach = max(1, isqrt(weight.size(0)) // 2)
    return stencil_norm(weight, frequencies * reach) * math.cos(math.pi / frequencies) ** -2
