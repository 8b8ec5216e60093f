"""Programs on PennyLane devices against the dense oracle: values and cotangents of every kind of slot."""

from __future__ import annotations

import numpy as np
import pennylane as qml
import pytest

from qhybrid.errors import DifferentiationError
from qhybrid.execution import Needs
from qhybrid.program import Expectation, Observable, Probabilities, Program, Samples, Slots, State, Term
from qhybrid.tapes import backend_of
from qhybrid_devices.statevector.reference import ReferenceExecutable
from tests.tapes.programs import WIRES, random_program


def _compile(device, program):
    return backend_of(device).compile(program)


def _agree(found, expected, atol=1e-8):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=atol)


def _cotangents(results, seed):
    rng = np.random.default_rng(seed)
    complex_too = [rng.normal(size=r.shape) + 1j * rng.normal(size=r.shape) for r in results]
    return tuple(c if np.iscomplexobj(r) else c.real for c, r in zip(complex_too, results, strict=True))


def _tangent(cotangent, value):
    """The part of a cotangent along which a state stays normalised, a matrix unitary or Hermitian."""
    if value.ndim == 2 and np.allclose(value @ value.conj().T, np.eye(len(value))):
        inner = value.conj().T @ cotangent
        return value @ (inner - inner.conj().T)
    if value.ndim == 2:
        return cotangent
    if np.allclose(np.abs(value), 1):
        return np.imag(value.conj() * cotangent)
    return cotangent - np.vdot(value, cotangent).real * value


def _agree_arrays(found, expected, slots, program):
    """Away from the constraint of an array devices may differ: an identity is or is not the squared norm."""
    for a, b, value, slot in zip(found.arrays, expected.arrays, slots.arrays, program.arrays, strict=True):
        shape = (-1, *slot.shape)
        for x, y, v in zip(a.reshape(shape), b.reshape(shape), value.reshape(shape), strict=True):
            np.testing.assert_allclose(_tangent(x, v), _tangent(y, v), atol=1e-7)


def _agree_angles(found, expected):
    np.testing.assert_allclose(found.shared, expected.shared, atol=1e-7)
    if expected.batched is not None:
        np.testing.assert_allclose(found.batched, expected.batched, atol=1e-7)


@pytest.mark.parametrize("name", ["default.qubit", "lightning.qubit", "reference.qubit"])
@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("seed", range(6))
def test_values(name, batch, seed):
    program, slots = random_program(seed, batch, state=name != "reference.qubit", spread=name != "reference.qubit")
    device = qml.device(name, wires=WIRES)
    _agree(_compile(device, program).run(slots), ReferenceExecutable(program).run(slots))


@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("seed", range(4))
def test_values_of_density_matrices(batch, seed):
    program, slots = random_program(seed, batch, state=False)
    _agree(
        _compile(qml.device("default.mixed", wires=WIRES), program).run(slots), ReferenceExecutable(program).run(slots)
    )


@pytest.mark.parametrize("name", ["default.qubit", "default.mixed"])
@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("seed", range(5))
def test_cotangents_of_everything(name, batch, seed):
    program, slots = random_program(seed, batch, state=name == "default.qubit")
    reference = ReferenceExecutable(program)
    cotangents = _cotangents(reference.run(slots), seed)
    needs = Needs(True, True, (True,) * len(program.arrays))
    found = _compile(qml.device(name, wires=WIRES), program).vjp(slots, cotangents, needs)
    expected = reference.vjp(slots, cotangents, needs)
    _agree_angles(found, expected)
    _agree_arrays(found, expected, slots, program)


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("seed", range(4))
def test_shifts_where_the_device_has_no_derivative(batch, seed):
    program, slots = random_program(seed, batch, arrays=False, state=False, gates=5)
    program = Program(
        WIRES,
        tuple(g for g in program.gates if g.name != "evolution"),
        program.scalars,
        program.tensors,
        None,
        program.num_shared,
        program.num_batched,
    )
    if not program.is_batched:
        slots = Slots(slots.shared)
    reference = ReferenceExecutable(program)
    cotangents = _cotangents(reference.run(slots), seed)
    needs = Needs(True, True, ())
    found = _compile(qml.device("lightning.qubit", wires=WIRES), program).vjp(slots, cotangents, needs)
    _agree_angles(found, reference.vjp(slots, cotangents, needs))


