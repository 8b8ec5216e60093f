r"""Exact derivatives from one more wire.

For a gate ``exp(i theta G)`` with ``G = sum_w g_w P_w`` in Pauli words, followed by ``V``,

    d<O> / d theta = -2 sum_w g_w Im <psi| O V P_w |phi>,    |psi> = V |phi>.

Each of these numbers is ``<O (x) Y>`` of one circuit: an auxiliary wire in ``(|0> + |1>) / sqrt(2)`` controls ``P_w``
right after the gate, and its ``Y`` is measured together with ``O``.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qhybrid.errors import DifferentiationError
from qhybrid.execution import Circuit, Needs
from qhybrid.gradients.base import ALL, GradientMethod, refuse_arrays
from qhybrid.gradients.lanes import batch_of, contract, per_lane, untie
from qhybrid.gradients.parameter_shift import ParameterShift
from qhybrid.gradients.shift_rules import generator_spectrum
from qhybrid.program import (
    PAULI,
    Angle,
    Constant,
    Evolution,
    Expectation,
    Fixed,
    Gate,
    Observable,
    PauliRotation,
    Probabilities,
    Program,
    Scalar,
    Slots,
    SpectralRotation,
    State,
    Tensor,
    Term,
    Variance,
)

Word = tuple[tuple[int, str], ...]

_HADAMARD = Constant(np.array([[1, 1], [1, -1]]) / np.sqrt(2))
_Y_TO_Z = Constant(np.array([[1, -1j], [1, 1j]]) / np.sqrt(2))
#: From the entries 00, 01, 10, 11 of a matrix to the coefficients of I, X, Y, Z.
_TO_PAULI = np.array([[1, 0, 0, 1], [0, 1, 1, 0], [0, 1j, -1j, 0], [1, 0, 0, -1]]) / 2
#: Coefficients below this are rounding.
_ZERO = 1e-12


@dataclass(frozen=True)
class Hadamard(GradientMethod):
    """Exact derivatives of results, exact or sampled, from Hadamard tests with one auxiliary wire.

    When to use: with shots or on hardware where a wire is spare and generators have many frequencies but few Pauli
    words. Cost: one circuit for each Pauli word of the generator of each angle, half as many executions as
    :class:`ParameterShift` for Pauli rotations, and one more for coefficients of observables and for variances. Each is
    a circuit of its own, with its samples in one device call. The auxiliary wire is one that the circuit does not use,
    or a new one. Limits: states, and variances of sums with matrices or trainable coefficients, are refused; arrays
    and gates without a fixed generator as by :class:`ParameterShift`.

    On noisy devices the derivative is that of the noisy circuit as far as the auxiliary wire and the gates on it are
    free of noise.

    K. Mitarai, K. Fujii, "Methodology for replacing indirect measurements with direct measurements", Physical Review
    Research 1, 013006 (2019).

    Example:
        >>> projectors = Constant(np.array([np.diag([1, 0]), np.diag([0, 1])]))
        >>> phase = SpectralRotation((0.0, 1.0), projectors, Angle(0))
        >>> generator_words(Gate("PhaseShift", (0,), phase), 0)
        ((-0.5, ((0, 'Z'),)),)
    """

    name = "hadamard"

    def executions(self, program: Program, samples: int, needs: Needs = ALL) -> int:
        """One for each Pauli word of each angle, and one for coefficients and variances."""
        rows = tuple(untie(program).needed_rows(needs))
        number = sum(len(words) for _, _, words in _gate_rows(program, rows))
        return samples * (number + (_at_point(program, rows) is not None))

    def vjp(
        self, circuit: Circuit, slots: Slots, cotangents: tuple[NDArray, ...], needs: Needs, residual: Any = None
    ) -> Slots:
        """One circuit for each Pauli word of each angle."""
        refuse_arrays(circuit.program, needs, self.name)
        program, untied = circuit.program, untie(circuit.program)
        chosen = tuple(untied.needed_rows(needs))
        cotangents = per_lane(cotangents, slots)
        rows = np.zeros((len(untied.sources), batch_of(slots)))
        point = _at_point(program, chosen)
        values = None if point is None else per_lane(circuit.rewritten(point.program).run(slots), slots)[0]
        means = None if point is None or values is None else values[:, len(point.coefficients) :]
        for row, gate, words in _gate_rows(program, chosen):
            for coefficient, word in words:
                tested = circuit.rewritten(hadamard_test(program, gate, word))
                results = _derivatives(program, per_lane(tested.run(slots), slots), means)
                rows[row] += -2 * coefficient * contract(results, cotangents, 1)[0]
        if point is not None and values is not None:
            for k, (row, scalar) in enumerate(point.coefficients):
                rows[row] += values[:, k] * cotangents[0][:, scalar]
        shared, batched = untied.collect(rows, needs)
        return Slots(shared, batched, (None,) * len(slots.arrays), slots.batch_size)

    def jvp(self, circuit: Circuit, slots: Slots, tangents: Slots) -> tuple[NDArray, ...]:
        """By shift rules, which all directions share."""
        return ParameterShift().jvp(circuit, slots, tangents)


# ------------------------------------------------------------------ generators


@lru_cache(maxsize=1024)
def generator_words(gate: Gate, position: int) -> tuple[tuple[float, Word], ...]:
    """The generator of a gate in Pauli words, without the identity.

    Args:
        gate: made of ``exp(i theta G)``
        position: which of its angles ``theta`` is

    Returns:
        coefficients ``g_w`` and words ``P_w`` of ``G``

    Raises:
        DifferentiationError: the generator depends on other parameters
    """
    if isinstance(gate.operator, PauliRotation):
        own: list[tuple[float, Word]] = [
            (-gate.operator.scale / 2, tuple(zip(gate.wires, gate.operator.word, strict=True)))
        ]
    else:
        own = _pauli_words(_generator(gate, position), gate.wires)
    found: list[tuple[float, Word]] = []
    signs = [-1.0 if value else 1.0 for value in gate.control_values]
    for chosen in product((False, True), repeat=len(gate.controls)):
        letters = tuple((w, "Z") for w, c in zip(gate.controls, chosen, strict=True) if c)
        sign = np.prod([s for s, c in zip(signs, chosen, strict=True) if c])
        found += [(float(g * sign / 2 ** len(signs)), (*letters, *word)) for g, word in own]
    return tuple((g, word) for g, word in found if word)


def _generator(gate: Gate, position: int) -> NDArray:
    """The matrix of ``G`` on the gate's wires, without its controls."""
    generator_spectrum(gate, position)  # refuses generators that depend on other parameters
    op = gate.operator
    if isinstance(op, SpectralRotation):
        return np.tensordot(op.eigenvalues, op.projectors.array, 1)
    assert isinstance(op, Evolution)
    if isinstance(op.time, Angle):
        return -np.tensordot(np.array(op.coefficients, dtype=float), op.terms.array, 1)
    index = [k for k, c in enumerate(op.coefficients) if isinstance(c, Angle)][position]
    return -op.time * op.terms.array[index]


