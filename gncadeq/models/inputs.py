"""What a classifier's training images were like, and whether others are like them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gncadeq.graph.neighborhood import Neighborhood
from gncadeq.transforms import ImageToGraph
from gncadeq.transforms.digits import stroke_width


def check_kind(
    inputs: Mapping[str, Any], to_graph: ImageToGraph, x: Tensor, hood: Neighborhood
) -> None:
    """Refuse pixel graphs of another kind than those that the weights were trained on.

    Pixels that are masked, as explainers do, and pixels or edges that are absent are no reason.

    Args:
        inputs: What :func:`gncadeq.training.describe.describe_inputs` returned.
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
    if hood.kind == "canvas" or to_graph.halo:
        _check_halo(to_graph, x, hood)
        return
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


def _check_halo(to_graph: ImageToGraph, x: Tensor, hood: Neighborhood) -> None:
    """Refuse dark pixels that are not within a ring around a living one."""
    if x.requires_grad or to_graph.living_threshold is None:
        return
    near = (x.detach().amax(1, keepdim=True) > to_graph.living_threshold).to(x.dtype)
    for _ in range(to_graph.halo):
        near = hood.stencil(near.new_ones(9, 1, 1))(near).clamp(max=1)
    share = float((near == 0).float().mean())
    if share > 0.25:
        raise ValueError(
            f"Expected graphs of the pixels above living_threshold={to_graph.living_threshold:g} "
            f"and {to_graph.halo} rings around them, as the weights were trained on (got "
            f"background: {share:.0%} of the nodes). Build graphs with model.to_graph"
        )


def doubts(
    inputs: Mapping[str, Any], to_graph: ImageToGraph, image: Tensor, pooled: Tensor, logits: Tensor
) -> list[str]:
    """Why the answer for an image may be wrong: what sets it apart from the training images, and
    how uncertain the answer is.

    Args:
        inputs: What :func:`gncadeq.training.describe.describe_inputs` returned.
        to_graph: What makes graphs of images.
        image: ``[C, H, W]``, the image as the model is given it.
        pooled: What the readout sees of its state.
        logits: ``[classes]``, what the readout makes of that.

    Returns:
        Phrases, none if the image is like the training images and the answer is certain. Cards
        without ``"certainty"``, as older runs have, say nothing of the answer.
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
    threshold = to_graph.living_threshold
    share = 1.0 if threshold is None else float((image.amax(0) > threshold).float().mean())
    if not low <= share <= high:
        found.append(f"{share:.0%} of its pixels live (trained on {low:.0%} to {high:.0%})")
    for name, value in certainty(logits.detach().double().cpu()).items():
        least = inputs.get("certainty", {}).get(name)
        if least is not None and not float(value) >= least:
            found.append(f"{name} {float(value):.3g} (99 % of unseen images: above {least:.3g})")
    known = inputs["pooled"]
    if known is None:
        return [*found, "nothing known of the states of the training images"]
    mean, whiten = (torch.tensor(known[k], dtype=torch.double) for k in ("mean", "whiten"))
    away = float(distance(pooled.detach().double().cpu()[None], mean, whiten))
    if not away <= known["far"]:
        limit = known["far"]
        found.append(f"a state {away:.1f} from the nearest class (trained within {limit:.1f})")
    return found


def certainty(logits: Tensor) -> dict[str, Tensor]:
    r"""How certain answers ``[..., classes]`` are: the largest probability (`Hendrycks & Gimpel,
    2017 <https://arxiv.org/abs/1610.02136>`_), and :math:`\log \sum_c e^{l_c}` of the logits, the
    negative energy of `Liu et al., 2020 <https://arxiv.org/abs/2010.03759>`_."""
    return {"probability": logits.softmax(-1).amax(-1), "log-sum-exp": logits.logsumexp(-1)}


def distance(state: Tensor, mean: Tensor, whiten: Tensor) -> Tensor:
    """The distance of states ``[N, C]`` from the nearest class, ``[N]``."""
    return torch.cdist(state @ whiten, mean @ whiten).amin(1)
