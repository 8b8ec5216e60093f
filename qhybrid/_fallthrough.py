"""Names that qhybrid does not define are PennyLane's, in the package and in subpackages of the same name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


def fall_through(own: str, theirs: str) -> Callable[[str], Any]:
    """A module ``__getattr__`` that looks a missing name of ``own`` up in PennyLane's module ``theirs``."""

    def look_up(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return getattr(importlib.import_module(theirs), name)
        except AttributeError:
            raise AttributeError(f"neither {own} nor {theirs} has an attribute {name!r}") from None

    return look_up
