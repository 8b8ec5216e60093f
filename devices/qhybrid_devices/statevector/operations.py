"""Gates of a program reduced to the few operations that the row kernels know, with one-qubit neighbours fused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qhybrid.program import (
    Angle,
    ArraySlot,
    Diagonal,
    Evolution,
    Fixed,
    Gate,
    Matrix,
    PauliRotation,
    SpectralRotation,
)
from qhybrid_devices.statevector.table import (
    DENSE,
    DIAGONAL,
    FLIP,
    PAULI,
    PRODUCT,
    PRODUCT_DIAGONAL,
    ROTATION,
    SPECTRUM,
    U2,
)

PAULI_MATRICES = {
    "X": np.array([[0, 1], [1, 0]], complex),
    "Y": np.array([[0, -1j], [1j, 0]]),
    "Z": np.diag([1.0 + 0j, -1.0]),
}
_SWAP = np.eye(4)[[0, 2, 1, 3]]
_TINY = 1e-15


@dataclass(frozen=True)
class Factor:
    """``sum_m exp(i eigenvalues[m] theta) terms[m]``; without an angle the constant ``terms[0]``."""

    angle: Angle | None
    eigenvalues: tuple[float, ...]
    terms: NDArray
    word: str = ""

    @property
    def is_diagonal(self) -> bool:
        """Whether all terms are diagonal."""
        return all(_is_diagonal(t) for t in self.terms)


@dataclass(frozen=True)
class Operation:
    """One operation of the row kernels; all bits are positions in the index of the whole state.

    Args:
        kind: kernel, see ``table.py``
        targets: target bits, the most significant bit of the matrix first
        cmask, cval: bits of the controls, and what they must read
        xmask, zmask, num_y: the Pauli word of a rotation
        composition: how coefficients come from ``factors``; ``None`` for ``constant`` or ``external``
        factors: the first one acts first
        constant: matrix, or diagonal
        external: operator whose matrix is filled in by NumPy
        lanes: whether each sample has its own coefficients
    """

    kind: int
    targets: tuple[int, ...]
    cmask: int = 0
    cval: int = 0
    xmask: int = 0
    zmask: int = 0
    num_y: int = 0
    composition: int | None = None
    factors: tuple[Factor, ...] = ()
    constant: NDArray | None = None
    external: Matrix | Diagonal | Evolution | None = None
    lanes: bool = False

    @property
    def active(self) -> int:
        """Mask of the bits that must be row bits of a tile."""
        if self.kind == PAULI:
            return self.xmask
        return 0 if self.kind == DIAGONAL else sum(1 << b for b in self.targets)

    @property
    def diagonal(self) -> int:
        """Mask of the bits on which this operation only depends, without changing them."""
        if self.kind == PAULI:
            return (self.cmask | self.zmask) & ~self.xmask
        return self.cmask | (sum(1 << b for b in self.targets) if self.kind == DIAGONAL else 0)

    @property
    def num_coefficients(self) -> int:
        """Complex coefficients; a Pauli rotation's cosine and sine count as one."""
        if self.kind == PAULI:
            return 1
        if self.kind == FLIP:
            return 0
        return 2 ** len(self.targets) if self.kind == DIAGONAL else 4 ** len(self.targets)


@dataclass(frozen=True)
class LoweringOptions:
    """Choices that depend on how the operations will run.

    Args:
        max_flips: Pauli rotations with more X and Y letters than this are turned into Z rotations first
        relabel: whether a SWAP may relabel bits instead of moving amplitudes
        fuse_mixed: whether shared and batched gates fuse; cheap unless each of many lanes then has its own product
    """

    max_flips: int
    relabel: bool = True
    fuse_mixed: bool = False


def lower_gates(
    gates: Sequence[Gate], bits: Sequence[int], arrays: Sequence[ArraySlot], options: LoweringOptions
) -> tuple[list[Operation], tuple[int, ...]]:
    """Reduce gates to operations.

    Args:
        gates: in the order of application
        bits: bit position of each wire before the gates
        arrays: the program's array slots, which say what is batched
        options: choices that depend on how the operations will run

    Returns:
        the operations, and the bit position of each wire after them: a SWAP only relabels
    """
    lowering = _Lowering(list(bits), arrays, options)
    for gate in gates:
        lowering.add(gate)
    return [op for item in lowering.items for op in _finish(item)], tuple(lowering.bits)


