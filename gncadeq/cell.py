"""The contract of a cell: one step of a local rule, no loop, no notion of time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData
from torch_geometric.data.data import BaseData
from torch_geometric.nn.inits import reset

from gncadeq.certificate import AnyCertificate
from gncadeq.check import check_type, did_you_mean
from gncadeq.graph.layout import FlatGraph
from gncadeq.graph.neighborhood import Neighborhood, check_edge_index
from gncadeq.graph.rows import Declared, declared_rows, is_known, rows_of
from gncadeq.typing import Adj, OptTensor, Step

if TYPE_CHECKING:
    from torch_geometric.data import Data


class Cell(nn.Module, ABC):
    r"""A local rule :math:`\mathbf{z}' = f(\mathbf{z}, \mathbf{x}; \mathcal{G})`.

    A cell implements :meth:`prepare`, which binds the injection and the graph and does once what
    never changes between steps; the returned :data:`gncadeq.typing.Step` only maps a state to the
    next. Dynamics (:class:`gncadeq.GraphDEQ`, :class:`gncadeq.GraphNCA`) call nothing else.

    Attributes:
        in_channels: Channels of the injection ``x``.
        channels: Channels of the state ``z``.
        context: The tensors that :meth:`prepare` takes by keyword, beyond the graph, each with what
            one of its rows belongs to: ``{"dist": "edge"}``, see :data:`gncadeq.graph.rows.Rows`.
            Names alone, ``("dist",)``, have PyG's meaning where they have one (``pos``,
            ``edge_weight``); others are told by their size in a batch, which is refused where it is
            ambiguous.
            ``"batch"``, the graph of every node, comes from the dynamics; others from their caller.
        hypergraph: Whether the second row of the edge indices numbers hyperedges, not nodes.
        hops: How many hops away the nodes are that a step reads, if it needs nothing more of the
            graph than these, the edges between them and their degrees: then several processes may
            hold one graph in parts (:class:`gncadeq.Halo`). ``None``, unless a cell says so.
    """

    in_channels: int
    channels: int
    context: Declared = ()
    hypergraph: bool = False
    hops: int | None = None

    @property
    def required(self) -> tuple[str, ...]:
        """The names of :attr:`context` that :meth:`prepare` cannot do without."""
        return tuple(self.context)

    @abstractmethod
    def prepare(self, x: Tensor, edge_index: Adj, edge_attr: OptTensor = None) -> Step:
        """Bind the injection ``x`` ``[num_nodes, in_channels]`` and the graph."""

    def driven(
        self, num_nodes: int, edge_index: Adj, edge_attr: OptTensor = None
    ) -> Callable[[Tensor], Step]:
        """Bind the graph alone: a map from the injection to the step, ``bind(x)(z)``.

        A :class:`gncadeq.CascadeCell` changes the injection of its parts in every step. A cell
        overrides this where there is work that does not depend on the injection.
        """
        return lambda x: self.prepare(x, edge_index, edge_attr)

    def reset_parameters(self) -> None:
        """Draw fresh parameters: those of the modules within, unless a cell has others.

        Raises:
            NotImplementedError: If a cell has parameters of its own and no such method.
        """
        own = [name for name, _ in self.named_parameters(recurse=False)]
        if own and type(self).reset_parameters is Cell.reset_parameters:
            raise NotImplementedError(
                f"Expected a method 'reset_parameters' of {type(self).__name__}, which has "
                f"parameters of its own (got none, for {own})"
            )
        for module in self.children():
            reset(module)

    def flatten(
        self, x: Any, edge_index: Any, edge_attr: Any, batch: Any, context: dict[str, Any]
    ) -> FlatGraph:
        """The graph as dynamics see it, with one tensor for the state.

        A cell with several (:class:`gncadeq.TypedCell`) is given dictionaries, of which it makes
        rows; here all stays as it is.

        Raises:
            TypeError: If something is a dictionary, the injection no tensor, or the cell takes no
                tensor of a name.
            ValueError: If a tensor's size contradicts what its rows belong to.
        """
        for name, value in (("x", x), ("edge_index", edge_index), ("batch", batch)):
            if isinstance(value, Mapping):
                raise TypeError(
                    f"Expected a tensor '{name}' for {type(self).__name__}, whose state is one "
                    f"tensor (got a dictionary of {list(value)}). Use GraphDEQ.from_conv("
                    "HeteroConv(...), in_channels={...}), or a RelationCell"
                )
        check_tensor(x)
        if edge_attr is not None:
            check_type("edge_attr", edge_attr, Tensor)
        context = self._given(context)
        rows = rows_of(context, declared_rows(self.context), x.size(0), edge_index, batch)
        return FlatGraph(x, edge_index, edge_attr, batch, context, rows, hypergraph=self.hypergraph)

    def _given(self, context: dict[str, Any]) -> dict[str, Tensor]:
        """The tensors that were given by name: an optional one may be ``None``, as in PyG."""
        given = {}
        for name, value in context.items():
            known = name in self.context
            if value is None and (known or is_known(name)):
                continue
            if not isinstance(value, Tensor):
                raise TypeError(
                    f"Expected tensors by name in a call (got {name}={value!r}). Options such as "
                    "tol belong to GraphDEQ(...) or GraphNCA(...)"
                )
            if not known:
                names = list(self.context)
                raise TypeError(
                    f"Unexpected argument {name!r} for {type(self).__name__}, which takes "
                    f"{f'one of {names}' if names else 'none'} beyond (x, edge_index, edge_attr)"
                    + did_you_mean(name, names)
                )
            given[name] = value
        return given

    def lipschitz_bound(self, graph: Data | None = None) -> Tensor:
        r"""An upper bound on the Lipschitz constant of one step: the certificate of convergence.

        Below one, the cell is a contraction: it has one equilibrium, every start reaches it, and
        :math:`\lVert \mathbf{z} - \mathbf{z}^\star \rVert \le \lVert f(\mathbf{z}) - \mathbf{z}
        \rVert / (1 - \kappa)`. A cell that overrides this names the norm in which the bound
        :math:`\kappa` holds, and computes it from its parameters. It is never an estimate.

        Args:
            graph: Bound the step on this graph, which may be sharper; ``None`` bounds it on every
                graph that the cell is made for.

        Returns:
            A scalar without gradient; infinity where the cell promises nothing, as here.
        """
        return torch.tensor(float("inf"))

    def injection_bound(
        self, edge_index: Adj, edge_attr: OptTensor = None, *, num_nodes: int
    ) -> float:
        """A Lipschitz constant of the next state as a function of the injection, on this graph.

        Both are measured by Euclidean norms. It is infinite where none is known, as here.
        """
        return float("inf")

    def certificate(
        self, edge_index: Adj, edge_attr: OptTensor = None, *, num_nodes: int, **context: Tensor
    ) -> AnyCertificate | None:
        """What is proven of a step on this graph, with the norm in which it holds.

        Args:
            edge_index: Edge indices, as of :meth:`prepare`.
            edge_attr: What the cell wants to know of every edge.
            num_nodes: Number of nodes.
            context: The tensors by name, as of :meth:`prepare`; among them ``batch``, the graph of
                every node, if there are several.

        Returns:
            The certificate, or ``None``, as here. On a batch its rate is a tensor ``[num_graphs]``
            where graphs differ, so that each has the rate that it has alone: one or more for those
            of which nothing is proven.
        """
        return None

    def caveat(self, edge_index: Adj, edge_attr: OptTensor = None, **context: Tensor) -> str | None:
        """A hint for the warning about a solve that did not converge on this graph.

        Returns:
            A sentence that names a property of the graph or of the cell which may be the cause;
            ``None``, as here, if the cell knows of none.
        """
        return None

    def bind(
        self, x: Tensor, edge_index: Adj, edge_attr: OptTensor = None, **context: Tensor
    ) -> Step:
        """:meth:`prepare`, refusing tensors on several devices.

        Raises:
            TypeError: If ``x`` is no tensor.
            ValueError: If not all tensors are on the device of ``x``.
        """
        check_tensor(x)
        given = {"edge_index": edge_index, "edge_attr": edge_attr, **context}
        given["parameters"] = next(self.parameters(), None)
        for name, value in given.items():
            if isinstance(value, Tensor) and value.device != x.device:
                raise ValueError(
                    f"Expected '{name}' on the device of 'x', {x.device} (got {value.device}). Use "
                    ".to(device) for model and data"
                )
        prepare: Callable[..., Step] = self.prepare
        return prepare(x, edge_index, edge_attr, **context)

    def forward(
        self,
        z: Any,
        x: Any,
        edge_index: Any = None,
        edge_attr: Any = None,
        **context: Any,
    ) -> Any:
        """Take one step from the state ``z`` ``[num_nodes, channels]``."""
        graph = self.flatten(x, edge_index, edge_attr, None, context)
        z, x = graph.pack(z), graph.x
        if z.dim() != 2 or z.size(0) != x.size(0) or z.size(1) != self.channels:
            raise ValueError(
                f"Expected 'z' of shape [num_nodes, channels] = [{x.size(0)}, {self.channels}] "
                f"(got {list(z.shape)})"
            )
        step = self.bind(x, graph.edge_index, graph.edge_attr, **graph.context)
        return graph.unpack(step(z))


def check_tensor(x: object) -> None:
    """Raise if the injection isn't a dense tensor with a row for every node.

    Raises:
        TypeError: If it is no tensor, or a sparse one.
        ValueError: If it has another number of dimensions.
    """
    refuse_graph(x)
    if not isinstance(x, Tensor):
        raise TypeError(f"Expected a tensor 'x' (got {type(x).__name__}). Use torch.as_tensor(x)")
    if x.layout != torch.strided:
        raise TypeError(f"Expected a dense 'x' (got a {x.layout} one). Use x.to_dense()")
    if x.dim() != 2:
        many = (
            ". For many signals on one graph, [B, num_nodes, in_channels], make a graph of each: "
            "torch_geometric.data.Batch.from_data_list([Data(x=v, edge_index=edge_index) for v in "
            "x])"
        )
        raise ValueError(
            f"Expected 'x' of shape [num_nodes, in_channels] (got {list(x.shape)})"
            + (many if x.dim() == 3 else "")
        )


def refuse_graph(x: object) -> None:
    """Raise a TypeError that names the call to make, if a whole graph came in the place of ``x``.

    Example:
        >>> from torch_geometric.data import Data
        >>> refuse_graph(Data(x=torch.rand(2, 1), edge_index=torch.tensor([[0], [1]])))
        Traceback (most recent call last):
        TypeError: Expected tensors (got a Data). Pass those in it: (data.x, data.edge_index)
    """
    if not isinstance(x, BaseData):
        return
    dictionary = "_dict" if isinstance(x, HeteroData) else ""
    names = ["x", "edge_index", *(name for name in ("edge_attr", "batch") if name in x)]
    words = [f"{'batch=' if name == 'batch' else ''}data.{name}{dictionary}" for name in names]
    if "edge_weight" in x and "edge_attr" not in x:
        words.insert(2, f"data.edge_weight{dictionary}")
    kind = "Batch" if "ptr" in x else type(x).__name__
    raise TypeError(f"Expected tensors (got a {kind}). Pass those in it: ({', '.join(words)})")


def check_graph(
    x: Tensor, edge_index: Adj, in_channels: int, dtype: torch.dtype | None = None
) -> None:
    """Raise if the injection or the edge indices cannot be those of a graph for the cell.

    Raises:
        ValueError: On a wrong shape.
        TypeError: On a wrong dtype.
        RuntimeError: Within ``torch.onnx.export``.
    """
    check_type("x", x, Tensor)
    if _in_onnx_export():
        raise RuntimeError(
            "Expected gncadeq.export.to_onnx(model, 'model.onnx'), which writes the steps of a "
            "rule for graphs of any size (got torch.onnx.export, which has no operators for what "
            "is prepared once a graph)"
        )
    if x.dim() != 2 or x.size(1) != in_channels:
        raise ValueError(
            f"Expected 'x' of shape [num_nodes, in_channels] = [*, {in_channels}] "
            f"(got {list(x.shape)})"
        )
    if not x.is_floating_point():
        raise TypeError(f"Expected floating-point 'x' (got {x.dtype}). Use x.float()")
    exact = (torch.float32, torch.float64)
    if dtype in exact and x.dtype in exact and x.dtype != dtype:
        raise TypeError(
            f"Expected 'x' in the type of the parameters, {dtype} (got {x.dtype}). Use "
            f"x.{'float' if dtype == torch.float32 else 'double'}()"
        )
    if isinstance(edge_index, Neighborhood):
        if edge_index.num_sources != x.size(0):
            raise ValueError(
                f"Expected a neighborhood of {x.size(0)} nodes, as many as 'x' has "
                f"(got {edge_index.num_sources})"
            )
        return
    check_edge_index(edge_index)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _in_onnx_export() -> bool:
    # A tracer takes the answer of an undecorated function for False.
    return torch.onnx.is_in_onnx_export()
