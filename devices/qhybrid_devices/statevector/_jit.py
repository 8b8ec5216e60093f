"""The one place for compiler flags and for threads."""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numba

from qhybrid.errors import DeviceError

F = TypeVar("F", bound=Callable[..., Any])

#: Reassociation and contraction only: NaN and infinities keep their meaning.
FAST = {"reassoc", "contract", "nsz", "arcp"}


#: Modules whose code ends up in compiled kernels.
_KERNEL_SOURCES = ("_jit", "kernels", "matrices", "measure", "simd", "sweeps", "table")


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


def num_threads() -> int:
    """Threads to use: ``QHYBRID_NUM_THREADS``, by default the CPUs this process may run on."""
    setting = os.environ.get("QHYBRID_NUM_THREADS", "")
    if setting and not (setting.isdigit() and int(setting) > 0):
        raise DeviceError(f"QHYBRID_NUM_THREADS is {setting!r}; it must be a positive number of threads.")
    return int(setting) if setting else len(os.sched_getaffinity(0))


class _Pool:
    """A thread pool made on first use and forgotten in a forked child, where its threads do not exist."""

    def __init__(self) -> None:
        self.forget()
        os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._size = 0

    def get(self, size: int) -> ThreadPoolExecutor:
        with self._lock:
            if self._executor is None or self._size < size:
                self._executor = ThreadPoolExecutor(size, thread_name_prefix="qhybrid-statevector")
                self._size = size
            return self._executor


_POOL = _Pool()


def split(count: int, workers: int) -> list[tuple[int, int]]:
    """``range(count)`` as at most ``workers`` contiguous, nearly equal, non-empty parts."""
    workers = max(1, min(workers, count))
    edges = [count * i // workers for i in range(workers + 1)]
    return list(itertools.pairwise(edges))


def parallel(task: Callable[[int, int, int], None], count: int, workers: int) -> None:
    """Call ``task(worker, start, stop)`` for parts of ``range(count)``, the first part in the calling thread.

    Args:
        task: must release the interpreter lock to gain anything
        count: number of independent items
        workers: how many parts at most
    """
    if workers <= 1 or count <= 1:
        task(0, 0, count)
        return
    parts = split(count, workers)
    pool = _POOL.get(len(parts) - 1)
    futures = [pool.submit(task, i, *part) for i, part in enumerate(parts) if i]
    try:
        task(0, *parts[0])
    finally:
        for future in futures:
            future.result()
