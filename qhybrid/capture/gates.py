"""PennyLane operations to gates of a Program.

Four rules carry most of PennyLane's operations: a controlled operation is its base with controls, an adjoint is its
base reversed, a one-parameter operation with a generator is the exponential of its spectrum, and anything else is what
it decomposes into. Only what these rules cannot say is listed by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache, reduce
from typing import Any

import numpy as np
import pennylane as qml
from pennylane import math
from pennylane.operation import Operator
from pennylane.ops.op_math import Adjoint, Controlled, Exp, Pow, Prod
from pennylane.ops.op_math.evolution import Evolution as EvolutionOp

from qhybrid.capture.slots import SlotTable
from qhybrid.errors import CaptureError, CircuitError
from qhybrid.program import (
    PAULI,
    Angle,
    Channel,
    Constant,
    Diagonal,
    Evolution,
    Fixed,
    Gate,
    Matrix,
    PauliRotation,
    SpectralRotation,
)
from qhybrid.validation import check_phases, check_unitary, is_unitary

#: Widest operation that is given to a device as one dense matrix.
MAX_DENSE_WIRES = 8
#: Widest parameter-free operation that is a matrix rather than its decomposition.
MAX_FIXED_WIRES = 3
#: Widest one-parameter operation that is taken from the spectrum of its generator.
MAX_SPECTRAL_WIRES = 4

PAULI_WORDS = {"RX": "X", "RY": "Y", "RZ": "Z", "IsingXX": "XX", "IsingYY": "YY", "IsingZZ": "ZZ"}

WireMap = Mapping[Any, int]


def wire_indices(wires: Any, wire_map: WireMap) -> tuple[int, ...]:
    """Indices of wire labels; an unknown label is an error that lists the known ones."""
    try:
        return tuple(wire_map[w] for w in wires)
    except KeyError as unknown:
        raise qml.wires.WireError(
            f"Wire {unknown.args[0]!r} is not on the device; its wires are {list(wire_map)}. "
            "Use one of these, or make the device without `wires` to let the circuit decide."
        ) from None


def lower_operation(op: Operator, wire_map: WireMap, slots: SlotTable) -> list[Gate]:
    """The gates that ``op`` consists of, in the order of application.

    Args:
        op: a PennyLane operation; its parameters may be tracers or tensors of any host
        wire_map: index of each wire label
        slots: receives the parameters that change from call to call

    Raises:
        CaptureError: the operation is neither known, nor decomposable, nor a small constant matrix
    """
    rule = next((rule for kind, rule in _STRUCTURAL if isinstance(op, kind)), None) or _BY_NAME.get(op.name)
    if rule is not None:
        return rule(op, wire_map, slots)
    wires = wire_indices(op.wires, wire_map)
    if not op.data and len(wires) <= MAX_FIXED_WIRES and op.has_matrix:  # num_params is not always their number
        return [_fixed(op, wires)]
    if _is_spectral(op):
        return _spectral(op, wires, slots)
    if op.has_decomposition:
        with qml.QueuingManager.stop_recording():
            parts = op.decomposition()
        return _concatenate(parts, wire_map, slots)
    if op.has_matrix and len(wires) <= MAX_DENSE_WIRES and not any(slots.trainable(p) for p in op.data):
        return [_fixed(op, wires)]
    raise CaptureError(f"{op.name} on wires {list(op.wires)} has no decomposition that a compiled circuit can use")


def _concatenate(ops: Any, wire_map: WireMap, slots: SlotTable) -> list[Gate]:
    return [gate for op in ops for gate in lower_operation(op, wire_map, slots)]


def _fixed(op: Operator, wires: tuple[int, ...]) -> Gate:
    matrix = np.asarray(math.unwrap([op.matrix(wire_order=op.wires)])[0], dtype=complex)
    if not is_unitary(matrix):
        raise CaptureError(f"{op.name} on wires {list(op.wires)} is not a unitary gate of a compiled circuit")
    return Gate(op.name, wires, Fixed(Constant(matrix)))


# ------------------------------------------------------------------ structural rules


def _channel(op: qml.operation.Channel, wire_map: WireMap, slots: SlotTable) -> list[Gate]:
    if any(slots.trainable(p) for p in op.data):
        raise CaptureError(f"the strength of {op.name} changes from call to call")
    kraus = np.stack([np.asarray(math.toarray(k), dtype=complex) for k in op.kraus_matrices()])
    return [Gate(op.name, wire_indices(op.wires, wire_map), Channel(Constant(kraus)))]


def _nothing(op: Operator, wire_map: WireMap, slots: SlotTable) -> list[Gate]:
    wire_indices(op.wires, wire_map)
    return []


def _controlled(op: Controlled, wire_map: WireMap, slots: SlotTable) -> list[Gate]:
    if isinstance(op.base, qml.operation.Channel):
        raise CaptureError(f"{op.name} is controlled noise")
    controls = wire_indices(op.control_wires, wire_map)
    values = tuple(bool(v) for v in op.control_values)
    return [
        replace(
            g,
            name=op.name if g.operator and len(op.wires) == len(controls) + len(g.wires) else f"C({g.name})",
            controls=controls + g.controls,
            control_values=values + g.control_values,
        )
        for g in lower_operation(op.base, wire_map, slots)
    ]


def _adjoint(op: Adjoint, wire_map: WireMap, slots: SlotTable) -> list[Gate]:
    return [inverse(g) for g in reversed(lower_operation(op.base, wire_map, slots))]


def inverse(gate: Gate) -> Gate:
    """The gate that undoes ``gate``, reading the same slots."""
    op = gate.operator
    match op:
        case Fixed(matrix):
            undone: Any = Fixed(Constant(matrix.array.conj().T))
        case PauliRotation():
            undone = replace(op, scale=-op.scale)
        case SpectralRotation():
            order = np.argsort(-np.array(op.eigenvalues))
            undone = SpectralRotation(
                tuple(-op.eigenvalues[i] for i in order), Constant(op.projectors.array[order]), op.angle
            )
        case Evolution():
            undone = replace(op, terms=Constant(-op.terms.array))
        case Matrix() | Diagonal():
            undone = replace(op, adjoint=not op.adjoint)
        case Channel():
            raise CaptureError(f"{gate.name} is noise, which has no inverse")
    return replace(gate, name=f"Adjoint({gate.name})", operator=undone)


def _pow(op: Pow, wire_map: WireMap, slots: SlotTable) -> list[Gate]:
    if slots.trainable(op.z):
        raise CaptureError(f"{op.name}: the exponent changes from call to call")
    try:
        with qml.QueuingManager.stop_recording():
            return _concatenate(op.base.pow(op.z), wire_map, slots)
    except qml.exceptions.PowUndefinedError:
        pass  # PennyLane's way to say that this base has no special rule for powers
    if float(op.z).is_integer():
        gates = lower_operation(op.base, wire_map, slots)
        return gates * int(op.z) if op.z >= 0 else [inverse(g) for g in reversed(gates)] * int(-op.z)
    if len(op.wires) <= MAX_DENSE_WIRES and not any(slots.trainable(p) for p in op.data):
        return [_fixed(op, wire_indices(op.wires, wire_map))]
    raise CaptureError(f"{op.name}: a fractional power of an operation with parameters")


def _product(op: Prod, wire_map: WireMap, slots: SlotTable) -> list[Gate]:
    return _concatenate(reversed(op.operands), wire_map, slots)


def _refused(op: Operator, wire_map: WireMap, slots: SlotTable) -> list[Gate]:
    raise CaptureError(f"{op.name} is not a unitary gate of a compiled circuit")


def _exponential(op: Exp, wire_map: WireMap, slots: SlotTable) -> list[Gate]:
    """``exp(coeff * base)`` with an imaginary ``coeff``: evolution under the Hermitian ``base``."""
    if isinstance(op, EvolutionOp):
        return _evolution(op, op.param, wire_map, slots)
    if not math.allclose(math.real(op.coeff), 0.0):
        raise CaptureError(f"{op.name} has a real part in its exponent, so it is not unitary")
    return _evolution(op, -math.imag(op.coeff), wire_map, slots)


def _evolution(op: Exp, time: Any, wire_map: WireMap, slots: SlotTable) -> list[Gate]:
    sentence = op.base.pauli_rep
    if sentence is not None and len(sentence) == 1:
        ((word, coefficient),) = sentence.items()
        if not word:
            phase = SpectralRotation((-1.0,), Constant(np.ones((1, 1, 1))), _slot(slots, time * _real(coefficient)))
            return [Gate("GlobalPhase", (), phase)]
        return [
            _pauli_rotation(
                op.name, tuple(word.values()), wire_indices(word, wire_map), time * _real(coefficient), slots, scale=2.0
            )
        ]
    if len(op.wires) > MAX_DENSE_WIRES:
        raise CaptureError(
            f"{op.name} acts on {len(op.wires)} wires; exact evolution is compiled up to {MAX_DENSE_WIRES}"
        )
    wires = wire_indices(op.wires, wire_map)
    if sentence is None or not any(slots.trainable(c) for c in sentence.values()):
        if any(slots.trainable(p) for p in op.base.data):
            raise CaptureError(f"{op.name}: the matrix of the generator changes from call to call")
        hamiltonian = np.asarray(op.base.matrix(wire_order=op.wires), dtype=complex)
        return [_spectral_gate(op.name, wires, -hamiltonian, time, slots)]
    terms = np.stack([word.to_mat(wire_order=op.wires) for word in sentence])
    coefficients = tuple(slots.angle(_real(c)) for c in sentence.values())
    return [Gate(op.name, wires, Evolution(Constant(terms), slots.angle(time), coefficients))]


def _real(value: Any) -> Any:
    return math.real(value) if math.get_dtype_name(value).startswith("complex") else value


def _slot(slots: SlotTable, value: Any) -> Angle:
    """A slot also for a value that never changes."""
    angle = slots.angle(value, constant=False)
    assert isinstance(angle, Angle)
    return angle


# ------------------------------------------------------------------ rules by name


def _pauli_rotation(
    name: str, word: tuple[str, ...], wires: tuple[int, ...], angle: Any, slots: SlotTable, scale: float = 1.0
) -> Gate:
    pairs = [(letter, wire) for letter, wire in zip(word, wires, strict=True) if letter != "I"]
    letters, targets = "".join(p[0] for p in pairs), tuple(p[1] for p in pairs)
    if not pairs:
        phase = SpectralRotation((-0.5 * scale,), Constant(np.ones((1, 1, 1))), _slot(slots, angle))
        return Gate(name, (), phase)
    theta = slots.angle(angle, constant=len(pairs) <= MAX_FIXED_WIRES)
    if isinstance(theta, Angle):
        return Gate(name, targets, PauliRotation(letters, theta, scale))
    pauli = reduce(np.kron, (PAULI[c] for c in letters))
    half = 0.5 * scale * theta
    matrix = np.cos(half) * np.eye(len(pauli)) - 1j * np.sin(half) * pauli
    return Gate(name, targets, Fixed(Constant(matrix)))


def _named_rotation(op: Operator, wire_map: WireMap, slots: SlotTable) -> list[Gate]:
    wires = wire_indices(op.wires, wire_map)
    if op.name == "MultiRZ":
        word = "Z" * len(wires)
    else:
        word = PAULI_WORDS.get(op.name) or op.hyperparameters["pauli_word"]
    return [_pauli_rotation(op.name, tuple(word), wires, op.data[0], slots)]


def _rot(op: Operator, wire_map: WireMap, slots: SlotTable) -> list[Gate]:
    wires = wire_indices(op.wires, wire_map)
    return [
        _pauli_rotation("Rot", (letter,), wires, angle, slots) for letter, angle in zip("ZYZ", op.data, strict=True)
    ]


def _global_phase(op: Operator, wire_map: WireMap, slots: SlotTable) -> list[Gate]:
    wire_indices(op.wires, wire_map)
    return [Gate(op.name, (), SpectralRotation((-1.0,), Constant(np.ones((1, 1, 1))), _slot(slots, op.data[0])))]


def _qubit_unitary(op: Operator, wire_map: WireMap, slots: SlotTable) -> list[Gate]:
    wires = wire_indices(op.wires, wire_map)
    if len(wires) > MAX_DENSE_WIRES:
        raise CaptureError(
            f"{op.name} acts on {len(wires)} wires; dense unitaries are compiled up to {MAX_DENSE_WIRES}"
        )
    diagonal = op.name == "DiagonalQubitUnitary"
    shape = (2 ** len(wires),) * (1 if diagonal else 2)
    entries = op.data[0]
    if math.shape(entries)[-len(shape) :] != shape:
        raise CircuitError(
            f"{op.name} on wires {list(op.wires)} got an array of shape {tuple(math.shape(entries))}; "
            f"expected {shape}, with at most one batch axis in front."
        )
    if slots.varies(entries) or math.ndim(entries) > len(shape):
        ref = slots.array(entries, shape)
        return [Gate(op.name, wires, Diagonal(ref) if diagonal else Matrix(ref))]
    matrix = np.asarray(entries, dtype=complex)
    (check_phases if diagonal else check_unitary)(f"{op.name} on wires {list(op.wires)}", matrix)
    return [Gate(op.name, wires, Fixed(Constant(np.diag(matrix) if diagonal else matrix)))]


# ------------------------------------------------------------------ one-parameter operations from their spectrum


def _is_spectral(op: Operator) -> bool:
    return (
        op.num_params == 1
        and len(op.wires) <= MAX_SPECTRAL_WIRES
        and op.has_generator
        and op.has_matrix
        and math.ndim(op.data[0]) <= 1
        and op.ndim_params == (0,)
    )


def _spectral(op: Operator, wires: tuple[int, ...], slots: SlotTable) -> list[Gate]:
    hyperparameters = tuple(sorted((k, repr(v)) for k, v in op.hyperparameters.items()))
    kind: Any = type(op)
    generator = _generator(kind, len(wires), hyperparameters, _Hidden(op))
    return [_spectral_gate(op.name, wires, generator, op.data[0], slots)]


class _Hidden:
    """Carries an operation past a cache key: the class, width and hyperparameters already say what it is."""

    def __init__(self, op: Operator) -> None:
        self.op = op

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hidden)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=256)
def _generator(kind: type, num_wires: int, hyperparameters: tuple, hidden: _Hidden) -> np.ndarray:
    """The matrix ``G`` of ``op = exp(i theta G)``, checked against the operation's own matrix."""
    op = hidden.op
    with qml.QueuingManager.stop_recording():
        generator = np.asarray(qml.matrix(op.generator(), wire_order=op.wires), dtype=complex)
        eigenvalues, vectors = np.linalg.eigh(generator)
        for theta in (0.7, -2.3):
            expected = np.asarray(qml.ops.functions.bind_new_parameters(op, [theta]).matrix(wire_order=op.wires))
            got = (vectors * np.exp(1j * theta * eigenvalues)) @ vectors.conj().T
            if not np.allclose(got, expected, atol=1e-10):
                raise CaptureError(f"{op.name} is not the exponential of its generator")
    return generator


