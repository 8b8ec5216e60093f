"""The one place for compiler flags."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba

F = TypeVar("F", bound=Callable[..., Any])

#: Reassociation and contraction only: NaN and infinities keep their meaning.
FAST = {"reassoc", "contract", "nsz", "arcp"}


#: Modules whose code ends up in compiled kernels.
_KERNEL_SOURCES = ("_jit", "kernels", "matrices", "measure", "product", "simd", "sweeps", "table")


def _source_stamp() -> str:
    """A hash of all sources of the kernels."""
    digest = hashlib.sha256()
    for name in _KERNEL_SOURCES:
        digest.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return digest.hexdigest()


_SOURCE_STAMP = _source_stamp()


def kernel(function: F) -> F:
    """Compile a kernel: arrays and numbers only, no interpreter lock, kept on disk.

    Numba's own cache goes by the file of the entry point alone and would miss a change in a row kernel elsewhere, so
    a cached kernel is tied to all sources instead.
    """
    dispatcher = numba.njit(nogil=True, fastmath=FAST, cache=True, error_model="numpy")(function)
    if not numba.config.DISABLE_JIT:
        dispatcher._cache._cache_file._source_stamp = _SOURCE_STAMP
    return dispatcher


def row_kernel(function: F) -> F:
    """Compile a kernel that other kernels call."""
    return numba.njit(nogil=True, fastmath=FAST, error_model="numpy")(function)
