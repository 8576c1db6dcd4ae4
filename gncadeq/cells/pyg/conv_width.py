"""The width of the state that a conv keeps: read off the conv, or found by trying it out."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gncadeq.cells.pyg.conv_signature import ConvSignature, is_lazy, output_width

_NODES = 4
_WIDTHS = ("in_channels", "out_channels", "in_features", "out_features", "channels", "edge_dim")


def state_width(conv: nn.Module, signature: ConvSignature) -> int:
    """The channels :math:`C` for which a conv maps states ``[num_nodes, C]`` to the same shape.

    A conv that doesn't say (``GINConv``, ``EdgeConv``, one's own) is tried on a graph of four nodes
    with every width that its parameters have: a copy in evaluation mode, without gradients and with
    a random state of its own, so that nothing of the conv changes.

    Args:
        conv: The conv.
        signature: What its forward takes.

    Raises:
        ValueError: If no width fits, or several do.

    Example:
        >>> from torch_geometric.nn import EdgeConv
        >>> from gncadeq.cells.pyg.conv_signature import read_signature
        >>> conv = EdgeConv(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)))
        >>> state_width(conv, read_signature(conv))
        4
    """
    for name in ("in_channels", "channels"):
        width: Any = getattr(conv, name, None)
        if isinstance(width, int) and width > 0:
            return width
    output = output_width(conv)
    if output is not None:  # a lazy conv
        return output
    widths = _mentioned_widths(conv)
    found = [width for width in widths if _keeps(conv, signature, width, widths)]
    # A conv that keeps any width says nothing about the one that is meant.
    if len(found) == 1 and not _keeps(conv, signature, max(widths) + 1, widths):
        return found[0]
    raise ValueError(
        f"Expected 'channels', the width C of the state, which {type(conv).__name__} doesn't say "
        f"(it keeps {'several widths' if found else 'none that was tried'}). Pass channels=..."
    )


def _mentioned_widths(conv: nn.Module) -> list[int]:
    """All sizes of the conv's parameters, and what its modules call a width."""
    widths: list[Any] = [getattr(m, name, None) for m in conv.modules() for name in _WIDTHS]
    if not is_lazy(conv):
        widths += [size for parameter in conv.parameters() for size in parameter.shape]
    return list(dict.fromkeys(w for w in widths if isinstance(w, int) and w > 0))


def _keeps(conv: nn.Module, signature: ConvSignature, width: int, widths: list[int]) -> bool:
    """Whether the conv maps states of a width to the same, with some form of what else it takes."""
    own = next(conv.parameters(), torch.empty(0))
    like = torch.empty(0, dtype=own.dtype, device=own.device)  # a lazy parameter has no methods
    devices = [] if like.device.type == "cpu" else [like.device]
    for arguments in _trials(signature, width, widths, like):
        with (
            torch.no_grad(), warnings.catch_warnings(),
            torch.random.fork_rng(devices, device_type=like.device.type),
        ):  # fmt: skip
            warnings.simplefilter("ignore")
            try:
                trial: Any = copy.deepcopy(conv).eval()
                for module in trial.modules():
                    module._forward_hooks.clear()  # which may write down what they see
                z = like.new_zeros(_NODES, width)
                out = trial(z, **arguments)
            except Exception:  # whatever a conv says to a wrong width
                continue
        if isinstance(out, Tensor) and out.shape == z.shape:
            return True
    return False


def _trials(
    signature: ConvSignature, width: int, widths: list[int], like: Tensor
) -> Iterator[dict[str, Tensor]]:
    """Arguments beyond the state: without and with what edges carry, in some widths."""
    node = torch.arange(_NODES, device=like.device)
    edge_index = torch.stack([node, node.roll(1)])
    edge_index = torch.cat([edge_index, edge_index.flip(0)], 1)
    fixed = {signature.graph: edge_index}
    if signature.initial:
        fixed["x_0"] = like.new_zeros(_NODES, width)
    rows = {"node": _NODES, "edge": edge_index.size(1), "hyperedge": _NODES, "graph": 1}
    sizes: list[tuple[int, ...]] = [(3,), (2,), (), (1,), *((w,) for w in widths), (width,)]
    for edge in [None, *([signature.edge] if signature.edge else [])]:
        kinds = {name: signature.context[name] for name in signature.required}
        kinds |= {} if edge is None else {edge: "edge"}
        if any(kind not in ("batch", *rows) for kind in kinds.values()):
            return  # nothing is known about the form of a tensor
        for size in sizes if kinds else sizes[:1]:
            given = dict(fixed)
            for name, kind in kinds.items():
                if kind == "batch" or name.endswith("_type"):
                    count = _NODES if kind == "batch" else rows[str(kind)]
                    given[name] = torch.zeros(count, dtype=torch.long, device=like.device)
                else:
                    given[name] = like.new_ones(rows[str(kind)], *size)
            yield given
