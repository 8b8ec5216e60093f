"""Measurements of a Program to PennyLane measurements of a few tapes, and their values back to results.

A coefficient that changes from call to call is applied outside: its terms are measured one by one. Identities are not
measured at all. Outcomes after fixed gates are measured on a tape of their own, which ends with these gates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import numpy as np
import pennylane as qml
from numpy.typing import NDArray
from pennylane.measurements import MeasurementProcess
from pennylane.operation import Operator

from qhybrid.errors import DeviceError
from qhybrid.execution import Needs
from qhybrid.program import (
    Angle,
    ArrayRef,
    Constant,
    Expectation,
    Observable,
    Probabilities,
    Program,
    Samples,
    Scalar,
    Slots,
    State,
    Term,
    Variance,
)
from qhybrid.tapes.operations import Labels, constant_operations
from qhybrid.tapes.parameters import Parameter, ScaledAngle, SlotArray, SlotCotangents, angle_values

_LETTERS = {"X": qml.X, "Y": qml.Y, "Z": qml.Z}


@dataclass(frozen=True, eq=False)
class Varying:
    """A measurement that changes from sample to sample, because its observable does.

    Args:
        measurement: ``Expectation`` or ``Variance`` of an observable without constant part
        parameters: what its coefficients and matrices are, in the order of the terms
        labels: label of each wire
    """

    measurement: Scalar
    parameters: tuple[Parameter, ...]
    labels: Labels

    def at(self, data: Sequence[Any]) -> MeasurementProcess:
        """The measurement for the values ``data`` of its parameters."""
        values = iter(data)
        terms = self.measurement.observable.terms
        with qml.QueuingManager.stop_recording():
            coefficients, products = [], []
            for term in terms:
                coefficients.append(next(values) if isinstance(term.coefficient, Angle) else term.coefficient)
                matrices = [next(values) if isinstance(m, ArrayRef) else _writeable(m) for _, m in term.matrices]
                products.append(_product(term, matrices, self.labels))
            return _measured(self.measurement, _sum(coefficients, products))


@dataclass(frozen=True, eq=False)
class Setting:
    """What one tape measures.

    Args:
        basis: operations at its end
        measurements: in order
    """

    basis: tuple[Operator, ...]
    measurements: tuple[MeasurementProcess | Varying, ...]


@dataclass(frozen=True)
class Contribution:
    """Scalar ``scalar`` of a result contains ``coefficient ** power`` times value ``value``; ``None``: times one."""

    scalar: int
    value: int | None
    coefficient: float | Angle
    power: int = 1

    def weight(self, slots: Slots) -> NDArray:
        """The factor, or one a sample."""
        return angle_values(self.coefficient, slots) ** self.power

    def slope(self, slots: Slots) -> NDArray:
        """The derivative of the factor along the coefficient."""
        return self.power * angle_values(self.coefficient, slots) ** (self.power - 1)


@dataclass(frozen=True, eq=False)
class Measured:
    """The measurements of a program, in PennyLane's terms.

    Args:
        program: the program
        settings: one a tape; the scalar values are the first measurements of the first one
        contributions: how scalars are made of these values
        num_values: how many there are
        places: for each tensor of the program, its setting and its position in it
    """

    program: Program
    settings: tuple[Setting, ...]
    contributions: tuple[Contribution, ...]
    num_values: int
    places: tuple[tuple[int, int], ...]

    @cached_property
    def varies(self) -> bool:
        """Whether any measurement changes from sample to sample."""
        return any(isinstance(m, Varying) for s in self.settings for m in s.measurements)

    def scalars(self, values: NDArray, slots: Slots) -> NDArray:
        """Scalars ``(lanes, S)`` from values ``(lanes, M)``."""
        result = np.zeros((len(values), len(self.program.scalars)))
        for c in self.contributions:
            value = 1.0 if c.value is None else values[:, c.value]
            result[:, c.scalar] += c.weight(slots) * value
        return result

    def value_cotangents(self, cotangents: NDArray, slots: Slots) -> NDArray:
        """Cotangents of the values ``(lanes, M)``, given those of the scalars ``(lanes, S)``."""
        result = np.zeros((len(cotangents), self.num_values))
        for c in self.contributions:
            if c.value is not None:
                result[:, c.value] += c.weight(slots) * cotangents[:, c.scalar]
        return result

    def pull_back_coefficients(self, values: NDArray, cotangents: NDArray, slots: Slots, into: SlotCotangents) -> None:
        """Add the cotangents of the coefficients that are slots."""
        for c in self.contributions:
            if isinstance(c.coefficient, Angle):
                value = 1.0 if c.value is None else values[:, c.value]
                weighted = c.slope(slots) * value * cotangents[:, c.scalar]
                into.add_angle(c.coefficient, weighted if slots.batch_size is not None else weighted.sum())

    def wants_coefficients(self, needs: Needs) -> bool:
        """Whether the cotangent of a coefficient is wanted."""
        return any(
            isinstance(c.coefficient, Angle) and (needs.batched if c.coefficient.batched else needs.shared)
            for c in self.contributions
        )


def measured(program: Program, labels: Labels, paulis_only: bool = False, apart: bool = False) -> Measured:
    """The measurements of ``program``.

    Args:
        program: the program
        labels: label of each wire
        paulis_only: whether matrices must be written as sums of Pauli words, since the device measures them wrongly
        apart: whether outcomes and observables must not share a tape, since the device reads both in one basis

    Raises:
        DeviceError: a matrix would have to be measured as it is
    """
    if paulis_only:
        _refuse_matrices(program)
    contributions: list[Contribution] = []
    main: list[MeasurementProcess | Varying] = []
    with qml.QueuingManager.stop_recording():
        for index, m in enumerate(program.scalars):
            _add_scalar(index, m, program, labels, main, contributions)
        if paulis_only:
            main = [_in_paulis(m) for m in main]
        count = len(main)
        settings, places = [main], []
        # A state has all wires of the program, also those without a gate, which a device would not notice.
        states = any(isinstance(t, State) for t in program.tensors)
        bases: list[tuple[Operator, ...]] = [tuple(map(qml.Identity, labels)) if states else ()]
        for tensor in program.tensors:
            made, basis = _tensor(tensor, labels)
            own = bool(basis) or (apart and bool(main))
            if own:
                settings.append([])
                bases.append(basis)
            target = len(settings) - 1 if own else 0
            settings[target].append(made)
            places.append((target, len(settings[target]) - 1))
    return Measured(
        program,
        tuple(Setting(b, tuple(s)) for b, s in zip(bases, settings, strict=True)),
        tuple(contributions),
        count,
        tuple(places),
    )


def _refuse_matrices(program: Program) -> None:
    for m in program.scalars:
        matrices = [x for t in m.observable.terms for _, x in t.matrices]
        if any(isinstance(x, ArrayRef) for x in matrices) or (matrices and isinstance(m, Variance)):
            raise DeviceError(
                "This device measures observables that are matrices wrongly. Use default.qubit, or write the "
                "observable as a sum of Pauli words."
            )


def _in_paulis(m: MeasurementProcess | Varying) -> MeasurementProcess | Varying:
    """An expectation value with its observable as a sum of Pauli words."""
    if isinstance(m, Varying) or m.obs.pauli_rep is not None:
        return m
    return type(m)(obs=_sentence(m.obs).operation())


def _sentence(observable: Operator) -> qml.pauli.PauliSentence:
    if observable.pauli_rep is not None:
        return observable.pauli_rep
    if isinstance(observable, qml.Hermitian):
        return qml.pauli_decompose(observable.data[0], wire_order=observable.wires, pauli=True)
    if isinstance(observable, qml.ops.Prod):
        return reduce(lambda a, b: a @ b, map(_sentence, observable.operands))
    coefficients, products = observable.terms()
    return reduce(lambda a, b: a + b, (c * _sentence(o) for c, o in zip(coefficients, products, strict=True)))


def _add_scalar(
    index: int,
    m: Scalar,
    program: Program,
    labels: Labels,
    main: list[MeasurementProcess | Varying],
    contributions: list[Contribution],
) -> None:
    terms = [t for t in m.observable.terms if t.word or t.matrices]
    if isinstance(m, Expectation):
        constant = [t for t in m.observable.terms if not (t.word or t.matrices)]
        contributions += [Contribution(index, None, t.coefficient) for t in constant]
    if not terms:
        return
    varying_matrix = any(isinstance(x, ArrayRef) for t in terms for _, x in t.matrices)
    varying_sum = any(isinstance(t.coefficient, Angle) for t in terms)
    if varying_matrix or (varying_sum and len(terms) > 1 and isinstance(m, Variance)):
        observable = Observable(tuple(terms))
        contributions.append(Contribution(index, len(main), 1.0))
        main.append(Varying(type(m)(observable), _parameters(observable, program), labels))
        return
    products = [_product(t, [_writeable(x) for _, x in t.matrices], labels) for t in terms]
    if varying_sum or len(terms) == 1:
        for term, product in zip(terms, products, strict=True):
            contributions.append(Contribution(index, len(main), term.coefficient, 2 if isinstance(m, Variance) else 1))
            main.append(_measured(m, product))
        return
    contributions.append(Contribution(index, len(main), 1.0))
    main.append(_measured(m, _sum([t.coefficient for t in terms], products)))


def _parameters(observable: Observable, program: Program) -> tuple[Parameter, ...]:
    found: list[Parameter] = []
    for term in observable.terms:
        if isinstance(term.coefficient, Angle):
            found.append(ScaledAngle(term.coefficient))
        found += [SlotArray(m, program.arrays[m.index]) for _, m in term.matrices if isinstance(m, ArrayRef)]
    return tuple(found)


def _writeable(matrix: Constant | ArrayRef) -> NDArray:
    """A copy: Lightning's kernels take no read-only arrays."""
    assert isinstance(matrix, Constant)
    return matrix.array.copy()


