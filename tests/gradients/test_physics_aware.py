"""Values come from the device, derivatives from the twin, in every host; the device runs nothing else."""

from __future__ import annotations

import copy
import pickle

import autograd
import numpy as np
import pennylane as qml
import pytest
import torch
from pennylane import numpy as pnp

import qhybrid
from qhybrid.errors import DeviceError, DifferentiationError
from qhybrid.gradients import PhysicsAware

X, W = np.array([0.3, -0.8, 1.4]), np.array([0.2, 0.7])
SHOTS = 200


def circuit(inputs, weights):
    qml.RX(inputs, wires=0)
    qml.RY(weights[0], wires=0)
    qml.CNOT(wires=[0, 1])
    qml.RY(weights[1], wires=1)
    return qml.expval(qml.Z(0)), qml.expval(qml.Z(1))


def exact():
    return qhybrid.QNode(circuit, qml.device("qhybrid.statevector", wires=2))


def device(**kwargs):
    return qml.device("qhybrid.aer", wires=2, seed=1, **kwargs)


def aware(on=None, twin="qhybrid.statevector", shots=SHOTS, **kwargs):
    node = qhybrid.QNode(circuit, on or device(), diff_method=PhysicsAware(twin=twin), **kwargs)
    return qml.set_shots(node, shots)


def tensors(grad=True):
    return [torch.tensor(a, requires_grad=grad) for a in (X, W)]


def value(node):
    return lambda *args: torch.stack(node(*args)).square().sum()


def test_values_are_the_devices_and_derivatives_the_twins():
    on = device()
    node = aware(on)
    x, w = tensors()
    results = torch.stack(node(x, w))
    whole = results.detach() * SHOTS / 2 + SHOTS / 2  # counts of outcomes, which are whole numbers
    torch.testing.assert_close(whole, whole.round(), atol=1e-9, rtol=0)
    gradients = torch.autograd.grad(results, (x, w), torch.ones_like(results))
    expected = torch.autograd.grad(torch.stack(exact()(x, w)).sum(), (x, w))
    for found, own in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found, own, atol=1e-12, rtol=0)


def test_chain_rule_starts_from_the_devices_values():
    x, w = tensors()
    node = aware()
    results = torch.stack(node(x, w))
    (found,) = torch.autograd.grad(results.square().sum(), w)
    jacobian = torch.autograd.functional.jacobian(lambda w: torch.stack(exact()(x.detach(), w)), w.detach())
    expected = torch.einsum("rb,rbw->w", 2 * results.detach(), jacobian)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("shots", [None, SHOTS])
def test_the_device_is_sent_forward_passes_only(shots):
    on = device()
    node, (x, w) = aware(on, shots=shots), tensors()
    for step in range(1, 4):
        value(node)(x, w).backward()
        assert qhybrid.jobs_of(on).usage.circuits == step * len(X)
        assert qhybrid.jobs_of(on).usage.shots == step * len(X) * (shots or 0)


def test_tracker_counts_forward_passes_only():
    on = device()
    node = aware(on)
    with qml.Tracker(on) as tracker:
        gradient = qml.grad(lambda w: sum(node(0.3, w)))(pnp.array(W))
    assert tracker.totals["executions"] == 1
    np.testing.assert_allclose(gradient, qml.grad(lambda w: sum(exact()(0.3, w)))(pnp.array(W)), atol=1e-12)


def test_autograd():
    node, w = aware(), pnp.array(W)
    found = qml.jacobian(lambda w: pnp.stack(node(X, w)))(w)
    np.testing.assert_allclose(found, qml.jacobian(lambda w: pnp.stack(exact()(X, w)))(w), atol=1e-12)
    second = qml.jacobian(qml.grad(lambda w: sum(node(0.3, w))))(w)
    np.testing.assert_allclose(second, qml.jacobian(qml.grad(lambda w: sum(exact()(0.3, w))))(w), atol=1e-12)


