"""Build the documentation: ``make docs`` writes ``docs/_build/html``; warnings are errors."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from docutils import nodes

from gncadeq import __version__
from gncadeq.commands.play import gallery
from gncadeq.viz import write_play

project = "gncadeq"
author = "The gncadeq authors"
copyright = "The gncadeq authors"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"gncadeq {version}"

# The pages: Markdown, with the names of headings as anchors.
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 4

# The tutorials are notebooks, run anew in every build; an error in a cell ends the build.
nb_execution_mode = "force"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_merge_streams = True
nb_output_stderr = "remove"

# The reference comes from the docstrings.
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"show-inheritance": True}
autosummary_generate = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Shapes", "notes_style"), ("Shape", "notes_style")]
napoleon_use_rtype = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


# Links: a name in a docstring must exist, and leads to its place in the reference, if it has one.
nitpicky = True
nitpick_ignore = [("py:class", "ExportedProgram")]  # of torch.export, imported for types alone
# make links also looks at the pages elsewhere, for which it needs a network.
linkcheck_timeout = 20
linkcheck_retries = 2
linkcheck_workers = 4
linkcheck_ignore = [r"http://localhost"]


def find_name(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Link a name by another path than that of the reference (``gncadeq.GraphDEQ``).

    A name that exists and is not in the reference is shown without a link; for one that does not
    exist, nothing is returned, and the build fails.
    """
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not re.fullmatch(r"[\w.]+", target):
        return None
    if "." in target and not exists(target) and not exists(f"{node.get('py:module')}.{target}"):
        return None
    domain = env.get_domain("py")
    last = target.split(".")[-2:]
    for tail in ("." + ".".join(last), "." + last[-1]):
        found = [name for name in domain.objects if name.endswith(tail)]
        if found:
            entry = domain.objects[min(found, key=len)]
            uri = f"{app.builder.get_relative_uri(node['refdoc'], entry.docname)}#{entry.node_id}"
            return nodes.reference("", "", content, internal=True, refuri=uri)
    known = [module for name, module in sys.modules.items() if name.startswith("gncadeq")]
    return content if "." in target or any(hasattr(each, target) for each in known) else None


def exists(path: str) -> bool:
    """Whether there is an object of that dotted name."""
    parts = path.split(".")
    for count in range(len(parts), 0, -1):
        try:
            value = import_module(".".join(parts[:count]))
        except ImportError:
            continue
        for name in parts[count:]:
            if name in getattr(value, "__annotations__", ()):  # a field without a default
                return True
            if not hasattr(value, name):
                return False
            value = getattr(value, name)
        return True
    return False


def write_commands(app: Any) -> None:
    """Write the page of the commands, from what ``--help`` knows."""
    page = Path(app.srcdir) / "reference" / "commands.md"
    options = ["--name", "gncadeq", "--title", "Commands", "--output", str(page)]
    subprocess.run(
        [sys.executable, "-m", "typer", "gncadeq.cli", "utils", "docs", *options],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def write_gallery(app: Any, error: Exception | None) -> None:
    """Write the page that docs/play.md embeds."""
    if error is None and app.builder.format == "html":
        write_play(Path(app.outdir) / "gallery.html", gallery())


def setup(app: Any) -> None:
    """Write what is written anew in every build."""
    app.connect("builder-inited", write_commands)
    app.connect("build-finished", write_gallery)
    app.connect("missing-reference", find_name)
