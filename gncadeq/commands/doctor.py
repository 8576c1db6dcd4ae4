"""``gncadeq doctor``: versions, devices and what is missing."""

from __future__ import annotations

import typer

from gncadeq.commands.printing import console


def doctor() -> None:
    """Say which versions, devices and optional parts are there, and why not."""
    import importlib
    import platform
    import shutil
    from importlib.metadata import PackageNotFoundError, version

    import torch
    from rich.table import Table

    from gncadeq import __version__
    from gncadeq.datasets import default_root
    from gncadeq.files.weights import pretrained_names

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
        "lightning": "train", "scikit-learn": "train",
        "scikit-image": "superpixels", "onnx": "export", "onnxscript": "export",
        "onnxruntime": "export", "playwright": "dev", "trimesh": "dev",
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
    console.print(table)
    if broken:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(epilog="Example:\n\n    gncadeq doctor")(doctor)


__all__ = ["register"]
