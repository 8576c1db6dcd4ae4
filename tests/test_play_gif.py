"""GIFs of the page hold the frames that were put in, as Pillow reads them."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from page import run_node
from PIL import Image, ImageSequence

from gncadeq.export.description import packed

DRIVER = """
const [count, height, width] = task.frames.shape, all = unpack(task.frames);
const size = 4 * height * width;
const frames = Array.from({ length: count }, (_, k) => all.subarray(k * size, k * size + size));
encodeGif(frames, width, height, 7).arrayBuffer()
  .then(buffer => out({ gif: encode(new Uint8Array(buffer)) }));
"""


def gif_of(frames: np.ndarray) -> Image.Image:
    rgba = np.concatenate([frames, np.full_like(frames[..., :1], 255)], -1)
    found = run_node(DRIVER, {"frames": packed(torch.from_numpy(rgba))})
    return Image.open(io.BytesIO(base64.b64decode(found["gif"])))


def decoded(gif: Image.Image) -> np.ndarray:
    return np.stack([np.array(f.convert("RGB")) for f in ImageSequence.Iterator(gif)])


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 2), (47, 61), (150, 200)])
def test_frames_of_few_colours_are_exact(height: int, width: int) -> None:
    rng = np.random.default_rng(0)
    colors = (np.argwhere(np.ones((6, 6, 7))) * [51, 51, 42]).astype(np.uint8)  # 252 of them
    frames = colors[rng.integers(len(colors), size=(3, height, width))]
    gif = gif_of(frames)
    assert gif.n_frames == 3
    assert (gif.info["duration"], gif.info["loop"]) == (70, 0)
    assert np.array_equal(decoded(gif), frames)


def test_plain_frames_are_small() -> None:
    frames = np.zeros((4, 120, 160, 3), np.uint8)
    frames[:, 20:60, 30:90] = [200, 30, 40]
    gif = gif_of(frames)
    assert np.array_equal(decoded(gif), frames)
    assert len(gif.fp.getvalue()) < 6000


def test_many_colours_become_near_ones() -> None:
    row = np.linspace(0, 255, 96)
    frame = np.stack(np.broadcast_arrays(row[:, None], row[None], 128.0 + 0 * row[None]), -1)
    frames = np.stack([frame, frame[::-1]]).round().astype(np.uint8)
    error = np.abs(decoded(gif_of(frames)).astype(int) - frames)
    assert error.mean() < 4
    assert error.max() < 24
