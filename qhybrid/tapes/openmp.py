"""OpenMP kernels of others on one thread: for small states a team of threads costs more than the work."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any


@lru_cache(maxsize=8)
def _runtimes(library: str) -> tuple[Any, ...]:
    """The OpenMP runtimes that the symbols of ``library`` may be bound to.

    A runtime that was loaded globally before (PyTorch's) takes the place of the library's own.
    """
    candidates = (ctypes.CDLL(None), ctypes.CDLL(library))
    return tuple(c for c in candidates if hasattr(c, "omp_set_num_threads"))


@contextmanager
def one_thread(library: str) -> Iterator[None]:
    """Let parallel regions that the calling thread enters run on it alone.

    Args:
        library: path of the loaded shared library with these regions
    """
    runtimes = _runtimes(library)
    before = [r.omp_get_max_threads() for r in runtimes]
    for runtime in runtimes:
        runtime.omp_set_num_threads(1)
    try:
        yield
    finally:
        for runtime, number in zip(runtimes, before, strict=True):
            runtime.omp_set_num_threads(number)
