"""The metric agrees with the state's own derivatives and with PennyLane, in whatever way its products are made."""

from __future__ import annotations

import numpy as np
import pennylane as qml
import pytest
import torch
from pennylane import numpy as pnp
from scipy.sparse.linalg import cg

import qhybrid
from qhybrid.errors import DifferentiationError
from qhybrid.optimize import Metric, fubini_study
from qhybrid.optimize.classical import AutogradJacobian, GatheredJacobian
from qhybrid.optimize.classical_torch import TorchJacobian
from tests.optimize.circuits import CIRCUITS, FOR_PENNYLANE, WIRES, entangled_layers


def qnode_of(gates, device="qhybrid.statevector", **kwargs):
    @qhybrid.qnode(qml.device(device, wires=WIRES), **kwargs)
    def circuit(*args):
        gates(*args)
        return qml.expval(qml.Z(0))

    return circuit


def trained(args):
    return tuple(pnp.array(a, requires_grad=True) for a in args)


def expected_metric(gates, args):
    """From the Jacobian of default.qubit's state."""

    @qml.qnode(qml.device("default.qubit", wires=WIRES), interface="torch", diff_method="backprop")
    def state(*args):
        gates(*args)
        return qml.state()

    tensors = tuple(torch.tensor(a, requires_grad=True) for a in args)
    psi = state(*tensors).detach().numpy()
    parts = torch.autograd.functional.jacobian(lambda *a: torch.view_as_real(state(*a)), tensors)
    jacobian = np.concatenate([p.numpy().reshape(2**WIRES, 2, -1) for p in parts], axis=2)
    jacobian = jacobian[:, 0] + 1j * jacobian[:, 1]
    jacobian -= np.outer(psi, psi.conj() @ jacobian)
    return (jacobian.conj().T @ jacobian).real


@pytest.mark.parametrize("name", CIRCUITS)
def test_agrees_with_the_derivatives_of_the_state(name):
    gates, args = CIRCUITS[name]
    metric = fubini_study(qnode_of(gates))(*trained(args))
    expected = expected_metric(gates, args)
    vectors = np.random.default_rng(1).normal(size=(len(expected), 3))
    np.testing.assert_allclose(metric.dense(), expected, atol=1e-10)
    np.testing.assert_allclose(metric @ vectors, expected @ vectors, atol=1e-10)
    np.testing.assert_allclose(metric @ vectors[:, 0], expected @ vectors[:, 0], atol=1e-10)
    np.testing.assert_allclose(metric.T @ vectors[:, 0], expected @ vectors[:, 0], atol=1e-10)
    np.testing.assert_allclose(metric.diagonal(), np.diag(expected), atol=1e-10)


@pytest.mark.parametrize("name", CIRCUITS)
def test_torch_arguments_give_the_same(name):
    gates, args = CIRCUITS[name]
    tensors = tuple(torch.tensor(a, requires_grad=True) for a in args)
    metric = fubini_study(qnode_of(gates))(*tensors)
    assert all(a is b for a, b in zip(metric.trained, tensors, strict=True))
    expected = expected_metric(gates, args)
    np.testing.assert_allclose(metric.dense(), expected, atol=1e-10)
    np.testing.assert_allclose(metric @ np.eye(len(expected)), expected, atol=1e-10)


@pytest.mark.parametrize("approx", [None, "block-diag", "diag"])
@pytest.mark.parametrize("name", FOR_PENNYLANE)
def test_agrees_with_pennylane(name, approx):
    gates, args = CIRCUITS[name]
    args = trained(args)
    reference = qnode_of(gates)
    reference = qml.QNode(reference.func, qml.device("default.qubit", wires=WIRES + 1))
    expected = qml.metric_tensor(reference, approx=approx)(*args)
    found = fubini_study(qnode_of(gates), approx)(*args).dense()
    start = 0
    for arg, block in zip(args, expected if isinstance(expected, tuple) else (expected,), strict=True):
        part = slice(start, start + arg.size)
        np.testing.assert_allclose(found[part, part], np.reshape(block, (arg.size, arg.size)), atol=1e-9)
        start += arg.size
    assert start == len(found)


