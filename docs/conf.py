"""Build the documentation: ``make docs`` writes ``docs/_build/html``; warnings are errors."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from gncadeq import __version__

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


def write_commands(app: Any) -> None:
    """Write the page of the commands, from what ``--help`` knows."""
    page = Path(app.srcdir) / "reference" / "commands.md"
    options = ["--name", "gncadeq", "--title", "Commands", "--output", str(page)]
    subprocess.run(
        [sys.executable, "-m", "typer", "gncadeq.cli", "utils", "docs", *options],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def setup(app: Any) -> None:
    """Write what is written anew in every build."""
    app.connect("builder-inited", write_commands)