def _product(term: Term, matrices: Sequence[Any], labels: Labels) -> Operator:
    """A term without its coefficient."""
    factors: list[Operator] = [_LETTERS[letter](labels[w]) for w, letter in term.word]
    factors += [
        qml.Hermitian(matrix, wires=[labels[w] for w in wires])
        for (wires, _), matrix in zip(term.matrices, matrices, strict=True)
    ]
    return reduce(lambda a, b: a @ b, factors)


def _sum(coefficients: Sequence[Any], products: Sequence[Operator]) -> Operator:
    if len(products) == 1 and isinstance(coefficients[0], float) and coefficients[0] == 1.0:
        return products[0]
    return qml.Hamiltonian(coefficients, products)


def _measured(m: Scalar, observable: Operator) -> MeasurementProcess:
    return qml.expval(observable) if isinstance(m, Expectation) else qml.var(observable)


def _tensor(tensor: Any, labels: Labels) -> tuple[MeasurementProcess, tuple[Operator, ...]]:
    if isinstance(tensor, State):
        return qml.state(), ()
    wires = [labels[w] for w in tensor.wires]
    assert isinstance(tensor, Probabilities | Samples)
    made = qml.probs(wires=wires) if isinstance(tensor, Probabilities) else qml.sample(wires=wires)
    return made, constant_operations(tensor.basis, labels)
