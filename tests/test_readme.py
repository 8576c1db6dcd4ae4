from __future__ import annotations

import re
import shlex

import pytest
from conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text()


def test_nothing_is_left_to_fill_in():
    assert "@@" not in README


def test_the_python_examples_run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    assert "converged=1" in capsys.readouterr().out


def test_the_commands_exist():
    from typer.testing import CliRunner

    from gncadeq.cli import app

    lines = re.findall(r"^(?:\.venv/bin/)?gncadeq (.*?)(?:#.*)?$", README, re.M)
    assert len(lines) > 5
    for line in lines:
        words = shlex.split(line)
        help_text = CliRunner().invoke(app, [words[0], "--help"], terminal_width=300)
        assert help_text.exit_code == 0
        for option in (w for w in words if w.startswith("--")):
            assert option in help_text.output, line


PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md",
         "datasets/README.md", "gncadeq/pretrained/README.md"]  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    path = REPOSITORY / page
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if re.match(r"https?:|mailto:", link):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        if anchor:
            heads = re.findall(r"^#+ (.*)", target.read_text(), re.M)
            assert anchor in [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in heads]


@pytest.mark.parametrize("name", ["mnist", "mnist-pyramid", "mnist-crop", "mnist-tiny", "digits"])
def test_pictures_of_the_readme_are_there(name):
    for path in re.findall(r"!\[.*?\]\((.*?)\)", README, re.S):
        assert (REPOSITORY / path).is_file(), path
    from gncadeq.models import ImageClassifier

    card = ImageClassifier.from_pretrained(name).card
    assert card["command"].startswith(f"gncadeq train {name.partition('-')[0]}")
    assert card["test"]["converged"] == 1.0
