"""Exact derivatives from shifted parameters: which frequencies a gate has, and which shifts they ask for.

A result of a circuit is, as a function of one angle, a trigonometric polynomial. Its frequencies follow from the
eigenvalues of the gate's generator and from what is measured:

* expectations and probabilities: differences of eigenvalues;
* variances, which square an expectation: sums and differences of those as well;
* amplitudes: the eigenvalues themselves.

The derivative is then a fixed combination of shifted values (D. Wierichs, J. Izaac, C. Wang, C. Y.-Y. Lin, "General
parameter-shift rules for quantum gradients", Quantum 6, 677 (2022)). ``R`` frequencies take ``R`` shifts with both
signs: a derivative is ``R`` numbers to be matched.

Which shifts is a free choice, and noise decides it. With ``N`` shots in all, given to each evaluation in proportion to
its coefficient, the variance of the derivative of a quantity whose single outcomes have the variance ``v`` is
``v * norm**2 / N``, where ``norm`` is the sum of the absolute coefficients. By Bernstein's inequality no rule has a
norm below the highest frequency. Equidistant frequencies attain it at the shifts of the paper. For others a linear
program over all shifts finds the least norm; its vertices have no more than ``R`` shifts, so that the rule with the
least variance is one with the fewest evaluations, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from qhybrid.errors import DifferentiationError
from qhybrid.program import Angle, Evolution, Gate, PauliRotation, Program, SpectralRotation, State, Variance

#: Gates with more frequencies than this are refused: their rule is costly and badly conditioned.
MAX_FREQUENCIES = 256
#: Candidates for shifts, for each frequency and period.
GRID = 8
#: Rules that amplify noise more than this many times as much as the best one are refused.
MAX_AMPLIFICATION = 100.0
_SAME = 1e-9


@dataclass(frozen=True)
class ShiftRule:
    """``f'(x) = sum_j coefficients[j] f(x + shifts[j])``; of the second derivative if it was made for that.

    Example:
        >>> shift_rule((0.5, 1.0)).norm  # of a controlled rotation; the least there is, the highest frequency
        1.0
    """

    shifts: tuple[float, ...]
    coefficients: tuple[float, ...]

    @property
    def norm(self) -> float:
        """Sum of the absolute coefficients: how much the rule amplifies the noise of shots; see above."""
        return float(np.abs(self.coefficients).sum())


@dataclass(frozen=True)
class Measured:
    """How the results of a program depend on its state: with the square of expectations, on its amplitudes."""

    variance: bool = False
    amplitudes: bool = False

    @classmethod
    def by(cls, program: Program) -> Measured:
        """What ``program`` measures."""
        return cls(
            any(isinstance(m, Variance) for m in program.scalars), any(isinstance(m, State) for m in program.tensors)
        )


#: Results are polynomials of degree one (expectations) or two (variances) in the coefficient of an observable, for
#: which a central difference is exact whatever the step. Far apart, the noise of the other terms weighs little.
LINEAR_RULE = ShiftRule((64.0, -64.0), (1 / 128, -1 / 128))
QUADRATIC_RULE = ShiftRule((1.0, -1.0), (0.5, -0.5))


def generator_spectrum(gate: Gate, position: int) -> NDArray:
    """Eigenvalues ``l`` of the gate's angle number ``position``: the gate is made of ``exp(i l theta)``.

    Raises:
        DifferentiationError: the spectrum depends on other parameters, so no shift rule exists
    """
    op = gate.operator
    if isinstance(op, PauliRotation):
        spectrum = np.array([0.5, -0.5]) * op.scale
    elif isinstance(op, SpectralRotation):
        spectrum = np.array(op.eigenvalues)
    elif isinstance(op, Evolution):
        spectrum = _evolution_spectrum(gate, op, position)
    else:
        raise TypeError(f"{gate.name} has no angle")
    # Where a measured outcome keeps the gate away, results do not depend on the angle at all.
    return np.append(spectrum, 0.0) if len(gate.controls) > gate.classical else spectrum


def _evolution_spectrum(gate: Gate, op: Evolution, position: int) -> NDArray:
    terms = op.terms.array
    if isinstance(op.time, Angle):
        if any(isinstance(c, Angle) for c in op.coefficients):
            raise _no_rule(gate, "its time and its coefficients both change")
        return -np.linalg.eigvalsh(np.tensordot(np.array(op.coefficients, dtype=float), terms, 1))
    index = [k for k, c in enumerate(op.coefficients) if isinstance(c, Angle)][position]
    if any(np.abs(terms[index] @ t - t @ terms[index]).max() > _SAME for t in terms):
        raise _no_rule(gate, "the coefficients of terms that do not commute change")
    return -op.time * np.linalg.eigvalsh(terms[index])


def _no_rule(gate: Gate, reason: str) -> DifferentiationError:
    return DifferentiationError(
        f"{gate.name} on wires {list(gate.wires)} has no parameter-shift rule: {reason}. "
        'First derivatives of it are exact with diff_method="adjoint" on a simulator without shots.'
    )


def frequencies(gate: Gate, position: int, measured: Measured) -> tuple[float, ...]:
    """Positive frequencies of the results as a function of the gate's angle number ``position``, ascending."""
    spectrum = generator_spectrum(gate, position)
    values = _distinct(np.abs(spectrum[:, None] - spectrum[None, :]))
    if measured.variance:
        values = _distinct(np.abs(np.concatenate([values[:, None] + values, values[:, None] - values, [values]])))
    if measured.amplitudes:
        values = _distinct(np.concatenate([values, np.abs(spectrum)]))
    if len(values) > MAX_FREQUENCIES:
        raise _no_rule(gate, f"it has {len(values)} frequencies, more than {MAX_FREQUENCIES}")
    return tuple(values.tolist())


