"""Modules and functions of PyTorch's as nodes of autograd's graph."""

import autograd
import autograd.numpy as anp
import numpy as np
import pytest
import torch
from autograd.test_util import check_grads
from torch import nn

import qhybrid as qml
from qhybrid import bridge

#: PyTorch compiles rules of its own with it when forward mode is first used.


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


X = np.random.default_rng(0).normal(size=(5, 3))


def test_first_and_second_derivatives(net):
    f = bridge.to_autograd(net)
    check_grads(lambda x: anp.sum(f(anp.sin(x)) ** 3))(X)  # forward mode too
    hessian = autograd.hessian(lambda x: anp.sum(f(x) ** 3))(X[0])
    expected = torch.autograd.functional.hessian(lambda x: (net(x) ** 3).sum(), torch.tensor(X[0]))
    np.testing.assert_allclose(hessian, expected, atol=1e-12)


def test_several_inputs_and_outputs():
    @bridge.to_autograd
    def f(data, scale, *, power):
        x, y = data
        return {"a": torch.sin(x) * scale, "b": [(x * y).sum() ** power]}

    def loss(x, y):
        out = f((x, y), 2.0, power=2)
        return anp.sum(out["a"]) + out["b"][0]

    x, y = X[0], X[1]
    got = autograd.grad(loss, (0, 1))(x, y)
    np.testing.assert_allclose(got[0], 2 * np.cos(x) + 2 * (x @ y) * y)
    np.testing.assert_allclose(got[1], 2 * (x @ y) * x)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda z: (z**2 * z.conj()).sum().real, lambda z: anp.real(anp.sum(z**2 * anp.conj(z)))),
        (lambda z: torch.exp(1j * z).abs().sum(), lambda z: anp.sum(anp.abs(anp.exp(1j * z)))),
    ],
)
def test_complex_numbers_follow_autograd(ours, theirs):
    z = X[0] + 1j * X[1]
    np.testing.assert_allclose(autograd.grad(bridge.to_autograd(ours))(z), autograd.grad(theirs)(z))


def test_complex_results_follow_autograd():
    f = bridge.to_autograd(lambda x: torch.exp(1j * x) * x)
    got = autograd.grad(lambda x: anp.sum(anp.abs(f(x) + 1) ** 2))(X[0])
    plain = autograd.grad(lambda x: anp.sum(anp.abs(anp.exp(1j * x) * x + 1) ** 2))(X[0])
    np.testing.assert_allclose(got, plain)
    assert got.dtype == float


def test_inputs_take_the_precision_of_the_module(net):
    f = bridge.to_autograd(net.float())
    assert f(X).dtype == np.float32
    gradient = autograd.grad(lambda x: anp.sum(f(x)))(X)
    assert gradient.dtype == np.float64
    exact = autograd.grad(lambda x: anp.sum(bridge.to_autograd(net.double())(x)))(X)
    np.testing.assert_allclose(gradient, exact, atol=1e-6)


def test_integer_results_have_no_derivative():
    f = bridge.to_autograd(lambda x: (x.max(), x.argmax()))
    value, index = f(X[0])
    assert index.dtype == np.int64
    gradient = autograd.grad(lambda x: f(x)[0] * 2)(X[0])
    np.testing.assert_allclose(gradient, 2.0 * (np.arange(3) == index))
    assert value == X[0].max()


def test_result_that_does_not_depend_on_the_input():
    f = bridge.to_autograd(lambda x: torch.ones(2))
    np.testing.assert_allclose(autograd.grad(lambda x: anp.sum(f(x) * x[:2]))(X[0]), [1, 1, 0])


def test_module_that_writes_into_its_argument_leaves_the_array_alone():
    x = np.zeros(2)
    np.testing.assert_allclose(bridge.to_autograd(lambda t: t.add_(1))(x), [1, 1])
    np.testing.assert_allclose(x, [0, 0])


def test_nothing_is_recorded_without_differentiation(net):
    recorded = []
    net.register_forward_hook(lambda module, args, output: recorded.append(output.requires_grad))
    f = bridge.to_autograd(net)
    f(X)
    autograd.grad(lambda x: anp.sum(f(x)))(X)
    assert recorded == [False, True]


def test_parameters_as_an_argument(net):
    f, parameters = bridge.functional(net)
    assert set(parameters) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    gradient = autograd.grad(lambda p: anp.sum(f(p, X) ** 2))(parameters)
    (net(torch.tensor(X)) ** 2).sum().backward()
    for name, p in net.named_parameters():
        np.testing.assert_allclose(gradient[name], p.grad, atol=1e-12)
    before = net[0].weight.detach().clone()
    f({name: 2 * p for name, p in parameters.items()}, X)
    parameters["0.weight"][:] = 0
    torch.testing.assert_close(net[0].weight.detach(), before)


