"""Obvious mistakes: the error is raised where the mistake was made, and says what to change."""

from __future__ import annotations

import numpy as np
import pennylane as qml
import pytest
import torch
from pennylane import numpy as pnp

import qhybrid
from qhybrid import CircuitError, DeviceError, DifferentiationError


def _node(circuit, wires=2, **kwargs):
    return qhybrid.QNode(circuit, qml.device("qhybrid.statevector", wires=wires), **kwargs)


def test_unknown_wire():
    def circuit():
        qml.RX(0.1, wires="a")
        return qml.expval(qml.Z(0))

    with pytest.raises(qml.wires.WireError, match=r"'a' is not on the device; its wires are \[0, 1\]"):
        _node(circuit)()


def test_wrong_shape_of_an_angle():
    def circuit(x):
        qml.RX(x, wires=0)
        return qml.expval(qml.Z(0))

    with pytest.raises((CircuitError, ValueError), match=r"shape|dimension"):
        _node(circuit)(np.ones((2, 3, 4)))


def test_different_batch_sizes():
    def circuit(x, y):
        qml.RX(x, wires=0)
        qml.RX(y, wires=1)
        return qml.expval(qml.Z(0))

    with pytest.raises(CircuitError, match="different batch sizes, 2 and 3"):
        _node(circuit)(np.ones(2), np.ones(3))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("batched", [False, True])
def test_angle_that_is_not_finite(bad, batched):
    def circuit(x, weights):
        qml.RY(weights[0], wires=1)
        qml.RX(x, wires=0)
        return qml.expval(qml.Z(0))

    node = _node(circuit)
    x = np.array([0.1, bad]) if batched else np.array(bad)
    for _ in range(2):
        with pytest.raises(CircuitError, match=r"RX on wires \[0\].*is (nan|inf).*x"):
            node(x, np.array([0.1]))


def test_state_that_is_not_normalised():
    def circuit(amplitudes):
        qml.StatePrep(amplitudes, wires=[0, 1], validate_norm=False)
        return qml.probs(wires=0)

    with pytest.raises(CircuitError, match=r"norm 2; it must be 1"):
        _node(circuit)(np.ones(4))


def test_matrix_that_is_not_unitary():
    def circuit(u):
        qml.QubitUnitary(u, wires=0)
        return qml.probs(wires=0)

    with pytest.raises(CircuitError, match="not unitary"):
        _node(circuit)(np.ones((2, 2)))


class Damping(qml.operation.Operation):
    """A constant operation whose matrix is not unitary, and that has nothing to say about it."""

    num_wires, num_params = 1, 0

    @staticmethod
    def compute_matrix():
        return np.diag([1, 0.5])


@pytest.mark.parametrize("gate", [Damping, lambda wires: qml.sum(qml.X(wires), qml.Z(wires))])
def test_constant_operation_that_is_not_unitary(gate):
    """It is left to PennyLane; compiled circuits rely on unitary gates."""

    def circuit():
        qml.RY(0.3, wires=0)
        qml.RY(1.0, wires=1)
        gate(wires=1)
        return qml.expval(qml.Z(0))

    expected = qml.QNode(circuit, qml.device("default.qubit", wires=2))()
    with pytest.warns(qhybrid.FallbackWarning, match="not a unitary gate"):
        found = qhybrid.QNode(circuit, qml.device("default.qubit", wires=2))()
    assert found == pytest.approx(expected, abs=1e-12)
    with pytest.raises(qml.exceptions.DeviceError, match="not a unitary gate"), pytest.warns(qhybrid.FallbackWarning):
        qhybrid.QNode(circuit, qhybrid.device("qhybrid.statevector", wires=2))()


@pytest.mark.parametrize("result", [None, 1.0, "Z"])
def test_function_without_a_measurement(result):
    def circuit(x):
        qml.RX(x, wires=0)
        return result

    with pytest.raises(CircuitError, match="single measurement"):
        _node(circuit)(0.1)


def test_gradient_of_an_integer_argument():
    def circuit(x):
        qml.RX(x, wires=0)
        return qml.expval(qml.Z(0))

    with pytest.raises((DifferentiationError, ValueError), match=r"int"):
        qml.grad(_node(circuit))(pnp.array(1, requires_grad=True))


def test_unknown_device_names_the_installed_ones():
    with pytest.raises(DeviceError, match=r"'qhybrid.statevctor'.*qhybrid\.statevector"):
        qhybrid.device("qhybrid.statevctor", wires=1)


@pytest.mark.parametrize("method", ["adjiont", 3, "jvp"])
def test_unknown_method_lists_the_possible_ones(method):
    with pytest.raises(DifferentiationError, match=r"adjoint.*parameter-shift"):
        _node(lambda: qml.state(), diff_method=method)


def test_adjoint_with_shots_is_refused_at_construction():
    with pytest.raises(DifferentiationError, match=r"shots.*parameter-shift"):
        _node(lambda: qml.expval(qml.Z(0)), diff_method="adjoint", shots=100)


def test_samples_without_shots():
    with pytest.raises(CircuitError, match="needs shots"):
        _node(lambda: qml.sample(wires=0))()


def test_state_with_shots():
    with pytest.raises(CircuitError, match="only known exactly"):
        _node(lambda: qml.state(), shots=10)()


def test_too_many_wires_are_refused_before_allocation():
    def circuit():
        for w in range(40):
            qml.Hadamard(w)
        return qml.expval(qml.Z(0))

    with pytest.raises(DeviceError, match=r"40 .*wires.*GiB"):
        _node(circuit, wires=40)()


def test_complex_coefficient_of_an_observable():
    with pytest.raises(CircuitError, match="not Hermitian"):
        _node(lambda: qml.expval(1j * qml.Z(0)))()


def test_shift_rule_for_a_unitary_names_the_gate_and_the_method_that_works():
    def circuit(u):
        qml.QubitUnitary(u, wires=0)
        return qml.expval(qml.Z(0))

    u = torch.eye(2, dtype=torch.complex128, requires_grad=True)
    with pytest.raises(DifferentiationError, match=r"QubitUnitary.*adjoint"):
        _node(circuit, diff_method="parameter-shift")(u).backward()


def test_nothing_is_half_done_after_an_error():
    def circuit(x):
        qml.RX(x, wires=0)
        return qml.expval(qml.Z(0))

    node = _node(circuit)
    with pytest.raises(CircuitError):
        node(np.array(np.nan))
    assert node(np.array(0.0)) == pytest.approx(1.0)


def test_c_dtype_is_checked():
    with pytest.raises(DeviceError, match=r"complex128 or numpy\.complex64"):
        qml.device("qhybrid.statevector", wires=1, c_dtype=np.float32)