def test_only_what_is_needed():
    program, slots = random_program(1, 3)
    executable = _compile(qml.device("default.qubit"), program)
    found = executable.vjp(
        slots, _cotangents(executable.run(slots), 0), Needs(False, True, (False,) * len(slots.arrays))
    )
    assert found.shared is None
    assert found.batched is not None
    assert all(a is None for a in found.arrays)


def test_arrays_without_a_derivative_are_refused():
    program, slots = random_program(1)
    executable = _compile(qml.device("lightning.qubit", wires=WIRES), program)
    needs = Needs(False, False, (True,) * len(slots.arrays))
    with pytest.raises(DifferentiationError, match=r"lightning.qubit does not cover .* the state prepared on wires"):
        executable.vjp(slots, _cotangents(executable.run(slots), 0), needs)


@pytest.mark.parametrize("name", ["default.qubit", "lightning.qubit"])
def test_empty_batch(name):
    program, slots = random_program(2, 3)
    empty = Slots(
        slots.shared,
        None if slots.batched is None else slots.batched[:, :0],
        tuple(a[:0] if s.batched else a for a, s in zip(slots.arrays, program.arrays, strict=True)),
        0,
    )
    executable = _compile(qml.device(name, wires=WIRES), program)
    results = executable.run(empty)
    assert [r.shape for r in results] == [(0, 3), (0, 4), (0, 4), (0, 8)]
    found = executable.vjp(empty, results, Needs(True, True, (False,) * len(program.arrays)))
    assert not found.shared.any()
    assert found.shared.shape == (program.num_shared,)


@pytest.mark.parametrize("name", ["default.qubit", "lightning.qubit", "reference.qubit", "default.mixed"])
@pytest.mark.parametrize("batch", [None, 2])
def test_shots(name, batch):
    program, slots = random_program(3, batch, arrays=False, state=False, gates=4)
    tensors = (*program.tensors, Samples((2, 0)))
    program = Program(WIRES, program.gates, program.scalars[:2], tensors, None, program.num_shared, program.num_batched)
    exact = ReferenceExecutable(
        Program(WIRES, program.gates, program.scalars, tensors[:-1], None, program.num_shared, program.num_batched)
    ).run(slots)
    shots = 4000
    found = _compile(qml.device(name, wires=WIRES, seed=5), program).sample(slots, shots, np.random.default_rng(0))
    for a, b in zip(found[:-1], exact, strict=True):
        np.testing.assert_allclose(a, b, atol=0.15)
    assert found[-1].shape == ((shots, 2) if batch is None or not program.is_batched else (2, shots, 2))
    assert set(np.unique(found[-1])) <= {0, 1}


def test_a_state_has_the_wires_without_gates():
    program = Program(3, (), (), (State(),))
    np.testing.assert_array_equal(
        _compile(qml.device("default.qubit"), program).run(Slots(np.empty(0)))[1], np.eye(8)[0]
    )


def test_identities_are_not_measured(mocker):
    device = qml.device("default.qubit")
    spy = mocker.spy(device, "execute")
    program = Program(1, (), (Expectation(Observable((Term(0.3), Term(0.4)))),))
    np.testing.assert_allclose(_compile(device, program).run(Slots(np.empty(0)))[0], [0.7])
    assert spy.call_count == 0


@pytest.mark.parametrize("name", ["lightning.qubit", "reference.qubit"])
def test_a_batch_is_one_call_of_the_device(name, mocker):
    program, slots = random_program(4, 3, arrays=False, state=False, spread=False)
    device = qml.device(name, wires=WIRES)
    executable = _compile(device, program)
    executable.run(slots)
    execute = mocker.spy(device, "execute")
    executable.run(slots)
    assert execute.call_count == 1
    assert len(execute.call_args.args[0]) >= 3 * len(executable.settings)


def test_preprocessing_is_done_once(mocker):
    program, slots = random_program(0, 3, arrays=False, state=False)
    program = Program(
        WIRES,
        tuple(g for g in program.gates if not g.controls and g.name != "fixed"),
        (),
        (Probabilities((0, 1)),),
        None,
        program.num_shared,
        program.num_batched,
    )
    device = qml.device("lightning.qubit", wires=WIRES)
    executable = _compile(device, program)
    first = executable.run(slots)
    preprocess = mocker.spy(device, "preprocess_transforms")
    _agree(executable.run(slots), first)
    assert preprocess.call_count == 0
