"""Names that qhybrid does not define are PennyLane's, in the package and in subpackages of the same name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any


def fall_through(own: str, theirs: str, lazy: Mapping[str, str] = MappingProxyType({})) -> Callable[[str], Any]:
    """A module ``__getattr__`` that looks a missing name of ``own`` up in PennyLane's module ``theirs``.

    Args:
        own: the module
        theirs: PennyLane's
        lazy: names of ``own`` that few programs ask for, and the submodules that are imported when one does
    """

    def look_up(name: str) -> Any:
        if name in lazy:
            return getattr(importlib.import_module(f"{own}.{lazy[name]}"), name)
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return getattr(importlib.import_module(theirs), name)
        except AttributeError:
            raise AttributeError(f"neither {own} nor {theirs} has an attribute {name!r}") from None

    return look_up
