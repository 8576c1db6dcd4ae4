"""The names that options take, once for library and command line; nothing heavy is imported."""

from __future__ import annotations

from typing import Literal, TypeAlias

Update: TypeAlias = Literal["direct", "residual"]
"""The form of a :class:`gncadeq.ConvCell`."""

Injection: TypeAlias = Literal["superposed", "additive"]
"""How the injection enters it."""

StartName: TypeAlias = Literal["zeros", "normal"]
"""Where dynamics start."""

DynamicsName: TypeAlias = Literal["deq", "nca"]
"""How weights are run: as an equilibrium or as an automaton."""

Gradient: TypeAlias = Literal["ift", "phantom", "one_step"]
"""The gradients of an equilibrium."""

Criterion: TypeAlias = Literal["graph", "node", "channel", "error"]
"""Whose relative residual a tolerance bounds."""

AnyGradient: TypeAlias = Literal["ift", "phantom", "one_step", "bptt"]
"""The gradients of both dynamics."""

Optimizer: TypeAlias = Literal["adam", "adamw", "sgd"]
"""The optimisers."""

Schedule: TypeAlias = Literal["one_cycle", "constant"]
"""The courses of the learning rate."""

GrowMethod: TypeAlias = Literal["bptt", "implicit", "sweeps"]
"""The ways to train a growing automaton."""

Kernels: TypeAlias = Literal["tangent", "gradient", "harmonics", "isotropic"]
"""What nodes sense (:class:`gncadeq.transforms.MeshToGraph`); pixels all but ``"harmonics"``."""

GrowRecipe: TypeAlias = Literal["rest", "distill", "isotropic"]
"""The recipes of ``gncadeq grow``."""

Injury: TypeAlias = Literal["both", "disc"]
"""The injuries in training a growing automaton (:meth:`gncadeq.training.SamplePool.refresh`)."""

Up: TypeAlias = Literal["x", "y", "z"]
"""The axis of positions in space that points up."""

UPRIGHT: dict[Up, tuple[int, int, int]] = {"y": (0, 1, 2), "z": (1, 2, 0), "x": (2, 0, 1)}
"""For the axis that points up, those that go right, up and towards the viewer; cyclic, so that
nothing is mirrored."""

AXES: dict[Up, tuple[float, float, float]] = {
    "x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)
}  # fmt: skip
"""The same axes as vectors, as :class:`gncadeq.transforms.MeshToGraph` takes them."""

Projection: TypeAlias = Literal["auto", "front", "side", "top", "sphere"]
"""How a picture gets onto a surface (:func:`gncadeq.training.surfaces.project_picture`)."""

Damage: TypeAlias = Literal["third", "disc"]
"""The injuries of a :class:`gncadeq.growth.Trial`."""

Form: TypeAlias = Literal["scatter", "gather"]
"""How messages are summed in an exported program."""

Program: TypeAlias = Literal["rollout", "step"]
"""What an exported program does."""

DatasetName: TypeAlias = Literal["mnist", "fashion-mnist", "kmnist", "digits"]
"""The datasets of :class:`gncadeq.datasets.PixelGraphs`."""
