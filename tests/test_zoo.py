"""The list of systems: its figures are those of the pages, and its commands exist and run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from gncadeq.cli import app
from gncadeq.commands import zoo
from gncadeq.commands.systems import SYSTEMS

ROOT = Path(__file__).parents[1]
RUNNER = CliRunner()
TITLE = re.compile(r"^#+ (.*)$", re.M)


@pytest.mark.parametrize("one", SYSTEMS, ids=lambda one: one.name)
def test_a_system_is_what_its_page_says(one):
    page, *section = one.where.split("#")
    text = (ROOT / page).read_text()
    titles = [re.sub(r"[^\w\s-]", "", t.lower()).replace(" ", "-") for t in TITLE.findall(text)]
    assert set(section) <= set(titles)
    for figure in re.findall(r"\d[\d.,e-]*\d|\d", one.here):
        assert re.search(rf"(?<![\d.]){re.escape(figure)}(?!\d)", text), figure
    root = typer.main.get_command(app)
    for command in (*one.to_run(False), *one.to_run(True)):
        first, *words = shlex.split(command)
        options = [word for word in words if word.startswith("--")]
        if first == "gncadeq":
            known = {
                o for p in root.commands[words[0]].params for o in (*p.opts, *p.secondary_opts)
            }
            assert known >= set(options)
        else:
            source = (ROOT / words[0]).read_text()
            assert all(f'"{option}"' in source for option in options), command


def test_names_differ():
    assert len({one.name for one in SYSTEMS}) == len(SYSTEMS)


def test_the_list_and_a_dry_run_start_nothing(monkeypatch):
    monkeypatch.setattr(subprocess, "run", None)
    listed = RUNNER.invoke(app, ["zoo"])
    assert listed.exit_code == 0
    assert all(one.name in listed.output for one in SYSTEMS)
    printed = RUNNER.invoke(app, ["zoo", "conv-deq", "--data-root", "here", "--dry-run"])
    assert "$ gncadeq train mnist --recipe conv --data-root here" in printed.output
    printed = RUNNER.invoke(app, ["zoo", "conv-deq", "--dry-run"])
    assert "$ gncadeq train mnist --recipe conv --out" in printed.output  # no DATA to copy


def test_data_go_to_the_commands_that_take_them(monkeypatch):
    calls = []

    def run(words, check):
        calls.append(words)
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(subprocess, "run", run)
    assert RUNNER.invoke(app, ["zoo", "conv-deq"]).exit_code == 0
    assert all("DATA" not in words and "--data-root" not in words for words in calls)
    assert RUNNER.invoke(app, ["zoo", "superpixels", "--data-root", "x"]).exit_code == 0
    assert calls[-1][1:4] == [str(ROOT / "examples/superpixels.py"), "--data-root", "x"]


def test_a_command_that_fails_ends_it(monkeypatch):
    monkeypatch.setattr(
        subprocess, "run", lambda words, check: subprocess.CompletedProcess(words, 3)
    )
    assert RUNNER.invoke(app, ["zoo", "conv-deq"]).exit_code == 3


def test_without_a_checkout_the_remedy_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(zoo, "__file__", str(tmp_path / "gncadeq" / "commands" / "zoo.py"))
    result = RUNNER.invoke(app, ["zoo", "life"])
    assert isinstance(result.exception, FileNotFoundError)
    assert "checkout" in str(result.exception)


OURS = [one.name for one in SYSTEMS if all(c.startswith("gncadeq") for c in one.to_run(True))]
"""The others are examples, each of which CI runs in its smoke mode."""


@pytest.mark.parametrize("name", OURS)
def test_smoke_runs_of_commands(name, monkeypatch, tmp_path):
    def run(words, check):
        assert words[:3] == [sys.executable, "-m", "gncadeq.cli"]
        done = RUNNER.invoke(app, words[3:])
        return subprocess.CompletedProcess(words, done.exit_code)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.chdir(tmp_path)
    done = RUNNER.invoke(app, ["zoo", name, "--smoke"])
    assert done.exit_code == 0, done.output
    assert any((tmp_path / "runs" / "zoo" / "smoke").iterdir())
