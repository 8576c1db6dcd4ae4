"""What opens pages of ``gncadeq play`` in a browser, and runs their scripts under node."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gncadeq.viz.page import SCRIPTS

_EXPECTED = "GPU stall due to ReadPixels"  # what drivers say of states that are read back
_BEFORE = """
const task = JSON.parse(require("fs").readFileSync(0, "utf8"));
const encode = v => Buffer.from(v.buffer, v.byteOffset, v.byteLength).toString("base64");
const out = found => console.log(JSON.stringify(found));
let seed = 1;
Math.random = () => (seed = seed * 48271 % 2147483647) / 2147483647;
"""


def run_node(driver: str, task: dict[str, Any]) -> dict[str, Any]:
    """What a driver puts ``out``, which finds ``task`` and all scripts but those of browsers."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node on the path")
    here = files("gncadeq.viz")
    source = "\n".join(here.joinpath(name).read_text("utf-8") for name in SCRIPTS)
    source = source.replace('"use strict";', "") + _BEFORE + driver
    done = subprocess.run(
        [node, "-e", source], input=json.dumps(task), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def decoded(text: str, channels: int) -> torch.Tensor:
    """What ``encode`` wrote, a row a node."""
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), "<f4").copy()).view(-1, channels)


class Pages:
    """Opens pages; ``close`` sees to it that nothing went wrong in them and nothing was loaded."""

    def __init__(self, browser: Any) -> None:
        self.browser, self.opened, self.troubles = browser, [], []

    def open(
        self, path: Path, address: str = "", size: tuple[int, int] = (900, 600),
        setup: str | None = None, may_load: tuple[str, ...] = ("data:",), may_fail: bool = False,
    ) -> Any:  # fmt: skip
        """The page of a file, with ``setup`` run before its own scripts."""
        view = {"width": size[0], "height": size[1]}
        page = self.browser.new_page(viewport=view, color_scheme="light")
        page.set_default_timeout(20_000)
        if not may_fail:
            page.on("console", lambda message: _EXPECTED in message.text
                    or self.troubles.append(message.text))  # fmt: skip
            page.on("pageerror", lambda error: self.troubles.append(str(error)))
        page.on("request", lambda r: r.url.startswith((path.as_uri(), *may_load))
                or self.troubles.append(r.url))  # fmt: skip
        if setup:
            page.add_init_script(setup)
        page.goto(path.as_uri() + address)
        page.evaluate("play.loaded")
        self.opened.append((page, may_fail))
        return page

    def close(self) -> None:
        """Close all, and fail if anything went wrong."""
        for page, may_fail in self.opened:
            assert may_fail or page.evaluate("play.errors") == []
            page.close()
        assert not self.troubles, self.troubles
