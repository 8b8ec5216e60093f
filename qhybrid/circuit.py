"""From slot values to measurement values: one compiled circuit, bound to a device and a gradient method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pennylane.tape import QuantumScript

from qhybrid import interfaces
from qhybrid.capture.assembly import SlotValues, assemble
from qhybrid.capture.lowering import lower
from qhybrid.capture.observables import Output, ScalarOutput
from qhybrid.backend import CompilingDevice
from qhybrid.execution import CircuitFunction
from qhybrid.gradients import GradientMethod, resolve
from qhybrid.program import Program


@dataclass
class Circuit:
    """A program with the way from its results to the values of PennyLane measurements.

    Args:
        program: what runs
        outputs: for each measurement, which result answers it
    """

    program: Program
    outputs: tuple[Output, ...]
    _functions: dict[Any, CircuitFunction] = field(default_factory=dict, repr=False)

    def function(self, device: CompilingDevice, method: GradientMethod | None, shots: int | None) -> CircuitFunction:
        """The differentiable NumPy function that a host's graph calls."""
        key = (id(device), method, shots)
        function = self._functions.get(key)
        if function is None:
            function = CircuitFunction(self.program, device.compile, method, shots=shots, rng=device.rng)
            self._functions[key] = function
        return function

    @property
    def only_scalars(self) -> bool:
        """Whether the scalars of a result, in order, are all there is."""
        return all(isinstance(o, ScalarOutput) and o.index == i for i, o in enumerate(self.outputs))

    def values(self, host: str, results: Sequence[Any]) -> list[Any]:
        """One value of the host for each measurement."""
        if self.only_scalars:
            return interfaces.unstack(host, results[0])
        scalars = interfaces.unstack(host, results[0]) if self.program.scalars else []
        return [
            scalars[o.index] if isinstance(o, ScalarOutput) else o.process(results[1 + o.index]) for o in self.outputs
        ]


def run_slots(
    circuit: Circuit,
    device: CompilingDevice,
    values: SlotValues,
    method: GradientMethod | None,
    shots: int | None,
) -> list[Any]:
    """Run a circuit once in the graph of the host that its slot values belong to."""
    function = circuit.function(device, method, shots)
    return circuit.values(values.host, interfaces.apply(values.host, function, values.tensors))


def run_stacked(
    circuit: Circuit,
    device: CompilingDevice,
    values: SlotValues,
    method: GradientMethod | None,
    shots: int | None,
) -> Any:
    """As :func:`run_slots`, for a circuit with only scalars, which stay one tensor of the host."""
    function = circuit.function(device, method, shots)
    return interfaces.apply(values.host, function, values.tensors)[0]


def run_tape(
    tape: QuantumScript,
    device: CompilingDevice,
    choose: Callable[[int | None], GradientMethod | None] | None = None,
) -> list[tuple[Any, ...]]:
    """Lower and run a recorded circuit: for each number of shots, one value a measurement.

    Args:
        tape: parameters may be tensors of any host
        device: where to run
        choose: gradient method for a number of shots; by default the best that the device has
    """
    choose = choose or (lambda shots: resolve("best", device.has_vjp, shots)[0])
    lowered = lower(tape, device.wires, varies=lambda value: True, trainable=interfaces.requires_grad)
    circuit = Circuit(lowered.program, lowered.outputs)
    values = assemble(lowered)
    all_shots = list(tape.shots) if tape.shots else [None]
    return [tuple(run_slots(circuit, device, values, choose(shots), shots)) for shots in all_shots]
