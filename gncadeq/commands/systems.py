"""The systems that ``gncadeq zoo`` lists, and the commands that train, measure and draw them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class System:
    """A published system, and what it reaches here.

    Attributes:
        name: What ``gncadeq zoo`` calls it.
        title: What it is.
        source: Who published it.
        url: Where.
        published: The published result, or a dash.
        here: The result here, as its page has it.
        page: The page of the documentation with conditions, seeds and baselines.
        commands: They train or load, measure and draw. ``DATA`` is a folder of data.
        smoke: The same in seconds; by default the commands with ``--smoke``.
    """

    name: str
    title: str
    source: str
    url: str
    published: str
    here: str
    page: str
    commands: tuple[str, ...]
    smoke: tuple[str, ...] = ()

    def to_run(self, smoke: bool) -> tuple[str, ...]:
        """The commands, or their short forms."""
        if not smoke:
            return self.commands
        return self.smoke or tuple(f"{command} --smoke" for command in self.commands)


_RUN = "--out runs/zoo/"
SYSTEMS = (
    System(
        "conv-deq",
        "a convolution at equilibrium classifies MNIST",
        "Jia 2025",
        "https://arxiv.org/abs/2501.03573",
        "97 % in 10 epochs",
        "98.4 % at true convergence",
        "results",
        (
            f"gncadeq train mnist --recipe conv --data-root DATA {_RUN}conv-deq",
            "gncadeq evaluate runs/zoo/conv-deq --data-root DATA --as nca --steps 500",
            "gncadeq show runs/zoo/conv-deq --data-root DATA",
        ),
        (
            f"gncadeq train digits --recipe conv --epochs 1 {_RUN}smoke/conv-deq",
            "gncadeq evaluate runs/zoo/smoke/conv-deq",
        ),
    ),
    System(
        "pyramid",
        "a cascade of contractions up a pyramid of pixels",
        "this project",
        "",
        "–",
        "99.41, 99.40 and 99.42 %",
        "mnist",
        (
            f"gncadeq train mnist --data-root DATA {_RUN}pyramid",
            "gncadeq evaluate runs/zoo/pyramid --data-root DATA --as nca --steps 40",
            "gncadeq show runs/zoo/pyramid --data-root DATA",
        ),
        (
            f"gncadeq train digits --epochs 1 {_RUN}smoke/pyramid",
            "gncadeq evaluate runs/zoo/smoke/pyramid",
        ),
    ),
    System(
        "self-classifying",
        "every pixel of a digit decides which digit it is part of",
        "Randazzo et al. 2020",
        "https://distill.pub/2020/selforg/mnist",
        "95.3 % of pixels right, 88.1 % total agreement",
        "99.41 % of pixels right, 99.78 % total agreement",
        "self_classifying",
        (
            "gncadeq evaluate mnist-pyramid --data-root DATA --labels cells "
            "--picture runs/zoo/self-classifying.png",
        ),
        (
            "gncadeq evaluate digits --labels cells --limit 4 "
            "--picture runs/zoo/smoke/self-classifying.png",
        ),
    ),
    System(
        "growing",
        "growing neural cellular automata",
        "Mordvintsev et al. 2020",
        "https://doi.org/10.23915/distill.00023",
        "grows and mends",
        "error 0.00019 after 10,000 steps, 0.00019 once mended",
        "growing",
        (
            f"gncadeq grow datasets/gecko.png --size 24 {_RUN}growing",
            "gncadeq run runs/zoo/growing --damage third --recovery 400",
        ),
        (
            f"gncadeq grow datasets/gecko.png --size 12 --steps 3 {_RUN}smoke/growing",
            "gncadeq run runs/zoo/smoke/growing --steps 8 --damage third --recovery 8",
        ),
    ),
    System(
        "published-growing",
        "growing automata by the published recipe, beside the one that trains for rest",
        "Mordvintsev et al. 2020",
        "https://doi.org/10.23915/distill.00023",
        "grows and mends",
        "error 0.00017 after 10,000 steps, 0.00016 once mended, quasi-periodic",
        "published_growing",
        ("python examples/published_growing.py --target datasets/gecko.png",),
    ),
    System(
        "isotropic",
        "growing without directions: three seed cells tell where up is",
        "Mordvintsev et al. 2022",
        "https://arxiv.org/abs/2205.01681",
        "no number",
        "errors 0.004 upright, 0.012 to 0.028 turned, 0.015 to 0.017 on hexagons",
        "isotropic",
        ("python examples/isotropic.py",),
    ),
    System(
        "many-pictures",
        "conditional growth: one rule, a code in its seed",
        "Sudhakaran et al. 2022",
        "https://arxiv.org/abs/2205.06806",
        "no number",
        "eight pictures, errors 0.0035 to 0.0047, residual 0",
        "many_pictures",
        ("python examples/many_pictures.py --seeds 0 --steps 1500",),
    ),
    System(
        "sweeps",
        "a picture grown at rest by construction, by the implicit gradient",
        "this project",
        "",
        "–",
        "errors 0.00002 to 0.00008, residual 0",
        "results",
        (
            f"gncadeq grow datasets/gecko.png --size 24 --method sweeps --steps 2500 {_RUN}sweeps",
            "gncadeq run runs/zoo/sweeps --fire-rate 0.5",
        ),
        (
            "gncadeq grow datasets/gecko.png --size 12 --method sweeps --steps 3 "
            f"{_RUN}smoke/sweeps",
            "gncadeq run runs/zoo/smoke/sweeps --steps 30",
        ),
    ),
    System(
        "textures",
        "µNCA: textures by 588 parameters",
        "Mordvintsev & Niklasson 2021",
        "https://arxiv.org/abs/2111.13545",
        "no number",
        "588 parameters; 1.0 floors after 10,000 steps, residual 4.9e-8",
        "textures",
        (
            "python examples/texture_on_mesh.py --meshes icosphere:5",
            "python examples/texture_on_mesh.py --start runs/texture_on_mesh --age 150 --rest 0.2 "
            "--steps 300 --lr 1e-3 --out runs/still",
        ),
        ("python examples/texture_on_mesh.py --smoke",),
    ),
    System(
        "life",
        "Conway's Life, exactly and learned, on any graph",
        "Gilpin 2019",
        "https://doi.org/10.1103/PhysRevE.100.032402",
        "exact",
        "exact for 1,000 steps; learned by 128 parameters",
        "results",
        ("python examples/graph_automata.py --parts exact life",),
    ),
    System(
        "voronoi",
        "graph cellular automata: the Voronoi rule learned",
        "Grattarola et al. 2021",
        "https://arxiv.org/abs/2110.14237",
        "near perfect",
        "every cell of 25 rollouts of 100 steps",
        "results",
        ("python examples/graph_automata.py --parts voronoi",),
    ),
    System(
        "boids",
        "flocking learned, on a graph that follows the agents",
        "Grattarola et al. 2021",
        "https://arxiv.org/abs/2110.14237",
        "flocks alike by entropy and dimension",
        "entropy 0.052 (by hand 0.043), dimension 1.06 (by hand 0.86)",
        "boids",
        ("python examples/boids.py",),
    ),
    System(
        "fixed-targets",
        "a shape out of noise, E(n)-equivariant",
        "Gala et al. 2023",
        "https://arxiv.org/abs/2301.10497",
        "3.4e-3 after 1000 steps",
        "1.2e-16 after 1000 steps",
        "fixed_targets",
        ("python examples/fixed_targets.py",),
    ),
    System(
        "segmentation",
        "parts of surfaces, where surroundings don't tell",
        "this project",
        "",
        "–",
        "95.4 ± 5.7 % of the vertices",
        "segmentation",
        ("python examples/segment_surfaces.py --models alone 8 equilibrium",),
    ),
    System(
        "outlines",
        "image segmentation: is the outline of a pixel closed?",
        "Sandler et al. 2020",
        "https://arxiv.org/abs/2008.04965",
        "other data",
        "IoU 98.4, 47.7, 98.4 % where outlines are twice as long; U-net 47.7 %",
        "outlines",
        ("python examples/outlines.py --models equilibrium --seeds 0",),
    ),
    System(
        "ignn",
        "implicit graph neural networks: chains",
        "Gu et al. 2020",
        "https://arxiv.org/abs/2009.06211",
        "1.000 at 100 nodes",
        "1.000 with three seeds of three",
        "path_independence",
        ("python examples/chains.py --classes 2 --length 100",),
    ),
    System(
        "mazes",
        "mazes larger than in training",
        "Anil et al. 2022",
        "https://arxiv.org/abs/2211.09961",
        "no number",
        "trees: 63 or 64 of 64 mazes of 59 × 59, five seeds",
        "results",
        (
            "python examples/solve_maze.py",
            "python examples/acyclic_rules.py --tasks mazes loops",
        ),
    ),
    System(
        "mdeq",
        "several scales solved together",
        "Bai et al. 2020",
        "https://arxiv.org/abs/2006.08656",
        "no number on graphs",
        "100.0 % on chains of 200 nodes and on 48 × 48 pixels; at one scale 39.9 and 44.2 %",
        "states",
        ("python examples/multiscale.py",),
    ),
    System(
        "gradients",
        "phantom, one-step and implicit gradients",
        "Geng et al. 2022",
        "https://arxiv.org/abs/2111.05177",
        "backward 1.7 times faster",
        "1.8 times faster at 1e-5",
        "mnist",
        ("python examples/compare_gradients.py --times --tol 1e-5 --data-root DATA",),
        ("python examples/compare_gradients.py --smoke",),
    ),
    System(
        "reversible",
        "reversible equilibria: steps undone for the gradient",
        "McCallum et al. 2025",
        "https://arxiv.org/abs/2509.12917",
        "no number on graphs",
        "gradient off by 1e-6 in single precision; 8.0 MB kept where BPTT keeps 202 MB",
        "reversible",
        ("python examples/reversible.py",),
    ),
    System(
        "jacobian",
        "Jacobian regularisation",
        "Bai et al. 2021",
        "https://arxiv.org/abs/2106.14342",
        "no number on graphs",
        "16 evaluations for 49, 97.2 % for 97.5 %",
        "convergence",
        ("python examples/free_rules.py --seeds 0",),
    ),
    System(
        "continuous-deq",
        "equilibria followed by an adaptive flow",
        "Pal et al. 2023",
        "https://arxiv.org/abs/2201.12240",
        "no number on graphs",
        "98.6 % solved where plain steps solve 7 %",
        "convergence",
        ("python examples/free_rules.py --seeds 0 --weights 0",),
    ),
    System(
        "prefix-sums",
        "deep thinking: parities, trained on 32 bits",
        "Bansal et al. 2022",
        "https://arxiv.org/abs/2202.05826",
        "tested on 512 bits",
        "100 % of chains of 4,096 bits right",
        "rest",
        ("python examples/prefix_sums.py",),
    ),
    System(
        "sudoku",
        "equilibrium reasoners: Sudokus as graphs",
        "Huang et al. 2026",
        "https://arxiv.org/abs/2605.21488",
        "99.8 % of harder puzzles",
        "28 clues 100 %, the fewest 82 % of 50 puzzles, 88 % by 16 starts",
        "sudoku",
        ("python examples/sudoku.py",),
    ),
    System(
        "coordinates",
        "(Implicit)²: a picture as the equilibrium of its coordinates",
        "Huang et al. 2021",
        "https://openreview.net/forum?id=AcoMwAU5c0s",
        "no number on these pictures",
        "unknown pixels 22.65 dB; explicit filters 22.25, harmonic fill 22.48",
        "coordinates",
        ("python examples/coordinates.py",),
    ),
    System(
        "attention",
        "attention among neighbours completes masked digits",
        "Tesfaldet et al. 2022",
        "https://arxiv.org/abs/2211.01233",
        "no number on these digits",
        "14.73 dB at rest; a cascade of convolutions 14.56, harmonic fill 13.10",
        "attention",
        ("python examples/attention.py --data-root DATA",),
        ("python examples/attention.py --smoke",),
    ),
    System(
        "variational",
        "pictures drawn from codes by a local rule, at rest",
        "Palm et al. 2022",
        "https://arxiv.org/abs/2201.12360",
        "other data",
        "8 × 8 pixels: -18.80 nats; through time -24.56, a perceptron -18.46",
        "variational",
        ("python examples/variational.py",),
    ),
    System(
        "superpixels",
        "MNIST as superpixels",
        "Dwivedi et al. 2020",
        "https://arxiv.org/abs/2003.00982",
        "GatedGCN 97.3 %",
        "97.45 % after 2 epochs",
        "superpixels",
        (
            "python examples/superpixels.py --data-root DATA --models cascade --channels 64 "
            "--images 55000 --valid 5000 --epochs 2 --lr 0.01",
        ),
        ("python examples/superpixels.py --smoke",),
    ),
    System(
        "citations",
        "one conv solved in the place of a stack: Cora",
        "Kipf & Welling 2017",
        "https://arxiv.org/abs/1609.02907",
        "81.5 %",
        "82.4 ± 0.9 %",
        "from_convs_to_equilibrium",
        ("python examples/citation_graphs.py --data-root DATA --datasets Cora",),
        ("python examples/citation_graphs.py --smoke",),
    ),
)
"""In the order in which they are listed."""


def system(name: str) -> System:
    """The system of a name.

    Raises:
        ValueError: If there is none.

    Example:
        >>> system("life").source
        'Gilpin 2019'
    """
    from gncadeq.check import check_choice

    check_choice("name", name, tuple(s.name for s in SYSTEMS))
    return next(s for s in SYSTEMS if s.name == name)
