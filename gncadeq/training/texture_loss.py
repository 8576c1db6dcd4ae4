"""How unlike two textures are: distances between the distributions of their patches."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor


def sliced_wasserstein(x: Tensor, y: Tensor, directions: Tensor) -> Tensor:
    r"""The squared sliced Wasserstein distance between two clouds of points.

    .. math::
        \mathrm{SW}_2^2(X, Y) = \mathbb{E}_{\omega} \int_0^1 \big( F^{-1}_{\omega \cdot X}(q) -
        F^{-1}_{\omega \cdot Y}(q) \big)^2 \, dq

    On a line the optimal transport is the one in order, so every direction :math:`\omega` costs two
    sorts (`Rabin et al. 2011 <https://doi.org/10.1007/978-3-642-24785-9_37>`_). Clouds of different
    sizes are compared at as many quantiles as the smaller one has points.

    Args:
        x: Points ``[..., N, D]``.
        y: Points ``[M, D]`` or ``[..., M, D]``.
        directions: Unit vectors ``[P, D]``, such as :func:`random_directions` draws.

    Returns:
        ``[...]``, differentiable with respect to both clouds.

    Raises:
        ValueError: If the points have different dimensions, or a cloud is empty.

    Example:
        >>> x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [2.0]])
        >>> sliced_wasserstein(x, y, torch.ones(1, 1))
        tensor(4.)
    """
    d = directions.size(1)
    if x.size(-1) != d or y.size(-1) != d or 0 in x.shape[-2:] or 0 in y.shape[-2:]:
        raise ValueError(
            f"Expected points of {d} dimensions, as the directions have, and one in each cloud at "
            f"least (got {list(x.shape)} and {list(y.shape)})"
        )
    # [..., P, N]: in order along every direction
    a = (directions @ x.transpose(-1, -2)).sort(dim=-1).values
    b = (directions @ y.transpose(-1, -2)).sort(dim=-1).values
    count = min(a.size(-1), b.size(-1))
    return (_quantiles(a, count) - _quantiles(b, count)).square().mean((-1, -2))


def _quantiles(ordered: Tensor, count: int) -> Tensor:
    """The values at the middles of ``count`` equal shares."""
    n = ordered.size(-1)
    if n == count:
        return ordered
    place = (torch.arange(count, device=ordered.device) + 0.5) * (n / count)
    return ordered[..., place.long().clamp(max=n - 1)]


def random_directions(
    count: int, pixels: int, channels: int, seen: int = 2, generator: torch.Generator | None = None
) -> Tensor:
    """Unit vectors ``[count, channels * pixels]`` that look at a few pixels of a patch each.

    A sum over all pixels of a patch is nearly normally distributed whatever the texture; over few
    it keeps what tells textures apart.

    Args:
        count: Number of directions.
        pixels: Pixels of a patch.
        channels: Channels of a pixel.
        seen: Pixels that a direction looks at.
        generator: The source of randomness.

    Example:
        >>> omega = random_directions(3, pixels=25, channels=1)
        >>> omega.norm(dim=1).round(decimals=4), (omega != 0).sum(1)
        (tensor([1., 1., 1.]), tensor([2, 2, 2]))
    """
    order = torch.rand(count, 1, pixels, generator=generator).argsort(dim=2)
    values = torch.randn(count, channels, pixels, generator=generator) * (order < seen)
    return F.normalize(values.flatten(1), dim=1)


def image_patches(images: Tensor, size: int = 5, scale: int = 1) -> Tensor:
    """All patches of periodic images, one around each pixel.

    Args:
        images: ``[B, C, H, W]``.
        size: Odd side of a patch in pixels of the shrunken image.
        scale: The images are first shrunk by this factor, by averages of whole blocks; rows and
            columns beyond the last whole block are left out.

    Returns:
        ``[B, N, C * size²]``.

    Raises:
        ValueError: If the shrunken image is smaller than a patch.

    Example:
        >>> image_patches(torch.rand(2, 3, 8, 8), size=3, scale=2).shape
        torch.Size([2, 16, 27])
    """
    if size % 2 == 0 or min(images.shape[-2:]) // scale < size:
        raise ValueError(
            f"Expected images of at least an odd patch's size, {size} (got "
            f"{[side // scale for side in images.shape[-2:]]} after shrinking by {scale})"
        )
    if scale > 1:
        images = F.avg_pool2d(images, scale)
    images = F.pad(images, (size // 2,) * 4, mode="circular")
    return F.unfold(images, size).transpose(1, 2)


class PatchLoss:
    r"""How unlike the patches of images are to those of a texture, at several scales.

    .. math::
        L = \sum_{s} \mathrm{SW}_2^2 \big( P_s(I), P_s(T) \big)

    over the patches of :math:`n \times n` pixels of the images shrunk by :math:`s`, along
    directions that look at two pixels each (:func:`random_directions`). No pretrained network is
    involved (`Elnekave & Weiss 2022 <https://arxiv.org/abs/2203.11862>`_ synthesise images so).

    Args:
        target: The texture ``[3, H, W]``, of which patches wrap around.
        size: Odd side :math:`n` of a patch.
        scales: Factors by which images are shrunk.
        projections: Directions that are drawn for each scale and call.

    Raises:
        ValueError: If the target has another shape, isn't finite, or is too small.

    Shapes:
        - **input:** images :math:`(B, 3, H, W)` of any size
        - **output:** losses :math:`(B)`

    Example:
        >>> target = torch.linspace(0, 1, 8).repeat(3, 32, 4)
        >>> loss = PatchLoss(target)
        >>> moved, noise = target.roll((4, 8), (1, 2)), torch.rand(3, 32, 32)
        >>> a, b = loss(torch.stack([moved, noise]), torch.Generator().manual_seed(0))
        >>> bool(a < 0.01 * b)
        True
    """

    def __init__(
        self,
        target: Tensor,
        size: int = 5,
        scales: tuple[int, ...] = (1, 2, 4),
        projections: int = 32,
    ) -> None:
        if target.dim() != 3 or target.size(0) != 3 or not bool(target.isfinite().all()):
            raise ValueError(
                f"Expected a finite 'target' of shape [3, height, width] (got {list(target.shape)})"
            )
        self.size, self.scales, self.projections = size, scales, projections
        self.patches = [self.of_picture(target, s) for s in scales]

    def of_picture(self, image: Tensor, scale: int) -> Tensor:
        """The patches ``[N, 3 * size²]`` of a picture ``[3, H, W]``."""
        return image_patches(image[None], self.size, scale)[0]

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The loss of every image ``[B, 3, H, W]``."""
        seen = (image_patches(images, self.size, scale) for scale in self.scales)
        return self.distance(seen, generator)

    def distance(self, seen: Iterable[Tensor], generator: torch.Generator | None = None) -> Tensor:
        """The loss ``[...]`` of patches ``[..., N, 3 * size²]`` at every scale."""
        total = self.patches[0].new_zeros(())
        for x, target in zip(seen, self.patches, strict=True):
            omega = random_directions(self.projections, self.size**2, 3, generator=generator)
            total = total + sliced_wasserstein(x, target.to(x), omega.to(x))
        return total

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}(size={self.size}, scales={self.scales}, "
            f"projections={self.projections})"
        )
