"""Functions written in autograd.numpy as nodes of PyTorch's graph."""

from collections import namedtuple

import autograd.numpy as anp
import numpy as np
import pytest
import torch

import qhybrid as qml
from qhybrid import bridge

Pair = namedtuple("Pair", "first second")


def inputs(*shapes, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(s, dtype=dtype, generator=generator, requires_grad=True) for s in shapes]


def mixed(x, y):
    """Several inputs, several outputs."""
    return anp.sin(x) * anp.sum(y**2), anp.exp(x[:2]) @ y


#: PyTorch compiles rules of its own with it when forward mode is first used.


def test_first_and_second_derivatives():
    f, xs = bridge.to_torch(mixed), inputs(3, 2)
    modes = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}
    assert torch.autograd.gradcheck(f, xs, **modes)
    assert torch.autograd.gradgradcheck(f, xs, check_fwd_over_rev=True)


@pytest.mark.parametrize("f", [lambda x: x[::-1] ** 2, lambda x: anp.flipud(anp.sin(x)), lambda x: x[::-2]])
def test_axes_that_run_backwards(f):
    """PyTorch has none, NumPy makes them without a copy."""
    x = torch.linspace(0.1, 0.6, 6, dtype=torch.float64, requires_grad=True)
    hosted = bridge.to_torch(f)
    torch.testing.assert_close(hosted(x).detach(), torch.tensor(np.array(f(x.detach().numpy()))))
    assert torch.autograd.gradcheck(hosted, (x,), check_forward_ad=True)


def test_third_derivative():
    f = bridge.to_torch(lambda x: anp.sin(x))
    (x,) = inputs(())
    first = torch.autograd.grad(f(x), x, create_graph=True)[0]
    second = torch.autograd.grad(first, x, create_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(second, x)[0], -torch.cos(x.detach()))


@pytest.mark.parametrize(
    "f", [lambda z: anp.exp(1j * z) * z, lambda z: anp.conj(z) ** 2, lambda z: anp.abs(z) + anp.real(z)]
)
def test_complex_numbers_follow_pytorch(f):
    (z,) = inputs(3, dtype=torch.complex128)
    assert torch.autograd.gradcheck(bridge.to_torch(f), (z,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(bridge.to_torch(f), (z,))


def test_complex_gradient_is_that_of_the_same_code_in_torch():
    (z,) = inputs(3, dtype=torch.complex128)
    (got,) = torch.autograd.grad(bridge.to_torch(lambda z: anp.real(anp.sum(z**2 * anp.conj(z))))(z), z)
    (expected,) = torch.autograd.grad((z**2 * z.conj()).sum().real, z)
    torch.testing.assert_close(got, expected)


def test_real_input_of_a_complex_result_gets_a_real_gradient():
    (x,) = inputs(3)
    f = bridge.to_torch(lambda x: anp.exp(1j * x))
    (gradient,) = torch.autograd.grad(f(x).imag.sum(), x)
    torch.testing.assert_close(gradient, torch.cos(x.detach()))


def test_containers():
    @bridge.to_torch
    def f(data, *, pair, power=1):
        return {"sum": data["x"] + data["y"][0], "pair": Pair(pair.first**power, [pair.second])}

    x, y = inputs(2, 2)
    result = f({"x": x, "y": [y]}, pair=Pair(x, y), power=3)
    torch.testing.assert_close(result["sum"], x + y)
    assert isinstance(result["pair"], Pair)
    torch.testing.assert_close(result["pair"].first, x**3)
    assert result["pair"].second[0].requires_grad


def test_precision_is_that_of_the_tensors():
    (x,) = inputs(2, dtype=torch.float32)
    y = bridge.to_torch(lambda x: x * np.float64(0.5))(x)
    assert y.dtype is torch.float32
    y.sum().backward()
    assert x.grad.dtype is torch.float32


def test_integers_have_no_derivative():
    x = torch.tensor([1.0, 3.0, 2.0], requires_grad=True)
    value, index, mask = bridge.to_torch(lambda x: (anp.max(x), anp.argmax(x), x > 1.5))(x)
    assert (index.dtype, mask.dtype) == (torch.int64, torch.bool)
    assert not index.requires_grad
    assert not mask.requires_grad
    value.backward()
    torch.testing.assert_close(x.grad, torch.tensor([0.0, 1.0, 0.0]))


def test_result_that_does_not_depend_on_the_input():
    (x,) = inputs(2)
    constant, moving = bridge.to_torch(lambda x: (np.ones(2), 2 * x))(x)
    (constant + moving).sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, 2))
    (gradient,) = torch.autograd.grad(bridge.to_torch(lambda x: np.ones(2))(x).sum(), x)
    torch.testing.assert_close(gradient, torch.zeros_like(x))


def test_integer_inputs_and_other_arguments_reach_the_function():
    index, (x,) = torch.tensor([2, 0]), inputs(3)
    y = bridge.to_torch(lambda x, index, name: x[index] if name == "take" else x)(x, index, "take")
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64))


