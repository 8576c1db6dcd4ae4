"""Weights on disk: safetensors with the configuration in its header; loading runs no code."""

from __future__ import annotations

import json
import os
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

M = TypeVar("M", bound=nn.Module)
_COMMANDS = {
    "GrowingCell": "run and export",
    "PixelGraphClassifier": "evaluate, show, analyze, predict and export",
}
_FOLDER = Path(__file__).resolve().parent.parent / "pretrained"


def pretrained_names() -> list[str]:
    """The names of the weights that ship with the package."""
    return sorted(p.stem for p in _FOLDER.glob("*.safetensors"))


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write a file by way of a temporary one beside it: never half a file under its name."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save_pretrained(model: nn.Module, path: str | Path, card: dict[str, Any] | None = None) -> None:
    """Write ``model`` (with a ``config``) to ``path``."""
    config = model.config
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    header = {
        "format": "pt",
        "architecture": type(model).__name__,
        "config": json.dumps(config, sort_keys=True),
        "card": json.dumps(card or {}, sort_keys=True),
    }
    write_atomically(path, save(tensors, metadata=header))


def read_header(name: str | Path) -> tuple[Path, str, dict[str, Any], dict[str, Any]]:
    """The file, architecture, configuration and model card of shipped or saved weights.

    Raises:
        FileNotFoundError: If there is neither such a name nor such a file.
        ValueError: If the file is corrupt or wasn't written by gncadeq.
    """
    path = _FOLDER / f"{name}.safetensors" if str(name) in pretrained_names() else Path(name)
    if not path.is_file():
        near = get_close_matches(str(name), pretrained_names(), n=1)
        hint = f". Did you mean {near[0]!r}?" if near else ""
        raise FileNotFoundError(
            f"Expected one of the shipped weights {pretrained_names()}, a run's folder or a "
            f".safetensors file (got {str(name)!r}, which is none of them){hint}"
        )
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        config, card = json.loads(header["config"]), json.loads(header["card"])
        return path, header["architecture"], config, card
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"Expected a safetensors file (got a corrupt one: {path}: {error}). Train or download "
            "it again"
        ) from error
    except (KeyError, json.JSONDecodeError) as error:
        raise ValueError(
            f"Expected weights saved by gncadeq (got {path}, without {error})"
        ) from error


def load_pretrained(cls: type[M], name: str | Path) -> M:
    """Build a ``cls`` from shipped or saved weights, in eval mode.

    Raises:
        FileNotFoundError: If there is neither such a name nor such a file.
        ValueError: If the file is corrupt, or of another architecture.
    """
    path, architecture, config, card = read_header(name)
    if architecture != cls.__name__:
        commands = _COMMANDS.get(architecture)
        hint = f". They are for the commands {commands}" if commands else ""
        raise ValueError(
            f"Expected weights of a {cls.__name__} (got {architecture} in {path}){hint}"
        )
    try:
        model = cls(**config)
        with safe_open(path, framework="pt") as file:
            tensors: dict[str, torch.Tensor] = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        model.load_state_dict(tensors)
    except (TypeError, RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"Expected weights that fit their configuration (got {path}: {error})"
        ) from error
    model.card = card  # type: ignore[assignment]
    return model.eval()


__all__ = [
    "load_pretrained",
    "pretrained_names",
    "read_header",
    "save_pretrained",
    "write_atomically",
]
