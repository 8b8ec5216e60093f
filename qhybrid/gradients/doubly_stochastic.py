"""Parameter shifts of a random part of the parameters and of the observable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qhybrid.errors import DifferentiationError
from qhybrid.execution import Circuit, Needs
from qhybrid.gradients import arguments
from qhybrid.gradients.base import ALL, refuse_arrays
from qhybrid.gradients.lanes import angles_of, per_lane, untie
from qhybrid.gradients.parameter_shift import ParameterShift
from qhybrid.gradients.stochastic import StochasticMethod
from qhybrid.program import Angle, Expectation, Observable, Program, Slots, Term, Variance

_SHIFT = ParameterShift()


@dataclass(frozen=True, eq=False)
class DoublyStochasticShift(StochasticMethod):
    """Exact shift rules for a random subset of the parameters and a random sample of the terms of the observables.

    When to use: with shots or on hardware, with many parameters or long Hamiltonians, for stochastic gradient descent:
    few shots on a few of them each time. Unbiased, whatever the numbers. Cost: that of :class:`ParameterShift` for the
    chosen parameters, once for each different term drawn; each term is a circuit of its own, with all shifts in one
    device call. Limits: those of :class:`ParameterShift`; a number of terms needs expectation values with constant
    coefficients.

    ``num_parameters = m`` of ``P`` are drawn uniformly without replacement, and their derivatives count ``P / m``
    times. ``num_terms = n`` are drawn with replacement, term ``k`` of a result with the probability ``p_k``
    proportional to its coefficient times the cotangent of the result (both absolute), and counts ``1 / (n p_k)`` times.
    Entry ``i`` of the gradient ``g``, where term ``k`` contributes ``g_ik`` with the variance ``s_ik`` of its shots,
    then has the variance

        ``(P / m) (g_i^2 + t_i) - g_i^2``,
        ``t_i = (sum_k g_ik^2 / p_k - g_i^2) / n + sum_k s_ik (1 + (1 - p_k) / (n p_k))``

    and ``t_i = sum_k s_ik`` without a number of terms.

    Args:
        num_parameters: parameters whose derivatives are estimated each time, the others' are zero; ``None``: all
        num_terms: terms drawn each time from all observables; ``None``: all are measured
        seed: of the draws; see :class:`~qhybrid.gradients.stochastic.StochasticMethod`

    Raises:
        DifferentiationError: a number is not positive

    R. Sweke et al., "Stochastic gradient descent for hybrid quantum-classical optimization", Quantum 4, 314 (2020).
    """

    num_parameters: int | None = None
    num_terms: int | None = None
    seed: int | None = None

    name = "doubly-stochastic"

    def __post_init__(self) -> None:
        for name in ("num_parameters", "num_terms"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, arguments.count(self, name, getattr(self, name)))
        self._start()

    def executions(self, program: Program, samples: int, needs: Needs = ALL) -> int:
        """The most that a draw can cost: the dearest parameters, and all terms different."""
        terms = None if self.num_terms is None else min(self.num_terms, len(_terms(program)))
        untied, costs = untie(program), Counter[Angle]()
        for row in untied.needed_rows(needs):
            costs[untied.sources[row]] += len(_SHIFT.rule(untied, row).shifts)
        number = sum(cost for _, cost in costs.most_common(self.num_parameters))
        unshifted = number > 0 and any(isinstance(m, Variance) for m in program.scalars)
        return samples * (number + unshifted) * (1 if terms is None else terms)

    def vjp(
        self, circuit: Circuit, slots: Slots, cotangents: tuple[NDArray, ...], needs: Needs, residual: Any = None
    ) -> Slots:
        """Shifts of what is drawn now."""
        refuse_arrays(circuit.program, needs, self.name)
        rng = self.new_rng()
        angles = [a for a in angles_of(circuit.program) if needs.wants(a)]
        chosen, weight = angles, 1.0
        if self.num_parameters is not None and self.num_parameters < len(angles):
            drawn = rng.choice(len(angles), self.num_parameters, replace=False)
            chosen, weight = [angles[i] for i in drawn], len(angles) / self.num_parameters
        inner = _only(needs, angles, set(chosen))
        total = _SHIFT.vjp(circuit, slots, cotangents, _only(needs, angles, set()))  # zeros: nothing is run for none
        for program, own in self._drawn_terms(rng, circuit.program, slots, cotangents):
            got = _SHIFT.vjp(circuit.rewritten(program), slots, own, inner)
            total = _add(total, got, weight)
        return total

    def _drawn_terms(
        self, rng: np.random.Generator, program: Program, slots: Slots, cotangents: tuple[NDArray, ...]
    ) -> Iterator[tuple[Program, tuple[NDArray, ...]]]:
        """Programs that measure a part of the observables, and the cotangents of their results."""
        if self.num_terms is None:
            yield program, cotangents
            return
        terms = _terms(program)
        scalars = per_lane(cotangents, slots)[0]
        sizes = np.array([abs(c) * np.abs(scalars[:, s]).sum() for s, c, _ in terms])
        if not sizes.sum() > 0:
            return
        probabilities = sizes / sizes.sum()
        counts = rng.multinomial(self.num_terms, probabilities)
        for k in np.flatnonzero(counts):
            scalar, coefficient, term = terms[k]
            weight = coefficient * counts[k] / (self.num_terms * probabilities[k])
            single = replace(program, scalars=(Expectation(Observable((term,))),))
            yield single, (cotangents[0][..., scalar : scalar + 1] * weight,)


def _only(needs: Needs, angles: list[Angle], chosen: set[Angle]) -> Needs:
    """The needs of some of the angles."""
    return replace(needs, constant=needs.constant | (set(angles) - chosen))


def _terms(program: Program) -> list[tuple[int, float, Term]]:
    """Number of the scalar, coefficient, and the term without it, of all terms that have a derivative.

    Raises:
        DifferentiationError: something else than terms with constant coefficients is measured
    """
    terms = [(s, t) for s, m in enumerate(program.scalars) for t in m.observable.terms]
    constants = [(s, t.coefficient, t) for s, t in terms if not isinstance(t.coefficient, Angle)]
    if program.tensors or len(constants) < len(terms) or not all(isinstance(m, Expectation) for m in program.scalars):
        raise DifferentiationError(
            "DoublyStochasticShift(num_terms=...) needs expectation values of observables with constant coefficients, "
            "and nothing else to be measured. Leave num_terms out; num_parameters works for every measurement."
        )
    return [(s, float(c), replace(t, coefficient=1.0)) for s, c, t in constants if t.word or t.matrices]


def _add(total: Slots, part: Slots, weight: float) -> Slots:
    shared = None if part.shared is None or total.shared is None else total.shared + weight * part.shared
    batched = None if part.batched is None or total.batched is None else total.batched + weight * part.batched
    return replace(total, shared=shared, batched=batched)
