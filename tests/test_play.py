"""The page in which rules run: what is in the file, and what people do to it in a browser."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from page import Pages
from torch_geometric.data import Data
from typer.testing import CliRunner

from gncadeq import GrowingCell, MicroCell, TotalisticCell
from gncadeq.cells import SweepGrower
from gncadeq.cli import app
from gncadeq.datasets import PixelGraphs, primitives
from gncadeq.dynamics.rollout import advance
from gncadeq.files.weights import load_pretrained, pretrained_names, save_pretrained
from gncadeq.models import ImageClassifier, PixelGraphClassifier, SelfClassifier
from gncadeq.training.shipped import load_shipped
from gncadeq.training.targets import anchor, seed_state
from gncadeq.transforms import ImageToGraph, MeshToGraph, Sweeps, TurnKernels
from gncadeq.viz import (
    digit_scene,
    grown_scene,
    life_scene,
    maze_scene,
    texture_scene,
    voronoi_scene,
    write_play,
)

RANDOM = "let seed = 1; Math.random = () => (seed = seed * 48271 % 2147483647) / 2147483647;"
Z = "Array.from(play.scene.automaton.z)"


def scenes_of(page: str) -> list[dict]:
    found = re.search(r'<script type="application/json" id="scene">(.*?)</script>', page, re.S)
    return json.loads(found[1])["scenes"]


def gecko() -> dict:
    cell, data, z0, card = load_shipped("gecko")
    return grown_scene(cell, data, z0, card["fire_rate"], "Gecko")


def on_sphere() -> tuple[GrowingCell, Data, torch.Tensor]:
    cell = GrowingCell(8, 3, 16, 1, bound=1.5)
    torch.nn.init.normal_(cell.weight_out, std=0.05)
    data = MeshToGraph("tangent")(primitives.icosphere(2))
    data.x = anchor(data)
    return cell, data, seed_state(data, 8)


@pytest.fixture
def show(browser, tmp_path):
    """Opens a page, and afterwards sees to it that nothing went wrong and nothing was loaded."""
    pages = Pages(browser)

    def open_page(*scenes, width=900, height=600, address=""):
        path = write_play(tmp_path / f"{len(pages.opened)}.html", scenes)
        page = pages.open(path, address, (width, height), RANDOM, may_load=("data:", "blob:"))
        page.evaluate("play.setPlaying(false), play.scene.reset()")
        return page

    yield open_page
    pages.close()


def run(page, steps: int) -> None:
    page.evaluate(f"() => {{ for (let i = 0; i < {steps}; i++) play.scene.step(1) }}")


def on_canvas(page, column: float, row: float) -> tuple[float, float]:
    """Where a place in cells is on the screen."""
    return tuple(page.evaluate(
        """([x, y]) => { const { canvas, stage } = play, box = canvas.getBoundingClientRect();
        const ratio = canvas.width / box.width;
        return [box.left + (stage.left + x * stage.scale) / ratio,
                box.top + (stage.top + y * stage.scale) / ratio]; }""",
        [column, row],
    ))  # fmt: skip


def until(page, what: str) -> None:
    """Wait, without a function of text, which the page's policy forbids."""
    page.evaluate(f"""new Promise((done, fail) => {{ const began = performance.now();
        const look = () => ({what}) ? done() : performance.now() - began > 2e4
          ? fail(new Error("waited too long")) : setTimeout(look, 20); look(); }})""")


def settled(page) -> None:
    """Two drawn frames later."""
    page.evaluate("new Promise(f => requestAnimationFrame(() => requestAnimationFrame(f)))")


def stroke(page, *places: tuple[float, float]) -> None:
    page.mouse.move(*on_canvas(page, *places[0]))
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*on_canvas(page, *place), steps=4)
    page.mouse.up()
    settled(page)


def state(page, channels: int) -> torch.Tensor:
    return torch.tensor(page.evaluate(Z)).view(-1, channels)


# ---- the file -----------------------------------------------------------------------------------


