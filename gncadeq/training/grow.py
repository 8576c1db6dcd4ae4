"""Training a growing automaton; plain torch, since its data is a pool that it writes itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from gncadeq.cells import GrowingCell, SweepGrower
from gncadeq.device import beside, usable_device
from gncadeq.dynamics import GraphDEQ, GraphNCA
from gncadeq.files.checkpoints import Checkpoints
from gncadeq.files.run_lock import run_lock
from gncadeq.files.weights import load_pretrained, read_header, save_pretrained
from gncadeq.growth import color_error
from gncadeq.progress import progress_bar
from gncadeq.training.averaging import running_mean
from gncadeq.training.grow_config import GrowConfig
from gncadeq.training.grow_sweeps import SweepGrowth, blank_state, mean_edge, sweep_graph
from gncadeq.training.losses import normalize_gradients, overflow_loss, rest_loss
from gncadeq.training.orientation import place_seeds, turned_colors, turned_error
from gncadeq.training.pool import SamplePool
from gncadeq.training.run import versions
from gncadeq.training.run_config import extended_from
from gncadeq.training.step_log import StepLog
from gncadeq.training.stopping import Steps, run_steps
from gncadeq.training.surfaces import is_graph, is_surface
from gncadeq.training.targets import (
    anchor,
    check_target,
    read_graph,
    save_target,
    seed_state,
)

STATE_BOUND = 1.25  # of the cell, times the bound from which the loss pulls states back
LOOK_EVERY = 16  # steps between two looks at the residual

_COLUMNS = (
    "step", "loss", "pool_loss", "overflow", "rest", "rollout", "age", "gradient_norm", "lr",
    "seconds",
)  # fmt: skip


class Growth(Steps):
    """The state of a training run: rule, optimiser, pool and how far it is.

    Args:
        config: What to train.
        data: The target graph.
    """

    cell: GrowingCell

    def __init__(self, config: GrowConfig, data: Data) -> None:
        data = place_seeds(check_target(data), config.seeds, config.seed_node, config.up)
        self.config, self.data = config, data
        torch.manual_seed(config.seed)
        self.cell = GrowingCell(
            config.channels, data.edge_attr.size(1), config.hidden_channels, config.marks(),
            bound=STATE_BOUND * config.overflow_bound if config.overflow else None,
            out_bias=config.out_bias,
        )  # fmt: skip
        self.cell.to(usable_device(config.device))
        self.average = running_mean(self.cell, config.average)
        self.result: Any = self.average.module  # what the run keeps
        self.optimizer = torch.optim.Adam(self.cell.parameters(), lr=config.lr)
        self.data.x = anchor(data, None, config.marks())
        target = beside(self.data, self.cell)
        seed = seed_state(target, config.channels)
        graphs, seeds = [target], [seed]
        for variant in config.draw_variants(self.data):
            graph = beside(variant, self.cell)
            graph.x = anchor(graph, None, config.marks())
            graphs += [graph, target]  # half of the pool is the surface itself
            seeds += [seed_state(graph, config.channels), seed]
        if config.turns:
            for graph in graphs:
                graph.turned = turned_colors(graph.cpu(), config.turns).to(graph.color)
        elders = int(config.elders * config.pool_size)
        self.pool = SamplePool(graphs, seeds, config.pool_size, config.seed, elders)
        self.nca = GraphNCA(
            self.cell, fire_rate=config.fire_rate, checkpoint_every=config.checkpoint_every
        )
        # The rollout is the solve: max_steps=0 leaves the state where the automaton brought it. A
        # solver would return the best state on its way, and hide from the loss what blows up later.
        self.deq = GraphDEQ(
            self.cell, "picard", tol=config.tol, max_steps=0, backward_max_steps=config.max_steps,
            gradient=config.gradient, phantom_steps=config.phantom_steps, on_failure="ignore",
        )  # fmt: skip
        self.step = 0

    def train_step(self) -> dict[str, float]:
        """One step of training; returns its figures.

        Raises:
            FloatingPointError: If a state or gradient is not finite; the message names the cause.
        """
        c = self.config
        # Randomness depends on seed and step alone, so a resumed run repeats it.
        generator = torch.Generator().manual_seed(c.seed * 1_000_003 + self.step)
        index, batch = self.pool.sample(c.batch_size)
        grown_up = self.step >= c.damage_from * c.steps
        if not self._implicit() and grown_up and c.settle and self.step % 2:
            self._settle(index, batch, generator)
        before = self._error(batch.z, batch)
        z = self.pool.refresh(
            index, before, reset=int(self.step % c.reset_every == 0),
            damage=c.damage if grown_up else 0, alive_channel=self.cell.alive_channel,
            alive_threshold=self.cell.alive_threshold, injury=c.injury,
        )  # fmt: skip
        z, steps = self._run(batch, z, generator)
        loss = self._error(z, batch).mean()
        over = overflow_loss(z, c.overflow_bound)
        rest = rest_loss(self.cell.prepare(*self._graph(batch)), z) if c.rest else z.new_zeros(())
        total = loss + c.overflow * over + c.rest_weight(self.step) * rest
        self._check_finite(z)
        lr = c.learning_rate(self.step)
        self.set_rate(lr)
        self.optimizer.zero_grad()
        torch.autograd.backward(total)
        norm = normalize_gradients(self.cell.parameters())
        if not norm < float("inf"):
            raise FloatingPointError(
                f"Expected a finite gradient (got {norm} in step {self.step}). Lower 'lr', or "
                "train through fewer steps (max_rollout)"
            )
        self.optimizer.step()
        self.average.update_parameters(self.cell)
        self.pool.update(index, z, steps)
        self.step += 1
        return {
            "loss": float(loss.detach()), "pool_loss": float(before.mean()),
            "overflow": float(over.detach()), "rest": float(rest.detach()),
            "rollout": float(steps.float().mean()), "age": float(self.pool.age.float().mean()),
            "gradient_norm": norm, "lr": lr,
        }  # fmt: skip

    def _implicit(self) -> bool:
        c = self.config
        return c.method == "implicit" and self.step >= c.pretrain * c.steps

    def _error(self, z: Tensor, batch: Batch) -> Tensor:
        if self.config.turns:
            return turned_error(z, batch.turned, batch.batch)
        return color_error(z, batch.color, batch.batch)

    def _graph(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        return batch.x, batch.edge_index, batch.edge_attr

    @torch.no_grad()
    def _settle(self, index: Tensor, batch: Batch, generator: torch.Generator) -> None:
        """Let drawn states age: what goes wrong only after many steps is seen, and trained away."""
        steps = int(torch.randint(1, self.config.settle + 1, (), generator=generator))
        graph = self._graph(batch)
        batch.z = self.nca(
            *graph, batch.batch, z0=batch.z, steps=steps, batch_size=batch.num_graphs,
            generator=generator,
        )  # fmt: skip
        self._check_finite(batch.z)
        self.pool.update(index, batch.z, steps)

    def _run(self, batch: Batch, z: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The states that the loss sees, and how many steps each took."""
        c, graph = self.config, self._graph(batch)
        if self._implicit():
            end, done = self._iterate(batch, z, generator)
            # What runs away has no equilibrium to differentiate at: it is trained through time.
            if float(end.abs().max()) < STATE_BOUND * c.overflow_bound:
                end = self.deq(*graph, batch.batch, z0=end, batch_size=batch.num_graphs)
                return end, torch.full((batch.num_graphs,), done)
        steps = int(torch.randint(c.min_rollout, c.max_rollout + 1, (), generator=generator))
        z = self.nca(
            *graph, batch.batch, z0=z, steps=steps, batch_size=batch.num_graphs,
            generator=generator,
        )  # fmt: skip
        return z, torch.full((batch.num_graphs,), steps)

    @torch.no_grad()
    def _iterate(self, batch: Batch, z: Tensor, generator: torch.Generator) -> tuple[Tensor, int]:
        """Run the automaton until every state is at rest, or for a random number of steps."""
        c, done = self.config, 0
        steps = int(torch.randint(c.max_rollout, c.max_steps + 1, (), generator=generator))
        while done < steps:
            count = min(LOOK_EVERY, steps - done)
            z, solution = self.nca(
                *self._graph(batch), batch.batch, z0=z, steps=count, batch_size=batch.num_graphs,
                generator=generator, return_solution=True,
            )  # fmt: skip
            done += count
            if bool((solution.residual <= c.tol).all()):
                break
        return z, done

    def _check_finite(self, z: Tensor) -> None:
        if bool(z.isfinite().all()):
            return
        bad = [n for n, p in self.cell.named_parameters() if not bool((p.abs() < 1e6).all())]
        if bad:
            cause = f"the parameters {bad} have exploded"
        else:
            rows = int((~z.isfinite().all(1)).sum())
            cause = f"{rows} nodes of the states are NaN or infinite, though no parameter is"
        raise FloatingPointError(
            f"Expected finite states (got NaN or infinity in step {self.step}): {cause}. Lower "
            "'lr', or raise 'overflow'"
        )

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs."""
        average = self.average.state_dict()
        return {**super().state_dict(), "average": average, "pool": self.pool.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken, to the same result."""
        super().load_state_dict(state)
        if "average" in state:
            self.average.load_state_dict(state["average"])
        else:  # earlier versions kept none: it begins with their weights
            self.result.load_state_dict(self.cell.state_dict())
        self.pool.load_state_dict(state["pool"])