def test_second_derivative_along_parameters(net):
    f, parameters = bridge.functional(net)

    def loss(w):
        return anp.sum(f({**parameters, "0.weight": w}, X) ** 2)

    check_grads(loss, modes=["rev"], order=2)(parameters["0.weight"])


def test_gradients_accumulate_on_request(net):
    (net(torch.tensor(X)) ** 2).sum().backward()
    expected = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()

    def loss(x, f):
        return anp.sum(f(x) ** 2)

    autograd.grad(loss)(X, bridge.to_autograd(net))
    assert all(p.grad is None for p in net.parameters())
    accumulating = bridge.to_autograd(net, accumulate_grad=True)
    for passes in (1, 2):
        gradient = autograd.grad(loss)(X, accumulating)
        for p, g in zip(net.parameters(), expected, strict=True):
            torch.testing.assert_close(p.grad, passes * g)
    np.testing.assert_allclose(gradient, autograd.grad(loss)(X, bridge.to_autograd(net)))


def test_a_pass_that_is_differentiated_adds_nothing(net):
    f = bridge.to_autograd(net, accumulate_grad=True)
    autograd.make_vjp(autograd.grad(lambda x: anp.sum(f(x) ** 2)))(X[0])
    assert all(p.grad is None for p in net.parameters())


def test_frozen_parameters_stay_without_a_gradient(net):
    net[0].requires_grad_(False)
    autograd.grad(lambda x: anp.sum(bridge.to_autograd(net, accumulate_grad=True)(x)))(X)
    assert net[0].weight.grad is None
    assert net[2].weight.grad is not None


def test_quantum_layer_in_an_autograd_graph():
    @qml.qnode(qml.device("qhybrid.statevector", wires=2))
    def circuit(inputs, weights):
        qml.AngleEmbedding(inputs, wires=range(2))
        qml.StronglyEntanglingLayers(weights, wires=range(2))
        return [qml.expval(qml.Z(w)) for w in range(2)]

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 2), qml.qnn.TorchLayer(circuit, {"weights": (1, 2, 3)}), nn.Tanh()).double()
    f = bridge.to_autograd(net)
    weights = 0.1 * np.arange(6.0).reshape(1, 2, 3)

    def model(x):
        return anp.sum(anp.array(circuit(f(anp.sin(x)), weights)))

    check_grads(model, order=1)(X[0])
    check_grads(model, modes=["rev"], order=2)(X[0])
    product = autograd.hessian_vector_product(model)(X[0], X[1])
    np.testing.assert_allclose(product, autograd.hessian(model)(X[0]) @ X[1], atol=1e-9)
    forward_over_reverse = autograd.differential_operators.make_jvp(autograd.grad(model))(X[0])(X[1])[1]
    np.testing.assert_allclose(forward_over_reverse, product, atol=1e-9)


def test_there_and_back():
    inner = bridge.to_autograd(lambda x: torch.sin(x) ** 2)
    outer = bridge.to_torch(lambda x: anp.exp(inner(x)))
    x = torch.tensor(X[0], requires_grad=True)
    assert torch.autograd.gradcheck(outer, (x,))
    assert torch.autograd.gradgradcheck(outer, (x,))
    torch.testing.assert_close(torch.func.vmap(outer)(torch.tensor(X)), torch.exp(torch.sin(torch.tensor(X)) ** 2))


@pytest.mark.parametrize(("value", "described"), [(None, "None"), ("a", "a str"), (object(), "a object")])
def test_results_must_be_tensors(value, described):
    with pytest.raises(TypeError, match=f"returned {described}; what bridge.to_autograd takes returns tensors"):
        bridge.to_autograd(lambda x: (x, value))(X)


def test_misuse(net):
    with pytest.raises(TypeError, match="inside PyTorch, call the module itself"):
        bridge.to_autograd(net)(torch.ones(3, requires_grad=True))
    with pytest.raises(TypeError, match=r"accumulate_grad needs an nn\.Module with parameters, got <lambda>"):
        bridge.to_autograd(lambda x: x, accumulate_grad=True)
    with pytest.raises(TypeError, match=r"functional takes an nn\.Module, got function"):
        bridge.functional(lambda x: x)


@pytest.mark.parametrize("make", [bridge.to_torch, bridge.to_autograd, bridge.functional])
def test_without_torch(make, monkeypatch):
    monkeypatch.setattr(bridge, "find_spec", {"torch": None}.get)
    with pytest.raises(ImportError, match=r'pip install "qhybrid\[torch\]"'):
        make(abs)
