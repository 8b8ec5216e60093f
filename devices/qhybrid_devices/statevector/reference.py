"""The oracle: every program run and differentiated with dense NumPy, one sample at a time, nothing optimised."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import expm, expm_frechet

from qhybrid.execution import Executable, Needs
from qhybrid.program import (
    PAULI,
    Angle,
    ArrayRef,
    Constant,
    Diagonal,
    Evolution,
    Expectation,
    Fixed,
    Gate,
    Matrix,
    Observable,
    PauliRotation,
    Probabilities,
    Samples,
    Slots,
    SpectralRotation,
    State,
    Term,
)


@dataclass(frozen=True)
class _Values:
    """The slots of one sample; with zeros in them, the accumulator of its cotangents."""

    shared: NDArray
    batched: NDArray
    arrays: tuple[NDArray, ...]

    def __getitem__(self, ref: Angle | ArrayRef | Constant | float):
        if isinstance(ref, Angle):
            return (self.batched if ref.batched else self.shared)[ref.index]
        if isinstance(ref, ArrayRef):
            return self.arrays[ref.index]
        return ref.array if isinstance(ref, Constant) else ref

    def add(self, ref: Angle | ArrayRef | Constant | float, value) -> None:
        if isinstance(ref, Angle):
            (self.batched if ref.batched else self.shared)[ref.index] += np.real(value)
        elif isinstance(ref, ArrayRef):
            self.arrays[ref.index][...] += value


def word_matrix(word: str) -> NDArray:
    """The Kronecker product of the Pauli letters of ``word``, shape ``(2**k, 2**k)``."""
    return reduce(np.kron, (PAULI[p] for p in word), np.eye(1))


def gate_matrix(op, v: _Values) -> NDArray:
    """The matrix of an operator, shape ``(2**k, 2**k)``, without its gate's controls."""
    if isinstance(op, Fixed):
        return op.matrix.array
    if isinstance(op, PauliRotation):
        return expm(-0.5j * op.scale * v[op.angle] * word_matrix(op.word))
    if isinstance(op, SpectralRotation):
        return np.einsum("m,mab->ab", np.exp(1j * np.array(op.eigenvalues) * v[op.angle]), op.projectors.array)
    if isinstance(op, Evolution):
        return expm(-1j * v[op.time] * sum(v[c] * h for c, h in zip(op.coefficients, op.terms.array, strict=True)))
    matrix = np.diag(v[op.ref]) if isinstance(op, Diagonal) else v[op.ref]
    return matrix.conj().T if op.adjoint else matrix


def gate_cotangent(op, v: _Values, g: NDArray, bar: _Values) -> None:
    """Add to ``bar`` what ``dL = 2 Re sum_ab dU_ab g_ab`` gives for the parameters of an operator."""
    if isinstance(op, PauliRotation):
        bar.add(op.angle, 2 * np.sum(-0.5j * op.scale * word_matrix(op.word) @ gate_matrix(op, v) * g).real)
    elif isinstance(op, SpectralRotation):
        e = np.array(op.eigenvalues)
        derivative = np.einsum("m,mab->ab", 1j * e * np.exp(1j * e * v[op.angle]), op.projectors.array)
        bar.add(op.angle, 2 * np.sum(derivative * g).real)
    elif isinstance(op, Evolution):
        t, h = v[op.time], sum(v[c] * h for c, h in zip(op.coefficients, op.terms.array, strict=True))
        bar.add(op.time, 2 * np.sum(expm_frechet(-1j * t * h, -1j * h)[1] * g).real)
        for c, term in zip(op.coefficients, op.terms.array, strict=True):
            bar.add(c, 2 * np.sum(expm_frechet(-1j * t * h, -1j * t * term)[1] * g).real)
    elif isinstance(op, Matrix):
        bar.add(op.ref, 2 * g.T if op.adjoint else 2 * g.conj())
    elif isinstance(op, Diagonal):
        bar.add(op.ref, 2 * np.diag(g) if op.adjoint else 2 * np.diag(g).conj())


def apply(matrix: NDArray, wires: tuple[int, ...], psi: NDArray) -> NDArray:
    """``matrix`` on ``wires`` of ``psi`` of shape ``(2,) * n``."""
    k = len(wires)
    out = np.tensordot(matrix.reshape((2,) * (2 * k)), psi, axes=(range(k, 2 * k), wires))
    return np.moveaxis(out, range(k), wires)


def outer(a: NDArray, b: NDArray, wires: tuple[int, ...]) -> NDArray:
    """``sum conj(a_i) b_j`` over all other wires, shape ``(2**k, 2**k)``."""
    a, b = (np.moveaxis(x, wires, range(len(wires))).reshape(2 ** len(wires), -1) for x in (a, b))
    return a.conj() @ b.T


def controlled(gate: Gate, matrix: NDArray) -> NDArray:
    """The matrix of a gate on its controls (most significant) and wires."""
    full = np.eye(len(matrix) * 2 ** len(gate.controls), dtype=complex)
    full[_active(gate, len(matrix))] = matrix
    return full


