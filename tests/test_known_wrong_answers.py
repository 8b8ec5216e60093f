"""Wrong answers without an error, seen in today's stack: here right, or refused with an error that helps.

The numbers in the test names are those of the list in ``docs/wrong_answers.md``.
"""

from __future__ import annotations

import numpy as np
import pennylane as qml
import pytest
import torch
from pennylane import numpy as pnp
from torch.nn.utils import parametrize, prune

import qhybrid
from qhybrid import CircuitError
from qhybrid.optimize import fubini_study
from qhybrid.qnn import TorchLayer

EXACT = ("adjoint", "parameter-shift", "best", "backprop")


def _device(wires=None, **kwargs):
    return qml.device("qhybrid.statevector", wires=wires, **kwargs)


def _reference(circuit):
    return qml.QNode(circuit, qml.device("default.qubit"), diff_method="backprop")


@pytest.mark.parametrize("method", EXACT)
def test_01_constant_diagonal_unitary_keeps_gradients(method):
    @qhybrid.qnode(_device(), diff_method=method)
    def circuit(x):
        qml.RX(x, wires=0)
        qml.DiagonalQubitUnitary(np.array([1, 1j]), wires=0)
        return qml.expval(qml.Y(0)), qml.expval(qml.Z(0))

    x = torch.tensor(0.5586, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(circuit(x)[1], x)
    assert gradient.item() == pytest.approx(-np.sin(0.5586), abs=1e-12)


@pytest.mark.parametrize("method", EXACT)
@pytest.mark.parametrize("template", ["MultiRZ", "IQPEmbedding", "ApproxTimeEvolution", "CommutingEvolution"])
def test_02_batched_multirz_and_templates(template, method):
    h = qml.Hamiltonian([0.4, 0.3], [qml.X(0) @ qml.X(1), qml.X(1)])

    def circuit(x):
        qml.Hadamard(0)
        qml.RY(0.4, wires=1)
        if template == "MultiRZ":
            qml.MultiRZ(x[..., 0], wires=[0, 1])
        elif template == "IQPEmbedding":
            qml.IQPEmbedding(x, wires=[0, 1])
        elif template == "ApproxTimeEvolution":
            qml.ApproxTimeEvolution(h, x[..., 0], 1)
        else:
            qml.CommutingEvolution(h, x[..., 0])
        return qml.expval(qml.X(0)), qml.expval(qml.Z(1))

    x = np.random.default_rng(0).uniform(-1, 1, (5, 2))
    node, plain = qhybrid.QNode(circuit, _device(), diff_method=method), _reference(circuit)
    t = torch.tensor(x, requires_grad=True)
    out = torch.stack(node(t), -1)
    assert out.shape == (5, 2)
    out.sum().backward()
    for row, value, gradient in zip(x, out.detach(), t.grad, strict=True):
        s = torch.tensor(row, requires_grad=True)
        expected = torch.stack(plain(s))
        expected.sum().backward()
        np.testing.assert_allclose(value, expected.detach(), atol=1e-10)
        np.testing.assert_allclose(gradient, s.grad, atol=1e-10)


@pytest.mark.parametrize("method", EXACT)
def test_03_trainable_hamiltonian_coefficients(method):
    @qhybrid.qnode(_device(), diff_method=method)
    def circuit(c, x):
        qml.RX(x, wires=0)
        return qml.expval(qml.Hamiltonian([c[0], c[1]], [qml.Z(0), qml.Y(0)]))

    c, x = pnp.array([0.3, 0.7], requires_grad=True), pnp.array(0.4, requires_grad=True)
    dc, dx = qml.grad(circuit)(c, x)
    np.testing.assert_allclose(dc, [np.cos(0.4), -np.sin(0.4)], atol=1e-12)
    assert dx == pytest.approx(-0.3 * np.sin(0.4) - 0.7 * np.cos(0.4), abs=1e-12)


@pytest.mark.parametrize("method", EXACT)
def test_04_evolution_under_a_sum(method):
    """<Z> after exp(-i t (X + Z)): (1 + cos(2 sqrt(2) t)) / 2, from the rotation about (1, 0, 1)."""

    @qhybrid.qnode(_device(), diff_method=method)
    def circuit(t):
        qml.evolve(qml.X(0) + qml.Z(0), t)
        return qml.expval(qml.Z(0))

    t = pnp.array(0.6, requires_grad=True)
    s = 2 * np.sqrt(2)
    assert circuit(t) == pytest.approx((1 + np.cos(s * 0.6)) / 2, abs=1e-12)
    assert qml.grad(circuit)(t) == pytest.approx(-s * np.sin(s * 0.6) / 2, abs=1e-12)


def test_05_finite_shot_gradient_through_a_conditional_gate():
    @qhybrid.qnode(_device(seed=7), diff_method="parameter-shift", shots=20_000)
    def circuit(w):
        qml.RY(1.3, wires=0)
        m = qml.measure(0)
        qml.cond(m, qml.RY)(w, wires=1)
        return qml.expval(qml.Z(1))

    probability = np.sin(1.3 / 2) ** 2
    gradient = qml.grad(circuit)(pnp.array(0.9, requires_grad=True))
    assert gradient == pytest.approx(-probability * np.sin(0.9), abs=0.05)


@pytest.mark.parametrize("method", EXACT)
def test_06_hessians_are_not_zero(method):
    @qhybrid.qnode(_device(), diff_method=method)
    def circuit(x):
        qml.RX(x[0], wires=0)
        qml.RY(x[1], wires=0)
        return qml.expval(qml.Z(0))

    a, b = 0.3, 0.8
    expected = -np.array(
        [[np.cos(a) * np.cos(b), -np.sin(a) * np.sin(b)], [-np.sin(a) * np.sin(b), np.cos(a) * np.cos(b)]]
    )
    ours = qml.jacobian(qml.grad(circuit))(pnp.array([a, b], requires_grad=True))
    np.testing.assert_allclose(ours, expected, atol=1e-10)
    ours = torch.autograd.functional.hessian(circuit, torch.tensor([a, b], dtype=torch.float64))
    np.testing.assert_allclose(ours, expected, atol=1e-10)


# ------------------------------------------------------------------ layers


@qhybrid.qnode(qml.device("qhybrid.statevector", wires=2))
def layer_circuit(inputs, weights):
    qml.AngleEmbedding(inputs, wires=[0, 1])
    qml.BasicEntanglerLayers(weights, wires=[0, 1])
    return qml.expval(qml.Z(0)), qml.expval(qml.Z(1))


def _layer() -> TorchLayer:
    torch.manual_seed(0)
    return TorchLayer(layer_circuit, {"weights": (2, 2)})


def test_07_functional_call_uses_the_given_parameters():
    layer, x = _layer(), torch.rand(3, 2)
    other = {"weights": torch.rand(2, 2)}
    given = torch.func.functional_call(layer, other, x)
    assert not torch.allclose(given, layer(x))
    gradient = torch.func.grad(lambda p: torch.func.functional_call(layer, p, x).sum())(other)["weights"]
    assert gradient.abs().max() > 1e-3


def test_08_assigned_tied_parametrized_and_pruned_weights_count():
    layer, twin, x = _layer(), _layer(), torch.rand(3, 2)
    before = layer(x)
    layer.load_state_dict({"weights": torch.rand(2, 2)}, assign=True)
    assert not torch.allclose(layer(x), before)
    twin.weights = layer.weights
    torch.testing.assert_close(twin(x), layer(x))
    parametrize.register_parametrization(twin, "weights", torch.nn.Tanh())
    assert not torch.allclose(twin(x), layer(x))
    pruned = _layer()
    prune.l1_unstructured(pruned, "weights", amount=2)
    assert (pruned.weights == 0).sum() == 2
    assert not torch.allclose(pruned(x), _layer()(x))


def test_09_changed_weights_between_forward_and_backward_are_caught():
    @qhybrid.qnode(_device(), diff_method="parameter-shift")
    def circuit(w):
        qml.RX(w, wires=0)
        return qml.expval(qml.Z(0))

    w = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    out = circuit(w)
    with torch.no_grad():
        w += 1.0
    try:
        out.backward()
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert w.grad.item() == pytest.approx(-np.sin(0.4), abs=1e-12)


def test_10_amplitude_embedding_of_zero_features_has_finite_gradients():
    @qhybrid.qnode(_device(), diff_method="adjoint")
    def circuit(features):
        qml.AmplitudeEmbedding(features, wires=[0, 1], pad_with=0.3, normalize=True)
        qml.CNOT([0, 1])
        return qml.expval(qml.X(1))

    features = [0.0, 1.5, 0.0]
    ours, plain = (torch.tensor(features, dtype=torch.float64, requires_grad=True) for _ in range(2))
    circuit(ours).backward()
    _reference(circuit.func)(plain).backward()
    assert torch.isfinite(ours.grad).all()
    torch.testing.assert_close(ours.grad, plain.grad)


def test_11_a_layer_that_returns_a_state_stays_complex():
    @qhybrid.qnode(_device(wires=1))
    def circuit(inputs, w):
        qml.RX(inputs[..., 0], wires=0)
        qml.RZ(w, wires=0)
        return qml.state()

    out = TorchLayer(circuit, {"w": ()})(torch.rand(4, 1))
    assert out.is_complex()
    assert out.imag.abs().max() > 0.01


@pytest.mark.parametrize(("dtype", "out"), [(torch.float32, torch.float32), (torch.float64, torch.float64)])
def test_12_results_keep_the_dtype_of_the_inputs(dtype, out):
    @qhybrid.qnode(_device(wires=1), diff_method="adjoint")
    def circuit(x):
        qml.RX(x, wires=0)
        return qml.expval(qml.Z(0))

    x = torch.tensor(0.3, dtype=dtype, requires_grad=True)
    assert circuit(x).dtype == out
    if dtype == torch.float64:
        assert torch.autograd.gradcheck(circuit, x)


def test_13_tuples_give_one_column_a_measurement():
    assert _layer()(torch.rand(5, 2)).shape == (5, 2)


def test_14_a_batch_axis_taken_for_features_is_an_error_in_a_layer():
    @qhybrid.qnode(_device(wires=3))
    def circuit(inputs, w):
        for i in range(3):
            qml.RX(inputs[i], wires=i)
        qml.RY(w, wires=0)
        return qml.expval(qml.Z(0))

    layer = TorchLayer(circuit, {"w": ()})
    for batch in (5, 3):
        with pytest.raises(CircuitError, match=r"batch axis for a feature axis.*inputs\[\.\.\., i\]"):
            layer(torch.rand(batch, 3))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_15_no_derivative_work_without_gradients(context, monkeypatch):
    from qhybrid_devices.statevector.executable import StateVectorExecutable
    from qhybrid_devices.statevector.small import SmallRun

    def forbidden(*args, **kwargs):
        raise AssertionError("a derivative was computed")

    monkeypatch.setattr(StateVectorExecutable, "vjp", forbidden)
    monkeypatch.setattr(SmallRun, "vjp", forbidden)
    with context():
        assert _layer()(torch.rand(3, 2)).shape == (3, 2)


@pytest.mark.parametrize("method", EXACT)
def test_16_shared_parameters_and_controlled_rotations(method):
    def circuit(x):
        qml.Hadamard(0)
        qml.CRX(x[0], wires=[0, 1])
        qml.RY(x[0] * 2, wires=1)
        qml.CRX(x[1], wires=[1, 0])
        qml.RY(x[0], wires=0)
        return qml.expval(qml.Z(1) @ qml.X(0))

    x = pnp.array([0.7, -1.1], requires_grad=True)
    ours = qml.grad(qhybrid.QNode(circuit, _device(), diff_method=method))(x)
    np.testing.assert_allclose(ours, qml.grad(_reference(circuit))(x), atol=1e-10)
    layer = _layer()
    inputs = torch.rand(2, 2, requires_grad=True)
    layer(inputs).sum().backward()
    assert inputs.grad.abs().max() > 1e-3


@pytest.mark.parametrize("gate", [qml.CRX, qml.CRY, qml.CRZ])
def test_17_metric_of_controlled_rotations(gate):
    def circuit(x):
        qml.RX(0.8, wires=0)
        qml.RY(0.3, wires=1)
        gate(x, wires=[0, 1])
        return qml.expval(qml.Z(0))

    # the generator is (1 - Z) P / 4, and on the product state that it meets its variance is this
    probability, mean = np.sin(0.4) ** 2, {"CRX": np.sin(0.3), "CRY": 0.0, "CRZ": np.cos(0.3)}[gate.__name__]
    expected = (probability - (probability * mean) ** 2) / 4
    for approx in (None, "block-diag", "diag"):
        metric = fubini_study(qhybrid.QNode(circuit, _device()), approx)(pnp.array(0.4, requires_grad=True))
        np.testing.assert_allclose(metric.dense(), [[expected]], atol=1e-12)
