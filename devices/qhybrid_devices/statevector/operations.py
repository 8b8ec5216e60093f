"""Gates of a program reduced to the few operations that the row kernels know, with one-qubit neighbours fused."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qhybrid.program import (
    Angle,
    ArraySlot,
    Channel,
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
#: A Pauli word up to its phase: the bits that it flips, and those whose parity gives its sign.
Pauli = tuple[int, int]


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
        xmask, zmask: of a Pauli rotation, the bits that its word flips and whose parity gives its sign; of a 2x2 or a
            flip, the bits that lead from one amplitude of a pair to the other, and whose parity tells which is which
        num_y: letters Y in the word of a rotation
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
    def flips(self) -> tuple[int, ...]:
        """Masks of the index by which it may move amplitudes."""
        if self.kind in (PAULI, U2, FLIP):
            return (self.xmask,) if self.xmask else ()
        return () if self.kind == DIAGONAL else tuple(1 << b for b in self.targets)

    @property
    def generators(self) -> list[Pauli]:
        """Paulis that generate all that it may do: what commutes with them commutes with it."""
        if self.kind == PAULI:
            return [(self.xmask, self.zmask), *self.controls]
        reads = [self.zmask] if self.kind == U2 else [] if self.kind == FLIP else [1 << b for b in self.targets]
        return [*((x, 0) for x in self.flips), *((0, z) for z in reads), *self.controls]

    def generators_of(self, factors: Sequence[Factor]) -> list[Pauli]:
        """The same of some of its factors."""
        found = self.controls if factors else []
        for factor in factors:
            if not factor.word or len(self.targets) != 1:
                return self.generators
            found.append((self.xmask if factor.word in "XY" else 0, self.zmask if factor.word in "YZ" else 0))
        return found

    @property
    def controls(self) -> list[Pauli]:
        """Z on each of its controls."""
        return [(0, 1 << b) for b in _bits_of(self.cmask)]

    @property
    def support(self) -> int:
        """Mask of all bits that matter."""
        if self.kind in (PAULI, U2, FLIP):
            return self.xmask | self.zmask | self.cmask
        return sum(1 << b for b in self.targets) | self.cmask

    @property
    def place(self) -> tuple[int, int, int, int]:
        """Where a 2x2 acts, and when."""
        return (self.xmask, self.zmask, self.cmask, self.cval)

    @property
    def is_free(self) -> bool:
        """Whether it is a matrix of the user's, whose entries may change in any direction."""
        return isinstance(self.external, Matrix | Diagonal)

    @property
    def num_coefficients(self) -> int:
        """Complex coefficients; a Pauli rotation's cosine and sine count as one."""
        if self.kind == PAULI:
            return 1
        if self.kind == FLIP:
            return 0
        return 2 ** len(self.targets) if self.kind == DIAGONAL else 4 ** len(self.targets)


def commute(a: Iterable[Pauli], b: Sequence[Pauli]) -> bool:
    """Whether each of some Paulis commutes with each of some others: ``|x1 & z2| + |z1 & x2|`` is even."""
    return not any(((x1 & z2).bit_count() + (z1 & x2).bit_count()) & 1 for (x1, z1), (x2, z2) in product(a, b))


@dataclass(frozen=True)
class LoweringOptions:
    """Choices that depend on how the operations will run.

    Args:
        relabel: whether a SWAP may relabel bits instead of moving amplitudes
        absorb: whether a CNOT may change what the bits mean instead of moving amplitudes; see :class:`Frame`
        restore: whether the bits have their own meaning at the end
        fuse_mixed: whether shared and batched gates fuse; cheap unless each of many lanes then has its own product
    """

    relabel: bool = True
    absorb: bool = False
    restore: bool = True
    fuse_mixed: bool = False


@dataclass(frozen=True)
class Frame:
    """What the bits of an index mean: CNOTs are linear, so a basis state's label may be any invertible sum of bits.

    Args:
        bits: for each wire the bit that is its value once all CNOTs are applied
        flips: for each wire the bits to flip, so that its value changes and no other wire's does
        signs: for each wire the bits whose parity is its value
        absorbed: the CNOTs, pairs of control bit and target bit, whose application in this order leaves ``bits``
    """

    bits: tuple[int, ...]
    flips: tuple[int, ...]
    signs: tuple[int, ...]
    absorbed: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of_bits(cls, bits: Sequence[int]) -> Frame:
        """Wire ``w`` is bit ``bits[w]``."""
        masks = tuple(1 << b for b in bits)
        return cls(tuple(bits), masks, masks)

    @classmethod
    def of_wires(cls, num_wires: int) -> Frame:
        """The first wire is the most significant bit."""
        return cls.of_bits(range(num_wires - 1, -1, -1))


