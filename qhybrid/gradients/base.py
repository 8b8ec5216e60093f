"""What a gradient method is, and second derivatives, which are the same for every method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from qhybrid.errors import DifferentiationError
from qhybrid.execution import Circuit, Needs
from qhybrid.gradients.lanes import Shifts, batch_of, per_lane, untie
from qhybrid.gradients.shift_rules import ShiftRule
from qhybrid.program import ArrayRef, Diagonal, Matrix, Program, Slots

#: Every angle.
ALL = Needs()


@dataclass(frozen=True)
class GradientMethod(ABC):
    """How first derivatives of a circuit are obtained.

    Second derivatives are the first derivatives at shifted angles, combined by exact shift rules (see
    :func:`second_order`), so a method says only what its first derivative is.
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

    def executions(self, program: Program, samples: int, needs: Needs = ALL) -> int:
        """How many executions one gradient costs for ``samples`` samples, by default along all angles.

        Raises:
            DifferentiationError: this method cannot differentiate one of the gates
        """
        return samples

    def forward(self, circuit: Circuit, slots: Slots) -> tuple[tuple[NDArray, ...], Any]:
        """Results, and a residual for :meth:`vjp` at the same slots."""
        return circuit.run(slots), None


def second_order(
    method: GradientMethod,
    circuit: Circuit,
    slots: Slots,
    cotangents: tuple[NDArray, ...],
    tangents: Slots,
    needs: Needs,
    want_results: bool,
) -> tuple[Slots, tuple[NDArray, ...]]:
    """Derivatives of ``<tangents, vjp(slots, cotangents)>``: a Hessian-vector and a Jacobian-vector product.

    With the shift rule of each angle, ``d/dx_i g = sum_j c_ij g(x + s_ij e_i)`` holds for the results and, as they
    have the same frequencies, for their first derivatives. All shifts of all angles are lanes of one device call.

    Args:
        method: gives the first derivatives
        circuit: what to differentiate
        slots: where
        cotangents: of the results
        tangents: direction in which the vjp is differentiated; ``None`` where it is zero
        needs: which slots' second-order cotangents are wanted
        want_results: whether the Jacobian-vector product is wanted

    Returns:
        Hessian-vector product, shaped like the slots; Jacobian-vector product, shaped like the results

    Raises:
        DifferentiationError: the direction has a part along an array slot, or an angle has no shift rule
    """
    refuse_array_direction(circuit.program, tangents)
    untied = untie(circuit.program)
    direction = untied.rows(Slots(tangents.shared, tangents.batched, (), slots.batch_size))
    shifts = untied.shifts(np.flatnonzero(direction.any(axis=1)).tolist())
    shifted = circuit.rewritten(untied.program)
    cotangents = per_lane(cotangents, slots)
    rows = np.zeros(direction.shape)
    arrays = [np.zeros_like(a) if n else None for a, n in zip(slots.arrays, _flags(needs, slots), strict=True)]
    tangent_results = tuple(np.zeros_like(c) for c in cotangents)
    for part in shifts.chunks(untied.program, batch_of(slots)):
        weights = part.coefficients[:, None] * direction[part.rows]
        lanes = part.apply(untied, slots)
        if want_results:
            tangent_results = tuple(
                total + _weighted_sum(weights, r) for total, r in zip(tangent_results, shifted.run(lanes), strict=True)
            )
        if needs.shared or needs.batched or any(needs.arrays):
            inner = Needs(False, needs.shared or needs.batched, needs.arrays)
            got = method.vjp(shifted, lanes, _spread(weights, cotangents), inner)
            if got.batched is not None:
                rows += got.batched.reshape(len(rows), len(part), -1).sum(axis=1)
            for i, array in enumerate(got.arrays):
                if array is not None:
                    batched = circuit.program.arrays[i].batched
                    arrays[i] += array.reshape(len(part), -1, *array.shape[1:]).sum(axis=0) if batched else array
    shared, batched_rows = untied.collect(rows, needs)
    if slots.batch_size is None:
        tangent_results = tuple(t[0] for t in tangent_results)
    return Slots(shared, batched_rows, tuple(arrays), slots.batch_size), tangent_results


def _flags(needs: Needs, slots: Slots) -> tuple[bool, ...]:
    return needs.arrays or (False,) * len(slots.arrays)


def _weighted_sum(weights: NDArray, results: NDArray) -> NDArray:
    """``sum_t weights[t, b] results[t * batch + b]``."""
    lanes = results.reshape(*weights.shape, *results.shape[1:])
    return np.einsum("tb,tb...->b...", weights, lanes)


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
        np.add.at(rows, part.rows, part.coefficients[:, None] * _contract(part, results, cotangents))
    shared, batched = untied.collect(rows, needs)
    return Slots(shared, batched, (None,) * len(slots.arrays), slots.batch_size)


def _contract(part: Shifts, results: tuple[NDArray, ...], cotangents: tuple[NDArray, ...]) -> NDArray:
    """``Re <cotangent, result>`` of every lane, ``(executions, batch)``."""
    total = np.zeros((len(part), len(cotangents[0])))
    for result, cotangent in zip(results, cotangents, strict=True):
        batch, size = len(cotangent), prod(cotangent.shape[1:])
        lanes = result.reshape(len(part), batch, size)
        total += np.einsum("tbk,bk->tb", lanes, cotangent.reshape(batch, size).conj()).real
    return total


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
    """Refuse a second derivative along an array slot, unless that direction is zero."""
    for index, tangent in enumerate(tangents.arrays):
        if tangent is not None and tangent.any():
            raise DifferentiationError(
                f"Second derivatives with respect to the array entries of {array_owner(program, index)} are not "
                "available. Those with respect to gate angles and observable coefficients are: do not require the "
                "gradient of the array, or build the gate from parametrized rotations."
            )
