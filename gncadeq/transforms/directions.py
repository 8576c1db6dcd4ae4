"""Directions between those of a window, for points in the plane, with levels of squares above."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import Batch, Data
from torch_geometric.transforms import BaseTransform

from gncadeq.check import check_number, check_type
from gncadeq.transforms.image import stack_graphs


class SoftDirections(BaseTransform):  # type: ignore[misc]
    r"""Join points in the plane with all that are near, by weights for each of nine directions.

    With the offset :math:`\mathbf{u} = (\mathbf{p}_j - \mathbf{p}_i) / s` of source :math:`j` from
    target :math:`i`, the weight of the relation to column :math:`a` and row :math:`b` of the 3 × 3
    window is

    .. math::
        a_{ij} = \max(0, 1 - |u_x - a|) \, \max(0, 1 - |u_y - b|) , \qquad a, b \in \{-1, 0, 1\} ,

    divided, where the weights of a relation sum to more than one at a target, by their sum. Points
    of a grid of spacing :math:`s` get the relations of :class:`ImageToGraph`. An edge is there if a
    weight isn't zero: from points less than :math:`2 s` to the right or left and :math:`2 s` up or
    down, the point itself included. A :class:`gncadeq.ConvCell` with ``bound="rows"`` is a
    contraction on all such graphs.

    With ``boxes``, coarser nodes stand above the points: one in each square of that side which
    holds a node of the level below, at the mean place of those. Between nodes of a level
    :math:`s` is the side of its squares. What leads from a level to the next has that of the level
    below, and relations 9 to 17. :class:`gncadeq.CascadeCell` takes such a pyramid.

    Args:
        scale: The length :math:`s` between points, in the units of ``pos``.
        boxes: Sides of the squares of each further level, in the same units.

    Returns (when called with ``Data`` with ``pos`` ``[N, 2]``, (column, row) of pixels, say):
        The data with other edges: ``edge_index`` ``[2, E]``, sorted by target, and ``edge_attr``
        ``[E, 9]``, or ``[E, 18]`` with boxes. Then there is ``level`` ``[N]`` too, and of the
        coarse nodes all but ``pos`` is zero.

    Raises:
        ValueError: If an option is out of range, or ``pos`` isn't there, finite and of two columns.

    Example:
        >>> pos = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.5, 1.0]])
        >>> data = SoftDirections(scale=1.0)(Data(x=torch.ones(3, 1), pos=pos))
        >>> data.edge_index[:, data.edge_index[1] == 0], data.edge_attr[1]
        (tensor([[0, 1, 2],
                [0, 0, 0]]), tensor([0., 0., 0., 0., 0., 1., 0., 0., 0.]))
        >>> SoftDirections(1.0, boxes=[2.0])(Data(x=torch.ones(3, 1), pos=pos)).level
        tensor([0, 0, 0, 1])
    """

    def __init__(self, scale: float, boxes: Sequence[float] = ()) -> None:
        self.scale = float(check_number("scale", scale, above=0.0))
        check_type("boxes", boxes, (list, tuple))
        self.boxes = [float(check_number("boxes", side, above=0.0)) for side in boxes]

    def forward(self, data: Data) -> Data:
        """Return ``data`` with other edges, and coarser nodes."""
        if data.get("batch") is not None:
            raise ValueError(
                "Expected a single graph (got a batch). Transform each, as a dataset's transform "
                "does, or use SoftDirections.batch"
            )
        pos = _checked(data.pos)
        count, nodes, edges = self._graphs(pos, torch.zeros(len(pos), dtype=torch.long))
        more = int(count.sum()) - len(pos)
        out = data.clone()
        for key, value in data.to_dict().items():
            if data.is_edge_attr(key):
                del out[key]
            elif key == "x" or (data.is_node_attr(key) and key != "pos" and len(pos) > 1):
                out[key] = torch.cat([value, value.new_zeros(more, *value.shape[1:])])
        kept = {"pos": nodes["pos"]} | ({"level": nodes["level"]} if self.boxes else {})
        for key, value in (kept | edges).items():
            out[key] = value
        if "num_nodes" in out:
            out.num_nodes = len(out.pos)
        return out

    def batch(self, data: Batch) -> Batch:
        """The batch of the graphs of a batch, made at once, many times faster.

        Args:
            data: A batch with ``x`` and ``pos``; its edges are not looked at. Labels ``y`` are
                kept, nothing else.

        Example:
            >>> data = Data(x=torch.ones(3, 1), pos=torch.rand(3, 2))
            >>> SoftDirections(1.0, [2.0]).batch(Batch.from_data_list([data, data])).num_graphs
            2
        """
        pos = _checked(data.pos)
        count, nodes, edges = self._graphs(pos, data.batch, data.num_graphs)
        x = data.x.new_zeros(len(nodes["row"]), data.x.size(1))
        x[nodes["level"] == 0] = data.x
        owner = torch.arange(data.num_graphs).repeat_interleave(count)
        per_graph = torch.bincount(owner[edges["edge_index"][1]], minlength=data.num_graphs)
        kept = {"x": x, "pos": nodes["pos"]}
        kept |= {"level": nodes["level"]} if self.boxes else {}
        by_graph = {} if data.get("y") is None else {"y": data.y}
        return stack_graphs((count, kept), (per_graph, edges), by_graph)

    def _graphs(
        self, pos: Tensor, owner: Tensor, num_graphs: int = 1
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """How many nodes each graph has, and what is known of nodes, by graph, and edges."""
        places, owners, found = [pos], [owner], []
        scales = [self.scale, *self.boxes]
        for level, scale in enumerate(scales):
            if level:
                box = torch.cat([owners[-1][:, None], (places[-1] / scale).floor().long()], 1)
                box, inside = torch.unique(box, dim=0, return_inverse=True)
                size = torch.bincount(inside, minlength=len(box))[:, None]
                total = pos.new_zeros(len(box), 2).index_add_(0, inside, places[-1])
                places.append(total / size)
                owners.append(box[:, 0])
                found.append((level - 1, level, *_near(places, owners, level - 1, scales)))
            found.append((level, level, *_near(places, owners, level, scales, level)))
        sizes = torch.tensor([len(p) for p in places])
        first = F.pad(sizes.cumsum(0), (1, 0)).tolist()
        owner = torch.cat(owners)
        row = owner.argsort(stable=True)  # by graph, then by level
        number = torch.empty_like(row)
        number[row] = torch.arange(len(row))
        ends, weights = [], []
        for low, high, source, target, weight in found:
            ends.append(torch.stack([number[source + first[low]], number[target + first[high]]]))
            up = 9 * (high > low)
            weights.append(F.pad(weight, (up, 9 * bool(self.boxes) - up)))
        edge_index, edge_attr = torch.cat(ends, 1), torch.cat(weights)
        order = (edge_index[1] * len(row) + edge_index[0]).argsort()
        level_of = torch.arange(len(scales)).repeat_interleave(sizes)
        nodes = {"pos": torch.cat(places)[row], "level": level_of[row], "row": row}
        edges = {"edge_index": edge_index[:, order], "edge_attr": edge_attr[order]}
        return torch.bincount(owner, minlength=num_graphs), nodes, edges

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}(scale={self.scale:g}, boxes={self.boxes})"


def _checked(pos: Tensor | None) -> Tensor:
    """Positions ``[N, 2]``, finite."""
    if pos is None:
        raise ValueError("Expected data with 'pos' [N, 2] (got none)")
    check_type("pos", pos, Tensor)
    if pos.dim() != 2 or pos.size(1) != 2 or not bool(pos.isfinite().all()):
        raise ValueError(f"Expected finite 'pos' of shape [N, 2] (got {list(pos.shape)})")
    return pos


def _near(
    places: list[Tensor], owners: list[Tensor], low: int, scales: list[float], high: int = -1
) -> tuple[Tensor, Tensor, Tensor]:
    """Sources of level ``low``, targets of ``high``, and the nine weights of each pair."""
    from scipy.spatial import cKDTree

    scale = scales[low]
    trees = [  # graphs are further apart than any reach
        cKDTree(torch.cat([p / scale, 4.0 * o[:, None]], 1).double().numpy())
        for p, o in ((places[high], owners[high]), (places[low], owners[low]))
    ]
    pairs = trees[0].sparse_distance_matrix(trees[1], 2.0, p=float("inf"), output_type="ndarray")
    target, source = torch.from_numpy(pairs["i"].copy()), torch.from_numpy(pairs["j"].copy())
    offset = (places[low][source] - places[high][target]) / scale
    hat = (1 - (offset[:, :, None] - torch.tensor([-1.0, 0.0, 1.0])).abs()).clamp(min=0)
    weight = (hat[:, 1, :, None] * hat[:, 0, None, :]).flatten(1)  # row by row
    sums = weight.new_zeros(len(places[high]), 9).index_add_(0, target, weight)
    weight = weight / sums.clamp(min=1.0)[target]
    kept = (weight > 0).any(1)
    return source[kept], target[kept], weight[kept]
