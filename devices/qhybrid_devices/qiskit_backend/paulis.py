"""Results as weighted sums of the expectation values of Pauli words, which are all that an estimator gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import product
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit
from qiskit.quantum_info import Operator

from qhybrid.program import Constant, Expectation, Gate, Observable, Probabilities, Program, Term
from qhybrid_devices.externals import Values
from qhybrid_devices.qiskit_circuits.translation import Translated, append_gates

#: Pairs of a wire and a letter of XYZ, ascending; the empty word is the identity.
Word: TypeAlias = tuple[tuple[int, str], ...]

#: A matrix has no part along a Pauli word whose coefficient is below this.
ZERO = 1e-14
_PRODUCTS = {
    ("X", "Y"): ("Z", 1j), ("Y", "Z"): ("X", 1j), ("Z", "X"): ("Y", 1j),
    ("Y", "X"): ("Z", -1j), ("Z", "Y"): ("X", -1j), ("X", "Z"): ("Y", -1j),
}  # fmt: skip


@dataclass(frozen=True)
class Weighted:
    """A term as a sum of Pauli words.

    Args:
        term: which one
        columns: for each word its number in the observable's words
        kept: which of the coefficients of the term's matrices belong to them
    """

    term: Term
    columns: NDArray
    kept: NDArray

    def weights(self, values: Values) -> NDArray:
        """Coefficients of the words, ``(words,)`` or ``(B, words)``."""
        out = np.ones(1)
        for _, matrix in self.term.matrices:
            array = matrix.array if isinstance(matrix, Constant) else values.arrays[matrix.index]
            out = np.einsum("...i,...j->...ij", out, pauli_coefficients(array))
            out = out.reshape(*out.shape[:-2], -1)
        return out[..., self.kept] * np.asarray(values.number(self.term.coefficient))[..., None]


@dataclass(frozen=True)
class Squares:
    """The square of a sum of Pauli words; words that anticommute cancel.

    Args:
        left, right: numbers of the words of each pair
        signs: of their product
        words: number of the product among all words measured
    """

    left: NDArray
    right: NDArray
    signs: NDArray
    words: NDArray


@dataclass(frozen=True)
class PauliSum:
    """One scalar measurement.

    Args:
        terms: of its observable
        words: number of each of its words among all words measured
        squares: for a variance
    """

    terms: tuple[Weighted, ...]
    words: NDArray
    squares: Squares | None

    def value(self, values: Values, means: NDArray) -> NDArray:
        """The measurement ``(B,)`` from the expectation values ``(B, words)`` of all words."""
        sums = np.zeros((len(self.words), len(means)))
        for t in self.terms:
            own = np.broadcast_to(t.weights(values), (len(means), len(t.columns)))
            np.add.at(sums, t.columns, own.T)
        weights = sums.T
        mean = np.sum(weights * means[:, self.words], axis=1)
        s = self.squares
        if s is None:
            return mean
        return np.sum(weights[:, s.left] * weights[:, s.right] * s.signs * means[:, s.words], axis=1) - mean**2


class PauliSums:
    """The scalar measurements and the probabilities of a program.

    Args:
        program: what is measured

    Attributes:
        words: all words that must be measured; the identity is not among them
    """

    def __init__(self, program: Program) -> None:
        numbers: dict[Word, int] = {(): 0}
        self._scalars = [_pauli_sum(m.observable, isinstance(m, Expectation), numbers) for m in program.scalars]
        self._parities = [
            [_pauli_sum(parity, True, numbers) for parity in parities(t)]
            for t in program.tensors
            if isinstance(t, Probabilities)
        ]
        self.words = tuple(numbers)[1:]

    def read(self, values: Values, means: NDArray) -> tuple[NDArray, ...]:
        """Results, the samples in front, from the expectation values ``(B, len(words))`` of the words."""
        means = np.concatenate([np.ones((len(means), 1)), means], axis=1)
        scalars, *tensors = (_stacked(s, values, means) for s in (self._scalars, *self._parities))
        return (scalars, *(_from_parities(t) for t in tensors))


def _stacked(sums: Sequence[PauliSum], values: Values, means: NDArray) -> NDArray:
    out = np.empty((len(means), len(sums)))
    for column, s in zip(out.T, sums, strict=True):
        column[:] = s.value(values, means)
    return out


# ------------------------------------------------------------------ probabilities


def parities(measured: Probabilities) -> list[Observable]:
    """The products of Z on all subsets of the measured wires, numbered by their masks, first wire most significant."""
    k = len(measured.wires)
    subsets = [[w for i, w in enumerate(measured.wires) if mask >> (k - 1 - i) & 1] for mask in range(2**k)]
    if not measured.basis:
        return [Observable((Term(1.0, tuple((w, "Z") for w in own)),)) for own in subsets]
    touched = tuple(sorted({w for g in measured.basis for w in (*g.wires, *g.controls)} | set(measured.wires)))
    rotation = _matrix(measured.basis, touched)
    signs = ([np.array([1.0, -1.0 if w in own else 1.0]) for w in touched] for own in subsets)
    diagonals = (reduce(lambda a, b: np.kron(a, b), own) for own in signs)
    rotated = (Constant((rotation.conj().T * d) @ rotation) for d in diagonals)
    return [Observable((Term(1.0, (), ((touched, m),)),)) for m in rotated]


def _matrix(gates: Sequence[Gate], wires: tuple[int, ...]) -> NDArray:
    """The matrix of fixed gates on some wires."""
    out = Translated(QuantumCircuit(len(wires)))
    place = {w: i for i, w in enumerate(wires)}
    own = [
        replace(g, wires=tuple(place[w] for w in g.wires), controls=tuple(place[w] for w in g.controls)) for g in gates
    ]
    append_gates(out, own)
    return Operator(out.circuit.reverse_bits()).data


def _from_parities(means: NDArray) -> NDArray:
    """Probabilities ``(B, 2**k)`` from the expectation values of all parities: a Walsh-Hadamard transform."""
    masks = np.arange(means.shape[1])
    signs = 1 - 2 * (np.bitwise_count(masks[:, None] & masks).astype(int) & 1)
    return means @ signs / means.shape[1]


# ------------------------------------------------------------------ sums of words


def _pauli_sum(observable: Observable, only_mean: bool, numbers: dict[Word, int]) -> PauliSum:
    own: dict[Word, int] = {}
    terms = []
    for term in observable.terms:
        words, kept = _words(term)
        terms.append(Weighted(term, np.array([own.setdefault(w, len(own)) for w in words], int), kept))
    columns = np.array([numbers.setdefault(w, len(numbers)) for w in own], int)
    return PauliSum(tuple(terms), columns, None if only_mean else _squares(list(own), numbers))


def _words(term: Term) -> tuple[list[Word], NDArray]:
    """The words of a term, and which of all that its matrices could have they are."""
    letters = [list(product("IXYZ", repeat=len(wires))) for wires, _ in term.matrices]
    kept = np.ones(1, bool)
    for wires, matrix in term.matrices:
        own = np.ones(4 ** len(wires), bool)  # any of them, if the matrix is a slot
        if isinstance(matrix, Constant):
            own = np.abs(pauli_coefficients(matrix.array)) > ZERO
        kept = np.outer(kept, own).reshape(-1)
    words = []
    for index in np.flatnonzero(kept):
        word = dict(term.word)
        for (wires, _), choice in zip(term.matrices, _choices(letters, int(index)), strict=True):
            word.update((w, c) for w, c in zip(wires, choice, strict=True) if c != "I")
        words.append(tuple(sorted(word.items())))
    return words, np.flatnonzero(kept)


def _choices(options: Sequence[Sequence[tuple[str, ...]]], index: int) -> tuple[tuple[str, ...], ...]:
    """Entry ``index`` of the product of ``options``."""
    places = np.unravel_index(index, tuple(len(o) for o in options)) if options else ()
    return tuple(o[int(p)] for o, p in zip(options, places, strict=True))


def _squares(words: Sequence[Word], numbers: dict[Word, int]) -> Squares:
    left, right, signs, products = [], [], [], []
    for i, a in enumerate(words):
        for j, b in enumerate(words):
            word, phase = _multiply(a, b)
            if phase.imag == 0:
                left.append(i)
                right.append(j)
                signs.append(phase.real)
                products.append(numbers.setdefault(word, len(numbers)))
    return Squares(np.array(left, int), np.array(right, int), np.array(signs, float), np.array(products, int))


def _multiply(a: Word, b: Word) -> tuple[Word, complex]:
    """The product of two words: a word and its phase."""
    out, phase = dict(a), 1 + 0j
    for wire, letter in b:
        if wire not in out:
            out[wire] = letter
        elif out[wire] == letter:
            del out[wire]
        else:
            out[wire], factor = _PRODUCTS[out[wire], letter]
            phase *= factor
    return tuple(sorted(out.items())), phase


def pauli_coefficients(matrix: NDArray) -> NDArray:
    """Coefficients of a Hermitian matrix along all Pauli words, ``I < X < Y < Z``, first wire first.

    Args:
        matrix: ``(..., 2**k, 2**k)``

    Returns:
        ``(..., 4**k)``, real

    Example:
        >>> pauli_coefficients(np.array([[2, 1 - 3j], [1 + 3j, 0]]))
        array([1., 1., 3., 1.])
    """
    parts = np.asarray(matrix, complex)[..., None, :, :]
    while parts.shape[-1] > 1:
        half = parts.shape[-1] // 2
        a, b = parts[..., :half, :half], parts[..., :half, half:]
        c, d = parts[..., half:, :half], parts[..., half:, half:]
        split = np.stack([(a + d) / 2, (b + c) / 2, 1j * (b - c) / 2, (a - d) / 2], axis=-3)
        parts = split.reshape(*split.shape[:-4], -1, half, half)
    return parts[..., 0, 0].real