@pytest.mark.parametrize("name", CIRCUITS)
def test_approximations_of_one_metric(name):
    gates, args = CIRCUITS[name]
    circuit, args = qnode_of(gates), trained(args)
    full, blocks, diagonal = (fubini_study(circuit, a)(*args) for a in (None, "block-diag", "diag"))
    np.testing.assert_allclose(full.block_diagonal(), blocks.dense(), atol=1e-12)
    np.testing.assert_allclose(blocks.diagonal(), np.diag(blocks.dense()), atol=1e-12)
    np.testing.assert_allclose(diagonal.diagonal(), np.diag(diagonal.dense()), atol=1e-12)
    if name == "layers":  # where an argument feeds one gate, the diagonals are the same
        np.testing.assert_allclose(diagonal.dense(), np.diag(full.diagonal()), atol=1e-12)
        np.testing.assert_allclose(full.diagonal_estimate(), full.diagonal(), atol=1e-12)
        assert np.abs(blocks.dense() - diagonal.dense()).max() > 0.01
        assert np.abs(blocks.dense() - full.dense()).max() > 0.01


@pytest.mark.parametrize("approx", [None, "block-diag", "diag"])
def test_batch_has_the_mean_of_its_samples(approx):
    @qhybrid.qnode(qml.device("qhybrid.statevector", wires=WIRES))
    def circuit(inputs, w):
        qml.AngleEmbedding(inputs, wires=range(WIRES))
        entangled_layers(w)
        return qml.expval(qml.Z(0))

    rng = np.random.default_rng(3)
    inputs, w = pnp.array(rng.normal(size=(4, WIRES)), requires_grad=False), trained(CIRCUITS["layers"][1])[0]
    of_batch = fubini_study(circuit, approx)(inputs, w)
    each = [fubini_study(circuit, approx)(x, w) for x in inputs]
    np.testing.assert_allclose(of_batch.dense(), np.mean([m.dense() for m in each], axis=0), atol=1e-12)
    np.testing.assert_allclose(of_batch @ np.arange(12.0), np.mean([m @ np.arange(12.0) for m in each], 0), atol=1e-12)
    np.testing.assert_allclose(of_batch.diagonal(), np.diag(of_batch.dense()), atol=1e-12)
    np.testing.assert_allclose(
        of_batch.diagonal_estimate(), np.mean([m.diagonal_estimate() for m in each], axis=0), atol=1e-12
    )


def test_trained_inputs_of_a_batch():
    @qhybrid.qnode(qml.device("qhybrid.statevector", wires=1))
    def circuit(x):
        qml.RX(x[..., 0], wires=0)
        qml.RZ(x[..., 1], wires=0)
        return qml.expval(qml.Z(0))

    x = pnp.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], requires_grad=True)
    expected = np.diag(np.stack([np.full(3, 0.25), np.sin([0.1, 0.3, 0.5]) ** 2 / 4], axis=1).ravel()) / 3
    for approx in (None, "block-diag", "diag"):
        np.testing.assert_allclose(fubini_study(circuit, approx)(x).dense(), expected, atol=1e-12)


def test_trained_unitaries_and_amplitudes():
    def gates(w):
        amplitudes = qml.math.stack([qml.math.cos(w[0]), qml.math.sin(w[0])])
        qml.StatePrep(amplitudes, wires=0)
        c, s = qml.math.cos(w[1]), qml.math.sin(w[1])
        qml.QubitUnitary(qml.math.stack([qml.math.stack([c, -s]), qml.math.stack([s, c])]), wires=1)
        qml.CNOT([0, 1])
        qml.RX(w[2], wires=2)
        qml.IsingXX(w[2], wires=[1, 2])

    w = np.array([0.3, 0.5, 0.7])
    for arg in (pnp.array(w, requires_grad=True), torch.tensor(w, requires_grad=True)):
        metric = fubini_study(qnode_of(gates))(arg)
        np.testing.assert_allclose(metric @ np.eye(3), expected_metric(gates, (w,)), atol=1e-10)
        with pytest.raises(DifferentiationError, match="approx=None"):
            metric.block_diagonal()


