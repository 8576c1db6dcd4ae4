"""The essay's claims, measured: truncated images, any size, local decoding of panoramas.

    python examples/essay_claims.py --data-root DATA
    python examples/essay_claims.py --smoke          # seconds, on scikit-learn's digits

Writes ``runs/essay_claims/claims.json`` and ``panoramas.png``.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from gncadeq.datasets import PixelGraphs
from gncadeq.files.json_files import write_json
from gncadeq.models import ImageClassifier
from gncadeq.viz import figures as draw

RADII = (0, 6, 10, 14)


@torch.no_grad()
def accuracy(model: ImageClassifier, images: Tensor, labels: Tensor, title: str) -> float:
    """Accuracy on equally large images; one without a living pixel counts as wrong."""
    threshold = model.to_graph.living_threshold or -1.0
    living = (images > threshold).flatten(1).any(1)
    right = 0
    for index in tqdm(living.nonzero().flatten().split(250), desc=title, leave=False):
        data = model.to_graph.batch(images[index])
        logits = model(
            data.x, data.edge_index, data.edge_attr, data.batch, batch_size=data.num_graphs
        )
        right += int((logits.argmax(1) == labels[index]).sum())
    return right / len(images)


def paste(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Put every image somewhere on a black canvas."""
    n, c, h, w = images.shape
    canvas = torch.zeros(n, c, size, size)
    top = torch.randint(size - h + 1, (n,), generator=generator)
    left = torch.randint(size - w + 1, (n,), generator=generator)
    for i in range(n):
        canvas[i, :, top[i] : top[i] + h, left[i] : left[i] + w] = images[i]
    return canvas


def panorama(images: Tensor, labels: Tensor, pick: Tensor) -> tuple[Tensor, Tensor]:
    """Images side by side, and the right label of every pixel."""
    picture = torch.cat(list(images[pick]), dim=2)
    h, w = images.shape[2:]
    label = labels[pick].repeat_interleave(w).expand(h, -1)
    return picture, label


@torch.no_grad()
def panoramas(
    model: ImageClassifier, images: Tensor, labels: Tensor, count: int, seed: int
) -> tuple[dict[str, float], list[Tensor]]:
    """How many of the digits' pixels decode to their own digit.

    By each node's own state, by the mean state of windows around it, and by the vote of a digit's
    pixels.
    """
    generator = torch.Generator().manual_seed(seed)
    result: dict[str, float] = {}
    shown = []
    for digits in range(2, 7):
        right = dict.fromkeys(RADII, 0)
        total = votes = 0
        for _ in tqdm(range(count), desc=f"panoramas of {digits}", leave=False):
            pick = torch.randint(len(images), (digits,), generator=generator)
            picture, truth = panorama(images, labels, pick)
            data = model.to_graph(picture)
            z, _, _ = model.settle(data.x, data.edge_index, data.edge_attr)
            found = {radius: model.local_labels(z, data, radius) for radius in RADII}
            label = found[RADII[-1]]
            col, row = data.pos[: len(label)].long().unbind(1)  # of a pyramid the pixels
            total += len(label)
            for radius, decoded in found.items():
                right[radius] += int((decoded == truth[row, col]).sum())
            for d in range(digits):
                mine = col // images.size(3) == d
                vote = torch.bincount(label[mine], minlength=10).argmax() if mine.any() else -1
                votes += int(vote == labels[pick[d]])
        for radius in RADII:
            window = f"window {2 * radius + 1}" if radius else "own state"
            result[f"{digits} digits, {window}"] = right[radius] / total
        result[f"{digits} digits, vote of the last"] = votes / (count * digits)
        shown.append(picture)
    return result, shown


def main() -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root")
    parser.add_argument("--weights", help="shipped name, file or run; by default 'mnist'")
    parser.add_argument("--out", default="runs/essay_claims")
    parser.add_argument("--count", type=int, default=500, help="panoramas of each length")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    if args.smoke and args.out == parser.get_default("out"):
        args.out = tempfile.mkdtemp(
            prefix="essay_claims_"
        )  # a rehearsal leaves the real place free
    out = Path(args.out)
    dataset = PixelGraphs(args.data_root, "digits" if args.smoke else "mnist", False)
    weights = args.weights or ("digits" if args.smoke else "mnist")
    if Path(weights).is_dir():
        weights = str(Path(weights) / "model.safetensors")
    model = ImageClassifier.from_pretrained(weights)
    images, labels = dataset.images.float() / 255, dataset.labels
    if args.smoke:
        images, labels, args.count = images[:100], labels[:100], 5
    generator = torch.Generator().manual_seed(0)

    claims: dict[str, dict[str, float]] = {"truncated": {}, "pasted on a black canvas": {}}
    h, w = images.shape[2:]
    for name, window in draw.CROPS.items():
        height, width = window(h, w)
        crop = images[:, :, height, width].contiguous()
        claims["truncated"][name] = accuracy(model, crop, labels, name)
    for size in (2 * h, 4 * h):
        pasted = paste(images, size, generator)
        claims["pasted on a black canvas"][f"{size} x {size}"] = accuracy(
            model, pasted, labels, f"canvas {size}"
        )
    local, shown = panoramas(model, images, labels, args.count, seed=0)
    claims["local decoding of panoramas"] = local

    for i, picture in enumerate(shown):
        data = model.to_graph(picture)
        z, _, _ = model.settle(data.x, data.edge_index, data.edge_attr)
        figure, _ = draw.label_map_figure(model, data, z)
        draw.save_figure(figure, out / f"panorama_{i + 2}.png")
    write_json(out / "claims.json", claims)
    for title, rows in claims.items():
        print(title)
        for name, value in rows.items():
            print(f"  {name:28s} {100 * value:6.2f} %")
    print(f"pictures in {out}")


if __name__ == "__main__":
    main()