def lower_gates(
    gates: Sequence[Gate], start: Frame, arrays: Sequence[ArraySlot], options: LoweringOptions
) -> tuple[list[Operation], Frame]:
    """Reduce gates to operations.

    Args:
        gates: in the order of application
        start: what the bits mean before the gates
        arrays: the program's array slots, which say what is batched
        options: choices that depend on how the operations will run

    Returns:
        the operations, and what the bits mean after them
    """
    lowering = _Lowering(start, arrays, options)
    for gate in gates:
        lowering.add(gate)
    if options.restore:
        lowering.restore()
    operations = [op for item in lowering.items for op in _finish(item)]
    return operations, lowering.frame()


class _Lowering:
    """The operations so far; ``last[b]`` is the index of the last one that touches bit ``b``.

    ``flips[b]`` and ``signs[b]`` are the frame of the wire at bit ``b``, and ``absorbed`` the CNOTs of the frame.
    """

    def __init__(self, start: Frame, arrays: Sequence[ArraySlot], options: LoweringOptions) -> None:
        self.bits, self.arrays, self.options = list(start.bits), arrays, options
        self.items: list[Operation] = []
        self.last: dict[int, int] = {}
        self.absorbed = list(start.absorbed)
        self.flips = dict(zip(start.bits, start.flips, strict=True))
        self.signs = dict(zip(start.bits, start.signs, strict=True))

    def frame(self) -> Frame:
        """What the bits mean now."""
        flips, signs = (tuple(masks[b] for b in self.bits) for masks in (self.flips, self.signs))
        return Frame(tuple(self.bits), flips, signs, tuple(self.absorbed))

    def restore(self) -> None:
        """Move the amplitudes, so that each wire is the value of its own bit again."""
        pending, self.absorbed = self.absorbed, []
        self.flips = {b: 1 << b for b in self.bits}
        self.signs = dict(self.flips)
        for control, target in pending:
            self._push(self._one_qubit(FLIP, target, 1 << control, 1 << control))

    def _absorb(self, control: int, target: int) -> None:
        """A CNOT as a change of what the bits mean."""
        if self.absorbed and self.absorbed[-1] == (control, target):
            self.absorbed.pop()
        else:
            self.absorbed.append((control, target))
        self.flips[control] ^= self.flips[target]
        self.signs[target] ^= self.signs[control]

    def _needs_bits(self, flipped: Sequence[int], read: int) -> None:
        """Restore the frame unless each of the bits stands for its own wire: those that change, and those only read."""
        own = all(self.flips[b] == self.signs[b] == 1 << b for b in flipped)
        if not (own and all(self.signs[b] == 1 << b for b in _bits_of(read))):
            self.restore()

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
            assert not isinstance(op, Channel)  # the device has refused it
            diagonal = isinstance(op, Diagonal) or not targets
            kind = DIAGONAL if diagonal else U2 if len(targets) == 1 else DENSE
            if kind == U2:
                self._push(self._one_qubit(U2, targets[0], cmask, cval, external=op, lanes=self._varies(gate)))
            else:
                self._push_on_bits(Operation(kind, targets, cmask, cval, external=op, lanes=self._varies(gate)))

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
        elif self.options.absorb and len(targets) == 1 and _is_cnot(matrix, cmask, cval):
            self._absorb(cmask.bit_length() - 1, targets[0])
        elif len(targets) == 1:
            self._fuse(Factor(None, (0.0,), matrix[None]), targets, cmask, cval)
        elif _is_diagonal(matrix):
            self._push_on_bits(Operation(DIAGONAL, targets, cmask, cval, constant=np.diag(matrix)))
        else:
            self._push_on_bits(Operation(DENSE, targets, cmask, cval, constant=matrix))

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
        self._needs_bits((), cmask)
        factor = Factor(op.angle, (half,), np.zeros((0, 0)), op.word)
        rotation = Operation(
            PAULI,
            targets,
            cmask,
            cval,
            sum_masks(self.flips[t] for t, p in zip(targets, op.word, strict=True) if p in "XY"),
            sum_masks(self.signs[t] for t, p in zip(targets, op.word, strict=True) if p in "YZ"),
            op.word.count("Y"),
            ROTATION,
            (factor,),
            lanes=op.angle.batched,
        )
        self._push(rotation)

    def _spectral(self, factor: Factor, targets: tuple[int, ...], cmask: int, cval: int) -> None:
        if len(targets) == 1:
            self._fuse(factor, targets, cmask, cval)
            return
        assert factor.angle is not None
        kind = DIAGONAL if factor.is_diagonal else DENSE
        self._push_on_bits(
            Operation(kind, targets, cmask, cval, composition=SPECTRUM, factors=(factor,), lanes=factor.angle.batched)
        )

    def _fuse(self, factor: Factor, targets: tuple[int, ...], cmask: int, cval: int) -> None:
        """Add a one-qubit factor to the operation before it if that acts on the same bit under the same controls."""
        lanes = factor.angle is not None and factor.angle.batched
        op = self._one_qubit(U2, targets[0], cmask, cval, composition=PRODUCT, factors=(factor,), lanes=lanes)
        touched = {self.last.get(b) for b in _bits_of(op.support)}
        index = touched.pop()
        if not touched and index is not None:
            before = self.items[index]
            same = before.composition == PRODUCT and before.place == op.place
            constant = factor.angle is None or all(f.angle is None for f in before.factors)
            if same and (before.lanes == lanes or constant or self.options.fuse_mixed):
                self.items[index] = replace(before, factors=(*before.factors, factor), lanes=before.lanes or lanes)
                return
        self._push(op)

    def _one_qubit(self, kind: int, target: int, cmask: int, cval: int, **how: Any) -> Operation:
        """A 2x2 or a flip on the wire at bit ``target``, wherever its pairs of amplitudes are."""
        if cmask:
            self._needs_bits((target,), cmask)
        return Operation(kind, (target,), cmask, cval, self.flips[target], self.signs[target], **how)

    def _push_on_bits(self, op: Operation) -> None:
        """Add an operation whose kernel reads bits one by one."""
        changed, read = ((), op.support) if op.kind == DIAGONAL else (op.targets, op.cmask)
        self._needs_bits(changed, read)
        self._push(op)

    def _push(self, op: Operation) -> None:
        for b in _bits_of(op.support):
            self.last[b] = len(self.items)
        self.items.append(op)


