from __future__ import annotations

from dataclasses import replace

import numpy as np
import pennylane as qml
import pytest
import torch

import qhybrid
from qhybrid.errors import DifferentiationError
from qhybrid.execution import Circuit, Executable
from qhybrid.gradients import ParameterShift
from qhybrid.gradients.base import shifted_jvp, shifted_second_order
from qhybrid.testing import check_gradients
from qhybrid_devices.statevector.device import StateVectorDevice
from qhybrid_devices.statevector.executable import StateVectorExecutable
from tests.testing.broken_devices import WrongSignDevice

X, W = np.array([0.4, -1.2]), np.array([0.3, 0.5, -0.8])


def circuit(x, w):
    qml.RX(x[0], wires=0)
    qml.CRY(x[1], wires=[0, 1])
    qml.Rot(w[0], w[1], w[2], wires=1)
    return qml.expval(qml.Z(1)), qml.expval(qml.X(0) @ qml.Z(1))


def node(device="qhybrid.statevector", **kwargs):
    device = qml.device(device, wires=3) if isinstance(device, str) else device
    return qhybrid.QNode(circuit, device, **kwargs)


def expected():
    plain = qml.QNode(circuit, qml.device("default.qubit"), diff_method="backprop")
    x, w = (torch.tensor(a) for a in (X, W))
    blocks = torch.autograd.functional.jacobian(lambda x, w: torch.stack(plain(x, w)), (x, w))
    return torch.cat(blocks, dim=1).numpy()


@pytest.mark.parametrize("kind", ["autograd", "numpy", "torch"])
def test_all_methods_agree(kind):
    make = {"autograd": lambda a: qml.numpy.array(a, requires_grad=True), "numpy": np.array, "torch": torch.tensor}
    table = check_gradients(node(), make[kind](X), make[kind](W))
    gradients = [r for r in table.possible if r.derivative == "gradient"]
    assert [r.method for r in gradients] == ["adjoint", "parameter-shift", "finite-diff", "hadamard"]
    assert [r.method for r in table.possible if r.derivative == "jvp"][:3] == [r.method for r in gradients][:3]
    assert table.agree(1e-9)
    for row in gradients:
        assert row.norm == pytest.approx(np.linalg.norm(expected()), abs=1e-9)
    assert all(row.seconds > 0 for row in table.possible)


def scalar(plain, weights):
    return lambda x, w: sum(weight * r for weight, r in zip(weights, plain(x, w), strict=True))


@pytest.mark.parametrize("kind", ["autograd", "torch"])
def test_second_order(kind):
    make = {"autograd": lambda a: qml.numpy.array(a, requires_grad=True), "torch": torch.tensor}[kind]
    table = check_gradients(node(), make(X), make(W), order=2)
    assert [r.derivative for r in table.rows[:4]] == ["gradient", "jvp", "hessian", "hvp"]
    assert table.agree(1e-7)
    plain = scalar(
        qml.QNode(circuit, qml.device("default.qubit"), diff_method="backprop"), np.random.default_rng(2).normal(size=2)
    )
    blocks = torch.autograd.functional.hessian(plain, (torch.tensor(X), torch.tensor(W)))
    hessian = torch.cat([torch.cat(row, dim=1) for row in blocks]).numpy()
    direction = np.random.default_rng(1).normal(size=5)
    for method in ("adjoint", "parameter-shift", "finite-diff"):
        assert table[method, "hessian"].norm == pytest.approx(np.linalg.norm(hessian), abs=1e-8)
        assert table[method, "hvp"].norm == pytest.approx(np.linalg.norm(hessian @ direction), abs=1e-8)
        assert table[method, "jvp"].norm == pytest.approx(np.linalg.norm(expected() @ direction), abs=1e-9)
    assert f"{'adjoint':<16}{'hvp':<10}" in str(table)


class WrongTangents(StateVectorExecutable):
    """Forward mode, where there is one, and the second derivatives that rest on the first are too large."""

    has_jvp = True

    def jvp(self, slots, tangents):
        return tuple(2 * t for t in shifted_jvp(Circuit(self.program, WrongTangents), slots, tangents))

    run_with_tangents = Executable.run_with_tangents

    def second_order(self, slots, cotangents, tangents, cotangent_tangents, needs, wanted):
        circuit = Circuit(self.program, StateVectorExecutable)
        found = shifted_second_order(
            ParameterShift(), circuit, slots, cotangents, tangents, cotangent_tangents, needs, wanted
        )
        return found._replace(tangents=replace(found.tangents, shared=2 * found.tangents.shared))


class WrongTangentsDevice(StateVectorDevice):
    def make_executable(self, program):
        return WrongTangents(program)


