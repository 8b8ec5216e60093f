"""The optimizer of PyTorch: layers and QNodes, closures, saved states, and steps that are whole or not at all."""

from __future__ import annotations

import copy
import io
from functools import partial

import numpy as np
import pennylane as qml
import pytest
import torch
from pennylane import numpy as pnp

import qhybrid
from qhybrid.errors import DifferentiationError
from qhybrid.optimize import NaturalGradient, TorchNaturalGradient, fubini_study
from tests.optimize.circuits import ising_ansatz, tfim

WIRES = 3


@qhybrid.qnode(qml.device("qhybrid.statevector", wires=WIRES))
def energy(w):
    ising_ansatz(w)
    return qml.expval(tfim(WIRES))


@qhybrid.qnode(qml.device("qhybrid.statevector", wires=2))
def classifier(inputs, first, second):
    qml.AngleEmbedding(inputs, wires=range(2))
    for i in range(2):
        qml.RY(first[i], wires=i)
    qml.CNOT([0, 1])
    qml.RY(second, wires=1)
    return qml.expval(qml.Z(1))


def weights(dtype=torch.double):
    values = np.random.default_rng(2).normal(0, 0.3, (3, 2 * WIRES - 1))
    return torch.tensor(values, dtype=dtype, requires_grad=True)


def minimize(optimizer, w, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        loss = energy(w)
        loss.backward()
        optimizer.step()
    return energy(w).item()


def layer_and_data(dtype=torch.double):
    torch.manual_seed(0)
    layer = qhybrid.qnn.TorchLayer(classifier, {"first": 2, "second": 1}).to(dtype)
    inputs = torch.randn(6, 2, dtype=dtype)
    return layer, inputs, torch.sign(inputs[:, 0])


def closure_of(optimizer, layer, inputs, labels):
    def closure():
        optimizer.zero_grad()
        loss = ((layer(inputs) - labels) ** 2).mean()
        loss.backward()
        return loss

    return closure


def test_step_is_that_of_the_other_optimizer():
    w = weights()
    optimizer = TorchNaturalGradient([w], lambda: fubini_study(energy)(w), lr=0.2, damping=0.01, tolerance=1e-10)
    before = pnp.array(w.detach().numpy().copy(), requires_grad=True)
    expected = NaturalGradient(0.2, damping=0.01, tolerance=1e-10).step(energy, before)
    minimize(optimizer, w, 1)
    np.testing.assert_allclose(w.detach().numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.double, torch.float])
def test_reaches_the_ground_state(dtype):
    w = weights(dtype)
    optimizer = TorchNaturalGradient([w], lambda: fubini_study(energy)(w), lr=0.1)
    exact = np.linalg.eigvalsh(qml.matrix(tfim(WIRES), wire_order=range(WIRES)))[0]
    assert minimize(optimizer, w, 80) == pytest.approx(exact, abs=1e-3)
    assert w.dtype is dtype


@pytest.mark.parametrize("dtype", [torch.double, torch.float])
def test_step_of_a_layer_uses_the_inputs_of_its_closure(dtype):
    layer, inputs, labels = layer_and_data(dtype)
    optimizer = TorchNaturalGradient(layer.parameters(), layer, lr=0.1, damping=0.05, tolerance=1e-8)
    closure = closure_of(optimizer, layer, inputs, labels)
    closure()
    before = [p.detach().double().clone() for p in layer.parameters()]
    gradient = np.concatenate([p.grad.double().numpy().ravel() for p in layer.parameters()])
    metric = fubini_study(classifier)(inputs=inputs, **layer.qnode_weights).dense()
    move = 0.1 * np.linalg.solve(metric + 0.05 * np.eye(3), gradient)
    loss = optimizer.step(closure)
    found = np.concatenate([(b - p.detach()).numpy().ravel() for b, p in zip(before, layer.parameters(), strict=True)])
    np.testing.assert_allclose(found, move, atol=1e-8 if dtype is torch.double else 1e-5)
    assert loss.item() > closure().item()
    assert not layer._forward_pre_hooks


