"""Describe the images that a classifier was trained on, for the card of its weights."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from gncadeq.datasets import PixelGraphs
from gncadeq.dynamics import ConvergenceWarning
from gncadeq.models import ImageClassifier
from gncadeq.models.inputs import certainty, distance
from gncadeq.transforms.digits import stroke_width

_DRAWN = ("mnist", "kmnist", "digits")  # datasets of ink on paper
_RARE = 1e-3  # of the training images lie outside each limit, on either side
_UNCERTAIN = 1e-2  # of the unseen images lie below each limit of certainty


@torch.no_grad()
def describe_inputs(
    model: ImageClassifier,
    dataset: PixelGraphs,
    limit: int = 10_000,
    unseen: Tensor | None = None,
) -> dict[str, Any]:
    r"""Describe the images that a classifier was trained on, for its card's ``"inputs"``.

    Limits leave out a thousandth of the images on either side. The pooled states are described by
    the mean :math:`\mu_c` of every class and the covariance :math:`\Sigma` within the classes; the
    distance of a pooled state is that from the nearest mean, :math:`\min_c \lVert \Sigma^{-1/2}
    (\mathbf{p} - \mu_c) \rVert` (`Lee et al., 2018 <https://arxiv.org/abs/1807.03888>`_).

    A model is too certain of the images that it was trained on, so the limits of certainty come
    from unseen ones: in ``gncadeq train`` from those that ``validation`` holds out, else from the
    test set. They are quantiles; nothing is chosen by them, neither weights nor a model.

    Args:
        model: The classifier.
        dataset: Its training images.
        limit: How many of them to look at, and of the unseen ones, from the first on.
        unseen: 8-bit images ``[N, C, H, W]`` of the same kind that the model wasn't trained on.

    Returns:
        ``drawn`` (whether the images are ink on paper), ``canvas`` (pixels a side), ``size`` (the
        ink's longer side, median), ``stroke`` (width in pixels: low, high) and ``stroke_median``,
        ``living`` (share of the canvas: low, high), ``dimmest`` (the highest that an image's
        dimmest living pixel is), and ``pooled`` (``mean`` ``[classes, C]``, ``whiten`` ``[C, C]``,
        and ``far``, the high limit of the distance; ``None`` if the states are not finite). With
        ``unseen`` also ``certainty``: of each of :func:`gncadeq.models.inputs.certainty` what a
        hundredth of the unseen images stay below, empty if none of their states is finite; without
        the size of logits where the last one is zero, as of a folded separable model.
    """
    images = dataset.images[:limit].float() / 255
    labels = dataset.labels[: len(images)]
    threshold = model.to_graph.living_threshold
    ink = images[:, 0] > (0.0 if threshold is None else threshold)
    size = torch.maximum(ink.any(2).sum(1), ink.any(1).sum(1)).double()
    stroke = torch.tensor([stroke_width(image[0]) for image in images], dtype=torch.double)
    living = ink.flatten(1).double().mean(1) if threshold is not None else torch.ones(1)
    dimmest = torch.where(ink, images[:, 0], 1.0).flatten(1).amin(1)
    described = {
        "drawn": dataset.name in _DRAWN,
        "canvas": images.size(-1),
        "size": int(size.median()),
        "stroke": _limits(stroke),
        "stroke_median": _round(stroke.median()),
        "living": _limits(living),
        "dimmest": _limits(dimmest)[1],
        "pooled": _describe_states(_pooled(model, images).double().cpu(), labels),
    }
    if unseen is not None:
        seen = _pooled(model, unseen[:limit].float() / 255)
        described["certainty"] = _certainty_limits(model.readout.decode(seen).double().cpu())
    return described


def _pooled(model: ImageClassifier, images: Tensor) -> Tensor:
    """What the readout sees of the states of images, ``[N, C]``."""
    pooled = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for part in torch.split(images, 250):
            data = model.to_graph.batch(part).to(next(model.parameters()).device)
            z, partition, _ = model.settle(
                data.x, data.edge_index, data.edge_attr, data.batch, batch_size=data.num_graphs
            )
            pooled.append(model.pool(z, partition, data.edge_index, data.edge_attr))
    return torch.cat(pooled)


def _certainty_limits(logits: Tensor) -> dict[str, float]:
    found = certainty(logits[logits.isfinite().all(1)])
    if not logits[:, -1].any():  # folded away: only differences of logits say something
        del found["log-sum-exp"]
    return {name: _round(x.quantile(_UNCERTAIN)) for name, x in found.items() if len(x)}


def _describe_states(state: Tensor, labels: Tensor) -> dict[str, Any] | None:
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
        "far": _limits(distance(state, mean, whiten))[1],
    }


def _limits(value: Tensor) -> list[float]:
    q = torch.tensor([_RARE, 1 - _RARE], dtype=torch.double)
    return [_round(x) for x in value.double().quantile(q)]


def _round(value: Tensor | float) -> float:
    return float(f"{float(value):.6g}")