def test_optimizer_of_pennylane():
    node, params = aware(shots=500), pnp.array([2.0, 0.5])
    optimizer = qml.GradientDescentOptimizer(0.3)
    for _ in range(60):
        params = optimizer.step(lambda w: node(0.0, w)[0], params)
    assert float(exact()(0.0, params)[0]) == pytest.approx(-1, abs=1e-6)


def test_higher_derivatives_and_transforms_are_the_twins():
    x, w = tensors(grad=False)

    def total(node):
        return lambda w: torch.stack(node(x, w)).sum()

    ours, own = total(aware()), total(exact())
    hessian = torch.autograd.functional.hessian(own, w)
    torch.testing.assert_close(torch.autograd.functional.hessian(ours, w), hessian, atol=1e-12, rtol=0)
    torch.testing.assert_close(torch.func.jacrev(torch.func.jacrev(ours))(w), hessian, atol=1e-12, rtol=0)
    several = torch.stack([w, w + 0.1, w - 0.4])
    found, expected = (torch.func.vmap(torch.func.grad(f))(several) for f in (ours, own))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_forward_mode_is_the_twins():
    on = device()
    node, (x, w) = aware(on), tensors(grad=False)
    tangent = torch.tensor([0.6, -1.1], dtype=torch.float64)

    def stacked(node):
        return lambda w: torch.stack(node(x, w))

    def total(node):
        return lambda w: torch.stack(node(x, w)).sum()

    values, found = torch.func.jvp(stacked(node), (w,), (tangent,))
    whole = values * SHOTS / 2 + SHOTS / 2
    torch.testing.assert_close(whole, whole.round(), atol=1e-9, rtol=0)
    torch.testing.assert_close(found, torch.func.jvp(stacked(exact()), (w,), (tangent,))[1], atol=1e-12, rtol=0)
    assert qhybrid.jobs_of(on).usage.circuits == len(X)
    products = [torch.func.jvp(torch.func.grad(total(n)), (w,), (tangent,))[1] for n in (node, exact())]
    torch.testing.assert_close(*products, atol=1e-12, rtol=0)
    jacobians = [torch.func.jacfwd(stacked(n))(w) for n in (node, exact())]
    torch.testing.assert_close(*jacobians, atol=1e-12, rtol=0)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(w, tangent)
        result = torch.autograd.forward_ad.unpack_dual(stacked(node)(dual))
    torch.testing.assert_close(result.tangent, found, atol=1e-12, rtol=0)
    forward = [
        autograd.make_jvp(lambda w, n=n: pnp.stack(n(0.3, w)))(pnp.array(W))(tangent.numpy())[1]
        for n in (node, exact())
    ]
    np.testing.assert_allclose(*forward, atol=1e-12)


def test_nothing_is_asked_of_the_twin_without_derivatives():
    def refuse(*args):
        raise AssertionError("the twin was called")

    node = aware(twin=refuse)
    node(X, W)
    node(pnp.array(X), pnp.array(W))
    x, w = tensors()
    with torch.no_grad():
        node(x, w)
    node(x.detach(), w.detach())
    with pytest.raises(AssertionError, match="twin was called"):
        node(x, w)


def test_arguments_of_any_structure(capsys):
    @qhybrid.qnode(device(), diff_method=PhysicsAware())
    def nested(params, nothing=None, *, observable, options):
        print("ran")
        qml.RX(params["a"], wires=0)
        qml.RY(params["b"][0], wires=1)
        return {"z": qml.expval(observable), "p": [qml.probs(wires=0)]}

    observable = qml.Hamiltonian([0.5, 0.2], [qml.Z(0), qml.Z(1)])
    for angle in (0.3, 0.9, 1.4, 2.0):
        a, b = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (angle, 0.4))
        result = nested({"a": a, "b": (b, 2)}, None, observable=observable, options=[1, "x", None])
        (result["z"] + result["p"][0][0]).backward()
        assert a.grad.item() == pytest.approx(-0.5 * np.sin(angle) - 0.5 * np.sin(angle))
        assert b.grad.item() == pytest.approx(-0.2 * np.sin(0.4))
    assert capsys.readouterr().out.count("ran") == 4  # the trace and its audit, on the device and on the twin


