"""A hierarchy of coarser graphs above a graph, as one heterogeneous graph."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch_geometric.data import Data, HeteroData
from torch_geometric.transforms import BaseTransform
from torch_geometric.utils import coalesce, scatter

from gncadeq.check import check_choice, check_count, check_flag, check_value
from gncadeq.graph.neighborhood import check_range
from gncadeq.typing import OptTensor

CoarsenMethod = Literal["matching", "voxel"]


class Coarsen(BaseTransform):  # type: ignore[misc]
    r"""Put coarser copies of a graph above it: what a multi-scale equilibrium lives on.

    Nodes of level :math:`l` are joined into the nodes of level :math:`l + 1`; an edge between two
    coarse nodes is there if one is between nodes within them. The result is heterogeneous, with
    node types ``"level0"`` (the graph as it was), ``"level1"``, … and the relations ``("level0",
    "to", "level0")``, … within levels, ``("level0", "up", "level1")`` from each node to the one
    that holds it, and ``("level1", "down", "level0")`` back: what :class:`gncadeq.RelationCell`
    and PyG's heterogeneous convs take, alone or in batches.

    - ``"matching"``, for any graph: every node is joined with the free neighbour that most edges
      lead to, nodes of low degree first; one that finds none free joins the pair of its closest
      neighbour (heavy-edge matching, `Karypis & Kumar 1998
      <https://doi.org/10.1137/S1064827595287997>`_, sect. 3.1). Each matching halves a graph at
      least, isolated nodes aside; ``factor`` is a power of two.
    - ``"voxel"``, for graphs with ``pos``: nodes in one box are joined. Boxes have the edge length
      ``size`` at level 1 and ``factor`` times more with each level, from the smallest coordinates
      on. ``Coarsen(method="voxel", size=2.0)`` pools 2 × 2 pixels of :class:`ImageToGraph`.

    With ``descend=True`` the way down has nodes of its own, so that no relation leads back to where
    its messages come from: types ``"down0"``, … of all levels but the coarsest, each a copy of its
    level (``("level0", "over", "down0")``), with the edges of its level and read from above
    (``("down1", "down", "down0")``; the last of them from the coarsest level itself). The finest,
    ``"down0"``, has heard the whole hierarchy.

    Args:
        levels: Number of levels, the graph itself included.
        method: ``"matching"`` or ``"voxel"``.
        factor: How much coarser a level is than the one below, at least 2.
        size: Edge length of the boxes of level 1, in the units of ``pos``.
        descend: Whether the way down has nodes of its own.

    Returns (when called with ``Data``):
        ``HeteroData``. Coarse levels have the means of ``x`` and of ``pos``; all else of a node or
        an edge stays with level 0. Nodes on the way down have the ``x`` of those that they copy.

    Raises:
        ValueError: On an option out of range or a missing attribute.

    Example:
        >>> from gncadeq.transforms import ImageToGraph
        >>> data = Coarsen(levels=3, method="voxel", size=2.0)(ImageToGraph()(torch.rand(1, 8, 8)))
        >>> [data[name].x.size(0) for name in data.node_types]
        [64, 16, 4]
        >>> data["level1", "down", "level0"].edge_index.shape
        torch.Size([2, 64])
    """

    def __init__(
        self,
        levels: int = 3,
        method: CoarsenMethod = "matching",
        factor: int = 2,
        size: float | None = None,
        descend: bool = False,
    ) -> None:
        levels = check_count("levels", levels, 1)
        check_choice("method", method, get_args(CoarsenMethod))
        factor = check_count("factor", factor, 2)
        if method == "matching" and factor & (factor - 1):
            raise ValueError(f"Expected 'factor' to be a power of two for matchings (got {factor})")
        if (size is None) == (method == "voxel"):
            raise ValueError(
                f"Expected 'size', the edge of a box, with method='voxel' alone (got {size})"
            )
        size = check_value("size", size, float | None, above=0.0, hint="It is the edge of a box")
        self.levels, self.factor, self.size = levels, factor, size
        self.method: CoarsenMethod = method
        self.descend = check_flag("descend", descend)

    def forward(self, data: Data) -> HeteroData:
        """Return the hierarchy above ``data``."""
        if data.edge_index is None or data.x is None:
            raise ValueError("Expected data with 'x' and 'edge_index' (got none)")
        if data.get("batch") is not None:
            raise ValueError(
                "Expected a single graph (got a batch, whose graphs a hierarchy would join). "
                "Coarsen each, then Batch.from_data_list, as a DataLoader does"
            )
        check_range("edge_index", data.edge_index, data.x.size(0), "num_nodes")
        out = self._finest(data)
        x, pos, edge_index = data.x, data.pos, data.edge_index
        weight = x.new_ones(edge_index.size(1))
        boxes = self._boxes(data.pos) if self.method == "voxel" else x
        for level in range(1, self.levels):
            if self.method == "voxel":
                boxes, cluster = _distinct(boxes)
                boxes = boxes.div(self.factor, rounding_mode="floor")  # the next level's
            else:
                cluster = _halved(edge_index, weight, x.size(0))
                for _ in range(self.factor.bit_length() - 2):
                    edges, sums = _joined(edge_index, weight, cluster)
                    cluster = _halved(edges, sums, _count(cluster))[cluster]
            count = _count(cluster)
            edge_index, weight = _joined(edge_index, weight, cluster)
            x = scatter(x, cluster, dim_size=count, reduce="mean")
            fine, coarse = f"level{level - 1}", f"level{level}"
            out[coarse].x = x
            if pos is not None:
                pos = scatter(pos, cluster, dim_size=count, reduce="mean")
                out[coarse].pos = pos
            up = torch.stack([torch.arange(cluster.numel(), device=cluster.device), cluster])
            out[coarse, "to", coarse].edge_index = edge_index
            out[fine, "up", coarse].edge_index = up
            if not self.descend:
                out[coarse, "down", fine].edge_index = up.flip(0)
        return self._with_way_down(out) if self.descend else out

    def _with_way_down(self, out: HeteroData) -> HeteroData:
        """The copies of all levels but the coarsest, from the coarsest to the finest."""
        above = f"level{self.levels - 1}"
        for level in reversed(range(self.levels - 1)):
            own, copy = f"level{level}", f"down{level}"
            number = out[own].x.size(0)
            out[copy].x = out[own].x
            up = out[own, "up", f"level{level + 1}"].edge_index
            out[own, "over", copy].edge_index = torch.arange(number, device=up.device).repeat(2, 1)
            out[copy, "to", copy].edge_index = out[own, "to", own].edge_index
            out[above, "down", copy].edge_index = up.flip(0)
            above = copy
        return out

    def _finest(self, data: Data) -> HeteroData:
        out = HeteroData()
        nodes, edges = out["level0"], out["level0", "to", "level0"]
        for key, value in data.to_dict().items():
            of_edge = data.is_edge_attr(key)
            store: Any = nodes if data.is_node_attr(key) else edges if of_edge else out
            store[key] = value
        edges.edge_index = data.edge_index
        return out

    def _boxes(self, pos: OptTensor) -> Tensor:
        """``[num_nodes, dimensions]``, the box of level 1 of every node."""
        if pos is None:
            raise ValueError("Expected data with 'pos' for method='voxel' (got none)")
        if not bool(pos.isfinite().all()):
            raise ValueError("Expected finite 'pos' for method='voxel' (got NaN or infinity)")
        low = pos.amin(0) if pos.size(0) else 0.0
        return ((pos - low) / float(self.size or 0)).floor().long()

    def __repr__(self) -> str:
        more = f", size={self.size:g}" if self.size is not None else ""
        return (
            f"{self.__class__.__name__}(levels={self.levels}, method={self.method!r}, "
            f"factor={self.factor}{more}{', descend=True' if self.descend else ''})"
        )


def _count(cluster: Tensor) -> int:
    return int(cluster.max()) + 1 if cluster.numel() else 0


def _distinct(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """The different rows, and which of them every row is."""
    if not boxes.numel():
        return boxes, torch.zeros(boxes.size(0), dtype=torch.long, device=boxes.device)
    return torch.unique(boxes, dim=0, return_inverse=True)  # type: ignore[no-any-return]


def _joined(edge_index: Tensor, weight: Tensor, cluster: Tensor) -> tuple[Tensor, Tensor]:
    """The edges between clusters, with the sums of the weights, loops left out."""
    ends = cluster[edge_index]
    kept = ends[0] != ends[1]
    return coalesce(ends[:, kept], weight[kept], _count(cluster), sort_by_row=False)  # type: ignore[no-any-return]


def _halved(edge_index: Tensor, weight: Tensor, num_nodes: int) -> Tensor:
    """``[num_nodes]``, the cluster of every node, by one heavy-edge matching."""
    both = torch.cat([edge_index, edge_index.flip(0)], dim=1)
    both, sums = coalesce(both, torch.cat([weight, weight]), num_nodes)
    kept = both[0] != both[1]
    (source, target), sums = both[:, kept], sums[kept]
    degree = torch.bincount(source, minlength=num_nodes)
    # Of every node the heaviest neighbours first, those of low degree before others.
    order = degree[target].argsort(stable=True)
    order = order[sums[order].argsort(descending=True, stable=True)]
    order = order[source[order].argsort(stable=True)]
    near = [part.tolist() for part in torch.split(target[order].cpu(), degree.tolist())]
    cluster, count, lonely = [-1] * num_nodes, 0, []
    for node in degree.argsort(stable=True).tolist():
        if cluster[node] >= 0:
            continue
        free = next((other for other in near[node] if cluster[other] < 0), None)
        if free is None and near[node]:
            lonely.append(node)
            continue
        cluster[node] = count
        if free is not None:
            cluster[free] = count
        count += 1
    for node in lonely:  # whose neighbours all have a partner
        cluster[node] = cluster[near[node][0]]
    return torch.tensor(cluster, dtype=torch.long, device=edge_index.device)
