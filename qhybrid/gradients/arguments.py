"""What gradient methods take as arguments, and how they refuse all else when they are made."""

from __future__ import annotations

from collections.abc import Collection
from math import isfinite
from numbers import Integral, Real
from typing import Any, NoReturn

from qhybrid.errors import DifferentiationError


def refuse(method: Any, name: str, value: Any, allowed: str) -> NoReturn:
    """Refuse an argument of a method.

    Args:
        method: the method, or its class
        name: of the argument
        value: what was given
        allowed: what can be given, as an order

    Raises:
        DifferentiationError: always
    """
    kind = method if isinstance(method, type) else type(method)
    raise DifferentiationError(f"{kind.__name__} got {name}={value!r}; {allowed}.")


def positive(value: Any) -> float | None:
    """A positive, finite real number as a ``float``; ``None`` if a value is none.

    >>> positive(2), positive(-0.5), positive("2"), positive(True)
    (2.0, None, None, None)
    """
    plain = _plain(value)
    if isinstance(plain, bool) or not isinstance(plain, Real):
        return None
    try:
        number = float(plain)
    except OverflowError:
        return None
    return number if number > 0 and isfinite(number) else None


def whole(value: Any) -> int | None:
    """A positive integer as an ``int``; ``None`` if a value is none."""
    plain = _plain(value)
    if isinstance(plain, bool) or not isinstance(plain, Integral):
        return None
    return int(plain) if int(plain) > 0 else None


def step(method: Any, value: Any, example: float) -> float:
    """The step ``h`` of differences.

    Raises:
        DifferentiationError: it is not a positive number
    """
    number = positive(value)
    if number is None:
        refuse(method, "h", value, f"the step must be a positive number, for example {example:g}")
    return number


def count(method: Any, name: str, value: Any) -> int:
    """A number of things.

    Raises:
        DifferentiationError: it is not a positive integer
    """
    number = whole(value)
    if number is None:
        refuse(method, name, value, "give a positive integer")
    return number


def choice(method: Any, name: str, value: Any, choices: Collection[Any]) -> Any:
    """One of several values.

    Raises:
        DifferentiationError: it is none of them; lists them
    """
    plain = _plain(value)
    for known in choices:
        if isinstance(plain, type(known)) and not isinstance(plain, bool) and plain == known:
            return known
    names = [f'"{known}"' if isinstance(known, str) else repr(known) for known in choices]
    return refuse(method, name, value, f"choose {' or '.join(names)}")


def _plain(value: Any) -> Any:
    """A number of NumPy or PyTorch as Python's; everything else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 else value
