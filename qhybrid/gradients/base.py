"""What a gradient method is, and derivatives by shifted executions, which are the same for every method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from qhybrid.errors import DifferentiationError
from qhybrid.execution import Circuit, Needs, SecondOrder, Wanted
from qhybrid.gradients.lanes import Shifts, Untied, batch_of, contract, per_lane, untie
from qhybrid.gradients.shift_rules import ShiftRule
from qhybrid.program import ArrayRef, Diagonal, Matrix, Program, Slots

#: Every angle.
ALL = Needs()


@dataclass(frozen=True)
class GradientMethod(ABC):
    """How derivatives of a circuit are obtained.

    A method says what its vector-Jacobian product is. Tangents of results, and of that product, follow from exact
    shift rules (:func:`shifted_jvp`, :func:`shifted_second_order`) unless it knows better.
    """

    #: The name that ``diff_method`` takes for it.
    name: ClassVar[str]
    #: Whether it needs :attr:`~qhybrid.execution.Executable.has_vjp` and exact results.
    is_native: ClassVar[bool] = False

    @abstractmethod
    def vjp(
        self, circuit: Circuit, slots: Slots, cotangents: tuple[NDArray, ...], needs: Needs, residual: Any = None
    ) -> Slots:
        """Cotangents of the slots.

        Args:
            circuit: what to differentiate
            slots: where
            cotangents: of the results, shaped like them
            needs: which slots' cotangents are wanted
            residual: ``None``, or what the circuit's executable kept when it ran at these slots

        Returns:
            the cotangents; ``None`` in place of each that is not needed

        Raises:
            DifferentiationError: this method cannot give a needed cotangent correctly
        """

    def jvp(self, circuit: Circuit, slots: Slots, tangents: Slots) -> tuple[NDArray, ...]:
        """Tangents of the results along ``k`` directions, the axis of directions in front.

        Args:
            circuit: what to differentiate
            slots: where
            tangents: of the slots, as :meth:`~qhybrid.execution.Executable.jvp` takes them

        Raises:
            DifferentiationError: this method cannot give the derivative along these directions correctly
        """
        return shifted_jvp(circuit, slots, tangents)

    def run_with_tangents(
        self, circuit: Circuit, slots: Slots, tangents: Slots
    ) -> tuple[tuple[NDArray, ...], tuple[NDArray, ...]]:
        """The results, and what :meth:`jvp` gives."""
        return circuit.run(slots), self.jvp(circuit, slots, tangents)

    def second_order(
        self,
        circuit: Circuit,
        slots: Slots,
        cotangents: tuple[NDArray, ...],
        tangents: Slots,
        cotangent_tangents: tuple[NDArray, ...] | None,
        needs: Needs,
        wanted: Wanted,
    ) -> SecondOrder:
        """Tangents of the results and of :meth:`vjp` along ``k`` directions.

        Args:
            circuit: what to differentiate
            slots: where
            cotangents: of the results
            tangents: directions of the slots, as for :meth:`jvp`
            cotangent_tangents: directions of the cotangents, the axis of directions in front; ``None``: zero
            needs: which slots' cotangents, and tangents of them, are wanted
            wanted: which of the three are wanted at all; the others may be empty

        Raises:
            DifferentiationError: this method cannot give these derivatives correctly
        """
        return shifted_second_order(self, circuit, slots, cotangents, tangents, cotangent_tangents, needs, wanted)

    def executions(self, program: Program, samples: int, needs: Needs = ALL) -> int:
        """How many executions one gradient costs for ``samples`` samples, by default along all angles.

        Raises:
            DifferentiationError: this method cannot differentiate one of the gates
        """
        return samples

    def refusal(self, name: str, shots: int) -> str | None:
        """Why the method is impossible with so many shots, and what to use instead; ``None`` if it is not.

        Args:
            name: what the user called it
            shots: samples a measurement basis
        """
        return None

    def forward(self, circuit: Circuit, slots: Slots) -> tuple[tuple[NDArray, ...], Any]:
        """Results, and a residual for :meth:`vjp` at the same slots."""
        return circuit.run(slots), None


NOTHING = Slots(None)
#: Smaller steps of differences would give the noise of shots for a derivative.
MIN_STEP_WITH_SHOTS = 0.1


def refusal_of_step(method: GradientMethod, name: str, h: float | None, shots: int) -> str | None:
    """What a method of differences with step ``h`` says to shots; ``None`` if the step is large enough or not given."""
    if h is None or h >= MIN_STEP_WITH_SHOTS:
        return None
    return (
        f'diff_method="{name}" with shots={shots} divides the noise of the shots by its step h={h:g}. Use '
        f'"parameter-shift", which is unbiased, or {type(method).__name__}(h=...) with at least '
        f"h={MIN_STEP_WITH_SHOTS:g}."
    )


def direction(slots: Slots, index: int) -> Slots:
    """One of several directions, or of several cotangents."""
    batched = None if slots.batched is None else slots.batched[index]
    arrays = tuple(None if a is None else a[index] for a in slots.arrays)
    return Slots(None if slots.shared is None else slots.shared[index], batched, arrays, slots.batch_size)


def count_directions(tangents: Slots) -> int:
    """How many directions there are."""
    assert tangents.shared is not None
    return len(tangents.shared)


def shifted_jvp(circuit: Circuit, slots: Slots, tangents: Slots, rule: ShiftRule | None = None) -> tuple[NDArray, ...]:
    """Tangents of the results from shifted executions, which all directions share.

    Args:
        circuit: what to differentiate
        slots: where
        tangents: ``k`` directions of the slots
        rule: of every angle; by default each has its exact one

    Raises:
        DifferentiationError: a direction has a part along an array slot, or an angle has no shift rule
    """
    refuse_array_direction(circuit.program, tangents)
    untied = untie(circuit.program)
    moves, shifts = _shifts_along(untied, slots, tangents, rule)
    shifted, batch = circuit.rewritten(untied.program), batch_of(slots)
    total: list[Any] = [0.0] * (1 + len(circuit.program.tensors))
    for part in shifts.chunks(untied.program, batch):
        weights = part.coefficients[:, None] * moves[:, part.rows]
        for i, result in enumerate(shifted.run(part.apply(untied, slots))):
            lanes = result.reshape(len(part), batch, *result.shape[1:])
            total[i] = total[i] + np.einsum("dtb,tb...->db...", weights, lanes)
    if not len(shifts):
        results = per_lane(circuit.run(slots), slots)
        total = [np.zeros((len(moves), *r.shape), r.dtype) for r in results]
    return tuple(total) if slots.batch_size is not None else tuple(t[:, 0] for t in total)


def shifted_second_order(
    method: GradientMethod,
    circuit: Circuit,
    slots: Slots,
    cotangents: tuple[NDArray, ...],
    tangents: Slots,
    cotangent_tangents: tuple[NDArray, ...] | None,
    needs: Needs,
    wanted: Wanted,
) -> SecondOrder:
    """Second derivatives from first derivatives at shifted angles; see :meth:`GradientMethod.second_order`.

    With the shift rule of each angle, ``d/dx_i g = sum_j c_ij g(x + s_ij e_i)`` holds for the results and, as they
    have the same frequencies, for their first derivatives. All shifts of all angles are lanes of one device call, and
    all directions share them.

    Raises:
        DifferentiationError: a direction has a part along an array slot, or an angle has no shift rule
    """
    results = method.jvp(circuit, slots, tangents) if wanted.results else ()
    first = method.vjp(circuit, slots, cotangents, needs) if wanted.cotangents else NOTHING
    if not wanted.tangents:
        return SecondOrder(results, first, NOTHING)
    refuse_array_direction(circuit.program, tangents)
    second = _shifted_cotangents(method, circuit, slots, cotangents, tangents, needs)
    for i in range(count_directions(tangents) if cotangent_tangents is not None else 0):
        assert cotangent_tangents is not None
        linear = method.vjp(circuit, slots, tuple(c[i] for c in cotangent_tangents), needs)
        for target, part in zip(_parts(direction(second, i)), _parts(linear), strict=True):
            if target is not None:
                target += part
    return SecondOrder(results, first, second)


def _shifted_cotangents(
    method: GradientMethod,
    circuit: Circuit,
    slots: Slots,
    cotangents: tuple[NDArray, ...],
    tangents: Slots,
    needs: Needs,
) -> Slots:
    """The derivative of ``method.vjp`` along each direction, for constant cotangents."""
    program, batch = circuit.program, batch_of(slots)
    untied = untie(program)
    moves, shifts = _shifts_along(untied, slots, tangents, None)
    shifted, cotangents = circuit.rewritten(untied.program), per_lane(cotangents, slots)
    rows = np.zeros(moves.shape)
    flags = needs.arrays or (False,) * len(slots.arrays)
    arrays = [
        np.zeros((len(moves), *a.shape), complex) if n and a is not None else None
        for a, n in zip(slots.arrays, flags, strict=True)
    ]
    inner = Needs(False, needs.shared or needs.batched, needs.arrays)
    # The sum over lanes that gives the cotangent of a shared array wants them weighted before.
    weigh_first = any(n and not a.batched for n, a in zip(flags, program.arrays, strict=True))
    for part in shifts.chunks(untied.program, batch):
        weights = part.coefficients[:, None] * moves[:, part.rows]
        lanes = part.apply(untied, slots)
        for i, weight in enumerate(weights if weigh_first else weights[:1]):
            spread = _spread(weight if weigh_first else np.ones_like(weight), cotangents)
            got = method.vjp(shifted, lanes, spread, inner)
            if got.batched is not None:
                found = got.batched.reshape(-1, len(part), batch)
                if weigh_first:
                    rows[i] += found.sum(axis=1)
                else:
                    rows += np.einsum("dtb,rtb->drb", weights, found)
            for total, array, slot in zip(arrays, got.arrays, program.arrays, strict=True):
                if total is None or array is None:
                    continue
                if not slot.batched:
                    total[i] += array
                elif weigh_first:
                    total[i] += array.reshape(len(part), batch, *slot.shape).sum(axis=0)
                else:
                    total += np.einsum("dtb,tb...->db...", weights, array.reshape(len(part), batch, *slot.shape))
    collected = [untied.collect(r, needs) for r in rows]
    shared, batched = (np.stack(c) if c and c[0] is not None else None for c in zip(*collected, strict=True))
    return Slots(shared, batched, tuple(arrays), slots.batch_size)


def _shifts_along(untied: Untied, slots: Slots, tangents: Slots, rule: ShiftRule | None) -> tuple[NDArray, Shifts]:
    """How far each row moves along each direction, ``(k, rows, batch)``, and the shifts of those that move."""
    moves = untied.moves(slots, tangents)
    return moves, untied.shifts(np.flatnonzero(moves.any(axis=(0, 2))).tolist(), rule)


def _parts(slots: Slots) -> tuple[NDArray | None, ...]:
    return slots.shared, slots.batched, *slots.arrays


def _spread(weights: NDArray, cotangents: tuple[NDArray, ...]) -> tuple[NDArray, ...]:
    """Cotangents of every lane: those of its sample times its weight."""
    return tuple(
        (weights.reshape(weights.shape + (1,) * (c.ndim - 1)) * c).reshape(weights.size, *c.shape[1:])
        for c in cotangents
    )


def shifted_vjp(
    circuit: Circuit,
    slots: Slots,
    cotangents: tuple[NDArray, ...],
    needs: Needs,
    rule: ShiftRule | None = None,
) -> Slots:
    """Cotangents of the angles from shifted executions, by the exact rule of each angle or by ``rule`` for all."""
    untied = untie(circuit.program)
    shifts = untied.shifts(untied.needed_rows(needs), rule)
    shifted = circuit.rewritten(untied.program)
    cotangents = per_lane(cotangents, slots)
    rows = np.zeros((len(untied.sources), batch_of(slots)))
    for part in shifts.chunks(untied.program, batch_of(slots)):
        results = shifted.run(part.apply(untied, slots))
        np.add.at(rows, part.rows, part.coefficients[:, None] * contract(results, cotangents, len(part)))
    shared, batched = untied.collect(rows, needs)
    return Slots(shared, batched, (None,) * len(slots.arrays), slots.batch_size)


# ------------------------------------------------------------------ refusals


def array_owner(program: Program, index: int) -> str:
    """What reads the array slot ``index``, in words."""
    for gate in program.gates:
        if isinstance(gate.operator, Matrix | Diagonal) and gate.operator.ref.index == index:
            return f"{gate.name} on wires {list(gate.wires)}"
    if program.preparation is not None and program.preparation.amplitudes.index == index:
        return f"the state prepared on wires {list(program.preparation.wires)}"
    for observable in program.observables():
        for term in observable.terms:
            for wires, matrix in term.matrices:
                if isinstance(matrix, ArrayRef) and matrix.index == index:
                    return f"the matrix observable on wires {list(wires)}"
    return f"array {index}"


def refuse_arrays(program: Program, needs: Needs, method: str) -> None:
    """Refuse cotangents of whole arrays, for methods that vary one real parameter at a time."""
    for index, needed in enumerate(needs.arrays):
        if needed:
            raise DifferentiationError(
                f'diff_method="{method}" cannot differentiate with respect to the array entries of '
                f'{array_owner(program, index)}. Use diff_method="adjoint" on a simulator without shots, '
                "or do not require the gradient of that array."
            )


def refuse_array_direction(program: Program, tangents: Slots) -> None:
    """Refuse a derivative along an array slot by shifts, unless that direction is zero."""
    for index, tangent in enumerate(tangents.arrays):
        if tangent is not None and tangent.any():
            raise DifferentiationError(
                f"Forward-mode and second derivatives along the array entries of {array_owner(program, index)} are not "
                'available from shifted executions. Use the device "qhybrid.statevector" without shots and '
                'diff_method="adjoint", do not require the gradient of the array, or build the gate from parametrized '
                "rotations."
            )