class _Lowering:
    """The operations so far; ``last[b]`` is the index of the last one that touches bit ``b``."""

    def __init__(self, bits: list[int], arrays: Sequence[ArraySlot], options: LoweringOptions) -> None:
        self.bits, self.arrays, self.options = bits, arrays, options
        self.items: list[Operation] = []
        self.last: dict[int, int] = {}

    def add(self, gate: Gate) -> None:
        targets = tuple(self.bits[w] for w in gate.wires)
        cmask = sum(1 << self.bits[w] for w in gate.controls)
        cval = sum(1 << self.bits[w] for w, v in zip(gate.controls, gate.control_values, strict=True) if v)
        op = gate.operator
        if isinstance(op, Fixed):
            self._fixed(np.asarray(op.matrix.array, complex), targets, cmask, cval)
        elif isinstance(op, PauliRotation):
            self._pauli(op, targets, cmask, cval)
        elif isinstance(op, SpectralRotation):
            self._spectral(Factor(op.angle, op.eigenvalues, op.projectors.array), targets, cmask, cval)
        else:
            diagonal = isinstance(op, Diagonal) or not targets
            kind = DIAGONAL if diagonal else U2 if len(targets) == 1 else DENSE
            self._push(Operation(kind, targets, cmask, cval, external=op, lanes=self._varies(gate)))

    def _varies(self, gate: Gate) -> bool:
        op = gate.operator
        if isinstance(op, Matrix | Diagonal):
            return self.arrays[op.ref.index].batched
        return any(a.batched for a in gate.angles)

    def _fixed(self, matrix: NDArray, targets: tuple[int, ...], cmask: int, cval: int) -> None:
        matrix, targets, cmask, cval = _peel_controls(matrix, targets, cmask, cval)
        if self.options.relabel and not cmask and len(targets) == 2 and np.abs(matrix - _SWAP).max() < _TINY:
            a, b = (self.bits.index(t) for t in targets)
            self.bits[a], self.bits[b] = self.bits[b], self.bits[a]
        elif len(targets) == 1:
            self._fuse(Factor(None, (0.0,), matrix[None]), targets, cmask, cval)
        elif _is_diagonal(matrix):
            self._push(Operation(DIAGONAL, targets, cmask, cval, constant=np.diag(matrix)))
        else:
            self._push(Operation(DENSE, targets, cmask, cval, constant=matrix))

    def _pauli(self, op: PauliRotation, targets: tuple[int, ...], cmask: int, cval: int) -> None:
        half = op.scale / 2
        if not targets:
            self._spectral(Factor(op.angle, (-half,), np.ones((1, 1, 1), complex)), targets, cmask, cval)
            return
        if len(targets) == 1:
            word = PAULI_MATRICES[op.word]
            terms = np.stack([np.eye(2) - word, np.eye(2) + word]) / 2
            self._spectral(Factor(op.angle, (half, -half), terms, op.word), targets, cmask, cval)
            return
        if sum(letter != "Z" for letter in op.word) > self.options.max_flips:
            self._pauli_in_z_basis(op, targets, cmask, cval)
            return
        masks = {letter: sum(1 << t for t, p in zip(targets, op.word, strict=True) if p == letter) for letter in "XYZ"}
        factor = Factor(op.angle, (half,), np.zeros((0, 0)), op.word)
        rotation = Operation(
            PAULI,
            targets,
            cmask,
            cval,
            masks["X"] | masks["Y"],
            masks["Y"] | masks["Z"],
            op.word.count("Y"),
            ROTATION,
            (factor,),
            lanes=op.angle.batched,
        )
        self._push(rotation)

    def _pauli_in_z_basis(self, op: PauliRotation, targets: tuple[int, ...], cmask: int, cval: int) -> None:
        """``P = V^dagger Z...Z V`` with one-qubit ``V``, so a wide word needs only two active bits at a time."""
        to_z = {p: np.linalg.eigh(PAULI_MATRICES[p])[1][:, ::-1].conj().T for p in "XY"}
        changed = [(t, to_z[p]) for t, p in zip(targets, op.word, strict=True) if p != "Z"]
        for t, v in changed:
            self._fuse(Factor(None, (0.0,), v[None]), (t,), 0, 0)
        self._pauli(replace(op, word="Z" * len(targets)), targets, cmask, cval)
        for t, v in changed:
            self._fuse(Factor(None, (0.0,), v.conj().T[None]), (t,), 0, 0)

    def _spectral(self, factor: Factor, targets: tuple[int, ...], cmask: int, cval: int) -> None:
        if len(targets) == 1:
            self._fuse(factor, targets, cmask, cval)
            return
        assert factor.angle is not None
        kind = DIAGONAL if factor.is_diagonal else DENSE
        self._push(
            Operation(kind, targets, cmask, cval, composition=SPECTRUM, factors=(factor,), lanes=factor.angle.batched)
        )

    def _fuse(self, factor: Factor, targets: tuple[int, ...], cmask: int, cval: int) -> None:
        """Add a one-qubit factor to the operation before it if that acts on the same bit under the same controls."""
        touched = {self.last.get(b) for b in _bits_of(cmask, targets)}
        index = touched.pop()
        lanes = factor.angle is not None and factor.angle.batched
        if not touched and index is not None:
            before = self.items[index]
            same = (before.targets, before.cmask, before.cval, before.composition) == (targets, cmask, cval, PRODUCT)
            constant = factor.angle is None or all(f.angle is None for f in before.factors)
            if same and (before.lanes == lanes or constant or self.options.fuse_mixed):
                self.items[index] = replace(before, factors=(*before.factors, factor), lanes=before.lanes or lanes)
                return
        self._push(Operation(U2, targets, cmask, cval, composition=PRODUCT, factors=(factor,), lanes=lanes))

    def _push(self, op: Operation) -> None:
        for b in _bits_of(op.cmask, op.targets):
            self.last[b] = len(self.items)
        self.items.append(op)


