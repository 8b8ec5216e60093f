"""TorchLayer as a torch citizen."""

import copy
import io
import pickle

import numpy as np
import pennylane
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

import qhybrid as qml
from qhybrid.qnn import TorchLayer
from qhybrid_devices.statevector.executable import StateVectorExecutable
from tests.qnn import circuits

SHAPES = {"w": (3, 2), "v": 1}
NAMES = ["as_list", "as_tuple", "single", "probabilities", "mixed", "state"]


def layer(qnode=circuits.as_list, **kwargs):
    torch.manual_seed(0)
    return TorchLayer(qnode, SHAPES, **kwargs)


def plain(name):
    """The same quantum function in PennyLane."""
    qnode = getattr(circuits, name)
    return pennylane.QNode(qnode.func, pennylane.device("default.qubit", wires=2))


def inputs(*shape):
    torch.manual_seed(1)
    return torch.rand(*shape, 2)


# ------------------------------------------------------------------ results


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3), (2, 1, 2)])
def test_shapes_and_values(name, shape):
    made, x = layer(getattr(circuits, name)), inputs(*shape)
    tail = {"as_list": (2,), "as_tuple": (2,), "single": (), "probabilities": (4,), "mixed": (5,), "state": (4,)}[name]
    result = made(x)
    assert result.shape == (*shape, *tail)
    assert result.dtype == (torch.complex64 if name == "state" else torch.float32)
    w, v = made.w.detach().double().numpy(), made.v.item()
    for index in np.ndindex(*shape):
        expected = plain(name)(x[index].double().numpy(), w, v)
        expected = np.hstack([np.reshape(e, -1) for e in expected]) if isinstance(expected, list | tuple) else expected
        np.testing.assert_allclose(result[index].detach().numpy(), np.reshape(expected, tail), atol=1e-5)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0)])
def test_empty_batch(shape):
    made, x = layer(), inputs(*shape).requires_grad_()
    result = made(x)
    assert result.shape == (*shape, 2)
    result.sum().backward()
    assert x.grad.shape == x.shape
    assert not made.w.grad.any()


