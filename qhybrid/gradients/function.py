"""A circuit as a :class:`~qhybrid.execution.Function`: its results, their pullback, and the pullback of that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qhybrid.errors import DifferentiationError
from qhybrid.execution import Circuit, Function, Needs
from qhybrid.gradients.base import GradientMethod, second_order
from qhybrid.gradients.lanes import all_batched, without_samples
from qhybrid.gradients.ports import LaneMap, Port, entry, gather, port_shape, result_ports, slot_ports
from qhybrid.program import Angle, Program, Slots, State
from qhybrid.validation import check_slots


@dataclass(frozen=True)
class _Signature:
    """Inputs and outputs of a function: slots; from level 1 also cotangents; at level 2 also tangents.

    Args:
        inputs: slots, then cotangents of the results, then tangents for the outputs of level 1
        outputs: results at level 0, else cotangents of the needed inputs of the level below
        level: how many times the circuit was pulled back
        sizes: of the mapped axes, outermost first
        starts: where among the inputs the cotangents and the tangents start
        constant: angles that nobody differentiates along
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    level: int = 0
    sizes: tuple[int, ...] = ()
    starts: tuple[int, int] = (0, 0)
    constant: frozenset[Angle] = frozenset()

    @cached_property
    def needs(self) -> Needs:
        """Which slots' cotangents are outputs."""
        wanted = {(p.role, p.index) for p in self.outputs}
        arrays = tuple(("array", p.index) in wanted for p in self.inputs[: self.starts[0]] if p.role == "array")
        return Needs(("shared", 0) in wanted, ("batched", 0) in wanted, arrays, self.constant)

    @cached_property
    def slot_positions(self) -> tuple[int | None, ...]:
        """For each output, the input whose cotangent it is; ``None`` if it is not that of a slot."""
        positions = {(p.role, p.index): k for k, p in enumerate(self.inputs[: self.starts[0]])}
        return tuple(positions.get((p.role, p.index)) for p in self.outputs)

    @cached_property
    def results(self) -> tuple[Port, ...]:
        """The ports of the results' cotangents."""
        return self.inputs[self.starts[0] : self.starts[1]]


@dataclass(frozen=True)
class _Point:
    """Where a function is evaluated, in the terms of one execution."""

    slots: Slots
    cotangents: tuple[NDArray, ...] = ()
    tangents: Slots | None = None