@pytest.mark.parametrize(("name", "kind"), [("layers", GatheredJacobian), ("shared angle", GatheredJacobian)])
def test_plain_arguments_need_no_host(name, kind):
    gates, args = CIRCUITS[name]
    for values in (trained(args), tuple(torch.tensor(a, requires_grad=True) for a in args)):
        assert isinstance(fubini_study(qnode_of(gates))(*values).point.classical, kind)


def test_functions_of_arguments_are_left_to_the_host():
    gates, args = CIRCUITS["functions"]
    circuit = qnode_of(gates)
    assert isinstance(fubini_study(circuit)(*trained(args)).point.classical, AutogradJacobian)
    tensors = tuple(torch.tensor(a, requires_grad=True) for a in args)
    assert isinstance(fubini_study(circuit)(*tensors).point.classical, TorchJacobian)


@pytest.mark.parametrize("batch", [0, 3])
@pytest.mark.parametrize("function", [qml.math.sin, lambda x: 2 * x])
def test_arrays_beside_a_captured_tensor(function, batch):
    """The host is PyTorch's, the arguments are PennyLane's."""
    captured = torch.tensor(0.7, requires_grad=True, dtype=torch.float64)

    def circuit(turn):
        @qhybrid.qnode(qhybrid.device("qhybrid.statevector", wires=2))
        def node(x, w):
            qml.AngleEmbedding(x, wires=range(2))
            qml.RY(function(w[0]), wires=0)
            qml.CNOT([0, 1])
            qml.RX(w[1], wires=1)
            qml.RY(turn, wires=1)
            return qml.expval(qml.Z(1))

        return node

    x, w = pnp.array(np.full((batch, 2), 0.4), requires_grad=False), pnp.array([0.3, 0.8], requires_grad=True)
    found, expected = (fubini_study(circuit(turn))(x, w) @ np.eye(2) for turn in (captured, 0.7))
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_estimate_of_the_diagonal_with_functions_of_arguments():
    gates, args = CIRCUITS["functions"]
    metric = fubini_study(qnode_of(gates))(*trained(args))
    exact = fubini_study(qnode_of(gates), "diag")(*trained(args)).diagonal()
    np.testing.assert_allclose(metric.diagonal_estimate(), exact, rtol=0.6)


def test_argnums_choose_what_is_trained():
    gates, args = CIRCUITS["shared angle"]
    circuit = qnode_of(gates)
    whole = expected_metric(gates, args)
    np.testing.assert_allclose(fubini_study(circuit, argnums=(0, 1))(*args).dense(), whole, atol=1e-10)
    np.testing.assert_allclose(fubini_study(circuit, argnums=1)(*args).dense(), whole[-1:, -1:], atol=1e-10)
    constant = (pnp.array(args[0], requires_grad=False), pnp.array(args[1], requires_grad=True))
    np.testing.assert_allclose(fubini_study(circuit)(*constant).dense(), whole[-1:, -1:], atol=1e-10)


def test_untrained_angles_part_no_layers():
    """PennyLane's layers, too, are those of the trained gates alone."""

    def gates(w, x):
        qml.RY(w[0], wires=0)
        qml.RX(x, wires=0)
        qml.RY(w[1], wires=1)
        qml.CNOT([0, 1])
        qml.RZ(w[2], wires=1)

    w, x = pnp.array([0.1, 0.2, 0.3], requires_grad=True), pnp.array(0.4, requires_grad=False)
    circuit = qnode_of(gates)
    reference = qml.QNode(circuit.func, qml.device("default.qubit", wires=WIRES))
    expected = qml.metric_tensor(reference, approx="block-diag")(w, x)
    np.testing.assert_allclose(fubini_study(circuit, "block-diag")(w, x).dense(), expected, atol=1e-10)


