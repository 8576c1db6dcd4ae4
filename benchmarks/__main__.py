"""Run a benchmark by its name: ``python -m benchmarks NAME [OPTIONS]``."""

from __future__ import annotations

import ast
import sys
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path


def names() -> dict[str, str]:
    """Each benchmark's name and the first line of its description; nothing is imported."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        found[path.stem] = text.partition("\n")[0]
    return found


def main() -> int:
    """List the benchmarks, or run one."""
    known = names()
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print("python -m benchmarks NAME [OPTIONS], with NAME one of\n")
        for name, text in known.items():
            print(f"  {name:12} {text}")
        return 0
    name = sys.argv[1]
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f". Did you mean {near[0]!r}?" if near else ""
        print(f"Expected a benchmark of {list(known)} (got {name!r}){hint}", file=sys.stderr)
        return 2
    sys.argv = [f"benchmarks {name}", *sys.argv[2:]]
    import_module(f"benchmarks.{name}").main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
