"""Gates of a Program to PennyLane operations, by the names that PennyLane gives them.

Devices and noise models look at names, so an operation keeps its own wherever one of that name does the same; only
what has no name is a ``QubitUnitary``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, reduce
from typing import Any

import numpy as np
import pennylane as qml
from numpy.typing import NDArray
from pennylane.operation import Operator

from qhybrid.errors import CaptureError
from qhybrid.program import (
    PAULI,
    Channel,
    Diagonal,
    Evolution,
    Fixed,
    Gate,
    Matrix,
    PauliRotation,
    Program,
    SpectralRotation,
    State,
)
from qhybrid.tapes.parameters import (
    Block,
    EvolutionMatrix,
    Parameter,
    ScaledAngle,
    SlotArray,
    SlotMatrix,
    SpectralMatrix,
)

Labels = Sequence[Any]

#: Operations without parameters, by name; each is used only if its matrix is that of the gate.
_FIXED = {
    name: getattr(qml, name)
    for name in ("Hadamard", "PauliX", "PauliY", "PauliZ", "S", "T", "SX", "SWAP", "ISWAP", "SISWAP", "ECR")
}
#: Names under which a gate with a controlled matrix may come, and what they control.
_BASES = {
    "CNOT": "PauliX", "Toffoli": "PauliX", "MultiControlledX": "PauliX", "BasisState": "PauliX",
    "CY": "PauliY", "CZ": "PauliZ", "CCZ": "PauliZ", "CH": "Hadamard", "CSWAP": "SWAP", "SQISW": "SISWAP",
}  # fmt: skip
_ROTATIONS = {"X": qml.RX, "Y": qml.RY, "Z": qml.RZ, "XX": qml.IsingXX, "YY": qml.IsingYY, "ZZ": qml.IsingZZ}
#: Names of constant rotations, and the Pauli words that they may stand for.
_WORDS = {
    "RX": ("X",), "RY": ("Y",), "RZ": ("Z",), "Rot": ("Z", "Y", "X"),
    "CRX": ("X",), "CRY": ("Y",), "CRZ": ("Z",), "CRot": ("Z", "Y", "X"),
    "IsingXX": ("XX",), "IsingYY": ("YY",), "IsingZZ": ("ZZ",), "MultiRZ": ("Z", "ZZ", "ZZZ"),
}  # fmt: skip
#: Operations of one angle that are no Pauli rotations; each is used only if its matrix is that of the gate.
_SPECTRAL = {
    name: getattr(qml, name)
    for name in (
        "PhaseShift", "IsingXY", "SingleExcitation", "SingleExcitationPlus", "SingleExcitationMinus",
        "DoubleExcitation", "DoubleExcitationPlus", "DoubleExcitationMinus", "OrbitalRotation", "FermionicSWAP",
    )
}  # fmt: skip
_ALIASES = dict.fromkeys(("ControlledPhaseShift", "CPhase", "CPhaseShift", "U1"), "PhaseShift")
#: Operations that turn a letter into Z.
_TURNS: dict[str, Callable] = {"X": qml.Hadamard, "Y": lambda wire: qml.RX(np.pi / 2, wire)}


@dataclass(frozen=True, eq=False)
class TapeOperation:
    """One operation of a template.

    Args:
        operation: as it stands in a tape, at some value of its parameter
        parameter: where its data come from; ``None`` if they never change
    """

    operation: Operator
    parameter: Parameter | None = None


def rebound(operation: Operator, data: Any) -> Operator:
    """``operation`` with other data; everything else is shared, nothing is checked."""
    new = object.__new__(type(operation))
    new.__dict__.update(operation.__dict__)
    base = operation.__dict__.get("_hyperparameters", {}).get("base")
    if base is None:
        new.data = (data,)
    else:
        new._hyperparameters = {**operation._hyperparameters, "base": rebound(base, data)}
    return new


def tape_operations(program: Program, labels: Labels, expand_words: bool = False, seed: int = 0) -> list[TapeOperation]:
    """The operations of a program, in order.

    Args:
        program: its gates and its preparation
        labels: label of each wire
        expand_words: whether a rotation about a mixed Pauli word is a ``MultiRZ`` between changes of basis
        seed: of the values that parameters have in the template

    Raises:
        CaptureError: a gate does not act on qubits
    """
    rng = np.random.default_rng(seed)
    operations = []
    with qml.QueuingManager.stop_recording():
        prep = program.preparation
        if prep is not None:
            amplitudes = SlotArray(prep.amplitudes, program.arrays[prep.amplitudes.index])
            wires = [labels[w] for w in prep.wires]
            state = qml.StatePrep(amplitudes.example(rng), wires=wires, validate_norm=False)
            operations.append(TapeOperation(state, amplitudes))
        phases = any(isinstance(t, State) for t in program.tensors)
        for gate in program.gates:
            if not (gate.wires or gate.controls or phases):
                continue  # a global phase that nothing shows, and that not every device has
            made = _operation(gate, program, labels, rng)
            mixed = expand_words and _mixed_word(gate)
            operations += _expanded(gate, labels, rng) if mixed else [made]
    return operations


def constant_operations(gates: tuple[Gate, ...], labels: Labels) -> tuple[Operator, ...]:
    """The operations of fixed gates."""
    with qml.QueuingManager.stop_recording():
        return tuple(_fixed(g, labels) for g in gates)


def _operation(gate: Gate, program: Program, labels: Labels, rng: np.random.Generator) -> TapeOperation:
    op = gate.operator
    if isinstance(op, Fixed):
        return TapeOperation(_fixed(gate, labels))
    if isinstance(op, PauliRotation):
        return _rotation(gate, op, labels, rng)
    if isinstance(op, SpectralRotation):
        return _spectral(gate, op, labels, rng)
    if isinstance(op, Channel):
        return TapeOperation(qml.QubitChannel(list(op.kraus.array), wires=[labels[w] for w in gate.wires]))
    if isinstance(op, Evolution):
        block = Block.of(gate.control_values, op.terms.array.shape[-1])
        return _unitary(gate, EvolutionMatrix(op.terms, op.time, op.coefficients, block), labels, rng)
    block = Block.of(gate.control_values, 2 ** len(gate.wires))
    assert isinstance(op, Matrix | Diagonal)
    return _unitary(gate, SlotMatrix(op.ref, program.arrays[op.ref.index], op.adjoint, block), labels, rng)


def _unitary(gate: Gate, parameter: Parameter, labels: Labels, rng: np.random.Generator) -> TapeOperation:
    """A gate without a name: its controls become part of its matrix, so that one rule serves every device."""
    wires = [labels[w] for w in (*gate.controls, *gate.wires)]
    return TapeOperation(qml.QubitUnitary(parameter.example(rng), wires=wires, unitary_check=False), parameter)


def _controlled(base: Operator, gate: Gate, labels: Labels) -> Operator:
    if not gate.controls:
        return base
    return qml.ctrl(base, [labels[w] for w in gate.controls], control_values=list(gate.control_values))


# ------------------------------------------------------------------ gates of an angle


def _rotation(gate: Gate, op: PauliRotation, labels: Labels, rng: np.random.Generator) -> TapeOperation:
    parameter = ScaledAngle(op.angle, op.scale)
    base = _named_rotation(op.word, parameter.example(rng), [labels[w] for w in gate.wires])
    return TapeOperation(_controlled(base, gate, labels), parameter)


def _named_rotation(word: str, angle: Any, wires: list) -> Operator:
    if word in _ROTATIONS:
        return _ROTATIONS[word](angle, wires=wires)
    if set(word) == {"Z"}:
        return qml.MultiRZ(angle, wires=wires)
    return qml.PauliRot(angle, word, wires=wires)


def _mixed_word(gate: Gate) -> bool:
    op = gate.operator
    return isinstance(op, PauliRotation) and op.word not in _ROTATIONS and set(op.word) != {"Z"}


def _expanded(gate: Gate, labels: Labels, rng: np.random.Generator) -> list[TapeOperation]:
    """A rotation about a mixed word: the letters turned into Z, a ``MultiRZ``, the letters turned back."""
    assert isinstance(gate.operator, PauliRotation)
    letters = [(letter, labels[w]) for letter, w in zip(gate.operator.word, gate.wires, strict=True)]
    turns = [_TURNS[letter](wire) for letter, wire in letters if letter != "Z"]
    word = "Z" * len(letters)
    middle = _rotation(gate, replace(gate.operator, word=word), labels, rng)
    back = [qml.adjoint(t, lazy=False) for t in turns]
    return [*map(TapeOperation, turns), middle, *map(TapeOperation, back)]


def _spectral(gate: Gate, op: SpectralRotation, labels: Labels, rng: np.random.Generator) -> TapeOperation:
    if not gate.wires:
        return _phase(gate, op, labels, rng)
    found = _spectral_class(_base_name(gate.name), op.eigenvalues, op.projectors)
    if found is None:
        block = Block.of(gate.control_values, 2 ** len(gate.wires))
        return _unitary(gate, SpectralMatrix(op.eigenvalues, op.projectors, op.angle, block), labels, rng)
    kind, scale = found
    parameter = ScaledAngle(op.angle, scale)
    base = kind(parameter.example(rng), wires=[labels[w] for w in gate.wires])
    return TapeOperation(_controlled(base, gate, labels), parameter)


def _phase(gate: Gate, op: SpectralRotation, labels: Labels, rng: np.random.Generator) -> TapeOperation:
    """A global phase, or, with controls, a phase shift on one of them."""
    (eigenvalue,) = op.eigenvalues
    if not gate.controls:
        parameter = ScaledAngle(op.angle, -eigenvalue)
        return TapeOperation(qml.GlobalPhase(parameter.example(rng)), parameter)
    if True not in gate.control_values:
        block = Block.of(gate.control_values, 1)
        return _unitary(gate, SpectralMatrix(op.eigenvalues, op.projectors, op.angle, block), labels, rng)
    target = gate.control_values.index(True)
    parameter = ScaledAngle(op.angle, eigenvalue)
    base = qml.PhaseShift(parameter.example(rng), wires=labels[gate.controls[target]])
    rest = [k for k in range(len(gate.controls)) if k != target]
    if not rest:
        return TapeOperation(base, parameter)
    wires, values = [labels[gate.controls[k]] for k in rest], [gate.control_values[k] for k in rest]
    return TapeOperation(qml.ctrl(base, wires, control_values=values), parameter)


@lru_cache(maxsize=256)
def _spectral_class(name: str, eigenvalues: tuple[float, ...], projectors: Any) -> tuple[Callable, float] | None:
    """The operation of that name and the factor of its angle, if its matrix is that of the spectrum."""
    kind = _SPECTRAL.get(_ALIASES.get(name, name))
    if kind is None or 2**kind.num_wires != projectors.array.shape[-1]:
        return None
    for scale in (1.0, -1.0):
        if all(
            np.allclose(
                np.tensordot(np.exp(1j * theta * np.array(eigenvalues)), projectors.array, 1),
                kind.compute_matrix(np.array(scale * theta)),
            )
            for theta in (0.7, -2.3)
        ):
            return kind, scale
    return None


# ------------------------------------------------------------------ constant gates


def _base_name(name: str) -> str:
    """The name inside of ``C(...)`` and ``Adjoint(...)``."""
    while name.endswith(")") and name.startswith(("C(", "Adjoint(")):
        name = name[name.index("(") + 1 : -1]
    return name


def _fixed(gate: Gate, labels: Labels) -> Operator:
    assert isinstance(gate.operator, Fixed)
    matrix, wires = gate.operator.matrix.array, [labels[w] for w in gate.wires]
    if matrix.shape != (2 ** len(wires),) * 2:
        raise CaptureError(f"{gate.name} on {len(wires)} wires has a matrix of shape {matrix.shape}: not of qubits")
    base = _named_constant(_base_name(gate.name), matrix, wires)
    if base is not None:
        return _controlled(base, gate, labels)
    block = Block.of(gate.control_values, len(matrix))
    full = [labels[w] for w in (*gate.controls, *gate.wires)]
    return qml.QubitUnitary(block.embed(matrix.copy()), wires=full, unitary_check=False)


def _named_constant(name: str, matrix: NDArray, wires: list) -> Operator | None:
    """The operation of that name whose matrix it is, perhaps its adjoint."""
    kind = _FIXED.get(_BASES.get(name, name))
    if kind is not None:
        own = kind.compute_matrix()
        if own.shape == matrix.shape and np.allclose(own, matrix):
            return kind(wires=wires)
        if own.shape == matrix.shape and np.allclose(own.conj().T, matrix):
            return qml.adjoint(kind(wires=wires))
    for word in _WORDS.get(name, ()):
        angle = _rotation_angle(word, matrix)
        if angle is not None:
            return _named_rotation(word, angle, wires)
    if _ALIASES.get(name, name) == "PhaseShift" and np.allclose(matrix, np.diag([1, matrix[-1, -1]])):
        return qml.PhaseShift(np.angle(matrix[1, 1]), wires=wires)
    return None


def _rotation_angle(word: str, matrix: NDArray) -> float | None:
    """The angle at which the rotation about ``word`` has this matrix, ``None`` if there is none."""
    if matrix.shape != (2 ** len(word),) * 2:
        return None
    pauli = reduce(np.kron, (PAULI[letter] for letter in word))
    cosine, sine = np.trace(matrix) / len(matrix), 1j * np.trace(pauli @ matrix) / len(matrix)
    if not np.allclose(matrix, cosine.real * np.eye(len(matrix)) - 1j * sine.real * pauli):
        return None
    return float(2 * np.arctan2(sine.real, cosine.real))
