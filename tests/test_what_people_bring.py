"""The page of what people bring names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
ROW = re.compile(r"^\| .* \| `(test_\w+\.py)::(test_\w+)` \|$")


def test_every_line_names_a_test():
    lines = [
        line
        for line in (HERE / "what_people_bring.md").read_text().splitlines()
        if line.startswith("| ") and line != "| brought | test |"
    ]
    assert len(lines) > 60
    for line in lines:
        found = ROW.match(line)
        assert found, line
        file, test = found.groups()
        assert f"\ndef {test}(" in (HERE / file).read_text(), line
