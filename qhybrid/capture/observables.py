"""PennyLane observables and measurements to those of a Program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
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
from qhybrid.capture.deferral import Deferral, spectrum_of_bits, z_words
from qhybrid.capture.gates import MAX_DENSE_WIRES, WireMap, lower_operation, wire_indices
from qhybrid.capture.postselection import (
    MAX_POSTSELECTED,
    RARE,
    PostselectedProbabilities,
    PostselectedScalar,
    passing,
    project_state,
    projector,
    projector_factors,
)
from qhybrid.capture.slots import SlotTable
from qhybrid.errors import CaptureError, CircuitError, NeedsShotsError
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
    return _finished(_products(obs, wire_map), obs, slots)


def _finished(products: list[_Product], obs: Any, slots: SlotTable) -> Observable:
    return Observable(tuple(_finish(p, obs, slots) for p in products))


def _finish(product: _Product, obs: Any, slots: SlotTable) -> Term:
    coefficient = product.coefficient
    if math.get_dtype_name(coefficient).startswith("complex"):
        if not slots.trainable(coefficient) and abs(complex(coefficient).imag) > 1e-12:
            raise CircuitError(
                f"The observable {obs} has the complex coefficient {complex(coefficient)}, so it is not Hermitian. "
                "Measure its real and imaginary parts separately."
            )
        coefficient = math.real(coefficient)
    matrices = tuple((wires, _matrix_entry(matrix, len(wires), slots)) for wires, matrix in product.matrices)
    # That of a word which nobody has scaled does not change, even where nothing is known of what does.
    is_unit = isinstance(coefficient, int | float) and coefficient == 1
    return Term(1.0 if is_unit else slots.angle(coefficient), product.word, matrices)


def _matrix_entry(matrix: Any, num_wires: int, slots: SlotTable) -> Constant | ArrayRef:
    shape = (2**num_wires,) * 2
    if slots.varies(matrix) or math.ndim(matrix) > 2:
        return slots.array(matrix, shape)
    return Constant(np.asarray(matrix, dtype=complex))


def _products(obs: Operator, wire_map: WireMap) -> list[_Product]:
    """``obs`` as a sum of products; Pauli sentences first, since PennyLane knows most observables' own."""
    if obs.pauli_rep is not None:
        return _sentence(obs.pauli_rep, wire_map)
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


def _sentence(sentence: qml.pauli.PauliSentence, wire_map: WireMap) -> list[_Product]:
    return [
        _Product(c, tuple((wire_indices([w], wire_map)[0], letter) for w, letter in word.items()))
        for word, c in sentence.items()
    ]


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


def _squared(obs: Operator, wire_map: WireMap) -> list[_Product]:
    """The square of an observable."""
    if obs.pauli_rep is not None:
        return _sentence(obs.pauli_rep @ obs.pauli_rep, wire_map)
    matrix = _dense(obs)
    return [_Product(1.0, (), ((wire_indices(obs.wires, wire_map), matrix @ matrix),))]


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

    def value(self, scalars: Sequence[Any], tensors: Sequence[Any], rare: float = RARE) -> Any:
        """The value of the measurement, in the host that the results belong to."""
        return scalars[self.index]


@dataclass(frozen=True)
class TensorOutput:
    """A measurement answered by one tensor of a result, after PennyLane's own post-processing if there is any.

    Args:
        index: which tensor, the scalars not counted
        measurement: the PennyLane measurement that makes its value from the tensor, ``None`` if the tensor is it
        wire_order: wire labels of the state, or of the first columns of the samples
        from_samples: whether the tensor holds samples; otherwise it is the state
        postselected: outcomes that are given, of columns of the samples or of wires of the state
    """

    index: int
    measurement: MeasurementProcess | None = None
    wire_order: tuple = ()
    from_samples: bool = False
    postselected: tuple[tuple[int, bool], ...] = ()

    def value(self, scalars: Sequence[Any], tensors: Sequence[Any], rare: float = RARE) -> Any:
        """The value of the measurement, in the host that the results belong to."""
        tensor = tensors[self.index]
        if self.measurement is None:
            return tensor
        if self.from_samples:
            return self._of_samples(tensor, self.measurement)
        if self.postselected:
            tensor = project_state(tensor, dict(self.postselected), len(self.wire_order), rare)
        return self.measurement.process_state(tensor, wire_order=qml.wires.Wires(self.wire_order))

    def _of_samples(self, tensor: Any, measurement: MeasurementProcess) -> Any:
        samples = tensor if math.is_abstract(tensor) else math.toarray(tensor)
        if self.postselected:
            if samples.ndim > 2 and not isinstance(measurement, CountsMP):
                raise CircuitError(
                    f"{measurement} of a batch has another number of samples that pass the postselection for each of "
                    "them. Return expectation values, probabilities or counts, or call the circuit sample by sample."
                )
            if samples.ndim > 2:
                return [self._of_samples(s, measurement) for s in samples]
            samples = passing(samples, self.postselected)[:, : len(self.wire_order)]
        if not math.is_abstract(samples) and counts_outcomes(measurement, samples.shape[-1]):
            return counts(samples, measurement.all_outcomes)
        found = measurement.process_samples(samples, wire_order=qml.wires.Wires(self.wire_order))
        is_final = math.is_abstract(tensor) or not isinstance(found, np.ndarray)
        return found if is_final else math.asarray(found, like=math.get_interface(tensor))


