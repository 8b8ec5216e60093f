"""Mid-circuit measurements, deferred: each outcome stays on a wire that nothing changes any more.

A conditional gate is controlled by these wires. A reset is no gate: what follows acts on a fresh wire in its place. A
postselected outcome is known, so conditions on it are settled here, and results are those given the outcome
(:mod:`qhybrid.capture.postselection`).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, product
from typing import Any

import numpy as np
import pennylane as qml
from pennylane.measurements import CountsMP, ExpectationMP, MeasurementProcess, ProbabilityMP, SampleMP, VarianceMP
from pennylane.operation import Operator
from pennylane.ops import Conditional, MeasurementValue, MidMeasure
from pennylane.ops.qubit.observables import BasisStateProjector
from pennylane.tape import QuantumScript

from qhybrid.backend import CompilingDevice
from qhybrid.capture.gates import WireMap, lower_operation, wire_indices
from qhybrid.capture.slots import SlotTable
from qhybrid.errors import CaptureError, CircuitError
from qhybrid.program import Constant, Fixed, Gate

_FLIP = Fixed(Constant(np.array([[0, 1], [1, 0]], dtype=complex)))

#: Outcomes that a gate waits for: the controls that it needs, by number, and their values.
Cube = tuple[tuple[int, bool], ...]


@dataclass(frozen=True)
class MidCircuit:
    """What a circuit has of mid-circuit measurements."""

    measured: bool = False
    postselected: bool = False

    @classmethod
    def of(cls, tape: QuantumScript) -> MidCircuit:
        """What a recorded circuit has."""
        found = [op for op in tape.operations if isinstance(op, MidMeasure)]
        return cls(bool(found), any(op.postselect is not None for op in found))

    def unsupported(self, method: Any, postselect_mode: Any, shots: bool) -> str | None:
        """Why this circuit cannot be deferred and be what was asked for, ``None`` if it can.

        Args:
            method: PennyLane's ``mcm_method``
            postselect_mode: PennyLane's
            shots: whether results are estimated from samples
        """
        if self.measured and method not in (None, "deferred", "device"):
            return f"mcm_method={str(method)!r} was asked for, and mid-circuit measurements are deferred"
        if self.postselected and shots and postselect_mode == "fill-shots":
            return "postselect_mode='fill-shots' was asked for, and samples that do not pass are discarded ('hw-like')"
        return None


@dataclass(frozen=True)
class _Record:
    """One measurement: its number in the circuit, the wire that keeps its outcome, and the outcome if postselected."""

    number: int
    wire: int
    postselect: bool | None


@dataclass
class Deferral:
    """The wires of a circuit while its operations are lowered, and where the outcomes of its measurements are.

    Args:
        wire_map: the wire that each label has now
        fresh: gives wires in the state 0 that nothing uses
        postselected: wires that keep postselected outcomes, with these outcomes
        measured: whether anything was measured
    """

    wire_map: dict[Any, int]
    fresh: Iterator[int]
    postselected: dict[int, bool] = field(default_factory=dict)
    _records: dict[Any, _Record] = field(default_factory=dict)
    _highest: int = -1

    @property
    def num_wires(self) -> int:
        """Wires that the circuit has by now."""
        return max(len(self.wire_map), self._highest + 1)

    @property
    def measured(self) -> bool:
        """Whether anything was measured."""
        return bool(self._records)

    @property
    def labels(self) -> tuple[Any, ...]:
        """A label for each wire; wires that only keep an outcome have labels of their own."""
        found = {wire: label for label, wire in self.wire_map.items()}
        return tuple(found.get(w, ("outcome", w)) for w in range(self.num_wires))

    def measure(self, op: MidMeasure, keep: bool) -> list[Gate]:
        """Note a measurement.

        Args:
            op: the measurement
            keep: whether its wire is used later in a way that would change the outcome
        """
        (wire,) = wire_indices(op.wires, self.wire_map)
        record, gates = wire, []
        if keep and op.reset:
            self._replace(op.wires[0])
        elif keep:
            record = self._new_wire()
            gates.append(Gate("CNOT", (record,), _FLIP, (wire,), (True,)))
        postselect = None if op.postselect is None else bool(op.postselect)
        self._records[op.meas_uid] = _Record(len(self._records), record, postselect)
        if postselect is not None:
            self.postselected[record] = postselect
        return gates

    def conditional(self, op: Conditional, slots: SlotTable) -> list[Gate]:
        """The gates of a conditional operation: one copy, on the same slots, for each way to meet its condition."""
        records, values = self.outcomes(op.meas_val)
        cubes = _cubes(np.array([bool(v) for v in values]).reshape((2,) * len(records)))
        inner = self.conditional(op.base, slots) if isinstance(op.base, Conditional) else None
        gates = lower_operation(op.base, self.wire_map, slots) if cubes and inner is None else inner or []
        return [_when(g, [(records[k], value) for k, value in cube]) for cube in cubes for g in gates]

    def outcomes(self, value: MeasurementValue) -> tuple[tuple[int, ...], list[Any]]:
        """What a measurement value is for all outcomes that are not postselected.

        Returns:
            the wires that keep these outcomes, in the order of measurement; one value for each of their basis states
        """
        records = [self._record(m) for m in value.measurements]
        free = sorted({r.number: r for r in records if r.postselect is None}.items())
        place = {number: k for k, (number, _) in enumerate(free)}
        values = []
        for bits in product((0, 1), repeat=len(free)):
            given = [bits[place[r.number]] if r.postselect is None else int(r.postselect) for r in records]
            values.append(value.processing_fn(*given))
        return tuple(r.wire for _, r in free), values

    def relabeled(self, mp: MeasurementProcess) -> MeasurementProcess:
        """Statistics of measurement values with the wires that keep the outcomes as labels."""
        single = isinstance(mp.mv, MeasurementValue)
        moved = [self._moved(v) for v in ([mp.mv] if single else mp.mv)]
        options = {"all_outcomes": mp.all_outcomes} if isinstance(mp, CountsMP) else {}
        with qml.QueuingManager.stop_recording():
            return type(mp)(obs=moved[0] if single else moved, **options)

    def _moved(self, value: MeasurementValue) -> MeasurementValue:
        measurements = [MidMeasure(self._record(m).wire, meas_uid=m.meas_uid) for m in value.measurements]
        return MeasurementValue(measurements, value.processing_fn if value.has_processing else None)

    def _record(self, measurement: MidMeasure) -> _Record:
        found = self._records.get(measurement.meas_uid)
        if found is None:
            raise CircuitError(
                f"The outcome of a measurement of wires {list(measurement.wires)} is used that this circuit does not "
                "make, or makes only later. Call qml.measure inside the quantum function, before its value is used."
            )
        return found

    def _replace(self, label: Any) -> None:
        """Give a label a new wire; a label of the device that had it, which the circuit does not use, gets the old."""
        new = self._new_wire()
        for other in [known for known, wire in self.wire_map.items() if wire == new]:
            self.wire_map[other] = self.wire_map[label]
        self.wire_map[label] = new

    def _new_wire(self) -> int:
        wire = next(self.fresh)
        self._highest = max(self._highest, wire)
        return wire


def _when(gate: Gate, cube: Sequence[tuple[int, bool]]) -> Gate:
    """``gate``, if the outcomes on some wires are the given ones."""
    if not cube:
        return gate
    return replace(
        gate,
        name=f"C({gate.name})",
        controls=tuple(w for w, _ in cube) + gate.controls,
        control_values=tuple(v for _, v in cube) + gate.control_values,
        classical=len(cube) + gate.classical,
    )


def _cubes(truth: np.ndarray, number: int = 0) -> list[Cube]:
    """Conditions, no two of which hold together, that say where a table over bits ``(2, ..., 2)`` is true."""
    if truth.all():
        return [()]
    if not truth.any():
        return []
    if np.array_equal(truth[0], truth[1]):
        return _cubes(truth[0], number + 1)
    return [((number, bool(v)), *rest) for v in (0, 1) for rest in _cubes(truth[v], number + 1)]


# ------------------------------------------------------------------ wires


def fresh_wires(tape: QuantumScript, wire_map: WireMap, device: CompilingDevice) -> Iterator[int]:
    """Wires for outcomes: further ones on a simulator, else wires of the device that the circuit does not use.

    Raises:
        CaptureError: no wire of the device is left
    """
    if not device.keeps_wires or device.wires is None:
        yield from count(len(wire_map))
    used = set(tape.wires) if not any(map(_measures_all, tape.measurements)) else set(wire_map)
    yield from (wire for label, wire in wire_map.items() if label not in used)
    raise CaptureError(
        f"a mid-circuit measurement whose wire is used again needs a further wire, and the device has {len(wire_map)}"
    )


def _measures_all(mp: MeasurementProcess) -> bool:
    return len(mp.wires) == 0 and mp.obs is None and mp.mv is None


def later_uses(tape: QuantumScript) -> list[bool]:
    """For each operation, whether it is a measurement whose wire is used later in a way that changes its outcome."""
    read, turned = _final_uses(tape)
    uses: list[bool] = []
    for op in reversed(tape.operations):
        keep = False
        if isinstance(op, MidMeasure):
            settled = op.reset or op.postselect is not None  # so the wire reads something else, or not at random
            keep = bool(set(op.wires) & (read if settled else turned))
        uses.append(keep)
        read, turned = read | set(op.wires), turned | set(op.wires)
    return uses[::-1]


def _final_uses(tape: QuantumScript) -> tuple[set[Any], set[Any]]:
    """Labels that are measured at the end, and those of them that are measured in another basis than Z."""
    read: set[Any] = set()
    turned: set[Any] = set()
    for mp in tape.measurements:
        if mp.mv is None:
            labels = set(tape.wires if _measures_all(mp) else mp.wires)
            read |= labels
            turned |= labels - _read_in_z(mp, labels)
    return read, turned


def _read_in_z(mp: MeasurementProcess, labels: set[Any]) -> set[Hashable]:
    if mp.obs is None:
        return labels if isinstance(mp, SampleMP | CountsMP | ProbabilityMP) else set()
    if not isinstance(mp, ExpectationMP | VarianceMP) or mp.obs.pauli_rep is None:
        return set()
    return {label for label in labels if all(word.get(label, "I") in "IZ" for word in mp.obs.pauli_rep)}


def measurements_of(tape: QuantumScript) -> QuantumScript:
    """A circuit with its projectors on outcomes, by which PennyLane's simulators postselect, as measurements."""
    if not any(isinstance(op, BasisStateProjector) for op in tape.operations):
        return tape
    made: list[Operator] = []
    for op in tape.operations:
        made += _postselections(op, len(made)) if isinstance(op, BasisStateProjector) else [op]
    return tape.copy(operations=made)