def _bits_of(mask: int, more: tuple[int, ...] = ()) -> list[int]:
    return [b for b in range(mask.bit_length()) if mask >> b & 1] + list(more)


def _is_diagonal(matrix: NDArray) -> bool:
    return bool(np.abs(matrix - np.diag(np.diag(matrix))).max() < _TINY)


def _peel_controls(
    matrix: NDArray, targets: tuple[int, ...], cmask: int, cval: int
) -> tuple[NDArray, tuple[int, ...], int, int]:
    """Turn targets on whose one value the matrix is the identity into controls: a CNOT matrix becomes an X."""
    for i, bit in enumerate(targets):
        k = len(targets)
        if k == 1 and not _is_diagonal(matrix):
            break
        blocks = np.moveaxis(matrix.reshape((2,) * (2 * k)), (i, k + i), (0, 1)).reshape(2, 2, 2 ** (k - 1), -1)
        if np.abs(blocks[0, 1]).max() > _TINY or np.abs(blocks[1, 0]).max() > _TINY:
            continue
        for value in (1, 0):
            if np.abs(blocks[1 - value, 1 - value] - np.eye(2 ** (k - 1))).max() < _TINY:
                rest = targets[:i] + targets[i + 1 :]
                return _peel_controls(blocks[value, value], rest, cmask | 1 << bit, cval | value << bit)
    return matrix, targets, cmask, cval


def _absorb_constants(factors: tuple[Factor, ...]) -> tuple[Factor, ...]:
    """Multiply constant factors into their neighbours: ``C exp(i theta G) = sum exp(i lambda_m theta) C P_m``."""
    out: list[Factor] = []
    for factor in factors:
        if out and factor.angle is None:
            out[-1] = replace(out[-1], terms=factor.terms[0] @ out[-1].terms, word="")
        elif out and out[-1].angle is None:
            out[-1] = replace(factor, terms=factor.terms @ out[-1].terms[0], word="")
        else:
            out.append(factor)
    return tuple(out)


def _finish(op: Operation) -> list[Operation]:
    """Choose the cheapest kernel for a fused product and for a constant; drop identities."""
    if op.composition == PRODUCT:
        factors = _absorb_constants(op.factors)
        op = replace(op, factors=factors)
        if factors[0].angle is None:
            matrix = factors[0].terms[0]
            op = replace(op, composition=None, factors=(), constant=matrix)
            if np.abs(matrix - PAULI_MATRICES["X"]).max() < _TINY:
                return [replace(op, kind=FLIP, constant=None)]
            if _is_diagonal(matrix):
                op = replace(op, kind=DIAGONAL, constant=np.diag(matrix))
        elif len(factors) == 1 and factors[0].word:
            return [_single_rotation(op, factors[0])]
        elif all(f.is_diagonal for f in factors):
            return [replace(op, kind=DIAGONAL, composition=PRODUCT_DIAGONAL)]
    if op.kind == DIAGONAL and op.constant is not None and np.all(op.constant == 1):
        return []
    return [op]


def _single_rotation(op: Operation, factor: Factor) -> Operation:
    bit, letter = 1 << op.targets[0], factor.word
    return replace(
        op,
        kind=PAULI,
        composition=ROTATION,
        factors=(replace(factor, eigenvalues=(factor.eigenvalues[0],), terms=np.zeros((0, 0))),),
        xmask=bit if letter in "XY" else 0,
        zmask=bit if letter in "YZ" else 0,
        num_y=int(letter == "Y"),
    )
