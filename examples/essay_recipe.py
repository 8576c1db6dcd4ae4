"""The essay's own training, with TorchDEQ alone: what do its equation and its solver reach?

    python examples/essay_recipe.py --data-root DATA                 # all variants, hours
    python examples/essay_recipe.py --data-root DATA --variants direct
    python examples/essay_recipe.py --smoke                         # seconds, 8 × 8 digits

The model of the essay on dense images, as its TorchDEQ would run it: ``conv2d``, a state of one
image a row that starts as Gaussian noise, average pooling, an MLP; 15,122 parameters, SGD of 0.005
with momentum 0.9, batches of 64. The options that the essay does not name are TorchDEQ's defaults
(a phantom gradient of one step, an absolute tolerance of 1e-3), with 30 solver steps at most. The
variants change one thing each:

- the equation: eq. (2) as written, ``z + tanh(K * [u, z])``, or read directly, ``tanh(...)``,
- the solver: TorchDEQ's Broyden (the essay's), or its plain iteration,
- the gradient: the phantom step, or the implicit function theorem (``ift=True``),
- the rule's weights: as they are, or TorchDEQ's weight norm.

After every epoch the weights are kept, so that a training that was interrupted goes on. At the end
the same weights are measured twice: stopped as in training on all test images, and on the first
2,000 with every image solved to a relative residual of 1e-3. Writes ``results.json``.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gncadeq import PixelGraphClassifier
from gncadeq.datasets import PixelGraphs
from gncadeq.evaluation import evaluate
from gncadeq.files.atomic import write_atomically
from gncadeq.files.json_files import write_json
from gncadeq.transforms import ImageToGraph

STEPS = 30
VARIANTS: dict[str, dict[str, Any]] = {
    "as-written": {"solver": "broyden"},
    "as-written-ift": {"solver": "broyden", "ift": True},
    "as-written-norm": {"solver": "broyden", "norm": True},
    "as-written-plain": {"solver": "fixed_point_iter"},
    "direct": {"direct": True, "solver": "broyden"},
    "direct-plain": {"direct": True, "solver": "fixed_point_iter"},
    "direct-plain-ift": {"direct": True, "solver": "fixed_point_iter", "ift": True},
}


class EssayNet(nn.Module):
    """Eqs. (1) and (2) of the essay with ``conv2d`` and TorchDEQ."""

    def __init__(
        self, direct: bool = False, solver: str = "broyden", ift: bool = False, norm: bool = False
    ) -> None:
        super().__init__()
        import torchdeq
        from torchdeq.norm import apply_norm

        self.direct, self.norm = direct, norm
        self.encoder = nn.Conv2d(1, 24, 3, padding=1)
        self.rule = nn.Conv2d(48, 24, 3, padding=1)
        self.readout = nn.Sequential(nn.Linear(24, 128), nn.ReLU(), nn.Linear(128, 10))
        if norm:
            apply_norm(self.rule, norm_type="weight_norm")
        self.deq = torchdeq.get_deq(f_solver=solver, b_solver=solver, f_max_iter=STEPS, ift=ift)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of ``images`` ``[B, 1, H, W]``."""
        from torchdeq.norm import reset_norm

        if self.norm:
            reset_norm(self.rule)
        u = self.encoder(images).relu()
        # The part of the convolution that reads u is the same in every step.
        kx, kz = (
            k.contiguous(memory_format=torch.channels_last)
            for k in self.rule.weight.split(24, dim=1)
        )
        drive = F.conv2d(u, kx, self.rule.bias, padding=1)

        def step(z: Tensor) -> Tensor:
            update = torch.tanh(F.conv2d(z, kz, padding=1) + drive)
            return update if self.direct else z + update

        states, _ = self.deq(step, torch.randn_like(drive))
        return self.readout(states[-1].mean((2, 3)))

    @torch.no_grad()
    def as_graph_model(self) -> PixelGraphClassifier:
        """The same parameters in a :class:`PixelGraphClassifier` that solves every image."""
        model = PixelGraphClassifier(
            update="direct" if self.direct else "residual",
            standardize=False,
            transform={"living_threshold": None},
            deq={"tol": 1e-3, "max_steps": 300, "start": "normal", "on_failure": "ignore"},
        ).eval()
        encoder, rule = (
            conv.weight.permute(2, 3, 1, 0).flatten(0, 1) for conv in (self.encoder, self.rule)
        )
        model.encoder.weight.copy_(encoder)
        model.encoder.bias.copy_(self.encoder.bias)
        cell = model.dynamics.cell
        cell.weight_x.copy_(rule[:, :24])
        cell.weight_z.copy_(rule[:, 24:])
        cell.bias.copy_(self.rule.bias)
        linear = [part for part in model.readout.modules() if isinstance(part, nn.Linear)]
        for ours, theirs in zip(linear, (self.readout[0], self.readout[2]), strict=True):
            ours.load_state_dict(theirs.state_dict())
        return model


