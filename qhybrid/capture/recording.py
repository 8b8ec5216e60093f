"""Running a quantum function once and keeping what it queued and returned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pennylane as qml
from pennylane import pytrees
from pennylane.measurements import MeasurementProcess
from pennylane.tape import QuantumScript

from qhybrid.errors import CircuitError


class ReturnError(CircuitError, qml.exceptions.QuantumFunctionError):
    """A quantum function returned something other than its measurements."""


@dataclass(frozen=True)
class Recording:
    """What one run of a quantum function left behind.

    Args:
        tape: the circuit
        restore: puts one value for each measurement into the structure that the function returned
        sequence: whether that structure is a list or tuple of measurements
    """

    tape: QuantumScript
    restore: Callable[[Sequence[Any]], Any]
    sequence: bool


def record(func: Callable, args: Sequence[Any], kwargs: dict[str, Any], shots: Any) -> Recording:
    """Run ``func`` and record its circuit.

    Args:
        func: a quantum function
        args, kwargs: its arguments; tracers or values
        shots: shots of the circuit, ``None`` if exact

    Raises:
        ReturnError: the function returned no measurement, or not the ones that it made
    """
    with qml.queuing.AnnotatedQueue() as queue:
        output = func(*args, **kwargs)
    tape = QuantumScript.from_queue(queue, shots)
    leaves, structure = pytrees.flatten(output, is_leaf=lambda x: isinstance(x, MeasurementProcess))
    _check_output(func, output, leaves, tape.measurements)
    sequence = type(output) in (tuple, list) and len(output) == len(leaves)
    return Recording(tape, _restore(output, structure), sequence)


def _check_output(func: Callable, output: Any, leaves: list, measurements: list) -> None:
    name = getattr(func, "__name__", "the quantum function")
    if not leaves or not all(isinstance(m, MeasurementProcess) for m in leaves):
        raise ReturnError(
            f"{name} returned {output!r}. A quantum function must return either a single measurement, "
            "or a nonempty sequence of measurements, for example qml.expval(qml.Z(0))."
        )
    if len(leaves) != len(measurements) or any(a is not b for a, b in zip(leaves, measurements, strict=True)):
        raise ReturnError(
            f"{name} made {len(measurements)} measurements and returned {len(leaves)}. "
            "All measurements must be returned in the order they are measured."
        )


def _restore(output: Any, structure: Any) -> Callable[[Sequence[Any]], Any]:
    if isinstance(output, MeasurementProcess):
        return lambda values: values[0]
    if type(output) in (tuple, list) and all(isinstance(m, MeasurementProcess) for m in output):
        return type(output)
    return lambda values: pytrees.unflatten(list(values), structure)
