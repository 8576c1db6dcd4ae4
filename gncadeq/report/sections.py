"""The measurements of a trained classifier that make up its report, one section each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from gncadeq.analysis.attractors import Attractor, classify_attractor
from gncadeq.analysis.basin import basin_map
from gncadeq.analysis.independence import path_independence
from gncadeq.analysis.lyapunov import lyapunov_exponents
from gncadeq.analysis.sensitivity import hop_distance, influence_by_hop, sensitivity
from gncadeq.analysis.spectrum import leading_eigenvalues, operator_norm
from gncadeq.cell import Cell
from gncadeq.cells.conv import ConvCell
from gncadeq.check import check_seed
from gncadeq.datasets import PixelGraphs
from gncadeq.device import beside, on_cpu
from gncadeq.dynamics import ConvergenceError, Partition, Solution, solve
from gncadeq.dynamics.start import start_state
from gncadeq.models import ImageClassifier
from gncadeq.report.page import Section
from gncadeq.typing import Step
from gncadeq.viz.analysis import (
    basin_figure,
    census_figure,
    independence_figure,
    lyapunov_figure,
    sensitivity_figure,
    spectrum_figure,
)

_TOL = 1e-5
_WITHIN = 1e-2
_FEW = 12
_TRANSIENT = 200


class Bench:
    """The graphs, the bound step and its equilibria, shared by all measurements."""

    def __init__(
        self, model: ImageClassifier, dataset: PixelGraphs, graphs: int, seed: int
    ) -> None:
        self.model, self.seed, self.name = model, seed, dataset.name
        self.total = len(dataset)
        self.cell: Cell = model.dynamics.cell
        self.generator = torch.Generator().manual_seed(check_seed(seed))
        index = torch.randperm(len(dataset), generator=self.generator)[:graphs]
        data = beside(dataset.batch(index), model)
        self.graphs: list[Data] = data.to_data_list()
        self.batch: Tensor = data.batch
        self.step, u = self.prepare(data)
        start = model.dynamics.start
        with torch.no_grad():
            self.z0 = start_state(
                None, u, data.edge_index, data.edge_attr, self.cell.channels, start, self.generator
            )
        self.partition = Partition(self.batch, self.z0.size(0), len(self.graphs))
        self.solution: Solution = solve(self.step, self.z0, self.partition, tol=_TOL, max_steps=300)

    def facts(self) -> dict[str, str]:
        """What was analysed."""
        s = self.solution
        return {
            "cell": repr(self.cell),
            "parameters": f"{sum(p.numel() for p in self.model.parameters()):,}",
            "trained by": str(self.model.card.get("command", "unknown")),
            "graphs": f"{len(self.graphs)} of {self.total:,} of {self.name}, seed {self.seed}, "
            f"{self.z0.size(0) / len(self.graphs):.0f} nodes each on average",
            "equilibria": f"{int(s.converged.sum())} of {s.num_graphs} reached the relative "
            f"residual {_TOL:g}, in {float(s.num_steps.double().mean()):.1f} steps on average",
            "certificate": self.proven(),
        }

    def numbers(self) -> dict[str, Any]:
        """The facts in numbers."""
        s, (kind, rate) = self.solution, self.proof()
        return {
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "graphs": len(self.graphs),
            "nodes": self.z0.size(0),
            "seed": self.seed,
            "tol": _TOL,
            "converged": int(s.converged.sum()),
            "mean_steps": float(s.num_steps.double().mean()),
            "certificate": kind,
            "rate": rate,
        }

    def proof(self) -> tuple[str | None, float | None]:
        """What is proven of the rule on the first graph: by what, and the rate of contraction."""
        if not all(bool(p.isfinite().all()) for p in self.cell.parameters()):
            return None, None
        data = self.graphs[0]
        found = self.cell.certificate(
            data.edge_index, data.edge_attr, num_nodes=int(data.num_nodes)
        )
        if found is None or not found.promises:
            return None, None
        rate = getattr(found, "rate", None)
        return found.kind, None if rate is None else float(torch.as_tensor(rate).max())

    def proven(self) -> str:
        """The same in words."""
        kind, rate = self.proof()
        if kind is None:
            finite = all(bool(p.isfinite().all()) for p in self.cell.parameters())
            why = "nothing is proven of this rule" if finite else "the weights are not finite"
            return f"none: {why}"
        if kind == "structure":
            return (
                "by structure: parts in an order, each a contraction of its own state by "
                f"{rate:.3g} at most. One equilibrium, from every start and at every fire rate"
            )
        if kind == "order":
            return (
                "by order: a step is increasing in the state. From the bottom states rise to the "
                "least equilibrium, in every order of updates"
            )
        if kind == "energy":
            return (
                "by energy: whichever nodes are updated, an energy falls. Every start in [-1, 1] "
                "comes to rest, in one of perhaps many equilibria"
            )
        return (
            f"by norm: a step multiplies distances by at most {rate:.3g}. One equilibrium, from "
            "every start"
        )

    @torch.no_grad()
    def prepare(self, data: Data) -> tuple[Step, Tensor]:
        """The step on graphs, and its injection."""
        u = self.model.encode(data.x, data.edge_index, data.edge_attr)
        return self.cell.prepare(u, data.edge_index, data.edge_attr), u

    def few(self, count: int) -> tuple[Step, Tensor, Tensor]:
        """The step on the first few graphs, and their node indices and graph indices."""
        nodes = (self.batch < count).nonzero().flatten()
        step, _ = self.prepare(Batch.from_data_list(self.graphs[:count]))
        return step, nodes, self.batch[nodes]

    def one(self, i: int) -> tuple[Step, Tensor]:
        """The step on one graph, and its equilibrium."""
        return self.prepare(self.graphs[i])[0], self.solution.state[self.batch == i]

    def solved(self, count: int) -> list[int]:
        """The first few graphs whose equilibrium was reached."""
        found: list[int] = self.solution.converged.nonzero().flatten()[:count].tolist()
        if not found:
            raise ConvergenceError(
                f"Expected an equilibrium to look at (none of {self.solution.num_graphs} graphs "
                f"reached the relative residual {_TOL:g}). Bound the cell (contraction=0.95)"
            )
        return found

    def noise(self, like: Tensor) -> Tensor:
        """A Gaussian start."""
        return torch.randn(like.shape, generator=self.generator, dtype=like.dtype).to(like.device)

    def stability(self) -> Section:
        """Spectral radius and norms at the equilibria."""
        step, nodes, batch = self.few(_FEW)
        z = self.solution.state[nodes]
        count = int(batch.max()) + 1
        leading = on_cpu([leading_eigenvalues(*self.one(i), k=12) for i in range(count)])
        radius = torch.stack([values.abs().max() for values in leading])
        norm = on_cpu(operator_norm(step, z, batch))
        measures = {"radius ρ": radius, "norm ‖J‖": norm}
        scaled = ""
        scale = self.cell.scale if isinstance(self.cell, ConvCell) else None
        if scale is not None and bool((scale != scale[0]).any()):
            own = on_cpu(operator_norm(step, z, batch, scale=scale))
            measures["norm ‖D⁻¹JD‖"] = own
            scaled = f" In the cell's own norm they stretch it {float(own.max()):.3g}-fold at most."
        solved = int(((radius < 1) & self.solution.converged[:count].cpu()).sum())
        stable = int((radius < 1).sum())
        steps = float((torch.tensor(0.1).log() / radius.max().log()).ceil())
        rate = f", so that {steps:.0f} steps gain a digit" if stable == count and steps else ""
        return Section(
            "Stability of the equilibrium",
            f"{stable} of {count} states attract what starts close to them, {solved} of them "
            f"solved to {_TOL:g}: the spectral radius of a step is {_median(radius)} (largest "
            f"{float(radius.max()):.3f}{rate}). A single step may stretch a change up to "
            f"{_median(norm)}-fold.{scaled}",
            f"Jacobian of the whole graph's step at the equilibrium of {count} graphs: Arnoldi's "
            "method for the 12 leading eigenvalues (left, with the unit circle), Lanczos' for the "
            "norms (right; bars are medians).",
            spectrum_figure(leading, measures),
            {k: v.tolist() for k, v in measures.items()},
        )

    def lyapunov(self) -> Section:
        """Exponents of rollouts from noise."""
        step, nodes, batch = self.few(_FEW)
        start = self.noise(self.z0[nodes])
        with torch.no_grad():
            for _ in range(_TRANSIENT):
                start = step(start)
        found = on_cpu(lyapunov_exponents(step, start, 60, 4, batch, warmup=30, seed=self.seed))
        largest = found[:, 0]
        chaotic = int((largest > 5e-3).sum())
        return Section(
            "Lyapunov exponents",
            f"{chaotic} of {len(found)} rollouts have a positive exponent, the mark of chaos: the "
            f"largest is {_median(largest)} per step (at most {float(largest.max()):.3f}), by "
            f"which a small change is multiplied by {_median(largest.exp())} in each.",
            f"Four leading exponents of {len(found)} rollouts by Benettin's method, over 60 "
            f"steps after {_TRANSIENT} from Gaussian noise and 30 for the tangents to turn.",
            lyapunov_figure(found),
            {"exponents": found.tolist()},
        )

    def independence(self) -> Section:
        """Where other starts end."""
        report = path_independence(
            self.step, self.z0, self.batch, tol=1e-4, generator=self.generator
        )
        report = on_cpu(report)
        good, count = int(report.independent(_WITHIN).sum()), report.distance.numel()
        return Section(
            "Path independence",
            f"{good} of {count} graphs end in the same state (within {_WITHIN:.0%}) from "
            f"{report.residual.size(0)} starts: end states are {_median(report.distance)} apart "
            f"(at most {float(report.distance.max()):.1e}, relative), and the asymptotic-alignment "
            f"score is {float(report.alignment.mean()):.4f} (least "
            f"{float(report.alignment.min()):.4f}).",
            "Anderson's method to a relative residual of 1e-4 from the usual start, from shuffled "
            "equilibria of other graphs, and from Gaussian noise. Shown are shares of graphs up to "
            "a distance.",
            independence_figure(report),
            {"distance": report.distance.tolist(), "alignment": report.alignment.tolist()},
        )

    def ash(self) -> Section:
        """What rollouts from noise settle into."""
        window = 48
        census = classify_attractor(
            self.step, self.noise(self.z0), self.batch, transient=_TRANSIENT, max_period=window,
            lyapunov_steps=64, seed=self.seed,
        )  # fmt: skip
        counts = census.counts()
        fixed = census.label == Attractor.FIXED_POINT
        known = self.solution.state
        gap = self.partition.norm(census.state - known) / self.partition.norm(known)
        same = int((fixed & (gap <= _WITHIN)).sum())
        census = on_cpu(census)
        said = ", ".join(f"{name} ({n})" for name, n in counts.items())
        return Section(
            "Attractors of long rollouts",
            f"Run from noise as an automaton, {census.label.numel()} graphs settle into: {said}. "
            f"Of the {int(fixed.sum())} fixed points, {same} are the solver's equilibrium (within "
            f"{_WITHIN:.0%}).",
            f"{_TRANSIENT} steps from Gaussian noise, then two windows of {window} steps for "
            "recurrences and 96 for the largest Lyapunov exponent. Right: distances of up to 20 "
            "orbits a kind from their state at the end of the transient, cut off at 1e-10.",
            census_figure(census),
            {"counts": counts, "residual": census.residual.tolist(),
             "lyapunov": census.lyapunov.tolist(), "recurrence": census.recurrence.tolist()},
        )  # fmt: skip

    def basin(self) -> Section:
        """A plane of starts around one equilibrium."""
        step, z = self.one(self.solved(1)[0])
        radius = 5.0
        found = basin_map(step, z, radius=radius, resolution=11, generator=self.generator)
        found = on_cpu(found)
        share = float(found.returned.double().mean())
        steps = found.num_steps[found.returned]
        slowest = f", in at most {int(steps.max())} steps" if steps.numel() else ""
        return Section(
            "Basin of an equilibrium",
            f"{share:.0%} of {found.distance.numel()} starts around an equilibrium come back to "
            f"it{slowest}; the farthest are {radius:g} times its norm away in either direction.",
            "Rollouts on one graph from a plane of random directions through the "
            f"equilibrium, up to {found.max_steps} steps to a relative residual of 1e-4; the cross "
            "is the equilibrium.",
            basin_figure(found),
            {"returned": share},
        )

    def reach(self) -> Section:
        """The sensitivity of central nodes."""
        shown = self.solved(6)
        pixels = [pixels_of(self.graphs[i]) for i in shown]
        rows = on_cpu([self.felt(i, ground) for i, ground in zip(shown, pixels, strict=True)])
        profiles = [influence_by_hop(*row) for row in rows]
        reach = sorted(int((p >= 0.01 * p.max()).nonzero().max()) for p in profiles)
        size = pixels[0].image_size.view(-1).tolist()
        hop = 1.0 - float(torch.stack([_per_hop(p) for p in profiles]).median())
        longest = torch.full((len(profiles), max(map(len, profiles))), float("nan"))
        for row, profile in zip(longest, profiles, strict=True):
            row[: len(profile)] = profile / profile.max()
        return Section(
            "How far information travels",
            f"A central node feels changes of pixels up to {reach[-1]} hops away with at least 1 % "
            f"of the strength of the nearest (median {reach[len(reach) // 2]}); influence falls by "
            f"{hop:.0%} a hop.",
            f"Response of the equilibrium at the circled node of {len(rows)} graphs, of a pyramid "
            "one of the top level, to a lasting change at every pixel, by the implicit function "
            "theorem; hops are from pixel to pixel; cut off at 1e-5 of the largest.",
            sensitivity_figure(
                *rows[0], pixels[0].pos.cpu(), (int(size[0]), int(size[1])), rows[1:]
            ),
            {"reach": reach, "profile": longest.nanmean(0).tolist()},
        )

    def felt(self, i: int, pixels: Data) -> tuple[Tensor, Tensor]:
        """How a central node of a graph feels each of its pixels, and their distances in hops."""
        data, (step, z) = self.graphs[i], self.one(i)
        top = data.level == data.level.max() if "level" in data else data.pos[:, 0] >= 0
        away = (data.pos - pixels.pos.mean(0)).norm(dim=1).masked_fill(~top, float("inf"))
        node = int(away.argmin())
        below = int((pixels.pos - data.pos[node]).norm(dim=1).argmin())
        value = sensitivity(step, z, node, tol=_TOL)[: pixels.num_nodes]
        return value, hop_distance(pixels.edge_index, below, int(pixels.num_nodes or 0))


def pixels_of(data: Data) -> Data:
    """The graph of the pixels alone, which come before the nodes of other levels."""
    return data.subgraph(data.level == 0) if "level" in data else data


def _per_hop(profile: Tensor) -> Tensor:
    """The mean factor by which influence changes a hop, over those above 1e-4 of the largest."""
    above = int((profile >= 1e-4 * profile[0]).long().cumprod(0).sum()) - 1
    return (profile[above] / profile[0]) ** (1 / above) if above else profile.new_zeros(())


def _median(value: Tensor) -> str:
    """The median, in few digits."""
    return f"{float(value.double().quantile(0.5)):.3g}"
