"""How few parameters of the essay's cell reach 98 % of MNIST at true equilibrium?

    python examples/smallest.py --data-root DATA
    python examples/smallest.py --smoke              # seconds, on scikit-learn's digits

Trains small models, additive and superposed, and prints parameters and test accuracy at a
relative residual of 1e-3. Writes ``runs/smallest/table.json``. Pyramids need far fewer: ``gncadeq
train mnist --levels 4,8,12 --separable`` (``docs/mnist.md``).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from gncadeq.files.json_files import write_json
from gncadeq.training import TrainConfig
from gncadeq.training.run import train

SIZES = ("superposed:16:48", "additive:10:12")


def main() -> None:
    """Train every size and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", default="runs/smallest")
    parser.add_argument(
        "--sizes", nargs="+", default=list(SIZES), help="injection:channels:hidden, by default "
        + " ".join(SIZES),
    )  # fmt: skip
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    if args.smoke and args.out == parser.get_default("out"):
        args.out = tempfile.mkdtemp(prefix="smallest_")  # a rehearsal leaves the real place free
    rows = {}
    for size in args.sizes[: 1 if args.smoke else None]:
        injection, channels, hidden = size.split(":")
        config = TrainConfig(
            dataset="digits" if args.smoke else "mnist", data_root=args.data_root,
            out=f"{args.out}/{size.replace(':', '_')}", epochs=2 if args.smoke else args.epochs,
            injection=injection, channels=int(channels), hidden_channels=int(hidden),
        )  # fmt: skip
        model, result = train(config)
        parameters = sum(p.numel() for p in model.parameters())
        rows[size] = {"parameters": parameters, **result.summary()}
        print(
            f"{size:18s} {parameters:6,} parameters {100 * result.accuracy:6.2f} %  "
            f"{100 * float(result.converged.double().mean()):.0f} % converged", flush=True,
        )  # fmt: skip
        write_json(Path(args.out) / "table.json", rows)


if __name__ == "__main__":
    main()