def _pauli_words(matrix: NDArray, wires: tuple[int, ...]) -> list[tuple[float, Word]]:
    """A Hermitian matrix as a sum of Pauli words, the identity included."""
    count = len(wires)
    axes = [a for k in range(count) for a in (k, count + k)]
    entries = matrix.reshape((2,) * (2 * count)).transpose(axes).reshape((4,) * count)
    for _ in range(count):  # each step transforms the first axis and puts it last
        entries = np.tensordot(entries, _TO_PAULI, axes=(0, 1))
    found = np.argwhere(np.abs(entries) > _ZERO)
    return [
        (float(entries[tuple(k)].real), tuple((w, "IXYZ"[i]) for w, i in zip(wires, k, strict=True) if i))
        for k in found.tolist()
    ]


# ------------------------------------------------------------------ circuits


@lru_cache(maxsize=4096)
def hadamard_test(program: Program, gate: int, word: Word) -> Program:
    """The circuit whose results, times minus twice a word's coefficient, are derivatives along an angle of a gate.

    Args:
        program: what to differentiate
        gate: number of the gate
        word: one of the words of its generator

    Returns:
        the program on the same slots. ``Y`` of the auxiliary wire is a factor of each observable, and the first bit of
        each distribution. A variance of ``O`` becomes ``O^2``, with ``O`` behind all scalars.

    Raises:
        DifferentiationError: a measurement cannot be joined with the auxiliary wire
    """
    used = _used_wires(program)
    aux = next((w for w in range(program.num_wires) if w not in used), program.num_wires)
    inserted = (
        Gate("Hadamard", (aux,), Fixed(_HADAMARD)),
        *(
            Gate({"X": "CNOT"}.get(letter, "C" + letter), (wire,), Fixed(Constant(PAULI[letter])), (aux,), (True,))
            for wire, letter in word
        ),
    )
    joined = tuple(_joined(m.observable if isinstance(m, Expectation) else squared(m), aux) for m in program.scalars)
    behind = tuple(_joined(m.observable, aux) for m in program.scalars if isinstance(m, Variance))
    return replace(
        program,
        num_wires=max(program.num_wires, aux + 1),
        gates=(*program.gates[: gate + 1], *inserted, *program.gates[gate + 1 :]),
        scalars=joined + behind,
        tensors=tuple(_joined_tensor(t, aux) for t in program.tensors),
    )


def _used_wires(program: Program) -> set[int]:
    gates = [*program.gates, *(g for t in program.tensors if not isinstance(t, State) for g in t.basis)]
    used = {w for g in gates for w in (*g.wires, *g.controls)}
    used |= set(program.preparation.wires) if program.preparation is not None else set()
    used |= {w for t in program.tensors if not isinstance(t, State) for w in t.wires}
    for term in (t for observable in program.observables() for t in observable.terms):
        used |= {w for w, _ in term.word} | {w for wires, _ in term.matrices for w in wires}
    return used


def _joined(observable: Observable, aux: int) -> Expectation:
    """The observable times ``Y`` of the auxiliary wire; a multiple of the identity has no derivative."""
    terms = (replace(t, word=(*t.word, (aux, "Y"))) for t in observable.terms if t.word or t.matrices)
    return Expectation(Observable(tuple(terms) or (Term(0.0, ((aux, "Y"),)),)))


