"""Run benchmarks by name: ``python -m benchmarks NAME [OPTIONS]``, or ``all`` of them."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

from gncadeq.check import did_you_mean


def names() -> dict[str, str]:
    """Each benchmark's name and the first line of its description; nothing is imported."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        found[path.stem] = text.partition("\n")[0]
    return found


def run_all(known: list[str], options: list[str]) -> int:
    """Run every benchmark in a process of its own; ``options`` go to those that know them."""
    failed = []
    for name in known:
        module = Path(__file__).parent / f"{name}.py"
        wanted = "--data-root" in module.read_text()
        print(f"== {name}", flush=True)
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks", name]
        if subprocess.run([*command, *(options if wanted else [])], check=False).returncode:
            failed.append(name)
    if failed:
        print(f"These failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def main() -> int:
    """List the benchmarks, or run one."""
    known = names()
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print("python -m benchmarks NAME [OPTIONS], with NAME 'all' or one of\n")
        for name, text in known.items():
            print(f"  {name:18} {text}")
        return 0
    name = sys.argv[1]
    if name == "all":
        return run_all(list(known), sys.argv[2:])
    if name not in known:
        hint = did_you_mean(name, known)
        print(f"Expected a benchmark of {list(known)} (got {name!r}){hint}", file=sys.stderr)
        return 2
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
    sys.argv = [f"benchmarks {name}", *sys.argv[2:]]
    import_module(f"benchmarks.{name}").main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
