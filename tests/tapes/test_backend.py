"""QNodes on devices of others: the same results as PennyLane's own QNode, compiled; and what is left to PennyLane."""

from __future__ import annotations

import copy
import pickle
import threading

import numpy as np
import pennylane as qml
import pytest
import torch
from pennylane import numpy as pnp

import qhybrid
from qhybrid import DeviceError, FallbackWarning
from qhybrid.errors import CaptureError, DifferentiationError
from qhybrid.tapes import TapeBackend, backend_of

EXACT = ["default.qubit", "lightning.qubit", "default.mixed", "reference.qubit", "cirq.simulator"]
ATOL = {"cirq.simulator": 1e-5}  # single precision
RNG = np.random.default_rng(11)
X, WEIGHTS = RNG.uniform(size=(3, 3)), RNG.uniform(size=(2, 3, 3))


def layers(x, w):
    """Features, weights, and one measurement of each kind that every device has."""
    qml.AngleEmbedding(x, wires=range(3))
    qml.StronglyEntanglingLayers(w, wires=range(3))
    qml.CRZ(w[0, 0, 0], wires=[0, 2])
    return qml.expval(qml.Z(0) @ qml.Y(1)), qml.expval(0.3 * qml.X(0) + qml.Z(2)), qml.probs(wires=[2, 0])


def _flat(results):
    return np.concatenate([np.asarray(r).real.reshape(-1) for r in results])


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("x", [X[0], X], ids=["one", "batch"])
def test_values_are_those_of_pennylane(name, x):
    device = qml.device(name, wires=3)
    node = qhybrid.QNode(layers, device)
    expected = qml.QNode(layers, qml.device("default.qubit", wires=3))(x, WEIGHTS)
    for _ in range(2):
        np.testing.assert_allclose(_flat(node(x, WEIGHTS)), _flat(expected), atol=ATOL.get(name, 1e-8))
    assert node.explain(x, WEIGHTS).path == "compiled"


def _torch_gradients(node, *args):
    tensors = [torch.tensor(a, requires_grad=True) for a in args]
    a, b, c = node(*tensors)
    ((a + 2 * b) ** 2 + c[..., 1]).sum().backward()
    return np.concatenate([t.grad.numpy().reshape(-1) for t in tensors])


@pytest.fixture(scope="module")
def expected_gradients():
    """Gradients from default.qubit in PennyLane, by backprop."""
    return _torch_gradients(qml.QNode(layers, qml.device("default.qubit", wires=3)), X, WEIGHTS)


METHODS = {
    "default.qubit": ["best", "backprop", "adjoint", "parameter-shift", "finite-diff"],
    "lightning.qubit": ["best", "adjoint", "parameter-shift", "finite-diff"],
    "default.mixed": ["best", "backprop", "parameter-shift"],
    "reference.qubit": ["best", "parameter-shift"],
    "cirq.simulator": ["best", "parameter-shift"],
}


@pytest.mark.parametrize(("name", "method"), [(n, m) for n, methods in METHODS.items() for m in methods])
def test_gradients_in_torch(name, method, expected_gradients):
    node = qhybrid.QNode(layers, qml.device(name, wires=3), diff_method=method)
    np.testing.assert_allclose(_torch_gradients(node, X, WEIGHTS), expected_gradients, atol=ATOL.get(name, 1e-6))


@pytest.mark.parametrize("name", EXACT)
def test_gradients_in_autograd(name):
    def cost(node):
        return lambda w: node(X[0], w)[1]

    weights = pnp.array(WEIGHTS, requires_grad=True)
    expected = qml.grad(cost(qml.QNode(layers, qml.device("default.qubit", wires=3))))(weights)
    found = qml.grad(cost(qhybrid.QNode(layers, qml.device(name, wires=3))))(weights)
    np.testing.assert_allclose(found, expected, atol=ATOL.get(name, 1e-8))