def test_the_page_loads_nothing_and_runs_no_text(tmp_path):
    bad = "</script><script>alert(1)</script> {{script}} <img src=x onerror=alert(2)>"
    page = write_play(tmp_path / "a.html", [life_scene(name=bad)], title=bad).read_text()
    assert "<script>alert" not in page
    assert "<img" not in page
    assert page.count("<script") == page.count("</script>") == 2
    assert scenes_of(page)[0]["name"] == bad
    assert not re.search(r"https?:|src=\"|import\(|@import|url\(|fetch\(|XMLHttp", page)
    assert "default-src 'none'" in page


def shipped_textures():
    return {name: load_pretrained(MicroCell, name) for name in pretrained_names("textures")}


def test_the_flat_gallery_is_small(tmp_path):
    models = [ImageClassifier.from_pretrained(name) for name in ("mnist", "mnist-pyramid")]
    textures = texture_scene(shipped_textures())
    scenes = [*map(digit_scene, models), gecko(), textures, life_scene(), maze_scene()]
    assert write_play(tmp_path / "a.html", scenes).stat().st_size <= 400_000


def test_what_cannot_play_says_so(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="at least one scene"):
        write_play(tmp_path / "a.html", [])
    with pytest.raises(ValueError, match=r"grey images .* \(got in_channels=3"):
        digit_scene(PixelGraphClassifier(3))
    monkeypatch.setattr("gncadeq.viz.play.MOST_EDGES", 100)
    with pytest.raises(ValueError, match=r"at most 100 edges for a page \(got 1,122"):
        grown_scene(*on_sphere())


