"""Training a rule whose patterns are like those of a picture, wherever it runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from gncadeq.cell import Cell
from gncadeq.cells import MicroCell
from gncadeq.check import check_count
from gncadeq.dynamics import GraphNCA
from gncadeq.files.checkpoints import Checkpoints
from gncadeq.files.run_lock import run_lock
from gncadeq.progress import progress_bar
from gncadeq.training.losses import normalize_gradients, overflow_loss, rest_loss
from gncadeq.training.run_config import MAX_SEED, RunConfig, option
from gncadeq.training.stopping import Steps, run_steps
from gncadeq.training.surface_patches import SurfacePatchLoss
from gncadeq.training.texture_loss import PatchLoss
from gncadeq.transforms import ImageToGraph, MeshToGraph, PixelKernels, surface_filters
from gncadeq.transforms.kernels import PIXEL
from gncadeq.transforms.surface_operators import centered_rows


@dataclass
class TextureConfig(RunConfig):
    """The options of :func:`train_texture`.

    Raises:
        ValueError: If options are out of range.

    Example:
        >>> TextureConfig(steps=500).learning_rate(450)
        0.0002
    """

    channels: int = option(
        12, "Channels of the rule, if none is given; 4 C² + C parameters.", least=3,
        hint="They begin with red, green and blue",
    )  # fmt: skip
    kernels: Literal["isotropic", "tangent"] = option(
        "isotropic",
        "'isotropic' (the Laplacian) or 'tangent' (two derivatives besides, by which the rule "
        "knows right and up).",
    )
    size: int = option(
        32, "Side in pixels of the periodic grid that it is trained on.", least=1, most=4096
    )
    steps: int = option(2500, "Training steps.", least=1)
    seed: int = option(0, "Seed of all randomness.", most=MAX_SEED)
    batch_size: int = option(4, "States a training step.", least=1)
    pool_size: int = option(32, "States that live on between training steps.")
    reset: Literal["random", "worst"] = option(
        "random", "Which of the states that are drawn starts again from noise."
    )
    reset_every: int = option(
        8, "One state starts again from noise in every so many training steps.", least=1
    )
    min_rollout: int = option(
        20, "Fewest steps to train through; the number is drawn for every training step.", least=1
    )
    max_rollout: int = option(48, "Most steps to train through.")
    age: int = option(
        0, "Steps of the first states before the training; some hundreds for a trained rule."
    )
    noise: float = option(0.3, "Standard deviation of the start.", above=0)
    fire_rate: float = option(0.5, "Probability that a node updates in a step.", above=0, most=1)
    overflow: float = option(
        100.0, "Weight of the loss on states beyond the bound of one.", least=0
    )
    rest: float = option(
        0.0,
        "Weight of the loss on states that move, at the end of the training; it rises in "
        "proportion to the training steps done.",
        least=0,
    )
    lr: float = option(
        2e-3,
        "Adam's learning rate; three tenths of it after half of the training, a tenth after 80 %.",
        above=0,
    )

    def __post_init__(self) -> None:
        """Check what can be checked before any work is done."""
        self.check_values()
        for small, large in (("min_rollout", "max_rollout"), ("batch_size", "pool_size")):
            check_count(large, getattr(self, large), getattr(self, small))

    def learning_rate(self, step: int) -> float:
        """The learning rate of a training step."""
        share = step / self.steps
        return self.lr * (1.0 if share < 0.5 else 0.3 if share < 0.8 else 0.1)


def texture_grid(size: int, kernels: Literal["isotropic", "tangent"] = "isotropic") -> Data:
    """A periodic grid of ``size`` × ``size`` pixels that senses as a surface does.

    Example:
        >>> texture_grid(8).edge_attr.shape
        torch.Size([576, 1])
    """
    pixels = ImageToGraph(periodic=True)(torch.zeros(1, size, size))
    return PixelKernels(surface_filters(kernels))(pixels)


def texture_surface(
    mesh: Data,
    kernels: Literal["isotropic", "tangent"] = "isotropic",
    pixel: float | None = None,
    up: tuple[float, float, float] = (0.0, 1.0, 0.0),
) -> Data:
    """A mesh on which a rule of :func:`train_texture` is trained and runs.

    Args:
        mesh: ``pos`` ``[N, 3]`` and ``face`` ``[3, F]``.
        kernels: As in the training.
        pixel: How long a pixel of the texture is on the surface; by default 4/3 of the mean edge's
            length, as fine as the mesh allows.
        up: The axis to which the texture stands upright (``"tangent"``).

    Example:
        >>> from gncadeq.datasets import primitives
        >>> texture_surface(primitives.icosphere(2)).num_nodes
        162
    """
    if pixel is None:
        source, target = mesh.face, mesh.face.roll(1, 0)
        length = (mesh.pos[source.flatten()] - mesh.pos[target.flatten()]).norm(dim=1)
        pixel = float(length.mean()) / PIXEL
    surface: Data = MeshToGraph(kernels, scale=PIXEL * pixel, up=up)(mesh.clone())
    surface.edge_attr = centered_rows(surface.edge_index, surface.edge_attr)
    surface.pixel = surface.pos.new_tensor([pixel])
    return surface


def state_color(z: Tensor) -> Tensor:
    """Red, green and blue ``[..., 3]`` of states: grey is zero.

    Example:
        >>> state_color(torch.tensor([[0.5, 0.0, -0.5, 9.0]]))
        tensor([[1.0000, 0.5000, 0.0000]])
    """
    return z[..., :3] + 0.5


class TextureTraining(Steps):
    """Trains a rule on one graph until its patches are distributed as those of a picture.

    From time to time one of the states that live on starts again from noise. Which one is drawn at
    random: were it always the worst, no state would grow old enough to show what the rule does in
    the long run.

    Args:
        target: The texture ``[3, H, W]`` in [0, 1], of which patches wrap around.
        config: The options.
        cell: The rule, which is trained in place: any cell that takes no injection and the graph's
            kernel weights. By default a :class:`MicroCell`.
        data: The graph: a periodic grid (:func:`texture_grid`, by default of the options' size) or
            a surface (:func:`texture_surface`).

    Attributes:
        cell: The rule.
        step: Training steps done.

    Raises:
        ValueError: If the target has another shape or other values, or is smaller than a patch at
            the coarsest scale; if the rule takes an injection, or its kernels aren't the graph's.
    """

    cell: Cell
    loss: PatchLoss

    def __init__(
        self,
        target: Tensor,
        config: TextureConfig,
        cell: Cell | None = None,
        data: Data | None = None,
    ) -> None:
        self.config, self.step = config, 0
        one = texture_grid(config.size, config.kernels) if data is None else data
        self.loss = PatchLoss(target) if "image_size" in one else SurfacePatchLoss(target, one)
        if float(target.min()) < 0 or float(target.max()) > 1:
            raise ValueError(
                "Expected a 'target' in [0, 1] (got "
                f"[{float(target.min()):g}, {float(target.max()):g}]). Divide bytes by 255"
            )
        self.cell = MicroCell(config.channels, one.edge_attr.size(1)) if cell is None else cell
        if self.cell.in_channels or self.cell.channels < 3:
            raise ValueError(
                "Expected a rule without injection whose channels begin with red, green and blue "
                f"(got {self.cell})"
            )
        self.num_nodes, self.image_size = int(one.num_nodes), one.get("image_size")
        bare = Data(
            x=one.pos.new_zeros(self.num_nodes, 0), edge_index=one.edge_index,
            edge_attr=one.edge_attr,
        )  # fmt: skip
        self.graph = Batch.from_data_list([bare] * config.batch_size)
        self.nca = GraphNCA(self.cell, fire_rate=config.fire_rate)
        self.optimizer = torch.optim.Adam(self.cell.parameters(), lr=config.lr)
        self._generator = torch.Generator().manual_seed(config.seed)
        self.pool = self._aged(self._start(config.pool_size))
        self.losses = torch.zeros(config.pool_size)  # of the pool's states when last seen
        digest = hashlib.sha256(repr((config, tuple(target.shape), self.cell)).encode())
        for part in (target, one.edge_index, one.edge_attr, *self.cell.state_dict().values()):
            digest.update(part.detach().cpu().contiguous().numpy().data)
        self._identity = digest.hexdigest()

    def _start(self, count: int) -> Tensor:
        shape = (count, self.num_nodes, self.cell.channels)
        return self.config.noise * torch.randn(shape, generator=self._generator)

    @torch.no_grad()
    def _aged(self, pool: Tensor) -> Tensor:
        """The states after the steps that they have run before the training."""
        c = self.config
        if not c.age:
            return pool
        graph = Batch.from_data_list([self.graph.get_example(0)] * c.pool_size)
        z: Tensor = self.nca(
            graph.x, graph.edge_index, graph.edge_attr, graph.batch, z0=pool.flatten(0, 1),
            steps=c.age, batch_size=c.pool_size, generator=self._generator,
        )  # fmt: skip
        return z.view_as(pool)

    def identity(self) -> str:
        """An id that is the same for the same target, options, graph and untrained rule."""
        return self._identity

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed training needs."""
        return {
            **super().state_dict(), "pool": self.pool, "losses": self.losses,
            "generator": self._generator.get_state(),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken, to the same result."""
        super().load_state_dict(state)
        self.pool, self.losses = state["pool"], state["losses"]
        self._generator.set_state(state["generator"])

    def train_step(self) -> dict[str, float]:
        """One step of training; returns its figures.

        Raises:
            FloatingPointError: If a state or gradient is not finite.
        """
        c, graph, generator = self.config, self.graph, self._generator
        index = torch.randperm(c.pool_size, generator=generator)[: c.batch_size]
        if self.step % c.reset_every == 0:
            which = 0 if c.reset == "random" else int(self.losses[index].argmax())
            self.pool[index[which]] = self._start(1)[0]
        steps = int(torch.randint(c.min_rollout, c.max_rollout + 1, (), generator=generator))
        z = self.nca(
            graph.x, graph.edge_index, graph.edge_attr, graph.batch, steps=steps,
            z0=self.pool[index].flatten(0, 1), batch_size=c.batch_size, generator=generator,
        )  # fmt: skip
        states = z.view(c.batch_size, self.num_nodes, -1)
        colors = state_color(states)
        if self.image_size is not None:
            colors = colors.mT.reshape(c.batch_size, 3, *self.image_size.flatten().tolist())
        losses = self.loss(colors, generator)
        over, rest = overflow_loss(z, 1.0), z.new_zeros(())
        if c.rest:
            step = self.cell.prepare(graph.x, graph.edge_index, graph.edge_attr)
            rest = rest_loss(step, z, squared=False)
        loss = losses.mean()
        total = loss + c.overflow * over + c.rest * self.step / c.steps * rest
        self.set_rate(c.learning_rate(self.step))
        self.optimizer.zero_grad()
        torch.autograd.backward(total)
        norm = normalize_gradients(self.cell.parameters())
        if not (norm < float("inf") and bool(z.detach().isfinite().all())):
            raise FloatingPointError(
                f"Expected finite states and gradients (got others in step {self.step}). Lower "
                "'lr', or train through fewer steps (max_rollout)"
            )
        self.optimizer.step()
        self.losses[index] = losses.detach()
        self.pool[index] = states.detach()
        self.step += 1
        return {
            "loss": float(loss.detach()), "overflow": float(over.detach()),
            "rest": float(rest.detach()), "gradient_norm": norm,
        }  # fmt: skip


def train_texture(
    target: Tensor,
    config: TextureConfig | None = None,
    progress: bool = False,
    checkpoints: str | Path | None = None,
    save_every: int = 50,
    cell: Cell | None = None,
    data: Data | None = None,
) -> Cell:
    """Train a rule on a picture's texture (:class:`TextureTraining`).

    Args:
        target: The texture ``[3, H, W]`` in [0, 1], of which patches wrap around.
        config: The options.
        progress: Whether to show a progress bar.
        checkpoints: A folder for checkpoints. A training with the same target and options that was
            interrupted there is continued, to the same result; Ctrl-C and SIGTERM end a training
            after the training step that it is in, which is saved.
        save_every: Training steps between checkpoints.
        cell: The rule to train in place; by default a :class:`MicroCell`.
        data: The graph to train on; by default a periodic grid.

    Raises:
        FloatingPointError: If a state or gradient is not finite.
        KeyboardInterrupt: On Ctrl-C and SIGTERM.
        RuntimeError: If another process trains with these checkpoints.
        ValueError: As :class:`TextureTraining`, or if the checkpoints are of another training.

    Example:
        >>> options = TextureConfig(channels=4, size=20, steps=2, max_rollout=20)
        >>> train_texture(torch.rand(3, 20, 20), options)
        MicroCell(4, num_kernels=1, parameters=68)
    """
    save_every = check_count("save_every", save_every, 1)
    run = TextureTraining(target, config or TextureConfig(), cell, data)
    if checkpoints is None:
        return _train(run, progress, save_every, None)
    with run_lock(checkpoints):
        kept = Checkpoints(checkpoints, run.identity())
        if (state := kept.newest()) is not None:
            run.load_state_dict(state)
        return _train(run, progress, save_every, lambda: kept.save(run.step, run.state_dict()))


def _train(
    run: TextureTraining, progress: bool, save_every: int, save: Callable[[], None] | None
) -> Cell:
    steps = run.config.steps
    with progress_bar(total=steps, initial=run.step, desc="texture", progress=progress) as bar:
        for figures, _ in run_steps(run, steps, save_every, save):
            bar.update()
            if run.step % 25 == 0:
                bar.set_postfix(loss=f"{figures['loss']:.4f}")
    return run.cell.eval()
