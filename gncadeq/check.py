"""The checks of arguments, once: each returns the value, or says what was expected and what came.

Nothing heavy is imported, so that the command line can use them before torch is loaded.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from importlib import import_module
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

T = TypeVar("T")
LARGEST = 2**31 - 1  # count: what is made of so many doesn't fit into memory


def check_number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
    hint: str = "",
) -> float:
    """Return a finite number within bounds as a ``float``.

    Args:
        name: What the caller named the value.
        value: The value.
        above: It must be greater than this.
        least: It must be at least this.
        below: It must be less than this.
        most: It must be at most this.
        hint: A sentence that names the remedy.

    Raises:
        TypeError: If the value is no number.
        ValueError: If it is NaN, infinite or out of bounds.

    Example:
        >>> check_number("tol", float("nan"), above=0)
        Traceback (most recent call last):
        ValueError: Expected 'tol' to be a finite number above 0 (got nan)
    """
    expected = "a finite number" + _bounds(above, least, below, most)
    # A 0-dim array or tensor counts as a number; a truth value doesn't.
    if not isinstance(value, bool | str | bytes) and hasattr(value, "item"):
        value = value.item() if getattr(value, "ndim", 0) == 0 else value
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(_message(name, expected, value, hint))
    try:
        number = float(value)
    except OverflowError:  # a whole number such as 10**400
        number = math.inf
    inside = (
        math.isfinite(number)
        and (above is None or number > above)
        and (least is None or number >= least)
        and (below is None or number < below)
        and (most is None or number <= most)
    )
    if not inside:
        raise ValueError(_message(name, expected, value, hint))
    return number


def check_count(
    name: str,
    value: Any,
    least: int = 0,
    most: int | None = None,
    hint: str = "",
    odd: bool = False,
) -> int:
    """Return a whole number within bounds, an odd one if asked for, as an ``int``.

    Raises:
        TypeError: If the value is no whole number; ``2.0`` is none.
        ValueError: If it is out of bounds.

    Example:
        >>> check_count("max_steps", 2.5)
        Traceback (most recent call last):
        TypeError: Expected 'max_steps' to be a whole number of at least 0 (got 2.5)
    """
    expected = f"{'an odd' if odd else 'a whole'} number" + _bounds(None, least, None, most)
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(_message(name, expected, value, hint))
    number = int(value)
    if number > LARGEST and most is None:
        most, expected = LARGEST, expected + f" and of at most {LARGEST}"
    if number < least or (most is not None and number > most) or (odd and number % 2 == 0):
        raise ValueError(_message(name, expected, value, hint))
    return number


def check_choice(name: str, value: T, choices: Iterable[Any], hint: str = "") -> T:
    """Return a value that is one of the choices.

    Raises:
        ValueError: If it isn't; the error names the nearest choice.

    Example:
        >>> check_choice("solver", "andersen", ["picard", "anderson"])
        Traceback (most recent call last):
        ValueError: Expected 'solver' to be 'picard' or 'anderson' (got 'andersen'). Did you mean
        'anderson'?
    """
    known = list(choices)
    if any(
        value is choice or (type(value) is type(choice) and value == choice) for choice in known
    ):
        return value
    near = "" if hint else did_you_mean(value, known)
    listed = ", ".join(map(repr, known[:-1]))
    expected = f"{listed} or {known[-1]!r}" if listed else repr(known[-1])
    raise ValueError(_message(name, expected, value, hint) + near)


def did_you_mean(value: Any, known: Iterable[Any]) -> str:
    """The end of an error about an unknown name: the nearest that is known, if one is near.

    Example:
        >>> did_you_mean("andersen", ["picard", "anderson"])
        ". Did you mean 'anderson'?"
    """
    words = [name for name in known if isinstance(name, str)]
    near = get_close_matches(value, words, 1) if isinstance(value, str) else []
    return f". Did you mean {near[0]!r}?" if near else ""


def check_flag(name: str, value: Any, hint: str = "") -> bool:
    """Return ``True`` or ``False``.

    Raises:
        TypeError: If the value is neither.

    Example:
        >>> check_flag("compact", 1)
        Traceback (most recent call last):
        TypeError: Expected 'compact' to be True or False (got 1)
    """
    if not isinstance(value, bool):
        raise TypeError(_message(name, "True or False", value, hint))
    return value


def check_seed(seed: Any) -> int:
    """Return a seed that all generators of random numbers take.

    Example:
        >>> check_seed(0.5)
        Traceback (most recent call last):
        TypeError: Expected 'seed' to be a whole number of at least 0 and of at most
        9223372036854775807 (got 0.5)
    """
    return check_count("seed", seed, most=2**63 - 1)


def check_type(name: str, value: Any, kind: type | tuple[type, ...], hint: str = "") -> None:
    """Refuse a value that isn't an instance of a class, such as a list in the place of a tensor.

    Raises:
        TypeError: If it is none.

    Example:
        >>> check_type("options", 3, dict)
        Traceback (most recent call last):
        TypeError: Expected 'options' to be a dict (got 3)
    """
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        expected = " or ".join(f"a {each.__name__}" for each in kinds)
        raise TypeError(_message(name, expected, value, hint))


def check_options(name: str, options: Any, function: Callable[..., Any]) -> dict[str, Any]:
    """Return a dictionary of options that a function takes, empty for ``None``.

    Raises:
        TypeError: If it is no dictionary.
        ValueError: If the function doesn't take one of them.

    Example:
        >>> check_options("where", {"least": 1, "most": 2}, check_count)
        {'least': 1, 'most': 2}
    """
    check_type(name, {} if options is None else options, dict)
    for option in options or {}:
        check_choice(name, option, inspect.signature(function).parameters)
    return dict(options or {})


def check_value(name: str, value: Any, kind: Any, **limits: Any) -> Any:
    """Return the value of a field, checked by the field's type.

    Args:
        name: The field.
        value: Its value.
        kind: ``bool``, ``int``, ``float``, a ``Literal``, another class, or one of them
            ``| None``.
        limits: Keywords of :func:`check_count` or :func:`check_number`, or a ``hint``.

    Raises:
        TypeError: If it is of another type.
        ValueError: If it is out of bounds.

    Example:
        >>> check_value("clip", "much", float | None, above=0)
        Traceback (most recent call last):
        TypeError: Expected 'clip' to be a finite number above 0 (got 'much'). Or use None
    """
    if get_origin(kind) in (Union, UnionType):
        if value is None:
            return None
        (kind,) = (each for each in get_args(kind) if each is not NoneType)
        if kind in (int, float):
            limits.setdefault("hint", "Or use None")
    if get_origin(kind) is Literal:
        return check_choice(name, value, get_args(kind), **limits)
    if kind is bool:
        return check_flag(name, value)
    if kind is int:
        return check_count(name, value, **limits)
    if kind is float:
        return check_number(name, value, **limits)
    check_type(name, value, get_origin(kind) or kind)
    return value


def import_extra(name: str, extra: str) -> Any:
    """Import a module of an extra of the package, or say how to get it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(
            f"Expected the extra '{extra}' ({error}). pip install 'gncadeq[{extra}]'"
        ) from error


def _bounds(
    above: float | None, least: float | None, below: float | None, most: float | None
) -> str:
    words = [
        f"{word} {limit if isinstance(limit, int) else format(limit, 'g')}"
        for word, limit in (
            ("above", above), ("of at least", least), ("below", below), ("of at most", most)
        )
        if limit is not None
    ]  # fmt: skip
    return " " + " and ".join(words) if words else ""


def _message(name: str, expected: str, value: Any, hint: Any) -> str:
    try:
        shown = repr(value)
    except Exception:  # a number of more digits than Python prints, or an object half made
        shown = f"a {type(value).__name__}"
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return f"Expected '{name}' to be {expected} (got {shown})" + (f". {hint}" if hint else "")