def _active(gate: Gate, dim: int) -> tuple[slice, slice]:
    start = dim * int("0" + "".join(str(int(b)) for b in gate.control_values), 2)
    return (slice(start, start + dim),) * 2


class ReferenceExecutable(Executable):
    """A program run and differentiated densely in double precision, for at most about ten wires.

    Args:
        program: the circuit

    Example:
        >>> from qhybrid.program import *
        >>> rx = Gate("RX", (0,), PauliRotation("X", Angle(0)))
        >>> z = Observable((Term(1.0, ((0, "Z"),)),))
        >>> exe = ReferenceExecutable(Program(1, (rx,), (Expectation(z),), num_shared=1))
        >>> exe.run(Slots(shared=np.array([0.0])))[0]
        array([1.])
    """

    has_vjp = True

    def run(self, slots: Slots) -> tuple[NDArray, ...]:
        """The exact results."""
        return self._stack([self._results(v, self._states(v)[-1]) for v in self._samples(slots)])

    def vjp(self, slots: Slots, cotangents: tuple[NDArray, ...], needs: Needs) -> Slots:
        """Cotangents of the slots."""
        batched = self.program.is_batched
        bars = []
        for b, v in enumerate(self._samples(slots)):
            bars.append(_Values(np.zeros_like(v.shared), np.zeros_like(v.batched), tuple(map(np.zeros_like, v.arrays))))
            self._backward(v, tuple(c[b] if batched else c for c in cotangents), bars[-1])
        arrays = []
        for i, slot in enumerate(self.program.arrays):
            parts = np.zeros((len(bars), *slot.shape), complex)
            for part, bar in zip(parts, bars, strict=True):
                part[...] = bar.arrays[i]
            arrays.append(parts if slot.batched else parts.sum(0))
        wanted = needs.arrays or (False,) * len(arrays)
        per_sample = np.array([bar.batched for bar in bars]).reshape(len(bars), self.program.num_batched)
        return Slots(
            sum((bar.shared for bar in bars), np.zeros(self.program.num_shared)) if needs.shared else None,
            per_sample.T if needs.batched and slots.batched is not None else None,
            tuple(a if w else None for a, w in zip(arrays, wanted, strict=True)),
            slots.batch_size,
        )

    def sample(self, slots: Slots, shots: int, rng: np.random.Generator) -> tuple[NDArray, ...]:
        """Results from samples, each measurement drawn on its own in its eigenbasis."""
        return self._stack([self._draw(v, self._states(v)[-1], shots, rng) for v in self._samples(slots)])

    def _samples(self, slots: Slots) -> list[_Values]:
        shared = np.zeros(0) if slots.shared is None else np.asarray(slots.shared, float)
        rows = np.zeros((0, slots.batch_size or 1)) if slots.batched is None else np.asarray(slots.batched, float)
        count = slots.batch_size if self.program.is_batched else 1
        pairs = list(zip(slots.arrays, self.program.arrays, strict=True))
        return [
            _Values(shared, rows[:, b], tuple(np.asarray(a[b] if s.batched else a, complex) for a, s in pairs))
            for b in range(count)
        ]

    def _states(self, v: _Values) -> list[NDArray]:
        """The states before each gate, and the final one, each of shape ``(2,) * n``."""
        n, prep = self.program.num_wires, self.program.preparation
        psi = np.zeros((2,) * n, complex)
        psi[(0,) * n] = 1
        if prep is not None:
            zero = np.moveaxis(psi, prep.wires, range(len(prep.wires)))
            zero[(..., *(0,) * (n - len(prep.wires)))] = v[prep.amplitudes].reshape((2,) * len(prep.wires))
        states = [psi]
        for gate in self.program.gates:
            matrix = controlled(gate, gate_matrix(gate.operator, v))
            states.append(apply(matrix, (*gate.controls, *gate.wires), states[-1]))
        return states

    def _results(self, v: _Values, psi: NDArray) -> tuple[NDArray, ...]:
        scalars = []
        for m in self.program.scalars:
            o_psi = _observe(m.observable, v, psi)
            mean = np.vdot(psi, o_psi).real
            scalars.append(mean if isinstance(m, Expectation) else np.vdot(o_psi, o_psi).real - mean**2)
        tensors = [psi.reshape(-1) if isinstance(m, State) else _probabilities(m, v, psi) for m in self.program.tensors]
        return (np.array(scalars, float), *tensors)

    def _draw(self, v: _Values, psi: NDArray, shots: int, rng: np.random.Generator) -> tuple[NDArray, ...]:
        scalars, tensors = [], []
        for m in self.program.scalars:
            columns = [_observe(m.observable, v, e.reshape(psi.shape)).reshape(-1) for e in np.eye(psi.size)]
            values, vectors = np.linalg.eigh(np.array(columns).T)
            weights = np.abs(vectors.conj().T @ psi.reshape(-1)) ** 2
            draws = rng.choice(values, shots, p=weights / weights.sum())
            scalars.append(draws.mean() if isinstance(m, Expectation) else draws.var())
        for m in self.program.tensors:
            weights = _probabilities(m, v, psi)
            draws = rng.choice(len(weights), shots, p=weights / weights.sum())
            bits = draws[:, None] >> np.arange(len(m.wires))[::-1] & 1
            tensors.append(bits if isinstance(m, Samples) else np.bincount(draws, minlength=len(weights)) / shots)
        return (np.array(scalars, float), *tensors)

    def _stack(self, results: list[tuple[NDArray, ...]]) -> tuple[NDArray, ...]:
        if not self.program.is_batched:
            return results[0]
        if results:
            return tuple(np.stack(r) for r in zip(*results, strict=True))
        n, scalars = self.program.num_wires, np.zeros((0, len(self.program.scalars)))
        sizes = [(n, complex) if isinstance(m, State) else (len(m.wires), float) for m in self.program.tensors]
        return (scalars, *(np.zeros((0, 2**k), t) for k, t in sizes))

    def _backward(self, v: _Values, cotangents: tuple[NDArray, ...], bar: _Values) -> None:
        states = self._states(v)
        lam = self._seed(v, states[-1], cotangents, bar)
        for gate, psi in zip(self.program.gates[::-1], states[-2::-1], strict=True):
            matrix = gate_matrix(gate.operator, v)
            wires = (*gate.controls, *gate.wires)
            gate_cotangent(gate.operator, v, outer(lam, psi, wires)[_active(gate, len(matrix))], bar)
            lam = apply(controlled(gate, matrix).conj().T, wires, lam)
        prep = self.program.preparation
        if prep is not None:
            k = len(prep.wires)
            kept = np.moveaxis(lam, prep.wires, range(k))[(..., *(0,) * (lam.ndim - k))]
            bar.add(prep.amplitudes, 2 * kept.reshape(-1))

    def _seed(self, v: _Values, psi: NDArray, cotangents: tuple[NDArray, ...], bar: _Values) -> NDArray:
        """``lam`` with ``dL = 2 Re <lam|dpsi>`` at the end; adds the cotangents of the observables to ``bar``."""
        lam = np.zeros_like(psi)
        for m, g in zip(self.program.scalars, cotangents[0], strict=True):
            o_psi = _observe(m.observable, v, psi)
            if isinstance(m, Expectation):
                lam, chi = lam + g * o_psi, g * psi
            else:
                mean = np.vdot(psi, o_psi).real
                lam = lam + g * (_observe(m.observable, v, o_psi) - 2 * mean * o_psi)
                chi = 2 * g * (o_psi - mean * psi)
            for term in m.observable.terms:
                _term_cotangent(term, v, chi, psi, bar)
        for m, c in zip(self.program.tensors, cotangents[1:], strict=True):
            if isinstance(m, State):
                lam = lam + np.reshape(c, psi.shape) / 2
            elif isinstance(m, Probabilities):
                rotated = _rotate(m, v, psi)
                moved = np.moveaxis(rotated, m.wires, range(len(m.wires)))  # a view: writes go to `rotated`
                moved *= np.reshape(c, (2,) * len(m.wires) + (1,) * (psi.ndim - len(m.wires)))
                lam = lam + _rotate(m, v, rotated, inverse=True)
        return lam


