"""PennyLane observables and measurements to those of a Program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pennylane as qml
from pennylane import math
from pennylane.measurements import (
    CountsMP,
    ExpectationMP,
    MeasurementProcess,
    ProbabilityMP,
    SampleMeasurement,
    SampleMP,
    StateMeasurement,
    VarianceMP,
)
from pennylane.operation import Operator
from pennylane.ops import LinearCombination
from pennylane.ops.op_math import Prod, SProd, Sum

from qhybrid.capture.counting import counts, counts_outcomes
from qhybrid.capture.gates import MAX_DENSE_WIRES, WireMap, lower_operation, wire_indices
from qhybrid.capture.slots import SlotTable
from qhybrid.errors import CaptureError, CircuitError
from qhybrid.program import (
    ArrayRef,
    Constant,
    Expectation,
    Gate,
    Observable,
    Probabilities,
    Samples,
    Scalar,
    State,
    Tensor,
    Term,
    Variance,
)

MAX_MATRIX_OBSERVABLE_WIRES = 10


@dataclass(frozen=True)
class _Product:
    """A term under construction: the coefficient may still be a tracer."""

    coefficient: Any
    word: tuple[tuple[int, str], ...] = ()
    matrices: tuple[tuple[tuple[int, ...], Any], ...] = ()

    @property
    def wires(self) -> set[int]:
        return {w for w, _ in self.word} | {w for wires, _ in self.matrices for w in wires}


def lower_observable(obs: Operator, wire_map: WireMap, slots: SlotTable) -> Observable:
    """The Hermitian sum of Pauli words and matrices that ``obs`` is.

    Args:
        obs: a PennyLane observable; coefficients and matrices may be tracers or tensors
        wire_map: index of each wire label
        slots: receives what changes from call to call

    Raises:
        CaptureError: the observable is none of these and has no matrix of a practical size
    """
    return Observable(tuple(_finish(p, obs, slots) for p in _products(obs, wire_map)))


def _finish(product: _Product, obs: Operator, slots: SlotTable) -> Term:
    coefficient = product.coefficient
    if math.get_dtype_name(coefficient).startswith("complex"):
        if not slots.trainable(coefficient) and abs(complex(coefficient).imag) > 1e-12:
            raise CircuitError(
                f"The observable {obs} has the complex coefficient {complex(coefficient)}, so it is not Hermitian. "
                "Measure its real and imaginary parts separately."
            )
        coefficient = math.real(coefficient)
    matrices = tuple((wires, _matrix_entry(matrix, len(wires), slots)) for wires, matrix in product.matrices)
    return Term(slots.angle(coefficient), product.word, matrices)


def _matrix_entry(matrix: Any, num_wires: int, slots: SlotTable) -> Constant | ArrayRef:
    shape = (2**num_wires,) * 2
    if slots.varies(matrix) or math.ndim(matrix) > 2:
        return slots.array(matrix, shape)
    return Constant(np.asarray(matrix, dtype=complex))


def _products(obs: Operator, wire_map: WireMap) -> list[_Product]:
    """``obs`` as a sum of products; Pauli sentences first, since PennyLane knows most observables' own."""
    if obs.pauli_rep is not None:
        return [
            _Product(c, tuple((wire_indices([w], wire_map)[0], letter) for w, letter in word.items()))
            for word, c in obs.pauli_rep.items()
        ]
    if isinstance(obs, LinearCombination):
        coefficients, operators = obs.terms()
        return [_scaled(p, c) for c, o in zip(coefficients, operators, strict=True) for p in _products(o, wire_map)]
    if isinstance(obs, Sum):
        return [p for o in obs.operands for p in _products(o, wire_map)]
    if isinstance(obs, SProd):
        return [_scaled(p, obs.scalar) for p in _products(obs.base, wire_map)]
    if isinstance(obs, Prod):
        return _multiplied(obs, wire_map)
    wires = wire_indices(obs.wires, wire_map)
    if isinstance(obs, qml.ops.qubit.observables.BasisStateProjector):
        outcomes = {0: np.diag([1.0, 0.0]), 1: np.diag([0.0, 1.0])}
        return [_Product(1.0, (), tuple(((w,), outcomes[int(b)]) for w, b in zip(wires, obs.data[0], strict=True)))]
    return [_Product(1.0, (), ((wires, _dense(obs)),))]


def _scaled(product: _Product, factor: Any) -> _Product:
    return _Product(factor * product.coefficient, product.word, product.matrices)


def _multiplied(obs: Prod, wire_map: WireMap) -> list[_Product]:
    result = [_Product(1.0)]
    for operand in obs.operands:
        factors = _products(operand, wire_map)
        if any(a.wires & b.wires for a in result for b in factors):
            return [_Product(1.0, (), ((wire_indices(obs.wires, wire_map), _dense(obs)),))]
        result = [
            _Product(a.coefficient * b.coefficient, a.word + b.word, a.matrices + b.matrices)
            for a in result
            for b in factors
        ]
    return result


def _dense(obs: Operator) -> Any:
    if isinstance(obs, qml.Hermitian):
        return obs.data[0]
    if len(obs.wires) > MAX_MATRIX_OBSERVABLE_WIRES or not (obs.has_matrix or obs.has_sparse_matrix):
        raise CaptureError(f"observable {obs.name} on {len(obs.wires)} wires has no Pauli form and no practical matrix")
    if not obs.has_matrix:
        return obs.sparse_matrix(wire_order=obs.wires).toarray()
    return obs.matrix(wire_order=obs.wires)