def test_layer_that_is_called_by_keyword():
    steps = []
    for call in (lambda layer, x: layer(x), lambda layer, x: layer(inputs=x)):
        layer, inputs, labels = layer_and_data()
        torch.nn.init.constant_(layer.first, 0.3), torch.nn.init.constant_(layer.second, 0.2)
        optimizer = TorchNaturalGradient(layer.parameters(), layer, lr=0.1)
        optimizer.step(closure_of(optimizer, partial(call, layer), inputs, labels))
        steps.append(optimizer.solution.direction)
    np.testing.assert_array_equal(*steps)


def test_layer_in_a_model_and_several_calls():
    layer, inputs, labels = layer_and_data()
    model = torch.nn.Sequential(torch.nn.Linear(2, 2, dtype=torch.double), layer)
    rest, natural = torch.optim.SGD(model[0].parameters(), 0.1), TorchNaturalGradient(layer.parameters(), layer, lr=0.1)

    def closure():
        model.zero_grad()
        losses = [((model(inputs[part]) - labels[part]) ** 2).mean() / 2 for part in (slice(3), slice(3, 6))]
        for loss in losses:
            loss.backward()
        return sum(losses)

    values = []
    for _ in range(30):
        values.append(natural.step(closure).item())
        rest.step()
    assert values[-1] < 0.8 * values[0]


MAPPED = {
    "vmap": lambda layer, x: torch.vmap(layer)(x),
    "last axis": lambda layer, x: torch.vmap(layer, in_dims=1)(x.T),
    "of batches": lambda layer, x: torch.vmap(layer)(x.reshape(3, 2, 2)).reshape(-1),
    "twice": lambda layer, x: torch.vmap(torch.vmap(layer, 1), 2)(x.reshape(3, 2, 2).permute(2, 1, 0)).reshape(-1),
    "by keyword": lambda layer, x: torch.vmap(lambda sample: layer(inputs=sample))(x),
    "jvp": lambda layer, x: torch.func.jvp(layer, (x,), (x,))[0],
}


@pytest.mark.parametrize("how", MAPPED)
def test_closure_that_maps_the_layer(how):
    steps = []
    for run in (lambda layer, x: layer(x), MAPPED[how]):
        layer, inputs, labels = layer_and_data()
        optimizer = TorchNaturalGradient(layer.parameters(), layer, lr=0.1)
        optimizer.step(closure_of(optimizer, lambda x, run=run, layer=layer: run(layer, x), inputs, labels))
        steps.append(torch.cat([p.detach().reshape(-1) for p in layer.parameters()]))
    torch.testing.assert_close(*steps, atol=1e-10, rtol=0)


def test_metric_inside_of_vmap_is_an_error_that_says_how():
    inputs = torch.randn(4, 2, dtype=torch.double)
    w = torch.tensor([0.1, 0.2, 0.3], dtype=torch.double, requires_grad=True)
    with pytest.raises(DifferentiationError, match=r"inside torch.vmap .* Ask for it outside, .* batch axis in front"):
        torch.vmap(lambda x: fubini_study(classifier)(x, w[:2], w[2]))(inputs)


def test_frozen_weights_stay():
    layer, inputs, labels = layer_and_data()
    layer.first.requires_grad_(False)
    before = layer.first.clone()
    optimizer = TorchNaturalGradient(layer.parameters(), layer, lr=0.1)
    closure = closure_of(optimizer, layer, inputs, labels)
    first, last = optimizer.step(closure).item(), closure().item()
    assert last < first
    torch.testing.assert_close(layer.first, before)


def test_state_dict_continues_a_run():
    w = weights()
    optimizer = TorchNaturalGradient([w], lambda: fubini_study(energy)(w), lr=0.1, tolerance=1e-2)
    minimize(optimizer, w, 3)
    saved = io.BytesIO()
    torch.save({"w": w.detach(), "optimizer": optimizer.state_dict()}, saved)
    expected = minimize(optimizer, w, 3)

    saved.seek(0)
    loaded = torch.load(saved)
    again = loaded["w"].clone().requires_grad_()
    resumed = TorchNaturalGradient([again], lambda: fubini_study(energy)(again), lr=0.5, tolerance=1e-2)
    resumed.load_state_dict(loaded["optimizer"])
    assert minimize(resumed, again, 3) == expected
    torch.testing.assert_close(again, w, rtol=0, atol=0)