def grow(
    config: GrowConfig, data: Data | None = None, *, resume: bool = False, progress: bool = True
) -> GrowingCell | SweepGrower:
    """Train a rule that grows a target from a seed, keeps it and mends it.

    The run's folder receives ``config.json``, ``target.safetensors`` (the graph with its colours),
    ``checkpoints/`` (the newest two, for ``resume``), ``metrics.csv`` and ``model.safetensors``.
    Ctrl-C and SIGTERM end the run after the training step that it is in, which is saved.

    Args:
        config: What to train.
        data: The target graph, with ``pos``, ``edge_index``, ``edge_attr`` ``[num_edges,
            num_kernels]`` and ``color`` ``[num_nodes, 3 or 4]`` in [0, 1] (of four channels, the
            first three multiplied by the fourth); by default read as the configuration says.
        resume: Continue an interrupted run in its folder, to the same result; or any run for
            longer, if ``config`` has more steps than it had.
        progress: Whether to show a progress bar.

    Raises:
        KeyboardInterrupt: On Ctrl-C and SIGTERM; the folder can be resumed.
        FileExistsError: If the folder holds a run already and ``resume`` is false.
        FloatingPointError: If a state or gradient is not finite; the message names the cause.
        RuntimeError: If another process writes the run.
        ValueError: If there is no such device, or no checkpoint of the run to resume is intact.
    """
    with run_lock(config.out):
        return _grow(config, data, resume, progress)


