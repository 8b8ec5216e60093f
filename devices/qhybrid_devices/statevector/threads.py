"""Threads: how many, whose, and who does what.

Where PyTorch is in the process its OpenMP threads do the work. After each of its own operations they keep their
processors busy for a while, waiting for more; other threads would have to share those processors with them.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from qhybrid.errors import DeviceError
from qhybrid_devices.statevector.team import Helpers

#: Parts for each worker, so that one who is late or slow does less.
PARTS_PER_WORKER = 4
#: The team of a kernel that the caller's thread runs alone, see ``in_parts.py``.
ALONE = (0, 0, 1, 1, 0, 0)


def num_threads() -> int:
    """Threads to use: ``QHYBRID_NUM_THREADS``, by default the CPUs this process may run on."""
    setting = os.environ.get("QHYBRID_NUM_THREADS", "")
    if setting and not (setting.isdigit() and int(setting) > 0):
        raise DeviceError(f"QHYBRID_NUM_THREADS is {setting!r}; it must be a positive number of threads.")
    return int(setting) if setting else len(os.sched_getaffinity(0))


# ------------------------------------------------------------------ who does what


class Part(NamedTuple):
    """A range ``start .. stop - 1`` of items, one of several, and which of the workers does it."""

    worker: int
    index: int  # type: ignore[assignment]  # a tuple's method of this name is not called
    start: int
    stop: int


def split(count: int, pieces: int) -> list[tuple[int, int]]:
    """``range(count)`` as at most ``pieces`` contiguous, nearly equal, non-empty ranges."""
    pieces = max(1, min(pieces, count))
    edges = [count * i // pieces for i in range(pieces + 1)]
    return list(itertools.pairwise(edges))


def num_parts(count: int, workers: int) -> int:
    """How many parts :func:`parallel` makes of ``range(count)``."""
    return 1 if workers <= 1 or count <= 1 else min(count, workers * PARTS_PER_WORKER)


def parallel(task: Callable[[Part], None], count: int, workers: int) -> None:
    """Call ``task`` for parts of ``range(count)``, on the calling thread and up to ``workers - 1`` others.

    Parts are handed out one by one. Which parts there are depends on ``count`` and ``workers`` only, so results that
    are added up by part are the same on every run.

    Args:
        task: must release the interpreter lock to gain anything
        count: number of independent items
        workers: threads at most
    """
    parts = num_parts(count, workers)
    if parts == 1:
        task(Part(0, 0, 0, count))
        return
    pieces = split(count, parts)
    pending = iter(enumerate(pieces))  # shared: taking the next one is atomic
    workers = min(workers, len(pieces))
    numbers = iter(range(workers))
    errors: list[BaseException] = []

    def work() -> None:
        worker = next(numbers)
        try:
            for index, (start, stop) in pending:
                task(Part(worker, index, start, stop))
        except BaseException as error:  # noqa: BLE001 - raised again below, in the thread of the caller
            errors.append(error)

    _TEAM.run(work, workers)
    if errors:
        raise errors[0]


def run_kernel(kernel: Callable[..., None], count: int, workers: int, *arguments: Any) -> None:
    """The same for a kernel that spreads its items by itself, ``kernel(team, first, last, *arguments)``."""
    if workers <= 1 or count <= 1:
        kernel(ALONE, 0, count, *arguments)
        return
    workers = min(workers, count)
    address, given = _TEAM.for_kernels(workers)
    if address:
        kernel((address, given, workers, num_parts(count, workers), 0, 0), 0, count, *arguments)
        return

    def task(part: Part) -> None:
        kernel((0, 0, 1, 1, part.worker, part.index), part.start, part.stop, *arguments)

    parallel(task, count, workers)


# ------------------------------------------------------------------ whose threads

_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def _on_openmp(parallel_region: Any, work: Callable[[], None], workers: int) -> None:
    """Call ``work`` on the threads of an OpenMP team, and raise here what it raises in the main thread.

    Signals are handled between any two lines of Python in the main thread. What a handler raises there, Ctrl-C's
    ``KeyboardInterrupt`` above all, ctypes would only print, and its caller would go on.
    """
    if threading.current_thread() is not threading.main_thread():
        parallel_region(_CALLBACK(lambda _: work()), None, workers, 0)
        return
    raised: list[BaseException] = []

    def call(_: Any) -> None:
        work()

    def hear(unraisable: Any) -> None:
        trace = unraisable.exc_traceback
        if trace is not None and trace.tb_frame.f_code is call.__code__:
            raised.append(unraisable.exc_value)
        else:
            others(unraisable)

    others, sys.unraisablehook = sys.unraisablehook, hear
    try:
        parallel_region(_CALLBACK(call), None, workers, 0)
    finally:
        sys.unraisablehook = others
    if raised:
        raise raised[0]


class _Team:
    """The threads of this process that call a function together; forgotten in a forked child, where they are not."""

    def __init__(self) -> None:
        self._forget()
        self._forked = False
        os.register_at_fork(after_in_child=self._after_fork)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._size = 0
        self._mailbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._openmp: Any = None
        self._address = 0
        self._helpers: Helpers | None = None

    def _after_fork(self) -> None:
        self._forget()
        self._forked = True  # an OpenMP team that was at work before a fork does not survive it

    def openmp_address(self) -> int:
        """Where the function is that calls another on the threads of an OpenMP team, 0 if there is none to use."""
        if self._openmp is None and "torch" in sys.modules and not self._forked:
            self._openmp = getattr(ctypes.CDLL(None), "GOMP_parallel", False)
            self._address = (self._openmp and ctypes.cast(self._openmp, ctypes.c_void_p).value) or 0
        return self._address

    def for_kernels(self, workers: int) -> tuple[int, int]:
        """Where the function is that calls another on threads without the interpreter, and what to give it besides.

        The main thread has PyTorch's. There may be many other threads, and each would have an OpenMP team of its own.

        Args:
            workers: threads that will be asked for

        Returns:
            zeros if there is none
        """
        if threading.current_thread() is threading.main_thread() and self.openmp_address():
            return self._address, 0
        if not Helpers.are_possible:
            return 0, 0
        if self._helpers is None:
            with self._lock:
                self._helpers = self._helpers or Helpers()
        return self._helpers.called_by(workers)

    def run(self, work: Callable[[], None], workers: int) -> None:
        """Call ``work``, which keeps its errors to itself, on the caller's thread and on others that are free."""
        if self.openmp_address():
            _on_openmp(self._openmp, work, workers)
            return
        self._grow(workers - 1)
        begun: list[queue.SimpleQueue[None]] = []

        def help_out() -> None:
            ended: queue.SimpleQueue[None] = queue.SimpleQueue()
            begun.append(ended)
            work()
            ended.put(None)

        for _ in range(workers - 1):
            self._mailbox.put(help_out)
        work()
        # One that begins from now on has nothing left to do; its end may not be taken for that of another.
        for ended in tuple(begun):
            ended.get()

    def _grow(self, size: int) -> None:
        """Have at least ``size`` threads that wait for work.

        A simple queue is all they share: an interrupt of the main thread inside of ``concurrent.futures`` can leave one
        of its locks taken for good.
        """
        with self._lock:
            while self._size < size:
                self._size += 1
                threading.Thread(target=_serve, args=(self._mailbox,), name="qhybrid-statevector", daemon=True).start()


def _serve(mailbox: queue.SimpleQueue[Callable[[], None]]) -> None:
    while True:
        mailbox.get()()


_TEAM = _Team()
