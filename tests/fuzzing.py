"""Cases for the fuzzer: damaged files, options of commands, arguments of the library.

A case ends with a result or with a named error, within :data:`SECONDS` and :data:`BYTES`.
"""

from __future__ import annotations

import gzip
import pickle
import random
import resource
import signal
import struct
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import torch

from gncadeq import ConvergenceError

SECONDS = 10
BYTES = 1 << 30
NAMED = (ValueError, TypeError, OSError, ImportError, FloatingPointError, ConvergenceError)
Case = tuple[str, Callable[[], object]]


class Bomb:
    """An object whose pickle makes a file when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def is_named(error: BaseException) -> bool:
    """Whether an error says what was expected; system errors name the file and the cause."""
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return True
    return isinstance(error, NAMED) and str(error).startswith("Expected")


@contextmanager
def limits() -> Iterator[None]:
    """End what takes longer than :data:`SECONDS`, or more than :data:`BYTES` beyond what is used.

    Raises:
        TimeoutError: If it takes longer.
        MemoryError: If it takes more; torch raises a ``RuntimeError`` then.
    """

    def late(*_: object) -> None:
        raise AssertionError(f"no end after {SECONDS} s")

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, late)
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, before[1]))
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def outcome(run: Callable[[], object]) -> str | None:
    """Run a case; returns what went wrong, or ``None``."""
    try:
        with limits(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run()
    except Exception as error:
        if not is_named(error):
            return f"{type(error).__name__}: {str(error)[:300]}"
    return None


# Files


def mutate(content: bytes, draw: random.Random, mark: Path) -> bytes:
    """Damage a file's content once or several times."""
    whole = {
        "pickle": lambda: pickle.dumps(Bomb(mark)),
        "empty": lambda: b"",
        "noise": lambda: draw.randbytes(draw.randrange(1, 200)),
        "deep": lambda: draw.choice([b"[", b'{"a":', b"<a>", b"graph [ "]) * 20_000,
    }
    if draw.random() < 0.1:
        return whole[draw.choice(list(whole))]()
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        content = _MUTATIONS[draw.randrange(len(_MUTATIONS))](content, draw)
    return content


def _place(content: bytes, draw: random.Random) -> int:
    # Headers are at the start, and are what readers trust.
    most = len(content) if draw.random() < 0.5 else min(len(content), 120)
    return draw.randrange(most + 1)


def _truncate(content: bytes, draw: random.Random) -> bytes:
    return content[: _place(content, draw)]


def _flip(content: bytes, draw: random.Random) -> bytes:
    out = bytearray(content)
    for _ in range(draw.choice((1, 1, 3))):
        if out:
            out[min(_place(content, draw), len(out) - 1)] ^= 1 << draw.randrange(8)
    return bytes(out)


def _splice(content: bytes, draw: random.Random) -> bytes:
    a, b, c = (_place(content, draw) for _ in range(3))
    return content[:a] + content[min(b, c) : max(b, c)] + content[a:]


def _remove(content: bytes, draw: random.Random) -> bytes:
    a = _place(content, draw)
    return content[:a] + content[a + draw.choice((1, 4, 20)) :]


def _insert(content: bytes, draw: random.Random) -> bytes:
    a = _place(content, draw)
    return content[:a] + draw.choice(_TOKENS) + content[a:]


def _overwrite(content: bytes, draw: random.Random) -> bytes:
    a = _place(content, draw)
    word = draw.choice(
        [struct.pack(f, v) for f, v in
         (("<I", 2**32 - 1), ("<i", -1), ("<Q", 2**63), ("<f", float("nan")), ("<d", 1e300),
          (">I", 2**31), ("<f", 3e38), ("<I", 10**9))]
    )  # fmt: skip
    return content[:a] + word + content[a + len(word) :]


def _number(content: bytes, draw: random.Random) -> bytes:
    """Replace a number in text by another."""
    places = [i for i, byte in enumerate(content[:4000]) if chr(byte).isdigit()]
    if not places:
        return content
    a = b = draw.choice(places)
    while b < len(content) and chr(content[b]).isdigit():
        b += 1
    return content[:a] + draw.choice(_NUMBERS) + content[b:]


def _line(content: bytes, draw: random.Random) -> bytes:
    """Repeat, drop or swap lines."""
    lines = content.split(b"\n")
    i, j = draw.randrange(len(lines)), draw.randrange(len(lines))
    kind = draw.randrange(3)
    if kind == 0:
        lines.insert(i, lines[j])
    elif kind == 1:
        del lines[i]
    else:
        lines[i], lines[j] = lines[j], lines[i]
    return b"\n".join(lines)


