"""The patches of a surface: what a small square of a picture is on a mesh."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch_geometric.data import Data

from gncadeq.check import check_count
from gncadeq.graph.sparse import SparseMatrix, SparseRows
from gncadeq.training.texture_loss import PatchLoss
from gncadeq.transforms.surface_operators import tangent_frames


class SurfacePatchLoss(PatchLoss):
    r"""How unlike the patches of colours on a surface are to those of a texture.

    As :class:`PatchLoss`. A patch is a square lattice in the tangent plane of a vertex, whose
    points take their colours from the triangles below, by linear interpolation:

    .. math::
        P_i(\mathbf{c}) = \Big[ \sum_{k=1}^{3} w_k \, \mathbf{c}_{v_k} \text{ of the face below }
        \mathbf{x}_i + \ell \, (a \, \mathbf{e}_i + b \, \mathbf{n}_i) \Big]_{a, b}

    with the pixel's length :math:`\ell`. The patches of the picture lie between its pixels, and are
    interpolated as well. Where the graph carries frames (kernels ``"tangent"``) all squares stand
    upright. Elsewhere they are turned by random angles, since the surface knows no direction.

    Args:
        target: The texture ``[3, H, W]``, of which patches wrap around.
        data: The surface (:func:`gncadeq.training.textures.texture_surface`).
        size: Odd side of a patch.
        scales: How many pixels are averaged into one, along each side of a patch. Patches should
            be small against the surface's radius of curvature.
        projections: Directions that are drawn for each scale and call.
        samples: Patches at each scale, at vertices drawn by their area.
        seed: Of these vertices, and of the angles.

    Raises:
        ValueError: If target or surface lack what is needed, or a patch is larger than the target.

    Shapes:
        - **input:** colours :math:`(B, |\mathcal{V}|, 3)`
        - **output:** losses :math:`(B)`

    Example:
        >>> from gncadeq.datasets import primitives
        >>> from gncadeq.training.textures import texture_surface
        >>> target = torch.linspace(0, 1, 8).repeat(3, 32, 4)
        >>> loss = SurfacePatchLoss(target, texture_surface(primitives.icosphere(3)))
        >>> grey = torch.full((1, 642, 3), 0.5)
        >>> bool(loss(grey) > 0.01)
        True
    """

    def __init__(
        self,
        target: Tensor,
        data: Data,
        size: int = 5,
        scales: tuple[int, ...] = (1, 2),
        projections: int = 32,
        samples: int = 1024,
        seed: int = 0,
    ) -> None:
        missing = [k for k in ("pos", "face", "normal", "area", "pixel") if data.get(k) is None]
        if missing:
            raise ValueError(
                f"Expected a surface with {', '.join(missing)} (got {data}). "
                "gncadeq.training.textures.texture_surface makes one"
            )
        self.samples = check_count("samples", samples, 1)
        self._generator = torch.Generator().manual_seed(seed)
        self.turned = data.get("frame") is None
        super().__init__(target, size, scales, projections)
        self._looks = [self._look(data, scale) for scale in scales]

    def of_picture(self, image: Tensor, scale: int) -> Tensor:
        """Patches ``[N, 3 * size²]`` of a picture ``[3, H, W]``, between its pixels."""
        count = 4 * self.samples
        angle = 2 * math.pi * torch.rand(count, generator=self._generator) * self.turned
        place = torch.rand(count, 1, 2, generator=self._generator) * torch.tensor(image.shape[1:])
        right, down = _lattice(self.size * scale).unbind(1)
        sin, cos = angle.sin()[:, None], angle.cos()[:, None]
        at = place + torch.stack([cos * down - sin * right, sin * down + cos * right], 2)
        blocks = color_at(image, at).view(3, count, self.size, scale, self.size, scale).mean((3, 5))
        return blocks.transpose(0, 1).flatten(1)

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The loss of the colours ``[B, num_nodes, 3]``."""
        flat = images.transpose(0, 1).flatten(1)
        shape = self.samples, self.size**2, len(images), 3
        seen = (look(flat).view(shape).permute(2, 0, 3, 1).flatten(2) for look in self._looks)
        return self.distance(seen, generator)

    def _look(self, data: Data, scale: int) -> SparseMatrix:
        """From the vertices to the points of patches, ``[samples * size², num_nodes]``."""
        draw = self._generator
        center = torch.multinomial(data.area, self.samples, True, generator=draw)
        frame = tangent_frames(data.normal) if self.turned else data.frame
        east, north = frame[center].to(data.pos).unbind(1)
        lattice = data.pixel * _lattice(self.size * scale).to(data.pos)
        angle = 2 * math.pi * torch.rand(self.samples, 1, generator=draw) * self.turned
        sin, cos = angle.sin().to(data.pos), angle.cos().to(data.pos)
        right = cos * lattice[:, 0] + sin * lattice[:, 1]
        up = sin * lattice[:, 0] - cos * lattice[:, 1]
        offset = right[..., None] * east[:, None] + up[..., None] * north[:, None]
        vertex, weight = on_faces((data.pos[center, None] + offset).view(-1, 3), data)
        side = torch.arange(self.size * scale) // scale
        block = (side[:, None] * self.size + side).flatten()
        row = (self.size**2 * torch.arange(self.samples)[:, None] + block).flatten()
        rows = self.samples * self.size**2
        places, order = SparseRows.sort(
            row.repeat_interleave(3), vertex.flatten(), rows, int(data.num_nodes)
        )
        return SparseMatrix(places, weight.flatten()[order] / scale**2)