def test_one_evaluation_a_gradient_and_plain_arrays_without():
    seen = []

    @bridge.to_torch
    def f(x):
        seen.append(type(x))
        return x**2

    (x,) = inputs(2)
    f(x).sum().backward()
    assert [kind.__name__ for kind in seen] == ["ArrayBox"]
    with torch.no_grad():
        f(x)
    f(x.detach())
    assert seen[1:] == [np.ndarray, np.ndarray]


def test_backward_twice():
    (x,) = inputs(2)
    y = bridge.to_torch(lambda x: x**3)(x).sum()
    first = torch.autograd.grad(y, x, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(y, x)[0], first)


def test_torch_func():
    f, (x, y) = bridge.to_torch(lambda x, y: anp.sum(anp.sin(x) * y**2)), inputs((4, 3), 3)
    x, y = x.detach(), y.detach()

    def plain(x, y):
        return (torch.sin(x) * y**2).sum()

    torch.testing.assert_close(torch.func.vmap(f, (0, None))(x, y), torch.func.vmap(plain, (0, None))(x, y))
    gradient = torch.func.vmap(torch.func.grad(f, (0, 1)), (0, None))(x, y)
    torch.testing.assert_close(gradient, torch.func.vmap(torch.func.grad(plain, (0, 1)), (0, None))(x, y))

    def total(g):
        return lambda y: torch.func.vmap(g, (0, None))(x, y).sum()

    torch.testing.assert_close(torch.func.grad(total(f))(y), torch.func.grad(total(plain))(y))
    torch.testing.assert_close(
        torch.func.jacrev(torch.func.jacrev(f))(x[0], y), torch.func.jacrev(torch.func.jacrev(plain))(x[0], y)
    )
    with pytest.raises(ValueError, match="axis of size 0"):
        torch.func.vmap(f, (0, None))(x[:0], y)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # PyTorch's own, where a graph starts
def test_torch_compile_leaves_it_alone():
    f, (x,) = bridge.to_torch(lambda x: anp.sin(x)), inputs(3)
    model = torch.compile(lambda x: (f(2 * x) ** 2).sum(), backend="eager")
    model(x).backward()
    torch.testing.assert_close(x.grad, 2 * torch.sin(4 * x.detach()))


def test_hessians_by_torch_func():
    @qml.qnode(qml.device("qhybrid.statevector", wires=1))
    def circuit(x):
        qml.RX(x[0], wires=0)
        qml.RY(x[1], wires=0)
        return qml.expval(qml.Z(0))

    f, x = bridge.to_torch(lambda x: anp.exp(circuit(anp.sin(x)))), torch.tensor([0.3, 0.7], dtype=torch.float64)
    plain = torch.autograd.functional.hessian(lambda x: torch.exp(torch.cos(torch.sin(x)).prod()), x)
    for outer in (torch.func.jacfwd, torch.func.jacrev):
        for inner in (torch.func.jacfwd, torch.func.jacrev):
            torch.testing.assert_close(outer(inner(f))(x), plain)


def test_circuit_between_autograd_and_torch():
    @qml.qnode(qml.device("qhybrid.statevector", wires=2))
    def circuit(angles):
        qml.RX(angles[0], wires=0)
        qml.RY(angles[1], wires=1)
        qml.CNOT(wires=[0, 1])
        return qml.expval(qml.Z(0)), qml.probs(wires=1)

    @bridge.to_torch
    def physics(angles, scale):
        height, probabilities = circuit(anp.sin(angles) * scale)
        return anp.log(2 + height), probabilities

    torch.manual_seed(0)
    head = torch.nn.Linear(3, 2).double()

    def model(angles, scale):
        height, probabilities = physics(angles, scale)
        return head(torch.cat([height[None], probabilities])).tanh()

    xs = inputs(2, ())
    assert torch.autograd.gradcheck(model, xs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(model, xs, check_fwd_over_rev=True)
    model(*xs).sum().backward()
    assert head.weight.grad.abs().max() > 0


def test_numpy_in_place_of_autograd():
    (x,) = inputs(2)

    @bridge.to_torch
    def sine(x):
        return np.sin(x)

    with pytest.raises(TypeError, match=r"sine cannot be differentiated .* write it with autograd\.numpy"):
        sine(x)


def test_own_errors_are_left_alone():
    @bridge.to_torch
    def broken(x):
        raise ValueError("no such molecule")

    with pytest.raises(ValueError, match=r"^no such molecule$"):
        broken(torch.ones(2))


@pytest.mark.parametrize(
    ("value", "described"), [(None, "None"), ("a", "a str"), (torch.ones(1), "a torch Tensor"), ({1}, "a set")]
)
def test_results_must_be_arrays(value, described):
    with pytest.raises(TypeError, match=f"returned {described}; a function for bridge.to_torch returns arrays"):
        bridge.to_torch(lambda x: (x, value))(torch.ones(2))


def test_inside_autograd_it_refuses():
    import autograd

    with pytest.raises(TypeError, match="inside autograd, call the function itself"):
        autograd.grad(bridge.to_torch(lambda x: x))(1.0)
