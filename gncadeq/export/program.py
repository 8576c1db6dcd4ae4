"""One step of an automaton as a function of tensors, for ``torch.export``."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gncadeq.cells import Cell
from gncadeq.check import check_choice
from gncadeq.choices import Form
from gncadeq.dynamics import GraphDEQ, GraphNCA
from gncadeq.dynamics.rollout import advance
from gncadeq.export.cascade import on_levels
from gncadeq.export.plain import EdgeList, NeighborTable, PlainStencil
from gncadeq.export.rules import rule_of
from gncadeq.models import ImageClassifier, PixelGraphClassifier
from gncadeq.typing import OptTensor

if TYPE_CHECKING:
    from torch.export import ExportedProgram

Model = Cell | GraphDEQ | GraphNCA | ImageClassifier


def as_automaton(model: Model) -> GraphNCA:
    """The automaton of a cell, of an equilibrium or of a classifier; the cell is shared."""
    nca: Any = model.dynamics if isinstance(model, ImageClassifier) else model
    if isinstance(nca, Cell):
        nca = GraphNCA(nca)
    elif isinstance(nca, GraphDEQ):
        nca = nca.as_nca()
    if not isinstance(nca, GraphNCA):
        raise TypeError(
            f"Expected a Cell, GraphNCA, GraphDEQ or ImageClassifier (got {type(model).__name__})"
        )
    if nca.gradient == "reversible":
        raise ValueError(
            "Expected plain steps to export (got gradient='reversible', in which two states take "
            "turns). Export GraphNCA(nca.cell, ...): it has the same fixed points"
        )
    return nca


def float_type(cell: Cell) -> torch.dtype:
    """The type of a cell's parameters; the default one if it has none."""
    return next((p.dtype for p in cell.parameters()), torch.get_default_dtype())


class StepProgram(nn.Module):
    r"""One step of an automaton on graphs that are inputs, nothing prepared.

    .. math::
        \mathbf{z}' = \mathbf{z} + \tau \, \mathbf{m} \odot (f(\mathbf{z}, \mathbf{x};
        \mathcal{G}) - \mathbf{z})

    and, of a classifier, the logits of :math:`\mathbf{z}`. Parameters are copied and frozen.

    Args:
        model: A cell, an automaton or equilibrium of one, or a classifier.
        form: ``"scatter"``, on edges, or ``"gather"``, on a table of neighbours
            (:func:`~gncadeq.export.neighbor_table`).
        edge_attr: What edges carry, of which width and type; only convs of PyTorch Geometric
            need to be told, and take none by default.

    Attributes:
        names: The inputs of this program among those of :meth:`forward`.

    Raises:
        ValueError: If the cell can't be exported, or not in this form.
        TypeError: If the model is of another kind.

    Example:
        >>> from gncadeq import ConvCell
        >>> StepProgram(ConvCell(1, 8)).names
        ('x', 'z', 'edge_index', 'edge_attr')
    """

    def __init__(self, model: Model, form: Form = "scatter", edge_attr: OptTensor = None) -> None:
        super().__init__()
        check_choice("form", form, ("scatter", "gather"))
        model = copy.deepcopy(model).cpu().eval()
        if isinstance(model, PixelGraphClassifier):
            model.fold()  # a batch norm's statistics, whose shapes don't trace
        nca = as_automaton(model)
        self.form, self.channels, self.step_size = form, nca.cell.channels, nca.step_size
        with torch.no_grad():
            self.rule = rule_of(nca.cell, edge_attr)
        if form == "gather" and self.rule.only_scatter:
            raise ValueError(
                f"Expected form='scatter' for {type(nca.cell).__name__}: {self.rule.only_scatter} "
                "(got 'gather')"
            )
        self.encoder = self.readout = None
        self.in_channels, self.levels = nca.cell.in_channels, 1
        if isinstance(model, ImageClassifier):
            self.readout, self.in_channels = model.readout, model.in_channels
            self.levels = model.to_graph.levels
        if isinstance(model, PixelGraphClassifier):
            self.encoder = model.encoder
        self.dtype = float_type(nca.cell)
        masked = nca.fire_rate < 1.0
        self.names = tuple(
            name for name, used in {
                "x": self.in_channels > 0, "z": True,
                "edge_index" if form == "scatter" else "neighbors": True,
                "edge_attr": self.rule.example((1,) if form == "scatter" else (1, 1)) is not None,
                "update_mask": masked, "scale": self.rule.takes_scale,
                "batch": self.readout is not None,
            }.items() if used
        )  # fmt: skip

    def forward(
        self,
        z: Tensor,
        edges: Tensor,
        edge_attr: OptTensor = None,
        x: OptTensor = None,
        update_mask: OptTensor = None,
        scale: OptTensor = None,
        batch: OptTensor = None,
    ) -> tuple[Tensor, ...]:
        """Take one step.

        Args:
            z: The state ``[num_nodes, channels]``.
            edges: ``edge_index`` ``[2, num_edges]``, or ``neighbors`` ``[num_nodes, most]``.
            edge_attr: What edges carry ``[num_edges, ...]`` or ``[num_nodes, most, ...]``.
            x: The injection ``[num_nodes, in_channels]``, a classifier's pixels; ``None`` if there
                are no channels.
            update_mask: Which nodes update, booleans ``[num_nodes]``; ``None`` for all.
            scale: ``[num_nodes, 1]``, the factors of a wrapped conv that follow from its graph.
            batch: The graph of every node ``[num_nodes]``, of a classifier.

        Returns:
            The next state, and of a classifier the logits of ``z`` ``[num_graphs, num_classes]``.
        """
        n = z.size(0)
        graph = EdgeList(edges, n) if self.form == "scatter" else NeighborTable(edges)
        if x is None:
            x = z[:, :0]
        if self.encoder is not None:
            assert edge_attr is not None
            x = PlainStencil(graph, edge_attr, self.encoder.weight)(x)
            x = (x if self.encoder.bias is None else x + self.encoder.bias).relu()
        mask = None if update_mask is None else update_mask.unsqueeze(1)
        new = advance(self.rule(graph, x, edge_attr, scale), z, self.step_size, mask)
        if self.readout is None:
            return (new,)
        assert batch is not None
        pooled = graph.mean(z, batch)
        if self.levels > 1:  # the mean and the maximum of the top level
            assert edge_attr is not None
            top = on_levels(graph, edge_attr, self.levels, z)[-1]
            z = top * z[:, : self.readout.channels]
            pooled = graph.mean(z, batch) / graph.mean(top, batch)
            pooled = torch.cat([pooled, graph.peak(z, batch)], 1)
        return new, self.readout.decode(pooled)

    def example(self) -> dict[str, Tensor]:
        """Arguments of :meth:`forward` in the order of ``names``, of two small graphs."""
        n, e, most = 6, 11, 3
        step = torch.arange(e)
        shape: tuple[int, ...]
        if self.form == "scatter":
            edges, shape = torch.stack([step % n, (step * 2 + 1) % n]), (e,)
        else:
            edges, shape = torch.arange(n * most).view(n, most) % n, (n, most)
            edges[2, 1:] = -1
        every = {
            "x": torch.ones(n, self.in_channels, dtype=self.dtype),
            "z": torch.ones(n, self.channels, dtype=self.dtype),
            "edge_index": edges, "neighbors": edges,
            "edge_attr": self.rule.example(shape),
            "update_mask": step[:n] % 2 == 0,
            "scale": torch.ones(n, 1, dtype=self.dtype),
            "batch": step[:n] // 3,
        }  # fmt: skip
        found: dict[str, Any] = {name: every[name] for name in self.names}
        return {_ARGUMENT.get(name, name): value for name, value in found.items()}