# ------------------------------------------------------------------ measurements


@dataclass(frozen=True)
class ScalarOutput:
    """A measurement answered by entry ``index`` of the scalars of a result."""

    index: int


@dataclass(frozen=True)
class TensorOutput:
    """A measurement answered by one tensor of a result, after PennyLane's own post-processing if there is any.

    Args:
        index: which tensor, the scalars not counted
        measurement: the PennyLane measurement that makes its value from the tensor, ``None`` if the tensor is it
        wire_order: wire labels of the tensor
        from_samples: whether the tensor holds samples; otherwise it is the state
    """

    index: int
    measurement: MeasurementProcess | None = None
    wire_order: tuple = ()
    from_samples: bool = False

    def value(self, tensor: Any) -> Any:
        """The value of the measurement, in the host that ``tensor`` belongs to."""
        if self.measurement is None:
            return tensor
        wires = qml.wires.Wires(self.wire_order)
        if self.from_samples:
            samples = tensor if math.is_abstract(tensor) else math.toarray(tensor)
            if not math.is_abstract(samples) and counts_outcomes(self.measurement, samples.shape[-1]):
                return counts(samples, self.measurement.all_outcomes)
            found = self.measurement.process_samples(samples, wire_order=wires)
            is_final = math.is_abstract(tensor) or not isinstance(found, np.ndarray)
            return found if is_final else math.asarray(found, like=math.get_interface(tensor))
        return self.measurement.process_state(tensor, wire_order=wires)


Output = ScalarOutput | TensorOutput


class MeasurementTable:
    """Collects the measurements of a program and remembers which result answers which PennyLane measurement."""

    def __init__(self, wire_map: WireMap, slots: SlotTable, with_shots: bool) -> None:
        self.wire_map, self.slots, self.with_shots = wire_map, slots, with_shots
        self.scalars: list[Scalar] = []
        self.tensors: list[Tensor] = []

    def add(self, mp: MeasurementProcess) -> Output:
        """Lower one PennyLane measurement.

        Raises:
            CaptureError: a compiled circuit cannot answer it
        """
        if isinstance(mp, ExpectationMP | VarianceMP):
            observable = self._observable(mp)
            self.scalars.append(Expectation(observable) if isinstance(mp, ExpectationMP) else Variance(observable))
            return ScalarOutput(len(self.scalars) - 1)
        if isinstance(mp, ProbabilityMP):
            return TensorOutput(self._tensor(Probabilities(self._wires(mp), self._basis(mp))))
        if isinstance(mp, SampleMeasurement) and self.with_shots:
            labels = self._sampled_labels(mp)
            index = self._tensor(Samples(wire_indices(labels, self.wire_map), self._basis(mp)))
            return TensorOutput(index, mp, labels, from_samples=True)
        if isinstance(mp, SampleMP | CountsMP):
            raise CircuitError(f"{mp} needs shots. Set them with qml.set_shots(circuit, shots=1000).")
        if isinstance(mp, StateMeasurement) and not self.with_shots:
            wires = tuple(self.wire_map)
            plain = type(mp) is qml.measurements.StateMP and not mp.wires
            return TensorOutput(self._tensor(State()), None if plain else mp, wires)
        if isinstance(mp, StateMeasurement):
            raise CircuitError(f"{mp} is only known exactly, not from shots. Remove the shots from the circuit.")
        raise CaptureError(f"measurement {type(mp).__name__} is not compiled")

    def _tensor(self, tensor: Tensor) -> int:
        if tensor not in self.tensors:
            self.tensors.append(tensor)
        return self.tensors.index(tensor)

    def _observable(self, mp: MeasurementProcess) -> Observable:
        if mp.obs is not None:
            return lower_observable(mp.obs, self.wire_map, self.slots)
        wires = wire_indices(mp.wires, self.wire_map)
        if len(wires) > MAX_DENSE_WIRES:
            raise CaptureError(f"{mp} gives eigenvalues of {len(wires)} wires without an observable")
        # PennyLane orders the wires of a measurement value by random ids: a trace needs an order that stays.
        eigenvalues = np.asarray(mp.eigvals(), dtype=complex).reshape((2,) * len(wires))
        matrix = np.diag(eigenvalues.transpose(np.argsort(wires)).reshape(-1))
        return Observable((Term(1.0, (), ((tuple(sorted(wires)), Constant(matrix)),)),))

    def _wires(self, mp: MeasurementProcess) -> tuple[int, ...]:
        return wire_indices(mp.wires or self.wire_map, self.wire_map)

    def _sampled_labels(self, mp: MeasurementProcess) -> tuple:
        if mp.mv is not None:  # its own order is random, and the measurement finds its columns by label
            return tuple(sorted(mp.wires, key=self.wire_map.__getitem__))
        return tuple(mp.wires) or tuple(self.wire_map)

    def _basis(self, mp: MeasurementProcess) -> tuple[Gate, ...]:
        if mp.obs is None:
            return ()
        if any(self.slots.trainable(p) for p in mp.obs.data):
            raise CaptureError(f"{mp} is measured in a basis that changes from call to call")
        constants = SlotTable(lambda value: False)
        with qml.QueuingManager.stop_recording():
            rotations = mp.obs.diagonalizing_gates()
        return tuple(g for op in rotations for g in lower_operation(op, self.wire_map, constants))
