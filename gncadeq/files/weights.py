"""Weights on disk: safetensors with the configuration in its header; loading runs no code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from gncadeq.check import did_you_mean
from gncadeq.files import tensors as files

M = TypeVar("M", bound=nn.Module)
_COMMANDS = {
    "GrowingCell": "run, export and play",
    "MazeSolver": "zoo mazes (in Python gncadeq.models.MazeSolver)",
    "SweepGrower": "run and play",
    "MicroCell": "play",
    "PixelGraphClassifier": "evaluate, show, analyze, predict, export and play",
    "PyramidClassifier": "evaluate, show, analyze, predict, export and play",
}
_WEIGHTS = "a safetensors file of weights"
_FOLDER = Path(__file__).resolve().parent.parent / "pretrained"


def pretrained_names(kind: str = "") -> list[str]:
    """The names of the weights that ship with the package.

    Args:
        kind: ``"grown"`` or ``"textures"``, of such rules; ``"nodes"``, of classifiers of nodes; by
            default of image classifiers.

    Example:
        >>> "gecko" in pretrained_names("grown"), "giraffe" in pretrained_names("textures")
        (True, True)
    """
    return sorted(p.stem for p in (_FOLDER / kind).glob("*.safetensors"))


def save_pretrained(model: nn.Module, path: str | Path, card: dict[str, Any] | None = None) -> None:
    """Write ``model`` (with a ``config``) to ``path``."""
    header = {
        "architecture": type(model).__name__,
        "config": json.dumps(model.config, sort_keys=True),
        "card": json.dumps(card or {}, sort_keys=True),
    }
    files.write_tensors(path, model.state_dict(), header)


def read_header(name: str | Path) -> tuple[Path, str, dict[str, Any], dict[str, Any]]:
    """The file, architecture, configuration and model card of shipped or saved weights.

    Raises:
        FileNotFoundError: If there is neither such a name nor such a file.
        ValueError: If the file is corrupt or wasn't written by gncadeq.
    """
    shipped = {p.stem: p for p in _FOLDER.rglob("*.safetensors")}
    path = shipped.get(str(name), Path(name))
    if not path.is_file():
        hint = did_you_mean(str(name), sorted(shipped))
        raise FileNotFoundError(
            f"Expected one of the shipped weights {pretrained_names()}, a run's folder or a "
            f".safetensors file (got {str(name)!r}, which is none of them){hint}"
        )
    _, header = files.read_header(path, _WEIGHTS)
    try:
        config, card = json.loads(header["config"]), json.loads(header["card"])
        if not (isinstance(config, dict) and isinstance(card, dict)):
            raise TypeError("a configuration and a card that are objects")
        return path, header["architecture"], config, card
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"Expected weights saved by gncadeq (got {path}, without {error})"
        ) from error


def load_pretrained(cls: type[M], name: str | Path) -> M:
    """Build a ``cls``, or one of its subclasses, from shipped or saved weights, in eval mode.

    Raises:
        FileNotFoundError: If there is neither such a name nor such a file.
        ValueError: If the file is corrupt, or of another architecture.
    """
    path, architecture, config, card = read_header(name)
    kinds = {kind.__name__: kind for kind in (cls, *cls.__subclasses__())}
    if architecture not in kinds:
        commands = _COMMANDS.get(architecture)
        hint = f". They are for the commands {commands}" if commands else ""
        raise ValueError(
            f"Expected weights of class {cls.__name__} (got {architecture} in {path}){hint}"
        )
    cls = kinds[architecture]
    shapes, _ = files.read_header(path, _WEIGHTS)
    try:
        # On the meta device nothing is allocated, so that a small file can't ask for much memory.
        with torch.device("meta"):
            skeleton = cls(**config).state_dict()
        _check_shapes({k: tuple(v.shape) for k, v in skeleton.items()}, shapes)
        tensors = files.read_tensors(path, _WEIGHTS).tensors
        _check_values(skeleton, tensors)
        model = cls(**config)
        model.load_state_dict(tensors)
    except Exception as error:  # a constructor raises whatever a foreign configuration leads to
        raise ValueError(
            f"Expected weights that fit their configuration (got {path}: {error})"
        ) from error
    model.card = card  # type: ignore[assignment]
    return model.eval()


def _check_shapes(expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> None:
    """Refuse a file whose tensors are not those of the configuration."""
    for name in [*expected, *found]:
        if expected.get(name) != found.get(name):
            wanted, came = (
                "no such tensor" if shape is None else list(shape)
                for shape in (expected.get(name), found.get(name))
            )
            raise ValueError(f"{name!r} should be {wanted}, and is {came}")


def _check_values(expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    """Refuse values that the model can't hold, such as 1e300 in single precision."""
    for name, tensor in found.items():
        dtype = expected[name].dtype
        if tensor.dtype != dtype and not (
            tensor.is_floating_point() and expected[name].is_floating_point()
        ):
            raise ValueError(f"{name!r} should be of type {dtype}, and is {tensor.dtype}")
        if not bool(tensor.to(dtype).isfinite().all()):
            raise ValueError(f"{name!r} holds values that are not finite in {dtype}")
