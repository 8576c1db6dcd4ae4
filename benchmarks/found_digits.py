"""Digits as people have them: fonts, photographs, scikit-learn's digits, MNIST on paper; letters.

Every picture is rendered here, from fonts, images and seeds that nothing was chosen with: the
transform was developed on other fonts, other seeds, and MNIST's training images.
"""

from __future__ import annotations

import argparse
import string
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from benchmarks._measure import save, show
from gncadeq.datasets import PixelGraphs
from gncadeq.models import ImageClassifier
from gncadeq.models.inputs import doubts
from gncadeq.transforms import FindDigits, FoundDigit

_FAMILIES = ("DejaVu", "STIXGeneral", "cmr", "cmb", "cmss", "cmtt", "cmti")
Pictures = Iterator[tuple[np.ndarray, int]]


def fonts() -> list[Path]:
    """The text fonts that matplotlib brings, and DejaVu's further ones of the machine."""
    folders = [Path(matplotlib.get_data_path()) / "fonts/ttf", Path("/usr/share/fonts")]
    found = {
        path.name: path
        for folder in reversed(folders)
        for path in sorted(folder.rglob("*.ttf"))
        if path.name.startswith(_FAMILIES) and "Display" not in path.name
    }
    return [found[name] for name in sorted(found)]


def drawn(
    font: Path, digit: int | str, height: float, side: int, place: tuple[float, float]
) -> Any:
    """A digit or letter in black on a white square, ``height`` pixels high."""
    large = ImageFont.truetype(str(font), 200).getbbox(str(digit))
    type_ = ImageFont.truetype(str(font), max(6, round(200 * height / (large[3] - large[1]))))
    left, top, right, bottom = type_.getbbox(str(digit))
    x, y = place[0] * (side - right + left), place[1] * (side - bottom + top)
    image = Image.new("L", (side, side), 255)
    ImageDraw.Draw(image).text((x - left, y - top), str(digit), font=type_, fill=0)
    return image


def rendered(share: float, seed: int) -> Pictures:
    """Every font and digit, ``share`` of the picture high, anywhere, dark or bright."""
    rng = np.random.default_rng(seed)
    for font in fonts():
        for digit in range(10):
            side = int(rng.choice([96, 280, 640]))
            image = drawn(font, digit, share * side, side, tuple(rng.random(2)))
            ink = 1 - np.asarray(image, np.float32)[None] / 255
            low, high = rng.uniform(0, 0.3), rng.uniform(0.7, 1)
            paper, pen = (high, low) if rng.random() < 0.7 else (low, high)
            yield paper + (pen - paper) * ink, digit


def letters() -> Pictures:
    """Every font's letters, without those that look like digits: there is no right answer."""
    for font in fonts():
        for letter in string.ascii_letters:
            if letter not in "OoIlSsZzBb":
                image = drawn(font, letter, 140, 280, (0.5, 0.5))
                yield np.asarray(image, np.float32)[None] / 255, -1


def photographs(count: int, seed: int) -> Pictures:
    """Fonts turned a little, under light that falls off, blurred, with noise."""
    rng = np.random.default_rng(seed)
    known = fonts()
    for k in range(count):
        digit, side = k % 10, int(rng.choice([200, 320, 480]))
        place = tuple(rng.uniform(0.1, 0.9, 2))
        image = drawn(
            known[rng.integers(len(known))], digit, side * rng.uniform(0.3, 0.8), side, place
        )
        image = image.rotate(rng.uniform(-8, 8), fillcolor=255, resample=Image.Resampling.BICUBIC)
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, side / 100)))
        ink = 1 - np.asarray(image, np.float32) / 255
        v, u = np.mgrid[0:side, 0:side] / side - 0.5
        angle = rng.uniform(0, 2 * np.pi)
        light = rng.uniform(0.55, 0.85) + rng.uniform(0.1, 0.4) * (
            u * np.cos(angle) + v * np.sin(angle)
        )
        light -= rng.uniform(0, 0.4) * (u**2 + v**2)
        picture = light * (1 - (1 - rng.uniform(0.1, 0.45)) * ink)
        picture += rng.normal(0, rng.uniform(0.02, 0.08), picture.shape)
        yield np.clip(picture, 0, 1).astype(np.float32)[None], digit


