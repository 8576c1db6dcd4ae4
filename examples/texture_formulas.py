"""Textures to learn from and to test with: by formula, which are periodic, and photographs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gncadeq.check import check_choice, check_count, check_seed


def texture(name: str, size: int = 64, seed: int = 0) -> Tensor:
    """A periodic texture ``[3, size, size]`` in [0, 1]; another seed is another piece of it
    (but of bricks and checkers, which are regular).

    Args:
        name: A name of :data:`TEXTURES`.
        size: Side in pixels, at least 16. The textures' own lengths are about 8 to 12 pixels
            whatever the size.
        seed: Seed of where things are.

    Raises:
        ValueError: If the name is unknown, or the size too small.

    Example:
        >>> texture("checkers", 16)[0, 0, ::4]
        tensor([0.9000, 0.1000, 0.9000, 0.1000])
    """
    check_choice("name", name, TEXTURES)
    check_count("size", size, 16)
    check_seed(seed)
    return TEXTURES[name](size, torch.Generator().manual_seed(seed))


def photograph(name: str) -> Tensor:
    """A photograph ``[3, 512, 512]`` in [0, 1] that scikit-image ships; it is grey.

    Args:
        name: A name of :data:`PHOTOGRAPHS`.

    Raises:
        ImportError: Without scikit-image.
        ValueError: If the name is unknown.
    """
    check_choice("name", name, PHOTOGRAPHS)
    try:
        import skimage.data
    except ImportError as error:
        raise ImportError(
            "Expected scikit-image for its photographs (not installed). "
            "pip install 'gncadeq[superpixels]', or give a picture of your own"
        ) from error
    return torch.from_numpy(getattr(skimage.data, name)()).float().div(255).repeat(3, 1, 1)


def gray_scott(
    size: int, generator: torch.Generator, feed: float, kill: float, steps: int = 6000
) -> Tensor:
    r"""The second substance ``[size, size]`` of the Gray–Scott reaction on a torus.

    .. math::
        \dot u = 0.16 \, \Delta u - u v^2 + F (1 - u), \qquad
        \dot v = 0.08 \, \Delta v + u v^2 - (F + k) v

    (`Pearson 1993 <https://doi.org/10.1126/science.261.5118.189>`_), with the five-point Laplacian
    and a time step of one, from squares of noise.

    Args:
        size: Side in pixels.
        generator: Where the reaction is sown.
        feed: Feed rate :math:`F`.
        kill: Kill rate :math:`k`.
        steps: Steps of time.
    """
    u, v = torch.ones(size, size), torch.zeros(size, size)
    places = torch.randint(size, (max(4, size * size // 120), 2), generator=generator)
    for row, column in places.tolist():
        rows = (torch.arange(3) + row) % size
        columns = (torch.arange(3) + column) % size
        v[rows[:, None], columns] = 0.5
        u[rows[:, None], columns] = 0.5
    for _ in range(steps):
        reaction = u * v * v
        u = u + 0.16 * _laplacian(u) - reaction + feed * (1 - u)
        v = v + 0.08 * _laplacian(v) + reaction - (feed + kill) * v
    return v


def _laplacian(u: Tensor) -> Tensor:
    return u.roll(1, 0) + u.roll(-1, 0) + u.roll(1, 1) + u.roll(-1, 1) - 4 * u


def _mix(level: Tensor, low: tuple[float, ...], high: tuple[float, ...]) -> Tensor:
    """``low`` where ``level`` is 0, ``high`` where it is 1."""
    a, b = torch.tensor(low)[:, None, None], torch.tensor(high)[:, None, None]
    return a + level.clamp(0, 1) * (b - a)


def _leopard(size: int, generator: torch.Generator) -> Tensor:
    v = gray_scott(size, generator, feed=0.030, kill=0.062)
    return _mix((v - 0.08) / 0.14, (0.93, 0.72, 0.38), (0.18, 0.09, 0.04))


def _coral(size: int, generator: torch.Generator) -> Tensor:
    v = gray_scott(size, generator, feed=0.0545, kill=0.062)
    return _mix((v - 0.1) / 0.2, (0.05, 0.25, 0.35), (0.98, 0.62, 0.45))


def _giraffe(size: int, generator: torch.Generator) -> Tensor:
    count = max(2, round(size / 11))
    corner = torch.cartesian_prod(torch.arange(count), torch.arange(count)).float()
    seeds = (corner + 0.15 + 0.7 * torch.rand(len(corner), 2, generator=generator)) * size / count
    pixel = torch.cartesian_prod(torch.arange(size), torch.arange(size)).float()
    offset = pixel[:, None] - seeds
    offset = offset - size * (offset / size).round()  # the nearest copy on the torus
    nearest = offset.norm(dim=2).sort(dim=1).values
    border = (nearest[:, 1] - nearest[:, 0]).view(size, size)
    return _mix((border - 1.2) / 2.0, (0.96, 0.87, 0.66), (0.55, 0.29, 0.12))


def _bricks(size: int, generator: torch.Generator) -> Tensor:
    rows, columns = max(1, round(size / 16)) * 2, max(1, round(size / 14))
    height, width = size / rows, size / columns
    down, right = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    row = (down / height).floor()
    across = (right + (row % 2) * width / 2) % width
    mortar = (down % height < 1.5) | (across < 1.5)
    return _mix(mortar.float(), (0.72, 0.25, 0.16), (0.85, 0.82, 0.76))


def _checkers(size: int, generator: torch.Generator) -> Tensor:
    count = max(1, round(size / 8)) * 2
    down, right = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    odd = ((down * count // size) + (right * count // size)) % 2
    return _mix(odd.float(), (0.9, 0.9, 0.85), (0.1, 0.1, 0.15))


TEXTURES: dict[str, Callable[[int, torch.Generator], Tensor]] = {
    "leopard": _leopard,  # spots of a reaction
    "coral": _coral,  # its labyrinth
    "giraffe": _giraffe,  # cells of a Voronoi diagram
    "bricks": _bricks,
    "checkers": _checkers,
}
"""Textures by name; the first three look alike in all directions."""
PHOTOGRAPHS = ("brick", "grass", "gravel")
"""Photographs by name."""
