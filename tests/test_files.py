"""Files: written whole or not at all, checked when read, bounded by their own size."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch.utils._python_dispatch import TorchDispatchMode

from gncadeq import PixelGraphClassifier
from gncadeq.cells import GrowingCell
from gncadeq.files import atomic
from gncadeq.files.atomic import write_atomically
from gncadeq.files.checkpoints import (
    Checkpoints,
    ForeignCheckpointError,
    read_checkpoint,
    write_checkpoint,
)
from gncadeq.files.run_lock import run_lock
from gncadeq.files.tensors import read_header, read_tensors, write_tensors
from gncadeq.files.weights import load_pretrained, save_pretrained


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match=r"No space left.*a\.json") as caught:
        write_atomically(path, b"new")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.json"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file/a\.json"):
        write_atomically(tmp_path / "file" / "a.json", b"")


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    machine = atomic._machine()
    left = f".gncadeq-{machine}-{ended.pid}-00.tmp"
    others = [
        f".gncadeq-{machine}-{os.getppid()}-00.tmp",
        f".gncadeq-not{machine}-{ended.pid}-0.tmp",
    ]
    for name in (left, *others, "mine.tmp"):
        (tmp_path / name).write_text("half")
    write_atomically(tmp_path / "a", b"whole")
    assert names(tmp_path) == sorted([*others, "a", "mine.tmp"])


def test_links_and_devices_stay_what_they_are(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"
    write_atomically("/dev/null", b"gone")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    code = (
        "from gncadeq.files.atomic import write_atomically as write;"
        "print(1); write('/dev/stdout', b'2\\n'); print(3)"
    )
    with (tmp_path / "out").open("w") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert (tmp_path / "out").read_text() == "1\n2\n3\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == b"1\n2\n3\n"


def test_a_name_of_the_greatest_length_is_written(tmp_path):
    write_atomically(tmp_path / ("n" * 255), b"whole")
    assert names(tmp_path) == ["n" * 255]


def test_a_flipped_bit_never_changes_what_is_read(tmp_path):
    path = tmp_path / "t.safetensors"
    tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(True), "c": torch.empty(0, 2)}
    write_tensors(path, tensors, {"of": "me"})
    whole, refused = path.read_bytes(), 0
    for place in range(len(whole)):
        for bit in (1 << place % 8, 128):
            cut = bytearray(whole)
            cut[place] ^= bit
            path.write_bytes(cut)
            try:
                read, metadata = read_tensors(path)
            except ValueError:
                refused += 1
            else:  # the name of the checksum itself was hit
                assert read.keys() == tensors.keys()
                assert all(torch.equal(read[k], tensors[k]) for k in tensors)
                assert metadata["of"] == "me"
    assert refused >= 2 * (len(whole) - len("sha256"))
    assert read_header_of(path, whole) == {"a": (2, 3), "b": (), "c": (0, 2)}


def test_tensors_of_any_layout_are_written(tmp_path):
    whole = torch.arange(24.0).view(2, 3, 4)
    tensors = {
        "one of many": torch.arange(4)[1::2][:1], "columns": whole[..., ::2], "turned": whole.mT,
        "expanded": torch.ones(1).expand(5), "scalar": whole[1, 1, 1], "none": whole[:0, :, ::2],
        "half": whole.half(), "bfloat": whole.bfloat16(), "flags": whole > 3, "shared": whole,
        "complex": torch.complex(whole, whole), "gradient": whole.clone().requires_grad_(),
    }  # fmt: skip
    write_tensors(tmp_path / "t.safetensors", tensors)
    read = read_tensors(tmp_path / "t.safetensors").tensors
    assert all(torch.equal(read[name], value) for name, value in tensors.items())


def read_header_of(path, content):
    path.write_bytes(content)
    return read_header(path)[0]


def test_weights_hold_what_was_saved(tmp_path):
    path = tmp_path / "w.safetensors"
    for cell in (GrowingCell(6, 3, 8), GrowingCell(4, 9, 8).double()):
        save_pretrained(cell, path, {"a": 1})
        again = load_pretrained(GrowingCell, path)
        assert again.card == {"a": 1}
        for a, b in zip(cell.parameters(), again.parameters(), strict=True):
            assert torch.equal(a.float(), b)


class Largest(TorchDispatchMode):
    """Records how many numbers the largest tensor with memory has."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and not out.is_meta:
            self.numel = max(self.numel, out.numel())
        return out


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (PixelGraphClassifier, {"channels": 8000}),
        (PixelGraphClassifier, {"hidden_channels": 10**9}),
        (GrowingCell, {"channels": 10**6, "num_kernels": 10**4}),
        (GrowingCell, {"channels": 10**12, "num_kernels": 10**12}),
    ],
)
def test_a_small_file_takes_little_memory(tmp_path, kind, config):
    path = tmp_path / "small.safetensors"
    header = {"architecture": kind.__name__, "config": json.dumps(config), "card": "{}"}
    path.write_bytes(save({}, metadata=header))
    assert path.stat().st_size < 256
    with Largest() as seen, pytest.raises(ValueError, match="fit their configuration"):
        load_pretrained(kind, path)
    assert seen.numel < 100_000


