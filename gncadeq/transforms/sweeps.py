"""Directions for edges: what a :class:`gncadeq.SweepCell` follows."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform
from torch_geometric.utils import coalesce

from gncadeq.check import check_number, check_type
from gncadeq.graph.neighborhood import check_edge_index, check_range
from gncadeq.transforms.mesh import check_mesh
from gncadeq.transforms.surface_operators import mesh_edges, vertex_areas, vertex_normals


class Sweeps(BaseTransform):  # type: ignore[misc]
    r"""Let four groups of channels sweep a pixel graph from its four corners.

    For a group with the direction :math:`(s_y, s_x)`, both :math:`\pm 1`, an edge has three
    weights, of which one is 1 where the source stands one pixel away along the rows, along the
    columns, or along both, in that direction; so a group reads one quadrant, and its edges have no
    cycle. ``edge_attr`` becomes ``[E, 12]``, for ``SweepCell(groups=4, kernels=3)``.

    Raises:
        ValueError: If the data have no relations of a pixel graph.

    Example:
        >>> from gncadeq.transforms import ImageToGraph
        >>> Sweeps()(ImageToGraph()(torch.rand(1, 4, 4))).edge_attr.shape
        torch.Size([84, 12])
    """

    def forward(self, data: Data) -> Data:
        """Return the data with the weights in ``edge_attr``."""
        relation = data.edge_attr
        if relation is None or relation.dim() != 1 or relation.is_floating_point():
            raise ValueError(
                "Expected a pixel graph with relations in 'edge_attr' (got none). "
                "gncadeq.transforms.ImageToGraph writes them"
            )
        if bool((relation > 8).any()):
            raise ValueError(
                "Expected a pixel graph of one level, with relations 0 to 8 (got "
                f"{int(relation.max())}). Use ImageToGraph(levels=1)"
            )
        down, right = relation // 3 - 1, relation % 3 - 1
        columns = [
            (down == y * (k != 1)) & (right == x * (k != 0))
            for y, x in ((1, 1), (1, -1), (-1, 1), (-1, -1))
            for k in range(3)
        ]
        data.edge_attr = torch.stack(columns, 1).to(data.x.dtype)
        return data


class SurfaceSweeps(BaseTransform):  # type: ignore[misc]
    r"""Let one group of channels sweep a surface from each of some anchors.

    With the length :math:`l`, a vertex can read those within :math:`2 l` in space on the same side
    of the surface, and its neighbours on the mesh. The group of anchor :math:`p` reads those that
    are nearer to it by :math:`l / 2` or more, by shortest ways :math:`D_p` along these edges, so
    that its edges have no cycle, and no path more than about :math:`2 \max D_p / l` of them,
    whatever the resolution; a vertex for which that leaves none reads all that are nearer. With
    the vertex areas :math:`A` (a third of the faces around),

    .. math::
        w_{ij} \propto e^{-\lVert \mathbf{p}_i - \mathbf{p}_j \rVert^2 / 2 l^2} \, A_j
        \max \big( (D_p(i) - D_p(j)) / l - 1/2, \; 10^{-3} \big) , \qquad \sum_j w_{ij} = 1 .

    The four kernels are :math:`w_{ij}` and its products with the three coordinates of the offset
    :math:`(\mathbf{p}_j - \mathbf{p}_i) / l` along the surface.

    Args:
        scale: The length :math:`l`, in the units of ``pos``; at least that of most edges.
        anchors: The vertices that sweeps start from.

    Returns (when called with a mesh):
        ``Data`` with ``edge_index``, ``edge_attr`` ``[E, 4 P]`` for ``SweepCell(groups=P,
        kernels=4)``, and ``x`` ``[N, P]``, a Gaussian of width :math:`l` around each anchor.

    Warns:
        UserWarning: If vertices are out of reach of an anchor; they read nothing.

    Raises:
        ValueError: If the data are no mesh, or an anchor is none of its vertices.

    Example:
        >>> from gncadeq.datasets import primitives
        >>> SurfaceSweeps(0.6, anchors=[0])(primitives.icosphere(1)).x.shape
        torch.Size([42, 1])
    """

    def __init__(self, scale: float, anchors: Sequence[int]) -> None:
        self.scale, self.anchors = check_number("scale", scale, above=0.0), list(anchors)
        if not self.anchors:
            raise ValueError("Expected at least one vertex in 'anchors' (got none)")

    def forward(self, data: Data) -> Data:
        """Return the graph of the sweeps."""
        check_mesh(data)
        pos, face, scale = data.pos.double(), data.face, self.scale
        check_range("anchors", torch.tensor(self.anchors), pos.size(0), "num_nodes")
        edge_index, length = self._near(pos, face)
        source, target = edge_index
        area = vertex_areas(pos, face)[source]
        normal = vertex_normals(pos, face)
        offset = pos[source] - pos[target]
        along = offset - (offset * normal[target]).sum(1, keepdim=True) * normal[target]
        bell = (-0.5 * (length / scale) ** 2).exp() * area
        columns, marks = [], []
        for anchor in self.anchors:
            far = _distances(edge_index, length, pos.size(0), anchor)
            reached = far[source].isfinite() & far[target].isfinite()
            gain = torch.where(reached, far[target] - far[source], 0.0)
            chosen = gain > scale / 2
            alone = torch.bincount(target[chosen], minlength=pos.size(0)) == 0
            chosen |= alone[target] & (gain > 0)
            weight = bell * (gain / scale - 0.5).clamp(min=1e-3) * chosen
            total = torch.zeros(pos.size(0), dtype=pos.dtype).index_add(0, target, weight)
            weight = weight / total[target].clamp(min=torch.finfo(pos.dtype).tiny)
            columns += [weight[:, None], weight[:, None] * along / scale]
            around = (pos - pos[anchor]).norm(dim=1)
            marks.append((-0.5 * (around / scale) ** 2).exp() * (around <= 3 * scale))
        out = data.clone()
        out.edge_index, out.edge_attr = edge_index, torch.cat(columns, 1).to(data.pos)
        out.x = torch.stack(marks, 1).to(data.pos)
        return out

    def _near(self, pos: Tensor, face: Tensor) -> tuple[Tensor, Tensor]:
        """Edges between vertices that can read each other, and their lengths."""
        from scipy.spatial import cKDTree

        pairs = torch.from_numpy(
            cKDTree(pos.numpy()).query_pairs(2 * self.scale, output_type="ndarray")
        )
        pairs = pairs.long().T
        normal = vertex_normals(pos, face)
        pairs = pairs[:, (normal[pairs[0]] * normal[pairs[1]]).sum(1) > 0]
        edges = torch.cat([pairs, pairs.flip(0), mesh_edges(face, pos.size(0))], 1)
        edges = coalesce(edges, num_nodes=pos.size(0))
        return edges, (pos[edges[0]] - pos[edges[1]]).norm(dim=1)


def _distances(edge_index: Tensor, length: Tensor, size: int, start: int) -> Tensor:
    """The shortest ways from a vertex to all."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import dijkstra

    entries = length.clamp(min=torch.finfo(length.dtype).tiny).numpy()
    graph = coo_matrix((entries, tuple(edge_index.numpy())), (size, size))
    found = torch.from_numpy(dijkstra(graph.tocsr(), indices=start))
    if bool(found.isinf().any()):
        warnings.warn(
            f"Expected a connected surface (got {int(found.isinf().sum())} of {size} vertices out "
            f"of reach of vertex {start}). No sweep gets there; connect the parts, or enlarge "
            "'scale'",
            stacklevel=3,
        )  # fmt: skip
    return found