def test_shot_vectors():
    node = aware(shots=[100, 300])
    w = pnp.array(W)
    found = qml.jacobian(lambda w: pnp.stack([pnp.stack(part) for part in node(0.3, w)]))(w)
    own = qml.jacobian(lambda w: pnp.stack(exact()(0.3, w)))(w)
    np.testing.assert_allclose(found, np.stack([own, own]), atol=1e-12)


def test_layer():
    on = device()
    layer = qhybrid.qnn.TorchLayer(aware(on), {"weights": 2}, init_method={"weights": torch.tensor(W)})
    reference = qhybrid.qnn.TorchLayer(exact(), {"weights": 2}, init_method={"weights": torch.tensor(W)})

    def flat(inputs, weights):
        return circuit(inputs[..., 0], weights)

    layer.qnode = qml.set_shots(qhybrid.QNode(flat, on, diff_method=PhysicsAware()), SHOTS)
    reference.qnode = qhybrid.QNode(flat, qml.device("qhybrid.statevector", wires=2))
    inputs = torch.tensor(X)[:, None].float().requires_grad_()
    result = layer(inputs)
    assert result.shape == (3, 2)
    assert result.dtype == torch.float32
    found = torch.autograd.grad(result.sum(), (inputs, layer.weights))
    expected = torch.autograd.grad(reference(inputs).sum(), (inputs, reference.weights))
    for ours, own in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, own)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # PyTorch's own, behind any break of a graph
def test_a_graph_of_torch_breaks_at_the_call_and_runs_the_device_once():
    on = device()
    node, (x, w) = aware(on), tensors()
    compiled = torch.compile(lambda x, w: torch.stack(node(x, w)).sum() * 2, backend="eager")
    (found,) = torch.autograd.grad(compiled(x, w), w)
    assert qhybrid.jobs_of(on).usage.circuits == len(X)
    (expected,) = torch.autograd.grad(2 * torch.stack(exact()(x, w)).sum(), w)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


# ------------------------------------------------------------------ twins


def over_rotated(op, **kwargs):
    """A gate that turns too far, which the device does and the twin does not know."""
    qml.RY(0.3 * op.parameters[0], wires=op.wires)


def test_the_twin_knows_nothing_of_the_devices_noise_model():
    model = qml.NoiseModel({qml.noise.op_eq(qml.RY): over_rotated})
    node, (x, w) = aware(device(noise_model=model), shots=None), tensors()
    results = torch.stack(node(x, w))
    true = torch.stack(exact()(x, 1.3 * w)).detach()
    torch.testing.assert_close(results.detach(), true, atol=1e-9, rtol=0)
    (found,) = torch.autograd.grad(results.sum(), w)
    (expected,) = torch.autograd.grad(torch.stack(exact()(x, w)).sum(), w)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


def test_noisy_twin():
    model = qml.NoiseModel({qml.noise.op_eq(qml.RY): qml.noise.partial_wires(qml.DepolarizingChannel, 0.1)})
    twin = qml.device("qhybrid.aer", wires=2, noise_model=model)
    node, (_, w) = aware(twin=twin), tensors()
    (found,) = torch.autograd.grad(torch.stack(node(0.3, w)).sum(), w)
    noisy = qhybrid.QNode(circuit, twin)
    (expected,) = torch.autograd.grad(torch.stack(noisy(0.3, w)).sum(), w)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    clean = torch.autograd.functional.jacobian(lambda w: torch.stack(exact()(0.3, w)), w.detach()).sum(0)
    assert not torch.allclose(found, clean, atol=1e-2)
    assert "the twin qhybrid.aer by parameter-shift" in node.explain(0.3, w).method_reason


@pytest.mark.parametrize("name", ["default.qubit", "default.mixed", "lightning.qubit"])
def test_twins_of_pennylane(name):
    node, (_, w) = aware(twin=qml.device(name, wires=2)), tensors()
    (found,) = torch.autograd.grad(torch.stack(node(0.3, w)).sum(), w)
    (expected,) = torch.autograd.grad(torch.stack(exact()(0.3, w)).sum(), w)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