@pytest.mark.parametrize(
    ("words", "kinds"),
    [
        (["B36/S23"], ["life"]),
        (["maze"], ["maze"]),
        (["gecko"], ["grow"]),
        (["mnist-tiny"], ["digits"]),
        (["leopard"], ["texture"]),
        (["voronoi", "--on", "icosphere:2"], ["voronoi"]),
        (
            [],
            [
                "digits",
                "digits",
                *["grow"] * len(pretrained_names("grown")),
                "texture",
                "texture",
                "life",
                "voronoi",
                "maze",
            ],
        ),
    ],
)
def test_the_command_writes_a_page(words, kinds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    result = CliRunner().invoke(app, ["play", *words])
    assert result.exit_code == 0, result.output
    (path,) = tmp_path.glob("runs/play/*.html")
    assert str(path.relative_to(tmp_path)) in result.output
    assert opened == [path.as_uri()]
    assert [scene["kind"] for scene in scenes_of(path.read_text())] == kinds
    assert path.stat().st_size <= 1_200_000
    result = CliRunner().invoke(app, ["play", *words, "-o", "b.html", "--no-open"])
    assert result.exit_code == 0
    assert len(opened) == 1


@pytest.mark.parametrize(("name", "near"), [("geko", "gecko"), ("mazes", "maze"), ("runs/a", "")])
def test_what_can_be_named_is_said(name, near):
    result = CliRunner().invoke(app, ["play", name, "--no-open"])
    said = str(result.exception)
    grown, textures = pretrained_names("grown"), pretrained_names("textures")
    for known in ("mnist-pyramid", *grown, *textures, "voronoi", "maze", "B3/S23"):
        assert f"'{known}'" in said
    assert f"(got '{name}', which is none of them)" in said
    assert said.endswith(f"Did you mean '{near}'?") if near else "mean" not in said


def test_a_picture_lies_on_the_paper(tmp_path, show):
    from PIL import Image

    picture = np.full((60, 90), 255, np.uint8)
    picture[10:50, 40:46] = 0  # a one
    Image.fromarray(picture).save(tmp_path / "one.png")
    words = ["play", "mnist", "--on", str(tmp_path / "one.png"), "-o", str(tmp_path / "a.html")]
    assert CliRunner().invoke(app, [*words, "--no-open"]).exit_code == 0
    page = show(*scenes_of((tmp_path / "a.html").read_text()))
    page.evaluate("play.jump('anderson')")
    assert "read the digit 1" in page.locator("#sentence").inner_text()


# ---- the rules, in the browser ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mnist", "mnist-pyramid"])
def test_digits_are_cells_of_the_model(name, show):
    """States, equilibrium, votes and beliefs of what is drawn are those of PyTorch."""
    own = SelfClassifier.from_pretrained(name)
    model, cell = own.model, own.cell
    page = show(digit_scene(model))
    page.evaluate("play.scene.example(5), play.scene.reset(), play.scene.young.fill(0)")
    digit = page.evaluate(
        "(({ image, rows, columns }) => [Array.from(image), rows, columns])(play.scene.digits[0])"
    )
    image = torch.tensor(digit[0]).view(1, digit[1], digit[2])
    data = model.to_graph(image)
    graph = data.x, data.edge_index, data.edge_attr
    with torch.no_grad():
        u, edges, attr = own.inject(*graph)
        step = cell.bind(u, edges, attr)
        z, done = torch.zeros(data.num_nodes, cell.channels), 0
        for t in (1, 10, 100):
            run(page, t - done)
            for _ in range(t - done):
                z = advance(step, z)
            done = t
            assert float((state(page, cell.channels) - z).abs().max()) < 1e-4
        logits, solution = own(*graph, return_solution=True)
        assert bool(solution.converged.all())
        page.evaluate("play.scene.noise(), play.jump('anderson')")
        assert "nothing moves" in page.locator("#solved").inner_text()
        star = state(page, cell.channels)
        assert float((star - solution.state).norm() / solution.state.norm()) < 1e-2
        vote = torch.tensor(page.evaluate("play.scene.votes()[0]"))
        assert float((vote - model(*graph)[0].softmax(0)).abs().max()) < 0.02
        labels = torch.tensor(page.evaluate("Array.from(play.scene.beliefs().label)"))
        assert torch.equal(labels[labels >= 0], logits[labels >= 0].argmax(1))


@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_the_gecko_is_that_of_pytorch(rate, show):
    cell, data, z, _ = load_shipped("gecko")
    page = show(gecko())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        step = cell.bind(data.x, data.edge_index, data.edge_attr)
        for t in range(1, 101):
            mask = torch.rand(1024, 1, generator=generator) < rate
            z = advance(step, z, mask=mask if rate < 1 else None)
            page.evaluate("m => play.scene.automaton.step(m && Uint8Array.from(m))",
                          mask.flatten().long().tolist() if rate < 1 else None)  # fmt: skip
            if t in (1, 10, 100):
                assert float((state(page, 16) - z).abs().max()) < 1e-4, t


def test_damage_mends(show):
    page = show(gecko())
    run(page, 200)
    before = state(page, 16)
    settled(page)
    place = page.evaluate(
        "(({ scene }) => scene.place(scene.living()[40]).map(v => v + 0.5))(play)"
    )
    stroke(page, place, (place[0] + 6, place[1] + 4))  # the brush erases
    hurt = state(page, 16)
    gone = (before[:, 3] > 0.1) & (hurt == 0).all(1)
    assert 10 < int(gone.sum()) < 400
    page.locator("[data-name=third]").click()
    cut = state(page, 16)
    wound = float((cut[:, :4] - before[:, :4]).square().mean())
    run(page, 200)
    healed = float((state(page, 16)[:, :4] - before[:, :4]).square().mean())
    assert healed < 0.2 * wound


def test_a_surface_is_turned_and_wounded(show):
    cell, data, z0 = on_sphere()
    page = show(grown_scene(cell, data, z0))
    with torch.no_grad():
        step, z = cell.bind(data.x, data.edge_index, data.edge_attr), z0
        for _ in range(10):
            z = advance(step, z)
    run(page, 10)
    assert float((state(page, 8) - z).abs().max()) < 1e-4
    page.evaluate("play.scene.automaton.z.fill(1), play.scene.changed = true")
    settled(page)
    box = page.locator("#stage canvas").bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    before = page.evaluate("play.stage.camera.azimuth")
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 60, middle[1], steps=3)
    page.mouse.up()
    assert page.evaluate("play.stage.camera.azimuth") != before
    assert bool((state(page, 8) == 1).all())
    page.locator("[data-name=erase]").click()
    page.evaluate("play.setBrush(9)")
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 30, middle[1], steps=3)
    page.mouse.up()
    gone = (state(page, 8) == 0).all(1)
    assert 3 < int(gone.sum()) < 80
    # Only what faces the viewer is wounded.
    turned = page.evaluate(
        "Array.from({ length: play.scene.n }, (_, i) => play.stage.projected(i).front)"
    )
    assert bool(torch.tensor(turned)[gone].all())


