"""The one place for compiler flags, and for a word to the user while the compiler works."""

from __future__ import annotations

import hashlib
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core import event

from qhybrid_devices.statevector.inlined import InlinedCompiler

F = TypeVar("F", bound=Callable[..., Any])

#: Reassociation and contraction only: NaN and infinities keep their meaning.
FAST = {"reassoc", "contract", "nsz", "arcp"}


#: Modules whose code ends up in compiled kernels.
_KERNEL_SOURCES = (
    "_jit", "angle_tangents", "complex_simd", "in_parts", "inlined", "kernels", "lane_kernels", "matrices",
    "matrix_tangents", "measure", "product", "product_tangents", "row_products", "simd", "sweeps", "table",
    "tangent_kernels", "tangent_lane_kernels", "tangent_sweeps", "team",
)  # fmt: skip


def _source_stamp() -> str:
    """A hash of all sources of the kernels."""
    digest = hashlib.sha256()
    for name in _KERNEL_SOURCES:
        digest.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return digest.hexdigest()


_SOURCE_STAMP = _source_stamp()


class _FirstUse(event.Listener):
    """Says so once if compiling the kernels takes long: on first use on a machine, before they are on disk."""

    def __init__(self, patience: float = 2.0) -> None:
        self._patience = patience  # seconds of compiling without a word
        self._timer: threading.Timer | None = None
        self._started = 0.0
        self._depth = 0

    def on_start(self, compiling: event.Event) -> None:
        """A kernel, or one that it calls, is being compiled or read from disk."""
        self._depth += _is_ours(compiling)
        if self._depth == 1 and self._timer is None and self._patience > 0:
            self._started = time.monotonic()
            self._timer = threading.Timer(self._patience, self._say)
            self._timer.daemon = True
            self._timer.start()

    def on_end(self, compiling: event.Event) -> None:
        """It is ready."""
        self._depth -= _is_ours(compiling)
        if self._depth == 0 and self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._patience -= time.monotonic() - self._started

    def _say(self) -> None:
        self._patience = 0.0
        print(
            "qhybrid: compiling kernels for this processor; it is done once and takes about 20 seconds.",
            file=sys.stderr,
            flush=True,
        )


def _is_ours(compiling: event.Event) -> bool:
    return compiling.data["dispatcher"].py_func.__module__.startswith(__package__)


event.register("numba:compile", _FirstUse())


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
    """Compile a kernel that other kernels call, as a part of theirs: see ``inlined.py``.

    Numba compiles it, and all that it calls, once more for each literal among its arguments: ``bool(1)`` is none.
    """
    return numba.njit(
        nogil=True, fastmath=FAST, error_model="numpy", forceinline=True, no_cpython_wrapper=True,
        no_cfunc_wrapper=True, pipeline_class=InlinedCompiler,
    )(function)  # fmt: skip
