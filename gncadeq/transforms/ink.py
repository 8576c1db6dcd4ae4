"""The ink of a picture: what stands out from its paper, whatever the colours and the light."""

from __future__ import annotations

import numpy as np
import scipy  # its parts load when they are used

_SIDE = 96  # the paper is fitted to a sample of about so many pixels a side
_ROUNDS = 8  # of fitting the paper to the pixels that fit it best
_FLAT = 0.06  # paper of one colour varies by at most this fraction of the picture's range
_LEAST = 0.02  # ink that differs less from its paper is none
_CLEAN = 0.1  # smooth until the noise is below this fraction of the ink's contrast


def find_ink(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Separate the ink of a picture from its paper.

    Args:
        image: ``[C, H, W]`` in [0, 1].

    Returns:
        How much each pixel differs from the paper ``[H, W]``, 0 for paper and about 1 for ink;
        which pixels are ink ``[H, W]``, none if nothing stands out from the noise; and whether the
        ink is darker than the paper.

    Example:
        >>> image = np.full((1, 8, 8), 0.9, np.float32)
        >>> image[0, 2:6, 4] = 0.1
        >>> _, ink, dark = find_ink(image)
        >>> int(ink.sum()), dark
        (4, True)
    """
    image = image.astype(np.float32, copy=False)
    difference = image - fit_paper(image)
    # The direction in colour along which the picture varies, signed so that ink is the long tail.
    flat = difference.reshape(len(image), -1)
    axis = np.linalg.eigh(flat @ flat.T)[1][:, -1]
    signed = np.tensordot(axis.astype(np.float32), difference, 1)
    sign = -1.0 if float(np.mean(signed**3, dtype=np.float64)) < 0 else 1.0
    signed *= sign
    noise = _noise(signed)
    first = _contrast(scipy.ndimage.gaussian_filter(signed, 1.0) if noise else signed)
    nothing = np.zeros(signed.shape, bool)
    if first < _LEAST:
        return signed, nothing, False
    width = 0.28 * noise / (_CLEAN * first)  # a Gaussian of this width leaves that much noise
    if width > 0.3:
        signed = scipy.ndimage.gaussian_filter(signed, width)
    contrast = _contrast(signed)
    if contrast < 0.3 * first:  # the smoothing removed it: it was noise
        return signed, nothing, False
    strength = signed / contrast
    return strength, strength > 0.5, bool(sign * axis.sum() < 0)


def fit_paper(image: np.ndarray) -> np.ndarray:
    """The colour of the paper at every pixel ``[C, H, W]``.

    It is one colour if half of the picture's border is; else quadratic in the place, fitted in turn
    to the half of the pixels that it fits best, beginning with the border.
    """
    channels, height, width = image.shape
    step = max(1, round(max(height, width) / _SIDE))
    rows, cols = (np.arange(min(step, n) // 2, n, step) for n in (height, width))
    sample = scipy.ndimage.uniform_filter(image, (0, step, step))[:, rows][:, :, cols]
    flat = sample.reshape(channels, -1).T
    border = np.zeros((len(rows), len(cols)), bool)
    ring = max(1, round(0.05 * min(border.shape)))
    border[:ring] = border[-ring:] = border[:, :ring] = border[:, -ring:] = True
    edge = np.sort(flat[border.ravel()], axis=0)
    half = len(edge) // 2
    spread = edge[half:] - edge[: len(edge) - half]  # of each run of half of the border's values
    if (spread.min(axis=0) <= _FLAT * float(np.ptp(flat, axis=0).max())).all():
        start = spread.argmin(axis=0)
        color = [np.median(edge[s : s + half + 1, c]) for c, s in enumerate(start)]
        return np.broadcast_to(np.array(color, np.float32)[:, None, None], image.shape)
    terms = _quadratic(rows / height, cols / width)
    weight = 1.0 + 3.0 * border.ravel()  # digits seldom reach the border
    keep = border.ravel().nonzero()[0]
    for _ in range(_ROUNDS):
        root = np.sqrt(weight[keep])[:, None]
        fit = np.linalg.lstsq(terms[keep] * root, flat[keep] * root, rcond=None)[0]
        rest = np.abs(flat - terms @ fit).sum(axis=1)
        keep = np.argsort(rest / weight, kind="stable")[: max(len(rest) // 2, terms.shape[1])]
    whole = _quadratic(np.arange(height) / height, np.arange(width) / width) @ fit
    fitted: np.ndarray = whole.T.reshape(image.shape).astype(np.float32)
    return fitted


def _quadratic(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    v, u = (m.ravel() for m in np.meshgrid(2 * y - 1, 2 * x - 1, indexing="ij"))
    return np.stack([np.ones_like(u), u, v, u * u, u * v, v * v], axis=1)


def _noise(value: np.ndarray) -> float:
    """The standard deviation of pixelwise noise, from the differences of neighbours."""
    steps = [np.abs(np.diff(value, axis=k)).ravel() for k in (0, 1)]
    joined = np.concatenate(steps)
    return float(np.median(joined)) / (0.6745 * 2**0.5) if joined.size else 0.0


def _contrast(value: np.ndarray) -> float:
    """The mean of the ink, where the paper is zero and the threshold halfway between the two.

    The iteration of `Ridler and Calvard <https://doi.org/10.1109/TSMC.1978.4310039>`_ with the
    paper's mean known, from the strongest ink downwards.
    """
    top = float(np.quantile(value, 1 - min(5e-4, 5 / value.size)))
    for _ in range(30):
        above = value > top / 2
        mean = float(value[above].mean()) if above.any() else top
        if abs(mean - top) <= 1e-4 * top:
            break
        top = mean
    return top
