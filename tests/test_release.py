"""The files that name the version name the same one."""

from __future__ import annotations

import re

from conftest import REPOSITORY

from gncadeq import __version__


def test_the_version_stands_in_every_file_that_names_it():
    assert f"\nversion: {__version__}\n" in (REPOSITORY / "CITATION.cff").read_text()
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", changelog(), re.M)
    assert released[0] == __version__


def changelog() -> str:
    return (REPOSITORY / "CHANGELOG.md").read_text()