def test_calibrated_twin():
    factor = torch.tensor(1.3, dtype=torch.float64)

    def calibrated(inputs, weights):
        return circuit(inputs, factor * weights)

    twin = qhybrid.QNode(calibrated, qml.device("qhybrid.statevector", wires=2))
    node, (x, w) = aware(twin=twin), tensors()
    (found,) = torch.autograd.grad(torch.stack(node(x, w)).sum(), w)
    (expected,) = torch.autograd.grad(torch.stack(exact()(x, 1.3 * w)).sum(), w)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


NOT_FINITE = "twin of PhysicsAware gives NaN or infinity"


def _rotation(x):
    qml.RX(x, wires=0)
    return qml.expval(qml.Z(0))


def _with_twin(twin):
    return qhybrid.QNode(_rotation, qml.device("qhybrid.statevector", wires=1), diff_method=PhysicsAware(twin=twin))


@pytest.mark.parametrize("twin", [lambda x: torch.log(-x), lambda x: 1 / (x - 0.3)])
def test_a_twin_that_is_not_finite_has_no_derivative_and_leaves_values_alone(twin):
    node, x = _with_twin(twin), torch.tensor(0.3, dtype=torch.float64)
    tracked = x.clone().requires_grad_()
    found = node(tracked)
    assert found.item() == pytest.approx(np.cos(0.3))
    for derivative in (
        found.backward,
        lambda: torch.func.grad(node)(x),
        lambda: torch.func.jvp(node, (x,), (x,)),
        lambda: torch.func.vmap(torch.func.grad(node))(torch.stack([x - 1, x])),
    ):
        with pytest.raises(DifferentiationError, match=NOT_FINITE):
            derivative()
    x = torch.tensor([-0.7, 0.3], dtype=torch.float64)
    torch.testing.assert_close(torch.func.vmap(node)(x), torch.cos(x))
    good = x[0].clone().requires_grad_()
    (slope,) = torch.autograd.grad(node(good) + x[1], good)
    torch.testing.assert_close(slope, torch.func.grad(twin)(x[0]))


def test_a_twin_that_is_not_finite_in_autograd():
    node = _with_twin(lambda x: pnp.nan * x)
    with pytest.raises(DifferentiationError, match=NOT_FINITE):
        qml.grad(node)(pnp.array(0.3))
    seen = []

    def unrelated(x):
        seen.append(node(x)._value)
        return x**2

    assert qml.grad(unrelated)(pnp.array(0.3)) == pytest.approx(0.6)
    assert seen == pytest.approx([np.cos(0.3)])


def test_a_twin_that_is_not_finite_in_jax():
    jax = pytest.importorskip("jax")
    node = _with_twin(lambda x: jax.numpy.log(-x))
    with pytest.raises(DifferentiationError, match=NOT_FINITE):
        jax.grad(node)(0.3)
    gradient, value = jax.grad(lambda x: (x**2, node(x)), has_aux=True)(0.3)
    assert (gradient, value) == pytest.approx((0.6, np.cos(0.3)))
    value, gradient = jax.jit(jax.value_and_grad(node))(0.3)  # a compiled program cannot raise
    assert value == pytest.approx(np.cos(0.3))
    assert np.isnan(gradient)
    assert jax.jit(jax.grad(node))(-0.3) == pytest.approx(-1 / 0.3)


def test_a_network_as_twin():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(2, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2)).double()

    def twin(inputs, weights):
        return tuple(network(weights))

    node, (_, w) = aware(twin=twin), tensors()
    (found,) = torch.autograd.grad(torch.stack(node(0.3, w)).sum(), w)
    (expected,) = torch.autograd.grad(network(w).sum(), w)
    torch.testing.assert_close(found, expected)
    assert node.explain(0.3, w).method_reason == "forward on qhybrid.aer, backward through the twin twin"


# ------------------------------------------------------------------ what is said and refused


