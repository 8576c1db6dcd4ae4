"""The Jacobian of a step at a state, through its products with vectors; it is never stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.forward_ad import dual_level, make_dual, unpack_dual

from gncadeq.check import check_type
from gncadeq.dynamics import Partition
from gncadeq.typing import OptTensor, RestrictableStep, Step


class Jacobian:
    r"""The derivative of a step at a state, as a linear map.

    .. math::
        \mathbf{J} = \frac{\partial f}{\partial \mathbf{z}} (\mathbf{z}), \qquad
        \texttt{jvp}: \mathbf{v} \mapsto \mathbf{J} \mathbf{v}, \qquad
        \texttt{vjp}: \mathbf{u} \mapsto \mathbf{J}^\top \mathbf{u}

    Products use forward-mode differentiation where the step supports it, else two reverse passes.

    Raises:
        ValueError: If the state isn't ``[num_nodes, channels]`` floats, if the step changes its
            shape, or if either holds NaN or infinity.

    Example:
        >>> jacobian = Jacobian(lambda z: z**2, torch.tensor([[1.0, 3.0]]))
        >>> jacobian.jvp(torch.ones(1, 2))
        tensor([[2., 6.]])
    """

    def __init__(self, step: Step, z: Tensor) -> None:
        check_state(z)
        self.step, self.z = step, z.detach()
        with torch.no_grad():
            self.value = step(self.z)
        if self.value.shape != z.shape:
            raise ValueError(
                f"Expected a step that keeps the state's shape {list(z.shape)} (got "
                f"{list(self.value.shape)})"
            )
        for name, value in (("state", z), ("step's result", self.value)):
            if not bool(value.isfinite().all()):
                raise ValueError(
                    f"Expected a finite {name} (got NaN or infinity). Take a state before the "
                    "rollout diverges"
                )

    @property
    def size(self) -> int:
        """Number of rows (and columns)."""
        return self.z.numel()

    def jvp(self, v: Tensor) -> Tensor:
        """``J v``."""
        return push_forward(self.step, self.z, [v])[1][0]

    def vjp(self, u: Tensor) -> Tensor:
        """``Jᵀ u``."""
        with torch.enable_grad():
            h = self.z.clone().requires_grad_()
            fh = self.step(h)
        if not fh.requires_grad:
            return torch.zeros_like(self.z)
        (out,) = torch.autograd.grad(fh, h, u.to(fh), allow_unused=True)
        return torch.zeros_like(self.z) if out is None else out

    def dense(self) -> Tensor:
        """The matrix ``[size, size]``, column by column; for small states."""
        matrix = self.z.new_zeros(self.size, self.size)
        for j in range(self.size):
            unit = torch.zeros_like(self.z)
            unit.view(-1)[j] = 1.0
            matrix[:, j] = self.jvp(unit).reshape(-1)
        return matrix

    def check_differentiable(self) -> None:
        """Refuse a step that hides some of its derivative, whose Jacobian would seem too small.

        Raises:
            ValueError: If the two products contradict each other, or if both vanish although the
                step's values change.
        """
        if not self.size:
            return
        generator = torch.Generator().manual_seed(0)
        v = torch.randn(self.z.shape, generator=generator, dtype=self.z.dtype).to(self.z.device)
        v = v / v.norm()
        image = self.jvp(v)
        back, forth = float((self.vjp(image) * v).sum()), float(image.square().sum())
        hidden = abs(back - forth) > 1e-2 * forth  # ⟨Jᵀ J v, v⟩ = ‖J v‖²
        if forth == 0.0:
            h = torch.finfo(self.z.dtype).eps ** (1 / 3) * (1.0 + float(self.z.norm()))
            with torch.no_grad():
                change = (self.step(self.z + h * v) - self.step(self.z - h * v)).norm() / (2 * h)
            hidden = float(change) > 1e-2
        if hidden:
            raise ValueError(
                "Expected a step that is differentiable throughout (got one that hides its "
                "derivative). Remove torch.no_grad() and detach() from it"
            )


def check_state(z: Tensor) -> None:
    """Refuse what is no state ``[num_nodes, channels]``."""
    check_type("z", z, Tensor)
    if z.dim() != 2 or not z.is_floating_point():
        raise ValueError(
            "Expected 'z' of shape [num_nodes, channels], floating-point (got "
            f"{list(z.shape)}, {z.dtype})"
        )


@torch.no_grad()
def push_forward(step: Step, z: Tensor, tangents: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """``f(z)`` and the products ``J v`` of the Jacobian with each tangent."""
    try:
        with dual_level():
            value, images = z, []
            for v in tangents:
                dual = make_dual(z, v.to(z))  # type: ignore[no-untyped-call]
                value, image = unpack_dual(step(dual))  # type: ignore[no-untyped-call]
                images.append(torch.zeros_like(z) if image is None else image.to(z))
            return value.to(z), images
    except (RuntimeError, NotImplementedError):  # no forward mode; or an error, which comes again
        return _two_reverse_passes(step, z, tangents)


def _two_reverse_passes(
    step: Step, z: Tensor, tangents: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    # g(u) = Jᵀ u is linear in u, so its own vector-Jacobian product with v is J v.
    zeros = [torch.zeros_like(z) for _ in tangents]
    with torch.enable_grad():
        h = z.detach().clone().requires_grad_()
        fh = step(h)
        if not fh.requires_grad:
            return fh.detach(), zeros
        u = torch.zeros_like(fh, requires_grad=True)
        (g,) = torch.autograd.grad(fh, h, u, create_graph=True, allow_unused=True)
        if g is None or not g.requires_grad:
            return fh.detach(), zeros
        images = []
        for v in tangents:
            (image,) = torch.autograd.grad(g, u, v.to(g), retain_graph=True, allow_unused=True)
            images.append(torch.zeros_like(z) if image is None else image.to(z))
    return fh.detach().to(z), images


def each_graph(step: Step, z: Tensor, batch: OptTensor) -> Iterator[tuple[Step, Tensor]]:
    """The step and the state of every graph of a batch, one by one.

    A :class:`gncadeq.typing.RestrictableStep` is cut down; any other runs on the whole batch with
    the other graphs' states held.
    """
    check_state(z)
    partition = Partition(batch, z.size(0), like=z)
    if batch is None or partition.num_graphs == 1:
        yield step, z
        return
    for i in range(partition.num_graphs):
        nodes = (partition.batch == i).nonzero().flatten()

        def held(y: Tensor, nodes: Tensor = nodes) -> Tensor:
            return step(z.index_copy(0, nodes, y))[nodes]

        yield step.restrict(nodes) if isinstance(step, RestrictableStep) else held, z[nodes]
