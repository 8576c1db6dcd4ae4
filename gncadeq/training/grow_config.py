"""What a run of a growing automaton is made of; written to ``config.json`` in its folder."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Self

from gncadeq.check import check_choice, check_count
from gncadeq.choices import AXES, Gradient, GrowMethod, GrowRecipe, Injury, Kernels, Projection, Up
from gncadeq.training.recipes import GROW_RECIPES, METHODS
from gncadeq.training.run_config import MAX_SEED, RunConfig, device_option, option

if TYPE_CHECKING:
    from torch_geometric.data import Data

    from gncadeq.transforms import MeshToGraph

_OF_SURFACES = {"scale": None, "up": "y", "projection": "auto"}


@dataclass
class GrowConfig(RunConfig):
    """The options of :func:`gncadeq.training.grow.grow`.

    Example:
        >>> GrowConfig("lizard.png", steps=500).command_line()
        'gncadeq grow lizard.png --steps 500 --out runs/grow'
    """

    command: ClassVar[tuple[str, str]] = ("grow", "target")
    length: ClassVar[str] = "steps"

    target: str = field(
        metadata={
            "help": "A picture (its transparency is kept); 'stripes', 'spots' or 'gradient'; or "
            "'color', the colours of the file that 'on' names."
        }
    )
    on: str = option(
        "grid",
        "'grid'; a file of a mesh or of points; 'icosphere', 'torus', 'cylinder', 'moebius', "
        "'plane' or 'delaunay_blob', or with its size, 'icosphere:4', 'torus:64,32'; a graph, as "
        "GraphML, GML or a list of edges; or a graph with colours (a run's target.safetensors).",
    )
    size: int | None = option(
        40,
        "Side of the grid in pixels, into which a picture is shrunk; none keeps its size.",
        least=1,
        most=4096,
    )
    padding: int = option(0, "Transparent pixels around a picture on the grid.", most=4096)
    kernels: Kernels = option(
        "tangent",
        "What nodes sense: 'tangent', two derivatives and the Laplacian; 'gradient', the "
        "derivatives; 'isotropic', the Laplacian; on surfaces 'harmonics' too.",
    )
    scale: float | None = option(
        None,
        "Length of these kernels in the units of the mesh, so that the rule fits other "
        "resolutions; none takes one ring of neighbours.",
        above=0,
    )
    up: Up = option("y", "The axis of the mesh that points up.")
    projection: Projection = option(
        "auto",
        "How a picture gets onto a surface; auto: around it, if its box is a cube, or else along "
        "the box's shortest side.",
    )
    out: str = option("runs/grow", "The run's folder.", shown="runs/grow/TARGET")
    steps: int = option(600, "Training steps.", least=1)
    seed: int = option(0, "Seed of all randomness.", most=MAX_SEED)
    channels: int = option(
        16, "Channels of the state, at least 4 (red, green, blue and opacity).", least=4
    )
    hidden_channels: int = option(96, "Width of the rule's MLP.", name="hidden", least=1)
    out_bias: bool = option(False, "Give the last layer of the rule a bias.")
    seed_node: int | None = option(
        None, "The node that lives at first.", shown="none: the one in the middle"
    )
    seeds: int = option(
        1,
        "Nodes that live at first: with 2 and 3 one to the right and one above tell a rule that "
        "senses no directions where these are.",
        least=1,
        most=3,
    )
    anchor: bool = option(
        True, "Mark the seed nodes for ever, which holds the pattern in its place."
    )
    method: GrowMethod = option(
        "bptt",
        "'bptt' trains through the steps of the automaton; 'implicit' runs it without gradient "
        "until it is at rest, and differentiates there; 'sweeps' trains a rule that reads outwards "
        "from the seed, and is at rest by construction, on grids and meshes; unless given, with "
        "--steps 1000 --lr 0.005 --hidden 48.",
    )
    pretrain: float = option(
        0.5,
        "Share of the training, in [0, 1), that 'implicit' begins with 'bptt': at first there is "
        "no equilibrium to differentiate. Later training steps whose states run away are taken "
        "through time as well.",
        least=0,
        below=1,
    )
    fire_rate: float = option(
        1.0, "Probability that a node updates in a step (bptt).", above=0, most=1
    )
    min_rollout: int = option(
        20, "Fewest steps to train through; the number is drawn for every training step.", least=1
    )
    max_rollout: int = option(
        32, "Most steps to train through (bptt); the fewest on the way to rest (implicit)."
    )
    settle: int = option(
        100,
        "Every other training step lets the drawn states age by up to so many steps first, without "
        "gradient (bptt); 0 never does.",
    )
    checkpoint_every: int | None = option(
        None, "Recompute in segments of so many steps, for less memory (bptt).", least=1
    )
    gradient: Gradient = option(
        "ift",
        "The gradient (implicit). Of the three only 'ift' was measured to keep a grown pattern.",
    )
    phantom_steps: int = option(16, "Steps of the phantom gradient.", least=1)
    tol: float = option(
        1e-3, "Relative residual that is rest, and to which 'ift' solves (implicit).", above=0
    )
    max_steps: int = option(96, "Most steps on the way to rest (implicit).", least=1)
    variants: int = option(
        7,
        "Other triangulations of a surface to train on beside it, so that the rule doesn't depend "
        "on that of the file; not for grids and graph files. With several seeds, the target turned "
        "with them, on every graph; with --kernels isotropic every other one on uneven points in "
        "the place of pixels. At most as many as half of the pool; the other half is the target "
        "itself.",
    )
    turns: int = option(
        0,
        "Compare with the target turned around the seed by so many angles, and mirrored, and take "
        "the least error; 0 takes it as it is.",
    )
    pool_size: int = option(16, "States in the pool.")
    elders: float = option(
        0.5,
        "Share of them, in [0, 1), that never return to the seed, so that they grow old.",
        least=0,
        below=1,
        hint="Else no seed is grown",
    )
    batch_size: int = option(4, "States a training step.", least=1)
    reset_every: int = option(
        2,
        "The worst of a draw starts again from the seed in every so many training steps.",
        least=1,
    )
    damage: int = option(1, "How many of the best of a draw are injured.")
    injury: Injury = option(
        "both", "Injuries are 'disc', balls, or 'both', balls and cut off thirds."
    )
    damage_from: float = option(
        0.1,
        "Share of the training, in [0, 1], after which injuries and settling begin.",
        least=0,
        most=1,
    )
    rest: float = option(
        30.0,
        "Weight of the loss on states that move, at the end of the training; it rises in "
        "proportion to the training steps done.",
        least=0,
    )
    overflow: float = option(
        1.0,
        "Weight of the loss on states beyond the bound; with 0 the rule doesn't clamp states.",
        least=0,
    )
    overflow_bound: float = option(2.0, "Bound on the entries of states.", above=0)
    lr: float = option(
        2e-3,
        "Adam's learning rate; divided by 3 after half of the training, by 10 after 80 %.",
        above=0,
    )
    decay: float | None = option(
        None,
        "Divide it by 10 once, after this share of the training, in the place of that.",
        least=0,
        most=1,
    )
    average: float = option(
        0.98,
        "The run keeps a running mean of the weights, to which a training step adds one minus this "
        "share of its own; 0 keeps the last ones (bptt, implicit).",
        least=0,
        below=1,
    )
    save_every: int = option(100, "Training steps between checkpoints.", least=1)
    device: str = device_option()

    def __post_init__(self) -> None:
        """Check what can be checked before any work is done.

        Raises:
            ValueError: If options are out of range or contradict each other.
        """
        self.check_values()
        given = [k for k, usual in _OF_SURFACES.items() if getattr(self, k) != usual]
        if self.on_graph():
            given = [name for name in given if name == "scale"]
        if given and (self.on_graph() or not self.on_surface()):
            raise ValueError(
                f"Expected {given} for surfaces alone (got on={self.on!r}). Leave them out"
            )
        if self.seeds > 1 and self.method == "sweeps":
            raise ValueError(
                f"Expected one seed with method='sweeps' (got {self.seeds}). Use method='bptt'"
            )
        if self.turns and self.method == "sweeps":
            raise ValueError(
                f"Expected turns=0 with method='sweeps' (got {self.turns}). Use method='bptt'"
            )
        no = self._kernels_missing()
        if self.kernels in no:
            raise ValueError(
                f"Expected 'kernels' other than {no} with on={self.on!r} (got {self.kernels!r}). "
                "Leave it out, or take another recipe"
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

    def marks(self) -> int:
        """Channels of the injection that marks the seed nodes."""
        return self.seeds if self.anchor else 0

    def _kernels_missing(self) -> tuple[str, ...]:
        if self.on_graph():
            return "gradient", "harmonics", "isotropic"
        return () if self.on_surface() else ("harmonics",)

    @classmethod
    def recipe(cls, name: GrowRecipe, target: str, **options: Any) -> Self:
        """A recipe's configuration, with ``options`` in the place of some of its own.

        Args:
            name: ``"rest"``, the defaults; ``"distill"``, as published by Mordvintsev et al.
                (2020); or ``"isotropic"``, without directions, after Mordvintsev et al. (2022).
            target: What is grown.
            options: Fields of the configuration.
        """
        check_choice("name", name, GROW_RECIPES)
        return cls(target, **{**GROW_RECIPES[name], **options})

    def base(self) -> tuple[list[str], dict[str, Any]]:
        """The nearest recipe, as words of the command, with the defaults of recipe and method."""
        usual = {f.name: f.default for f in fields(self)}

        def changed(name: str) -> int:
            start = {**usual, **GROW_RECIPES[name]}
            return sum(getattr(self, field) != value for field, value in start.items())

        name = min(GROW_RECIPES, key=changed)
        words = [] if name == "rest" else ["--recipe", name]
        return words, {**METHODS.get(self.method, {}), **GROW_RECIPES[name]}

    def on_surface(self) -> bool:
        """Whether the target is on a mesh or graph, with kernels that are made for it."""
        from gncadeq.training.surfaces import is_surface  # pictures load where they are used

        return is_surface(self.on)

    def on_graph(self) -> bool:
        """Whether the target is on the graph of a file, whose one kernel is the Laplacian."""
        from gncadeq.training.surfaces import is_graph

        return is_graph(self.on)

    def mesh_kernels(self) -> MeshToGraph:
        """What makes the kernels of a mesh."""
        from gncadeq.transforms import MeshToGraph

        return MeshToGraph(self.kernels, scale=self.scale, up=AXES[self.up])

    def senses(self, data: Data) -> dict[str, Any]:
        """What nodes of the target sense, for the weights' card: what makes a graph for them.

        The length of kernels is in units of the distance of the farthest vertex from the middle of
        the box around all.
        """
        if data.get("image_size") is not None:
            size = data.image_size.view(-1).tolist()
            return {"on": "pixels", "kernels": self.kernels, "size": size}
        if not self.on_surface() or data.get("face") is None:
            return {"on": "graph"}
        low, high = data.pos.amin(0), data.pos.amax(0)
        size = float((data.pos - (low + high) / 2).norm(dim=1).max())
        scale = None if self.scale is None else self.scale / size
        return {"on": "surface", "kernels": self.kernels, "scale": scale}

    def read_target(self, on: str | None = None) -> Data:
        """The target, on another surface if ``on`` names one: the same kernels, size and axes."""
        from gncadeq.training.targets import load_target

        return load_target(
            self.target, on or self.on, self.size, self.kernels, self.scale, self.up,
            self.projection, self.padding,
        )  # fmt: skip

    def draw_variants(self, data: Data) -> list[Data]:
        """The target on other triangulations of its surface, drawn by the run's seed."""
        if self.seeds > 1:
            from gncadeq.training.orientation import on_lattice, turned_targets

            turned = turned_targets(data, 1 + min(self.variants, (self.pool_size - 1) // 2))
            if data.get("image_size") is not None and self.kernels == "isotropic":
                turned[1::2] = [on_lattice(one, k) for k, one in enumerate(turned[1::2])]
            return turned
        if not self.on_surface() or data.get("face") is None:
            return []
        from torch_geometric.data import Data

        from gncadeq.training.targets import seed_node
        from gncadeq.training.variants import draw_variants

        node = data.face.new_tensor([seed_node(data, self.seed_node)])
        mesh = Data(pos=data.pos, face=data.face, color=data.color, seed_node=node)
        count = min(self.variants, (self.pool_size - 1) // 2)
        return draw_variants(mesh, count, self.kernels, self.scale, self.up, self.seed)

    def learning_rate(self, step: int) -> float:
        """The learning rate of a training step."""
        share = step / self.steps
        if self.decay is not None:
            return self.lr * (1.0 if share < self.decay else 0.1)
        return self.lr * (1.0 if share < 0.5 else 0.3 if share < 0.8 else 0.1)

    def rest_weight(self, step: int) -> float:
        """The weight of the rest loss in a training step."""
        return self.rest * step / self.steps