_ARGUMENT = {"edge_index": "edges", "neighbors": "edges"}


def to_exported_program(
    model: Model, form: Form = "scatter", edge_attr: OptTensor = None
) -> ExportedProgram:
    """One step of an automaton as a ``torch.export`` program, for any number of nodes and edges.

    It takes its arguments by name.

    Args:
        model: A cell, an automaton or equilibrium of one, or a classifier.
        form: ``"scatter"`` or ``"gather"``, see :class:`StepProgram`, whose
            :meth:`~StepProgram.forward` says what goes in and out.
        edge_attr: What edges carry, see :class:`StepProgram`.

    Raises:
        ValueError: If the cell can't be exported, or not in this form.

    Example:
        >>> from gncadeq import ConvCell
        >>> from gncadeq.transforms import ImageToGraph
        >>> step = to_exported_program(ConvCell(1, 8)).module()
        >>> data = ImageToGraph()(torch.rand(1, 5, 7))
        >>> graph = {"edges": data.edge_index, "edge_attr": data.edge_attr, "x": data.x}
        >>> step(z=torch.zeros(35, 8), **graph)[0].shape
        torch.Size([35, 8])
    """
    return export_step(StepProgram(model, form, edge_attr))


def export_step(program: StepProgram) -> ExportedProgram:
    """:func:`torch.export.export` with sizes of nodes and edges left open."""
    nodes = torch.export.Dim("num_nodes", min=1)
    wide = torch.export.Dim("num_edges" if program.form == "scatter" else "most", min=0)
    sizes: dict[str, Any] = {
        "edges": {1: wide} if program.form == "scatter" else {0: nodes, 1: wide},
        "edge_attr": {0: wide} if program.form == "scatter" else {0: nodes, 1: wide},
    }
    example = program.example()
    shapes = {name: sizes.get(name, {0: nodes}) for name in example}
    try:
        with torch.no_grad():
            return torch.export.export(program, (), example, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # whatever torch.export stumbles over, it is the conv's code
        raise ValueError(
            f"Expected a rule that torch.export can trace (got {type(error).__name__}: "
            f"{str(error).strip().splitlines()[0]})"
        ) from error