def test_sweeps_and_graphs_without_faces_play(show):
    grid = Sweeps()(ImageToGraph()(torch.zeros(1, 7, 6)))
    grid.x[17] = 1.0
    sweeps = SweepGrower(1, groups=4, kernels=3, channels=4, hidden_channels=10)
    cell, points, z0 = on_sphere()
    del points.face
    z0s = [torch.zeros(42, sweeps.channels), z0]
    page = show(grown_scene(sweeps, grid, z0s[0]), grown_scene(cell, points, z0))
    for k, (rule, data) in enumerate([(sweeps, grid), (cell, points)]):
        page.evaluate(f"play.show({k}), play.scene.reset()")
        run(page, 20)
        with torch.no_grad():
            step, z = rule.bind(data.x, data.edge_index, data.edge_attr), z0s[k]
            for _ in range(20):
                z = advance(step, z)
        assert float((state(page, rule.channels) - z).abs().max()) < 1e-4
        settled(page)


def test_life_is_that_of_pytorch(show):
    cell = TotalisticCell()
    page = show(life_scene(cell, side=20))
    page.locator("[data-name=clear]").click()
    settled(page)
    page.evaluate("play.setBrush(1)")
    for place in ((5.5, 4.5), (6.5, 5.5), (4.5, 6.5), (5.5, 6.5), (6.5, 6.5)):  # a glider
        stroke(page, place)
    z = state(page, 1).view(20, 20)
    assert z.sum() == 5
    run(page, 80)  # once around the torus
    assert torch.equal(state(page, 1).view(20, 20), z)


def test_the_way_through_a_maze_is_a_shortest_one(show):
    page = show(maze_scene(side=15))
    page.locator("[data-name=clear]").click()
    page.evaluate("play.setBrush(1)")
    run(page, 60)
    settled(page)
    assert "24 steps" in page.locator("#sentence").inner_text()
    stroke(page, (7.5, 0.5), (7.5, 12.5))  # a wall with a gap at its lower end
    page.evaluate("play.scene.reset()")
    run(page, 100)
    page.evaluate("play.scene.changed = true")
    settled(page)
    open_ = np.array(page.evaluate("Array.from(play.scene.open)")).reshape(15, 15)
    assert not open_[0:13, 7].any()
    assert open_[13, 7]
    expected = _distance(open_, (1, 1), (13, 13))
    assert page.evaluate("play.scene.length") == expected


@pytest.mark.parametrize("on", ["plane", "mesh"])
def test_cells_take_the_colour_of_their_nearest_seed(on, show):
    page = show(voronoi_scene(primitives.icosphere(3) if on == "mesh" else None, cells=300))
    page.evaluate("play.scene.clear()")
    settled(page)
    box = page.locator("#stage canvas").bounding_box()
    page.locator("[data-name=seed]").click()
    places = [(0.42, 0.3), (0.6, 0.4), (0.5, 0.75)]
    for right, down in places:
        page.mouse.click(box["x"] + right * box["width"], box["y"] + down * box["height"])
    found = page.evaluate("""(() => { const { graph } = play.scene.automaton, edges = [];
        for (let i = 0; i < graph.n; i++) for (let e = graph.ptr[i]; e < graph.ptr[i + 1]; e++)
          edges.push([graph.source[e], i]);
        return [edges, play.scene.seeds]; })()""")
    seeds = [seed["node"] for seed in found[1]]
    assert len(set(seeds)) == 3
    run(page, 60)
    page.evaluate("play.look()")
    assert "nothing moves" in page.locator("#sentence").inner_text()
    assert page.locator("#lamp").get_attribute("class") == "rest"
    import networkx

    graph = networkx.Graph(found[0])
    far = np.array([
        [networkx.single_source_shortest_path_length(graph, seed)[i] for i in range(len(graph))]
        for seed in seeds
    ])  # fmt: skip
    z = state(page, 8).numpy()
    assert np.array_equal(z[:, :3].T, far)
    assert page.evaluate("Array.from(play.scene.labels())") == far.argmin(0).tolist()
    if on == "plane":  # a seed is dragged, and the borders follow
        page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.75 * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"], steps=6)
        page.mouse.up()
        moved = [seed["node"] for seed in page.evaluate("play.scene.seeds")]
        assert (moved[:2], len(moved)) == (seeds[:2], 3)
        assert moved[2] != seeds[2]
        page.locator("[data-name=remove]").click()
        page.mouse.click(box["x"] + 0.42 * box["width"], box["y"] + 0.3 * box["height"])
        assert [seed["node"] for seed in page.evaluate("play.scene.seeds")] == moved[1:]
        run(page, 400)
        labels = set(page.evaluate("Array.from(play.scene.labels())"))
        assert labels == {1, 2}
        assert float(state(page, 8)[:, 0].min()) == 200


