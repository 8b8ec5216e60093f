"""A recorded PennyLane circuit to a Program and the values of its slots."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pennylane as qml
from pennylane import math
from pennylane.operation import StatePrepBase
from pennylane.ops import Conditional, MidMeasure
from pennylane.tape import QuantumScript

from qhybrid.backend import CompilingDevice
from qhybrid.capture.deferral import Deferral, fresh_wires, later_uses, measurements_of
from qhybrid.capture.gates import WireMap, lower_operation, wire_indices
from qhybrid.capture.observables import MeasurementTable, Output
from qhybrid.capture.slots import SlotTable
from qhybrid.errors import CaptureError, CircuitError
from qhybrid.program import Constant, Fixed, Gate, Preparation, Program

_FLIP = Fixed(Constant(np.array([[0, 1], [1, 0]], dtype=complex)))


@dataclass(frozen=True)
class Lowered:
    """A program with the values, of any host, that its slots have in this recording.

    Args:
        program: the circuit
        outputs: for each measurement of the recording, which result answers it
        shared: values of the shared angles, scalars
        batched: values of the batched angles, shape ``(batch,)``
        arrays: values of the array slots
        batch_size: number of samples, ``None`` if unbatched
    """

    program: Program
    outputs: tuple[Output, ...]
    shared: tuple[Any, ...]
    batched: tuple[Any, ...]
    arrays: tuple[Any, ...]
    batch_size: int | None


def lower(
    tape: QuantumScript,
    device: CompilingDevice,
    varies: Callable[[Any], bool],
    trainable: Callable[[Any], bool] | None = None,
) -> Lowered:
    """Lower a recorded circuit.

    Args:
        tape: operations and measurements; parameters may be tracers or tensors of any host
        device: whose wires are used, and which may add to the circuit
        varies: whether a parameter changes from call to call and so needs a slot
        trainable: whether the value of a parameter must not be baked in where it has no slot

    Raises:
        CaptureError: an operation or measurement cannot be part of a program
        CircuitError: the circuit itself is wrong
        pennylane.wires.WireError: a wire is not on the device
    """
    tape = measurements_of(device.expand(tape))
    wire_map = _wire_map(tape, device)
    slots = SlotTable(varies, trainable)
    deferral = Deferral(dict(wire_map), fresh_wires(tape, wire_map, device))
    preparation, gates = _operations(tape, deferral, slots)
    table = MeasurementTable(deferral, slots, with_shots=bool(tape.shots))
    outputs = tuple(table.add(mp) for mp in tape.measurements)
    program = Program(
        num_wires=deferral.num_wires,
        gates=tuple(gates),
        scalars=tuple(table.scalars),
        tensors=tuple(table.tensors),
        preparation=preparation,
        num_shared=len(slots.shared),
        num_batched=len(slots.batched),
        arrays=tuple(slots.array_slots),
    ).interned()
    return Lowered(program, outputs, tuple(slots.shared), tuple(slots.batched), tuple(slots.arrays), slots.batch_size)


def _wire_map(tape: QuantumScript, device: CompilingDevice) -> WireMap:
    """Indices of the wires: the device's own if it keeps them or all are measured, else those of the wires in use."""
    used = _standard_order(tape)
    if device.wires is None:
        return {w: i for i, w in enumerate(used)}
    known = {w: i for i, w in enumerate(device.wires)}
    wire_indices(used, known)
    measures_all = any(len(mp.wires) == 0 and mp.obs is None and mp.mv is None for mp in tape.measurements)
    if device.keeps_wires or measures_all:
        return known
    used_set = set(used)
    return {w: i for i, w in enumerate(w for w in device.wires if w in used_set)} or {device.wires[0]: 0}


def _standard_order(tape: QuantumScript) -> list:
    """Wire order of a circuit without a device's: PennyLane's standard order."""
    operations = qml.wires.Wires.all_wires([op.wires for op in tape.operations])
    measured = qml.wires.Wires.all_wires([mp.wires for mp in tape.measurements])
    only_measured = [w for w in measured if w not in operations]
    if set(operations) == set(range(len(operations))):
        operations = range(len(operations))
        if all(isinstance(w, int) for w in only_measured):
            only_measured = sorted(only_measured)
    return [*operations, *only_measured]


def _operations(tape: QuantumScript, deferral: Deferral, slots: SlotTable) -> tuple[Preparation | None, list[Gate]]:
    """Gates in order; the first state preparation on untouched wires becomes the program's initial state."""
    preparation: Preparation | None = None
    gates: list[Gate] = []
    touched: set[int] = set()
    for op, keep in zip(tape.operations, later_uses(tape), strict=True):
        fresh = preparation is None and isinstance(op, StatePrepBase)
        wires = wire_indices(op.wires, deferral.wire_map)
        if fresh and isinstance(op, qml.StatePrep) and not touched & set(wires) and not math.is_abstract(op.data[0]):
            preparation = Preparation(wires, slots.array(_dense_amplitudes(op), (2 ** len(wires),)))
        elif isinstance(op, qml.BasisState):
            gates += _basis_state(op, wires, slots)
        elif isinstance(op, MidMeasure):
            gates += deferral.measure(op, keep)
        elif isinstance(op, Conditional):
            gates += deferral.conditional(op, slots)
        else:
            gates += lower_operation(op, deferral.wire_map, slots)
        touched.update(wires)
    return preparation, gates


def _dense_amplitudes(op: qml.StatePrep) -> Any:
    amplitudes = op.data[0]
    return amplitudes.toarray().reshape(-1) if hasattr(amplitudes, "toarray") else amplitudes


def _basis_state(op: qml.BasisState, wires: tuple[int, ...], slots: SlotTable) -> list[Gate]:
    if slots.trainable(op.data[0]):
        raise CaptureError("BasisState takes bits, which have no gradient and are read on every call")
    bits = np.asarray(math.toarray(op.data[0])).astype(int).reshape(-1)
    if len(bits) != len(wires) or not np.isin(bits, (0, 1)).all():
        raise CircuitError(f"BasisState on {len(wires)} wires got {bits.tolist()}; it takes one 0 or 1 for each wire.")
    return [Gate("BasisState", (w,), _FLIP) for w, b in zip(wires, bits, strict=True) if b]
