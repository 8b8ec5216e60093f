"""A circuit as a :class:`~qhybrid.execution.Function`: its results, their pullback, and the pullback of that."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qhybrid.errors import DifferentiationError
from qhybrid.execution import Circuit, Function, Needs
from qhybrid.gradients.base import GradientMethod, second_order
from qhybrid.gradients.lanes import all_batched, without_samples
from qhybrid.program import Program, Samples, Slots


@dataclass(frozen=True, slots=True)
class Port:
    """One input or output of a function.

    Args:
        role: an angle block, an array slot, or a result
        index: which array slot or which result
        batched: whether it has the batch axis of its program
        carries: for each mapped axis, outermost first, whether the port has it (in front of its own axes)
        passive: whether it is a result without a derivative
    """

    role: Literal["shared", "batched", "array", "result"]
    index: int = 0
    batched: bool = False
    carries: tuple[bool, ...] = ()
    passive: bool = False


def _slot_ports(program: Program) -> tuple[Port, ...]:
    ports = [Port("shared")] * bool(program.num_shared) + [Port("batched", batched=True)] * bool(program.num_batched)
    return (*ports, *(Port("array", i, a.batched) for i, a in enumerate(program.arrays)))


def _result_ports(program: Program) -> tuple[Port, ...]:
    batched = program.is_batched
    tensors = (Port("result", i + 1, batched, (), isinstance(m, Samples)) for i, m in enumerate(program.tensors))
    return (Port("result", 0, batched), *tensors)


class CircuitFunction(Function):
    """A circuit that hosts can call, differentiate twice and map.

    Inputs are ``shared (Ps,)``, if the program has shared angles; then ``batched (Pb, batch)``, if it has batched
    ones; then each array slot, batch axis first. Outputs are the results of an executable: the scalars ``(S,)`` or
    ``(batch, S)``, even if there are none, then each tensor.

    Args:
        circuit: the program and where it runs
        method: how it is differentiated

    Example::

        function = CircuitFunction(Circuit(program, device.compile), Adjoint())
        scalars, *tensors = function(shared, batched)
        shared_bar, = function.pullback((True, False))(shared, batched, scalars_bar)
    """

    def __init__(self, circuit: Circuit, method: GradientMethod) -> None:
        self._core = _Core(circuit, method, _slot_ports(circuit.program), _result_ports(circuit.program))

    def __call__(self, *inputs: NDArray) -> tuple[NDArray, ...]:
        """The results at the slots ``inputs``."""
        return self._core(*inputs)

    def forward(self, *inputs: NDArray) -> tuple[tuple[NDArray, ...], Any]:
        """The results, and what the device keeps for its derivative."""
        return self._core.forward(*inputs)

    def pullback(self, needs: tuple[bool, ...], residual: Any = None) -> Function:
        """The vector-Jacobian product, by the gradient method."""
        return self._core.pullback(needs, residual)

    def vmap(self, size: int, mapped: tuple[bool, ...]) -> Function:
        """The circuit over one more axis, whose elements become lanes of one execution."""
        return self._core.vmap(size, mapped)


@dataclass(frozen=True, eq=False)
class _Core(Function):
    """A circuit's results (level 0), their pullback (1) or the pullback of that (2), over mapped axes.

    Inputs are the slots; from level 1 also cotangents of the results; at level 2 also tangents, one for each output
    of level 1. Mapped axes and the batch are flattened into lanes; what a port does not carry is broadcast on the way
    in and summed on the way out, which makes each level the exact pullback of the one below.
    """

    circuit: Circuit
    method: GradientMethod
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    level: int = 0
    sizes: tuple[int, ...] = ()
    residual: Any = None
    tangent_start: int = 0

    # ---------------------------------------------------------------- building functions

    @cached_property
    def _pullbacks(self) -> dict[tuple[bool, ...], _Core]:
        return {}

    def pullback(self, needs: tuple[bool, ...], residual: Any = None) -> Function:
        """The next level; see :meth:`Function.pullback`."""
        found = self._pullbacks.get(needs)
        if found is None:
            found = self._pullbacks[needs] = self._next_level(needs)
        return found if residual is None else replace(found, residual=residual)

    def _next_level(self, needs: tuple[bool, ...]) -> _Core:
        if self.level == 2:
            raise DifferentiationError(
                "Third derivatives of a circuit are not available. First and second derivatives are exact."
            )
        return replace(
            self,
            inputs=self.inputs + self.outputs,
            outputs=tuple(p for p, n in zip(self.inputs, needs, strict=True) if n),
            level=self.level + 1,
            residual=None,
            tangent_start=len(self.inputs),
        )

    def vmap(self, size: int, mapped: tuple[bool, ...]) -> Function:
        """The same level over one more axis, outermost."""
        return replace(
            self,
            inputs=tuple(replace(p, carries=(m, *p.carries)) for p, m in zip(self.inputs, mapped, strict=True)),
            outputs=tuple(replace(p, carries=(True, *p.carries)) for p in self.outputs),
            sizes=(size, *self.sizes),
            residual=None,
        )

    # ---------------------------------------------------------------- calling them

    def __call__(self, *inputs: NDArray) -> tuple[NDArray, ...]:
        """Evaluate; see the class for what the inputs are."""
        if self.sizes:
            return self._call_lanes(inputs)
        point = self._point(inputs)
        slots, results = self._evaluate(self.circuit, point)
        return tuple(
            results[p.index] if p.role == "result" else _real_as(_entry(slots, p), point, p) for p in self.outputs
        )

    def forward(self, *inputs: NDArray) -> tuple[tuple[NDArray, ...], Any]:
        """Results with the residual of the gradient method, at level 0 without mapped axes."""
        if self.level or self.sizes or self.circuit.shots is not None:
            return self(*inputs), None
        return self.method.forward(self.circuit, self._point(inputs).slots)

    def _point(self, inputs: tuple[NDArray, ...]) -> _Point:
        count = self._num_slots
        cotangents = inputs[count : count + self._num_results] if self.level else ()
        slots = _slots(self.inputs[:count], inputs[:count], len(self.circuit.program.arrays))
        if self.level < 2:
            return _Point(slots, cotangents, None, inputs)
        start = self.tangent_start
        tangents = _slots(self.inputs[start:], inputs[start:], len(self.circuit.program.arrays))
        return _Point(slots, cotangents, tangents, inputs)

    def _evaluate(self, circuit: Circuit, point: _Point) -> tuple[Slots, tuple[NDArray, ...]]:
        """Cotangents of the slots and of the results, at levels 1 and 2; results at level 0."""
        if self.level == 0:
            return point.slots, circuit.run(point.slots)
        circuit, cotangents = self._active(circuit, point.cotangents)
        if point.tangents is None:
            return self.method.vjp(circuit, point.slots, cotangents, self._needs, self.residual), ()
        want_results = any(p.role == "result" for p in self.outputs)
        slots, jvp = second_order(
            self.method, circuit, point.slots, cotangents, point.tangents, self._needs, want_results
        )
        active = iter(jvp)
        ports = self.inputs[self._num_slots : self._num_slots + self._num_results]
        pairs = zip(ports, point.cotangents, strict=True)
        return slots, tuple(np.zeros_like(c) if p.passive else next(active) for p, c in pairs)

    def _active(self, circuit: Circuit, cotangents: tuple[NDArray, ...]) -> tuple[Circuit, tuple[NDArray, ...]]:
        """The circuit without results that have no derivative, and the cotangents of the others."""
        ports = self.inputs[self._num_slots : self._num_slots + self._num_results]
        if not any(p.passive for p in ports):
            return circuit, cotangents
        if any(p.passive and c.any() for p, c in zip(ports, cotangents, strict=True)):
            raise DifferentiationError("Samples have no derivative. Differentiate expval, var or probs instead.")
        active = tuple(c for p, c in zip(ports, cotangents, strict=True) if not p.passive)
        return circuit.rewritten(without_samples(circuit.program)), active

    @cached_property
    def _num_slots(self) -> int:
        return len(_slot_ports(self.circuit.program))

    @cached_property
    def _num_results(self) -> int:
        return 1 + len(self.circuit.program.tensors)

    @cached_property
    def _needs(self) -> Needs:
        wanted = {(p.role, p.index) for p in self.outputs}
        arrays = tuple(("array", i) in wanted for i in range(len(self.circuit.program.arrays)))
        return Needs(("shared", 0) in wanted, ("batched", 0) in wanted, arrays)

    # ---------------------------------------------------------------- mapped axes

    def _call_lanes(self, inputs: tuple[NDArray, ...]) -> tuple[NDArray, ...]:
        """Evaluate with the mapped axes and the batch as lanes of one execution."""
        program, masks = self.circuit.program, self._lane_arrays
        sizes = [x.shape[sum(p.carries) + (p.role == "batched")] for p, x in zip(self.inputs, inputs, strict=True) if p.batched]
        batch = sizes[0] if sizes else 1
        lanes = prod(self.sizes) * batch
        flat = tuple(
            x if p.role == "array" and not masks[p.index] else self._to_lanes(x, p, batch)
            for p, x in zip(self.inputs, inputs, strict=True)
        )
        point = self._point(flat)
        tangents = None if point.tangents is None else _lane_slots(program, point.tangents, lanes)
        merged = _Point(_lane_slots(program, point.slots, lanes), point.cotangents, tangents, inputs)
        level = replace(self, sizes=(), circuit=self.circuit.rewritten(all_batched(program, masks)))
