"""The weights that a command is about, and what they are measured on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gncadeq.commands.kinds import expect

if TYPE_CHECKING:
    from gncadeq.datasets import PixelGraphs
    from gncadeq.models import ImageClassifier


def load_run(run: str, device: str = "cpu") -> tuple[ImageClassifier, Path | None]:
    """The model, on a device, and its run's folder if ``run`` is one."""
    expect(run, "classifier")
    from gncadeq.device import usable_device
    from gncadeq.models import ImageClassifier

    where = usable_device(device)
    folder = Path(run) if Path(run).is_dir() else None
    name = run if folder is None else str(folder / "model.safetensors")
    if folder is not None and not Path(name).is_file():
        raise FileNotFoundError(
            f"Expected a run with {name} (got a folder without it). It is written after the first "
            "epoch"
        )
    return ImageClassifier.from_pretrained(name).to(where), folder


def load_test_set(
    model: ImageClassifier, folder: Path | None, data_root: str | None, dataset: str | None
) -> PixelGraphs:
    """The test set of the run's dataset, where the run found it, unless told otherwise."""
    from gncadeq.datasets import PixelGraphs
    from gncadeq.training import TrainConfig

    name = dataset or model.card.get("config", {}).get("dataset")
    if name is None:
        raise ValueError("Expected a dataset (the weights' card names none). Use --dataset")
    if data_root is None and folder is not None and (folder / "config.json").is_file():
        data_root = TrainConfig.load(folder / "config.json").data_root
    return PixelGraphs(data_root, name, False, model.to_graph)


def place_of(run: str, folder: Path | None) -> Path:
    """Where pictures go by default: the run's folder, or one for shipped weights."""
    return folder or Path("runs") / Path(run).stem