def _distance(open_: np.ndarray, start: tuple[int, int], goal: tuple[int, int]) -> int:
    import networkx

    graph = networkx.grid_2d_graph(*open_.shape)
    graph.remove_nodes_from([tuple(c) for c in np.argwhere(open_ == 0)])
    return networkx.shortest_path_length(graph, start, goal)


# ---- drawing ------------------------------------------------------------------------------------


def draw_pixels(page, image: np.ndarray) -> None:
    """Click every pixel of a digit, one grey after the other."""
    page.locator("[data-name=clear]").click()
    page.locator("[data-name=pixel]").click()
    if page.evaluate("play.scene.fit"):
        page.locator("#fit").click()
    left = (page.evaluate("play.scene.columns") - 28) // 2
    settled(page)
    levels = np.ceil(image * 8).astype(int)
    for level in range(1, 9):
        page.evaluate(f"play.setInk({level / 8})")
        for row, column in np.argwhere(levels == level):
            page.mouse.click(*on_canvas(page, left + column + 0.5, row + 0.5))
    settled(page)


@pytest.mark.parametrize(
    "digits", [(0, 3), pytest.param(range(10), marks=pytest.mark.slow)], ids=["two", "ten"]
)
def test_digits_drawn_pixel_by_pixel_are_read_right(digits, mnist_root, show):
    model = ImageClassifier.from_pretrained("mnist")
    page = show(digit_scene(model))
    test_set = PixelGraphs(mnist_root, "mnist", False, model.to_graph)
    read = []
    for digit in digits:
        index = int((test_set.labels == digit).nonzero()[0])
        draw_pixels(page, test_set.images[index, 0].numpy() / 255)
        run(page, 100)
        page.evaluate("play.look()")
        sentence = page.locator("#sentence").inner_text()
        read.append(sentence.rpartition("digit ")[2])
    assert read == [f"{digit}." for digit in digits]


def test_two_digits_are_drawn_read_and_erased(show):
    page = show(digit_scene(ImageClassifier.from_pretrained("mnist")))
    page.locator("[data-name=clear]").click()
    settled(page)
    assert "Draw a digit" in page.locator("#sentence").inner_text()
    stroke(page, (10, 6), (10, 22))
    stroke(page, (18, 6), (27, 6), (22, 22))
    run(page, 60)
    page.evaluate("play.look()")
    assert "read the digits 1, 7." in page.locator("#sentence").inner_text()
    assert page.locator(".bar.best").inner_text().startswith("7")
    old = page.evaluate("play.scene.n")
    page.locator("[data-name=erase]").click()
    stroke(page, (10, 4), (10, 24))
    page.evaluate("play.look()")
    assert "read the digit 7." in page.locator("#sentence").inner_text()
    assert page.evaluate("play.scene.n") < old


def test_at_rest_nothing_moves(show):
    page = show(digit_scene(ImageClassifier.from_pretrained("mnist")))
    page.evaluate("play.scene.noise(), play.look()")
    assert "moving" in page.locator("#lamp").get_attribute("class")
    page.locator("[data-method=anderson]").click()
    assert "rest" in page.locator("#lamp").get_attribute("class")
    assert "nothing moves" in page.locator("#solved").inner_text()
    star = state(page, 48)
    page.evaluate("() => { for (let i = 0; i < 50; i++) play.scene.step(0.3) }")
    assert float((state(page, 48) - star).abs().max()) < 1e-4