def test_gradients_equal_pennylanes():
    made, theirs, x = layer(), pennylane.qnn.TorchLayer(plain("as_list"), SHAPES), inputs(5)
    theirs.load_state_dict(made.state_dict())
    for module in (made, theirs):
        module(x).pow(2).sum().backward()
    torch.testing.assert_close(made.w.grad, theirs.w.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(made.v.grad, theirs.v.grad, atol=1e-5, rtol=1e-4)


def test_plain_pennylane_qnode():
    made, reference, x = layer(plain("as_tuple")), layer(), inputs(3)
    torch.testing.assert_close(made(x), reference(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["best", "adjoint", "backprop", "parameter-shift", "finite-diff"])
def test_every_method_in_one_execution(method):
    qnode = qml.QNode(circuits.as_list.func, circuits.DEVICE, diff_method=method)
    made, x = layer(qnode).double(), inputs(3).double()
    made(x).sum().backward()
    reference = layer().double()
    reference(x).sum().backward()
    torch.testing.assert_close(made.w.grad, reference.w.grad, atol=1e-9, rtol=0)


def test_precision_follows_the_module():
    made, x = layer(), inputs(3)
    assert made(x).dtype == torch.float32
    made.double()
    assert made(x.double()).dtype == torch.float64
    assert made.to(torch.float32)(x).dtype == torch.float32


def test_one_sample_read_as_a_batch_of_features_is_refused():
    made = layer(circuits.loop_over_features)
    with pytest.raises((ValueError, IndexError), match="inputs"):
        made(inputs(3))


# ------------------------------------------------------------------ a proper module


def test_parameters():
    made = layer()
    assert {n: tuple(p.shape) for n, p in made.named_parameters()} == {"w": (3, 2), "v": ()}
    assert set(made.qnode_weights) == {"w", "v"}
    assert made.qnode_weights["w"] is made.w
    assert list(made.state_dict()) == ["w", "v"]


def test_functional_call_and_ensembles():
    made, x = layer(), inputs(4)
    other = {"w": torch.rand(3, 2), "v": torch.rand(())}
    got = torch.func.functional_call(made, other, (x,))
    assert not torch.allclose(got, made(x))
    expected = layer(init_method=other)(x)
    torch.testing.assert_close(got, expected)
    stack = {k: torch.stack([p.detach(), other[k]]) for k, p in made.named_parameters()}
    ensemble = torch.func.vmap(lambda p: torch.func.functional_call(made, p, (x,)))(stack)
    torch.testing.assert_close(ensemble, torch.stack([made(x), expected]).detach())


def test_an_ensemble_of_models_is_one_execution(monkeypatch):
    runs, run = [], StateVectorExecutable.run_with_residual

    def counted(self, slots, *args, **kwargs):
        runs.append(slots.batch_size)
        return run(self, slots, *args, **kwargs)

    models, x = [torch.nn.Sequential(torch.nn.Linear(2, 2), layer()) for _ in range(5)], inputs(4)
    parameters, buffers = torch.func.stack_module_state(models)

    def model(p, b):
        return torch.func.functional_call(models[0], (p, b), (x,))

    expected = torch.stack([m(x) for m in models])
    monkeypatch.setattr(StateVectorExecutable, "run_with_residual", counted)
    torch.testing.assert_close(torch.func.vmap(model)(parameters, buffers), expected)
    assert runs == [5 * 4]
    gradients = torch.func.vmap(torch.func.grad(lambda p, b: model(p, b).sum()))(parameters, buffers)
    (first,) = torch.autograd.grad(expected[0].sum(), models[0][1].w)
    torch.testing.assert_close(gradients["1.w"][0], first)


def test_per_sample_gradients():
    made, x = layer(), inputs(4)
    parameters = {k: p.detach() for k, p in made.named_parameters()}
    grad = torch.func.grad(lambda p, row: torch.func.functional_call(made, p, (row,)).sum())
    got = torch.func.vmap(grad, in_dims=(None, 0))(parameters, x)
    for i, row in enumerate(x):
        expected = torch.autograd.grad(made(row).sum(), made.w)[0]
        torch.testing.assert_close(got["w"][i], expected)


def test_load_state_dict_with_assign():
    made, x = layer(), inputs(2)
    new = {"w": torch.rand(3, 2), "v": torch.rand(())}
    made.load_state_dict(new, assign=True)
    torch.testing.assert_close(made(x), layer(init_method=new)(x))


def test_tied_weights_and_reassigned_parameters():
    first, second, x = layer(), layer(circuits.as_tuple), inputs(2)
    second.w = first.w
    (first(x) + second(x)).sum().backward()
    assert second.w.grad is first.w.grad
    alone = layer()
    alone(x).sum().backward()
    torch.testing.assert_close(first.w.grad, 2 * alone.w.grad)
    first.w = nn.Parameter(torch.zeros(3, 2))
    torch.testing.assert_close(first(x), layer(init_method={"w": torch.zeros(3, 2), "v": first.v})(x))


def test_parametrized_weights():
    made, x = layer(), inputs(2)

    class Twice(nn.Module):
        def forward(self, w):
            return 2 * w

    expected = layer(init_method={"w": 2 * made.w.detach(), "v": made.v})(x)
    parametrize.register_parametrization(made, "w", Twice())
    torch.testing.assert_close(made(x), expected)
    made(x).sum().backward()
    assert made.parametrizations.w.original.grad.any()


def test_pruned_weights():
    made, x = layer(), inputs(2)
    prune.random_unstructured(made, "w", amount=3)
    assert (made.w == 0).sum() == 3
    torch.testing.assert_close(made(x), layer(init_method={"w": made.w.detach(), "v": made.v})(x))


def test_frozen_weights_and_no_grad():
    made, x = layer(), inputs(2)
    made.requires_grad_(False)
    assert not made(x).requires_grad
    with torch.no_grad():
        assert not layer()(x).requires_grad


@pytest.mark.parametrize("how", [copy.deepcopy, copy.copy, lambda m: pickle.loads(pickle.dumps(m)), "torch"])
def test_copies_after_use(how):
    made, x = nn.Sequential(nn.Linear(2, 2), layer()), inputs(2)
    expected = made(x)
    if how == "torch":
        buffer = io.BytesIO()
        torch.save(made, buffer)
        buffer.seek(0)
        copied = torch.load(buffer, weights_only=False)
    else:
        copied = how(made)
    torch.testing.assert_close(copied(x), expected)
    if how is not copy.copy:
        with torch.no_grad():
            copied[1].w.add_(1.0)
        torch.testing.assert_close(made(x), expected)


def test_trains_in_a_model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), layer(), nn.Linear(2, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    x = torch.rand(16, 3)
    target = x.sum(dim=1, keepdim=True).sin()
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


# ------------------------------------------------------------------ construction


def test_init_methods():
    uniform = TorchLayer(circuits.as_list, SHAPES)
    assert uniform.w.min() >= 0
    assert uniform.w.max() <= 2 * np.pi
    assert layer(init_method=nn.init.zeros_).w.abs().sum() == 0
    made = layer(init_method={"w": nn.init.ones_, "v": torch.tensor(0.5)})
    assert made.w.sum() == 6
    assert made.v == 0.5
    assert TorchLayer(circuits.as_list, {"w": np.zeros((3, 2)).shape, "v": ()}).v.shape == ()


def test_init_method_does_not_share_memory():
    value = torch.ones(3, 2)
    made = layer(init_method={"w": value, "v": nn.init.zeros_})
    with torch.no_grad():
        made.w.add_(1)
    assert value.sum() == 6


@pytest.mark.parametrize(
    ("init_method", "match"),
    [({"w": torch.zeros(2, 3), "v": torch.zeros(())}, "'w'.*shape"), ({"w": nn.init.zeros_}, "nothing about .* 'v'")],
)
def test_wrong_init_method(init_method, match):
    with pytest.raises(ValueError, match=match):
        layer(init_method=init_method)


def no_inputs(x, w):
    return qml.expval(qml.Z(0))


def variable(inputs, *w):
    return qml.expval(qml.Z(0))


def keywords(inputs, **weights):
    qml.AngleEmbedding(inputs, wires=range(2))
    qml.BasicEntanglerLayers(weights["a"], wires=range(2))
    return qml.expval(qml.Z(0))


@pytest.mark.parametrize(
    ("func", "shapes", "error", "match"),
    [
        (no_inputs, {"w": 3}, TypeError, r"argument named 'inputs'.*\['x', 'w'\]"),
        (variable, {"w": 3}, TypeError, r"\*args"),
        (circuits.as_list.func, {"w": (3, 2)}, ValueError, r"expected \['v', 'w'\], got \['w'\]"),
        (circuits.as_list.func, {**SHAPES, "u": 2}, ValueError, r"expected \['v', 'w'\], got \['u', 'v', 'w'\]"),
        (circuits.as_list.func, {**SHAPES, "inputs": 2}, ValueError, "remove it from weight_shapes"),
    ],
)
def test_wrong_arguments(func, shapes, error, match):
    with pytest.raises(error, match=match):
        TorchLayer(qml.QNode(func, circuits.DEVICE), shapes)


def test_keyword_weights():
    made = TorchLayer(qml.QNode(keywords, circuits.DEVICE), {"a": (1, 2)})
    assert made(inputs(3)).shape == (3,)


def test_wrong_interface():
    with pytest.raises(ValueError, match="autograd"):
        layer(qml.QNode(circuits.as_list.func, circuits.DEVICE, interface="autograd"))


def test_wrong_weight_shape_at_call():
    made = layer()
    made.w = nn.Parameter(torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"'w' has shape \(2, 2\); weight_shapes says \(3, 2\)"):
        made(inputs(2))


def test_names():
    assert str(layer()) == "<Quantum Torch Layer: func=as_list>"
    assert "as_list" in repr(nn.Sequential(layer()))


def test_input_argument_can_be_renamed():
    class FeatureLayer(TorchLayer):
        input_arg = "x"

    made = FeatureLayer(qml.QNode(no_inputs, circuits.DEVICE), {"w": 3})
    assert made.input_arg == "x"
    assert TorchLayer.input_arg == "inputs"