def scikit_learn(count: int) -> Pictures:
    """The last of scikit-learn's digits, enlarged by two filters and by repeating pixels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    ways = (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Resampling.NEAREST)
    for k in range(-count, 0):
        side = (64, 128, 256)[k % 9 // 3]
        image = Image.fromarray((digits.images[k] / 16 * 255).astype(np.uint8))
        image = image.resize((side, side), ways[k % 3])
        yield np.asarray(image, np.float32)[None] / 255, int(digits.target[k])


def on_paper(root: str | None, count: int, seed: int) -> Pictures:
    """MNIST's test digits at half to four times their size, on paper of another grey or colour."""
    rng = np.random.default_rng(seed)
    test = PixelGraphs(root, "mnist", False)
    for k in rng.permutation(len(test.images))[:count]:
        side = round(28 * 2 ** rng.uniform(-1, 2))
        image = Image.fromarray(test.images[k, 0].numpy()).resize(
            (side, side), Image.Resampling.BICUBIC
        )
        whole = round(side * rng.uniform(1.1, 3))
        ink = np.zeros((whole, whole), np.float32)
        top, left = rng.integers(0, whole - side + 1, 2)
        ink[top : top + side, left : left + side] = np.asarray(image, np.float32) / 255
        channels = int(rng.choice([1, 3]))
        paper, pen = rng.random((2, channels))
        while np.linalg.norm(np.broadcast_to(paper - pen, 3)) < 0.5:
            paper, pen = rng.random((2, channels))
        yield (
            (paper[:, None, None] + (pen - paper)[:, None, None] * ink).astype(np.float32),
            int(test.labels[k]),
        )


def unseen(root: str | None) -> Pictures:
    """The second half of MNIST's test digits: the limits of a card come from the first half."""
    test = PixelGraphs(root, "mnist", False)
    for image, label in zip(test.images[5000:], test.labels[5000:].tolist(), strict=True):
        yield image.numpy().astype(np.float32) / 255, label


@torch.no_grad()
def measure(
    model: ImageClassifier, name: str, pictures: Pictures, as_is: bool = False
) -> dict[str, Any]:
    """How many pictures are read right: the largest digit found, or none, or the whole as it is."""
    find, inputs = FindDigits.from_card(model.card), model.card["inputs"]
    one = total = 0
    images, digits = [], []
    for picture, digit in pictures:
        total += 1
        try:
            found = [torch.from_numpy(picture)] if as_is else _largest_first(find(picture))
        except ValueError:
            continue
        one += len(found) == 1
        images.append(found[0])
        digits.append(digit)
    right = warned = warned_wrong = 0
    for k in range(0, len(images), 250):
        part = images[k : k + 250]
        data = model.to_graph.prepared(torch.stack(part))
        z, partition, _ = model.settle(
            data.x, data.edge_index, data.edge_attr, data.batch, batch_size=len(part)
        )
        pooled = model.pool(z, partition, data.edge_index, data.edge_attr)
        logits = model.readout.decode(pooled)
        correct = logits.argmax(1) == torch.tensor(digits[k : k + 250])
        doubt = torch.tensor(
            [
                bool(doubts(inputs, model.to_graph, *row))
                for row in zip(part, pooled, logits, strict=True)
            ]
        )
        right, warned = right + int(correct.sum()), warned + int(doubt.sum())
        warned_wrong += int((doubt & ~correct).sum())
    return {
        "pictures": name, "number": total, "right %": 100 * right / total,
        "one digit found %": 100 * one / total, "warned %": 100 * warned / total,
        "wrong": total - right, "of these warned": warned_wrong,
    }  # fmt: skip


def _largest_first(found: list[FoundDigit]) -> list[torch.Tensor]:
    """The images of digits, from the largest box on."""

    def area(digit: FoundDigit) -> int:
        left, top, right, bottom = digit.box
        return (right - left) * (bottom - top)

    return [digit.image for digit in sorted(found, key=area, reverse=True)]


def main() -> None:
    """Read every set, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--weights", default="mnist")
    parser.add_argument(
        "--count", type=int, default=500, help="photographs, and digits of each set"
    )
    parser.add_argument("--every", type=int, default=1, help="one in so many of the fonts")
    parser.add_argument("--seed", type=int, default=20_000)
    args = parser.parse_args()
    model = ImageClassifier.from_pretrained(args.weights)
    sets = {f"fonts, {share:.0%} of the height": rendered(share, args.seed + k)
            for k, share in enumerate((0.2, 0.35, 0.5, 0.75, 0.9))}  # fmt: skip
    sets |= {
        "synthetic photographs": photographs(args.count, args.seed + 10),
        "scikit-learn's digits": scikit_learn(args.count),
        "MNIST on paper": on_paper(args.data_root, args.count, args.seed + 20),
        "letters of the fonts": letters(),
        "MNIST's test digits as they are": unseen(args.data_root),
    }
    rows = []
    for name, pictures in sets.items():
        step = args.every if "fonts" in name else 1
        rows.append(measure(model, name, islice(pictures, 0, None, step), "as they are" in name))
        print(rows[-1], flush=True)
    show(
        f"{args.weights}, {len(fonts())} fonts",
        rows,
        {"right %": ".1f", "one digit found %": ".1f", "warned %": ".1f"},
    )
    save("found_digits", rows, weights=args.weights, fonts=[path.name for path in fonts()])


if __name__ == "__main__":
    main()
