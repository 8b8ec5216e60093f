"""Program: a circuit reduced to gates, parameter slots and measurements.

A program is what capture hands to a device. It is frozen, hashable, picklable and knows neither PennyLane nor a
backend. Parameters that change from call to call live in :class:`Slots`; a program only refers to them:

* :class:`Angle` refers to one real number, a row of ``Slots.shared`` (one value for all samples) or of
  ``Slots.batched`` (one value a sample);
* :class:`ArrayRef` refers to one whole array of ``Slots.arrays`` (a unitary, a prepared state, a Hermitian matrix).

Wires are integers ``0 .. num_wires - 1``; wire 0 is the most significant bit of a basis-state index, and the first
wire of a gate is the most significant bit of its matrix index, as in PennyLane.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray


class Constant:
    """A read-only array that compares and hashes by content, so that frozen records may hold it."""

    __slots__ = ("_key", "array")

    def __init__(self, array: NDArray) -> None:
        self.array = np.array(array, order="C")
        self.array.flags.writeable = False
        self._key = (self.array.shape, self.array.dtype.str, self.array.tobytes())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constant) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"Constant{self.array.shape}"

    def __reduce__(self) -> tuple:
        return (Constant, (self.array,))


#: What the letters of Pauli words mean.
PAULI = {
    "X": np.array([[0, 1], [1, 0]], dtype=complex),
    "Y": np.array([[0, -1j], [1j, 0]]),
    "Z": np.array([[1, 0], [0, -1]], dtype=complex),
}


# ------------------------------------------------------------------ references to slots


@dataclass(frozen=True, slots=True)
class Angle:
    """Reference to one real parameter: row ``index`` of ``Slots.batched`` or of ``Slots.shared``."""

    index: int
    batched: bool = False


@dataclass(frozen=True, slots=True)
class ArrayRef:
    """Reference to the array ``Slots.arrays[index]``."""

    index: int


@dataclass(frozen=True, slots=True)
class ArraySlot:
    """What ``Slots.arrays[i]`` must look like: its shape without the batch axis, and whether it has one (in front)."""

    shape: tuple[int, ...]
    batched: bool = False


# ------------------------------------------------------------------ gates


@dataclass(frozen=True, slots=True)
class Fixed:
    """A constant matrix of shape ``(2**k, 2**k)``."""

    matrix: Constant


@dataclass(frozen=True, slots=True)
class PauliRotation:
    r"""``exp(-i scale theta / 2 P)`` for the Pauli word ``P``, one letter of ``XYZ`` a wire."""

    word: str
    angle: Angle
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class SpectralRotation:
    r"""``exp(i theta G)`` given by the spectrum of ``G``: ``sum_m exp(i eigenvalues[m] theta) projectors[m]``.

    ``projectors`` has shape ``(m, 2**k, 2**k)``; the eigenvalues are distinct and sorted.
    """

    eigenvalues: tuple[float, ...]
    projectors: Constant
    angle: Angle


@dataclass(frozen=True, slots=True)
class Evolution:
    r"""``exp(-i t sum_k c_k H_k)`` with trainable time and coefficients; ``terms`` is ``(K, 2**k, 2**k)``."""

    terms: Constant
    time: Angle | float
    coefficients: tuple[Angle | float, ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """A unitary given as an array slot of shape ``(2**k, 2**k)``, conjugate-transposed if ``adjoint``."""

    ref: ArrayRef
    adjoint: bool = False


@dataclass(frozen=True, slots=True)
class Diagonal:
    """A diagonal unitary given as an array slot of shape ``(2**k,)``, conjugated if ``adjoint``."""

    ref: ArrayRef
    adjoint: bool = False


@dataclass(frozen=True, slots=True)
class Channel:
    """Constant noise, ``rho -> sum_m K_m rho K_m^dagger``, given by its Kraus matrices ``(m, 2**k, 2**k)``."""

    kraus: Constant


Operator: TypeAlias = Fixed | PauliRotation | SpectralRotation | Evolution | Matrix | Diagonal | Channel


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate: an operator on target ``wires``, applied where ``controls`` read ``control_values``.

    A gate without wires is a (controlled) global phase: its operator is 1 x 1. The first ``classical`` of the controls
    keep outcomes of measurements: nothing acts on them later, and no result depends on the phases between them.
    """

    name: str
    wires: tuple[int, ...]
    operator: Operator
    controls: tuple[int, ...] = ()
    control_values: tuple[bool, ...] = ()
    classical: int = 0

    @property
    def angles(self) -> tuple[Angle, ...]:
        """The angles that this gate reads, in the order of its operator's fields."""
        op = self.operator
        if isinstance(op, PauliRotation | SpectralRotation):
            return (op.angle,)
        if isinstance(op, Evolution):
            return tuple(a for a in (op.time, *op.coefficients) if isinstance(a, Angle))
        return ()


@dataclass(frozen=True, slots=True)
class Preparation:
    """The initial state: amplitudes of shape ``(2**k,)`` on ``wires``, the other wires in ``|0>``."""

    wires: tuple[int, ...]
    amplitudes: ArrayRef


# ------------------------------------------------------------------ observables and measurements


