"""A circuit as a :class:`~qhybrid.execution.Function`: its results and their derivatives, forward and reverse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qhybrid.errors import DifferentiationError
from qhybrid.execution import Circuit, Direct, Function, Needs, SecondOrder, Wanted
from qhybrid.gradients.adjoint import Adjoint
from qhybrid.gradients.base import GradientMethod
from qhybrid.gradients.curvature import tangent_tangents
from qhybrid.gradients.lanes import all_batched, without_samples
from qhybrid.gradients.ports import Kind, LaneMap, Port, port_shape
from qhybrid.gradients.signature import Signature, primal, third_derivatives
from qhybrid.program import Angle, Slots, State
from qhybrid.validation import check_angles, check_slots

#: Derived functions of one function that are kept, and sizes of batches that their layouts are kept for.
MOST_DERIVED = 64


class _Point(NamedTuple):
    """Where a function is evaluated, in the terms of one execution; ``None`` where the function has no such input."""

    slots: Slots
    cotangents: tuple[NDArray, ...] | None = None
    tangents: Slots | None = None
    cotangent_tangents: tuple[NDArray, ...] | None = None
    other_tangents: Slots | None = None
    tangent_tangents: Slots | None = None


class _Kept(NamedTuple):
    """What is kept of an evaluation, and of which.

    Args:
        sizes: of the evaluation's mapped axes
        array_lanes: which arrays were in lanes
        residual: what the gradient method keeps, or what ran it directly
        slots: where it was
        direct: what ran it, if that was without a record of slots
        angles: at which it ran, if it did so
    """

    sizes: tuple[int, ...]
    array_lanes: tuple[bool, ...]
    residual: Any
    slots: Slots | None = None
    direct: Direct | None = None
    angles: tuple[NDArray, ...] = ()


class CircuitFunction(Function):
    """A circuit that hosts can call, differentiate twice, forward and in reverse, and map.

    Inputs are ``shared (Ps,)``, if the program has shared angles; then ``batched (Pb, batch)``, if it has batched
    ones; then each array slot, batch axis first. Outputs are the results of an executable: the scalars ``(S,)`` or
    ``(batch, S)``, even if there are none, then each tensor.

    Mapped axes of which the point of evaluation depends are flattened, with the batch, into lanes of one execution;
    others are directions of one execution. What an input does not carry is broadcast on the way in and summed on the
    way out, which makes each function the exact derivative of the one that it came from.

    Args:
        circuit: the program and where it runs
        method: how it is differentiated
        constant: angles that nobody differentiates along, so that a method need not ask for their derivatives
        signature: for derived functions only

    Example::

        function = CircuitFunction(Circuit(program, device.compile), Adjoint())
        scalars, *tensors = function(shared, batched)
        shared_bar, = function.pullback((True, False))(shared, batched, scalars_bar)
        scalars_dot, = function.pushforward((True, False))(shared, batched, shared_dot)
    """

    def __init__(
        self,
        circuit: Circuit,
        method: GradientMethod,
        constant: frozenset[Angle] = frozenset(),
        *,
        signature: Signature | None = None,
    ) -> None:
        self.circuit, self.method = circuit, method
        self._kept: _Kept | None = None
        self._signature = signature or replace(primal(circuit.program), constant=constant)
        self._is_direct = self._has_angles_only()
        self._derivatives: dict[Any, CircuitFunction] = {}
        self._laid: dict[int, tuple[LaneMap, Circuit, Needs]] = {}

    # ---------------------------------------------------------------- derived functions

    def pullback(self, needs: tuple[bool, ...], residual: _Kept | None = None) -> CircuitFunction:
        """The vector-Jacobian product; see :meth:`Function.pullback`."""
        found = self._derived("pulled_back", needs)
        return found if residual is None else found._keeping(residual)

    def pushforward(self, moving: tuple[bool, ...]) -> CircuitFunction:
        """The Jacobian-vector product; see :meth:`Function.pushforward`."""
        return self._derived("pushed", moving)

    def with_tangents(self, moving: tuple[bool, ...]) -> CircuitFunction | None:
        """The outputs and their tangents from one evaluation; see :meth:`Function.with_tangents`."""
        pushed = self._derived("pushed", moving)
        if any(self.circuit.passive) or not self._signature.goes_with(pushed._signature):
            return None
        return self._derived("with_tangents", moving)

    def vmap(self, size: int, mapped: tuple[bool, ...]) -> CircuitFunction:
        """The same function over one more axis, whose elements become lanes or directions of one execution."""
        found = self._derived("vmapped", size, mapped)
        return found if self._kept is None else found._keeping(self._kept)

    def _derived(self, how: str, *arguments: Any) -> CircuitFunction:
        """The function with another signature, kept for the next time that it is asked for.

        Args:
            how: name of a method of :class:`Signature`
            arguments: of that method
        """
        found = self._derivatives.get((how, *arguments))
        if found is None:
            if len(self._derivatives) >= MOST_DERIVED:
                self._derivatives.clear()
            signature = getattr(self._signature, how)(*arguments)
            found = CircuitFunction(self.circuit, self.method, signature=signature)
            self._derivatives[how, *arguments] = found
        return found

    def _keeping(self, residual: _Kept) -> CircuitFunction:
        """The same function with the residual of an evaluation; it shares everything else."""
        found = CircuitFunction.__new__(CircuitFunction)
        found.__dict__.update(self.__dict__)
        found._kept = residual
        return found

    # ---------------------------------------------------------------- evaluation

    def __call__(self, *inputs: NDArray) -> tuple[NDArray, ...]:
        """The outputs at ``inputs``; see the class for what they are."""
        sig, found = self._signature, self._direct(inputs)
        if found is not None:
            direct, angles = found
            return (direct.run(*angles)[0],)
        if 1 in sig.sizes:
            return self._expanded(self._reduced(*self._squeezed(inputs)))
        lanes, circuit, needs = self._laid_out(inputs)
        if sig.gives_values:
            return self._restored(lanes, circuit.run(self._slots(lanes, circuit, inputs)))
        outputs = self._pulled if sig.is_plain else self._further_derivatives
        return outputs(lanes, circuit, needs, inputs)

    def _pulled(self, lanes: LaneMap, circuit: Circuit, needs: Needs, inputs: Sequence[NDArray]) -> tuple[NDArray, ...]:
        """The first pullback of the results."""
        sig, left = self._signature, self._left(lanes.array_lanes)
        slots = left.slots if left and left.slots else self._slots(lanes, circuit, inputs)
        cotangents = self._results(Kind.COTANGENT, lanes, inputs)
        assert cotangents is not None
        circuit, cotangents = self._active(circuit, cotangents)
        own = self.method.vjp(circuit, slots, cotangents, needs, left and left.residual)
        pairs = zip(sig.outputs, sig.positions, strict=True)
        return tuple([_like(lanes.entry(own, p), inputs[k]) for p, k in pairs if k is not None])

    def forward(self, *inputs: NDArray) -> tuple[tuple[NDArray, ...], Any]:
        """The outputs and, of the results themselves, what the gradient method keeps for the derivative."""
        sig, found = self._signature, self._direct(inputs)
        if found is not None:
            direct, angles = found
            scalars, residual = direct.run(*angles)
            return (scalars,), _Kept((), (), residual, None, direct, angles)
        if not sig.gives_values or self.circuit.shots is not None:
            return self(*inputs), None
        if 1 in sig.sizes:
            outputs, residual = self._reduced.forward(*self._squeezed(inputs))
            return self._expanded(outputs), residual
        lanes, circuit, _ = self._laid_out(inputs)
        slots = _owned(self._slots(lanes, circuit, inputs))
        results, residual = self.method.forward(circuit, slots)
        return self._restored(lanes, results), _Kept(sig.sizes, lanes.array_lanes, residual, slots)

    def pullback_at(self, needs: tuple[bool, ...], residual: Any) -> Callable[..., tuple[NDArray, ...]] | None:
        """The pullback at inputs that were run without a record of slots; see :meth:`Function.pullback_at`."""
        if residual is None or residual.direct is None or not self._is_direct:
            return None
        kept, direct, angles = residual.residual, residual.direct, residual.angles
        wanted = self._derived("pulled_back", needs)._signature.needs

        def pull(cotangents: NDArray) -> tuple[NDArray, ...]:
            found = direct.vjp(*angles, cotangents, wanted, kept)
            given = found if len(needs) == 2 else found[:1] if self.circuit.program.num_shared else found[1:]
            return tuple([c for c, needed in zip(given, needs, strict=True) if needed])

        return pull

    def _has_angles_only(self) -> bool:
        """Whether this is the exact scalars as a function of angles, and their derivative the executable's own."""
        sig, circuit = self._signature, self.circuit
        values = sig.gives_values and not sig.sizes and len(sig.outputs) == 1 and type(self.method) is Adjoint
        return values and circuit.shots is None and len(sig.inputs) > 0 and not circuit.program.arrays

    def _direct(self, inputs: Sequence[NDArray]) -> tuple[Direct, tuple[NDArray, NDArray]] | None:
        """What runs these inputs without a record of slots, if anything does, and the angles as it takes them."""
        if not self._is_direct:
            return None
        program = self.circuit.program
        samples = inputs[-1].shape[1] if program.num_batched else 1
        direct = self.circuit.executable.direct(samples)
        if direct is None:
            return None
        # Copies: the derivative is that of this evaluation, whatever is done to the inputs before it is asked for.
        shared = np.array(inputs[0], float) if program.num_shared else np.empty(0)
        batched = np.array(inputs[-1], float) if program.num_batched else np.empty((0, 1))
        check_angles(program, shared, batched)
        return direct, (shared, batched)

    def _left(self, array_lanes: tuple[bool, ...]) -> _Kept | None:
        """What is left of the evaluation at these very inputs, if that ran the same lanes."""
        kept = self._kept
        same = kept is not None and (kept.sizes, kept.array_lanes) == (self._signature.sizes, array_lanes)
        return kept if same else None

    def output_types(self, inputs: Sequence[Any]) -> tuple[tuple[tuple[int, ...], str], ...]:
        """Shape and kind of each output; see :meth:`Function.output_types`."""
        sig = self._signature
        return tuple(
            (self._shape(p, inputs), self._number(p) if k is None else "c" if inputs[k].dtype.kind == "c" else "f")
            for p, k in zip(sig.outputs, sig.positions, strict=True)
        )

    def _shape(self, port: Port, inputs: Sequence[Any]) -> tuple[int, ...]:
        batch = _batch(self._signature.inputs, inputs)
        return port_shape(self.circuit.program, port, self._signature.sizes, batch, self.circuit.shots)

    def _number(self, result: Port) -> str:
        """What numbers a result holds, or its derivative."""
        if result.passive:
            return "i" if result.kind is Kind.VALUE else "f"
        tensors = self.circuit.program.tensors
        return "c" if result.index and isinstance(tensors[result.index - 1], State) else "f"

    def _results(self, kind: Kind, lanes: LaneMap, inputs: Sequence[NDArray]) -> tuple[NDArray, ...] | None:
        """The inputs that are derivatives of results, zero for those that are not given; ``None`` without any."""
        sig = self._signature
        index = sig.indices(kind)
        if not index:
            return None
        flat = [lanes.flatten(_double(inputs[k]), sig.inputs[k]) for k in index]
        if len(index) == len(self.circuit.passive):
            return tuple(flat)
        given = {sig.inputs[k].place: value for k, value in zip(index, flat, strict=True)}
        found = []
        for p in primal(self.circuit.program).outputs:
            if p.place not in given:
                port = replace(p, kind=kind, carries=(False,) * len(sig.sizes))
                zeros = np.zeros(self._shape(port, inputs), complex if self._number(port) == "c" else float)
                given[p.place] = lanes.flatten(zeros, port)
            found.append(given[p.place])
        return tuple(found)

    def _active(self, circuit: Circuit, cotangents: tuple[NDArray, ...]) -> tuple[Circuit, tuple[NDArray, ...]]:
        """The circuit without raw samples, and the cotangents of what is left."""
        passive = self.circuit.passive
        if True not in passive:
            return circuit, cotangents
        if any(p and c.any() for p, c in zip(passive, cotangents, strict=True)):
            raise DifferentiationError("Samples have no derivative. Differentiate expval, var or probs instead.")
        active = circuit.rewritten(without_samples(circuit.program))
        return active, tuple(c for p, c in zip(passive, cotangents, strict=True) if not p)

    # ---------------------------------------------------------------- mapped axes of one element

    @property
    def _reduced(self) -> CircuitFunction:
        """The same function without the mapped axes of one element, which need no lanes."""
        found = self._derived("without_axes", self._signature.single)
        return found if self._kept is None else found._keeping(self._kept)

    def _squeezed(self, inputs: Sequence[NDArray]) -> list[NDArray]:
        return [x[index] for x, index in zip(inputs, self._signature.squeezing, strict=True)]

    def _expanded(self, outputs: Sequence[NDArray]) -> tuple[NDArray, ...]:
        return tuple([y[index] for y, index in zip(outputs, self._signature.expanding, strict=True)])

    # ---------------------------------------------------------------- all derivatives but the first pullback

    def _further_derivatives(
        self, lanes: LaneMap, circuit: Circuit, needs: Needs, inputs: Sequence[NDArray]
    ) -> tuple[NDArray, ...]:
        """The outputs where these are not the results."""
        sig = self._signature
        found = self._derivatives_at(circuit, self._point(lanes, circuit, inputs), needs)
        outputs = []
        for p, k in zip(sig.outputs, sig.positions, strict=True):
            if p.kind in (Kind.UNUSED, Kind.THIRD) or (p.passive and p.kind is not Kind.VALUE):
                outputs.append(np.zeros(self._shape(p, inputs)))
            elif k is None:
                outputs.append(lanes.restore(found[p.kind][p.index], p))
            else:
                outputs.append(_like(lanes.entry(found[p.kind], p), inputs[k]))
        return tuple(outputs)

    def _restored(self, lanes: LaneMap, results: Sequence[NDArray]) -> tuple[NDArray, ...]:
        """The results with their mapped axes."""
        return tuple([lanes.restore(results[p.index], p) for p in self._signature.outputs])

    def _laid_out(self, inputs: Sequence[NDArray]) -> tuple[LaneMap, Circuit, Needs]:
        """Where mapped axes go, the circuit that has room for them, and which of its slots' cotangents are outputs."""
        batch = _batch(self._signature.inputs, inputs)
        found = self._laid.get(batch)
        if found is None:
            sig, program, circuit = self._signature, self.circuit.program, self.circuit
            in_lanes = any(sig.lanes) or sig.bends_a_tangent
            lanes, needs = LaneMap(program, sig.sizes, sig.lanes, in_lanes, batch, self._array_lanes()), sig.needs
            if in_lanes:
                circuit = circuit.rewritten(all_batched(program, lanes.array_lanes))
                needs = Needs(False, needs.shared or needs.batched, needs.arrays)
            if len(self._laid) >= MOST_DERIVED:
                self._laid.clear()
            found = self._laid[batch] = lanes, circuit, needs
        return found

    def _slots(self, lanes: LaneMap, circuit: Circuit, inputs: Sequence[NDArray]) -> Slots:
        """The point of evaluation, which is checked where results are asked for."""
        sig = self._signature
        slots = lanes.slots(sig.slots, [inputs[k] for k in sig.indices(Kind.VALUE)])
        if Kind.VALUE in sig.kinds:
            check_slots(circuit.program, slots)
        return slots

    def _point(self, lanes: LaneMap, circuit: Circuit, inputs: Sequence[NDArray]) -> _Point:
        sig, left = self._signature, self._left(lanes.array_lanes)

        def slots(kind: Kind) -> Slots | None:
            index = sig.indices(kind)
            return lanes.slots([sig.inputs[k] for k in index], [inputs[k] for k in index]) if index else None

        return _Point(
            left.slots if left and left.slots else self._slots(lanes, circuit, inputs),
            self._results(Kind.COTANGENT, lanes, inputs),
            slots(Kind.TANGENT),
            self._results(Kind.COTANGENT_TANGENT, lanes, inputs),
            slots(Kind.OTHER_TANGENT),
            slots(Kind.TANGENT_TANGENT),
        )

    def _derivatives_at(self, circuit: Circuit, point: _Point, needs: Needs) -> dict[Kind, Any]:
        """What the outputs are made of, by their kind: slots, or one array a result."""
        kinds, method = self._signature.kinds, self.method
        if not kinds:
            return {}
        if kinds == {Kind.COTANGENT}:
            assert point.cotangents is not None
            circuit, cotangents = self._active(circuit, point.cotangents)
            left = self._left(self._array_lanes())
            return {Kind.COTANGENT: method.vjp(circuit, point.slots, cotangents, needs, left and left.residual)}
        if any(self.circuit.passive):
            circuit = circuit.rewritten(without_samples(circuit.program))
        if kinds == {Kind.TANGENT}:
            assert point.tangents is not None
            return {Kind.TANGENT: self._with_passive(method.jvp(circuit, point.slots, point.tangents))}
        if kinds == {Kind.VALUE, Kind.TANGENT}:
            assert point.tangents is not None
            results, tangents = method.run_with_tangents(circuit, point.slots, point.tangents)
            return {Kind.VALUE: results, Kind.TANGENT: tangents}
        found: dict[Kind, Any] = {}
        if self._signature.bends_a_tangent:
            found = self._bent(circuit, point)
        if kinds & {Kind.COTANGENT_TANGENT, Kind.COTANGENT}:
            second = self._second_order(circuit, point, needs)
            found[Kind.TANGENT] = self._with_passive(second.results) if second.results else ()
            found[Kind.COTANGENT], found[Kind.COTANGENT_TANGENT] = second.cotangents, second.tangents
        return found

    def _bent(self, circuit: Circuit, point: _Point) -> dict[Kind, Any]:
        kinds, moving = self._signature.kinds, point.other_tangents
        if Kind.THIRD in kinds and moving is not None and _any(moving):
            raise third_derivatives()
        if Kind.TANGENT_TANGENT not in kinds:
            return {}
        bent = tangent_tangents(self.method, circuit, point.slots, point.tangents, moving, point.tangent_tangents)
        return {Kind.TANGENT_TANGENT: self._with_passive(bent)}

    def _second_order(self, circuit: Circuit, point: _Point, needs: Needs) -> SecondOrder:
        assert point.cotangents is not None
        assert point.tangents is not None
        kinds = self._signature.kinds
        wanted = Wanted(Kind.TANGENT in kinds, Kind.COTANGENT in kinds, Kind.COTANGENT_TANGENT in kinds)
        _, cotangents = self._active(circuit, point.cotangents)
        moving = point.cotangent_tangents
        if moving is not None:
            moving = tuple(c for p, c in zip(self.circuit.passive, moving, strict=True) if not p)
        return self.method.second_order(circuit, point.slots, cotangents, point.tangents, moving, needs, wanted)

    def _with_passive(self, results: tuple[NDArray, ...]) -> tuple[NDArray, ...]:
        """Tangents of all results, given those that have any; what stands for samples, which do not move, is empty."""
        active = iter(results)
        return tuple(np.empty(0) if p else next(active) for p in self.circuit.passive)

    def _array_lanes(self) -> tuple[bool, ...]:
        """Which arrays vary from lane to lane: those with a batch or a mapped axis that is one of lanes.

        All do if there are no angles, and where every lane's derivatives are wanted for themselves.
        """
        sig, program = self._signature, self.circuit.program
        varying = {
            p.index
            for p in sig.inputs + sig.outputs
            if p.role == "array" and any(c and lane for c, lane in zip(p.carries, sig.lanes, strict=True))
        }
        always = sig.bends_a_tangent or not (program.num_shared or program.num_batched)
        return tuple(a.batched or always or i in varying for i, a in enumerate(program.arrays))


def _owned(slots: Slots) -> Slots:
    """The same, but for angles that are nobody else's: the derivative is that of this evaluation."""
    shared, batched = [None if x is None else np.array(x) for x in (slots.shared, slots.batched)]
    return Slots(shared, batched, slots.arrays, slots.batch_size)


def _any(slots: Slots) -> bool:
    """Whether any of them is not zero."""
    return any(part is not None and part.any() for part in (slots.shared, slots.batched, *slots.arrays))


def _double(cotangent: NDArray) -> NDArray:
    """Derivatives in double precision."""
    return np.asarray(cotangent, dtype=complex if cotangent.dtype.kind == "c" else float)


def _like(cotangent: NDArray, primal: NDArray) -> NDArray:
    """The cotangent of a real input is real."""
    return cotangent.real if cotangent.dtype.kind == "c" and primal.dtype.kind != "c" else cotangent


def _batch(ports: Sequence[Port], inputs: Sequence[Any]) -> int:
    """Samples of the program itself, mapped axes not counted; 1 if it has no batch."""
    for port, value in zip(ports, inputs, strict=True):
        if port.batched:
            return value.shape[sum(port.carries) + (port.role == "batched")]
    return 1