def _bits_of(mask: int) -> list[int]:
    return [b for b in range(mask.bit_length()) if mask >> b & 1]


def sum_masks(masks: Iterable[int]) -> int:
    """The sum of sets of bits modulo 2."""
    return functools.reduce(operator.xor, masks, 0)


def _is_cnot(matrix: NDArray, cmask: int, cval: int) -> bool:
    return cmask.bit_count() == 1 and cmask == cval and np.abs(matrix - PAULI_MATRICES["X"]).max() < _TINY


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
        on_bit = op.zmask == 1 << op.targets[0]
        factors = _absorb_constants(op.factors)
        op = replace(op, factors=factors)
        if factors[0].angle is None:
            matrix = factors[0].terms[0]
            op = replace(op, composition=None, factors=(), constant=matrix)
            if np.abs(matrix - PAULI_MATRICES["X"]).max() < _TINY:
                return [replace(op, kind=FLIP, constant=None)]
            if _is_diagonal(matrix) and on_bit:
                op = replace(op, kind=DIAGONAL, constant=np.diag(matrix))
        elif len(factors) == 1 and factors[0].word:
            return [_single_rotation(op, factors[0])]
        elif all(f.is_diagonal for f in factors) and on_bit:
            return [replace(op, kind=DIAGONAL, composition=PRODUCT_DIAGONAL)]
    if op.kind == DIAGONAL and op.constant is not None and np.all(op.constant == 1):
        return []
    return [op]


def _single_rotation(op: Operation, factor: Factor) -> Operation:
    letter = factor.word
    return replace(
        op,
        kind=PAULI,
        composition=ROTATION,
        factors=(replace(factor, eigenvalues=(factor.eigenvalues[0],), terms=np.zeros((0, 0))),),
        xmask=op.xmask if letter in "XY" else 0,
        zmask=op.zmask if letter in "YZ" else 0,
        num_y=int(letter == "Y"),
    )