def test_textures_are_painted_into_each_other(show, tmp_path):
    torch.manual_seed(0)
    textures = shipped_textures()
    page = show(texture_scene(textures, side=32), texture_scene(textures, primitives.torus(32, 16)))
    for k in range(2):
        page.evaluate(f"play.show({k})")
        field = np.array(page.evaluate("Array.from(play.scene.graph.field)"))
        leopard, shares = list(textures).index("leopard"), np.bincount(field)
        assert len(shares) == len(textures)
        assert np.ptp(shares) <= 1
        page.locator("#stage canvas").nth(0).wait_for()
        page.locator("[data-name=leopard]").click()
        box = page.locator("#stage canvas:visible").bounding_box()
        middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        settled(page)
        page.mouse.move(middle[0] - 40, middle[1])
        page.mouse.down()
        page.mouse.move(middle[0] - 70, middle[1] - 20, steps=3)
        page.mouse.up()
        painted = np.array(page.evaluate("Array.from(play.scene.graph.field)"))
        assert ((painted == leopard) & (field != leopard)).sum() > 10
        assert (painted == field)[painted != leopard].all()
        assert page.locator("#size").is_visible()
        assert not page.locator("#turn").is_visible()  # a Laplacian knows no directions
        assert not page.locator("#solvers").is_visible()
    page.evaluate("play.show(0)")
    run(page, 200)
    assert float(state(page, 12).abs().max()) < 2
    save_pretrained(load_pretrained(MicroCell, "leopard"), tmp_path / "mine.safetensors")
    page.locator("#file").set_input_files(tmp_path / "mine.safetensors")
    until(page, "play.scene.info.name === 'mine'")
    assert page.evaluate("play.scene.names") == ["mine", *pretrained_names("textures")]
    run(page, 2)


def test_strokes_turn_the_pattern(show):
    """A stroke gives nodes its direction, on pixels and as the camera sees a surface."""
    textures = {"a": MicroCell(6, 3)}
    scenes = [texture_scene(textures, mesh, "tangent", side=32)
              for mesh in (None, primitives.icosphere(3))]  # fmt: skip
    page = show(*scenes)
    for k in range(2):
        page.evaluate(f"play.show({k})")
        page.locator("[data-name=direction]").click()
        page.evaluate("play.setTurn(20)")
        settled(page)
        box = page.locator("#stage canvas:visible").bounding_box()
        middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.click(*middle)
        assert not any(page.evaluate("Array.from(play.scene.angle)"))  # a click goes nowhere
        page.mouse.move(middle[0] - 60, middle[1] + 60)
        page.mouse.down()
        page.mouse.move(middle[0] + 60, middle[1] - 60, steps=8)
        page.mouse.up()
        angle, weight, plain, ptr = (
            torch.tensor(page.evaluate(f"Array.from(play.scene.{name})"))
            for name in ("angle", "graph.weight", "plain", "graph.ptr")
        )
        painted = angle != 0
        assert 10 < int(painted.sum()) < 0.7 * len(angle)
        turned = angle + torch.tensor(20.0).deg2rad()
        if k == 0:
            assert float((turned[painted] - torch.pi / 4).abs().max()) < 0.05
        else:  # turned into the direction of the stroke, as one sees it
            axes = torch.tensor(page.evaluate("play.scene.graph.frames"))
            way = turned[:, None].cos() * axes[:, 0] + turned[:, None].sin() * axes[:, 1]
            seen = torch.tensor(page.evaluate(
                "w => w.map(v => play.stage.turned(v))", way[painted].tolist()))  # fmt: skip
            assert float((seen[:, 1] - seen[:, 0]).abs().max()) < 0.05
            assert bool((seen[:, 0] > 0).all())
        target = torch.arange(len(angle)).repeat_interleave(ptr.diff())
        data = Data(edge_index=torch.stack([target, target]), edge_attr=plain.view(-1, 3),
                    angle=turned, num_nodes=len(angle))  # fmt: skip
        assert torch.allclose(weight.view(-1, 3), TurnKernels()(data).edge_attr, atol=1e-6)
        page.evaluate("play.setColor('direction')")
        settled(page)
        page.locator("[data-name=straight]").click()
        assert not any(page.evaluate("Array.from(play.scene.angle)"))


