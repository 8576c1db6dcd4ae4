"""Progress bars, on terminals and in notebooks alone: pipes and log files receive none."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


def shows_progress(wanted: bool = True) -> bool:
    """Whether a progress bar that is wanted has a place to be shown."""
    return wanted and (sys.stderr.isatty() or "ipykernel" in sys.modules)


def progress_bar(*args: Any, progress: bool = True, **options: Any) -> Any:
    """A bar of tqdm's, which takes the arguments.

    Example:
        >>> list(progress_bar([1, 2], progress=False))
        [1, 2]
    """
    return tqdm(*args, disable=not shows_progress(progress), **options)