def _distinct(values: NDArray) -> NDArray:
    """Positive values, sorted; those closer than rounding counted once."""
    ordered = np.sort(values, axis=None)
    ordered = ordered[ordered > _SAME]
    return ordered[np.diff(ordered, prepend=-1.0) > _SAME * np.maximum(1.0, ordered)]


@lru_cache(maxsize=1024)
def shift_rule(frequencies: tuple[float, ...], shifts: tuple[float, ...] | None = None) -> ShiftRule:
    """The rule for functions ``a_0 + sum_k a_k cos(frequencies[k] x) + b_k sin(frequencies[k] x)``.

    It has as many positive shifts as there are frequencies, each with both signs, and the least norm.

    Args:
        frequencies: positive, distinct, ascending; without any the function is constant and the rule is empty
        shifts: positive ones to use, each with both signs; by default those with the least norm

    Raises:
        DifferentiationError: no well-conditioned rule was found, or none exists with these shifts

    >>> rule = shift_rule((1.0,))
    >>> [round(s, 4) for s in rule.shifts], [round(c, 4) for c in rule.coefficients]
    ([1.5708, -1.5708], [0.5, -0.5])
    """
    omega = np.array(frequencies)
    if not len(omega):
        return ShiftRule((), ())
    if shifts is not None:
        return _symmetric(np.array(shifts), _given(omega, np.array(shifts), _sines, omega, omega[-1]))
    if _is_equidistant(omega):
        return _equidistant(omega[0], len(omega))
    return _symmetric(*_least_norm(omega, _sines, omega, omega[-1]))


@lru_cache(maxsize=1024)
def second_shift_rule(frequencies: tuple[float, ...], shifts: tuple[float, ...] | None = None) -> ShiftRule:
    """The rule for the second derivative; its first shift is zero, the circuit itself.

    Args:
        frequencies: as for :func:`shift_rule`
        shifts: positive ones to use, each with both signs; by default the fewest: of ``R`` equidistant frequencies
            ``2 R`` with zero, of others ``2 R + 1``

    Raises:
        DifferentiationError: no well-conditioned rule was found, or none exists with these shifts

    >>> rule = second_shift_rule((1.0,))
    >>> [round(s, 4) for s in rule.shifts], [round(c, 4) for c in rule.coefficients]
    ([0.0, 3.1416], [-0.5, 0.5])
    """
    omega = np.array(frequencies)
    if not len(omega):
        return ShiftRule((), ())
    if shifts is None and _is_equidistant(omega):
        return _second_equidistant(float(omega[0]), len(omega))
    if shifts is None:
        points, half = _least_norm(omega, _cosines, omega**2, omega[-1] ** 2 / 2)
    else:
        points = np.array(shifts)
        half = _given(omega, points, _cosines, omega**2, omega[-1] ** 2 / 2)
    return ShiftRule(
        (0.0, *points.tolist(), *(-points).tolist()), (-2 * float(half.sum()), *half.tolist(), *half.tolist())
    )


# ------------------------------------------------------------------ which shifts


def _is_equidistant(omega: NDArray) -> bool:
    """Whether the frequencies are the first multiples of the lowest one."""
    return np.allclose(omega, omega[0] * np.arange(1, len(omega) + 1), rtol=1e-12, atol=0.0)


