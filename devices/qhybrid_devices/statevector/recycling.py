"""Memory of large arrays, used again.

What a process gets from the system anew is filled with zeros first, page by page as it is touched. A gradient of 18
qubits spends a fifth of its time on that if each call returns its states to the system.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Bytes from which on memory is kept; below, the allocator of the process keeps it.
LARGE = 1 << 20
#: Bytes that are kept at most.
MOST_KEPT = 1 << 26

#: What nobody uses, the last one that was given back at the end. A finalizer may change it at any time.
_KEPT: deque[NDArray] = deque()


class _Loan:
    """The owner of a block while arrays use it; with the last of them it gives the block back."""

    __slots__ = ("__array_interface__", "_block", "_give_back")

    def __init__(self, block: NDArray) -> None:
        self._block, self._give_back = block, _give_back
        self.__array_interface__: dict[str, Any] = block.__array_interface__

    def __del__(self) -> None:
        self._give_back(self._block)


def bytes_of(size: int) -> NDArray:
    """So many bytes, not initialised."""
    if not LARGE <= size <= MOST_KEPT:
        return np.empty(size, np.uint8)
    return np.asarray(_Loan(_kept(size)))


def _kept(size: int) -> NDArray:
    for _ in range(len(_KEPT)):
        try:
            block = _KEPT.pop()
        except IndexError:  # another thread has the last one
            break
        if len(block) == size:
            return block
        _KEPT.appendleft(block)
    return np.empty(size, np.uint8)


def _give_back(block: NDArray, kept: deque[NDArray] = _KEPT, most: int = MOST_KEPT) -> None:
    """Keep a block. What it needs are defaults: at the end of the process a module may have lost its names."""
    kept.append(block)
    while sum(map(len, tuple(kept))) > most:
        try:
            kept.popleft()
        except IndexError:
            break
