"""Commands that pages and examples name exist, with their options; so do imports of examples."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest
import typer
from conftest import REPOSITORY, run_page

from gncadeq.cli import app

SCRIPT = re.compile(r"python ((?:examples|benchmarks)/\w+\.py)((?:[ \t]+[^\s`#|]+)*)")
COMMAND = re.compile(r"(?:^ *(?:\$ )?|`)gncadeq ([a-z]+)((?:[ \t]+[^\s`#|]+)*)", re.M)
OPTION = re.compile(r"(?<!\S)--[a-z][\w-]*")
SCRIPTS = (REPOSITORY / "examples").glob("*.py")
EXAMPLES = sorted(path for path in SCRIPTS if "__main__" in path.read_text())
PAGES = [
    REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("**/*.md")), *EXAMPLES,
]  # fmt: skip


def text_of(page: Path) -> str:
    return re.sub(r"\\\n\s*", " ", page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_exist(page):
    for script, arguments in SCRIPT.findall(text_of(page)):
        assert (REPOSITORY / script).is_file(), script
        source = (REPOSITORY / script).read_text()
        for option in OPTION.findall(arguments):
            assert f'"{option}"' in source, f"{script} {option}"
    root = typer.main.get_command(app)
    for name, arguments in COMMAND.findall(text_of(page)):
        assert name in root.commands, name
        params = [*root.params, *root.commands[name].params]
        known = {o for p in params for o in (*p.opts, *p.secondary_opts)}
        assert known | {"--help"} >= set(OPTION.findall(arguments)), name


def test_commands_are_found():
    found = [script for page in PAGES for script, _ in SCRIPT.findall(text_of(page))]
    assert {f"examples/{path.name}" for path in EXAMPLES} <= set(found)
    assert len([1 for page in PAGES for _ in COMMAND.findall(text_of(page))]) > 10


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_what_an_example_imports_is_there(example, monkeypatch):
    monkeypatch.syspath_prepend(str(example.parent))
    for node in ast.walk(ast.parse(example.read_text())):
        if not (isinstance(node, ast.ImportFrom) and node.module):
            continue
        beside = example.parent / f"{node.module}.py"
        if beside.is_file():
            for name in node.names:
                defined = rf"^(def |class )?{name.name}\b"
                assert re.search(defined, beside.read_text(), re.M), name.name
        else:
            assert importlib.util.find_spec(node.module.partition(".")[0]), node.module


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_a_smoke_run_does_not_write_over_measurements(example):
    source = example.read_text()
    assert "tempfile.mkdtemp(" in source or '"--out"' not in source


@pytest.mark.parametrize("page", ["graph_automata", "path_independence", "rest", "torchdeq"])
def test_the_snippets_of_a_page_run(page):
    run_page(page)
