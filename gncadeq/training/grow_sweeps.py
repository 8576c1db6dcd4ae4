"""Growing by sweeps: trained as an equilibrium, one solve a training step."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from gncadeq.cells.sweep_grower import SweepGrower
from gncadeq.device import beside, usable_device
from gncadeq.dynamics import GraphDEQ
from gncadeq.growth import color_error
from gncadeq.training.grow_config import GrowConfig
from gncadeq.training.stopping import Steps
from gncadeq.training.targets import check_target, seed_node
from gncadeq.transforms import ImageToGraph, SurfaceSweeps, Sweeps

WARM = 0.15  # of the training, in which the learning rate rises


def sweep_graph(data: Data, scale: float | None = None, node: int | None = None) -> Data:
    """The graph of the sweeps of a target, with the marks as ``x``.

    On a grid they come from the four corners; on a surface from the seed node.

    Args:
        data: The target: a pixel grid, or a mesh with ``face``.
        scale: The length of the sweeps' kernels on a surface; by default the mean length of the
            mesh's edges.
        node: The seed node; by default the target's.

    Raises:
        ValueError: If the target is on neither.
    """
    seed = seed_node(data, node)
    if data.get("image_size") is not None:
        height, width = (int(s) for s in data.image_size.view(-1))
        graph = Sweeps()(ImageToGraph()(torch.zeros(1, height, width)))
        graph.x[seed] = 1.0
    elif data.get("face") is not None:
        graph = SurfaceSweeps(scale or mean_edge(data), [seed])(Data(pos=data.pos, face=data.face))
    else:
        raise ValueError(
            "Expected a grid or a mesh with faces for method='sweeps' (got a graph without). Use "
            "--method bptt"
        )
    out = data.clone()
    out.x, out.edge_index, out.edge_attr = graph.x, graph.edge_index, graph.edge_attr
    return out


def mean_edge(mesh: Data) -> float:
    """The mean length of a mesh's edges."""
    a, b, c = mesh.pos[mesh.face]
    return float(torch.cat([a - b, b - c, c - a]).norm(dim=1).mean())


class SweepGrowth(Steps):
    """The state of a training run: rule, optimiser and how far it is.

    Args:
        config: What to train.
        data: The target graph.
    """

    cell: SweepGrower

    def __init__(self, config: GrowConfig, data: Data) -> None:
        self.config, self.data = config, check_target(data)
        torch.manual_seed(config.seed)
        graph = sweep_graph(self.data, config.scale, config.seed_node)
        grid = self.data.get("image_size") is not None
        self.cell = SweepGrower(
            1, 4 if grid else 1, 3 if grid else 4,
            max(1, config.channels // 2) if grid else config.channels, config.hidden_channels,
        )  # fmt: skip
        self.cell.to(usable_device(config.device))
        self.result = self.cell  # what the run keeps
        self.graph = beside(graph, self.cell)
        self.deq = GraphDEQ(self.cell)
        self.optimizer = torch.optim.Adam(self.cell.parameters(), lr=config.lr)
        self.step = 0

    def train_step(self) -> dict[str, float]:
        """One step of training; returns its figures.

        Raises:
            FloatingPointError: If the loss is not finite.
        """
        g, lr = self.graph, self.learning_rate()
        self.set_rate(lr)
        z, solution = self.deq(g.x, g.edge_index, g.edge_attr, return_solution=True)
        loss = color_error(z, g.color).mean()
        if not bool(loss.isfinite()):
            raise FloatingPointError(
                f"Expected a finite loss (got NaN or infinity in step {self.step}). Lower 'lr'"
            )
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        norm = float(nn.utils.clip_grad_norm_(self.cell.parameters(), 0.1))
        self.optimizer.step()
        self.step += 1
        steps = float(solution.num_steps.float().mean())
        return {
            "loss": float(loss.detach()), "pool_loss": float(loss.detach()), "overflow": 0.0,
            "rest": float(solution.residual.max()), "rollout": steps, "age": steps,
            "gradient_norm": norm, "lr": lr,
        }  # fmt: skip

    def learning_rate(self) -> float:
        """A rise to ``lr``, and half a cosine down."""
        share = self.step / self.config.steps
        if share < WARM:
            return self.config.lr * (0.04 + 0.96 * share / WARM)
        return self.config.lr * 0.5 * (1 + math.cos(math.pi * (share - WARM) / (1 - WARM)))


def blank_state(data: Data, cell: SweepGrower) -> Tensor:
    """The state that sweeps grow from: zeros everywhere, since the marks are in the injection."""
    z: Tensor = data.pos.new_zeros(int(data.num_nodes), cell.channels)
    return z