def color_at(image: Tensor, place: Tensor) -> Tensor:
    """The colours ``[3, ...]`` of a periodic picture ``[3, H, W]`` at places between its pixels.

    Args:
        image: The picture.
        place: Rows and columns ``[..., 2]``, which are interpolated linearly.

    Example:
        >>> color_at(torch.tensor([[[0.0, 1.0], [2.0, 3.0]]]), torch.tensor([0.5, 1.0]))
        tensor([2.])
    """
    height, width = image.shape[1:]
    low = place.floor()
    (v, u), (row, column) = (place - low).unbind(-1), low.long().unbind(-1)
    rows, columns = (row % height, (row + 1) % height), (column % width, (column + 1) % width)
    above, below = ((1 - u) * image[:, r, columns[0]] + u * image[:, r, columns[1]] for r in rows)
    return (1 - v) * above + v * below


def _lattice(side: int) -> Tensor:
    """``[side², 2]``, right and down from the middle, row by row."""
    line = torch.arange(side) - (side - 1) / 2
    return torch.cartesian_prod(line, line).flip(1)


def on_faces(points: Tensor, data: Data) -> tuple[Tensor, Tensor]:
    """The faces below points near a surface, and their places there.

    Of the faces around the nearest vertex, the one is taken inside which a point lies deepest.

    Args:
        points: ``[Q, 3]``.
        data: The mesh, ``pos`` and ``face``.

    Returns:
        Vertices ``[Q, 3]``, and barycentric weights ``[Q, 3]`` in [0, 1] that sum to one.

    Example:
        >>> face = torch.tensor([[0], [1], [2]])
        >>> mesh = Data(pos=torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), face=face)
        >>> on_faces(torch.tensor([[0.25, 0.5, 9.0]]), mesh)
        (tensor([[0, 1, 2]]), tensor([[0.2500, 0.2500, 0.5000]]))
    """
    from scipy.spatial import cKDTree

    used = data.face.unique()
    near = cKDTree(data.pos[used].double().numpy()).query(points.double().numpy())[1]
    vertex, face = data.face.T.reshape(-1), torch.arange(data.face.size(1)).repeat_interleave(3)
    order = vertex.argsort(stable=True)
    vertex, face = vertex[order], face[order]
    counts = torch.bincount(vertex, minlength=int(data.num_nodes))
    first = counts.cumsum(0) - counts
    turn = torch.arange(int(counts.max()))
    around = face[(first[:, None] + turn % counts.clamp(min=1)[:, None]).clamp(max=len(face) - 1)]
    candidates = data.face.T[around[used[torch.from_numpy(near)]]]  # [Q, most, 3]
    a, b, c = data.pos[candidates].unbind(2)
    ab, ac, ap = b - a, c - a, points[:, None] - a
    bb, bc, cc = (ab * ab).sum(2), (ab * ac).sum(2), (ac * ac).sum(2)
    pb, pc = (ap * ab).sum(2), (ap * ac).sum(2)
    size = (bb * cc - bc * bc).clamp(min=torch.finfo(bb.dtype).tiny)
    v, w = (cc * pb - bc * pc) / size, (bb * pc - bc * pb) / size
    inside = torch.stack([1 - v - w, v, w], 2)
    best = inside.amin(2).argmax(1)
    rows = torch.arange(len(points))
    weight = inside[rows, best].clamp(0, 1)
    return candidates[rows, best], weight / weight.sum(1, keepdim=True)