def test_explanation():
    explained = aware().explain(*tensors())
    assert (explained.path, explained.method) == ("compiled", "physics-aware")
    assert explained.method_reason == "forward on qhybrid.aer, backward on the twin qhybrid.statevector by adjoint"
    assert (explained.forward_circuits, explained.gradient_circuits, explained.gradient_executions) == (3, 0, 0)
    assert explained.twin is not None
    assert (explained.twin.method, explained.twin.gradient_executions) == ("adjoint", 3)
    assert "twin:      qhybrid.statevector, 3 executions forward, 3 for a gradient" in str(explained)


def test_results_that_do_not_match():
    node, (_, w) = aware(twin=lambda inputs, weights: weights.sum()), tensors()
    with pytest.raises(DifferentiationError, match=r"shapes \[\(\)\], the device \[\(\), \(\)\]"):
        node(0.3, w)


def _samples():
    return qml.sample(qml.Z(0))


def _counts():
    return qml.expval(qml.Z(0)), qml.counts(wires=[0, 1])


@pytest.mark.parametrize("measured", [_samples, _counts])
@pytest.mark.parametrize("twin", ["qhybrid.statevector", "default.qubit"])
def test_samples_are_the_devices_and_have_no_derivative(measured, twin):
    @qhybrid.qnode(device(), diff_method=PhysicsAware(twin=twin), shots=SHOTS)
    def sampled(x):
        qml.RX(x, wires=0)
        return measured()

    x = torch.tensor(0.3, requires_grad=True)
    with torch.no_grad():
        found = sampled(x)
    assert len(found) == SHOTS if measured is _samples else sum(found[1].values()) == SHOTS
    told = r"QNode sampled returns samples or counts, .* Return expval, var or probs .* torch\.no_grad\(\)"
    with pytest.raises(DifferentiationError, match=told):
        sampled(x)
    with pytest.raises(DifferentiationError, match=told):
        qml.grad(lambda x: sampled(x)[0])(pnp.array(0.3))
    assert sampled.explain(x).method_reason == "forward on qhybrid.aer; samples and counts have no derivative"


def test_bad_twins():
    for twin in (3, None, qml.devices.DefaultQubit, PhysicsAware()):
        with pytest.raises(DifferentiationError, match=r"got twin=.*; give a PennyLane device, the name of one"):
            PhysicsAware(twin=twin)
    with pytest.raises(DeviceError, match=r"no device 'defualt.qubit'. Did you mean 'default.qubit'"):
        qhybrid.QNode(circuit, device(), diff_method=PhysicsAware(twin="defualt.qubit"))


def test_a_trained_value_from_outside_is_an_argument_or_an_error():
    outside = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)

    @qhybrid.qnode(device(), diff_method=PhysicsAware())
    def reads_outside():
        qml.RX(outside, wires=0)
        return qml.expval(qml.Z(0))

    reads_outside().backward()
    assert outside.grad.item() == pytest.approx(-np.sin(0.4))


def test_transforms_of_pennylane():
    on = qml.device("qhybrid.statevector", wires=2)
    node = qml.transforms.merge_rotations(aware(on, shots=None))
    w = pnp.array(W)
    with pytest.warns(qhybrid.FallbackWarning, match="carries PennyLane transforms"):
        found = qml.grad(lambda w: sum(node(0.3, w)))(w)
    np.testing.assert_allclose(found, qml.grad(lambda w: sum(exact()(0.3, w)))(w), atol=1e-9)
    metric = qml.metric_tensor(aware(on, shots=None), approx="block-diag")(0.3, w)
    np.testing.assert_allclose(metric, qml.metric_tensor(exact(), approx="block-diag")(0.3, w), atol=1e-9)


def test_copies_and_pickles():
    @qhybrid.qnode(device(), diff_method=PhysicsAware())
    def local(x):
        qml.RX(x, wires=0)
        return qml.expval(qml.Z(0))

    assert qml.grad(copy.deepcopy(local))(pnp.array(0.3)) == pytest.approx(-np.sin(0.3))
    assert qml.grad(local.update(diff_method="parameter-shift"))(pnp.array(0.3)) == pytest.approx(-np.sin(0.3))
    loaded = pickle.loads(pickle.dumps(aware(twin=qml.device("lightning.qubit", wires=2))))
    assert isinstance(loaded.explain(0.3, W).twin, qhybrid.Explanation)