def _equidistant(omega: float, count: int) -> ShiftRule:
    """Frequencies ``omega, 2 omega, ..., count omega``: closed form, equation (10) of the paper named above."""
    index = np.arange(1, count + 1)
    scaled = (2 * index - 1) * np.pi / (2 * count)
    half = omega * (-1.0) ** (index - 1) / (4 * count * np.sin(scaled / 2) ** 2)
    return _symmetric(scaled / omega, half)


def _second_equidistant(omega: float, count: int) -> ShiftRule:
    """The second derivative for the same frequencies, from ``2 count`` points of one period."""
    index = np.arange(1, 2 * count)
    weights = omega**2 * (-1.0) ** (index - 1) / (2 * np.sin(index * np.pi / (2 * count)) ** 2)
    shifts = index * np.pi / (count * omega)
    return ShiftRule((0.0, *shifts.tolist()), (-(omega**2) * (2 * count**2 + 1) / 6, *weights.tolist()))


def _symmetric(shifts: NDArray, half: NDArray) -> ShiftRule:
    """The antisymmetric rule with the given positive shifts."""
    return ShiftRule((*shifts.tolist(), *(-shifts).tolist()), (*half.tolist(), *(-half).tolist()))


Matching = Callable[[NDArray, NDArray], NDArray]


def _sines(omega: NDArray, shifts: NDArray) -> NDArray:
    """What a pair of shifts with opposite coefficients gives for ``sin(omega x)`` at zero."""
    return 2 * np.sin(np.outer(omega, shifts))


def _cosines(omega: NDArray, shifts: NDArray) -> NDArray:
    """What a pair of shifts with equal coefficients, less twice the middle, gives for ``-cos(omega x)`` at zero."""
    return 2 * (1 - np.cos(np.outer(omega, shifts)))


def _given(omega: NDArray, shifts: NDArray, matching: Matching, target: NDArray, bound: float) -> NDArray:
    """Coefficients of given shifts; no rule has a norm of its pairs below ``bound``."""
    matrix = matching(omega, shifts)
    half, *_ = np.linalg.lstsq(matrix, target, rcond=1e-13)
    norm = 2 * np.abs(half).sum()
    found, wanted = f"the shifts {_shown(shifts)}", f"the frequencies {_shown(omega)}"
    if np.abs(matrix @ half - target).max() > 1e-9 * target[-1]:
        raise DifferentiationError(
            f"A shift rule for {wanted} is not determined by {found}. Give at least {len(omega)} positive shifts at "
            "which these frequencies differ, or none to have them chosen."
        )
    if norm > MAX_AMPLIFICATION * bound:
        raise DifferentiationError(
            f"A shift rule for {wanted} with {found} amplifies noise {norm / bound:.3g} times as much as the "
            "best one. Give shifts further apart from each other and from multiples of the period, or none."
        )
    return half


def _least_norm(omega: NDArray, matching: Matching, target: NDArray, bound: float) -> tuple[NDArray, NDArray]:
    """Shifts and coefficients with the least norm, never below ``bound``, as few as there are frequencies.

    The further the shifts may go, the smaller the norm; they go no further than makes a difference.
    """
    best, norm = None, MAX_AMPLIFICATION * bound
    for periods in (1, 2, 4, 8, 16, 32, 64, 128):
        span = periods * len(omega) * np.pi / omega[-1]
        shifts = np.linspace(0.0, span, GRID * periods * len(omega) + 1)[1:]
        found = _vertex(matching(omega, shifts), target)
        if found is not None:
            used = np.flatnonzero(found)
            half, *_ = np.linalg.lstsq(matching(omega, shifts[used]), target, rcond=1e-16)
            before, now = norm, 2 * np.abs(half).sum()
            if now < before:
                best, norm = (shifts[used], half), now
            if norm < 1.1 * bound or (best is not None and now > 0.95 * before):
                break
    if best is None:
        raise DifferentiationError(
            f"No well-conditioned shift rule for the frequencies {_shown(omega)}. "
            'Use diff_method="adjoint" or "finite-diff".'
        )
    return best


def _vertex(matrix: NDArray, target: NDArray) -> NDArray | None:
    """The ``c`` with ``matrix @ c = target`` and the least sum of absolute values, at most one entry a row."""
    cost = np.ones(2 * matrix.shape[1])
    both = np.hstack([matrix, -matrix])
    options = {"primal_feasibility_tolerance": 1e-10}
    solution = linprog(cost, A_eq=both, b_eq=target, bounds=(0, None), method="highs-ds", options=options)
    if solution.status != 0:
        return None
    positive, negative = np.split(solution.x, 2)
    return positive - negative


def _shown(values: NDArray) -> list[float]:
    return [round(v, 6) for v in values.tolist()]