def _one_word(x, w):
    qml.AngleEmbedding(x, wires=range(3))
    qml.StronglyEntanglingLayers(w, wires=range(3))
    return qml.expval(qml.Z(0) @ qml.Y(1))


def test_default_tensor():
    node = qhybrid.QNode(_one_word, qml.device("default.tensor", wires=3))
    other = qml.QNode(_one_word, qml.device("default.qubit", wires=3))
    np.testing.assert_allclose(node(X, WEIGHTS), other(X, WEIGHTS), atol=1e-8)
    weights = pnp.array(WEIGHTS[:1], requires_grad=True)
    np.testing.assert_allclose(
        qml.grad(node, argnums=1)(X[0], weights), qml.grad(other, argnums=1)(X[0], weights), atol=1e-8
    )
    assert node.explain(X, WEIGHTS).path == "compiled"


def test_default_clifford():
    def circuit():
        qml.Hadamard(0)
        qml.CNOT([0, 1])
        qml.S(1)
        qml.adjoint(qml.S(0))
        qml.ISWAP([1, 2])
        return qml.expval(qml.X(0) @ qml.Y(2)), qml.expval(qml.Z(0) + 0.5 * qml.X(1)), qml.probs(wires=[0, 2])

    node = qhybrid.QNode(circuit, qml.device("default.clifford", wires=3))
    np.testing.assert_allclose(
        _flat(node()), _flat(qml.QNode(circuit, qml.device("default.qubit", wires=3))()), atol=1e-8
    )
    assert node.explain().path == "compiled"


@pytest.mark.parametrize(
    "name", ["default.qubit", "lightning.qubit", "default.mixed", "reference.qubit", "cirq.simulator"]
)
def test_shots(name):
    device = qml.device(name, wires=3) if name == "cirq.simulator" else qml.device(name, wires=3, seed=3)
    exact = qml.QNode(layers, qml.device("default.qubit", wires=3))(X, WEIGHTS)
    node = qml.set_shots(qhybrid.QNode(layers, device), 3000)
    np.testing.assert_allclose(_flat(node(X, WEIGHTS)), _flat(exact), atol=0.12)
    assert node.explain(X, WEIGHTS).path == "compiled"


def test_samples_counts_and_shot_vectors():
    def circuit(x):
        qml.RX(x, wires=0)
        qml.CNOT([0, 1])
        return qml.sample(wires=[0, 1]), qml.counts(qml.Z(0)), qml.sample(qml.X(1)), qml.probs(op=qml.Hadamard(0))

    node = qml.set_shots(qhybrid.QNode(circuit, qml.device("lightning.qubit", wires=2, seed=1)), [20, 30])
    for shots, (samples, counts, signs, probs) in zip((20, 30), node(0.4), strict=True):
        assert samples.shape == (shots, 2)
        assert (samples[:, 0] == samples[:, 1]).all()
        assert sum(counts.values()) == shots
        assert set(signs.tolist()) <= {-1.0, 1.0}
        assert probs.sum() == pytest.approx(1)


def test_gradients_from_shots():
    node = qml.set_shots(qhybrid.QNode(_one_word, qml.device("lightning.qubit", wires=3, seed=4)), 4000)
    weights = pnp.array(WEIGHTS[:1], requires_grad=True)
    exact = qml.grad(qml.QNode(_one_word, qml.device("default.qubit", wires=3)), argnums=1)(X[0], weights)
    np.testing.assert_allclose(qml.grad(node, argnums=1)(X[0], weights), exact, atol=0.1)


# ------------------------------------------------------------------ how


def test_the_function_is_called_once(capsys):
    @qhybrid.qnode(qml.device("lightning.qubit", wires=3))
    def circuit(x):
        print("ran")
        qml.RX(x, wires=0)
        return qml.expval(qml.Z(0))

    circuit(0.1)
    assert capsys.readouterr().out == "ran\nran\n"  # the trace and its audit
    assert circuit(0.3) == pytest.approx(np.cos(0.3))
    assert capsys.readouterr().out == ""


