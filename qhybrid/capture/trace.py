"""One run of a quantum function, kept: the program it makes, where its slots come from, and what it depended on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pennylane as qml
from autograd.tracer import Box
from pennylane.tape import QuantumScript

from qhybrid.backend import CompilingDevice
from qhybrid.capture.assembly import SlotValues, assemble_concrete
from qhybrid.capture.audit import disagreement, same_operations
from qhybrid.capture.deferral import MidCircuit
from qhybrid.capture.guards import environment_guard
from qhybrid.capture.lowering import lower
from qhybrid.capture.observables import Output
from qhybrid.capture.prologue import Prologue
from qhybrid.capture.recording import record
from qhybrid.capture.signature import same_arguments, static_objects, trainable, unflatten
from qhybrid.capture.tracer import Graph, as_root, concrete
from qhybrid.errors import CaptureError, CircuitError
from qhybrid.program import Program, Slots


@dataclass(frozen=True)
class Trace:
    """A compiled quantum function for one signature.

    Args:
        program: the circuit
        outputs: for each measurement, which result answers it
        restore: puts measurement values into the structure that the function returned
        prologue: slot values from argument leaves
        guard: whether everything that the function read from outside is unchanged
        sequence: whether the function returned a list or tuple of measurements
        batch_size: samples of every call with this signature, ``None`` if unbatched
        mid_circuit: what it has of mid-circuit measurements
    """

    program: Program
    outputs: tuple[Output, ...]
    restore: Callable[[Sequence[Any]], Any]
    prologue: Prologue
    guard: Callable[[], bool]
    sequence: bool
    batch_size: int | None
    mid_circuit: MidCircuit

    def holds(self, leaves: Sequence[Any]) -> bool:
        """Whether a run of the function on ``leaves`` would make this program again."""
        return self.guard() and self.prologue.branches_hold(leaves)

    def slot_values(self, leaves: Sequence[Any]) -> SlotValues:
        """Slot values for live argument leaves, in the graph of their host."""
        return self.prologue(leaves)

    def inputs(self, leaves: Sequence[Any]) -> SlotValues:
        """The slot values, or what they are arranged from; see :meth:`Prologue.inputs`."""
        return self.prologue.inputs(leaves)

    def with_constants(self, values: SlotValues, leaves: Sequence[Any]) -> SlotValues:
        """The same values, with the angles that nobody differentiates along."""
        return values._replace(constant=self.prologue.constant(leaves))


def trace(
    func: Callable, key: Any, leaves: Sequence[Any], names: Sequence[str], device: CompilingDevice, shots: Any
) -> Trace:
    """Run ``func`` once on tracers.

    Args:
        func: a quantum function
        key, leaves: its arguments, taken apart by :func:`qhybrid.capture.signature.flatten`
        names: names of the leaves, for messages
        device: what the circuit is lowered for
        shots: PennyLane shots of the circuit

    Raises:
        CaptureError: the function cannot be traced, with the reason
    """
    graph = Graph()
    tracers = graph.inputs(leaves)
    try:
        guard = environment_guard(func, static_objects(key))
        with graph:
            args, kwargs = unflatten(key, tracers)
            recording = record(func, args, kwargs, shots)
            if not same_arguments((args, kwargs), unflatten(key, tracers)):
                raise CaptureError("it changes an argument in place")
            lowered = lower(recording.tape, device, varies=lambda value: as_root(graph, value) is not None)
    except (CaptureError, CircuitError, qml.wires.WireError):
        raise
    except Exception as error:  # whatever a function does with a value that it cannot see
        raise CaptureError(f"{type(error).__name__} while tracing: {error}") from error
    finally:
        if graph.poison:
            raise CaptureError(graph.poison)
    if not guard():
        raise CaptureError("it changes what it reads from outside")
    prologue = Prologue(graph, lowered.shared, lowered.batched, lowered.arrays, names)
    return Trace(
        lowered.program,
        lowered.outputs,
        recording.restore,
        prologue,
        guard,
        recording.sequence,
        lowered.batch_size,
        MidCircuit.of(recording.tape),
    )


def audit(func: Callable, found: Trace, key: Any, leaves: Sequence[Any], device: CompilingDevice, shots: Any) -> None:
    """Record ``func`` plainly on the live arguments and compare.

    Raises:
        CaptureError: the trace would have given another circuit, so the function must not be traced
    """

    def plainly(values: Sequence[Any]) -> QuantumScript:
        args, kwargs = unflatten(key, [_without_box(v) for v in values])
        return record(func, args, kwargs, shots).tape

    tape = plainly(leaves)
    difference = _difference(found, leaves, tape, device)
    if difference:  # PennyLane drops gates of untrainable arrays by their values; a trace must keep them
        kept = plainly(trainable(leaves))
        if same_operations(kept, tape):  # so it is not the function itself that tells the two apart
            difference = _difference(found, leaves, kept, device)
    if difference:
        raise CaptureError(
            f"a traced run and a plain run of the function disagree ({difference}): it reads something that "
            "tracing cannot see, such as the type or the bytes of an argument"
        )


def _difference(found: Trace, leaves: Sequence[Any], tape: QuantumScript, device: CompilingDevice) -> str | None:
    lowered = lower(tape, device, varies=lambda value: True, trainable=qml.math.requires_grad)
    return disagreement(
        found.program,
        _filled(found.program, found.slot_values(leaves), found.batch_size),
        lowered.program,
        _filled(lowered.program, assemble_concrete(lowered), lowered.batch_size),
    )


def _without_box(leaf: Any) -> Any:
    """A leaf that plain NumPy functions take: what autograd traces becomes a trainable tensor of PennyLane."""
    return qml.numpy.tensor(concrete(leaf), requires_grad=True) if isinstance(leaf, Box) else leaf


def _filled(program: Program, values: SlotValues, batch_size: int | None) -> Slots:
    """Slot values of any host as the NumPy record that a device takes."""
    tensors = [np.asarray(concrete(t)) for t in values.tensors]
    shared = tensors.pop(0) if program.num_shared else np.empty(0)
    batched = tensors.pop(0) if program.num_batched else None
    return Slots(shared, batched, tuple(tensors), batch_size)
