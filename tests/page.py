"""What runs the scripts of the page of ``gncadeq play`` under node."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
import torch

from gncadeq.viz.page import SCRIPTS

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
