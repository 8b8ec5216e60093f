"""The traces of one quantum function: which of them holds for a call, when one is made, checked again and dropped."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pennylane.math import Interface

from qhybrid.backend import CompilingDevice
from qhybrid.capture.signature import holds_tensor, leaf_names
from qhybrid.capture.trace import Trace, audit, trace
from qhybrid.capture.values import is_functorch
from qhybrid.circuit import CompiledCircuit
from qhybrid.errors import CaptureError

#: Traces kept for one signature, for functions that branch on values.
MAX_TRACES = 8
#: Signatures kept; a new shape or static value makes a new one.
MAX_SIGNATURES = 64
#: Each audit of a trace is this many times as many calls after the first as the one before.
AUDIT_GROWTH = 8
#: How often the outside world may change under one signature before the function is recorded on every call.
MAX_RETRACES = 5


@dataclass
class Entry:
    """A trace with its circuit and its audit schedule: calls 1, 8, 64, 512, ...

    Args:
        trace: of the function
        circuit: as the device runs it
        automatic: what the interface ``"auto"`` asks for with arguments of this signature
    """

    trace: Trace
    circuit: CompiledCircuit
    automatic: Interface = Interface.AUTO
    calls: int = 0
    next_audit: int = 1


@dataclass
class _Known:
    """What is known of a signature: the traces that are kept, and how many have become stale."""

    entries: list[Entry] = field(default_factory=list)
    stale: int = 0


class Traces:
    """A cache of traces by signature, with and without shots apart; several threads may share it."""

    def __init__(self) -> None:
        self._signatures: OrderedDict[Any, _Known] = OrderedDict()
        self._lock = threading.RLock()

    def __len__(self) -> int:
        """How many signatures are kept."""
        return len(self._signatures)

    def entry(
        self,
        func: Callable,
        key: Any,
        leaves: list,
        device: CompilingDevice,
        shots: Any,
        compiled: Callable[[Trace], CompiledCircuit],
    ) -> Entry:
        """The entry that holds for these arguments, made now if there is none; audited when its turn comes.

        Args:
            func: the quantum function, the same in every call
            key, leaves: its arguments, taken apart by :func:`qhybrid.capture.signature.flatten`
            device: what circuits are lowered for, the same in every call
            shots: PennyLane shots of the circuit
            compiled: makes the circuit of a new trace, or refuses it

        Raises:
            CaptureError: the function cannot be traced, with the reason
        """
        signature = (key, shots.total_shots is not None)
        known = self._signatures.get(signature)
        for entry in () if known is None else known.entries:
            if entry.trace.holds(leaves):
                break
        else:
            with self._lock:
                fresh = self._fresh(signature)
                made = trace(func, key, leaves, leaf_names(key, func), device, shots)
                automatic = Interface.TORCH if holds_tensor(key) else Interface.AUTO
                entry = Entry(made, compiled(made), automatic)
                self._keep(signature, [*fresh[-MAX_TRACES + 1 :], entry])
        entry.calls += 1
        if entry.calls >= entry.next_audit and not any(map(is_functorch, leaves)):
            entry.next_audit = AUDIT_GROWTH * entry.calls
            audit(func, entry.trace, key, leaves, device, shots)
        return entry

    def _fresh(self, signature: Any) -> list[Entry]:
        """The entries of a signature that may hold again.

        Raises:
            CaptureError: too many have become stale
        """
        known = self._signatures.setdefault(signature, _Known())
        fresh = [e for e in known.entries if e.trace.guard()]
        known.stale += len(known.entries) - len(fresh)
        if known.stale > MAX_RETRACES:
            raise CaptureError("what it reads from outside changes from call to call; pass it as an argument")
        return fresh

    def _keep(self, signature: Any, entries: list[Entry]) -> None:
        """Keep the entries of a signature; the signatures that got a trace longest ago make room."""
        known = self._signatures.setdefault(signature, _Known())
        known.entries = entries
        self._signatures.move_to_end(signature)
        while len(self._signatures) > MAX_SIGNATURES:
            self._signatures.popitem(last=False)
