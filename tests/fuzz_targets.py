"""What the fuzzer tries: files with their readers, calls with right arguments, commands."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import torch
import torch_geometric.nn as pyg
import typer
from PIL import Image
from torch_geometric.data import Data

import gncadeq
from gncadeq import analysis, cells, datasets, dynamics, transforms, viz
from gncadeq.cells import prepare_neighborhood
from gncadeq.datasets import primitives
from gncadeq.export import StepProgram
from gncadeq.files.checkpoints import read_checkpoint, write_checkpoint
from gncadeq.files.weights import load_pretrained, save_pretrained
from gncadeq.growth import Trial
from gncadeq.models import MeanReadout
from gncadeq.training import GrowConfig, TrainConfig, losses, targets
from gncadeq.training.textures import TextureConfig
from gncadeq.transforms import damage
from gncadeq.viz.images import read_image

Corpus = dict[str, tuple[bytes, Callable[[Path], object]]]
Calls = dict[str, tuple[Callable[..., object], dict[str, Any]]]
OF = ("a", "to", "a")


def read_mesh(path: Path) -> None:
    """A mesh that is read is one: its faces name its vertices, which are finite."""
    data = gncadeq.load_mesh(path)
    assert bool(data.pos.isfinite().all())
    assert data.face.numel() == 0 or 0 <= int(data.face.min()) <= int(data.face.max()) < len(
        data.pos
    )


def read_points(path: Path) -> None:
    assert bool(gncadeq.load_points(path).pos.isfinite().all())


def read_graph(path: Path) -> None:
    data = gncadeq.load_graph(path)
    edges = data.edge_index
    assert edges.numel() == 0 or 0 <= int(edges.min()) <= int(edges.max()) < data.num_nodes


def draw_trajectory(path: Path) -> None:
    viz.render_file(path, path.with_name("t.png"), size=16)


def tiny_weights(folder: Path) -> Path:
    """A classifier of digits; of few channels."""
    torch.manual_seed(0)
    model = gncadeq.PixelGraphClassifier(channels=2, hidden_channels=4, contraction=0.5)
    save_pretrained(model, folder / "model.safetensors", {"config": {"dataset": "digits"}})
    return folder / "model.safetensors"


def tiny_run(folder: Path) -> Path:
    """A run of ``gncadeq grow`` of one training step."""
    from gncadeq.training.grow import grow

    config = GrowConfig(
        "spots", out=str(folder), size=5, steps=1, channels=4, hidden_channels=4, min_rollout=1,
        max_rollout=2, pool_size=2, batch_size=2, damage=0, settle=0,
    )  # fmt: skip
    grow(config, config.read_target(), progress=False)
    return folder


def corpus(folder: Path) -> Corpus:
    """Small files that are right, and how each is read."""
    made: Corpus = {}
    folder.mkdir(parents=True, exist_ok=True)

    def keep(name: str, read: Callable[[Path], object], content: bytes | None = None) -> None:
        made[name] = ((folder / name).read_bytes() if content is None else content, read)

    mesh = primitives.icosphere(0)
    mesh.color = torch.rand(12, 3)
    for name in ("m.ply", "m.obj", "m.glb"):
        datasets.save_mesh(mesh, folder / name, mesh.color)
        keep(name, read_mesh)
    square = "0 0 0\n1 0 0\n1 1 0\n0 1 0\n"
    off = f"OFF\n4 2 0\n{square}3 0 1 2\n3 0 2 3\n".encode()
    keep("m.off", read_mesh, off)
    keep("m.off.gz", read_mesh, gzip.compress(off))
    keep("m.obj.gz", read_mesh, gzip.compress(made["m.obj"][0]))
    header = "ply\nformat ascii 1.0\ncomment c\nelement vertex 4\nproperty float x\n"
    header += "property float y\nproperty float z\nelement face 1\n"
    ascii_ply = f"{header}property list uchar int vertex_indices\nend_header\n{square}4 0 1 2 3\n"
    keep("a.ply", read_mesh, ascii_ply.encode())
    facet = "facet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 1 0 0\nvertex 0 1 0\n"
    keep("a.stl", read_mesh, f"solid s\n{facet}endloop\nendfacet\nendsolid s\n".encode())
    triangle = np.array([0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0], "<f4").tobytes() + b"\0\0"
    keep("b.stl", read_mesh, b"\0" * 80 + (1).to_bytes(4, "little") + triangle)
    buffer = "data:application/octet-stream;base64,AAAAAAAAAAAAAAAAAACAPwAAAAAAAAAAAAAAAAAAgD8AAAAA"
    gltf = {
        "asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "scale": [1, 2, 1]}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "buffers": [{"uri": buffer, "byteLength": 36}],
        "bufferViews": [{"buffer": 0, "byteLength": 36}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3",
                       "min": [0, 0, 0], "max": [1, 1, 0]}],
    }  # fmt: skip
    keep("m.gltf", read_mesh, json.dumps(gltf).encode())
    keep("p.xyz", read_points, b"# x y z\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n")
    np.save(folder / "p.npy", np.random.default_rng(0).random((5, 3)).astype(np.float32))
    keep("p.npy", read_points)
    graph = nx.karate_club_graph().subgraph(range(6))
    nx.write_graphml(graph, folder / "g.graphml")
    nx.write_gml(graph, folder / "g.gml")
    for name in ("g.graphml", "g.gml"):
        keep(name, read_graph)
    keep("g.csv", read_graph, b"source,target,weight\na,b,1.5\nb,c,2\n")
    keep("g.edgelist", read_graph, b"# edges\n0 1 2.0\n1 2 1.0\n")
    keep("g.txt.gz", read_graph, gzip.compress(b"0\t1\n1\t2\n"))
    picture = np.random.default_rng(0).integers(0, 256, (6, 5, 4), np.uint8)
    Image.fromarray(picture).save(folder / "i.png")
    Image.fromarray(picture[..., :3]).save(folder / "i.jpg")
    Image.fromarray(picture[..., :3]).save(folder / "i.gif")
    Image.fromarray(picture[..., :3]).save(folder / "i.tif")
    for name in ("i.png", "i.jpg", "i.gif", "i.tif"):
        keep(name, targets.read_rgba)
        keep(f"predict/{name}", read_image, made[name][0])
    tiny_weights(folder)
    keep("model.safetensors", lambda p: gncadeq.PixelGraphClassifier.from_pretrained(str(p)))
    save_pretrained(gncadeq.GrowingCell(4, 1, 4), folder / "g.safetensors")
    keep("g.safetensors", lambda p: load_pretrained(gncadeq.GrowingCell, p))
    target = targets.load_target("spots", size=4)
    targets.save_target(target, folder / "target.safetensors")
    keep("target.safetensors", targets.read_graph)
    viz.save_trajectory(folder / "t.safetensors", target, torch.rand(2, 16, 4), steps=[0, 1])
    keep("t.safetensors", draw_trajectory)
    write_checkpoint(folder / "step=1.ckpt", {"step": 1, "z": torch.rand(3)}, "run")
    keep("step=1.ckpt", lambda p: read_checkpoint(p, "run"))
    TrainConfig("digits").save(folder / "config.json")
    keep("config.json", TrainConfig.load)
    GrowConfig("spots").save(folder / "grow.json")
    keep("grow.json", GrowConfig.load)
    return made


def calls() -> Calls:
    """What is public and takes numbers, counts, choices, flags or tensors; right arguments."""
    torch.manual_seed(0)
    x, edges = torch.rand(4, 2), torch.tensor([[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]])
    kind = torch.tensor([5, 3, 5, 3, 5, 3])
    growing = gncadeq.GrowingCell(4, 3, 4)
    image, mesh = torch.rand(1, 4, 5), primitives.icosphere(1)
    cloud = Data(pos=torch.rand(9, 3))
    line = Data(x=x, edge_index=edges)
    picture = targets.picture_target(torch.rand(4, 4, 4))
    pixels = transforms.ImageToGraph()(image)
    cell, conv = gncadeq.ConvCell(2, 3, contraction=0.5), pyg.GCNConv(3, 3)

    def step(z):
        return 0.5 * z.tanh()

    state = torch.rand(4, 2)
    return {
        "ConvCell": (gncadeq.ConvCell, {
            "in_channels": 2, "channels": 2, "update": "direct", "injection": "superposed",
            "contraction": 0.5, "scale_spread": 3.0, "kernel_size": 3}),
        "EquivariantCell": (gncadeq.EquivariantCell, {
            "dim": 3, "features": 4, "hidden_channels": 4, "in_channels": 0}),
        "GraphNCA": (lambda **o: gncadeq.GraphNCA(cell, **o), {
            "steps": 3, "fire_rate": 0.5, "step_size": 0.5, "start": "zeros",
            "checkpoint_every": 2, "tol": 1e-3}),
        "GraphNCA call": (lambda **o: gncadeq.GraphNCA(cell)(**o), {
            "x": x, "edge_index": edges, "edge_attr": kind, "steps": 2}),
        "GraphDEQ": (lambda **o: gncadeq.GraphDEQ(cell, **o), {
            "solver": "picard", "tol": 1e-3, "criterion": "graph", "max_steps": 5,
            "gradient": "ift", "backward_tol": 1e-3, "backward_max_steps": 5, "phantom_steps": 2,
            "phantom_damping": 0.5, "start": "zeros", "on_failure": "warn",
            "solver_options": {}, "check_every": 1, "compact": True}),
        "solve": (lambda **o: dynamics.solve(step, **o), {
            "z0": state, "partition": dynamics.Partition(None, 4), "solver": "anderson",
            "tol": 1e-3, "atol": 0.0, "criterion": "graph", "max_steps": 5, "check_every": 1,
            "compact": True, "trace": False, "options": {"history": 2}}),
        "Partition": (dynamics.Partition, {"batch": torch.tensor([0, 0, 1]), "num_nodes": 3,
            "num_graphs": 2}),
        "GraphDEQ call": (gncadeq.GraphDEQ(cell), {
            "x": x, "edge_index": edges, "edge_attr": kind}),
        "GrowingCell": (gncadeq.GrowingCell, {
            "channels": 4, "num_kernels": 1, "hidden_channels": 4, "in_channels": 1,
            "alive_channel": 3, "alive_threshold": 0.1, "max_degree": 8, "bound": 2.0}),
        "GrowingCell call": (lambda **o: gncadeq.GraphNCA(growing, 2)(**o), {
            "x": picture.pos[:, :0], "edge_index": picture.edge_index,
            "edge_attr": picture.edge_attr, "z0": torch.rand(16, 4)}),
        "AttentionCell": (gncadeq.cells.AttentionCell, {
            "in_channels": 1, "channels": 2, "heads": 2, "embed_channels": 4,
            "hidden_channels": 3, "edge_dim": 2}),
        "IGNNCell": (gncadeq.IGNNCell, {
            "in_channels": 2, "channels": 2, "kappa": 0.5, "activation": "relu",
            "normalization": "sym", "bias": True}),
        "MicroCell": (gncadeq.MicroCell, {"channels": 4, "num_kernels": 1}),
        "MonotoneCell": (gncadeq.MonotoneCell, {
            "in_channels": 2, "channels": 2, "monotonicity": 1.0, "contraction": 0.5,
            "kernel_size": 3}),
        "NodeClassifier": (lambda **o: gncadeq.NodeClassifier(gncadeq.IGNNCell(3, 3), **o), {
            "in_channels": 2, "num_classes": 2, "hidden_channels": 2}),
        "NodeEdgeCell": (gncadeq.NodeEdgeCell, {
            "in_channels": {"node": 2, "edge": 1}, "channels": 2, "kappa": 0.5, "bias": True}),
        "PixelGraphClassifier": (gncadeq.PixelGraphClassifier, {
            "in_channels": 1, "channels": 2, "hidden_channels": 2, "num_classes": 2,
            "update": "direct", "injection": "superposed", "contraction": 0.5,
            "standardize": True, "transform": {"living_threshold": 0.1}, "deq": {"tol": 1e-3}}),
        "MaxPropagationCell": (gncadeq.MaxPropagationCell, {"channels": 2, "alpha": 0.5}),
        "ReachCell": (gncadeq.ReachCell, {"in_channels": 2, "channels": 2}),
        "HopfieldCell": (gncadeq.HopfieldCell, {"in_channels": 2, "channels": 2}),
        "SelfClassifier": (gncadeq.SelfClassifier, {
            "model": gncadeq.PixelGraphClassifier(channels=2), "alpha": 0.5,
            "deq": {"tol": 1e-3}}),
        "AddShortcuts": (transforms.AddShortcuts, {
            "per_node": 1, "within": "graph", "relation": 18, "seed": 0}),
        "PropagationCell": (gncadeq.PropagationCell, {
            "channels": 2, "alpha": 0.5, "normalization": "sym"}),
        "RelationCell": (gncadeq.RelationCell, {
            "in_channels": {"a": 2}, "channels": 2, "edge_types": [OF], "kappa": 0.5,
            "activation": "relu", "bias": True}),
        "HeteroConvCell": (gncadeq.HeteroConvCell, {
            "conv": pyg.HeteroConv({OF: pyg.SAGEConv(3, 3)}), "in_channels": {"a": 2},
            "channels": 3, "activation": "relu", "contraction": 0.5, "bias": True,
            "power_steps": 3}),
        "WrappedConvCell": (gncadeq.WrappedConvCell, {
            "conv": conv, "in_channels": 2, "channels": 3, "activation": "relu", "norm": None,
            "contraction": 0.5, "bias": True, "attention": "injection", "init": "conv",
            "power_steps": 3}),
        "from_conv": (gncadeq.GraphNCA.from_conv, {
            "conv": pyg.GCNConv, "in_channels": 2, "channels": 3, "contraction": 0.5}),
        "SamplePool": (gncadeq.SamplePool, {
            "graphs": picture, "seeds": torch.rand(16, 4), "size": 3, "seed": 0, "elders": 1}),
        "SamplePool.sample": (gncadeq.SamplePool(picture, torch.rand(16, 4), 3).sample, {"n": 2}),
        "StencilConv": (gncadeq.StencilConv, {
            "in_channels": 1, "out_channels": 2, "kernel_size": 3, "bias": True}),
        "TotalisticCell": (gncadeq.TotalisticCell, {
            "birth": (3,), "survive": (2, 3), "channels": 1}),
        "MeanReadout": (MeanReadout, {
            "channels": 2, "hidden_channels": 2, "out_channels": 2, "standardize": True}),
        "prepare_neighborhood": (prepare_neighborhood, {
            "edge_index": edges, "relation": kind, "num_nodes": 4, "num_relations": 9,
            "kind": "auto"}),
        "stencil_bound": (cells.stencil_bound, {"weight": torch.rand(9, 2, 2), "frequencies": 8}),
        "Coarsen": (transforms.Coarsen, {"levels": 2, "method": "voxel", "factor": 2, "size": 0.5}),
        "ImageToGraph": (transforms.ImageToGraph, {
            "neighborhood": "moore", "periodic": False, "living_threshold": 0.1}),
        "ImageToGraph call": (transforms.ImageToGraph(), {"image": image}),
        "ImageToSuperpixels": (transforms.ImageToSuperpixels, {
            "num_segments": 5, "compactness": 0.25, "k": 3, "edges": "polar",
            "living_threshold": 0.1, "min_size": 0.5}),
        "MeshToGraph": (transforms.MeshToGraph, {
            "kernels": "isotropic", "weights": None, "scale": 0.5, "up": (0.0, 0.0, 1.0),
            "max_edges": 9999}),
        "MeshToGraph call": (lambda **o: transforms.MeshToGraph()(Data(**o)), {
            "pos": mesh.pos, "face": mesh.face}),
        "NeighborKernels": (transforms.NeighborKernels, {"kernels": ("sum",)}),
        "PixelKernels": (transforms.PixelKernels, {"kernels": ("laplacian",)}),
        "PointsToGraph": (transforms.PointsToGraph, {
            "k": 3, "kernels": "isotropic", "weights": "distance", "max_edges": 9999}),
        "PointsToGraph radius": (transforms.PointsToGraph, {"radius": 0.5}),
        "PointsToGraph call": (lambda **o: transforms.PointsToGraph(3)(Data(**o)), {
            "pos": cloud.pos}),
        "halo": (transforms.halo, {"data": line, "nodes": torch.tensor([0]), "hops": 1}),
        "partition": (transforms.partition, {
            "edge_index": edges, "num_nodes": 4, "num_parts": 2}),
        "pixel_edges": (transforms.pixel_edges, {
            "living": torch.ones(1, 3, 3, dtype=torch.bool), "neighborhood": "moore",
            "periodic": False}),
        "surface_filters": (transforms.surface_filters, {"kernels": "tangent"}),
        "window_mean": (lambda **o: transforms.window_mean(pixels.x, pixels, **o), {"radius": 1}),
        "ball": (damage.ball, {"pos": cloud.pos, "radius": 0.2}),
        "cut": (damage.cut, {"pos": cloud.pos, "share": 0.2}),
        "maze": (datasets.maze, {"size": 5}),
        "icosphere": (primitives.icosphere, {"subdivisions": 1}),
        "cylinder": (primitives.cylinder, {
            "around": 5, "along": 3, "radius": 1.0, "height": 2.0}),
        "torus": (primitives.torus, {"around": 5, "across": 4, "radius": 1.0, "tube": 0.3}),
        "moebius": (primitives.moebius, {
            "around": 5, "across": 4, "radius": 1.0, "width": 0.5}),
        "TrainConfig": (TrainConfig, {
            **vars(TrainConfig("digits"))}),
        "GrowConfig": (GrowConfig, {
            **vars(GrowConfig("spots"))}),
        "TextureConfig": (TextureConfig, {
            **vars(TextureConfig())}),
        "jacobian_penalty": (lambda **o: losses.jacobian_penalty(step, state, **o), {"probes": 1}),
        "overflow_loss": (losses.overflow_loss, {"z": state, "bound": 1.0}),
        "seed_state": (targets.seed_state, {"data": picture, "channels": 5, "node": 1}),
        "classify_attractor": (lambda **o: analysis.classify_attractor(step, state, **o), {
            "transient": 2, "max_period": 2, "lyapunov_steps": 2, "tol": 1e-3,
            "recurrence_tol": 1e-3, "lyapunov_tol": 1e-3}),
        "basin_map": (lambda **o: analysis.basin_map(step, state, **o), {
            "radius": 1.0, "resolution": 2, "max_steps": 2, "tol": 1e-3, "within": 0.1}),
        "hop_distance": (analysis.hop_distance, {"edge_index": edges, "node": 1, "num_nodes": 4}),
        "leading_eigenvalues": (lambda **o: analysis.leading_eigenvalues(step, **o), {
            "z": state, "k": 2, "tol": 1e-3, "seed": 0}),
        "lyapunov_exponents": (lambda **o: analysis.lyapunov_exponents(step, **o), {
            "z": state, "steps": 2, "k": 1, "warmup": 1, "seed": 0}),
        "operator_norm": (lambda **o: analysis.operator_norm(step, **o), {
            "z": state, "tol": 1e-3, "seed": 0}),
        "path_independence": (lambda **o: analysis.path_independence(step, **o), {
            "z0": state, "starts": 1, "scale": 1.0, "tol": 1e-3, "max_steps": 5}),
        "sensitivity": (lambda **o: analysis.sensitivity(step, **o), {
            "z": state, "node": 1, "steps": 2, "tol": 1e-3, "max_steps": 5}),
        "ColorScale": (viz.ColorScale, {
            "kind": "rgb", "low": 0.0, "high": 1.0, "colormap": "viridis"}),
        "SurfaceRenderer": (lambda **o: viz.SurfaceRenderer(mesh, **o), {
            "size": 8, "azimuth": 1.0, "elevation": 1.0, "up": "y", "zoom": 1.0,
            "background": "white", "edges": True, "node_size": 1.0, "supersample": 1}),
        "StepProgram": (lambda **o: StepProgram(cell, **o), {"form": "scatter"}),
        "Trial": (lambda **o: Trial(growing, picture, torch.rand(16, 4), **o), {
            "fire_rate": 0.5, "seed": 0}),
        "ConvCell.prepare": (cell.prepare, {"x": x, "edge_index": edges, "edge_attr": kind}),
        "MonotoneCell.prepare": (gncadeq.MonotoneCell(2, 2).prepare, {
            "x": x, "edge_index": edges, "edge_attr": kind}),
        "IGNNCell.prepare": (gncadeq.IGNNCell(2, 2).prepare, {"x": x, "edge_index": edges}),
        "WrappedConvCell.prepare": (gncadeq.WrappedConvCell(conv, 2).prepare, {
            "x": x, "edge_index": edges}),
    }  # fmt: skip


def commands(folder: Path) -> dict[str, tuple[list[str], list]]:
    """Of each command words that make it quick and right, and the options it has."""
    from gncadeq.cli import app

    weights, run = str(tiny_weights(folder)), str(tiny_run(folder / "grown"))
    datasets.save_mesh(primitives.icosphere(0), folder / "m.ply")
    Image.new("L", (9, 9), 30).save(folder / "seven.png")
    root = ["--data-root", str(folder)]
    out = ["--out", str(folder / "out")]
    words = {
        "doctor": [],
        "evaluate": [weights, *root, "--limit", "2", "--steps", "2"],
        "predict": [weights, str(folder / "seven.png"), "--radius", "2", *out],
        "run": [run, "--steps", "2", "--recovery", "2", "--frames", "2", *out],
        "render": [str(folder / "m.ply"), str(folder / "m.png"), "--size", "16"],
        "train": ["digits", *root, "--epochs", "0", *out],  # refused: only options are tried
        "grow": ["spots", "--size", "4", "--steps", "0", *out],
        "show": [str(folder / "none"), *out],
        "analyze": [str(folder / "none"), *out],
        "export": [str(folder / "none"), str(folder / "m.onnx")],
    }
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    options = {n: [p for p in known[n].params if p.param_type_name == "option"] for n in words}
    return {name: (words[name], options[name]) for name in words}
