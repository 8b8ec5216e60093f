"""From slot values to measurement values: a compiled circuit, run on a device in the graph of a host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pennylane as qml
from pennylane import math
from pennylane.tape import QuantumScript

from qhybrid import interfaces
from qhybrid.backend import CompilingDevice
from qhybrid.capture.assembly import SlotValues, assemble
from qhybrid.capture.lowering import Lowered, lower
from qhybrid.capture.observables import Output, ScalarOutput
from qhybrid.capture.postselection import RARE, RARE_SHIFTED, RARE_SINGLE, PostselectedProbabilities, PostselectedScalar
from qhybrid.execution import Circuit, Function
from qhybrid.gradients import Block, CircuitFunction, Gathered, GradientMethod, Refused, Single, resolve
from qhybrid.interfaces import autograd
from qhybrid.program import Angle, Program

#: In place of the gradient of quotients of sampled numbers.
BIASED = Refused(
    "Postselected results from shots are quotients of estimates, whose derivative is biased. Remove the shots, or "
    "measure without postselect the projector on the outcome, and its product with the observable: the derivatives of "
    "both are unbiased, and how they are combined is up to you."
)


@dataclass(frozen=True, eq=False)
class CompiledCircuit:
    """A program, and the way from its results to the values of PennyLane measurements.

    Args:
        program: what runs
        outputs: for each measurement, which result answers it
        device: where it runs
    """

    program: Program
    outputs: tuple[Output, ...]
    device: CompilingDevice
    _functions: dict[Any, Function] = field(default_factory=dict, repr=False)

    @cached_property
    def only_scalars(self) -> bool:
        """Whether the scalars of a result, in order, are all there is."""
        return all(isinstance(o, ScalarOutput) and o.index == i for i, o in enumerate(self.outputs))

    @cached_property
    def is_one_number(self) -> bool:
        """Whether one scalar is all that it gives."""
        return self.only_scalars and len(self.outputs) == 1 and not self.program.tensors

    @cached_property
    def _has_jvp(self) -> bool:
        return self.device.compile(self.program).has_jvp

    def _rarest(self, method: GradientMethod) -> float:
        """The least probability of postselected outcomes at which results are differentiated."""
        if self.device.single_precision:
            return RARE_SINGLE
        return RARE if method.is_native and self._has_jvp else RARE_SHIFTED

    def differentiated(self, method: GradientMethod, shots: int | None) -> GradientMethod:
        """How this circuit is differentiated where others are by ``method``."""
        postselects = any(isinstance(o, PostselectedScalar | PostselectedProbabilities) for o in self.outputs)
        return BIASED if postselects and shots is not None else method

    def results(self, values: SlotValues, method: GradientMethod, shots: int | None) -> tuple[Any, ...]:
        """Scalars as one tensor of the host, then one for each tensor measurement.

        Args:
            values: slot values in the graph of their host
            method: how the host differentiates the results
            shots: samples a measurement basis, ``None`` for exact results
        """
        function = self.function(method, shots, values.constant, values.blocks)
        return interfaces.apply(values.host, function, values.tensors)

    def function(
        self,
        method: GradientMethod,
        shots: int | None = None,
        constant: frozenset[Angle] = frozenset(),
        blocks: tuple[Block, ...] = (),
    ) -> Function:
        """The results as a function of the slots, or of the arrays that slots are gathered from."""
        key = (method, shots, blocks, constant)
        found = self._functions.get(key)
        if found is None:
            circuit = Circuit(self.program, self.device.compile, shots, self.device.new_rng)
            found = CircuitFunction(circuit, self.differentiated(method, shots), constant)
            if blocks:
                found = Gathered(found, blocks)
            self._functions[key] = found
        return found

    def _number(self, method: GradientMethod, shots: int | None, *how: Any) -> Function:
        """The one number that it gives, without an axis of scalars; arguments are those of :meth:`function`."""
        key = (method, shots, *how, Single)
        found = self._functions.get(key)
        if found is None:
            found = self._functions[key] = Single(self.function(method, shots, *how))
        return found

    def measured(self, values: SlotValues, method: GradientMethod, shots: int | None) -> list[Any]:
        """One value of the host for each measurement; see :meth:`results`."""
        if values.host == "torch" and self.is_one_number:
            function = self._number(method, shots, values.constant, values.blocks)
            scalars = list(interfaces.apply(values.host, function, values.tensors))
        else:
            results = self.results(values, method, shots)
            scalars = _unstack(values.host, results[0])
            if not self.only_scalars:
                rare = self._rarest(method) if shots is None else 0.0  # derivatives with shots are refused anyway
                scalars = [o.value(scalars, results[1:], rare) for o in self.outputs]
        return [_as_pennylane(s) for s in scalars] if values.host == "autograd" else scalars


def _unstack(host: str, scalars: Any) -> list[Any]:
    return list(scalars.unbind(-1)) if host == "torch" else autograd.unstack(scalars)


def _as_pennylane(value: Any) -> Any:
    """A result outside of differentiation as PennyLane returns it, so that its optimizers recognise it."""
    return qml.numpy.tensor(value, requires_grad=True) if isinstance(value, np.ndarray | np.generic) else value


def run_tape(
    tape: QuantumScript,
    device: CompilingDevice,
    choose: Callable[[int | None], GradientMethod] | None = None,
) -> list[Sequence[Any]]:
    """Lower and run a recorded circuit: for each number of shots, one value a measurement.

    Args:
        tape: parameters may be tensors of any host
        device: where to run
        choose: gradient method for a number of shots; by default the best that the device has

    Raises:
        CaptureError: the circuit cannot be lowered
    """
    lowered = lowered_tape(tape, device)
    return run_lowered(lowered, assemble(lowered), tape.shots, device, choose)


def lowered_tape(tape: QuantumScript, device: CompilingDevice, is_staged: bool = False) -> Lowered:
    """A recorded circuit as a program and the values of its slots, tensors of any host.

    Args:
        tape: the circuit
        device: what runs it
        is_staged: whether the host makes a program of it: numbers that are no tensors are then the same in every run,
            while otherwise the next recording may have others in their place

    Raises:
        CaptureError: the circuit cannot be lowered
    """
    varies = _is_no_number if is_staged else lambda value: True
    return lower(tape, device, varies, trainable=math.requires_grad)


def _is_no_number(value: Any) -> bool:
    return not isinstance(value, int | float | np.number)


def run_lowered(
    lowered: Lowered,
    values: SlotValues,
    shots: qml.measurements.Shots,
    device: CompilingDevice,
    choose: Callable[[int | None], GradientMethod] | None = None,
) -> list[Sequence[Any]]:
    """Run a lowered circuit on ``values`` of its slots; others as for :func:`run_tape`."""
    choose = choose or (lambda shots: resolve("best", has_vjp=device.has_vjp, shots=shots)[0])
    numbers = list(shots) if shots else [None]
    for number in numbers:
        device.check(lowered.program, number)
    circuit = CompiledCircuit(device.adapt(lowered.program), lowered.outputs, device)
    return [circuit.measured(values, choose(number), number) for number in numbers]
