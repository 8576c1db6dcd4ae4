"""The page: what is in the file, and what a browser makes of it."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import re
import time

import numpy as np
import pytest
import torch
from page import Pages
from PIL import Image
from surfaces import sphere
from torch_geometric.data import Data

from gncadeq.viz import ColorScale, life_scene, recording_scene, write_play, write_viewer


def scene(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="scene">(.*?)</script>', page, re.S)
    (recording,) = json.loads(found[1])["scenes"]
    return recording


def array(zipped: dict) -> np.ndarray:
    return np.frombuffer(gzip.decompress(base64.b64decode(zipped["gzip"])), zipped["type"].lower())


def test_values_come_back_from_the_file_to_half_a_level(tmp_path):
    data, z = sphere(1), torch.randn(7, 42, 4)
    z[2, 5, 1], z[3, 6, 1] = float("nan"), float("-inf")
    page = write_viewer(tmp_path / "a.html", data, z).read_text()
    info = scene(page)
    assert (info["nodes"], info["frames"]) == (42, 7)
    for c in range(4):
        plane = info["planes"][c]
        codes = np.cumsum(array(plane["zip"]).reshape(7, 42), 0, dtype=np.uint8)
        value = plane["low"] + codes / 254 * (plane["high"] - plane["low"])
        finite = z[..., c].isfinite().numpy()
        half = (plane["high"] - plane["low"]) / 254 / 2
        assert np.abs(value - z[..., c].numpy())[finite].max() <= half * 1.001
        assert np.array_equal(codes == 255, ~finite)
        assert plane["missing"] == (c == 1)
    pos = array(info["mesh"]["position"]).reshape(42, 3) / 65535 * 2 - 1
    unit = data.pos - (data.pos.max(0).values + data.pos.min(0).values) / 2
    assert np.abs(pos - (unit / unit.norm(dim=1).max()).numpy()).max() < 2e-5
    assert np.array_equal(array(info["mesh"]["face"]).reshape(80, 3), data.face.T.numpy())


def test_fields_are_offered_by_name_and_share_their_data(tmp_path):
    data, z = sphere(1), torch.rand(5, 42, 3)
    label = torch.randint(-3, 9, (42,))
    fields = {"residual": torch.rand(5, 42), "labels": label, "target": torch.rand(5, 42, 3)}
    page = write_viewer(
        tmp_path / "a.html", data, z, names=["red", "green", "blue"], fields=fields
    ).read_text()
    info = scene(page)
    assert [f["name"] for f in info["fields"]] == [
        "channels 0, 1, 2 as colours", "residual", "labels", "target", "red", "green", "blue",
    ]  # fmt: skip
    assert info["fields"][0]["planes"] == [0, 1, 2]
    assert [f["planes"] for f in info["fields"][-3:]] == [[0], [1], [2]]
    labels = info["fields"][2]
    codes = array(info["planes"][labels["planes"][0]]["zip"])
    assert [labels["labels"][c] for c in codes] == label.tolist()
    assert len(info["planes"]) == 3 + 1 + 1 + 3


def test_nothing_in_a_text_can_run_or_load(tmp_path):
    bad = "</script><script>alert(1)</script> {{data}} <img src=x onerror=alert(2)>"
    page = write_viewer(
        tmp_path / "a.html", sphere(0), torch.rand(2, 12, 1), title=bad, names=[bad],
        fields={bad + "2": torch.rand(12)},
    ).read_text()  # fmt: skip
    assert "<script>alert" not in page
    assert "<img" not in page
    assert page.count("<script") == page.count("</script>") == 2
    assert scene(page)["fields"][1]["name"] == bad
    assert not re.search(r"https?:|src=\"|import\(|@import|url\(", page.replace("src=x", ""))
    assert "default-src 'none'" in page


def test_slow_changes_make_small_files(tmp_path):
    data = sphere(3)
    smooth = torch.sin(3 * data.pos + torch.linspace(0, 1, 100)[:, None, None])
    sizes = [write_viewer(tmp_path / "a.html", data, z).stat().st_size
             for z in (smooth, torch.rand_like(smooth))]  # fmt: skip
    assert sizes[0] < 0.4 * sizes[1]
    assert os.listdir(tmp_path) == ["a.html"]


@pytest.mark.parametrize(
    ("trajectory", "options", "message"),
    [
        (torch.rand(3, 11, 3), {}, r"shape \[T, 12, channels\] or \[12, channels\] \(got \[3, 11"),
        (torch.rand(3, 12, 3), {"names": ["a"]}, r"names of 3 channels \(got 1\)"),
        (torch.rand(3, 12, 3), {"fields": {"r": torch.rand(4, 12)}}, r"field 'r' of shape"),
        (torch.rand(3, 12, 3), {"up": "w"}, r"'up' to be"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, trajectory, options, message):
    with pytest.raises(ValueError, match=message):
        write_viewer(tmp_path / "a.html", sphere(0), trajectory, **options)
    assert not os.listdir(tmp_path)


def test_too_many_labels_are_refused(tmp_path):
    fields = {"number": torch.arange(642)}
    with pytest.raises(ValueError, match=r"at most 255 labels in field 'number' \(got 642\)"):
        write_viewer(tmp_path / "a.html", sphere(3), torch.rand(642, 3), fields=fields)


@pytest.fixture
def show(browser, tmp_path):
    """Opens a page, and afterwards sees to it that nothing went wrong and nothing was loaded."""
    pages = Pages(browser)

    def open_page(*args, width=860, height=300, setup=None, expect_errors=False, **options):
        path = write_viewer(tmp_path / f"{len(pages.opened)}.html", *args, **options)
        return pages.open(path, "", (width, height), setup, may_fail=expect_errors)

    yield open_page
    pages.close()


def picture(page) -> np.ndarray:
    """What the canvas shows, two drawn frames later."""
    page.evaluate("new Promise(f => requestAnimationFrame(() => requestAnimationFrame(f)))")
    shot = page.locator("#stage canvas").screenshot()
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)


def test_page_loads_draws_and_plays(show):
    data = sphere(2)
    z = torch.rand(12, 162, 3)
    page = show(data, z)
    first = picture(page)
    assert ((first != 255).any(-1)).mean() > 0.1
    assert page.evaluate("play.scene.frame") == 0
    assert page.locator("#frame-now").inner_text() == "0 / 11"
    page.evaluate("play.setSpeed(play.scene.speeds.indexOf(30))")
    page.locator("#play").click()
    page.wait_for_function("play.state.drawn > 2")
    assert page.evaluate("play.state.playing")
    page.locator("#play").click()
    assert not page.evaluate("play.state.playing")
    assert page.evaluate("play.state.drawn") > 2
    page.evaluate("play.scene.setFrame(7)")
    assert np.abs(picture(page) - first).mean() > 3
    assert page.locator("#frame-now").inner_text() == "7 / 11"


@pytest.mark.parametrize("kind", ["scalar", "rgb", "labels"])
def test_colours_are_those_of_the_pictures(show, kind):
    pos = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])
    data = Data(pos=pos, face=torch.tensor([[0, 2], [1, 1], [2, 3]]))
    value = {"scalar": torch.tensor([0.0, 0.3, 0.6, 1.0]), "labels": torch.tensor([0, 3, 7, 9]),
             "rgb": torch.rand(4, 3)}[kind]  # fmt: skip
    frames = torch.stack([value[i].expand_as(value) for i in (1, 2)])
    if kind == "scalar":
        page = show(data, frames[..., None])
    elif kind == "rgb":
        page = show(data, frames)
    else:
        page = show(data, torch.rand(2, 4, 1), fields={"labels": frames})
    scale = ColorScale.fit(frames, kind)
    for t in range(2):
        page.evaluate(f"play.scene.setFrame({t})")
        seen = picture(page)
        middle = seen[seen.shape[0] // 2, seen.shape[1] // 2]
        meant = scale(frames[t])[0] * 255
        assert np.abs(middle - meant.numpy()).max() <= 3


def test_range_colour_map_and_missing_values(show):
    pos = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])
    data = Data(pos=pos, face=torch.tensor([[0, 2], [1, 1], [2, 3]]))
    z = torch.tensor([0.0, 1.0, 0.5, float("nan")])[:, None, None].expand(4, 4, 1)
    page = show(data, z)
    center = (picture(page).shape[0] // 2, picture(page).shape[1] // 2)
    page.evaluate("document.getElementById('map').value = 'gray'")
    page.evaluate("document.getElementById('map').onchange({target: {value: 'gray'}})")
    page.evaluate("play.scene.setFrame(2)")
    assert np.abs(picture(page)[center] - 128).max() <= 2
    page.evaluate("play.scene.setRange(0.25, 0.5)")
    assert (picture(page)[center] == 255).all()
    page.evaluate("play.scene.setFrame(3)")
    assert picture(page)[center].tolist() == [255, 0, 255]
    assert page.locator("#gone").is_visible()
    page.locator("#auto").click()
    assert page.evaluate("[play.scene.low, play.scene.high]") == [0, 1]


def test_mouse_and_keys_do_what_the_page_says(show):
    page = show(sphere(1), torch.rand(5, 42, 3))
    start = page.evaluate("({ ...play.stage.camera })")
    page.mouse.move(200, 150)
    page.mouse.down()
    page.mouse.move(260, 180, steps=2)
    page.mouse.up()
    turned = page.evaluate("({ ...play.stage.camera })")
    assert turned["azimuth"] < start["azimuth"]
    assert turned["elevation"] > start["elevation"]
    assert turned["pan"] == [0, 0]
    page.keyboard.down("Shift")
    page.mouse.down()
    page.mouse.move(280, 160, steps=2)
    page.mouse.up()
    page.keyboard.up("Shift")
    moved = page.evaluate("({ ...play.stage.camera })")
    assert moved["azimuth"] == turned["azimuth"]
    assert moved["pan"][0] > 0
    assert moved["pan"][1] > 0
    page.mouse.wheel(0, -100)
    page.wait_for_function("d => play.stage.camera.distance < d", arg=start["distance"])
    assert page.evaluate("({ ...play.stage.camera })")["distance"] < start["distance"]
    page.keyboard.press("r")
    assert page.evaluate("({ ...play.stage.camera })") == start
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("play.scene.frame") == 1
    picture(page)
    assert page.locator("#frame-now").inner_text() == "1 / 4"
    page.keyboard.press("End")
    assert page.evaluate("play.scene.frame") == 4
    page.keyboard.press("Space")
    assert page.evaluate("play.state.playing")
    page.keyboard.press("Space")
    assert not page.evaluate("play.state.playing")


def test_the_page_counts_steps_where_it_knows_them(show):
    page = show(sphere(1), torch.rand(3, 42, 3), steps=[0, 40, 200])
    page.keyboard.press("ArrowRight")
    picture(page)
    assert page.locator("#frame-now").inner_text() == "step 40"


def test_fields_are_chosen_in_the_menu(show):
    z = torch.rand(3, 42, 3)
    fields = {"labels": torch.arange(42) % 4, "residual": torch.rand(3, 42)}
    page = show(sphere(1), z, fields=fields, height=400)
    assert page.evaluate("play.state.color") == "channels 0, 1, 2 as colours"
    assert not page.locator("#maps").is_visible()
    page.select_option("#color", label="labels")
    page.locator("#swatches span").first.wait_for()
    assert page.locator("#swatches").inner_text().split() == ["0", "1", "2", "3"]
    assert not page.locator("#range").is_visible()
    page.select_option("#color", label="residual")
    page.locator("#maps").wait_for()
    low, high = page.evaluate("[play.scene.low, play.scene.high]")
    assert (low, high) == pytest.approx((float(fields["residual"].min()),
                                         float(fields["residual"].max())))  # fmt: skip


def test_recordings_stand_beside_rules(browser, tmp_path):
    recording = recording_scene(sphere(1), torch.rand(4, 42, 3), name="Seen")
    alone = write_play(tmp_path / "a.html", [recording]).read_text()
    both = write_play(tmp_path / "b.html", [life_scene(side=8), recording])
    assert "RULES.cascade" in both.read_text()
    assert "RULES.cascade" not in alone
    page = browser.new_page()
    page.goto(both.as_uri())
    page.wait_for_function("play.scene")
    assert page.locator("#rate").is_visible()
    page.keyboard.press("2")
    page.wait_for_function("play.state.index === 1")
    assert page.locator("#frame").is_visible()
    assert not page.locator("#rate").is_visible()
    page.locator("#step").click()  # and so it no longer plays
    frame = page.evaluate("play.scene.frame")
    page.locator("#step").click()
    assert page.evaluate("play.scene.frame") == (frame + 1) % 4
    for _ in range(3):
        page.locator("#step").click()
    assert page.evaluate("play.scene.frame") == frame  # after the last comes the first
    page.keyboard.press("1")
    assert page.locator("#rate").is_visible()
    assert page.evaluate("play.errors") == []
    page.close()


def test_dark_and_narrow(show):
    page = show(sphere(1), torch.rand(2, 42, 3), width=340, height=300)
    assert picture(page)[-5, 5].tolist() == [255, 255, 255]
    page.keyboard.press("t")
    assert picture(page)[-5, 5].max() < 40
    assert page.evaluate("document.documentElement.scrollWidth") <= 340


@pytest.mark.parametrize("kind", ["points", "graph"])
def test_points_and_graphs_are_drawn(show, kind):
    data = sphere(1)
    edge_index = torch.cat([data.face[[0, 1]], data.face[[1, 2]], data.face[[2, 0]]], 1)
    shape = Data(pos=data.pos, edge_index=edge_index if kind == "graph" else None)
    red = torch.tensor([1.0, 0.0, 0.0]).expand(1, 42, 3)
    page = show(shape, red)
    seen = picture(page).reshape(-1, 3)
    reds = (seen[:, 0] > 120) & (seen[:, 1] < 10) & (seen[:, 2] < 10)
    greys = (np.ptp(seen, 1) < 4) & (seen[:, 0] < 230)
    assert reds.sum() > 500
    assert (greys.sum() > 100) == (kind == "graph")
    assert not page.locator("#player").is_visible()  # one frame: nothing to play


@pytest.mark.parametrize(
    ("setup", "message"),
    [
        ("delete window.DecompressionStream", "without DecompressionStream"),
        ("HTMLCanvasElement.prototype.getContext = () => null", "WebGL 2"),
    ],
)
def test_a_browser_that_lacks_something_is_told(show, setup, message):
    page = show(sphere(0), torch.rand(12, 3), setup=setup, expect_errors=True)
    assert message in page.locator("#message").inner_text()
    assert len(page.evaluate("play.errors")) == 1


def diffusion(data: Data):
    """The matrix that replaces every vertex's value by the mean of its neighbours'."""
    from scipy.sparse import coo_array, diags_array

    a, b = torch.cat([data.face[[0, 1]], data.face[[1, 2]], data.face[[2, 0]]], 1).numpy()
    weight = coo_array((np.ones(len(a)), (a, b)), (data.num_nodes,) * 2).tocsr()
    return diags_array(1 / weight.sum(1)) @ weight


def spots(data: Data, frames: int) -> torch.Tensor:
    """Gray and Scott's reaction and diffusion, 20 steps a frame."""
    mean, pos = diffusion(data), data.pos.numpy()
    seeds = pos[np.random.default_rng(0).choice(len(pos), 12)]
    u, v = np.ones(len(pos)), ((pos @ seeds.T).max(1) > np.cos(0.12)) * 1.0
    out = []
    for _ in range(frames):
        out.append(np.stack([u, 2 * v, u - v], -1))
        for _ in range(20):
            r = u * v * v
            u, v = mean @ u - r + 0.055 * (1 - u), v + 0.5 * (mean @ v - v) + r - 0.117 * v
    return torch.tensor(np.stack(out), dtype=torch.float)


