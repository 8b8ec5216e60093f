"""Exact derivatives from shifted parameters: which frequencies a gate has, and which shifts they ask for.

A result of a circuit is, as a function of one angle, a trigonometric polynomial. Its frequencies follow from the
eigenvalues of the gate's generator and from what is measured:

* expectations and probabilities: differences of eigenvalues;
* variances, which square an expectation: sums and differences of those as well;
* amplitudes: the eigenvalues themselves.

The derivative is then a fixed combination of shifted values (D. Wierichs, J. Izaac, C. Wang, C. Y.-Y. Lin, "General
parameter-shift rules for quantum gradients", Quantum 6, 677 (2022)).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from qhybrid.errors import DifferentiationError
from qhybrid.program import Angle, Evolution, Gate, PauliRotation, Program, SpectralRotation, State, Variance

#: Gates with more frequencies than this are refused: their rule is costly and badly conditioned.
MAX_FREQUENCIES = 256
_SAME = 1e-9


@dataclass(frozen=True)
class ShiftRule:
    """``f'(x) = sum_j coefficients[j] f(x + shifts[j])``."""

    shifts: tuple[float, ...]
    coefficients: tuple[float, ...]


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
def shift_rule(frequencies: tuple[float, ...]) -> ShiftRule:
    """The rule for functions ``a_0 + sum_k a_k cos(frequencies[k] x) + b_k sin(frequencies[k] x)``.

    Args:
        frequencies: positive, distinct, ascending; without any the function is constant and the rule is empty

    Raises:
        DifferentiationError: no well-conditioned rule was found

    >>> rule = shift_rule((1.0,))
    >>> [round(s, 4) for s in rule.shifts], [round(c, 4) for c in rule.coefficients]
    ([1.5708, -1.5708], [0.5, -0.5])
    """
    count = len(frequencies)
    if not count:
        return ShiftRule((), ())
    omega = np.array(frequencies)
    if np.allclose(omega, omega[0] * np.arange(1, count + 1), rtol=1e-12, atol=0.0):
        return _equidistant(omega[0], count)
    for points in (count, 2 * count, 4 * count, 8 * count):
        shifts = (2 * np.arange(1, points + 1) - 1) * np.pi / (2 * points * omega[0])
        half, *_ = np.linalg.lstsq(2 * np.sin(np.outer(omega, shifts)), omega, rcond=1e-13)
        error = np.abs(2 * np.sin(np.outer(omega, shifts)) @ half - omega).max()
        if error < 1e-10 * omega[-1] and np.abs(half).sum() < 100 * omega[-1]:
            return _symmetric(shifts, half)
    raise DifferentiationError(
        f"No well-conditioned shift rule for the frequencies {[round(f, 6) for f in frequencies]}. "
        'Use diff_method="adjoint" or "finite-diff".'
    )


def _equidistant(omega: float, count: int) -> ShiftRule:
    """Frequencies ``omega, 2 omega, ..., count omega``: closed form, equation (10) of the paper named above."""
    index = np.arange(1, count + 1)
    scaled = (2 * index - 1) * np.pi / (2 * count)
    half = omega * (-1.0) ** (index - 1) / (4 * count * np.sin(scaled / 2) ** 2)
    return _symmetric(scaled / omega, half)


def _symmetric(shifts: NDArray, half: NDArray) -> ShiftRule:
    """The antisymmetric rule with the given positive shifts."""
    return ShiftRule((*shifts.tolist(), *(-shifts).tolist()), (*half.tolist(), *(-half).tolist()))