def _spectral_gate(name: str, wires: tuple[int, ...], generator: np.ndarray, angle: Any, slots: SlotTable) -> Gate:
    eigenvalues, projectors = spectrum(generator)
    theta = slots.angle(angle)
    if isinstance(theta, Angle):
        return Gate(name, wires, SpectralRotation(eigenvalues, Constant(projectors), theta))
    matrix = np.tensordot(np.exp(1j * theta * np.array(eigenvalues)), projectors, 1)
    return Gate(name, wires, Fixed(Constant(matrix)))


def spectrum(hermitian: np.ndarray) -> tuple[tuple[float, ...], np.ndarray]:
    """Distinct eigenvalues, sorted, and the projectors ``(m, d, d)`` on their eigenspaces."""
    eigenvalues, vectors = np.linalg.eigh(hermitian)
    eigenvalues = np.round(eigenvalues, 12) + 0.0
    starts = np.flatnonzero(np.diff(eigenvalues, prepend=-np.inf) > 1e-9)
    groups = np.split(np.arange(len(eigenvalues)), starts[1:])
    projectors = np.stack([vectors[:, g] @ vectors[:, g].conj().T for g in groups])
    return tuple(float(eigenvalues[g].mean()) for g in groups), projectors


Rule = Callable[[Any, WireMap, SlotTable], list[Gate]]

_STRUCTURAL: tuple[tuple[Any, Rule], ...] = (
    ((qml.Barrier, qml.Identity, qml.WireCut, qml.Snapshot), _nothing),
    (qml.ops.MidMeasure, _refused),
    (qml.ops.Conditional, _refused),
    (qml.operation.Channel, _channel),
    (Controlled, _controlled),
    (Adjoint, _adjoint),
    (Pow, _pow),
    (Prod, _product),
    (Exp, _exponential),
)

_BY_NAME: dict[str, Rule] = {
    **dict.fromkeys((*PAULI_WORDS, "MultiRZ", "PauliRot"), _named_rotation),
    "Rot": _rot,
    "GlobalPhase": _global_phase,
    "QubitUnitary": _qubit_unitary,
    "DiagonalQubitUnitary": _qubit_unitary,
}
