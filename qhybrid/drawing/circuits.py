"""The circuit of a quantum node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pennylane as qml
from pennylane.drawer.drawable_layers import drawable_layers
from pennylane.measurements import MeasurementProcess
from pennylane.tape import QuantumScript

from qhybrid.drawing.model import Node
from qhybrid.execution import Function
from qhybrid.gradients import CircuitFunction, Gathered, Single
from qhybrid.program import Expectation, Probabilities, Program, Samples, Scalar, State, Tensor, Variance
from qhybrid.tapes.operations import tape_operations

#: Circuits with more wires are described in words.
MAX_WIRES = 8
#: Layers of a circuit that are drawn.
MAX_LAYERS = 12


def quantum_node(function: Function, shape: tuple[int, ...] | None) -> Node | None:
    """The node of a function that evaluates a circuit; ``None`` for any other function.

    Args:
        function: what a host evaluates
        shape: of its value
    """
    while isinstance(function, Gathered | Single):
        function = function.function
    if not isinstance(function, CircuitFunction):
        return None
    program = function.circuit.program
    return Node("quantum", _title(program), shape, _tape(program), identity=program)


def tape_node(tapes: Sequence[Any], shape: tuple[int, ...] | None) -> Node:
    """The node of circuits that PennyLane runs; the first one is drawn."""
    first = tapes[0]
    wires = {wire: k for k, wire in enumerate(first.wires)}
    tape = first.map_to_standard_wires() if wires else first
    several = f", {len(tapes)} circuits" if len(tapes) > 1 else ""
    title = f"{_number(len(wires), 'qubit')}, {_number(len(first.get_parameters()), 'angle')}{several}"
    return Node("quantum", title, shape, tape, identity=tuple((o.name, o.wires) for o in tape.operations))


def summary(tape: QuantumScript) -> list[str]:
    """What stands below the drawing of a circuit: what is not drawn, and what is measured."""
    layers = len(_layers(tape))
    lines = []
    if len(tape.wires) > MAX_WIRES:
        counts = Counter(o.name for o in tape.operations).most_common()
        lines += _wrapped([f"{n} {name}" for name, n in counts[:6]] + ["..."] * (len(counts) > 6))
    elif layers > MAX_LAYERS:
        lines.append(f"first {MAX_LAYERS} of {layers} layers")
    measured = Counter(type(m).__name__ for m in tape.measurements)
    lines += _wrapped([f"{_MEASURED.get(name, name)}" + (f" × {n}" if n > 1 else "") for name, n in measured.items()])
    return lines


_MEASURED = {
    "ExpectationMP": "expval", "VarianceMP": "var", "ProbabilityMP": "probs", "StateMP": "state", "SampleMP": "samples"
}  # fmt: skip


def drawable(tape: QuantumScript) -> tuple[QuantumScript, int] | None:
    """The part of a circuit that is drawn and its number of layers; ``None`` if it has too many wires."""
    if not 0 < len(tape.wires) <= MAX_WIRES:
        return None
    layers = _layers(tape)
    if len(layers) <= MAX_LAYERS:
        return tape, len(layers)
    shown = [operation for layer in layers[:MAX_LAYERS] for operation in layer]
    idle = [qml.Barrier(w) for w in tape.wires if not any(w in o.wires for o in shown)]
    return QuantumScript([*shown, *idle]), MAX_LAYERS


def _layers(tape: QuantumScript) -> list[list[Any]]:
    return drawable_layers(tape.operations, wire_map={w: k for k, w in enumerate(tape.wires)})


def _title(program: Program) -> str:
    angles = program.num_shared + program.num_batched
    arrays = f", {_number(len(program.arrays), 'array')}" if program.arrays else ""
    return f"{_number(program.num_wires, 'qubit')}, {_number(angles, 'angle')}{arrays}"


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _wrapped(words: list[str], width: int = 4) -> list[str]:
    return [", ".join(words[i : i + width]) for i in range(0, len(words), width)]


def _tape(program: Program) -> QuantumScript:
    """The circuit with angles of no significance; measurements say which wires, not of what."""
    with qml.QueuingManager.stop_recording():
        operations = [o.operation for o in tape_operations(program, range(program.num_wires))]
        return QuantumScript(operations, [_measurement(m) for m in (*program.scalars, *program.tensors)])


def _measurement(result: Scalar | Tensor) -> MeasurementProcess:
    match result:
        case Expectation(observable) | Variance(observable):
            wires = {w for t in observable.terms for w, _ in t.word} | {
                w for t in observable.terms for ws, _ in t.matrices for w in ws
            }
            shown = qml.prod(*(qml.Z(w) for w in sorted(wires))) if wires else qml.Identity(0)
            return qml.expval(shown) if isinstance(result, Expectation) else qml.var(shown)
        case Probabilities(wires):
            return qml.probs(wires=wires)
        case Samples(wires):
            return qml.sample(wires=wires)
        case State():
            return qml.state()
