"""Spectral radius and operator norm of a step's Jacobian, over the whole graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gncadeq.analysis.jacobian import Jacobian, each_graph
from gncadeq.check import check_count, check_seed, check_value
from gncadeq.dynamics import ConvergenceError
from gncadeq.typing import OptTensor, Step

_DENSE = 192  # below this, the matrix itself is quicker than the iteration
_DENSE_AT_MOST = 2048  # and up to this, it is the last resort
_EFFORTS = ((32, 100), (96, 60))  # sizes of the basis, and restarts
_RATIOS = 2048

Vector = NDArray[np.float64]
Product = Callable[[Vector], Vector]


def spectral_radius(
    step: Step, z: Tensor, batch: OptTensor = None, *, tol: float | None = None, seed: int = 0
) -> Tensor:
    r"""The spectral radius of a step's Jacobian at a state: the rate at which it is reached.

    .. math::
        \rho(\mathbf{J}) = \max_k |\lambda_k| = \lim_{t \to \infty}
        \lVert \mathbf{J}^t \rVert^{1/t}, \qquad
        \mathbf{J} = \frac{\partial f}{\partial \mathbf{z}}

    An equilibrium with :math:`\rho < 1` attracts what starts close to it. The eigenvalues are
    found by the implicitly restarted Arnoldi method (Lehoucq, Sorensen & Yang 1998) on
    Jacobian-vector products; where many share the largest modulus, by the growth of
    :math:`\lVert \mathbf{J}^t \mathbf{v} \rVert`; for small states, densely.

    Args:
        step: Any map of states ``[num_nodes, channels]``.
        z: The state, usually an equilibrium.
        batch: Ascending graph index of every node, for the radius of each graph.
        tol: Relative accuracy of the iteration; by default 1e-9 for float64, else 1e-5.
        seed: Seed of the iteration's first vector.

    Returns:
        A scalar, or ``[num_graphs]`` with a ``batch``; zero for a graph without nodes.

    Raises:
        ConvergenceError: If the accuracy isn't reached.
        ValueError: If the state or the step isn't what the analysis needs.

    Example:
        >>> rotation = torch.tensor([[0.0, -0.9], [0.9, 0.0]])
        >>> spectral_radius(lambda z: torch.tanh(z @ rotation), torch.zeros(5, 2))
        tensor(0.9000)
    """
    tol, seed = _checked(tol, seed)
    radii = [_radius(Jacobian(f, y), tol, seed) for f, y in each_graph(step, z, batch)]
    out = z.new_tensor(radii)
    return out[0] if batch is None else out


def leading_eigenvalues(
    step: Step, z: Tensor, k: int = 8, *, tol: float | None = None, seed: int = 0
) -> Tensor:
    """The ``k`` eigenvalues of largest modulus of a step's Jacobian at a state.

    Args:
        step: Any map of states ``[num_nodes, channels]``.
        z: The state.
        k: How many; fewer are returned if the state has fewer entries.
        tol: Relative accuracy, as in :func:`spectral_radius`.
        seed: Seed of the iteration's first vector.

    Returns:
        Complex ``[k]``, the largest modulus first.

    Raises:
        ConvergenceError: If the accuracy isn't reached.
        ValueError: If ``k`` isn't positive, or state or step isn't what the analysis needs.

    Example:
        >>> leading_eigenvalues(lambda z: z * torch.tensor([0.5, -0.25]), torch.zeros(1, 2))
        tensor([ 0.5000+0.j, -0.2500+0.j])
    """
    k = check_count("k", k, 1)
    tol, seed = _checked(tol, seed)
    jacobian = Jacobian(step, z)
    values = _eigenvalues(jacobian, k, tol, seed, *_EFFORTS)
    if values is None:
        raise _failure("the leading eigenvalues", jacobian.size)
    order = np.argsort(-np.abs(values), kind="stable")[:k]
    kind = torch.complex128 if z.dtype == torch.double else torch.complex64
    return torch.as_tensor(values[order].astype(complex), device=z.device).to(kind)


def operator_norm(
    step: Step,
    z: Tensor,
    batch: OptTensor = None,
    *,
    scale: Tensor | None = None,
    tol: float | None = None,
    seed: int = 0,
) -> Tensor:
    r"""The operator norm of a step's Jacobian at a state: the most that one step can stretch.

    .. math::
        \lVert \mathbf{J} \rVert_2 = \sqrt{\lambda_{\max} (\mathbf{J}^\top \mathbf{J})}
        \ge \rho(\mathbf{J})

    by the Lanczos method on :math:`\mathbf{J}^\top \mathbf{J}`. With a ``scale``
    :math:`\mathbf{D}`, the norm is that of :math:`\mathbf{D}^{-1} \mathbf{J} \mathbf{D}`, in which
    a :class:`gncadeq.ConvCell` with a ``contraction`` shrinks distances.

    Args:
        step: Any map of states ``[num_nodes, channels]``.
        z: The state.
        batch: Ascending graph index of every node, for the norm of each graph.
        scale: ``[channels]``, positive; such as ``cell.scale``.
        tol: Relative accuracy, as in :func:`spectral_radius`.
        seed: Seed of the iteration's first vector.

    Returns:
        A scalar, or ``[num_graphs]`` with a ``batch``; zero for a graph without nodes.

    Raises:
        ConvergenceError: If the accuracy isn't reached.
        ValueError: If the state, the step or the scale isn't what the analysis needs.

    Example:
        >>> shear = torch.tensor([[0.5, 0.0], [3.0, 0.5]])
        >>> f = lambda z: z @ shear
        >>> spectral_radius(f, torch.zeros(1, 2)), operator_norm(f, torch.zeros(1, 2))
        (tensor(0.5000), tensor(3.0811))
    """
    tol, seed = _checked(tol, seed)
    if scale is not None:
        if list(scale.shape) != [z.size(-1)] or not bool((scale > 0).all()):
            raise ValueError(
                f"Expected a positive 'scale' of shape [channels] = [{z.size(-1)}] (got "
                f"{list(scale.shape)}, smallest {float(scale.min()) if scale.numel() else 0:g})"
            )
        scale = scale.detach().to(z)
    norms = [_norm(Jacobian(f, y), scale, tol, seed) for f, y in each_graph(step, z, batch)]
    out = z.new_tensor(norms)
    return out[0] if batch is None else out


def _checked(tol: float | None, seed: int) -> tuple[float | None, int]:
    return check_value("tol", tol, float | None, above=0.0), check_seed(seed)


def _radius(jacobian: Jacobian, tol: float | None, seed: int) -> float:
    for effort in _EFFORTS:
        values = _eigenvalues(jacobian, 1, tol, seed, effort)
        if values is not None:
            return float(np.abs(values).max(initial=0.0))
        # Many eigenvalues are about as large: then it hardly matters which of them vectors follow.
        accuracy = _accuracy(jacobian, tol)
        radius = _growth(_flat(jacobian, jacobian.jvp), _start(jacobian, seed), accuracy)
        if radius is not None:
            return radius
    if jacobian.size <= _DENSE_AT_MOST:
        return float(np.abs(np.linalg.eigvals(_matrix(jacobian))).max())
    raise _failure("the spectral radius", jacobian.size)


def _eigenvalues(
    jacobian: Jacobian, k: int, tol: float | None, seed: int, *efforts: tuple[int, int]
) -> NDArray[np.complex128] | None:
    """At least ``k`` of the largest, or ``None`` where Arnoldi's method doesn't converge."""
    from scipy.sparse.linalg import eigs

    n = jacobian.size
    jacobian.check_differentiable()
    wanted = k + 5  # the iteration may miss one near the end of its list
    if n <= max(_DENSE, 4 * wanted):
        return np.linalg.eigvals(_matrix(jacobian)).astype(complex)
    product, start = _flat(jacobian, jacobian.jvp), _start(jacobian, seed)
    if not product(start).any():  # of a generic vector: the Jacobian is zero
        return np.zeros(k, dtype=complex)
    accuracy = _accuracy(jacobian, tol)
    return _krylov(eigs, product, start, wanted, "LM", accuracy, efforts)  # type: ignore[no-any-return]


def _krylov(
    method: Any, product: Product, start: Vector, k: int, which: str, tol: float,
    efforts: Sequence[tuple[int, int]],
) -> Any:  # fmt: skip
    """Eigenvalues by one of scipy's methods, or ``None`` where it doesn't converge."""
    from scipy.sparse.linalg import ArpackError, LinearOperator

    n = start.size
    operator = LinearOperator((n, n), matvec=product, dtype=np.float64)
    for basis, restarts in efforts:
        try:
            return method(
                operator, k=k, which=which, v0=start, ncv=min(max(basis, 4 * k), n),
                maxiter=restarts, tol=tol, return_eigenvectors=False,
            )  # fmt: skip
        except ArpackError:  # not converged, or the basis broke down: try a larger one
            continue
    return None


def _norm(jacobian: Jacobian, scale: Tensor | None, tol: float | None, seed: int) -> float:
    from scipy.sparse.linalg import eigsh

    n = jacobian.size
    if n == 0:
        return 0.0
    jacobian.check_differentiable()
    d = torch.ones_like(jacobian.z[0]) if scale is None else scale

    def gram(v: Tensor) -> Tensor:
        # (D⁻¹ J D)ᵀ (D⁻¹ J D) v
        return d * jacobian.vjp(jacobian.jvp(d * v) / d**2)

    if n <= _DENSE:
        s = d.double().cpu().repeat(jacobian.z.size(0)).numpy()
        return float(np.linalg.norm(_matrix(jacobian) * s[None, :] / s[:, None], 2))
    product, start = _flat(jacobian, gram), _start(jacobian, seed)
    if not product(start).any():
        return 0.0
    found = _krylov(eigsh, product, start, 1, "LA", _accuracy(jacobian, tol), _EFFORTS)
    if found is None:
        raise _failure("the operator norm", n)
    return float(np.sqrt(max(found.max(), 0.0)))


def _growth(product: Product, v: Vector, tol: float) -> float | None:
    """The mean growth of ``‖Jᵗ v‖`` per step, once two windows in a row agree on it."""
    v, window = v / np.linalg.norm(v), 16
    rates: list[float] = []
    while 2 * window <= _RATIOS:
        logs: list[float] = []
        for _ in range(window):
            v = product(v)
            size = float(np.linalg.norm(v))
            if size == 0.0:
                return 0.0
            v = v / size
            logs.append(float(np.log(size)))
        rates.append(float(np.exp(np.mean(logs))))
        if len(rates) > 1 and abs(rates[-1] - rates[-2]) <= 0.25 * tol * rates[-1]:
            return rates[-1]
        window *= 2
    return None


def _flat(jacobian: Jacobian, product: Callable[[Tensor], Tensor]) -> Product:
    def flat(v: Vector) -> Vector:
        x = torch.from_numpy(np.ascontiguousarray(v, dtype=np.float64)).to(jacobian.z)
        out: Vector = product(x.view_as(jacobian.z)).double().cpu().numpy().reshape(-1)
        return out

    return flat


def _start(jacobian: Jacobian, seed: int) -> Vector:
    return np.random.default_rng(seed).standard_normal(jacobian.size)


def _matrix(jacobian: Jacobian) -> Vector:
    matrix: Vector = jacobian.dense().double().cpu().numpy()
    return matrix


def _accuracy(jacobian: Jacobian, tol: float | None) -> float:
    return tol or (1e-9 if jacobian.z.dtype == torch.double else 1e-5)


def _failure(what: str, size: int) -> ConvergenceError:
    return ConvergenceError(
        f"Expected {what} of a Jacobian with {size} rows to converge (it did not: many eigenvalues "
        "are about as large). Allow a larger 'tol', or use a float64 state"
    )
