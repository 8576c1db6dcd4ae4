"""The command ``predict`` on the files that people bring, from the file to the answer."""

from __future__ import annotations

import json
import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from typer.testing import CliRunner

from gncadeq import PixelGraphClassifier
from gncadeq.cli import app
from gncadeq.models.inputs import doubts
from gncadeq.transforms import ImageToGraph
from gncadeq.viz.images import read_image

FONT = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"


def page(text="7", size=(280, 280), height=150, place=(90, 60), paper=235, ink=20):
    image = Image.new("L", size, paper)
    ImageDraw.Draw(image).text(place, text, font=ImageFont.truetype(str(FONT), height), fill=ink)
    return image


def predict(folder, *names, options=(), weights="mnist"):
    """The exit code, the answers of every file, and all that was printed."""
    files = [str(folder / name) for name in names]
    command = ["predict", weights, *files, "--out", str(folder / "maps"), *options]
    result = CliRunner().invoke(app, command)
    answers = {name: [] for name in names}
    for name, label in re.findall(r"^(\S+): (\d) \(", result.output, re.M):
        answers[Path(name).relative_to(folder).as_posix()].append(int(label))
    return result.exit_code, answers, result.output


def write_all(folder):
    """One seven in every form."""
    grey = page()
    level = np.asarray(grey)
    cover = Image.fromarray(((235 - level.astype(np.float32)) / 215 * 255).astype(np.uint8))
    for name, color in (("black", 0), ("white", 255)):
        clear = Image.new("RGBA", grey.size, (color, color, color, 0))
        clear.putalpha(cover)
        clear.save(folder / f"clear-{name}.png")
    turned = grey.rotate(90, expand=True)
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned back by a quarter
    turned.save(folder / "turned.jpg", exif=exif)
    Image.fromarray(level.astype(np.uint16) * 257).save(folder / "sixteen.png")
    Image.fromarray(level.astype(np.float32) / 255).save(folder / "unit.tiff")
    Image.fromarray(level.astype(np.float32) * 40).save(folder / "float.tiff")
    grey.convert("P").save(folder / "palette.png")
    grey.convert("1").save(folder / "bits.png")
    grey.convert("CMYK").save(folder / "cmyk.jpg")
    grey.save(folder / "lossy.jpg", quality=30)
    Image.eval(grey, lambda v: 255 - v).save(folder / "inverse.png")
    Image.merge("RGB", [grey.point(lambda v: v // 2), grey, grey]).save(folder / "colour.gif")


def test_every_form_of_one_picture_is_the_same_seven(tmp_path):
    write_all(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir() if path.is_file())
    code, answers, output = predict(tmp_path, *names)
    assert code == 0, output
    assert answers == {name: [7] for name in names}
    assert "WARNING" not in output


def test_several_digits_are_found_labelled_and_drawn(tmp_path):
    page("3 1 4\n2 7 5", (600, 400), 130, (40, 30)).save(tmp_path / "page.png")
    code, answers, output = predict(tmp_path, "page.png")
    assert (code, answers["page.png"]) == (0, [3, 1, 4, 2, 7, 5])
    assert re.search(r"3 \(3: .*\) at \(\d+, \d+\)–\(\d+, \d+\)", output)
    with Image.open(tmp_path / "maps" / "page_labels.png") as drawn:
        assert len(np.unique(np.asarray(drawn.convert("RGB")).reshape(-1, 3), axis=0)) > 100


def test_one_bad_file_does_not_end_the_list_and_no_picture_is_overwritten(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        page("7" if name == "a" else "3").save(tmp_path / name / "digit.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a" / "digit.png").read_bytes()[:400])
    Image.new("L", (60, 60), 255).save(tmp_path / "blank.png")
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    Image.new("1", (9_000, 9_000)).save(tmp_path / "large.png")
    code, answers, output = predict(
        tmp_path, "cut.png", "blank.png", "a/digit.png", "bomb.png", "gone.png", "large.png",
        "b/digit.png",
    )  # fmt: skip
    assert code == 1
    assert (answers["a/digit.png"], answers["b/digit.png"]) == ([7], [3])
    for name in ("cut.png", "blank.png", "bomb.png", "gone.png", "large.png"):
        assert len(re.findall(rf"Error:.*{name}", output)) == 1
    assert "5 of 7 files" in output
    maps = {path.name for path in (tmp_path / "maps").iterdir()}
    assert maps == {"digit_labels.png", "digit_labels_2.png"}


def test_the_numbers_as_json(tmp_path):
    page().save(tmp_path / "seven.png")
    (tmp_path / "cut.png").write_bytes(b"")
    files = [str(tmp_path / name) for name in ("seven.png", "cut.png")]
    words = ["predict", "mnist", *files, "--out", str(tmp_path / "maps"), "--top", "2"]
    result = CliRunner().invoke(app, [*words, "--json", "-"])
    assert result.exit_code == 1
    seven, cut = json.loads(result.stdout)
    assert seven["file"] == files[0]
    assert Path(seven["picture"]).is_file()
    (answer,) = seven["answers"]
    assert answer["label"] == 7
    assert next(iter(answer["probabilities"])) == "7"
    assert len(answer["probabilities"]) == 2
    left, top, right, bottom = answer["box"]
    assert 80 < left < right < 200
    assert 60 < top < bottom < 230
    assert cut.keys() == {"file", "error"}
    assert "seven.png: 7 (7: " in result.stderr


def test_a_large_picture(tmp_path):
    page("8", (3000, 2000), 900, (900, 400)).save(tmp_path / "large.png")
    assert predict(tmp_path, "large.png")[1] == {"large.png": [8]}


def test_a_large_picture_as_it_is_is_refused_before_memory_is_taken(tmp_path):
    Image.effect_noise((1000, 1000), 60).save(tmp_path / "noise.png")
    code, _, output = predict(tmp_path, "noise.png", options=["--as-is"])
    assert code == 1
    assert "at most 250,000 living pixels" in output


def test_as_it_is_an_unlike_picture_is_labelled(tmp_path):
    page().save(tmp_path / "seven.png")
    code, _, output = predict(tmp_path, "seven.png", options=["--as-is"])
    assert code == 0, output
    for phrase in ("WARNING", "280 × 280 pixels (trained on 28)", "inverted"):
        assert phrase in output
    code, _, output = predict(tmp_path, "seven.png", options=["--floor", "0.1"])
    assert code == 2
    assert "go with" in output


def test_a_failed_solve_is_no_answer(tmp_path):
    page().save(tmp_path / "seven.png")
    for name in ("infinite", "unsolved"):
        model = PixelGraphClassifier.from_pretrained("mnist")
        if name == "infinite":
            with torch.no_grad():
                model.readout.lin1.weight.fill_(3e38)
        else:
            model.config["deq"] = {"tol": 1e-9, "max_steps": 2}
        weights = str(tmp_path / f"{name}.safetensors")
        model.save_pretrained(weights, model.card)
        code, answers, output = predict(tmp_path, "seven.png", weights=weights)
        assert (code, answers["seven.png"]) == (1, [])
        assert re.search(r"seven\.png: Expected an equilibrium \(got", output)


def test_weights_that_know_no_digits_classify_pictures_as_they_are(tmp_path):
    model = PixelGraphClassifier.from_pretrained("mnist")
    card = {k: v for k, v in model.card.items() if k != "inputs"}
    model.save_pretrained(str(tmp_path / "old.safetensors"), card)
    page(size=(28, 28), height=20, place=(8, 2)).save(tmp_path / "seven.png")
    code, _, output = predict(tmp_path, "seven.png", weights=str(tmp_path / "old.safetensors"))
    assert code == 0, output
    assert "classified as they are" in output


def test_transparency_and_precision(tmp_path):
    level = (np.arange(256 * 64, dtype=np.uint16) * 4).reshape(256, 64)
    Image.fromarray(level).save(tmp_path / "deep.png")
    assert len(read_image(tmp_path / "deep.png").unique()) == level.size
    write_all(tmp_path)
    black = read_image(tmp_path / "clear-black.png")
    white = read_image(tmp_path / "clear-white.png")
    assert torch.allclose(black, 1 - white, atol=1e-6)
    assert float(black.max() - black.min()) == 1.0
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(tmp_path / "nan.tiff")
    with pytest.raises(ValueError, match=r"nan\.tiff: NaN"):
        read_image(tmp_path / "nan.tiff")


# The door of the model: graphs of another kind.


def test_graphs_of_another_kind_are_refused(mnist):
    model, images, _ = mnist

    def ask(to_graph, scale=1.0, images=images):
        data = to_graph.batch(images)
        return model(data.x * scale, data.edge_index, data.edge_attr, data.batch)

    living = model.to_graph
    for kind, scale, message in (
        (ImageToGraph(), 1, "background"),
        (ImageToGraph(living_threshold=0.4), 1, "a higher threshold"),
        (living, 255, "8-bit"),
        (living, 1 / 0.3, "standardise"),
        (ImageToGraph("von_neumann", living_threshold=0.02), 1, "without diagonals"),
    ):
        with pytest.raises(ValueError, match=message):
            ask(kind, scale)
        if kind.living_threshold != 0.4:  # a single training image may be without dim pixels
            with pytest.raises(ValueError, match=message):
                ask(kind, scale, images[:1])


def test_what_users_do_with_graphs_of_the_right_kind_still_works(mnist):
    model, images, labels = mnist
    data = model.to_graph.batch(images)
    edges = data.edge_index, data.edge_attr, data.batch
    assert float((model(data.x, *edges).argmax(1) == labels).double().mean()) > 0.95
    for mask in (0.0, 0.5, (torch.rand_like(data.x) > 0.5).float(), torch.rand_like(data.x)):
        assert model(data.x * mask, *edges).isfinite().all()  # explainers mask pixels
    x = data.x.clone().requires_grad_()
    model(x, *edges).sum().backward()
    assert float(x.grad.abs().sum()) > 0
    half = model.to_graph(images[0, :, :14, :14].contiguous())
    panorama = model.to_graph(torch.cat(list(images[:6]), dim=2))
    for graph in (half, panorama, panorama.subgraph(torch.rand(panorama.num_nodes) > 0.3)):
        assert model(graph.x, graph.edge_index, graph.edge_attr).isfinite().all()
    model.train()
    model(torch.randn_like(data.x), *edges)  # what is trained on is the user's affair
    model.eval()


def test_doubts_name_what_is_unlike(mnist):
    model, images, _ = mnist
    inputs = model.card["inputs"]

    def of(image):
        data = model.to_graph(image)
        z, partition, _ = model.settle(data.x, data.edge_index, data.edge_attr)
        pooled = model.pool(z, partition, data.edge_index, data.edge_attr)
        logits = model.readout.decode(pooled)[0]
        return doubts(inputs, model.to_graph, image, pooled[0], logits)

    assert sum(bool(of(image)) for image in images) <= 3
    noise = " ".join(of(torch.rand(1, 28, 28)))
    assert "live" in noise
    assert "nearest class" in noise
    assert "pixels (trained on 28)" in of(torch.nn.functional.pad(images[0], (9, 9, 9, 9)))[0]
    assert json.loads(json.dumps(inputs)) == inputs


def test_doubts_name_uncertain_answers(mnist):
    model, images, _ = mnist
    inputs = model.card["inputs"]
    usual = torch.tensor(inputs["pooled"]["mean"][7])  # a state of which there is no doubt
    older = {name: value for name, value in inputs.items() if name != "certainty"}
    for logits, named in (
        (torch.tensor([9.0, 9.0, *8 * [0.0]]), ["probability 0.5"]),
        (torch.tensor([2.0, *9 * [-9.0]]), ["log-sum-exp 2"]),
        (torch.tensor([9.0, *9 * [0.0]]), []),
    ):
        found = doubts(inputs, model.to_graph, images[0], usual, logits)
        assert [phrase.split(" (")[0] for phrase in found] == named
        assert doubts(older, model.to_graph, images[0], usual, logits) == []


@pytest.fixture
def mnist(mnist_root, tmp_path, monkeypatch):
    """The shipped weights, 50 test images and their labels."""
    from gncadeq.datasets import PixelGraphs

    monkeypatch.setenv("GNCADEQ_CACHE", str(tmp_path))
    test = PixelGraphs(mnist_root, "mnist", False)
    model = PixelGraphClassifier.from_pretrained("mnist")
    return model, test.images[:50].float() / 255, test.labels[:50]