def test_all_shifts_of_all_samples_are_one_call(mocker):
    device = qml.device("reference.qubit", wires=3)
    node = qhybrid.QNode(_one_word, device)
    x, w = torch.tensor(X, requires_grad=True), torch.tensor(WEIGHTS[:1], requires_grad=True)
    node(x, w).sum().backward()
    result = node(x, w).sum()
    execute = mocker.spy(device, "execute")
    result.backward()
    assert execute.call_count == 1
    assert len(execute.call_args.args[0]) == node.explain(x, w).gradient_executions


def test_labels_of_wires(mocker):
    device = qml.device("lightning.qubit", wires=["a", "b", "c"])
    execute = mocker.spy(device, "execute")

    @qhybrid.qnode(device)
    def circuit(x):
        qml.RX(x, wires="c")
        qml.CNOT(["c", "a"])
        return qml.probs(wires=["a", "b"])

    np.testing.assert_allclose(circuit(0.5), [np.cos(0.25) ** 2, 0, np.sin(0.25) ** 2, 0], atol=1e-12)
    assert set(execute.call_args.args[0][0].wires) == {"a", "b", "c"}


@pytest.mark.parametrize("name", ["default.qubit", "default.mixed"])
def test_wires_that_a_circuit_does_not_use_cost_nothing(name):
    def circuit(x):
        qml.RX(x, wires=20)
        qml.CNOT([20, 7])
        return qml.expval(qml.Z(7) @ qml.Hermitian(np.diag([1.0, 0.5]), wires=20)), qml.probs(op=qml.X(20))

    node = qhybrid.QNode(circuit, qml.device(name, wires=23))
    x = torch.tensor([0.3, 0.4], requires_grad=True, dtype=torch.float64)
    node(x)[0].sum().backward()
    np.testing.assert_allclose(x.grad, -0.75 * np.sin([0.3, 0.4]), atol=1e-12)
    assert node.explain(x).memory <= 2 * 16 * 16


def test_explaining_how_a_device_runs_it():
    def said(function, name, *args):
        return str(qhybrid.QNode(function, qml.device(name, wires=3)).explain(*args))

    assert "runs as:   kernels of lightning.qubit, called directly" in said(_one_word, "lightning.qubit", X, WEIGHTS)
    assert "one batch of tapes, preprocessed once" in said(layers, "lightning.qubit", X, WEIGHTS)
    assert "preprocessed again for every batch" in said(_mixed_word, "default.mixed", 0.3)
    assert "runs as" not in said(_one_word, "qhybrid.statevector", X, WEIGHTS)


def _mixed_word(x):
    qml.PauliRot(x, "XYZ", wires=[0, 1, 2])
    return qml.expval(qml.Z(0))


def _measured_inside(x):
    qml.RX(x, wires=0)
    outcome = qml.measure(0, reset=True)
    qml.cond(outcome, qml.RY)(0.5, wires=1)
    qml.RX(0.3, wires=0)
    return qml.expval(qml.Z(1))


def test_mid_circuit_measurements_need_a_wire():
    expected = np.cos(0.6) ** 2 + np.sin(0.6) ** 2 * np.cos(0.5)
    node = qhybrid.QNode(_measured_inside, qml.device("default.qubit"))
    assert node(1.2) == pytest.approx(expected)
    without = qml.set_shots(qhybrid.QNode(_measured_inside, qml.device("default.qubit", wires=2, seed=2)), 4000)
    with pytest.warns(FallbackWarning, match="needs a further wire, and the device has 2"):
        assert without(1.2) == pytest.approx(expected, abs=0.03)


def test_one_backend_a_device():
    device = qml.device("lightning.qubit", wires=2)
    assert backend_of(device) is backend_of(device)
    assert backend_of(qml.device("lightning.qubit", wires=2)) is not backend_of(device)
    assert isinstance(backend_of(device), TapeBackend)
    own = qml.device("qhybrid.statevector")
    assert backend_of(own) is own


