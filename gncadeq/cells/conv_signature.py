"""What the forward of a PyG conv wants to be told about the graph."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from torch import nn

_GRAPH = ("edge_index", "hyperedge_index", "pos_edge_index")
_EDGE = ("edge_attr", "edge_weight", "edge_type")
_INITIAL = "x_0"
_NOT_TENSORS = (
    "batch_size", "max_num_neighbors", "num_edges", "num_sampled_edges_per_hop",
    "num_sampled_nodes_per_hop", "return_attention_weights", "size",
)  # fmt: skip


@dataclass(frozen=True)
class ConvSignature:
    """The arguments of a conv's forward, by what they are.

    Attributes:
        graph: The name of the edge indices.
        edge: The name of what a dynamics' ``edge_attr`` is for the conv: ``edge_attr``,
            ``edge_weight``, ``edge_type``, or ``None`` where the conv takes nothing of an edge.
        context: The names of all other tensors.
        required: Those of ``context`` without a default.
        initial: Whether the conv takes ``x_0``, the start of an initial residual.
    """

    graph: str
    edge: str | None
    context: tuple[str, ...]
    required: tuple[str, ...]
    initial: bool


def read_signature(conv: nn.Module) -> ConvSignature:
    """Read the signature of a conv's forward.

    Args:
        conv: The conv; one that passes keyword arguments on to an inner conv (``GPSConv``,
            ``AntiSymmetricConv``) takes what that takes.

    Raises:
        ValueError: If the forward takes no edge indices.

    Example:
        >>> from torch_geometric.nn import GCNConv
        >>> read_signature(GCNConv(4, 4)).edge
        'edge_weight'
    """
    parameters = _parameters(conv)
    graph = next((name for name in _GRAPH if name in parameters), None)
    if graph is None:
        raise ValueError(
            "Expected a conv whose forward takes 'edge_index', the edges of one homogeneous graph "
            f"(got {type(conv).__name__}({', '.join(parameters)})). Convs that choose their edges "
            "from the state, or that run on several kinds of nodes, have no equilibrium here"
        )
    first = next(iter(parameters))  # the state
    edges = [name for name in _EDGE if name in parameters and _supports(conv, name)]
    edge = edges[0] if edges else None
    context = tuple(
        name
        for name in parameters
        if name not in (first, graph, edge, "edge_attr", _INITIAL, *_NOT_TENSORS)
        and _supports(conv, name)
    )
    required = tuple(n for n in context if parameters[n].default is inspect.Parameter.empty)
    return ConvSignature(graph, edge, context, required, _INITIAL in parameters)


def _supports(conv: nn.Module, name: str) -> bool:
    # The ready-made models share one signature and say what their convs support.
    return bool(getattr(conv, f"supports_{name}", True))


def _parameters(conv: nn.Module) -> dict[str, inspect.Parameter]:
    found, passes_on = {}, False
    for name, parameter in inspect.signature(conv.forward).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            passes_on = passes_on or parameter.kind == parameter.VAR_KEYWORD
        else:
            found[name] = parameter
    inner = getattr(conv, "conv", None) or getattr(conv, "phi", None)
    if passes_on and isinstance(inner, nn.Module):
        for name, parameter in list(_parameters(inner).items())[2:]:
            found.setdefault(name, parameter)
    return found


__all__ = ["ConvSignature", "read_signature"]