def _rotate(m: Probabilities | Samples, v: _Values, psi: NDArray, inverse: bool = False) -> NDArray:
    for gate in m.basis[::-1] if inverse else m.basis:
        matrix = controlled(gate, gate_matrix(gate.operator, v))
        psi = apply(matrix.conj().T if inverse else matrix, (*gate.controls, *gate.wires), psi)
    return np.array(psi)


def _probabilities(m: Probabilities | Samples, v: _Values, psi: NDArray) -> NDArray:
    weights = np.moveaxis(np.abs(_rotate(m, v, psi)) ** 2, m.wires, range(len(m.wires)))
    return weights.reshape(2 ** len(m.wires), -1).sum(1)


def _observe(observable: Observable, v: _Values, psi: NDArray) -> NDArray:
    return sum((v[t.coefficient] * _apply_term(t, v, psi) for t in observable.terms), np.zeros_like(psi, complex))


def _apply_term(term: Term, v: _Values, psi: NDArray, skip: int = -1) -> NDArray:
    """The term without its coefficient, and without its matrix number ``skip``, on ``psi``."""
    for wire, letter in term.word:
        psi = apply(PAULI[letter], (wire,), psi)
    for i, (wires, matrix) in enumerate(term.matrices):
        psi = psi if i == skip else apply(v[matrix], wires, psi)
    return psi


def _term_cotangent(term: Term, v: _Values, chi: NDArray, psi: NDArray, bar: _Values) -> None:
    """Add what ``dL = Re <chi|dO|psi>`` gives for the coefficient and the Hermitian matrices of one term."""
    bar.add(term.coefficient, np.vdot(chi, _apply_term(term, v, psi)).real)
    for i, (wires, matrix) in enumerate(term.matrices):
        c = v[term.coefficient] * outer(chi, _apply_term(term, v, psi, skip=i), wires).conj()
        bar.add(matrix, (c + c.conj().T) / 2)  # the part along Hermitian directions