def damaged(value):
    state = GrowingCell(4, 1, 8).state_dict()
    name = next(iter(state))
    return {**state, name: value(state[name])}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (damaged(lambda v: torch.full_like(v, 1e300, dtype=torch.double)), "not finite"),
        (damaged(lambda v: torch.full_like(v, float("nan"))), "not finite"),
        (damaged(lambda v: v.to(torch.complex64)), r"float32.*complex64"),
        (damaged(lambda v: torch.ones_like(v, dtype=torch.long)), r"float32.*int64"),
        (damaged(lambda v: v[:-1]), "should be"),
        ({}, "no such tensor"),
    ],
)
def test_weights_that_the_model_cannot_hold_are_refused(tmp_path, tensors, message):
    path = tmp_path / "w.safetensors"
    header = {
        "architecture": "GrowingCell", "card": "{}",
        "config": json.dumps(GrowingCell(4, 1, 8).config),
    }  # fmt: skip
    write_tensors(path, tensors, header)
    with pytest.raises(ValueError, match=message):
        load_pretrained(GrowingCell, path)


@pytest.mark.parametrize(
    "header",
    [
        {"config": "[" * 100_000},
        {"config": "[1]"},
        {"card": "null"},
        {"config": '{"channels": "many"}'},
        {"config": '{"channels": 1e400}'},
        {"config": '{"colour": 3}'},
    ],
)
def test_headers_that_are_no_configuration_are_refused(tmp_path, header):
    path = tmp_path / "w.safetensors"
    write_tensors(path, {}, {"architecture": "GrowingCell", "config": "{}", "card": "{}", **header})
    with pytest.raises(ValueError, match=r"Expected weights.*w\.safetensors"):
        load_pretrained(GrowingCell, path)


def test_a_checkpoint_with_a_flipped_bit_is_refused(tmp_path):
    path = tmp_path / "step=1.ckpt"
    write_checkpoint(path, {"w": torch.randn(40), "step": 3, "names": ["a", {"b": 0.5}]}, "mine")
    assert read_checkpoint(path, "mine")["names"] == ["a", {"b": 0.5}]
    whole = path.read_bytes()
    for place in [*range(128), *range(128, len(whole), 5)]:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"step=1\.ckpt"):
            read_checkpoint(path, "mine")
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="damaged"):
            read_checkpoint(path, "mine")


def test_the_newest_checkpoint_is_found_by_its_number(tmp_path):
    checkpoints = Checkpoints(tmp_path, "mine")
    assert checkpoints.newest() is None
    for step in (8, 9, 10, 99_999_999, 100_000_000):
        checkpoints.save(step, {"step": step})
        assert checkpoints.newest() == {"step": step}
        assert len(names(tmp_path)) <= 2


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path):
    checkpoints = Checkpoints(tmp_path, "mine")
    for step in (1, 2, 3):
        checkpoints.save(step, {"step": step})
    newest = checkpoints.path(3)
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=r"step=00000003\.ckpt.*damaged.*from step=00000002"):
        assert checkpoints.newest() == {"step": 2}
    checkpoints.save(3, {"step": "again"})
    assert checkpoints.newest() == {"step": "again"}
    newest.write_bytes(b"")
    checkpoints.path(2).write_bytes(b"")
    with pytest.raises(ValueError, match="damaged"):
        checkpoints.newest()


def test_a_checkpoint_of_another_run_is_not_taken(tmp_path):
    mine, other = Checkpoints(tmp_path / "a", "mine"), Checkpoints(tmp_path / "b", "other")
    other.save(9, {"step": 9})
    mine.save(4, {"step": 4})
    shutil.copy(other.path(9), mine.path(9))
    with pytest.warns(UserWarning, match=r"of the run 'other'.*from step=00000004"):
        assert mine.newest() == {"step": 4}
    mine.save(5, {"step": 5})
    assert names(mine.folder) == [
        "step=00000004.ckpt",
        "step=00000005.ckpt",
        "step=00000009.unused",
    ]
    mine.path(4).unlink()
    mine.path(5).unlink()
    shutil.copy(other.path(9), mine.path(9))
    with pytest.raises(ForeignCheckpointError, match="of the run 'other'"):
        mine.newest()


def test_one_process_holds_a_folder(tmp_path):
    folder = tmp_path / "new" / "run"
    with run_lock(folder):
        assert names(folder) == ["run.lock"]
        message = rf"process {os.getpid()} on .*another --out"
        with pytest.raises(RuntimeError, match=message), run_lock(folder):
            pytest.fail("two hold it")
    assert not folder.exists()
    with run_lock(folder):
        (folder / "made").write_text("")
    with pytest.raises(ZeroDivisionError), run_lock(folder):
        1 / 0  # noqa: B018
    with run_lock(folder):
        pass
    assert names(folder) == ["made"]
