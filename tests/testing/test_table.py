from __future__ import annotations

import numpy as np
import pennylane as qml
import pytest
import torch

import qhybrid
from qhybrid.errors import DifferentiationError
from qhybrid.testing import check_gradients
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
    assert [r.method for r in table.possible] == ["adjoint", "parameter-shift", "finite-diff", "hadamard"]
    assert table.agree(1e-9)
    for row in table.possible:
        assert row.norm == pytest.approx(np.linalg.norm(expected()), abs=1e-9)
        assert row.seconds > 0


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
