"""What a page shows of rules that run in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch_geometric.data import Data

from gncadeq.cells import Cell, DistanceCell, GrowingCell, MicroCell, TotalisticCell
from gncadeq.choices import AXES, UPRIGHT, Up
from gncadeq.export.description import dense, describe, packed
from gncadeq.models import (
    ImageClassifier,
    PixelGraphClassifier,
    PyramidClassifier,
    SelfClassifier,
)
from gncadeq.transforms import MeshToGraph, PixelKernels, surface_filters
from gncadeq.transforms.kernels import OF_PIXELS
from gncadeq.viz.geometry import Geometry, geometry
from gncadeq.viz.page import Scene

MOST_EDGES = 400_000  # 16 bytes each, and more in base64
_FAR = 200.0  # steps along edges that no seed is away
_ROWS = 28  # cells of the paper, where the weights' card states no canvas


def digit_scene(model: ImageClassifier, name: str = "Digits") -> Scene:
    """A classifier of images, on a paper to draw on, whose every pixel decides alone
    (:class:`gncadeq.models.SelfClassifier`).

    Where the weights' card states the size and the stroke of the digits that they were trained on,
    the cells fit themselves to the digit that is drawn.

    Args:
        model: A classifier of grey images with Moore neighbourhoods.
        name: Of the scene.

    Raises:
        ValueError: If the model is of another kind, or its cell has no description.

    Example:
        >>> digit_scene(ImageClassifier.from_pretrained("mnist"))["rule"]["kind"]
        'cascade'
    """
    graph, inputs = model.to_graph, model.card.get("inputs", {})
    if model.in_channels != 1 or graph.neighborhood != "moore" or graph.periodic:
        raise ValueError(
            "Expected a classifier of grey images with Moore neighbourhoods for a page (got "
            f"in_channels={model.in_channels} and {graph})"
        )
    if isinstance(model, PixelGraphClassifier):
        model.fold()
        mlp = torch.nn.Sequential(model.readout.lin1, torch.nn.ReLU(), model.readout.lin2)
        readout = dense(mlp)
        conv: Any = model.encoder
        encoder = {"weight": packed(conv.weight), "bias": packed(conv.bias)}
    elif isinstance(model, PyramidClassifier):
        readout, encoder = dense(model.readout.lin), None
    else:
        raise ValueError(
            "Expected a PixelGraphClassifier or a PyramidClassifier for a page (got "
            f"{type(model).__name__})"
        )
    own = SelfClassifier(model)
    cell, spread = own.cell, own.cell.places[own.places]
    pooled = cell.places[: own.places.start][-1]
    readout |= {
        "pool": list(model.pooling), "state": [pooled.start, pooled.stop],
        "spread": [[place.start, place.stop] for place in spread],
    }  # fmt: skip
    find = None
    if inputs.get("drawn"):
        find = {"size": inputs["size"], "canvas": inputs["canvas"],
                "stroke": inputs["stroke_median"]}  # fmt: skip
    threshold = -1.0 if graph.living_threshold is None else graph.living_threshold
    classes = readout["layers"][-1]["bias"]["shape"][0]
    return {
        "kind": "digits", "name": name, "words": "Draw a digit, and its pixels read it.",
        "facts": _facts(model), "rule": describe(cell), "encoder": encoder, "readout": readout,
        "transform": {"threshold": threshold, "halo": graph.halo, "levels": graph.levels},
        "find": find, "labels": [str(k) for k in range(classes)], "rest": own.alpha / 100,
        "rows": inputs.get("canvas", _ROWS),
    }  # fmt: skip


def grown_scene(
    cell: Cell,
    data: Data,
    z0: Tensor,
    fire_rate: float = 0.5,
    name: str = "Growing",
    up: Up = "y",
    senses: MeshToGraph | None = None,
) -> Scene:
    """A grown rule on its pixels, its surface or its graph, from its seed.

    Args:
        cell: The rule, whose first four channels are red, green, blue and alpha.
        data: Its graph (:func:`gncadeq.training.grow.load_grown`), with the injection as ``x``.
        z0: The state to start from.
        fire_rate: Probability that a node updates in a step, at first.
        name: Of the scene.
        up: The axis of ``pos`` that points up.
        senses: What made the kernels of a surface. The page then makes them itself, and those of
            meshes that are brought to it.

    Raises:
        ValueError: If the cell has no description, or the graph too many edges.

    Example:
        >>> from gncadeq import GrowingCell
        >>> from gncadeq.transforms import ImageToGraph
        >>> data = PixelKernels()(ImageToGraph()(torch.rand(1, 8, 8)))
        >>> grown_scene(GrowingCell(8), data, torch.zeros(64, 8))["rule"]["kind"]
        'growing'
    """
    x = data.x if cell.in_channels else z0[:, :0]
    scene: Scene = {
        "kind": "grow", "name": name, "words": "A pattern grows from one cell, and mends.",
        "facts": _facts(cell), "rule": describe(cell), "x": _sparse(x), "z0": _sparse(z0),
        "fire_rate": fire_rate,
    }  # fmt: skip
    if data.get("image_size") is not None:
        height, width = (int(s) for s in data.image_size.view(-1))
        pixels: Scene = {"height": height, "width": width}
        if isinstance(cell, GrowingCell):
            filters = next(f for f in OF_PIXELS.values() if len(f) == cell.num_kernels)
            pixels["filters"] = packed(PixelKernels(filters).table)
        else:
            pixels["sweeps"] = True
        return {**scene, "graph": {"pixels": pixels}}
    if data.num_edges > MOST_EDGES:
        raise ValueError(
            f"Expected at most {MOST_EDGES:,} edges for a page (got {data.num_edges:,}). Use a "
            "coarser mesh, or kernels of a shorter length"
        )
    shape = geometry(data, up)
    mesh = _mesh(shape)
    if senses is None or data.get("face") is None or senses.kernels == "gradient":
        return {**scene, "graph": edge_graph(data), "mesh": mesh}
    if tuple(senses.up) != AXES[up]:
        raise ValueError(f"Expected 'senses' with up={AXES[up]} for up={up!r} (got {senses.up})")
    scale = senses.scale and senses.scale / shape.size
    made = {"kernels": senses.kernels, "scale": scale, "axes": list(UPRIGHT[up])}
    return {**scene, "senses": made, "mesh": mesh}


def texture_scene(
    textures: Mapping[str, MicroCell | GrowingCell],
    surface: Data | None = None,
    kernels: Literal["isotropic", "tangent"] = "isotropic",
    side: int = 96,
    fire_rate: float = 0.5,
    noise: float = 0.3,
    name: str = "Textures",
    up: Up = "y",
) -> Scene:
    """Rules of textures that are painted into each other, on a torus of pixels or on a mesh.

    Args:
        textures: The rules by name (:func:`gncadeq.training.textures.train_texture`), without
            injection and all of the same channels. Every cell runs one of them, which a brush
            changes.
        surface: A mesh, whose kernels are those of
            :func:`gncadeq.training.textures.texture_surface`.
        kernels: As in the training.
        side: Of the torus, in pixels.
        fire_rate: Probability that a cell updates in a step, at first.
        noise: Standard deviation of the start.
        name: Of the scene.
        up: The axis of ``pos`` that points up.

    Raises:
        ValueError: If there is no rule, or rules take an injection or have other channels or
            kernels.

    Example:
        >>> scene = texture_scene({"a": MicroCell(4, 1), "b": MicroCell(4, 1)})
        >>> scene["rule"]["kind"], scene["textures"]
        ('grafted', ['a', 'b'])
    """
    filters = PixelKernels(surface_filters(kernels)).table
    shapes = {(cell.channels, cell.num_kernels, cell.in_channels) for cell in textures.values()}
    if len(shapes) != 1 or (count := shapes.pop())[1:] != (filters.size(1), 0):
        raise ValueError(
            f"Expected rules of the same channels, without injection, with the {filters.size(1)} "
            f"{kernels} kernels (got {list(textures.values())})"
        )
    rules = [describe(cell) for cell in textures.values()]
    scene: Scene = {
        "kind": "texture", "name": name, "words": "Textures grow from noise, and can be painted.",
        "facts": f"{_facts(next(iter(textures.values())))[:-1]} each.", "noise": noise,
        "rule": {"kind": "grafted", "in_channels": 0, "channels": count[0], "rules": rules},
        "textures": list(textures), "fire_rate": fire_rate,
    }  # fmt: skip
    if surface is None:
        pixels = {"height": side, "width": side, "periodic": True, "filters": packed(filters)}
        return {**scene, "graph": {"pixels": pixels}}
    senses = {"kernels": kernels, "scale": "edge", "axes": list(UPRIGHT[up]), "centered": True}
    return {**scene, "senses": senses, "mesh": _mesh(geometry(surface, up))}


def _mesh(shape: Geometry) -> Scene:
    return {
        "position": packed(torch.from_numpy(shape.pos)), "radius": shape.radius, "flat": shape.flat,
        "face": packed(torch.from_numpy(shape.face.copy())),
        "edge": packed(torch.from_numpy(shape.edge.copy())),
    }  # fmt: skip


def life_scene(cell: TotalisticCell | None = None, side: int = 64, name: str = "Life") -> Scene:
    """An automaton of living neighbours on a torus of pixels; the Game of Life by default."""
    cell = TotalisticCell() if cell is None else cell
    born, kept = (" or ".join(map(str, c)) or "none" for c in (cell.birth, cell.survive))
    words = f"with {born} of them a dead cell comes to life, with {kept} a living one stays alive."
    return {
        "kind": "life", "name": name, "words": words, "facts": "No parameters.",
        "rule": describe(cell), "rows": side, "columns": side,
    }  # fmt: skip


def maze_scene(side: int = 41, name: str = "Maze") -> Scene:
    """Distances to a start and a goal, whose sum is least on the shortest ways between them."""
    return {
        "kind": "maze", "name": name, "words": "Draw walls, and the shortest way finds itself.",
        "facts": "No parameters.", "rule": describe(DistanceCell(2, ceiling=float(side**2))),
        "side": side,
    }  # fmt: skip


def voronoi_scene(
    surface: Data | None = None,
    cells: int = 1600,
    seeds: int = 8,
    name: str = "Voronoi",
    up: Up = "y",
) -> Scene:
    """Distances to seeds, of which every cell takes the nearest: a Voronoi diagram by steps along
    edges, on random cells in the plane or on a mesh.

    Args:
        surface: The mesh, with ``pos`` and ``face``.
        cells: How many cells the plane has.
        seeds: The most that there can be, a channel each.
        name: Of the scene.
        up: The axis of ``pos`` that points up.
    """
    scene: Scene = {
        "kind": "voronoi", "name": name, "words": "Sow seeds, and cells take the nearest.",
        "facts": "No parameters.", "rule": describe(DistanceCell(seeds, ceiling=_FAR)),
    }  # fmt: skip
    if surface is None:
        return {**scene, "cells": cells, "side": 6 * round(cells**0.5)}
    return {**scene, "graph": None, "mesh": _mesh(geometry(surface, up))}


def edge_graph(data: Data) -> Scene:
    """The edges of a graph with kernel weights as JSON, sorted by target.

    Args:
        data: A graph with ``edge_index`` and weights ``edge_attr`` ``[num_edges, K]``.
    """
    source, target = data.edge_index
    order = target.argsort(stable=True)
    count = torch.bincount(target, minlength=int(data.num_nodes))  # type: ignore[arg-type]
    ptr = torch.cat([count.new_zeros(1), count.cumsum(0)])
    return {
        "ptr": packed(ptr), "source": packed(source[order]), "weight": packed(data.edge_attr[order])
    }  # fmt: skip


def _sparse(value: Tensor) -> Scene:
    """A matrix of few rows that are not zero as JSON."""
    rows = value.ne(0).any(1).nonzero().flatten()
    return {"shape": list(value.shape), "rows": packed(rows), "values": packed(value[rows])}


def _facts(module: torch.nn.Module) -> str:
    return f"{sum(p.numel() for p in module.parameters()):,} parameters."