def test_wrong_forward_mode_and_wrong_second_derivatives_stand_out():
    table = check_gradients(node(WrongTangentsDevice(wires=2)), torch.tensor(X), torch.tensor(W), order=2)
    assert table["adjoint", "gradient"].deviation < 1e-9
    for derivative in ("jvp", "hessian", "hvp"):
        assert table["adjoint", derivative].deviation > 0.1
        assert table["parameter-shift", derivative].deviation < 1e-7
    assert table.worst.method == "adjoint"


def test_unknown_order_and_row():
    with pytest.raises(DifferentiationError, match="got order=3"):
        check_gradients(node(), X, W, order=3)
    with pytest.raises(KeyError, match="no row 'adjoint hvp'"):
        check_gradients(node(), X, W)["adjoint", "hvp"]


def test_arguments_that_require_no_gradient_are_left_out():
    table = check_gradients(node(), torch.tensor(X), torch.tensor(W, requires_grad=True))
    assert table["adjoint"].norm == pytest.approx(np.linalg.norm(expected()[:, 2:]))
    table = check_gradients(node(), qml.numpy.array(X, requires_grad=False), qml.numpy.array(W, requires_grad=True))
    assert table["adjoint"].norm == pytest.approx(np.linalg.norm(expected()[:, 2:]))


def test_a_wrong_method_stands_out():
    table = check_gradients(node(WrongSignDevice(wires=2)), X, W)
    assert table.worst.method == "adjoint"
    assert table.worst.deviation == pytest.approx(2 * np.abs(expected()).max())
    assert not table.agree(1e-3)
    assert table["parameter-shift"].deviation < 1e-9


def test_executions():
    table = check_gradients(node(), X, W)
    assert table["adjoint"].executions == 2
    assert table["parameter-shift"].executions == 1 + 2 + 4 + 3 * 2
    assert table["finite-diff"].executions == 1 + 4 * 5


def test_with_shots():
    table = check_gradients(node(qml.device("qhybrid.statevector", seed=4)), X, W, shots=2000)
    assert "impossible with shots=2000" in table["adjoint"].impossible
    assert 1e-3 < table["parameter-shift"].deviation < 5 * np.sqrt(2 / 2000)
    assert "divides the noise of the shots" in table["finite-diff"].impossible


def test_impossible_methods_are_explained():
    def arrays(u):
        qml.QubitUnitary(qml.math.expm(1j * (u + qml.math.T(u))), wires=0)
        return qml.expval(qml.Z(0))

    u = torch.tensor([[0.3, 0.1], [0.2, -0.4]], dtype=torch.float64, requires_grad=True)
    table = check_gradients(qhybrid.QNode(arrays, qml.device("qhybrid.statevector")), u)
    assert table["adjoint"].deviation < 1e-9
    assert "array entries of QubitUnitary" in table["parameter-shift"].impossible
    assert "impossible: " in str(table)


def test_noise_is_in_the_reference():
    def noisy(x):
        qml.RX(x, wires=0)
        qml.AmplitudeDamping(0.3, wires=0)
        return qml.expval(qml.Z(0))

    table = check_gradients(qhybrid.QNode(noisy, qml.device("default.mixed", wires=2)), 0.7)
    assert table.agree(1e-6)
    assert table["parameter-shift"].norm == pytest.approx(0.7 * np.sin(0.7))


def test_device_of_pennylane():
    table = check_gradients(node("default.qubit"), X, W)
    assert table.agree(1e-6)
    assert {"adjoint", "parameter-shift", "finite-diff"} <= {r.method for r in table.possible}
    assert table["parameter-shift"].executions >= 1 + 2 + 4 + 3 * 2


def test_state_is_no_real_result():
    def state(x):
        qml.RX(x, wires=0)
        return qml.state()

    with pytest.raises(DifferentiationError, match="complex"):
        check_gradients(qhybrid.QNode(state, qml.device("qhybrid.statevector")), 0.3)


def test_nothing_to_differentiate():
    with pytest.raises(DifferentiationError, match="no argument that is a real"):
        check_gradients(node(), "x", 3)


def test_batches():
    def batched(x):
        qml.RX(x, wires=0)
        return qml.expval(qml.Z(0))

    x = np.array([0.1, 0.7, -1.2])
    table = check_gradients(qhybrid.QNode(batched, qml.device("qhybrid.statevector")), x)
    assert table["adjoint"].norm == pytest.approx(np.linalg.norm(np.sin(x)))
    assert table["parameter-shift"].executions == 3 + 6
    assert table["parameter-shift"].deviation < 1e-9