def asynchronous(data: Data, frames: int) -> torch.Tensor:
    """A rule from noise, every node firing in half of the steps."""
    mean, rng = diffusion(data), np.random.default_rng(0)
    z, out = rng.standard_normal((data.num_nodes, 3)), []
    for _ in range(frames):
        out.append(z)
        fires = rng.random((data.num_nodes, 1)) < 0.5
        z = np.where(fires, np.tanh(1.6 * (mean @ z) + 0.2 * z), z)
    return torch.tensor(np.stack(out), dtype=torch.float)


def noise(data: Data, frames: int) -> torch.Tensor:
    """Nothing that could be compressed."""
    return torch.rand(frames, data.num_nodes, 3)


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "limit"), [(spots, 15.0), (asynchronous, 15.0), (noise, 18.0)])
def test_size_and_frame_rate_at_40962_vertices_and_100_frames(browser, tmp_path, rule, limit):
    data = sphere(6)
    assert data.num_nodes == 40_962
    start = time.perf_counter()
    path = write_viewer(tmp_path / "a.html", data, rule(data, 100), steps_per_second=1000)
    megabytes = path.stat().st_size / 1e6
    page = browser.new_page(viewport={"width": 900, "height": 640})
    opened = time.perf_counter()
    page.goto(path.as_uri())
    page.evaluate("play.loaded")
    loaded = time.perf_counter() - opened
    page.evaluate("play.setPlaying(true)")
    drawn, since = page.evaluate("[play.state.drawn, performance.now()]")
    page.wait_for_timeout(5000)
    later, now = page.evaluate("[play.state.drawn, performance.now()]")
    upload = page.evaluate(
        """(() => { const start = performance.now();
           for (let t = 0; t < 300; t++) play.scene.setFrame(t % 100);
           return (performance.now() - start) / 300; })()"""
    )
    rate = 1000 * (later - drawn) / (now - since)
    print(
        f"\n{rule.__name__}: {megabytes:.2f} MB, made in {opened - start:.1f} s, loaded in "
        f"{loaded:.1f} s, {rate:.1f} frames/s in software, {upload:.1f} ms to send a frame"
    )
    assert page.evaluate("play.errors") == []
    assert megabytes < limit
    assert later - drawn >= 2
    page.close()
