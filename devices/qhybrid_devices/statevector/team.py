"""Threads that wait for kernels, for callers who have no OpenMP team of their own.

OpenMP makes a team for each thread that asks for one. Programs of JAX are run by several threads in turn, and where all
their teams together have more threads than there are processors, OpenMP puts a team to sleep as soon as it has nothing
to do; waking it takes as long as a circuit of ten qubits. Here there is one team, whoever calls.

A job is a function of C and what it is given. Whoever calls for help offers as many tickets as it wants helpers, does
the job too, withdraws the tickets that are left, and waits for those who have taken one. Helpers look for tickets for
half a millisecond, and then sleep. If the team has a job already, a caller does its own alone.
"""

from __future__ import annotations

import ctypes
import platform
import sys
import threading
from functools import cache
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.core.extending import intrinsic
from numpy.typing import NDArray

from qhybrid_devices.statevector._jit import kernel, row_kernel

#: What a team shares, in words of 64 bits, a cache line apart: tickets and, in the lower half, helpers at work; whether
#: there is a job; how many helpers sleep, or are about to; the job; the semaphore that wakes them.
_JOB, _BUSY, _SLEEPING, _FUNCTION, _DATA, _SEMAPHORE, _END = range(0, 56, 8)
_TICKET = 1 << 32
_HAS_PAUSE = platform.machine().lower() in ("x86_64", "amd64")
#: How often a helper looks for tickets before it sleeps: for about half a millisecond.
LOOKS = 20_000
#: How often a caller looks whether the helpers have ended before it lets other threads run.
PATIENCE = 20_000


# ------------------------------------------------------------------ what Python has no words for


_native: Any = intrinsic


def _word(builder: Any, address: Any, index: Any) -> Any:
    return builder.gep(builder.inttoptr(address, ir.IntType(64).as_pointer()), [index])


@_native
def _get(typingctx, address, index):
    def codegen(context, builder, sig, args):
        return builder.load_atomic(_word(builder, *args), "seq_cst", 8)

    return types.int64(types.int64, types.int64), codegen


@_native
def _set(typingctx, address, index, value):
    def codegen(context, builder, sig, args):
        builder.store_atomic(args[2], _word(builder, *args[:2]), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@_native
def _add(typingctx, address, index, value):
    def codegen(context, builder, sig, args):
        return builder.atomic_rmw("add", _word(builder, *args[:2]), args[2], "seq_cst")

    return types.int64(types.int64, types.int64, types.int64), codegen


@_native
def _replace(typingctx, address, index, old, new):
    """Whether the word was ``old``, and is ``new`` now."""

    def codegen(context, builder, sig, args):
        found = builder.cmpxchg(_word(builder, *args[:2]), *args[2:], "seq_cst", "seq_cst")
        return builder.extract_value(found, 1)

    return types.boolean(types.int64, types.int64, types.int64, types.int64), codegen


@_native
def _pause(typingctx):
    """Leave the processor to what runs beside, for some nanoseconds."""

    def codegen(context, builder, sig, args):
        if _HAS_PAUSE:
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        else:
            builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


@_native
def _call(typingctx, function, data):
    def codegen(context, builder, sig, args):
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), [args[1]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


_post, _wait = (types.ExternalFunction(name, types.int32(types.int64)) for name in ("sem_post", "sem_wait"))
_yield = types.ExternalFunction("sched_yield", types.int32())


# ------------------------------------------------------------------ helpers


@row_kernel
def take_ticket(team):
    """Whether there was a ticket for a helper, who is at work now."""
    job = _get(team, _JOB)
    while job >= _TICKET:
        if _replace(team, _JOB, job, job - _TICKET + 1):
            return True
        job = _get(team, _JOB)
    return False


@row_kernel
def leave_sleepers(team):
    """Whether there was a sleeper to count off: the caller itself, or one that it is to wake."""
    count = _get(team, _SLEEPING)
    while count > 0:
        if _replace(team, _SLEEPING, count, count - 1):
            return True
        count = _get(team, _SLEEPING)
    return False


@kernel
def help_out(team):
    """What a helper does, for ever."""
    looks = 0
    while True:
        if take_ticket(team):
            _call(_get(team, _FUNCTION), _get(team, _DATA))
            _add(team, _JOB, -1)
            looks = 0
        elif looks < LOOKS:
            _pause()
            looks += 1
        else:
            _add(team, _SLEEPING, 1)
            # A ticket that came meanwhile: it may be that nobody was seen to sleep.
            if _get(team, _JOB) < _TICKET or not leave_sleepers(team):
                while _wait(team + 8 * _SEMAPHORE) != 0:  # a signal is no reason to wake up
                    pass
            looks = 0


# ------------------------------------------------------------------ callers


def _work_together(function, data, workers, flags, team):
    """Call ``function(data)`` here and in up to ``workers - 1`` helpers, as OpenMP's ``GOMP_parallel`` does."""
    if not _replace(team, _BUSY, 0, 1):
        _call(function, data)
        return
    _set(team, _FUNCTION, function)
    _set(team, _DATA, data)
    _set(team, _JOB, (workers - 1) * _TICKET)
    for _ in range(workers - 1):
        if not leave_sleepers(team):
            break
        _post(team + 8 * _SEMAPHORE)
    _call(function, data)
    job = _get(team, _JOB)
    while not _replace(team, _JOB, job, job % _TICKET):
        job = _get(team, _JOB)
    looks = 0
    while _get(team, _JOB) != 0:
        _pause()
        looks += 1
        if looks > PATIENCE:
            _yield()
    _set(team, _BUSY, 0)


@cache
def _compiled() -> Any:
    """:func:`_work_together` as a function of C."""
    kind = types.void(types.int64, types.int64, types.int32, types.int32, types.int64)
    return numba.cfunc(kind, nopython=True, cache=True)(_work_together)


class Helpers:
    """A team; its threads begin when they are first wanted, and end with the process."""

    #: Whether there can be any.
    are_possible = sys.platform == "linux" and not config.DISABLE_JIT

    def __init__(self) -> None:
        self._lock, self._size = threading.Lock(), 0
        room = np.zeros(_END + 8, np.int64)
        start = -room.ctypes.data % 64 // 8
        self._words = room[start : start + _END]
        self._address = self._words.ctypes.data
        ctypes.CDLL(None).sem_init(ctypes.c_void_p(self._address + 8 * _SEMAPHORE), 0, 0)

    def called_by(self, workers: int) -> tuple[int, int]:
        """The address of a function like ``GOMP_parallel``, and what to give it as a fifth argument.

        Args:
            workers: threads that will be asked for at most
        """
        if self._size < workers - 1:
            self._grow(workers - 1)
        return _compiled().address, self._address

    def _grow(self, size: int) -> None:
        with self._lock:
            while self._size < size:
                threading.Thread(target=_serve, args=(self._words,), name="qhybrid-helper", daemon=True).start()
                self._size += 1


def _serve(words: NDArray) -> None:
    """A helper's thread, which keeps alive what it shares with others."""
    help_out(words.ctypes.data)