_NUMBERS = [b"0", b"-1", b"999999999999", b"1e300", b"nan", b"inf", b"-0.5", b"9" * 40, b"1000000",
            b"9" * 5000]  # fmt: skip
_TOKENS = [b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"nan", b"-1", b"\n", b"\r", b" ", b"#", b'"',
           b"{", b"[", b"1e999", b"\\", b"<", b"%s", b"9" * 30, "\u2028é".encode()]  # fmt: skip
_MUTATIONS = (_truncate, _flip, _flip, _splice, _remove, _insert, _overwrite, _number, _number,
              _line)  # fmt: skip


def file_case(corpus: dict[str, tuple[bytes, Callable]], draw: random.Random, folder: Path) -> Case:
    """Read a damaged file."""
    name = draw.choice(list(corpus))
    content, read = corpus[name]
    mark = folder / "ran"
    packed = name.endswith(".gz")
    if packed and draw.random() < 0.7:  # damage what is in it
        content = gzip.compress(mutate(gzip.decompress(content), draw, mark), 1)
    else:
        content = mutate(content, draw, mark)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)

    def run() -> None:
        read(path)
        assert not mark.exists(), "a pickle was run"

    return f"file {name}", run


# Arguments


WRONG = [
    float("nan"), float("inf"), -float("inf"), -1, 0, 1, 2, 3, 2.5, -0.5, 0.5, 1e300, 10**400,
    True, False, None, "x", "", b"x", [], {}, (), object(), int, [1, 2], {"a": 1}, 1j,
    torch.tensor(float("nan")), torch.tensor(3), torch.zeros(2), torch.zeros(0, 3),
    torch.zeros(2, 2, dtype=torch.long), "é" * 100,
]  # fmt: skip


def call_case(table: dict[str, tuple[Callable, dict]], draw: random.Random) -> Case:
    """Call something public with one or two wrong arguments."""
    name = draw.choice(list(table))
    function, valid = table[name]
    arguments = dict(valid)
    for argument in draw.sample(list(valid), min(len(valid), draw.choice((1, 1, 2)))):
        arguments[argument] = draw.choice(WRONG)
    changed = {k: v for k, v in arguments.items() if v is not valid[k]}
    return f"call {name}({str(changed)[:200]})", lambda: function(**arguments)


# Options


WORDS = ["nan", "inf", "-inf", "-1", "0", "1", "2", "3", "2.5", "0.5", "-0.5", "1e300", "1e-300",
         "none", "x", "", "é", "true", "0x10", "1_0", "none,none", "icosphere:-1",
         "icosphere:99", "torus:1,1", "torus:a", "plane:999999", "--", "-"]  # fmt: skip
LARGE = "9" * 30


def option_case(
    commands: dict[str, tuple[list[str], list]], places: list[str], draw: random.Random
) -> Case:
    """Run a command with one to three random options.

    Args:
        commands: Of each command, words that make it quick and right, and its options.
        places: Where ``--out`` may point.
        draw: The generator.
    """
    name = draw.choice(list(commands))
    words, options = commands[name]
    words = [name, *words]
    for option in draw.sample(options, min(len(options), draw.choice((1, 1, 2, 3)))):
        switch = draw.choice([*option.opts, *option.secondary_opts])
        words.append(switch)
        if option.is_flag:
            continue
        choices = [c for c in get_args(option.type_descriptor.annotation) if isinstance(c, str)]
        if option.name in ("out", "json_file", "data_root"):
            words.append(draw.choice(places))
        elif choices and draw.random() < 0.6:
            words.append(str(draw.choice(choices)))
        elif option.name in _MANY and draw.random() < 0.1:
            words.append(LARGE)
        else:
            words.append(draw.choice(WORDS))
    return "command " + " ".join(words), lambda: command(words)


_MANY = {"seed", "channels", "size", "channel", "radius", "limit", "top", "seed_node", "floor",
         "azimuth", "elevation", "scale", "hidden_channels", "train_limit"}  # fmt: skip


def command(words: list[str]) -> None:
    """Run ``gncadeq`` in this process; an error that isn't named is an ``AssertionError``."""
    import contextlib
    import io

    from gncadeq import cli

    said = io.StringIO()
    argv, shown = sys.argv, warnings.showwarning
    sys.argv = ["gncadeq", *words]
    code: object = 0
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            cli.main()
    except SystemExit as ended:
        code = ended.code or 0
    finally:
        sys.argv, warnings.showwarning = argv, shown
    text = said.getvalue()
    assert "Traceback" not in text, text
    if code == 1:  # 2 is typer's word on usage
        assert "Expected" in text, (code, text[-600:])
        assert "Unexpected" not in text, (code, text[-600:])
    else:
        assert code in (0, 2), (code, text[-600:])
