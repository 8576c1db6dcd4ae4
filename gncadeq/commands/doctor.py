"""``gncadeq doctor``: versions, devices and what is missing."""

from __future__ import annotations

import typer
from rich.markup import escape

from gncadeq.commands.printing import Json, busy, console, write_numbers
from gncadeq.commands.threads import crowded, threads_in_python, usable_cores

_NEEDED = (
    "torch", "torchdeq", "torch-geometric", "networkx", "torchvision", "matplotlib", "numpy",
    "scipy", "pillow", "safetensors", "typer", "rich",
)  # fmt: skip
_MODULES = {"torch-geometric": "torch_geometric", "pillow": "PIL"}
_EXTRAS = {
    "lightning": "train", "scikit-learn": "train", "scikit-image": "superpixels", "onnx": "export",
    "onnxscript": "export", "onnxruntime": "export", "playwright": "dev", "trimesh": "dev",
}  # fmt: skip
_BROKEN = "does not import: "


def doctor(json_file: Json = None) -> None:
    """Say which versions, devices and optional parts are there, and why not."""
    from rich.table import Table

    with busy("importing what is needed"):
        rows = {**_versions(), **_extras()}
        broken = any(value.startswith(_BROKEN) for value in rows.values())
        if not broken:
            rows |= _machine()
    made = Table(box=None, pad_edge=False, show_header=False)
    made.add_column(style="bold")
    made.add_column()
    for name, value in rows.items():
        shown = escape(value)
        made.add_row(escape(name), f"[red]{shown}[/red]" if value.startswith(_BROKEN) else shown)
    console.print(made)
    write_numbers(json_file, rows)
    if broken:
        raise typer.Exit(1)


def _versions() -> dict[str, str]:
    """The versions of what is needed, or why it does not import."""
    import importlib
    import platform
    from importlib.metadata import version

    from gncadeq import __version__

    rows = {"gncadeq": __version__, "python": f"{platform.python_version()} on {platform.system()}"}
    for name in _NEEDED:
        try:
            importlib.import_module(_MODULES.get(name, name))
            rows[name] = version(name)
        except Exception as error:  # whatever is wrong with it is what the user wants to know
            rows[name] = f"{_BROKEN}{error}"
    return rows


def _extras() -> dict[str, str]:
    """The versions of optional packages, or how to install them."""
    from importlib.metadata import PackageNotFoundError, version

    rows = {}
    for name, extra in _EXTRAS.items():
        try:
            rows[f"{name} (extra {extra})"] = version(name)
        except PackageNotFoundError:
            rows[f"{name} (extra {extra})"] = f"missing: pip install 'gncadeq[{extra}]'"
    return rows


def _machine() -> dict[str, str]:
    """What the machine has, and where weights and data are."""
    import shutil

    import torch

    from gncadeq.datasets import default_root
    from gncadeq.device import devices
    from gncadeq.files.weights import pretrained_names

    browsers = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    return {
        "browser (viewer's tests)": next(filter(None, browsers), "none on the path"),
        "threads": _threads(torch.get_num_threads()),
        "devices (--device)": ", ".join(devices()),
        "CUDA": torch.cuda.get_device_name() if torch.cuda.is_available() else "none found",
        "weights of images": ", ".join(pretrained_names()) or "none",
        "weights of nodes": ", ".join(pretrained_names("nodes")) or "none",
        "grown rules": ", ".join(pretrained_names("grown")) or "none",
        "textures": ", ".join(pretrained_names("textures")) or "none",
        "data root": str(default_root().resolve()),
    }


def _threads(now: int) -> str:
    """On how many threads torch works, and whether other work leaves cores for them."""
    import os

    cores, python = usable_cores(), threads_in_python(now)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    said = f"{now} in commands (--threads), {python} in Python (OMP_NUM_THREADS), {cores} cores"
    warning = crowded(now, load, cores) or crowded(python, load, cores)
    return f"{said}. {warning}" if warning else said


EXAMPLES = ("gncadeq doctor",)