def _postselections(op: BasisStateProjector, number: int) -> list[Operator]:
    bits = np.asarray(op.data[0]).astype(int).reshape(-1)
    with qml.QueuingManager.stop_recording():
        return [
            MidMeasure(wire, postselect=int(bit), meas_uid=f"projector {number + k}")
            for k, (wire, bit) in enumerate(zip(op.wires, bits, strict=True))
        ]


def spectrum_of_bits(values: Sequence[Any]) -> list[Any]:
    """Coefficients ``c_s`` with ``f(b) = sum_s c_s (-1)**(s . b)`` of a function of bits, by Walsh and Hadamard.

    Args:
        values: ``f`` for each basis state of ``k`` bits, the first bit most significant; numbers of any host

    Returns:
        ``2**k`` coefficients, ``s`` in the same order

    >>> spectrum_of_bits([0, 1])
    [0.5, -0.5]
    """
    if len(values) == 1:
        return list(values)
    half = len(values) // 2
    pairs = list(zip(values[:half], values[half:], strict=True))
    return spectrum_of_bits([(a + b) * 0.5 for a, b in pairs]) + spectrum_of_bits([(a - b) * 0.5 for a, b in pairs])


def z_words(wires: Sequence[int]) -> list[tuple[tuple[int, str], ...]]:
    """Words of Z for the coefficients of :func:`spectrum_of_bits`."""
    return [
        tuple((w, "Z") for w, s in zip(wires, bits, strict=True) if s) for bits in product((0, 1), repeat=len(wires))
    ]