def _grow(
    config: GrowConfig, data: Data | None, resume: bool, progress: bool
) -> GrowingCell | SweepGrower:
    folder = Path(config.out)
    usable_device(config.device)
    config.check_folder(folder, resume, places=("out", "device"))
    if resume:
        data = read_graph(folder / "target.safetensors")
    elif data is None:
        data = config.read_target()
    run = SweepGrowth(config, data) if config.method == "sweeps" else Growth(config, data)
    log = StepLog(folder / "metrics.csv", _COLUMNS, every=25)
    if not resume:
        save_target(run.data, folder / "target.safetensors")
    options = folder / "config.json"
    checkpoints = Checkpoints(folder / "checkpoints", config.save(options))
    card = {
        "command": config.command_line(), "versions": versions(),
        "seed_node": config.seed_node, "fire_rate": config.fire_rate,
        "max_rollout": config.max_rollout, "extended_from": extended_from(options),
        "senses": config.senses(run.data),
    }  # fmt: skip

    def save_weights() -> None:
        made = {**card, "steps_done": run.step}
        save_pretrained(run.result, folder / "model.safetensors", made)

    if (state := checkpoints.newest()) is not None:
        run.load_state_dict(state)
        log.read(run.step)
        save_weights()  # they may be missing, or older

    def save() -> None:
        log.write()
        save_weights()
        checkpoints.save(run.step, run.state_dict())

    with progress_bar(total=config.steps, initial=run.step, desc="grow", progress=progress) as bar:
        for figures, keep in run_steps(run, config.steps, config.save_every, save):
            bar.update()
            row = log.add(run.step, figures, flush=keep)
            if row:
                bar.set_postfix({"loss": f"{row['loss']:.4f}", "pool": f"{row['pool_loss']:.4f}"})
    return run.result.eval()


def load_grown(
    run: str | Path, on: str | None = None
) -> tuple[GrowingCell | SweepGrower, Data, Tensor, dict[str, Any]]:
    """The rule of a run, its target graph (the injection as ``x``), its seed state, and its card.

    Args:
        run: The run's folder.
        on: Another surface for the rule of a run on a surface, with the same target and kernels.
            A seed that the run names by its number becomes the node nearest to its place.

    Raises:
        FileNotFoundError: If the folder holds no such run, or not yet.
        ValueError: If a file is corrupt, or the run was on no surface.
    """
    folder = Path(run)
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise FileNotFoundError(
            f"Expected a run of 'gncadeq grow' with {weights} (got no such file). It is written "
            "with the first checkpoint"
        )
    sweeps = read_header(weights)[1] == SweepGrower.__name__
    kind: Any = SweepGrower if sweeps else GrowingCell
    cell: GrowingCell | SweepGrower = load_pretrained(kind, weights)
    data = read_graph(folder / "target.safetensors")
    card: dict[str, Any] = cell.card  # type: ignore[assignment]
    node = card.get("seed_node")
    config = GrowConfig.load(folder / "config.json")
    scale = config.scale
    if on is not None:
        alike = config.on_graph() == is_graph(on)
        if not (config.on_surface() and is_surface(on) and alike):
            raise ValueError(
                "Expected a run on a surface, to go on another surface with the same kernels (got "
                f"a run on {config.on!r}, and {on!r}). Name a mesh for a run on a mesh, a graph "
                "file for one on a graph; train on 'plane' instead of 'grid'"
            )
        trained, data = data, config.read_target(on)
        scale = scale or (mean_edge(trained) if sweeps else None)
        if node is not None:
            node = int((data.pos - trained.pos[node]).norm(dim=1).argmin())
    if isinstance(cell, SweepGrower):
        data = sweep_graph(data, scale, node)
        return cell, data, blank_state(data, cell), card
    data = place_seeds(data, config.seeds, node, config.up)
    data.x = anchor(data, None, cell.in_channels)
    return cell, data, seed_state(data, cell.channels), card
