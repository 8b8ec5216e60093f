"""Templates: tapes that a device has preprocessed once, of which each execution only changes the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pennylane as qml
from numpy.typing import NDArray
from pennylane.measurements import MeasurementProcess
from pennylane.operation import Operator
from pennylane.ops.functions import bind_new_parameters
from pennylane.tape import QuantumScript

from qhybrid.tapes.measurements import Setting, Varying
from qhybrid.tapes.operations import TapeOperation, rebound

#: What a device makes of tapes before it runs them: further tapes, and the way from their results back.
Preprocess = Callable[[tuple[QuantumScript, ...]], tuple[Sequence[QuantumScript], Callable]]


@dataclass(frozen=True, eq=False)
class KeptTape:
    """A preprocessed tape in which all operations with parameters stand unchanged, in order.

    Args:
        operations: of the tape
        positions: where those with parameters are
        measurements: of the tape
        shots: of the tape
    """

    operations: tuple[Operator, ...]
    positions: tuple[int, ...]
    measurements: tuple[MeasurementProcess, ...]
    shots: Any

    def at(self, changed: Sequence[Operator]) -> QuantumScript:
        """The tape with these operations in place of those with parameters."""
        operations = list(self.operations)
        for position, operation in zip(self.positions, changed, strict=True):
            operations[position] = operation
        return QuantumScript(operations, self.measurements, shots=self.shots, trainable_params=[])


@dataclass(frozen=True, eq=False)
class KeptTapes:
    """All that a device makes of one template: tapes, and the way from their results to those of the template."""

    tapes: tuple[KeptTape, ...]
    postprocess: Callable


def with_data(operations: Sequence[TapeOperation], data: Sequence[Any], broadcast: bool = False) -> list[Operator]:
    """The operations with parameters, at ``data``; those without are left out."""
    bind = _bound if broadcast else rebound
    changing = [o.operation for o in operations if o.parameter is not None]
    return [bind(o, d) for o, d in zip(changing, data, strict=True)]


def _bound(operation: Operator, data: Any) -> Operator:
    """``operation`` with data that may have a batch axis, which it must notice."""
    return bind_new_parameters(operation, [data])


def plain_tape(
    operations: Sequence[TapeOperation],
    changed: Sequence[Operator],
    setting: Setting,
    varying: Sequence[Any],
    shots: Any,
) -> QuantumScript:
    """The tape of a program before preprocessing.

    Args:
        operations: of the program
        changed: those with parameters, at their values
        setting: what is measured
        varying: for each measurement of the setting that varies, the data of its parameters
        shots: ``None`` for exact results
    """
    remaining, data = iter(changed), iter(varying)
    body = [o.operation if o.parameter is None else next(remaining) for o in operations]
    measurements = [m.at(next(data)) if isinstance(m, Varying) else m for m in setting.measurements]
    return QuantumScript([*body, *setting.basis], measurements, shots=shots, trainable_params=[])


def kept(
    preprocess: Preprocess,
    operations: Sequence[TapeOperation],
    setting: Setting,
    shots: Any,
    examples: tuple[Sequence[NDArray], Sequence[NDArray]],
    broadcast: bool = False,
) -> KeptTapes | None:
    """The preprocessed template, if only its data change from execution to execution; otherwise ``None``.

    Args:
        preprocess: the device's
        operations: of the program
        setting: what is measured
        shots: ``None`` for exact results
        examples: two sets of data; what is not a parameter must come out the same for both
        broadcast: whether the examples have a batch axis, and one tape must take it
    """
    if any(isinstance(m, Varying) for m in setting.measurements):
        return None
    try:
        made = [_preprocessed(preprocess, operations, setting, shots, data, broadcast) for data in examples]
    except (qml.exceptions.DeviceError, qml.exceptions.DecompositionUndefinedError):
        if not broadcast:
            raise
        return None  # some decompositions of PennyLane do not take a batch
    if made[0] is None or made[1] is None or not _same(made[0], made[1]):
        return None
    return made[0]


def _preprocessed(
    preprocess: Preprocess,
    operations: Sequence[TapeOperation],
    setting: Setting,
    shots: Any,
    data: Sequence[NDArray],
    broadcast: bool,
) -> KeptTapes | None:
    changed = with_data(operations, data, broadcast)
    tapes, postprocess = preprocess((plain_tape(operations, changed, setting, (), shots),))
    positions = [_positions(t, changed) for t in tapes]
    if any(p is None for p in positions):
        return None
    return KeptTapes(
        tuple(
            KeptTape(tuple(t.operations), tuple(p or ()), tuple(t.measurements), t.shots)
            for t, p in zip(tapes, positions, strict=True)
        ),
        postprocess,
    )


def _positions(tape: QuantumScript, changed: Sequence[Operator]) -> list[int] | None:
    """Where the operations, or copies of them, stand in the tape; ``None`` unless each is there once, in order.

    A copy holds the very same datum.
    """
    index = {id(o.data[0]): k for k, o in enumerate(changed)}
    found = [
        (position, index[id(o.data[0])])
        for position, o in enumerate(tape.operations)
        if o.data and id(o.data[0]) in index
    ]
    if [k for _, k in found] != list(range(len(changed))):
        return None
    same = all(_alike(tape.operations[position], changed[k]) for position, k in found)
    return [position for position, _ in found] if same else None


def _alike(a: Operator, b: Operator) -> bool:
    return a is b or (type(a) is type(b) and a.name == b.name and a.wires == b.wires)


def _same(a: KeptTapes, b: KeptTapes) -> bool:
    """Whether two preprocessed templates differ in their parameters only."""
    return len(a.tapes) == len(b.tapes) and all(_same_tape(x, y) for x, y in zip(a.tapes, b.tapes, strict=True))


def _same_tape(a: KeptTape, b: KeptTape) -> bool:
    if a.positions != b.positions or len(a.operations) != len(b.operations) or a.shots != b.shots:
        return False
    others = [k for k in range(len(a.operations)) if k not in set(a.positions)]
    pairs = [(a.operations[k], b.operations[k]) for k in others]
    if len(a.measurements) != len(b.measurements):
        return False
    return all(x is y or qml.equal(x, y) for x, y in [*pairs, *zip(a.measurements, b.measurements, strict=True)])
