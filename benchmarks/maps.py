"""Evaluations to 1e-6 on fixed-point maps of other libraries' tests: our solvers and SciPy's.

    python -m benchmarks maps
    python -m benchmarks maps --markdown    # the table for the documentation

The maps are in ``benchmarks/_maps.py``. A solver is done with its first evaluation at a state whose
residual ``|f(z) - z| / |f(z)|`` is at most 1e-6; it may evaluate the map 200 times. SciPy's methods
solve ``f(z) - z = 0`` and are counted at the same place; their options are the defaults. A state
that ran away counts for none of them (:class:`gncadeq.dynamics.growth.Growth`). Writes
``runs/benchmarks/maps.json``.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.optimize
import torch

from benchmarks._maps import MAPS, Map
from benchmarks._measure import save, show
from gncadeq.dynamics import Partition, solve
from gncadeq.dynamics.growth import Growth

TOL, MOST = 1e-6, 200
OURS = ("auto", "picard", "anderson", "broyden", "newton", "flow")
SCIPY = ("fixed_point", "anderson", "broyden1", "newton_krylov")


class Done(Exception):
    """The residual is small enough, or there have been too many evaluations."""


def ours(m: Map, solver: str) -> int | None:
    """The evaluations of a solver, or ``None`` if it didn't converge."""
    solution = solve(
        lambda z: m.f(z.squeeze(1)).unsqueeze(1), m.z0.unsqueeze(1), Partition(None, len(m.z0)),
        solver=solver, tol=TOL, max_steps=MOST - 1,
    )  # fmt: skip
    return int(solution.num_evaluations) if bool(solution.converged) else None


def scipys(m: Map, method: str) -> int | None:
    """The evaluations of a method of SciPy's, or ``None`` if it didn't converge."""
    count, reached = 0, False
    # A state may come to rest at zero, as in our solves.
    floor = float(torch.finfo(torch.double).eps * m.z0.norm())
    growth = Growth(np.array([float(m.z0.norm())]), TOL)

    def f(z: np.ndarray) -> np.ndarray:
        nonlocal count, reached
        if count == MOST:
            raise Done
        count += 1
        fz = m.f(torch.as_tensor(np.array(z, dtype=float))).numpy()
        difference, size = np.linalg.norm(fz - z), max(np.linalg.norm(fz), floor)
        ran = np.any(growth.check(np.array([difference]), np.array([size])))
        if np.isfinite(size) and difference <= TOL * size and not ran:
            reached = True
            raise Done
        return fz

    solver: Callable[..., Any] = getattr(scipy.optimize, method)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            if method == "fixed_point":
                solver(f, m.z0.numpy(), xtol=1e-300, maxiter=MOST)
            else:
                solver(lambda z: f(z) - z, m.z0.numpy(), f_tol=1e-300, maxiter=MOST)
    except (Done, RuntimeError, ValueError, ArithmeticError, scipy.optimize.NoConvergence):
        pass
    return count if reached else None


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for m in MAPS:
        row: dict[str, Any] = {"map": m.name, "from": m.source}
        row |= {name: ours(m, name) for name in OURS}
        row |= {f"SciPy {name}": scipys(m, name) for name in SCIPY}
        rows.append(row)
    names = [name for name in rows[0] if name not in ("map", "from")]
    solved = {name: sum(row[name] is not None for row in rows) for name in names}
    if args.markdown:
        print(f"| map | from | {' | '.join(names)} |")
        print("|---|---|" + "---|" * len(names))
        for row in rows:
            print("| " + " | ".join("–" if v is None else str(v) for v in row.values()) + " |")
        print(f"| **solved of {len(rows)}** | | {' | '.join(map(str, solved.values()))} |")
        return
    show(
        f"Evaluations to {TOL:g}, at most {MOST}", [*rows, {"map": "solved", "from": "", **solved}]
    )
    save("maps", rows, solved=solved)


if __name__ == "__main__":
    main()