class CircuitFunction(Function):
    """A circuit that hosts can call, differentiate twice and map.

    Inputs are ``shared (Ps,)``, if the program has shared angles; then ``batched (Pb, batch)``, if it has batched
    ones; then each array slot, batch axis first. Outputs are the results of an executable: the scalars ``(S,)`` or
    ``(batch, S)``, even if there are none, then each tensor.

    Mapped axes and the batch are flattened into lanes of one execution; what an input does not carry is broadcast on
    the way in and summed on the way out, which makes each level the exact pullback of the one below.

    Args:
        circuit: the program and where it runs
        method: how it is differentiated
        constant: angles that nobody differentiates along, so that a method need not ask for their derivatives
        signature: for derived functions only
        residual: for derived functions only

    Example::

        function = CircuitFunction(Circuit(program, device.compile), Adjoint())
        scalars, *tensors = function(shared, batched)
        shared_bar, = function.pullback((True, False))(shared, batched, scalars_bar)
    """

    def __init__(
        self,
        circuit: Circuit,
        method: GradientMethod,
        constant: frozenset[Angle] = frozenset(),
        *,
        signature: _Signature | None = None,
        residual: Any = None,
    ) -> None:
        self.circuit, self.method, self._residual = circuit, method, residual
        self._signature = signature or replace(_primal(circuit.program), constant=constant)
        self._pullbacks: dict[tuple[bool, ...], CircuitFunction] = {}

    # ---------------------------------------------------------------- derived functions

    def pullback(self, needs: tuple[bool, ...], residual: Any = None) -> CircuitFunction:
        """The vector-Jacobian product; see :meth:`Function.pullback`."""
        found = self._pullbacks.get(needs)
        if found is None:
            found = self._pullbacks[needs] = self._derived(self._pulled_back(needs))
        if residual is None:
            return found
        return self._derived(found._signature, residual)

    def _derived(self, signature: _Signature, residual: Any = None) -> CircuitFunction:
        return CircuitFunction(self.circuit, self.method, signature=signature, residual=residual)

    def _pulled_back(self, needs: tuple[bool, ...]) -> _Signature:
        sig = self._signature
        if sig.level == 2:
            raise DifferentiationError(
                "Third derivatives of a circuit are not available; first and second derivatives are exact."
            )
        inputs = sig.inputs + sig.outputs
        outputs = tuple(p for p, n in zip(sig.inputs, needs, strict=True) if n)
        starts = (sig.starts[0], len(inputs) if sig.level == 0 else sig.starts[1])
        return replace(sig, inputs=inputs, outputs=outputs, level=sig.level + 1, starts=starts)

    def vmap(self, size: int, mapped: tuple[bool, ...]) -> CircuitFunction:
        """The same function over one more axis, whose elements become lanes of one execution."""
        sig = self._signature
        inputs = tuple(replace(p, carries=(m, *p.carries)) for p, m in zip(sig.inputs, mapped, strict=True))
        outputs = tuple(replace(p, carries=(True, *p.carries)) for p in sig.outputs)
        return self._derived(replace(sig, inputs=inputs, outputs=outputs, sizes=(size, *sig.sizes)))

    # ---------------------------------------------------------------- evaluation

    def __call__(self, *inputs: NDArray) -> tuple[NDArray, ...]:
        """The outputs at ``inputs``; see the class for what they are."""
        sig = self._signature
        if sig.sizes:
            return self._call_lanes(inputs)
        point = self._point(inputs)
        if sig.level == 0:
            return self.circuit.run(point.slots)
        slots, results = self._derivative(self.circuit, point, sig.needs)
        return tuple(
            results[p.index] if k is None else _like(entry(slots, p), inputs[k])
            for p, k in zip(sig.outputs, sig.slot_positions, strict=True)
        )

    def forward(self, *inputs: NDArray) -> tuple[tuple[NDArray, ...], Any]:
        """The outputs, and at level 0 what the gradient method keeps for the derivative."""
        if self._signature.level or self._signature.sizes or self.circuit.shots is not None:
            return self(*inputs), None
        return self.method.forward(self.circuit, self._point(inputs).slots)

    def output_types(self, inputs: Sequence[Any]) -> tuple[tuple[tuple[int, ...], str], ...]:
        """Shape and kind of each output; see :meth:`Function.output_types`."""
        sig, circuit = self._signature, self.circuit
        batch = _batch(sig.inputs, inputs)
        shapes = [port_shape(circuit.program, p, sig.sizes, batch, circuit.shots) for p in sig.outputs]
        return tuple(
            (shape, self._kind(p) if k is None else "c" if inputs[k].dtype.kind == "c" else "f")
            for shape, p, k in zip(shapes, sig.outputs, sig.slot_positions, strict=True)
        )

    def _kind(self, result: Port) -> str:
        """What numbers a result holds, or its cotangent."""
        if result.passive:
            return "f" if self._signature.level else "i"
        tensors = self.circuit.program.tensors
        return "c" if result.index and isinstance(tensors[result.index - 1], State) else "f"

    def _point(self, inputs: Sequence[NDArray]) -> _Point:
        sig, num_arrays = self._signature, len(self.circuit.program.arrays)
        first, second = sig.starts
        slots = gather(sig.inputs[:first], inputs[:first], num_arrays)
        if sig.level == 0:
            check_slots(self.circuit.program, slots)
            return _Point(slots)
        tangents = gather(sig.inputs[second:], inputs[second:], num_arrays) if sig.level == 2 else None
        return _Point(slots, tuple(map(_double, inputs[first:second])), tangents)

    def _derivative(self, circuit: Circuit, point: _Point, needs: Needs) -> tuple[Slots, tuple[NDArray, ...]]:
        """Cotangents of the slots (level 1), or of the slots and of the results' cotangents (level 2)."""
        sig = self._signature
        passive = tuple(p.passive for p in sig.results)
        cotangents = point.cotangents
        if any(passive):
            if any(p and c.any() for p, c in zip(passive, cotangents, strict=True)):
                raise DifferentiationError("Samples have no derivative. Differentiate expval, var or probs instead.")
            circuit = circuit.rewritten(without_samples(circuit.program))
            cotangents = tuple(c for p, c in zip(passive, cotangents, strict=True) if not p)
        if point.tangents is None:
            return self.method.vjp(circuit, point.slots, cotangents, needs, self._residual), ()
        wanted = any(p.role == "result" for p in sig.outputs)
        slots, jvp = second_order(self.method, circuit, point.slots, cotangents, point.tangents, needs, wanted)
        active = iter(jvp)
        pairs = zip(passive, point.cotangents, strict=True)
        return slots, tuple(np.zeros_like(c) if p else next(active) for p, c in pairs)

    def _call_lanes(self, inputs: tuple[NDArray, ...]) -> tuple[NDArray, ...]:
        """Evaluate with the mapped axes and the batch as lanes of one execution."""
        sig, program = self._signature, self.circuit.program
        first, second = sig.starts
        lanes = LaneMap(program, sig.sizes, _batch(sig.inputs, inputs), self._array_lanes)
        circuit = self.circuit.rewritten(all_batched(program, lanes.array_lanes))
        slots = lanes.slots(sig.inputs[:first], inputs[:first])
        if sig.level == 0:
            check_slots(circuit.program, slots)
            return tuple(lanes.restore(r, p) for r, p in zip(circuit.run(slots), sig.outputs, strict=True))
        cotangents = tuple(lanes.flatten(_double(c), p) for c, p in zip(inputs[first:second], sig.results, strict=True))
        tangents = lanes.slots(sig.inputs[second:], inputs[second:]) if sig.level == 2 else None
        needs = Needs(False, sig.needs.shared or sig.needs.batched, sig.needs.arrays)
        slots, results = self._derivative(circuit, _Point(slots, cotangents, tangents), needs)
        return tuple(
            lanes.restore(results[p.index], p) if k is None else _like(lanes.entry(slots, p), inputs[k])
            for p, k in zip(sig.outputs, sig.slot_positions, strict=True)
        )

    @cached_property
    def _array_lanes(self) -> tuple[bool, ...]:
        """Which arrays vary from lane to lane: those with a batch or mapped axis, or all if there are no angles."""
        sig, program = self._signature, self.circuit.program
        varying = {p.index for p in sig.inputs + sig.outputs if p.role == "array" and any(p.carries)}
        no_angles = not (program.num_shared or program.num_batched)
        return tuple(a.batched or no_angles or i in varying for i, a in enumerate(program.arrays))


@lru_cache(maxsize=256)
def _primal(program: Program) -> _Signature:
    """The signature of the results themselves."""
    slots = slot_ports(program)
    return _Signature(slots, result_ports(program), starts=(len(slots), len(slots)))


def _double(cotangent: NDArray) -> NDArray:
    """Cotangents in double precision."""
    return np.asarray(cotangent, dtype=complex if cotangent.dtype.kind == "c" else float)


def _like(cotangent: NDArray, primal: NDArray) -> NDArray:
    """The cotangent of a real input is real."""
    return cotangent if np.iscomplexobj(primal) or not np.iscomplexobj(cotangent) else cotangent.real


def _batch(ports: Sequence[Port], inputs: Sequence[Any]) -> int:
    """Samples of the program itself, mapped axes not counted; 1 if it has no batch."""
    for port, value in zip(ports, inputs, strict=True):
        if port.batched:
            return value.shape[sum(port.carries) + (port.role == "batched")]
    return 1
