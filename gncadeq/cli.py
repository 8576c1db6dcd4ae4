"""The ``gncadeq`` command."""

from __future__ import annotations

import dataclasses
import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from gncadeq.commands import exporting, growing, rendering

if TYPE_CHECKING:
    from gncadeq.datasets import PixelGraphs
    from gncadeq.models import PixelGraphClassifier
    from gncadeq.training import TrainConfig

app = typer.Typer(
    help="Train a local rule on a graph as an equilibrium, run it as a cellular automaton.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
LOSSY = 0.1
out = Console()
err = Console(stderr=True)


class DatasetName(StrEnum):
    """The datasets."""

    mnist = "mnist"
    fashion_mnist = "fashion-mnist"
    kmnist = "kmnist"
    digits = "digits"


class Recipe(StrEnum):
    """The recipes."""

    default = "default"
    essay = "essay"


class Pixels(StrEnum):
    """Which pixels are nodes."""

    living = "living"
    all = "all"


class StartName(StrEnum):
    """Where dynamics start from."""

    zeros = "zeros"
    normal = "normal"


class As(StrEnum):
    """How weights are run."""

    deq = "deq"
    nca = "nca"


DataRoot = Annotated[
    str | None,
    typer.Option("--data-root", help="Folder with MNIST/raw and so on; by default $GNCADEQ_DATA, "
                 "else datasets/.", show_default=False),
]  # fmt: skip
RunArgument = Annotated[
    str, typer.Argument(help="A run's folder, a .safetensors file, or the name of shipped weights.")
]


def _number_or_none(option: str, value: str) -> float | None:
    try:
        return None if value.lower() == "none" else float(value)
    except ValueError:
        raise ValueError(f"Expected a number or 'none' for --{option} (got {value!r})") from None


@app.command(
    epilog="Examples:\n\n"
    "    gncadeq train digits --epochs 10\n\n"
    "    gncadeq train mnist --data-root ~/data --out runs/mnist\n\n"
    "    gncadeq train mnist --out runs/mnist --resume\n\n"
    "    gncadeq train mnist --recipe essay --out runs/essay"
)
def train(
    ctx: typer.Context,
    dataset: Annotated[DatasetName, typer.Argument(help="What to train on.")],
    data_root: DataRoot = None,
    out_folder: Annotated[
        str | None, typer.Option("--out", help="The run's folder.", show_default="runs/DATASET")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the interrupted run in the folder.")
    ] = False,
    recipe: Annotated[
        Recipe,
        typer.Option(
            help="'essay' is the essay's: residual form, SGD 0.005 with momentum "
            "0.9, Gaussian start, Broyden, all pixels, 10 epochs."
        ),
    ] = Recipe.default,
    epochs: Annotated[int, typer.Option(help="Passes over the training set.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed of all randomness.")] = 0,
    channels: Annotated[int, typer.Option(help="Channels of encoder and state.")] = 24,
    hidden: Annotated[int, typer.Option(help="Width of the readout's MLP.")] = 128,
    update: Annotated[str, typer.Option(help="The cell's form: direct or residual.")] = "direct",
    injection: Annotated[str, typer.Option(help="superposed or additive.")] = "superposed",
    contraction: Annotated[
        str, typer.Option(help="Bound on the state's stencil, or none.")
    ] = "0.99",
    standardize: Annotated[
        bool, typer.Option(help="Standardise the pooled state over the batch in training.")
    ] = True,
    pixels: Annotated[Pixels, typer.Option(help="Which pixels are nodes.")] = Pixels.living,
    living: Annotated[float, typer.Option(help="Grey level above which a pixel lives.")] = 0.02,
    dynamics: Annotated[As, typer.Option(help="Train as equilibrium or automaton.")] = As.deq,
    solver: Annotated[
        str, typer.Option(help="picard, anderson, broyden or torchdeq:NAME.")
    ] = "picard",
    tol: Annotated[float, typer.Option(help="Relative residual to reach in training.")] = 1e-2,
    max_steps: Annotated[int, typer.Option(help="Most solver steps in training.")] = 60,
    gradient: Annotated[
        str, typer.Option(help="ift, phantom, one_step, or bptt (with --dynamics nca).")
    ] = "ift",
    phantom_steps: Annotated[int, typer.Option(help="Steps of the phantom gradient.")] = 5,
    nca_steps: Annotated[int, typer.Option(help="Steps of the automaton in training.")] = 32,
    fire_rate: Annotated[float, typer.Option(help="Its fire rate in training.")] = 1.0,
    start: Annotated[str, typer.Option(help="zeros or normal.")] = "zeros",
    optimizer: Annotated[str, typer.Option(help="adam or sgd.")] = "adam",
    lr: Annotated[float, typer.Option(help="(Peak) learning rate.")] = 1e-2,
    momentum: Annotated[float, typer.Option(help="Momentum of SGD.")] = 0.9,
    schedule: Annotated[str, typer.Option(help="one_cycle or constant.")] = "one_cycle",
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 64,
    clip: Annotated[str, typer.Option(help="Bound on the gradient's norm, or none.")] = "1.0",
    augment: Annotated[
        bool, typer.Option(help="Rotate, stretch and shear the training images a little.")
    ] = False,
    crop: Annotated[
        float, typer.Option(help="Share of the training images of which only a window is shown.")
    ] = 0.0,
    warm_start: Annotated[
        bool, typer.Option(help="Start every solve from the image's equilibrium an epoch ago.")
    ] = False,
    warm_start_mb: Annotated[float, typer.Option(help="Memory for these equilibria.")] = 512.0,
    validation: Annotated[
        int, typer.Option(help="Training images to hold out and measure every epoch.")
    ] = 0,
    accelerator: Annotated[
        str, typer.Option(help="cpu, cuda, mps or auto; measured on CPUs only so far.")
    ] = "cpu",
    devices: Annotated[
        int,
        typer.Option(
            min=1, help="Processes on this machine, each with a device and a share of every batch."
        ),
    ] = 1,
    train_limit: Annotated[
        str, typer.Option(help="Use only so many training images, or none for all.")
    ] = "none",
) -> None:
    """Train the essay's classifier and measure it on the test set at true equilibrium."""
    from gncadeq.training import TrainConfig

    limit_ = _number_or_none("train-limit", train_limit)
    given: dict[str, Any] = {
        "epochs": epochs, "seed": seed, "channels": channels, "hidden_channels": hidden,
        "update": update, "injection": injection,
        "contraction": _number_or_none("contraction", contraction),
        "standardize": standardize,
        "living_threshold": living if pixels == Pixels.living else None,
        "dynamics": dynamics.value, "solver": solver, "tol": tol, "max_steps": max_steps,
        "gradient": gradient, "phantom_steps": phantom_steps, "nca_steps": nca_steps,
        "fire_rate": fire_rate, "start": start, "optimizer": optimizer, "lr": lr,
        "momentum": momentum, "schedule": schedule, "batch_size": batch_size,
        "clip": _number_or_none("clip", clip), "validation": validation,
        "augment": augment, "crop": crop, "warm_start": warm_start,
        "warm_start_mb": warm_start_mb,
        "train_limit": None if limit_ is None else int(limit_), "accelerator": accelerator,
        "devices": devices,
    }  # fmt: skip
    folder = out_folder or f"runs/{dataset.value}"
    place: dict[str, Any] = {"dataset": dataset.value, "data_root": data_root, "out": folder}
    option_of = {"hidden_channels": "hidden", "living_threshold": "living"}
    explicit: dict[str, Any] = {
        k: v for k, v in given.items() if _is_explicit(ctx, option_of.get(k, k))
        or (k == "living_threshold" and _is_explicit(ctx, "pixels"))
    }  # fmt: skip
    if explicit.get("gradient") == "bptt":
        explicit.setdefault("dynamics", "nca")
    if explicit.get("dynamics") == "nca":
        explicit.setdefault("gradient", "bptt")
    if resume:
        config = TrainConfig.load(Path(folder) / "config.json")
        config = dataclasses.replace(config, **place, **explicit)
    elif recipe == Recipe.essay:
        config = TrainConfig.essay(**place, **explicit)
    else:
        config = TrainConfig(**place, **explicit)
    _train(config, resume)


def _is_explicit(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP")


def _train(config: TrainConfig, resume: bool) -> None:
    from gncadeq.training.processes import Processes
    from gncadeq.training.run import command_line, train

    if Processes.here().rank > 0:  # the first process speaks for all
        train(config, resume=resume)
        return
    out.print(f"[dim]{command_line(config)}[/dim]", highlight=False)
    try:
        model, result = train(config, resume=resume)
    except KeyboardInterrupt:
        err.print(
            f"Interrupted; at most one epoch is lost. Continue with\n  gncadeq train "
            f"{config.dataset} --out {config.out} --resume"
        )
        raise typer.Exit(130) from None
    parameters = sum(p.numel() for p in model.parameters())
    _print_summary({f"{config.dataset} test set, equilibrium": result.summary()})
    out.print(
        f"{100 * result.accuracy:.2f} % with {parameters:,} parameters. The run is in {config.out}"
        f"\nLook at it with: gncadeq show {config.out}",
        highlight=False,
    )


def _print_summary(columns: dict[str, dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    percent = ("accuracy", "converged", "agreement")
    keys = list(dict.fromkeys(k for c in columns.values() for k in c))
    for key in keys:
        row = []
        for column in columns.values():
            value = column.get(key)
            if value is None:
                row.append("")
            elif key in percent:
                row.append(f"{100 * value:.2f} %")
            elif key.startswith("residual"):
                row.append(f"{value:.1e}")
            else:
                row.append(f"{value:g}" if isinstance(value, float) else str(value))
        table.add_row(key.replace("_", " "), *row)
    out.print(table)


def load_run(run: str) -> tuple[PixelGraphClassifier, Path | None]:
    """The model, and its run's folder if ``run`` is one."""
    from gncadeq.models import PixelGraphClassifier

    folder = Path(run) if Path(run).is_dir() else None
    name = run if folder is None else str(folder / "model.safetensors")
    if folder is not None and not Path(name).is_file():
        raise FileNotFoundError(
            f"Expected a run with {name} (got a folder without it). It is written after the first "
            "epoch"
        )
    model = PixelGraphClassifier.from_pretrained(name)
    return model, folder


def _test_set(
    model: PixelGraphClassifier, folder: Path | None, data_root: str | None, dataset: str | None
) -> PixelGraphs:
    from gncadeq.datasets import PixelGraphs
    from gncadeq.training import TrainConfig

    name = dataset or model.card.get("config", {}).get("dataset")
    if name is None:
        raise ValueError("Expected a dataset (the weights' card names none). Use --dataset")
    if data_root is None and folder is not None and (folder / "config.json").is_file():
        data_root = TrainConfig.load(folder / "config.json").data_root
    return PixelGraphs(data_root, name, False, model.to_graph)


@app.command(
    epilog="Examples:\n\n"
    "    gncadeq evaluate runs/mnist --solver anderson --tol 1e-5 --max-steps 600\n\n"
    "    gncadeq evaluate mnist --as nca --steps 1000 --fire-rate 0.5 --start normal"
)
def evaluate(
    run: RunArgument,
    data_root: DataRoot = None,
    dataset: Annotated[
        DatasetName | None, typer.Option(help="Another dataset than the run's own.")
    ] = None,
    as_: Annotated[As, typer.Option("--as", help="Equilibrium, or automaton beside it.")] = As.deq,
    solver: Annotated[str, typer.Option(help="The equilibrium's solver.")] = "anderson",
    tol: Annotated[float, typer.Option(help="Relative residual to reach.")] = 1e-3,
    max_steps: Annotated[int, typer.Option(help="Most solver steps.")] = 60,
    steps: Annotated[int, typer.Option(min=0, help="The automaton's steps.")] = 500,
    fire_rate: Annotated[float, typer.Option(help="The automaton's fire rate.")] = 1.0,
    step_size: Annotated[float, typer.Option(help="The automaton's step size.")] = 1.0,
    start: Annotated[
        StartName | None,
        typer.Option(
            help="zeros or normal; by default zeros for the equilibrium and "
            "normal for the automaton.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of starts and update masks.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Measure only so many images.")] = None,
    json_file: Annotated[str | None, typer.Option("--json", help="Also write JSON here.")] = None,
) -> None:
    """Measure weights on the test set, as an equilibrium and as an automaton.

    With *--as nca* both are measured, and how often they agree.
    """
    import torch

    from gncadeq.dynamics import GraphDEQ, GraphNCA
    from gncadeq.dynamics.start import check_start
    from gncadeq.evaluation import evaluate as measure

    model, folder = load_run(run)
    test_set = _test_set(model, folder, data_root, dataset.value if dataset else None)
    index = torch.arange(len(test_set))[:limit]
    cell = model.dynamics.cell
    fixed = start.value if start else None
    model.dynamics = GraphDEQ(
        cell,
        solver=solver,
        tol=tol,
        max_steps=max_steps,
        on_failure="ignore",
        start=check_start(fixed if fixed and as_ == As.deq else "zeros"),
    )
    reference = measure(model, test_set, index=index, seed=seed, title="equilibrium")
    columns = {"equilibrium": reference.summary()}
    if as_ == As.nca:
        model.dynamics = GraphNCA(
            cell,
            steps,
            fire_rate=fire_rate,
            step_size=step_size,
            start=check_start(fixed or "normal"),
            tol=tol,
        )
        result = measure(model, test_set, index=index, seed=seed, title="automaton")
        columns["automaton"] = {**result.summary(), "agreement": result.agreement(reference)}
    _print_summary(columns)
    if json_file:
        from gncadeq.models.pretrained import write_atomically

        write_atomically(json_file, json.dumps(columns, indent=2).encode())


@app.command(epilog="Examples:\n\n    gncadeq show runs/mnist\n\n    gncadeq show mnist --out pics")
def show(
    run: RunArgument,
    data_root: DataRoot = None,
    dataset: Annotated[
        DatasetName | None, typer.Option(help="Another dataset than the run's own.")
    ] = None,
    out_folder: Annotated[
        str | None,
        typer.Option("--out", help="Folder for the pictures.", show_default="RUN/figures"),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Images in the figures.")] = 5,
    fire_rate: Annotated[float, typer.Option(help="The automaton's fire rate.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of starts and update masks.")] = 0,
) -> None:
    """Draw a run: the essay's figures 1 and 2, residuals, learning curve, confusion matrix."""
    import torch
    from tqdm import tqdm

    from gncadeq.evaluation import evaluate as measure
    from gncadeq.viz import figures as draw

    model, folder = load_run(run)
    test_set = _test_set(model, folder, data_root, dataset.value if dataset else None)
    target = (
        Path(out_folder) if out_folder else (folder or Path("runs") / Path(run).stem) / "figures"
    )
    wanted = list(dict.fromkeys((0, 1, 4, 7, 8, 3, 6, 2, 5, 9)))[: max(1, images)]
    index = [int((test_set.labels == d).nonzero()[0]) for d in wanted]
    graphs = [test_set.get(i) for i in index]
    pictures = [test_set.images[i].float() / 255 for i in index]
    written = []
    with tqdm(total=6, desc="pictures", leave=False) as bar:

        def done(path: Path) -> None:
            written.append(path)
            bar.update()

        figure, frames = draw.trajectory_figure(model, graphs, fire_rate=fire_rate, seed=seed)
        done(draw.save_figure(figure, target / "figure1_noise_to_stasis.png"))
        done(draw.save_gif(frames, target / "figure1_noise_to_stasis.gif"))
        figure = draw.truncation_figure(model, pictures)
        done(draw.save_figure(figure, target / "figure2_truncated.png"))
        batch = test_set.batch(torch.arange(min(64, len(test_set))))
        done(draw.save_figure(draw.residual_figure(model, batch), target / "residuals.png"))
        if folder is not None and (folder / "metrics.csv").is_file():
            figure = draw.learning_figure(folder / "metrics.csv")
            done(draw.save_figure(figure, target / "learning_curve.png"))
        result = measure(model, test_set, title="confusion matrix")
        done(draw.save_figure(draw.confusion_figure(result), target / "confusion.png"))
    for path in written:
        out.print(str(path), highlight=False, soft_wrap=True)


@app.command(
    epilog="Examples:\n\n    gncadeq analyze runs/mnist\n\n    gncadeq analyze mnist --graphs 50"
)
def analyze(
    run: RunArgument,
    data_root: DataRoot = None,
    dataset: Annotated[
        DatasetName | None, typer.Option(help="Another dataset than the run's own.")
    ] = None,
    out_file: Annotated[
        str | None, typer.Option("--out", help="The page.", show_default="RUN/analysis.html")
    ] = None,
    graphs: Annotated[int, typer.Option(min=1, help="How many test images to look at.")] = 100,
    seed: Annotated[int, typer.Option(help="Seed of the draw and of all starts.")] = 0,
) -> None:
    """Measure convergence, stability and path independence of a run, on one HTML page."""
    from gncadeq.analysis.report import write_report

    model, folder = load_run(run)
    test_set = _test_set(model, folder, data_root, dataset.value if dataset else None)
    place = folder or Path("runs") / Path(run).stem
    path = write_report(
        model, test_set, out_file or place / "analysis.html", graphs=graphs, seed=seed
    )
    out.print(str(path), highlight=False, soft_wrap=True)


@app.command(
    epilog="Examples:\n\n    gncadeq predict mnist seven.png\n\n"
    "    gncadeq predict runs/mnist *.png --out maps"
)
def predict(
    run: RunArgument,
    image: Annotated[list[str], typer.Argument(help="Image files of any size.")],
    out_folder: Annotated[str, typer.Option("--out", help="Folder for the label maps.")] = "maps",
    invert: Annotated[
        bool | None,
        typer.Option(
            "--invert/--no-invert",
            help="Invert the grey levels; by default "
            "where most of the image is bright, since the training digits "
            "are bright on black.",
            show_default=False,
        ),
    ] = None,
    radius: Annotated[
        int,
        typer.Option(
            help="Decode the mean state of a window of this radius around each "
            "pixel; 0 decodes each pixel's own state."
        ),
    ] = 14,
    floor: Annotated[
        float | None,
        typer.Option(
            help="Blacken pixels below this grey level; by default 0.1 for lossy formats, whose "
            "noise would live, and 0 for the others.",
            show_default=False,
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many probabilities to print.")] = 3,
) -> None:
    """Classify image files, and draw what the states around each pixel decode to."""
    from gncadeq.viz import figures as draw
    from gncadeq.viz.images import read_image

    model, _ = load_run(run)
    for name in image:
        picture = read_image(name, channels=model.encoder.in_channels)
        flip = bool(picture.mean() > 0.5) if invert is None else invert
        if flip:
            picture = 1 - picture
        noise = LOSSY if Path(name).suffix.lower() in (".jpg", ".jpeg", ".webp") else 0.0
        picture = picture * (picture > (noise if floor is None else floor))
        data = model.to_graph(picture)
        figure, label, probability = draw.label_map_figure(model, data, radius)
        path = draw.save_figure(figure, Path(out_folder) / f"{Path(name).stem}_labels.png")
        order = probability.argsort(descending=True)[:top].tolist()
        listed = ", ".join(f"{i}: {float(probability[i]):.1%}" for i in order)
        share = float((label == order[0]).float().mean())
        out.print(
            f"{name}: {order[0]} ({listed}); {share:.0%} of {len(label)} pixels say so"
            f"{'; inverted' if flip else ''}; {path}",
            highlight=False, soft_wrap=True,
        )  # fmt: skip


@app.command(epilog="Example:\n\n    gncadeq doctor")
def doctor() -> None:
    """Say which versions, devices and optional parts are there, and why not."""
    import importlib
    import platform
    import shutil
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from gncadeq import __version__
    from gncadeq.datasets import default_root
    from gncadeq.models.pretrained import pretrained_names

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column()
    table.add_row("gncadeq", __version__)
    table.add_row("python", f"{platform.python_version()} on {platform.system()}")
    needed = ("torch", "torchdeq", "torch-geometric", "networkx", "torchvision", "matplotlib",
              "numpy", "scipy", "pillow", "safetensors", "typer", "rich")  # fmt: skip
    modules = {"torch-geometric": "torch_geometric", "pillow": "PIL", "scikit-learn": "sklearn"}
    broken = False
    for name in needed:
        try:
            importlib.import_module(modules.get(name, name))
            table.add_row(name, version(name))
        except Exception as error:  # whatever is wrong with it is what the user wants to know
            broken = True
            table.add_row(name, f"[red]does not import: {error}[/red]")
    extras = {
        "lightning": "train", "scikit-learn": "train", "trimesh": "mesh",
        "scikit-image": "superpixels", "onnx": "export", "onnxscript": "export",
        "onnxruntime": "export", "playwright": "dev",
    }  # fmt: skip
    for name, extra in extras.items():
        try:
            table.add_row(f"{name} (extra {extra})", version(name))
        except PackageNotFoundError:
            table.add_row(f"{name} (extra {extra})", f"missing: pip install 'gncadeq\\[{extra}]'")
    browsers = [shutil.which(b) for b in ("chromium", "chromium-browser", "google-chrome")]
    browser = next((b for b in browsers if b), "none on the path")
    table.add_row("browser (viewer's tests)", browser)
    table.add_row("threads", str(torch.get_num_threads()))
    cuda = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if cuda else "none found"
    table.add_row("CUDA", name)
    table.add_row("shipped weights", ", ".join(pretrained_names()) or "none")
    table.add_row("data root", str(default_root().resolve()))
    out.print(table)
    if broken:
        raise typer.Exit(1)


growing.register(app)
rendering.register(app)
exporting.register(app)


def main() -> None:
    """Run the command; what a user can mend is one line, not a traceback."""
    try:
        app(standalone_mode=True)
    except (ValueError, TypeError, OSError, FloatingPointError, ImportError) as error:
        err.print(f"[red]Error:[/red] {error}", highlight=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
