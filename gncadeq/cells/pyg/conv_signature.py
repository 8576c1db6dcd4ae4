"""What the forward of a PyG conv wants to be told about the graph."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy as parameter_is_lazy
from torch_geometric.nn import MessagePassing

from gncadeq.check import check_type
from gncadeq.graph.neighborhood import check_range
from gncadeq.graph.rows import Rows, check_rows, declared_rows
from gncadeq.typing import OptTensor

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
            ``edge_weight``, ``edge_type``, or ``None`` where the conv takes no attributes of edges.
        context: The names of all other tensors, with what their rows belong to: ``None`` for a
            name that has no fixed meaning in PyG.
        required: Those of ``context`` without a default.
        initial: Whether the conv takes ``x_0``, the start of an initial residual.
    """

    graph: str
    edge: str | None
    context: dict[str, Rows | None]
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
    check_type("conv", conv, nn.Module)
    parameters = _parameters(conv)
    graph = next((name for name in _GRAPH if name in parameters), None)
    if graph is None:
        raise ValueError(
            "Expected a conv whose forward takes 'edge_index', the edges of one homogeneous graph "
            f"(got {type(conv).__name__}({', '.join(parameters)})). Convs that choose their edges "
            "from the state have no equilibrium here; heterogeneous ones take dictionaries: "
            "in_channels={node type: channels}"
        )
    first = next(iter(parameters))  # the state
    edges = [name for name in _EDGE if name in parameters and _supports(conv, name)]
    edge = edges[0] if edges else None
    context = declared_rows([
        name
        for name in parameters
        if name not in (first, graph, edge, "edge_attr", _INITIAL, *_NOT_TENSORS)
        and _supports(conv, name)
    ])  # fmt: skip
    required = tuple(n for n in context if parameters[n].default is inspect.Parameter.empty)
    return ConvSignature(graph, edge, context, required, _INITIAL in parameters)


def conv_arguments(
    conv: nn.Module,
    signature: ConvSignature,
    x: Tensor,
    edge_index: Tensor,
    edge_attr: OptTensor,
    context: dict[str, Tensor],
) -> dict[str, Tensor]:
    """What a conv's forward is given beyond state and edges, by its names, checked.

    Raises:
        ValueError: If something is missing, given twice, of another size or elsewhere.
        TypeError: On a wrong dtype.
    """
    kind, name = type(conv).__name__, signature.edge
    arguments = dict(context)
    if edge_attr is not None:
        if name is None:
            raise ValueError(
                f"Expected edge_attr=None, since the forward of {kind} takes no attributes "
                f"of edges (got {list(edge_attr.shape)})"
            )
        if name in arguments:
            raise ValueError(f"Expected 'edge_attr' or '{name}', which mean the same (got both)")
        arguments[name] = edge_attr
    missing = [n for n in signature.required if n not in arguments]
    if missing:
        raise ValueError(
            f"Expected {missing} for {kind} (got {sorted(arguments) or 'none'}). Pass "
            + ", ".join(f"{n}=..." for n in missing)
        )
    for name, value in arguments.items():
        edges = edge_index.size(1)
        if name == signature.edge:
            check_rows(name, value, "edge", edges)
        if name in ("edge_type", "node_type") and value.is_floating_point():
            raise TypeError(f"Expected integer '{name}' (got {value.dtype}). Use .long()")
        if name == "edge_type" and isinstance(getattr(conv, "num_relations", None), int):
            check_range(name, value, int(conv.num_relations), "num_relations")  # type: ignore[arg-type]
        if name == "edge_weight":
            if not value.is_floating_point():
                raise TypeError(
                    f"Expected floating-point '{name}' (got {value.dtype}). Use .float()"
                )
            if value.dim() == 2 and value.size(1) == 1:
                arguments[name] = value = value.view(-1)
            if value.dim() != 1:
                raise ValueError(
                    f"Expected '{name}' of shape [num_edges] = [{edges}] (got {list(value.shape)})"
                )
        if value.is_floating_point() and value.dtype != x.dtype:
            raise TypeError(f"Expected '{name}' in the type of 'x', {x.dtype} (got {value.dtype})")
    return arguments


def output_width(conv: nn.Module) -> int | None:
    """The channels that one of PyG's convs returns, where it says so; of others nothing is known.

    Example:
        >>> from torch_geometric.nn import GATConv
        >>> output_width(GATConv(16, 8, heads=2)), output_width(GATConv(16, 8, 2, concat=False))
        (16, 8)
    """
    width: Any = getattr(conv, "out_channels", None)
    known = isinstance(conv, MessagePassing) and type(conv).__module__.startswith("torch_geometric")
    if not known or not isinstance(width, int) or width < 1:
        return None
    times: Any = getattr(conv, "heads", 1) if getattr(conv, "concat", False) is True else 1
    powers: Any = getattr(conv, "powers", None)  # MixHopConv
    return width * (times if powers is None else len(powers))


def check_width(conv: nn.Module, channels: int, where: str = "") -> None:
    """Refuse a conv that says it returns another width than its target's state has.

    Raises:
        ValueError: If it does.
    """
    width = output_width(conv)
    if width is not None and width != channels:
        raise ValueError(
            f"Expected a conv that maps states to the same width (got {channels} → {width} from "
            f"{type(conv).__name__}{where}). Give it as many output as input channels (heads that "
            "are concatenated count), and project with 'in_channels'"
        )


def is_lazy(module: nn.Module) -> bool:
    """Whether parameters of the module wait for the first call to be made, as widths of -1 do.

    A compiler asks after the first call, and could not trace the question.
    """
    if torch.compiler.is_compiling():
        return False
    return any(parameter_is_lazy(parameter) for parameter in module.parameters())


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
        for name, parameter in _parameters(inner).items():
            found.setdefault(name, parameter)
    return found
