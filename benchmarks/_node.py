"""The scripts of the page of ``gncadeq play``, under node."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.resources import files

from gncadeq.viz.page import SCRIPTS


def run_node(driver: str, text: str) -> str:
    """What a driver prints, which finds all scripts that need no browser, and ``text`` to read.

    Ends the program with a sentence where node is missing, or fails.
    """
    node = shutil.which("node")
    if node is None:
        sys.exit(
            "Expected node on the path (got none). Install it (Debian: apt-get install nodejs)"
        )
    here = files("gncadeq.viz")
    source = "\n".join(here.joinpath(name).read_text("utf-8") for name in SCRIPTS)
    done = subprocess.run(
        [node, "-e", source.replace('"use strict";', "") + driver], input=text,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if re.match(r"\w*Error", line)]
        got = said[0].strip() if said else f"exit status {done.returncode}"
        sys.exit(f"Expected node to run the scripts of the page (got {got}). Use node 18 or later")
    return done.stdout
