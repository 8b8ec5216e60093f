"""Exact derivatives from shifted executions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qhybrid.errors import DifferentiationError
from qhybrid.execution import Circuit, Needs, SecondOrder, Wanted
from qhybrid.gradients import arguments
from qhybrid.gradients.base import ALL, NOTHING, GradientMethod, refuse_array_direction, refuse_arrays
from qhybrid.gradients.lanes import Shifts, Untied, batch_of, contract, per_lane, untie
from qhybrid.gradients.shift_rules import Measured, ShiftRule, frequencies, shift_rule
from qhybrid.program import Expectation, Program, Slots, Variance

#: Shifts for every angle, or for those with a number of frequencies.
GivenShifts = Sequence[float] | Mapping[int, Sequence[float]] | Sequence[tuple[int, tuple[float, ...]]] | None

#: What the shifts can be.
_SHIFTS = (
    "give positive numbers in radians, for example [1.5708], each of which is used with both signs, a mapping from the "
    "number of frequencies of an angle to its shifts, for example {1: [0.5]}, or None to have them chosen"
)


@dataclass(frozen=True)
class ParameterShift(GradientMethod):
    """Exact derivatives of results, exact or sampled, from executions at shifted angles.

    When to use: with shots or on hardware, where it is unbiased. Cost: two executions for each Pauli rotation of each
    sample, four if it is controlled, in general two for each distinct difference of eigenvalues of the generator, and
    one more a sample if a variance is measured; all are lanes of one device call. Limits: entries of unitaries,
    prepared amplitudes and matrices have no shift rule, nor do trainable coefficients of an evolution whose terms do
    not commute; use :class:`Adjoint` for them.

    A variance ``<O^2> - <O>^2`` is differentiated by the product rule, with ``<O>`` from an execution of its own: its
    derivative is unbiased for any number of shots, while the variance of a sample is too small by the factor
    ``1 - 1 / shots``. The gradient of a function of results is unbiased if the function is at most quadratic: the
    cotangents that it is called with are estimates themselves, independent of these.

    Args:
        shifts: positive shifts, each used with both signs: a sequence for every angle, or by number of frequencies, for
            example ``{1: (0.5,), 2: (0.8, 2.0)}``; others, and all by default, have those with the least noise, see
            :mod:`~qhybrid.gradients.shift_rules`
        allotment: of shots in first derivatives; ``"equal"`` gives each execution those of the circuit,
            ``"proportional"`` the same number altogether, in proportion to its coefficient in its rule, which is best:
            with two equidistant frequencies the variance is 1.5 times smaller, with ``R`` about ``2 R / 3``, with one
            it is the same

    Raises:
        DifferentiationError: the shifts are no positive numbers, or too few

    Example:
        >>> ParameterShift(shifts={2: [0.8, 2.0]}).shifts
        ((2, (0.8, 2.0)),)

    D. Wierichs, J. Izaac, C. Wang, C. Y.-Y. Lin, "General parameter-shift rules for quantum gradients", Quantum 6,
    677 (2022).
    """

    shifts: GivenShifts = None
    allotment: Literal["equal", "proportional"] = "equal"

    name = "parameter-shift"

    def __post_init__(self) -> None:
        arguments.choice(self, "allotment", self.allotment, ("equal", "proportional"))
        object.__setattr__(self, "shifts", _checked(self.shifts))

    def executions(self, program: Program, samples: int, needs: Needs = ALL) -> int:
        """One for each shift of each angle of each sample, and one more for variances."""
        return samples * len(_planned(self, program, needs).shifts)

    def vjp(
        self, circuit: Circuit, slots: Slots, cotangents: tuple[NDArray, ...], needs: Needs, residual: Any = None
    ) -> Slots:
        """The exact rule of every angle."""
        refuse_arrays(circuit.program, needs, self.name)
        plan = _planned(self, circuit.program, needs)
        cotangents = per_lane(cotangents, slots)
        rows = np.zeros((len(plan.untied.sources), batch_of(slots)))
        for part, results in plan.results(circuit, slots):
            derivatives = contract(results, cotangents, len(part))
            np.add.at(rows, part.rows, part.coefficients[:, None] * derivatives)
        shared, batched = plan.untied.collect(rows, needs)
        return Slots(shared, batched, (None,) * len(slots.arrays), slots.batch_size)

    def jvp(self, circuit: Circuit, slots: Slots, tangents: Slots) -> tuple[NDArray, ...]:
        """The same executions for all directions, of the angles that move along any of them."""
        refuse_array_direction(circuit.program, tangents)
        untied, batch = untie(circuit.program), batch_of(slots)
        moves = untied.moves(slots, tangents)
        plan = _plan(self, circuit.program, tuple(np.flatnonzero(moves.any(axis=(0, 2))).tolist()))
        total: list[Any] = [0.0] * (1 + len(circuit.program.tensors))
        if not (batch and len(plan.shifts)):
            results = per_lane(circuit.run(slots), slots)
            total = [np.zeros((len(moves), *r.shape), r.dtype) for r in results]
        for part, results in plan.results(circuit, slots):
            weights = part.coefficients[:, None] * moves[:, part.rows]
            for i, result in enumerate(results):
                lanes = result.reshape(len(part), batch, *result.shape[1:])
                total[i] = total[i] + np.einsum("dtb,tb...->db...", weights, lanes)
        return tuple(total) if slots.batch_size is not None else tuple(t[:, 0] for t in total)

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
        """All first and second derivatives from executions that serve each entry that needs them."""
        program = circuit.program
        if not wanted.tangents or any(needs.arrays) or any(isinstance(m, Variance) for m in program.scalars):
            return super().second_order(circuit, slots, cotangents, tangents, cotangent_tangents, needs, wanted)
        refuse_array_direction(program, tangents)
        untied, moves = untie(program), untie(program).moves(slots, tangents)
        moved, needed = np.flatnonzero(moves.any(axis=(0, 2))).tolist(), untied.needed_rows(needs)
        linear = zip(*cotangent_tangents, strict=True) if cotangent_tangents is not None else ()
        all_cotangents = [per_lane(tuple(c), slots) for c in (cotangents, *linear)]
        want_first = wanted.cotangents or len(all_cotangents) > 1
        from qhybrid.gradients.hessians import contracted  # with all that it needs, for few circuits

        first, second = contracted(circuit, slots, all_cotangents, moved, needed, self.rule, want_first)
        rows = np.zeros((1 + len(moves), len(untied.sources), batch_of(slots)))
        rows[: len(first), needed] = first
        rows[1:, needed] += np.einsum("dkb,knb->dnb", moves[:, moved], second)
        parts = [untied.collect(r, needs) for r in rows]
        arrays = (None,) * len(slots.arrays)
        shared, batched = (None if p[0] is None else np.stack(p[1:]) for p in zip(*parts, strict=True))
        return SecondOrder(
            self.jvp(circuit, slots, tangents) if wanted.results else (),
            Slots(*parts[0], arrays, slots.batch_size) if wanted.cotangents else NOTHING,
            Slots(shared, batched, arrays, slots.batch_size),
        )

    def rule(self, untied: Untied, row: int) -> ShiftRule:
        """The rule of a row of an untied program.

        Raises:
            DifferentiationError: there is none, or none with the given shifts; names the gate
        """
        origin = untied.origins[row]
        if not isinstance(origin, tuple):
            return untied.rule(row)
        found = frequencies(*origin, replace(Measured.by(untied.program), variance=False))
        shifts = self._given(len(found))
        try:
            return shift_rule(found, shifts)
        except DifferentiationError as error:
            gate = origin[0]
            raise DifferentiationError(f"{gate.name} on wires {list(gate.wires)}: {error}") from None

    def _given(self, count: int) -> tuple[float, ...] | None:
        """The shifts to use for ``count`` frequencies, ``None`` if they are not given."""
        given: Any = self.shifts  # as _checked leaves it
        if given is None or isinstance(given[0], float):
            return given
        return dict(given).get(count)


def _checked(given: Any) -> tuple | None:
    """Shifts as hashable records.

    Raises:
        DifferentiationError: they are not as they must be
    """
    if given is None:
        return None
    entries = _listed(list(given.items()) if isinstance(given, Mapping) else given, given)
    if isinstance(given, Mapping) or any(isinstance(e, list | tuple) for e in entries):
        return tuple(sorted(_record(e, given) for e in entries))
    return _positive(entries, given)


def _record(entry: Any, given: Any) -> tuple[int, tuple[float, ...]]:
    """Shifts for a number of frequencies."""
    number = arguments.whole(entry[0]) if isinstance(entry, tuple) and len(entry) == 2 else None
    if number is None:
        arguments.refuse(ParameterShift, "shifts", given, _SHIFTS)
    shifts = _positive(_listed(entry[1], given), given)
    if len(set(shifts)) < number:
        raise DifferentiationError(
            f"ParameterShift got the shifts {list(shifts)} for angles with {number} frequencies; give at least "
            f"{number} different ones, each of which is used with both signs."
        )
    return number, shifts


def _positive(values: Sequence[Any], given: Any) -> tuple[float, ...]:
    shifts = [s for s in map(arguments.positive, values) if s is not None]
    if len(shifts) < len(values):
        arguments.refuse(ParameterShift, "shifts", given, _SHIFTS)
    return tuple(shifts)


def _listed(values: Any, given: Any) -> list[Any]:
    """The entries of a sequence that has any."""
    if hasattr(values, "__iter__") and not isinstance(values, str | bytes) and getattr(values, "ndim", 1) > 0:
        found = list(values)
        if found:
            return found
    return arguments.refuse(ParameterShift, "shifts", given, _SHIFTS)


# ------------------------------------------------------------------ what is executed


@dataclass(frozen=True, eq=False)
class _Plan:
    """The executions of one gradient.

    Args:
        untied: the program with a row for each occurrence of an angle
        program: the same with the mean of each variance behind its scalars
        shifts: all executions; if there are variances, the first one is not shifted and counts zero times
        weights: shots of each execution as a multiple of those of the circuit
        variances: which scalars are variances
    """

    untied: Untied
    program: Program
    shifts: Shifts
    weights: NDArray
    variances: tuple[int, ...]

    def results(self, circuit: Circuit, slots: Slots) -> Iterator[tuple[Shifts, tuple[NDArray, ...]]]:
        """Executions of one device call each, and their results; variances as :meth:`_second_moments` has them."""
        batch = batch_of(slots)
        means: NDArray | None = None
        for part, shots in self._parts(circuit.shots, batch) if batch else ():
            shifted = replace(circuit, program=self.program, shots=shots)
            results = shifted.run(part.apply(self.untied, slots))
            if self.variances:
                means = results[0][:batch, -len(self.variances) :] if means is None else means
                results = self._second_moments(results, means)
            yield part, results

    def _parts(self, shots: int | None, batch: int) -> Iterator[tuple[Shifts, int | None]]:
        """Executions of one device call each, and their shots; the unshifted one comes first."""
        if shots is None or (self.weights == 1.0).all():
            yield from ((part, shots) for part in self.shifts.chunks(self.program, batch))
            return
        numbers = np.maximum(1, np.rint(shots * self.weights)).astype(int)
        for number in dict.fromkeys(numbers.tolist()):
            chosen = self.shifts[np.flatnonzero(numbers == number)]
            yield from ((part, number) for part in chosen.chunks(self.program, batch))

    def _second_moments(self, results: tuple[NDArray, ...], means: NDArray) -> tuple[NDArray, ...]:
        """Results with variances ``v`` replaced by ``v + (m - m_0)^2``, given the unshifted means ``m_0``.

        With ``v + m^2 = <O^2>`` this is ``<O^2> - 2 m_0 <O>`` and a constant, whose coefficients add up to zero; its
        derivative is that of the variance by the product rule. A sample's second moment is unbiased, and ``m_0``
        independent of the shifted ``m``.
        """
        scalars, tensors = results[0], results[1:]
        own = scalars.shape[1] - len(self.variances)
        distance = scalars[:, own:].reshape(-1, *means.shape) - means
        moments = scalars[:, :own].copy()
        moments[:, list(self.variances)] += distance.reshape(len(scalars), -1) ** 2
        return (moments, *tensors)


def _planned(method: ParameterShift, program: Program, needs: Needs) -> _Plan:
    return _plan(method, program, tuple(untie(program).needed_rows(needs)))


@lru_cache(maxsize=256)
def _plan(method: ParameterShift, program: Program, rows: tuple[int, ...]) -> _Plan:
    untied = untie(program)
    rules = [method.rule(untied, r) for r in rows]
    shifts = Shifts.by(rows, rules)
    weights = np.ones(len(shifts))
    if method.allotment == "proportional":
        parts = [np.abs(r.coefficients) * len(r.shifts) / r.norm for r in rules if r.shifts]
        weights = np.concatenate([weights[:0], *parts])
    scalars = untied.program.scalars
    variances = tuple(i for i, m in enumerate(scalars) if isinstance(m, Variance))
    means = tuple(Expectation(scalars[i].observable) for i in variances)
    if variances and len(shifts):
        shifts = Shifts(
            np.append(shifts.rows[:1], shifts.rows), np.append(0.0, shifts.shifts), np.append(0.0, shifts.coefficients)
        )
        weights = np.append(1.0, weights)
    return _Plan(untied, replace(untied.program, scalars=scalars + means), shifts, weights, variances)
