"""Each thread has the queues that it records in for itself.

PennyLane keeps the stack of open queues for the whole process. ``QueuingManager.stop_recording``, which most of its own
code makes operators in, on any thread and without a lock, puts an empty stack in its place and later the old one back:
what another thread records in between is lost, or the queue that it has opened cannot be closed, and whoever opens the
next one waits for good. With one stack a thread there is nothing to lose, and no need for the lock that PennyLane holds
while a queue is open: a function that is being recorded may wait for what another thread records.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from pennylane.queuing import AnnotatedQueue, QueuingManager


class _Stacks(threading.local):
    """Stands for the list of open queues, in each thread another one."""

    def __init__(self) -> None:
        self.queues: list = []

    def append(self, queue: Any) -> None:
        self.queues.append(queue)

    def pop(self) -> Any:
        return self.queues.pop()

    def __len__(self) -> int:
        return len(self.queues)

    def __getitem__(self, index: int) -> Any:
        return self.queues[index]


class _NoLock:
    """Stands for the lock of queues that no two threads share."""

    def acquire(self) -> None:
        """Nobody else has it."""

    def release(self) -> None:
        """Nobody waits for it."""


def _stop_recording(cls: Any) -> Iterator[None]:
    stacks = cls._active_contexts
    before, stacks.queues = stacks.queues, []
    try:
        yield
    finally:
        stacks.queues = before


def keep_queues_apart() -> None:
    """Give each thread its own stack of queues, for the whole process.

    Functions that PennyLane has decorated with ``stop_recording()`` hold the function itself, so that gets other code.
    A PennyLane whose queues are made in another way is left as it is.

    Example:
        >>> from pennylane.queuing import AnnotatedQueue, QueuingManager
        >>> keep_queues_apart()
        >>> with AnnotatedQueue():
        ...     QueuingManager.recording()
        True
    """
    stacks, manager = _Stacks(), vars(QueuingManager)
    queues = manager.get("_active_contexts")
    stop = getattr(getattr(manager.get("stop_recording"), "__func__", None), "__wrapped__", None)
    if type(queues) is list and stop is not None and stop.__code__.co_names == ("_active_contexts",):
        stacks.queues = queues  # of this thread, which may be recording
        stop.__code__ = _stop_recording.__code__
        QueuingManager._active_contexts = stacks  # type: ignore[assignment]
        AnnotatedQueue._lock = _NoLock()  # type: ignore[assignment]