@qhybrid.qnode(qml.device("lightning.qubit", wires=3))
def on_lightning(x):
    """A QNode that pickle can find."""
    qml.RX(x, wires=0)
    return qml.expval(qml.Z(0)), qml.probs(wires=1)


def test_pickling_and_copying_after_use():
    before = on_lightning(0.3)
    for other in (pickle.loads(pickle.dumps(on_lightning)), copy.copy(on_lightning), copy.deepcopy(on_lightning)):
        np.testing.assert_allclose(_flat(other(0.3)), _flat(before))


def test_layers_copy_after_use():
    def circuit(inputs, weights):
        qml.AngleEmbedding(inputs, wires=range(2))
        qml.BasicEntanglerLayers(weights, wires=range(2))
        return [qml.expval(qml.Z(w)) for w in range(2)]

    layer = qhybrid.qnn.TorchLayer(qhybrid.QNode(circuit, qml.device("lightning.qubit", wires=2)), {"weights": (1, 2)})
    inputs = torch.rand(5, 2)
    assert torch.equal(copy.deepcopy(layer)(inputs), layer(inputs))


def test_threads():
    node = qhybrid.QNode(layers, qml.device("lightning.qubit", wires=3))
    expected = _flat(node(X, WEIGHTS))
    found = []
    threads = [threading.Thread(target=lambda: found.append(_flat(node(X, WEIGHTS)))) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(found) == 4
    for result in found:
        np.testing.assert_allclose(result, expected)


def test_an_active_tracker_counts():
    device = qml.device("lightning.qubit", wires=3)
    node = qhybrid.QNode(_one_word, device)
    with qml.Tracker(device) as tracker:
        node(X[0], WEIGHTS)
    assert tracker.totals["executions"] == 1


# ------------------------------------------------------------------ what PennyLane runs


def _rotation(x):
    qml.RX(x, wires=0)
    return qml.expval(qml.Z(0))


def _displacement(x):
    qml.Displacement(x, 0.1, wires=0)
    return qml.expval(qml.QuadX(0))


def _channel(x):
    qml.RX(x, wires=0)
    qml.DepolarizingChannel(0.1, wires=0)
    return qml.expval(qml.Z(0))


def _state(x):
    qml.RX(x, wires=0)
    return qml.state()


def _qutrit(x):
    qml.TRX(x, wires=0)
    return qml.expval(qml.GellMann(0, 3))


def _noisy():
    model = qml.NoiseModel({qml.noise.op_eq(qml.RX): qml.noise.partial_wires(qml.AmplitudeDamping, 0.4)})
    return qml.add_noise(qml.device("default.mixed", wires=1), model)


@pytest.mark.parametrize(
    ("function", "make", "named"),
    [
        (_displacement, lambda: qml.device("default.gaussian", wires=1), "Displacement"),
        (_state, lambda: qml.device("default.mixed", wires=1), "no state vector's"),
        (_qutrit, lambda: qml.device("default.qutrit", wires=1), "qutrits"),
        (_rotation, _noisy, "transforms"),
    ],
)
def test_what_is_left_to_pennylane(function, make, named):
    node = qhybrid.QNode(function, make())
    with pytest.warns(FallbackWarning, match=named):
        found = node(0.3)
    np.testing.assert_allclose(found, qml.QNode(function, make())(0.3), atol=1e-12)
    explained = node.explain(0.3)
    assert explained.path == "pennylane"
    assert named in explained.reason


@pytest.mark.parametrize("method", ["best", "parameter-shift", "backprop"])
def test_constant_noise_is_compiled(method):
    node = qhybrid.QNode(_channel, qml.device("default.mixed", wires=1), diff_method=method)
    x = pnp.array([0.3, 0.5])
    shrunk = 1 - 4 * 0.1 / 3
    np.testing.assert_allclose(node(x), shrunk * np.cos(x), atol=1e-12)
    found = qml.grad(lambda x: qml.numpy.sum(node(x)))(x)
    np.testing.assert_allclose(found, -shrunk * np.sin(x), atol=1e-12)
    assert node.explain(x).path == "compiled"


def test_noise_whose_strength_is_trained_goes_through_pennylane():
    def circuit(p):
        qml.RX(0.3, wires=0)
        qml.DepolarizingChannel(p, wires=0)
        return qml.expval(qml.Z(0))

    with pytest.warns(FallbackWarning, match="strength of DepolarizingChannel changes"):
        found = qml.grad(qhybrid.QNode(circuit, qml.device("default.mixed", wires=1)))(pnp.array(0.1))
    assert found == pytest.approx(-4 / 3 * np.cos(0.3))


@pytest.mark.parametrize("name", ["lightning.qubit", "default.qubit", "reference.qubit"])
def test_a_budget_holds_for_devices_of_others(name):
    device = qml.device(name, wires=1)
    qhybrid.set_jobs(device, qhybrid.JobPolicy(max_circuits=2))
    node = qhybrid.QNode(_rotation, device)
    node(0.1), node(0.2)
    with pytest.raises(qhybrid.BudgetError, match="2 circuits were used, this call needs 1"):
        node(0.3)
    assert node.explain(0.3).usage.circuits == 2


def test_a_transformed_device_of_our_own_keeps_its_transform():
    model = qml.NoiseModel({qml.noise.op_eq(qml.RX): lambda op, **kwargs: qml.RX(0.2, wires=op.wires)})
    node = qhybrid.QNode(_rotation, qml.add_noise(qml.device("qhybrid.statevector", wires=1), model))
    with pytest.warns(FallbackWarning, match="transforms"):
        assert node(0.3) == pytest.approx(np.cos(0.5))


@pytest.mark.parametrize("method", ["adjoint", "device"])
def test_a_derivative_that_only_pennylane_knows(method):
    device = qml.device("null.qubit", wires=1)
    node = qhybrid.QNode(_rotation, device, diff_method=method)
    with pytest.warns(FallbackWarning, match="PennyLane's on device 'null.qubit'"):
        node(0.3)


def test_readout_errors_are_pennylanes():
    with pytest.raises(CaptureError, match="readout errors"):
        backend_of(qml.device("default.mixed", wires=1, readout_prob=0.1))


def test_what_no_path_can_run_is_pennylanes_error():
    node = qhybrid.QNode(_rotation, qml.device("default.clifford", wires=1))
    with pytest.warns(FallbackWarning, match="default.clifford refuses"), pytest.raises(qml.exceptions.DeviceError):
        node(0.3)


def test_native_derivatives_with_shots_are_refused():
    with pytest.raises(DifferentiationError, match="shots"):
        qml.set_shots(qhybrid.QNode(_rotation, qml.device("default.qubit"), diff_method="adjoint"), 10)(0.3)


def test_matrices_on_reference_qubit():
    """The device measures any Hermitian matrix as if its eigenvalues were 1 and -1."""
    matrix = np.array([[1.0, 0.3], [0.3, -0.2]])

    def circuit(x, measure):
        qml.RX(x, wires=0)
        qml.RY(x, wires=1)
        return measure(qml.Z(1) @ qml.Hermitian(matrix, wires=0) + 0.3 * qml.Hadamard(1))

    device = qml.device("reference.qubit", wires=2)
    expected = qml.QNode(circuit, qml.device("default.qubit"))(0.4, qml.expval)
    assert qhybrid.QNode(circuit, device)(0.4, qml.expval) == pytest.approx(expected)
    with pytest.raises(DeviceError, match="matrices wrongly"):
        qhybrid.QNode(circuit, device)(0.4, qml.var)