def images_of(graphs: PixelGraphs, index: Tensor) -> Tensor:
    """Grey levels in [0, 1], ``[B, 1, H, W]`` in ``channels_last``."""
    images = graphs.images[index].float() / 255
    return images.contiguous(memory_format=torch.channels_last)


def train(net: EssayNet, graphs: PixelGraphs, epochs: int, seed: int, kept: Path) -> list[float]:
    """The mean loss of every epoch; the training ends with the first loss that is not finite."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.005, momentum=0.9)
    losses: list[float] = []
    if kept.exists():
        saved = torch.load(kept, weights_only=True)
        net.load_state_dict(saved["net"])
        optimizer.load_state_dict(saved["optimizer"])
        losses = saved["losses"]
    for epoch in range(len(losses), epochs):
        torch.manual_seed(1000 * seed + epoch)
        total, began = 0.0, time.process_time()
        batches = torch.randperm(len(graphs)).split(64)
        for done, index in enumerate(batches):
            loss = F.cross_entropy(net(images_of(graphs, index)), graphs.labels[index])
            if not loss.isfinite():
                print(f"{kept.stem}, epoch {epoch}: loss {loss.item()} in batch {done}", flush=True)
                return [*losses, loss.item()]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        losses.append(total / len(batches))
        seconds = time.process_time() - began
        print(f"{kept.stem}, epoch {epoch}: loss {losses[-1]:.4f}, {seconds:.0f} s", flush=True)
        state = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses}
        content = io.BytesIO()
        torch.save(state, content)
        write_atomically(kept, content.getvalue())
    return losses


def measure(net: EssayNet, graphs: PixelGraphs, seed: int, limit: int) -> dict[str, float]:
    """Accuracy, stopped as in training and, of the first ``limit`` images, at true convergence."""
    torch.manual_seed(seed)
    net.eval()
    right = 0
    with torch.no_grad():
        for index in torch.arange(len(graphs)).split(250):
            right += int((net(images_of(graphs, index)).argmax(1) == graphs.labels[index]).sum())
    solved = evaluate(
        net.as_graph_model(), graphs, index=torch.arange(len(graphs))[:limit], title="solved"
    )
    return {
        "stopped": right / len(graphs),
        "solved": float((solved.prediction == solved.label).double().mean()),
        "converged": float(solved.converged.double().mean()),
    }


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-root")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--solve", type=int, default=2000, help="test images to solve at the end")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="runs/essay_recipe")
    parser.add_argument("--smoke", action="store_true", help="two epochs of 8 x 8 digits")
    args = parser.parse_args()
    if args.smoke:
        args.epochs, args.out = 2, tempfile.mkdtemp(prefix="essay_recipe_")
        args.variants = ["as-written", "direct-plain"]
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore", module="torchdeq")
    name = "digits" if args.smoke else "mnist"
    sets = [PixelGraphs(args.data_root, name, part, ImageToGraph()) for part in (True, False)]
    rows: dict[str, Any] = {}
    for variant in args.variants:
        torch.manual_seed(args.seed)
        net = EssayNet(**VARIANTS[variant])
        losses = train(net, sets[0], args.epochs, args.seed, out / f"{variant}.pt")
        row: dict[str, Any] = {"losses": losses}
        if torch.tensor(losses).isfinite().all():
            row |= measure(net, sets[1], args.seed, args.solve)
        rows[variant] = row
        print(variant, row, flush=True)
        write_json(out / f"{variant}.json", row)
    write_json(out / "results.json", rows)


if __name__ == "__main__":
    main()
