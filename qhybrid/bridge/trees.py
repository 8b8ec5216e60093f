"""Tuples, lists and dicts of leaves, also those that autograd has boxed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from autograd.builtins import DictBox, SequenceBox

Rebuild = Callable[[Iterator[Any]], Any]


def flatten(tree: Any) -> tuple[list[Any], Rebuild]:
    """The leaves of nested tuples, named tuples, lists and dicts, and what builds the tree from an iterator of them.

    Example:
        >>> leaves, rebuild = flatten({"a": 1, "b": (2, [3])})
        >>> leaves
        [1, 2, 3]
        >>> rebuild(x * 10 for x in leaves)
        {'a': 10, 'b': (20, [30])}
    """
    if isinstance(tree, dict | DictBox):
        keys = list(tree.keys())
        leaves, rebuilds = _flatten_each([tree[key] for key in keys])
        return leaves, lambda new: {key: rebuild(new) for key, rebuild in zip(keys, rebuilds, strict=True)}
    if isinstance(tree, tuple | list | SequenceBox):
        kind = type(tree._value) if isinstance(tree, SequenceBox) else type(tree)
        make = getattr(kind, "_make", kind)  # a named tuple
        leaves, rebuilds = _flatten_each([tree[k] for k in range(len(tree))])
        return leaves, lambda new: make([rebuild(new) for rebuild in rebuilds])
    return [tree], next


def _flatten_each(trees: list[Any]) -> tuple[list[Any], list[Rebuild]]:
    flat = [flatten(tree) for tree in trees]
    return [leaf for leaves, _ in flat for leaf in leaves], [rebuild for _, rebuild in flat]