def test_solves_with_scipy():
    gates, args = CIRCUITS["layers"]
    metric = fubini_study(qnode_of(gates))(*trained(args))
    assert isinstance(metric, Metric)
    target = metric @ np.arange(12.0)
    solution, failed = cg(metric, target, rtol=1e-10)
    assert not failed
    np.testing.assert_allclose(metric @ solution, target, atol=1e-8)


def test_split_gives_the_shapes_of_the_arguments():
    gates, args = CIRCUITS["shared angle"]
    first, second = fubini_study(qnode_of(gates))(*trained(args)).split(np.arange(4.0))
    np.testing.assert_array_equal(first, [0, 1, 2])
    assert second.shape == ()
    assert second == 3


def test_metric_of_a_parameter_that_only_measures_is_zero():
    @qhybrid.qnode(qml.device("qhybrid.statevector", wires=1))
    def circuit(w, c):
        qml.RX(w, wires=0)
        return qml.expval(qml.Hamiltonian([c[0], c[1]], [qml.Z(0), qml.X(0)]))

    metric = fubini_study(circuit)(pnp.array(0.3, requires_grad=True), pnp.array([1.0, 2.0], requires_grad=True))
    np.testing.assert_allclose(metric.dense(), np.diag([0.25, 0, 0]), atol=1e-12)
    np.testing.assert_allclose(metric.block_diagonal(), np.diag([0.25, 0, 0]), atol=1e-12)


def test_device_without_native_derivatives():
    gates, args = CIRCUITS["shared angle"]
    metric = fubini_study(qnode_of(gates, "lightning.qubit"))(*trained(args))
    np.testing.assert_allclose(metric.dense(), expected_metric(gates, args), atol=1e-9)
    np.testing.assert_allclose(metric @ np.eye(4), expected_metric(gates, args), atol=1e-9)


def test_empty_batch_has_a_metric_of_zero():
    @qhybrid.qnode(qml.device("qhybrid.statevector", wires=2))
    def circuit(inputs, w):
        qml.AngleEmbedding(inputs, wires=range(2))
        qml.RY(w[0], wires=0)
        return qml.expval(qml.Z(0))

    inputs, w = pnp.zeros((0, 2), requires_grad=False), pnp.array([0.3], requires_grad=True)
    metric = fubini_study(circuit)(inputs, w)
    for found in (metric.dense(), metric @ np.eye(1), metric.block_diagonal(), metric.diagonal_estimate()):
        np.testing.assert_array_equal(found, np.zeros(found.shape))


def test_containers_and_keyword_arguments():
    @qhybrid.qnode(qml.device("qhybrid.statevector", wires=1))
    def circuit(params, x):
        qml.RX(params["a"], wires=0)
        qml.RZ(params["b"][0], wires=0)
        qml.RX(x, wires=0)
        return qml.expval(qml.Z(0))

    a, b, x = (pnp.array(v, requires_grad=True) for v in (0.3, 0.5, 0.7))
    metric = fubini_study(circuit)({"a": a, "b": [b]}, x=x)
    assert [t is v for t, v in zip(metric.trained, (a, b, x), strict=True)] == [True] * 3
    np.testing.assert_allclose(metric.diagonal()[:2], [0.25, np.sin(0.3) ** 2 / 4], atol=1e-12)


def test_single_precision():
    gates, args = CIRCUITS["layers"]

    @qhybrid.qnode(qml.device("qhybrid.statevector", wires=WIRES, c_dtype=np.complex64))
    def circuit(w):
        gates(w)
        return qml.expval(qml.Z(0))

    metric = fubini_study(circuit)(*trained(args))
    expected = expected_metric(gates, args)
    np.testing.assert_allclose(metric.dense(), expected, atol=1e-5)
    np.testing.assert_allclose(metric @ np.eye(12), expected, atol=1e-5)


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize("argnums", [2, -3, (0, 5)])
def test_arguments_that_are_not_there_are_refused(argnums):
    gates, args = CIRCUITS["shared angle"]
    with pytest.raises(DifferentiationError, match="argnums"):
        fubini_study(qnode_of(gates), argnums=argnums)(*args)


