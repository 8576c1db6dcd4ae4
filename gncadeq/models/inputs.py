"""What a classifier's training images were like, and whether others are like them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gncadeq.dynamics import ConvergenceWarning
from gncadeq.neighborhood import Neighborhood
from gncadeq.transforms import ImageToGraph
from gncadeq.transforms.digits import stroke_width

if TYPE_CHECKING:
    from gncadeq.datasets import PixelGraphs
    from gncadeq.models.pixel_classifier import PixelGraphClassifier

_DRAWN = ("mnist", "kmnist", "digits")  # datasets of ink on paper
_RARE = 1e-3  # of the training images lie outside each limit, on either side


@torch.no_grad()
def describe_inputs(
    model: PixelGraphClassifier, dataset: PixelGraphs, limit: int = 10_000
) -> dict[str, Any]:
    r"""Describe the images that a classifier was trained on, for its card's ``"inputs"``.

    Limits leave out a thousandth of the images on either side. The pooled states are described by
    the mean :math:`\mu_c` of every class and the covariance :math:`\Sigma` within the classes; the
    distance of a pooled state is that from the nearest mean, :math:`\min_c \lVert \Sigma^{-1/2}
    (\mathbf{p} - \mu_c) \rVert` (`Lee et al., 2018 <https://arxiv.org/abs/1807.03888>`_).

    Args:
        model: The classifier.
        dataset: Its training images.
        limit: How many of them to look at, from the first on.

    Returns:
        ``drawn`` (whether the images are ink on paper), ``canvas`` (pixels a side), ``size`` (the
        ink's longer side, median), ``stroke`` (width in pixels: low, high) and ``stroke_median``,
        ``living`` (share of the canvas: low, high), ``dimmest`` (the highest that an image's
        dimmest living pixel is), and ``pooled`` (``mean`` ``[classes, C]``, ``whiten`` ``[C, C]``,
        and ``far``, the high limit of the distance; ``None`` if the states are not finite).
    """
    images = dataset.images[:limit].float() / 255
    labels = dataset.labels[: len(images)]
    threshold = model.to_graph.living_threshold
    ink = images[:, 0] > (0.0 if threshold is None else threshold)
    size = torch.maximum(ink.any(2).sum(1), ink.any(1).sum(1)).double()
    stroke = torch.tensor([stroke_width(image[0]) for image in images], dtype=torch.double)
    living = ink.flatten(1).double().mean(1) if threshold is not None else torch.ones(1)
    dimmest = torch.where(ink, images[:, 0], 1.0).flatten(1).amin(1)
    return {
        "drawn": dataset.name in _DRAWN,
        "canvas": images.size(-1),
        "size": int(size.median()),
        "stroke": _limits(stroke),
        "stroke_median": _round(stroke.median()),
        "living": _limits(living),
        "dimmest": _limits(dimmest)[1],
        "pooled": _describe_states(model, images, labels),
    }


def _describe_states(
    model: PixelGraphClassifier, images: Tensor, labels: Tensor
) -> dict[str, Any] | None:
    pooled = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for part in torch.split(images, 250):
            data = model.to_graph.batch(part).to(next(model.parameters()).device)
            z, partition, _ = model.settle(
                data.x, data.edge_index, data.edge_attr, data.batch, batch_size=data.num_graphs
            )
            pooled.append(partition.mean(z).double().cpu())
    state = torch.cat(pooled)
    finite = state.isfinite().all(1)
    state, labels = state[finite], labels[finite]
    if len(state) <= 2 * state.size(1):  # training diverged: nothing is known
        return None
    present, place = torch.unique(labels, return_inverse=True)
    mean = torch.stack([state[labels == c].mean(0) for c in present])
    rest = state - mean[place]
    value, vector = torch.linalg.eigh(rest.T @ rest / len(rest))
    whiten = vector / value.clamp_min(1e-6 * float(value[-1]) + 1e-30).sqrt()
    return {
        "mean": [[_round(x) for x in row] for row in mean],
        "whiten": [[_round(x) for x in row] for row in whiten],
        "far": _limits(_distance(state, mean, whiten))[1],
    }


def check_kind(
    inputs: Mapping[str, Any], to_graph: ImageToGraph, x: Tensor, hood: Neighborhood
) -> None:
    """Refuse pixel graphs of another kind than those that the weights were trained on.

    Pixels that are masked, as explainers do, and pixels or edges that are absent are no reason.

    Args:
        inputs: What :func:`describe_inputs` returned.
        to_graph: What made the graphs of the training images.
        x: Pixels ``[num_nodes, channels]`` of a batch.
        hood: Its edges.

    Raises:
        ValueError: If pixels are far outside of [0, 1]; if background is among the nodes of weights
            trained on living pixels, or absent for weights trained on all; if some graphs together
            have no pixels as dim as training images have, as after a higher threshold; or if the
            neighbourhood is another.
    """
    if x.numel() == 0:
        return
    peak, threshold = x.detach().amax(1), to_graph.living_threshold
    low, high, dimmest = torch.stack([x.detach().amin(), peak.max(), peak.min()]).tolist()
    remedy = "Build graphs with model.to_graph"
    if low <= -1 or high >= 2:
        raise ValueError(
            f"Expected pixels in [0, 1], as the weights were trained on (got {low:g} to {high:g}). "
            "Divide 8-bit images by 255, and don't standardise them"
        )
    diagonal = bool((hood.incoming.relation % 2 == 0).sum() > x.size(0))  # 4 is the pixel itself
    least, most = (share * inputs["canvas"] ** 2 for share in inputs["living"])
    if x.size(0) >= least and diagonal != (to_graph.neighborhood == "moore"):
        raise ValueError(
            f"Expected pixels with {to_graph.neighborhood!r} neighbourhoods, as the weights were "
            f"trained on (got edges {'with' if diagonal else 'without'} diagonals). {remedy}"
        )
    if threshold is None:
        if hood.grid is None and dimmest > 0:
            raise ValueError(
                "Expected graphs of all pixels, as the weights were trained on (got graphs without "
                f"the dark ones). {remedy}"
            )
        return
    if x.requires_grad:  # being explained or attacked: the values are no longer an image's
        return
    if dimmest <= threshold:
        dead = peak <= threshold
        if hood.grid is None:  # a mask may darken a stroke, most of which has an outline near
            dead &= hood.incoming.node_ptr.diff() == 9
        share = float(dead.float().mean())
        if share > (0.25 if hood.grid is not None else 0.5):
            raise ValueError(
                f"Expected graphs of the pixels above living_threshold={threshold:g} alone, as the "
                f"weights were trained on (got background: {share:.0%} of the nodes). {remedy}"
            )
    elif x.size(0) > 3 * most and dimmest > inputs["dimmest"]:  # one image may be without
        raise ValueError(
            f"Expected all pixels above living_threshold={threshold:g}, as the weights were "
            f"trained on (got none below {dimmest:.3g}: a higher threshold, or a picture without "
            f"soft edges). {remedy}, of images with grey levels, as FindDigits makes"
        )


def doubts(inputs: Mapping[str, Any], image: Tensor, nodes: int, pooled: Tensor) -> list[str]:
    """Why the answer for an image may be wrong: what sets it apart from the training images.

    Args:
        inputs: What :func:`describe_inputs` returned.
        image: ``[C, H, W]``, the image as the model is given it.
        nodes: How many of its pixels live.
        pooled: ``[channels]``, the mean of its state.

    Returns:
        Phrases, none if the image is like the training images.
    """
    found = []
    height, width = image.shape[1:]
    if max(height, width) != inputs["canvas"]:
        found.append(f"{height} × {width} pixels (trained on {inputs['canvas']})")
    low, high = inputs["stroke"]
    stroke = stroke_width(image[0])
    if not low <= stroke <= high:
        found.append(f"strokes {stroke:.1f} pixels wide (trained on {low:.1f} to {high:.1f})")
    low, high = inputs["living"]
    share = nodes / (height * width)
    if not low <= share <= high:
        found.append(f"{share:.0%} of its pixels live (trained on {low:.0%} to {high:.0%})")
    known = inputs["pooled"]
    if known is None:
        return [*found, "nothing known of the states of the training images"]
    mean, whiten = (torch.tensor(known[k], dtype=torch.double) for k in ("mean", "whiten"))
    distance = float(_distance(pooled.detach().double().cpu()[None], mean, whiten))
    if not distance <= known["far"]:
        limit = known["far"]
        found.append(f"a state {distance:.1f} from the nearest class (trained within {limit:.1f})")
    return found


def _distance(state: Tensor, mean: Tensor, whiten: Tensor) -> Tensor:
    return torch.cdist(state @ whiten, mean @ whiten).amin(1)


def _limits(value: Tensor) -> list[float]:
    q = torch.tensor([_RARE, 1 - _RARE], dtype=torch.double)
    return [_round(x) for x in value.double().quantile(q)]


def _round(value: Tensor | float) -> float:
    return float(f"{float(value):.6g}")


__all__ = ["check_kind", "describe_inputs", "doubts"]
