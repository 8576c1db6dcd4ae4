"""Strips, animations and files of trajectories."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from surfaces import pixels, square
from torch_geometric.data import Data

from gncadeq.viz import (
    StateColors,
    load_trajectory,
    render_file,
    render_frames,
    render_gif,
    render_strip,
    render_surface,
    save_trajectory,
)
from gncadeq.viz.colors import color_table


def test_frames_share_one_scale_and_one_camera():
    data = square()
    trajectory = torch.stack([torch.zeros(4), torch.ones(4), torch.full((4,), 2.0)])
    frames = render_frames(data, trajectory, size=20)
    colors = [tuple(pixels(f)[10, 10]) for f in frames]
    table = (color_table("viridis")[[0, 128, 255]] * 255).round().int().tolist()
    assert [list(c) for c in colors] == table
    with pytest.raises(ValueError, match=r"\[T, num_nodes, channels\]"):
        render_frames(data, torch.zeros(4))


def test_state_colours_draw_many_channels():
    z = torch.randn(4, 24)
    picture = render_surface(square(), z, StateColors(z), size=30)
    assert len(np.unique(pixels(picture).reshape(-1, 3), axis=0)) > 100


def test_scalar_gets_a_colour_bar_and_colours_do_not():
    scalar = render_surface(square(), torch.rand(4), size=120)
    assert scalar.height == 120
    assert scalar.width > 140
    assert render_surface(square(), torch.rand(4), size=120, legend=False).size == (120, 120)
    assert render_surface(square(), torch.rand(4, 3), size=120).size == (120, 120)


def test_faces_have_one_colour_each_where_values_are_theirs():
    color = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    mesh = square()
    assert mesh.face.size(1) == 2
    picture = pixels(render_surface(mesh, color, size=60, of_faces=True, supersample=1))
    flat = {tuple(c) for c in picture.reshape(-1, 3).tolist()}
    assert len(flat) == 3  # red, blue and the background: nothing in between
    with pytest.raises(ValueError, match="values of 2 faces"):
        render_surface(mesh, torch.rand(4, 3), size=60, of_faces=True)
    with pytest.raises(ValueError, match="a mesh with faces"):
        render_surface(Data(pos=mesh.pos), color, of_faces=True)


def test_strip_keeps_its_frames_and_makes_room_for_captions():
    frames = [Image.new("RGB", (40, 30), c) for c in ("red", "green", "blue")]
    strip = render_strip(frames, ["a", "b", "c"], columns=2)
    assert strip.width == 84
    above = (strip.height - 64) // 2  # the caption of a row
    assert above > 8
    assert strip.getpixel((60, above + 15)) == (0, 128, 0)
    assert strip.getpixel((42, 15)) == (255, 255, 255)  # corners differ: white between them
    dark = [Image.new("RGB", (40, 30), "navy")] * 2
    assert render_strip(dark, ["a", "b"]).getpixel((1, 1)) == (0, 0, 128)
    with pytest.raises(ValueError, match="a caption for each of 3 pictures"):
        render_strip(frames, ["a"])
    with pytest.raises(ValueError, match="pictures of one size"):
        render_strip([frames[0], Image.new("RGB", (9, 9))])


def test_gif_plays_all_frames(tmp_path):
    color = torch.rand(6, 4, 3)
    path = render_gif(tmp_path / "a.gif", render_frames(square(), color, size=40), ms=50)
    with Image.open(path) as gif:
        assert gif.n_frames == 6
        assert gif.info["loop"] == 0
        durations = []
        for t in range(6):
            gif.seek(t)
            durations.append(gif.info["duration"])
            shown = np.asarray(gif.convert("RGB")).astype(int)[18:22, 18:22].mean((0, 1))
            meant = pixels(render_surface(square(), color[t], size=40))[18:22, 18:22].mean((0, 1))
            assert np.abs(shown - meant).max() < 25  # 256 colours for all frames
    assert durations == [50] * 5 + [1000]
    assert os.listdir(tmp_path) == ["a.gif"]
    with pytest.raises(ValueError, match="Expected frames"):
        render_gif(tmp_path / "b.gif", [])


def test_trajectory_comes_back_from_its_file(tmp_path):
    data, z = square(), torch.rand(3, 4, 5)
    path = save_trajectory(tmp_path / "t.safetensors", data, z, {"residual": z[..., 0]})
    graph, again, fields, steps = load_trajectory(path)
    assert steps is None
    assert torch.equal(again, z)
    assert torch.equal(graph.face, data.face)
    assert torch.equal(fields["residual"], z[..., 0])
    path.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="Expected a trajectory file"):
        load_trajectory(path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_trajectory(tmp_path / "absent.safetensors")


def test_captions_are_the_steps_of_the_frames(tmp_path, monkeypatch):
    from gncadeq.viz import rendering

    said = []
    strip = rendering.render_strip
    monkeypatch.setattr(
        rendering, "render_strip", lambda *a, **k: said.append(a[1]) or strip(*a, **k)
    )
    data, z = square(), torch.rand(5, 4, 3)
    known = save_trajectory(tmp_path / "a.safetensors", data, z, steps=[0, 5, 10, 10, 12])
    unknown = save_trajectory(tmp_path / "b.safetensors", data, z)
    assert load_trajectory(known).steps == [0, 5, 10, 10, 12]
    render_file(known, tmp_path / "a.png", size=20)
    render_file(known, tmp_path / "a.png", size=20, frames=[1, -1])
    render_file(unknown, tmp_path / "a.png", size=20, frames=[1, -1])
    render_file((data, z), tmp_path / "a.png", size=20, frames=[0, 4], steps=range(0, 50, 10))
    assert said == [
        ["step 0", "step 5", "step 10", "step 10", "step 12"], ["step 5", "step 12"],
        ["frame 1", "frame 4"], ["step 0", "step 40"],
    ]  # fmt: skip
    page = render_file(known, tmp_path / "a.html", frames=[1, -1]).read_text()
    assert '"steps": [5, 12]' in page
    for write in (
        lambda: save_trajectory(tmp_path / "c.safetensors", data, z, steps=[1]),
        lambda: render_file((data, z), tmp_path / "c.png", steps=[1]),
        lambda: render_file((data, z), tmp_path / "c.html", steps=[1]),
    ):
        with pytest.raises(ValueError, match=r"a step for each of 5 frames \(got 1\)"):
            write()


def test_weights_are_no_trajectory():
    import gncadeq

    weights = Path(gncadeq.__file__).parent / "pretrained" / "digits.safetensors"
    with pytest.raises(ValueError, match="written by save_trajectory"):
        load_trajectory(weights)


def test_suffix_decides_what_is_written(tmp_path):
    data, z = square(), torch.rand(9, 4, 3)
    source = save_trajectory(tmp_path / "t.safetensors", data, z)
    with Image.open(render_file((data, z[0]), tmp_path / "one.png", size=50)) as one:
        assert one.size == (50, 50)
    with Image.open(render_file(source, tmp_path / "strip.png", size=50)) as strip:
        assert strip.width == 6 * 54 - 4
    gif = render_file(source, tmp_path / "a.gif", channel=1, frames=[0, 4, -1], size=30)
    with Image.open(gif) as animation:
        assert animation.n_frames == 3
    assert "<canvas" in render_file(source, tmp_path / "a.html", frames=[0, -1]).read_text()
    with pytest.raises(ValueError, match=r"ending in .png, .*, .obj \(got 'a.svg'\)"):
        render_file(source, tmp_path / "a.svg")
    with pytest.raises(ValueError, match=r"'channel' to be .* of at most 2 \(got 3\)"):
        render_file(source, tmp_path / "b.png", channel=3)
    with pytest.raises(ValueError, match=r"'frames' to be .* of at most 8 \(got 9\)"):
        render_file(source, tmp_path / "b.png", frames=[9])
    assert not (tmp_path / "b.png").exists()


def test_graph_without_values_is_drawn_grey(tmp_path):
    with Image.open(render_file(square(), tmp_path / "grey.png", size=40)) as picture:
        assert picture.getpixel((20, 20)) == (184, 184, 184)