class NonBacktracking(BaseTransform):  # type: ignore[misc]
    r"""The graph of the directed edges: messages that read those which lead to their sources.

    The message along :math:`i \to j` reads those along :math:`k \to i`, :math:`k \ne j`: it never
    turns back. On a tree this graph has no cycle, and its equilibrium is belief propagation's
    (`Pearl 1982 <https://ojs.aaai.org/index.php/AAAI/article/view/8082>`_); it is the line graph of
    `Chen et al. 2019 <https://arxiv.org/abs/1705.08415>`_.

    Returns (when called with ``Data``):
        ``Data`` whose nodes are the edges, with ``x`` that of their sources, ``edge_index`` between
        messages, ``node_x`` and ``y`` as they were, and ``target_index`` ``[E]``, the node to which
        each message leads: read states out by sums over it.

    Example:
        >>> path = Data(x=torch.rand(3, 2), edge_index=torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]))
        >>> messages = NonBacktracking()(path)
        >>> messages.edge_index
        tensor([[0, 3],
                [2, 1]])
    """

    def forward(self, data: Data) -> Data:
        """Return the graph of messages."""
        check_edge_index(data.edge_index)
        check_type("x", data.x, Tensor)
        source, target = data.edge_index
        count, n = source.numel(), int(data.num_nodes)
        # Each message meets all that leave its target, but the one that turns back.
        by_source = source.argsort(stable=True)
        out = torch.bincount(source, minlength=n)
        first = out.cumsum(0) - out
        number = out[target]
        sender = torch.arange(count).repeat_interleave(number)
        start = (first[target] - (number.cumsum(0) - number)).repeat_interleave(number)
        receiver = by_source[start + torch.arange(sender.numel())]
        onward = target[receiver] != source[sender]
        made = Messages(
            x=data.x[source], edge_index=torch.stack([sender[onward], receiver[onward]]),
            target_index=target, node_x=data.x, y=data.y,
        )  # fmt: skip
        made.num_nodes = count
        return made


class Messages(Data):  # type: ignore[misc]
    """Messages along the edges of a graph, with the nodes to which they lead."""

    def __inc__(self, key: str, value: Tensor, *args: object) -> int:
        """How much indices grow by a graph of a batch."""
        if key == "target_index":
            return int(self.node_x.size(0))
        return int(super().__inc__(key, value, *args))