def test_files_become_scenes(show, tmp_path):
    from gncadeq.datasets.mesh_files import save_mesh

    (cell, data, z0), senses = on_sphere(), MeshToGraph("tangent", up=(0.0, 1.0, 0.0))
    with pytest.raises(ValueError, match=r"'senses' with up=\(0.0, 1.0, 0.0\) for up='y'"):
        grown_scene(cell, data, z0, senses=MeshToGraph("tangent"))
    page = show(life_scene(side=16), grown_scene(cell, data, z0, senses=senses))
    mesh = primitives.torus(16, 8)
    save_mesh(mesh, tmp_path / "ring.ply")
    with page.expect_file_chooser() as chooser:
        page.locator("#open").click()
    chooser.value.set_files(tmp_path / "ring.ply")
    until(page, "play.scene.info.name === 'ring'")
    assert page.locator("#scenes button").all_inner_texts() == ["Life", "Growing", "ring"]
    page.evaluate("play.setPlaying(false), play.scene.reset()")
    run(page, 10)
    data = senses(mesh)
    seed = page.evaluate("play.scene.start.findIndex(v => v)") // 8
    data.x = anchor(data, seed)
    with torch.no_grad():
        step, z = cell.bind(data.x, data.edge_index, data.edge_attr), seed_state(data, 8, seed)
        for _ in range(10):
            z = advance(step, z)
    assert float((state(page, 8) - z).abs().max()) < 1e-4
    settled(page)
    (tmp_path / "bad.obj").write_text("v 0 0")
    page.locator("#file").set_input_files(tmp_path / "bad.obj")
    until(page, "!document.getElementById('message').hidden")
    assert "Expected vertices of three numbers" in page.locator("#message").inner_text()


# ---- the controls -------------------------------------------------------------------------------


def test_keys_buttons_and_the_address(show):
    page = show(life_scene(side=16), gecko(), maze_scene(side=15))
    page.keyboard.press("2")
    assert page.evaluate("play.scene.info.name") == "Gecko"
    page.keyboard.press(".")
    page.keyboard.press(".")
    assert page.evaluate("play.scene.automaton.steps") == 2
    page.keyboard.press("r")
    assert page.evaluate("play.scene.automaton.steps") == 0
    page.locator("#rate").fill("0.5")
    page.locator("#color").select_option("channel 5")
    page.keyboard.press("t")
    address = page.evaluate("location.hash")
    assert "rule=1" in address
    other = show(life_scene(side=16), gecko(), address=address)
    assert other.evaluate("[play.scene.info.name, play.scene.rate, play.state.color]") == [
        "Gecko", 0.5, "channel 5",
    ]  # fmt: skip
    assert other.evaluate("document.documentElement.classList.contains('dark')")
    page.evaluate("play.setSpeed(7)")
    page.locator("#play").click()
    until(page, "play.scene.automaton.steps > 5")
    with page.expect_download() as download:
        page.locator("#picture").click()
    assert download.value.suggested_filename == "Gecko.png"


@pytest.mark.parametrize("flat", [True, False])
def test_a_gif_is_recorded(flat, show):
    from PIL import Image

    page = show(life_scene(side=32) if flat else grown_scene(*on_sphere()))
    page.evaluate("play.setPlaying(true)")
    page.locator("#gif").click()
    until(page, "Number(/\\d+/.exec(document.getElementById('gif').textContent)) >= 4")
    with page.expect_download() as download:
        page.evaluate("document.getElementById('gif').click()")
    gif = Image.open(download.value.path())
    assert gif.n_frames >= 4
    assert max(gif.size) == 360
    assert len(gif.convert("RGB").getcolors(1 << 20)) > 1
    assert page.locator("#gif").inner_text() == "GIF"


@pytest.mark.parametrize("width", [390, pytest.param(1280, marks=pytest.mark.slow)])
def test_pages_fit_the_screen(width, show):
    page = show(digit_scene(ImageClassifier.from_pretrained("mnist")), gecko(), life_scene(),
                maze_scene(), width=width, height=800)  # fmt: skip
    for k in range(4):
        page.evaluate(f"play.show({k})")
        settled(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for name in page.evaluate("play.scene.colors()"):
            page.evaluate("name => play.setColor(name)", name)
            settled(page)
