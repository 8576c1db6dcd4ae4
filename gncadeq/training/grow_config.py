"""What a run of a growing automaton is made of; written to ``config.json`` in its folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch_geometric.data import Data

from gncadeq.check import check_count
from gncadeq.choices import Gradient, GrowMethod, Kernels, Projection, Up
from gncadeq.training.config import POSITIVE, SEED, SHARE, SOME, RunConfig

_OF_SURFACES = {"kernels": "tangent", "scale": None, "up": "y", "projection": "auto"}


@dataclass
class GrowConfig(RunConfig):
    r"""The options of :func:`gncadeq.training.grow.grow`.

    Args:
        target: A picture, a pattern, or ``"color"``
            (:func:`gncadeq.training.targets.load_target`).
        on: ``"grid"``, a surface or mesh file, or a graph file (GraphML, GML, an edge list).
        size: Side of the grid in pixels, into which a picture is shrunk; ``None`` keeps its size.
        kernels: What nodes of a surface sense, as of :class:`gncadeq.transforms.MeshToGraph`.
        scale: Length of these kernels in the units of the mesh, or ``None`` for those of one ring.
        up: The axis of the mesh that points up.
        projection: How a picture gets onto a surface
            (:func:`gncadeq.training.surfaces.project_picture`).
        out: The run's folder.
        steps: Training steps.
        seed: Seed of all randomness.
        channels: Channels of the state, at least 4 (red, green, blue, alpha).
        hidden_channels: Width of the rule's MLP.
        seed_node: The node that lives at first; by default the one in the middle.
        anchor: Whether the seed node stays marked for ever
            (:func:`gncadeq.training.targets.anchor`), which holds the pattern in its place.
        method: ``"bptt"`` trains through the steps of the automaton; ``"implicit"`` runs it without
            gradient until it is at rest, and differentiates there (:class:`gncadeq.GraphDEQ`).
        pretrain: Share of the training, in [0, 1), that ``"implicit"`` begins with ``"bptt"``: an
            implicit gradient is one only near an equilibrium, and at first there is none. Later
            training steps whose states run away are taken through time as well.
        fire_rate: Probability that a node updates in a step.
        min_rollout: Fewest steps to train through; the number is drawn for every training step.
        max_rollout: Most steps to train through; the fewest on the way to rest (``"implicit"``).
        settle: Every other training step lets the drawn states age by up to so many steps first,
            without gradient (``"bptt"``); 0 never does.
        checkpoint_every: As of :class:`gncadeq.GraphNCA`.
        gradient: ``"ift"``, ``"phantom"`` or ``"one_step"`` (``"implicit"``). Of the three only the
            first was measured to keep a grown pattern (``docs/growing.md``).
        phantom_steps: Steps of the phantom gradient.
        tol: Relative residual that is rest, and to which ``"ift"`` solves (``"implicit"``).
        max_steps: Most steps on the way to rest (``"implicit"``).
        variants: Other triangulations of a surface to train on beside it
            (:func:`gncadeq.training.variants.draw_variants`), so that the rule doesn't depend on
            that of the file; not for grids and graph files. At most as many as half of
            ``pool_size``; the other half is the surface itself.
        pool_size: States in the pool.
        elders: Share of them, in [0, 1), that are never sent back to the seed, so that they grow
            old.
        batch_size: States a training step.
        reset_every: The worst of a draw goes back to the seed in every so many training steps.
        damage: How many of the best of a draw are injured.
        damage_from: Share of the training after which injuries and settling begin, in [0, 1].
        rest: Weight of :func:`gncadeq.training.losses.rest_loss` at the end of the training, to
            which it rises in proportion to the training steps done.
        overflow: Weight of :func:`gncadeq.training.losses.overflow_loss`.
        overflow_bound: Bound on states.
        lr: Adam's learning rate; divided by 3 after half of the training, and by 10 after 80 %.
        save_every: Training steps between checkpoints.

    Example:
        >>> GrowConfig("lizard.png", steps=500).command_line()
        'gncadeq grow lizard.png --steps 500 --out runs/grow'
    """

    command: ClassVar[tuple[str, str]] = ("grow", "target")
    limits: ClassVar[dict[str, dict[str, Any]]] = {
        **dict.fromkeys(
            ("steps", "hidden_channels", "checkpoint_every", "min_rollout", "phantom_steps",
             "max_steps", "batch_size", "reset_every", "save_every"), SOME,
        ),
        "size": {"least": 1, "most": 4096}, "channels": {"least": 4}, "seed": SEED,
        "scale": POSITIVE, "tol": POSITIVE, "overflow_bound": POSITIVE, "lr": POSITIVE,
        "rest": {"least": 0.0}, "overflow": {"least": 0.0}, "damage_from": SHARE,
        "pretrain": {"least": 0.0, "below": 1.0},
        "elders": {"least": 0.0, "below": 1.0, "hint": "Else no seed is grown"},
        "fire_rate": {"above": 0.0, "most": 1.0},
    }  # fmt: skip

    target: str
    on: str = "grid"
    size: int | None = 40
    kernels: Kernels = "tangent"
    scale: float | None = None
    up: Up = "y"
    projection: Projection = "auto"
    out: str = "runs/grow"
    steps: int = 600
    seed: int = 0
    channels: int = 16
    hidden_channels: int = 96
    seed_node: int | None = None
    anchor: bool = True
    method: GrowMethod = "bptt"
    pretrain: float = 0.5
    fire_rate: float = 1.0
    min_rollout: int = 20
    max_rollout: int = 32
    settle: int = 100
    checkpoint_every: int | None = None
    gradient: Gradient = "ift"
    phantom_steps: int = 16
    tol: float = 1e-3
    max_steps: int = 96
    variants: int = 7
    pool_size: int = 16
    elders: float = 0.5
    batch_size: int = 4
    reset_every: int = 2
    damage: int = 1
    damage_from: float = 0.1
    rest: float = 30.0
    overflow: float = 1.0
    overflow_bound: float = 2.0
    lr: float = 2e-3
    save_every: int = 100

    def __post_init__(self) -> None:
        """Check what can be checked before any work is done.

        Raises:
            ValueError: If options are out of range or contradict each other.
        """
        self.check_values()
        given = [k for k, usual in _OF_SURFACES.items() if getattr(self, k) != usual]
        if self.on_graph():
            given = [name for name in given if name in ("kernels", "scale")]
        if given and (self.on_graph() or not self.on_surface()):
            raise ValueError(
                f"Expected {given} for surfaces alone (got on={self.on!r}). Leave them out"
            )
        for small, large in (
            ("min_rollout", "max_rollout"), ("max_rollout", "max_steps"),
            ("batch_size", "pool_size"),
        ):  # fmt: skip
            hint = f"{small!r} is as large as that"
            check_count(large, getattr(self, large), getattr(self, small), hint=hint)
        if self.damage >= self.batch_size and self.damage:
            raise ValueError(
                f"Expected 'damage' below 'batch_size' = {self.batch_size}, so that something "
                f"stays whole (got {self.damage})"
            )

    def on_surface(self) -> bool:
        """Whether the target is on a mesh or graph, with kernels that are made for it."""
        from gncadeq.training.surfaces import is_surface  # pictures load where they are used

        return is_surface(self.on)

    def on_graph(self) -> bool:
        """Whether the target is on the graph of a file, whose one kernel is the Laplacian."""
        from gncadeq.training.surfaces import is_graph

        return is_graph(self.on)

    def read_target(self, on: str | None = None) -> Data:
        """The target, on another surface if ``on`` names one: the same kernels, size and axes."""
        from gncadeq.training.targets import load_target

        return load_target(
            self.target, on or self.on, self.size, self.kernels, self.scale, self.up,
            self.projection,
        )  # fmt: skip

    def draw_variants(self, data: Data) -> list[Data]:
        """The target on other triangulations of its surface, drawn by the run's seed."""
        if not self.on_surface() or data.get("face") is None:
            return []
        from gncadeq.training.targets import seed_node
        from gncadeq.training.variants import draw_variants

        node = data.face.new_tensor([seed_node(data, self.seed_node)])
        mesh = Data(pos=data.pos, face=data.face, color=data.color, seed_node=node)
        count = min(self.variants, (self.pool_size - 1) // 2)
        return draw_variants(mesh, count, self.kernels, self.scale, self.up, self.seed)

    def learning_rate(self, step: int) -> float:
        """The learning rate of a training step."""
        share = step / self.steps
        return self.lr * (1.0 if share < 0.5 else 0.3 if share < 0.8 else 0.1)

    def rest_weight(self, step: int) -> float:
        """The weight of the rest loss in a training step."""
        return self.rest * step / self.steps


__all__ = ["GrowConfig"]
