"""The recipes of ``gncadeq train`` and ``gncadeq grow``: what each changes of the defaults."""

from __future__ import annotations

from typing import Any

RECIPES: dict[str, dict[str, Any]] = {
    "pyramid": {
        "levels": "8,16,27", "contraction": 0.9, "optimizer": "adamw", "lr": 0.03,
        "weight_decay": 1e-3, "batch_size": 128, "augment": True, "shift": 1.5,
    },
    "conv": {},
    "essay": {
        "update": "residual", "contraction": None, "standardize": False,
        "living_threshold": None, "solver": "broyden", "tol": 1e-3, "max_steps": 30,
        "start": "normal", "optimizer": "sgd", "lr": 5e-3, "momentum": 0.9,
        "schedule": "constant", "clip": None, "epochs": 10,
    },
}  # fmt: skip
"""What the recipes of ``gncadeq train`` change of the defaults."""

GROW_RECIPES: dict[str, dict[str, Any]] = {
    "rest": {},
    "distill": {
        "kernels": "gradient", "hidden_channels": 128, "out_bias": True, "padding": 16,
        "anchor": False, "fire_rate": 0.5, "min_rollout": 64, "max_rollout": 96, "settle": 0,
        "variants": 0, "pool_size": 1024, "elders": 0.0, "batch_size": 8, "reset_every": 1,
        "damage": 3, "damage_from": 0.0, "injury": "disc", "rest": 0.0, "overflow": 0.0,
        "steps": 8000, "decay": 0.25, "average": 0.0,
    },
    "isotropic": {
        "kernels": "isotropic", "hidden_channels": 192, "seeds": 3, "variants": 4, "steps": 2000,
        "average": 0.0,
    },
}  # fmt: skip
"""What the recipes of ``gncadeq grow`` change of the defaults."""

METHODS: dict[str, dict[str, Any]] = {
    "sweeps": {"steps": 1000, "lr": 5e-3, "hidden_channels": 48},
}
"""What methods of ``gncadeq grow`` change of the defaults."""

_FOR_DATASET: dict[tuple[str, str], dict[str, Any]] = {
    # 1,437 images of 8 × 8 pixels: more steps an epoch, shifts of the same share of an image, and
    # no level of 2 × 2 pixels.
    ("pyramid", "digits"): {"levels": "16,27", "batch_size": 32, "shift": 0.4},
}


def recipe_options(name: str, dataset: str) -> dict[str, Any]:
    """What a recipe changes of the defaults on a dataset.

    Example:
        >>> recipe_options("pyramid", "digits")["levels"], recipe_options("conv", "digits")
        ('16,27', {})
    """
    return {**RECIPES[name], **_FOR_DATASET.get((name, dataset), {})}