Output = ScalarOutput | TensorOutput | PostselectedScalar | PostselectedProbabilities


class MeasurementTable:
    """Collects the measurements of a program and remembers which result answers which PennyLane measurement.

    Args:
        deferral: the wires of labels and of outcomes at the end of the circuit
        slots: receives what changes from call to call
        with_shots: whether results are estimated from samples
    """

    def __init__(self, deferral: Deferral, slots: SlotTable, with_shots: bool) -> None:
        self.deferral, self.slots, self.with_shots = deferral, slots, with_shots
        self.wire_map, self.postselected = deferral.wire_map, deferral.postselected
        self.scalars: list[Scalar] = []
        self.tensors: list[Tensor] = []
        self._norm: int | None = None
        if len(self.postselected) > MAX_POSTSELECTED:
            raise CaptureError(f"{len(self.postselected)} outcomes are postselected, more than {MAX_POSTSELECTED}")

    def add(self, mp: MeasurementProcess) -> Output:
        """Lower one PennyLane measurement.

        Raises:
            CaptureError: a compiled circuit cannot answer it
        """
        if isinstance(mp, ExpectationMP | VarianceMP):
            return self._scalar_output(mp)
        if isinstance(mp, ProbabilityMP):
            return self._probabilities(mp)
        if isinstance(mp, SampleMeasurement) and self.with_shots:
            return self._samples(mp)
        if isinstance(mp, SampleMP | CountsMP):
            raise NeedsShotsError(f"{mp} needs shots. Set them with qml.set_shots(circuit, shots=1000).")
        if isinstance(mp, StateMeasurement) and not self.with_shots:
            return self._state(mp)
        if isinstance(mp, StateMeasurement):
            raise CircuitError(f"{mp} is only known exactly, not from shots. Remove the shots from the circuit.")
        raise CaptureError(f"measurement {type(mp).__name__} is not compiled")

    # ------------------------------------------------------------------ expectation values and variances

    def _scalar_output(self, mp: ExpectationMP | VarianceMP) -> Output:
        kind = Expectation if isinstance(mp, ExpectationMP) else Variance
        products = self._products(mp)
        if not self.postselected:
            return ScalarOutput(self._scalar(kind(_finished(products, mp, self.slots))))
        if kind is Variance and self.with_shots and not _share_basis(products):
            raise CircuitError(
                "The variance of a sum whose terms need different measurement bases cannot be sampled. Measure the "
                "terms separately, or remove the shots."
            )
        if self._norm is None:  # first, so that it is read from the samples that most of the others are read from
            self._norm = self._moment([_Product(1.0)], mp)
        moment = self._moment(products, mp)
        square = self._moment(self._products(mp, squared=True), mp) if kind is Variance else None
        return PostselectedScalar(moment, self._norm, square)

    def _moment(self, products: list[_Product], mp: MeasurementProcess) -> int:
        """The expectation value of a sum of products and the projector on the postselected outcomes.

        As a matrix the projector makes zeros of what does not pass, so a small moment is as accurate as a large one.
        Words of Z, which can be read from samples, leave the rounding errors of one.
        """
        if not self.with_shots:
            factors = projector_factors(self.postselected)
            exact = [replace(p, matrices=p.matrices + factors) for p in products]
            return self._scalar(Expectation(_finished(exact, mp, self.slots)))
        projected = [
            replace(p, coefficient=p.coefficient * c, word=p.word + word)
            for p in products
            for c, word in projector(self.postselected)
        ]
        return self._scalar(Expectation(_finished(projected, mp, self.slots)))

    def _scalar(self, scalar: Scalar) -> int:
        self.scalars.append(scalar)
        return len(self.scalars) - 1

    def _products(self, mp: MeasurementProcess, squared: bool = False) -> list[_Product]:
        """What an expectation value or variance is of, or its square."""
        if mp.obs is not None:
            return (_squared if squared else _products)(mp.obs, self.wire_map)
        if mp.mv is not None:
            wires, values = self.deferral.outcomes(mp.mv)
        else:
            wires, values = wire_indices(mp.wires, self.wire_map), list(mp.eigvals())
        if len(wires) > MAX_DENSE_WIRES:
            raise CaptureError(f"{mp} gives eigenvalues of {len(wires)} wires without an observable")
        numbers = [v * 1.0 for v in values]
        coefficients = spectrum_of_bits([v * v for v in numbers] if squared else numbers)
        return [_Product(c, word) for c, word in zip(coefficients, z_words(wires), strict=True)]

    # ------------------------------------------------------------------ outcomes and states

    def _probabilities(self, mp: ProbabilityMP) -> Output:
        mp, wires = self._outcome_wires(mp)
        if not self.postselected:
            return TensorOutput(self._tensor(Probabilities(wires, self._basis(mp))))
        others = tuple(w for w in wires if w not in self.postselected)
        index = self._tensor(Probabilities((*self.postselected, *others), self._basis(mp)))
        outcome = int("".join(str(int(b)) for b in self.postselected.values()), 2)
        places = []
        for bits in product((0, 1), repeat=len(wires)):
            given = dict(zip(wires, bits, strict=True))
            agrees = all(given.get(w, b) == b for w, b in self.postselected.items())
            places.append(sum(given[w] << k for k, w in enumerate(reversed(others))) if agrees else -1)
        return PostselectedProbabilities(index, outcome, 2 ** len(others), tuple(places))

    def _samples(self, mp: SampleMeasurement) -> Output:
        mp, wires = self._outcome_wires(mp)
        labels: tuple[Any, ...] = tuple(mp.wires) or tuple(self.wire_map)
        if mp.mv is not None:  # PennyLane's order is random, and the measurement finds its columns by label
            wires = labels = tuple(sorted(wires))
        columns = (*wires, *(w for w in self.postselected if w not in wires))
        index = self._tensor(Samples(columns, self._basis(mp)))
        given = tuple((columns.index(w), b) for w, b in self.postselected.items())
        return TensorOutput(index, mp, labels, from_samples=True, postselected=given)

    def _outcome_wires(self, mp: MeasurementProcess) -> tuple[MeasurementProcess, tuple[int, ...]]:
        """A measurement of outcomes, with wires for the outcomes of measurements, and the wires that it reads."""
        if mp.mv is None:
            return mp, wire_indices(mp.wires or self.wire_map, self.wire_map)
        mp = self.deferral.relabeled(mp)
        return mp, tuple(mp.wires)

    def _state(self, mp: StateMeasurement) -> Output:
        plain = type(mp) is qml.measurements.StateMP and not mp.wires
        if plain and self.deferral.measured:
            raise CircuitError(
                "The state after a mid-circuit measurement is not one vector: it depends on the outcome. Return "
                "qml.density_matrix(wires), or what is to be known of it."
            )
        index = self._tensor(State())
        return TensorOutput(
            index, None if plain else mp, self.deferral.labels, postselected=tuple(self.postselected.items())
        )

    def _tensor(self, tensor: Tensor) -> int:
        if tensor not in self.tensors:
            self.tensors.append(tensor)
        return self.tensors.index(tensor)

    def _basis(self, mp: MeasurementProcess) -> tuple[Gate, ...]:
        if mp.obs is None:
            return ()
        if any(self.slots.trainable(p) for p in mp.obs.data):
            raise CaptureError(f"{mp} is measured in a basis that changes from call to call")
        constants = SlotTable(lambda value: False)
        with qml.QueuingManager.stop_recording():
            rotations = mp.obs.diagonalizing_gates()
        return tuple(g for op in rotations for g in lower_operation(op, self.wire_map, constants))


def _share_basis(products: list[_Product]) -> bool:
    """Whether all products can be read from the same outcomes."""
    letters: dict[int, set[Any]] = {}
    for p in products:
        for wire, letter in p.word:
            letters.setdefault(wire, set()).add(letter)
        for wires, matrix in p.matrices:
            for wire in wires:
                letters.setdefault(wire, set()).add(id(matrix))
    return all(len(found) == 1 for found in letters.values())