def test_arguments_may_be_counted_from_the_end():
    gates, args = CIRCUITS["shared angle"]
    last, named = (fubini_study(qnode_of(gates), argnums=a)(*args).dense() for a in (-1, len(args) - 1))
    np.testing.assert_array_equal(last, named)


def test_function_that_cannot_be_traced_is_refused():
    numbers = np.random.default_rng(0)

    @qhybrid.qnode(qml.device("qhybrid.statevector", wires=1))
    def circuit(x):
        qml.RX(x + numbers.normal(), wires=0)
        return qml.expval(qml.Z(0))

    with pytest.raises(DifferentiationError, match=r"qml\.metric_tensor"):
        fubini_study(circuit)(pnp.array(0.3, requires_grad=True))


def test_shots_are_refused_with_what_works():
    gates, args = CIRCUITS["layers"]
    circuit = qml.set_shots(qnode_of(gates), shots=100)
    with pytest.raises(DifferentiationError, match=r"shots=100.*qml\.metric_tensor"):
        fubini_study(circuit)(*trained(args))


def test_noise_is_refused_with_what_works():
    @qhybrid.qnode(qml.device("qhybrid.aer", wires=1))
    def circuit(x):
        qml.RX(x, wires=0)
        qml.DepolarizingChannel(0.1, wires=0)
        return qml.expval(qml.Z(0))

    with pytest.raises(DifferentiationError, match=r"mixed.*qml\.metric_tensor"):
        fubini_study(circuit)(pnp.array(0.3, requires_grad=True))


def test_postselection_is_refused():
    @qhybrid.qnode(qml.device("qhybrid.statevector", wires=2))
    def circuit(x):
        qml.RX(x, wires=0)
        qml.CNOT([0, 1])
        qml.measure(0, postselect=1)
        return qml.expval(qml.Z(1))

    with pytest.raises(DifferentiationError, match="postselects"):
        fubini_study(circuit)(pnp.array(0.3, requires_grad=True))


def test_measurements_inside_a_circuit_are_refused():
    """The state does not depend on ``x``; the deferred one, with one more wire or not, does."""

    @qhybrid.qnode(qml.device("qhybrid.statevector", wires=2))
    def circuit(x):
        qml.RX(0.7, wires=0)
        qml.measure(0)
        qml.RZ(x, wires=0)
        return qml.expval(qml.Z(0))

    with pytest.raises(DifferentiationError, match="measures inside the circuit"):
        fubini_study(circuit)(pnp.array(0.3, requires_grad=True))


def test_nothing_trained_is_refused():
    gates, args = CIRCUITS["layers"]
    with pytest.raises(DifferentiationError, match="requires_grad=True"):
        fubini_study(qnode_of(gates))(*args)


def test_complex_arguments_are_refused():
    @qhybrid.qnode(qml.device("qhybrid.statevector", wires=1))
    def circuit(u):
        qml.QubitUnitary(u, wires=0)
        return qml.expval(qml.Z(0))

    with pytest.raises(DifferentiationError, match="real and imaginary"):
        fubini_study(circuit)(pnp.array(np.eye(2, dtype=complex), requires_grad=True))


def test_unknown_approximation_is_refused():
    with pytest.raises(DifferentiationError, match="block-diag"):
        fubini_study(qnode_of(entangled_layers), "blocks")


def test_pennylanes_qnode_is_refused():
    with pytest.raises(TypeError, match=r"qhybrid\.qnode"):
        fubini_study(qml.QNode(entangled_layers, qml.device("default.qubit", wires=WIRES)))