def _joined_tensor(tensor: Tensor, aux: int) -> Tensor:
    if not isinstance(tensor, Probabilities):
        raise DifferentiationError(
            'diff_method="hadamard" cannot differentiate a state. Use diff_method="adjoint" on a simulator, or measure '
            "expectation values or probabilities."
        )
    return Probabilities((aux, *tensor.wires), (Gate("Y", (aux,), Fixed(_Y_TO_Z)), *tensor.basis))


def squared(variance: Variance) -> Observable:
    """The square of the observable of a variance.

    Raises:
        DifferentiationError: its coefficients are parameters, or it is a sum with matrices
    """
    terms = variance.observable.terms
    if any(isinstance(t.coefficient, Angle) for t in terms):
        raise _no_square("with trainable coefficients")
    constants = [(float(t.coefficient), t) for t in terms if not isinstance(t.coefficient, Angle)]
    if any(t.matrices for t in terms):
        (c, only), *others = constants
        if others or not all(isinstance(m, Constant) for _, m in only.matrices):
            raise _no_square("with matrices that are parameters, or of a sum with matrices")
        squares = [(w, Constant(m.array @ m.array)) for w, m in only.matrices if isinstance(m, Constant)]
        return Observable((Term(c**2, (), tuple(squares)),))
    total: defaultdict[Word, float] = defaultdict(float)
    for (a, first), (b, second) in product(constants, repeat=2):
        word, phase = _multiply(first.word, second.word)
        total[word] += a * b * phase.real  # the imaginary parts of the two orders cancel
    return Observable(tuple(Term(c, word) for word, c in total.items() if abs(c) > _ZERO) or (Term(0.0),))


def _no_square(what: str) -> DifferentiationError:
    return DifferentiationError(
        f'diff_method="hadamard" cannot differentiate the variance of an observable {what}. '
        'Use "parameter-shift", or "adjoint" on a simulator without shots.'
    )


def _multiply(first: Word, second: Word) -> tuple[Word, complex]:
    """The product of two Pauli words and its phase."""
    letters, phase = dict(first), 1 + 0j
    for wire, letter in second:
        other = letters.pop(wire, None)
        if other is None:
            letters[wire] = letter
        elif other != letter:
            (third,) = {"X", "Y", "Z"} - {other, letter}
            letters[wire] = third
            phase *= 1j if other + letter in ("XY", "YZ", "ZX") else -1j
    return tuple(sorted(letters.items())), phase


def _derivatives(program: Program, results: tuple[NDArray, ...], means: NDArray | None) -> tuple[NDArray, ...]:
    """Results of a Hadamard test, shaped like those of the program; variances by the product rule."""
    count = len(program.scalars)
    scalars = np.array(results[0][:, :count], dtype=float)
    variances = [i for i, m in enumerate(program.scalars) if isinstance(m, Variance)]
    if means is not None:
        scalars[:, variances] -= 2 * means * results[0][:, count:]
    tensors = (r.reshape(len(r), 2, -1) for r in results[1:])
    return (scalars, *(t[:, 0] - t[:, 1] for t in tensors))


# ------------------------------------------------------------------ rows


@dataclass(frozen=True, eq=False)
class _Point:
    """What is measured of the circuit itself: terms with trainable coefficients, then the means of variances.

    Args:
        program: measures them
        coefficients: for each term, its row and the number of the scalar that it is in
    """

    program: Program
    coefficients: tuple[tuple[int, int], ...]


@lru_cache(maxsize=256)
def _gate_rows(program: Program, rows: tuple[int, ...]) -> tuple[tuple[int, int, tuple[tuple[float, Word], ...]], ...]:
    """For each of the rows that is an angle of a gate: its number, that of the gate, and the words of its generator."""
    places = (  # copies of a gate for different outcomes of measurements share a row
        (angle.index, number, k)
        for number, gate in enumerate(untie(program).program.gates)
        for k, angle in enumerate(gate.angles)
    )
    return tuple((row, number, generator_words(program.gates[number], k)) for row, number, k in places if row in rows)


@lru_cache(maxsize=256)
def _at_point(program: Program, rows: tuple[int, ...]) -> _Point | None:
    """What must be measured of the circuit itself, ``None`` if nothing."""
    scalars: list[Scalar] = []
    coefficients: list[tuple[int, int]] = []
    for number, (measurement, untied) in enumerate(zip(program.scalars, untie(program).program.scalars, strict=True)):
        for term, copied in zip(measurement.observable.terms, untied.observable.terms, strict=True):
            if isinstance(copied.coefficient, Angle) and copied.coefficient.index in rows:
                if isinstance(measurement, Variance):
                    raise _no_square("with trainable coefficients")
                scalars.append(Expectation(Observable((replace(term, coefficient=1.0),))))
                coefficients.append((copied.coefficient.index, number))
    if rows:
        scalars += [Expectation(m.observable) for m in program.scalars if isinstance(m, Variance)]
    if not scalars:
        return None
    return _Point(replace(program, scalars=tuple(scalars), tensors=()), tuple(coefficients))