def test_copies_and_schedulers():
    layer, inputs, labels = layer_and_data()
    optimizer = TorchNaturalGradient(layer.parameters(), layer, lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    optimizer.step(closure_of(optimizer, layer, inputs, labels))
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == 0.05
    copy.deepcopy(layer)


# ------------------------------------------------------------------ refusals


def unchanged(optimizer, w, error, match):
    before = w.detach().clone()
    with pytest.raises(error, match=match):
        optimizer.step()
    torch.testing.assert_close(w.detach(), before, rtol=0, atol=0)
    assert not optimizer.state


def test_gradient_that_is_not_finite_changes_nothing():
    w = weights()
    optimizer = TorchNaturalGradient([w], lambda: fubini_study(energy)(w), lr=0.1)
    w.grad = torch.full_like(w, torch.nan)
    unchanged(optimizer, w, FloatingPointError, "no step was made")


def test_step_that_overflows_changes_no_parameter():
    a, b = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)

    @qhybrid.qnode(qml.device("qhybrid.statevector", wires=1))
    def circuit(a, b):
        qml.RY(a[0], wires=0)
        qml.RX(b[0], wires=0)
        return qml.expval(qml.Z(0))

    optimizer = TorchNaturalGradient([a, b], lambda: fubini_study(circuit)(a, b), lr=1e30)
    a.grad, b.grad = torch.ones(1), torch.full((1,), 1e12)
    unchanged(optimizer, a, FloatingPointError, "no parameter was changed")
    assert b.item() == 0


def test_missing_gradient_is_an_error():
    w = weights()
    unchanged(TorchNaturalGradient([w], lambda: fubini_study(energy)(w)), w, RuntimeError, "backward")


def test_metric_of_other_tensors_is_an_error():
    w, other = weights(), weights()
    optimizer = TorchNaturalGradient([w], lambda: fubini_study(energy)(other))
    w.grad = torch.ones_like(w)
    unchanged(optimizer, w, ValueError, "the very tensors")


def test_layer_without_closure_is_an_error():
    layer, *_ = layer_and_data()
    with pytest.raises(ValueError, match="closure"):
        TorchNaturalGradient(layer.parameters(), layer).step()


def test_closure_that_does_not_run_the_layer_is_an_error():
    layer, *_ = layer_and_data()
    with pytest.raises(ValueError, match="did not run the layer"):
        TorchNaturalGradient(layer.parameters(), layer).step(lambda: torch.tensor(0.0))


def test_parametrized_weights_are_refused():
    layer, inputs, labels = layer_and_data()
    torch.nn.utils.parametrizations.weight_norm(layer, "first", dim=None)
    optimizer = TorchNaturalGradient(layer.parameters(), layer)
    with pytest.raises(ValueError, match="the very tensors"):
        optimizer.step(closure_of(optimizer, layer, inputs, labels))


def test_error_in_a_closure_leaves_no_hook():
    layer, *_ = layer_and_data()

    def closure():
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        TorchNaturalGradient(layer.parameters(), layer).step(closure)
    assert not layer._forward_pre_hooks


def test_shots_are_an_error_that_names_what_works():
    w = weights()
    noisy = qml.set_shots(energy, shots=100)
    optimizer = TorchNaturalGradient([w], lambda: fubini_study(noisy)(w))
    w.grad = torch.ones_like(w)
    unchanged(optimizer, w, DifferentiationError, r"qml\.metric_tensor")


@pytest.mark.parametrize(("settings", "match"), [({"lr": 0.0}, "lr"), ({"damping": -1.0}, "damping")])
def test_impossible_settings_are_refused(settings, match):
    w = weights()
    with pytest.raises(ValueError, match=match):
        TorchNaturalGradient([w], lambda: fubini_study(energy)(w), **settings)


def test_second_group_is_refused():
    a, b = weights(), weights()
    with pytest.raises(ValueError, match="one group"):
        TorchNaturalGradient([{"params": [a]}, {"params": [b]}], lambda: fubini_study(energy)(a))