@dataclass(frozen=True, slots=True)
class Term:
    """``coefficient`` times a Pauli word times matrices, all on disjoint wires.

    ``word`` pairs wires with letters of ``XYZ``; each entry of ``matrices`` pairs wires with a Hermitian matrix
    ``(2**k, 2**k)``. An empty term is the identity.
    """

    coefficient: float | Angle
    word: tuple[tuple[int, str], ...] = ()
    matrices: tuple[tuple[tuple[int, ...], Constant | ArrayRef], ...] = ()


@dataclass(frozen=True, slots=True)
class Observable:
    """A Hermitian sum of terms."""

    terms: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Expectation:
    """``<O>``, a scalar."""

    observable: Observable


@dataclass(frozen=True, slots=True)
class Variance:
    """``<O^2> - <O>^2``, a scalar."""

    observable: Observable


@dataclass(frozen=True, slots=True)
class Probabilities:
    """Probabilities ``(2**len(wires),)`` of the outcomes of ``wires`` after the fixed gates ``basis``."""

    wires: tuple[int, ...]
    basis: tuple[Gate, ...] = ()


@dataclass(frozen=True, slots=True)
class State:
    """The state vector ``(2**num_wires,)``, complex; exact execution only."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Outcomes ``(shots, len(wires))`` in {0, 1} of ``wires`` after the fixed gates ``basis``; needs shots."""

    wires: tuple[int, ...]
    basis: tuple[Gate, ...] = ()


Scalar: TypeAlias = Expectation | Variance
Tensor: TypeAlias = Probabilities | State | Samples


# ------------------------------------------------------------------ the program and its slots


@dataclass(frozen=True)
class Program:
    """A circuit, ready for a device.

    Args:
        num_wires: number of qubits
        gates: gates in the order of application
        scalars: measurements whose value is one real number; a device returns them together as one array
        tensors: all other measurements; a device returns one array for each
        preparation: amplitudes to start from, ``None`` for ``|0...0>``
        num_shared: rows of ``Slots.shared``
        num_batched: rows of ``Slots.batched``
        arrays: what each entry of ``Slots.arrays`` looks like
    """

    num_wires: int
    gates: tuple[Gate, ...]
    scalars: tuple[Scalar, ...] = ()
    tensors: tuple[Tensor, ...] = ()
    preparation: Preparation | None = None
    num_shared: int = 0
    num_batched: int = 0
    arrays: tuple[ArraySlot, ...] = ()

    @cached_property
    def _hash(self) -> int:
        return hash((self.num_wires, self.gates, self.scalars, self.tensors, self.preparation, self.arrays))

    def __hash__(self) -> int:
        return self._hash

    def interned(self) -> Program:
        """The first one that was made of all that are equal: finding it in a table of programs compares no gates."""
        known = _INTERNED.get(self)
        found = known() if known is not None else None
        if found is None:
            found = self
            _INTERNED[self] = weakref.ref(self)
        return found

    @cached_property
    def is_batched(self) -> bool:
        """Whether any slot has a batch axis; then every result has one too."""
        return self.num_batched > 0 or any(a.batched for a in self.arrays)

    @cached_property
    def channels(self) -> tuple[Gate, ...]:
        """The gates that are noise; with any of them the state is mixed."""
        return tuple(g for g in self.gates if isinstance(g.operator, Channel))

    def observables(self) -> Iterator[Observable]:
        """The observables of the scalar measurements, in order."""
        return (m.observable for m in self.scalars)

    def __str__(self) -> str:
        lines = [f"Program on {self.num_wires} wires: {self.num_shared} shared and {self.num_batched} batched angles"]
        lines += [f"  {_describe(g)}" for g in self.gates]
        lines += [f"  -> {type(m).__name__}" for m in (*self.scalars, *self.tensors)]
        return "\n".join(lines)


_INTERNED: weakref.WeakKeyDictionary[Program, weakref.ref[Program]] = weakref.WeakKeyDictionary()


def _describe(gate: Gate) -> str:
    controls = "".join(f" if {w}={int(v)}" for w, v in zip(gate.controls, gate.control_values, strict=True))
    angles = ", ".join(f"{'batched' if a.batched else 'shared'}[{a.index}]" for a in gate.angles)
    return f"{gate.name}({angles}) on {list(gate.wires)}{controls}"


@dataclass(frozen=True)
class Slots:
    """The parameters of one execution, or their cotangents.

    Args:
        shared: real, shape ``(num_shared,)``
        batched: real, shape ``(num_batched, batch)``; ``None`` if the program has no batched angles
        arrays: complex, each of the slot's shape, with the batch axis in front where the slot is batched
        batch_size: number of samples, ``None`` for an unbatched program. Zero is allowed.

    In memory the axes may be in either order, and an array may be a view of the user's, perhaps a read-only one: an
    executable never writes to it.

    In a record of cotangents an entry that was not asked for is ``None``. The cotangent ``c`` of a complex array
    ``z`` is the one with ``dL = Re(conj(c) dz)`` (PyTorch's convention).
    """

    shared: NDArray | None
    batched: NDArray | None = None
    arrays: tuple[NDArray | None, ...] = field(default=())
    batch_size: int | None = None
