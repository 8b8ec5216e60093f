"""The PyTorch node: every transform of torch, dtypes, saved tensors, threads."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from qhybrid import interfaces
from qhybrid.errors import DifferentiationError
from qhybrid.execution import Circuit, Function
from qhybrid.gradients import Adjoint, CircuitFunction, ParameterShift
from qhybrid.program import Program, Samples, State
from qhybrid_devices.statevector.executable import StateVectorExecutable
from qhybrid_devices.statevector.reference import ReferenceExecutable
from tests.gradients.circuits import (
    ANGLES,
    ARRAYS,
    BASE,
    HALF,
    S,
    compile_fast,
    expval,
    function,
    random_inputs,
    rx,
)

METHODS = [Adjoint(), ParameterShift()]
MIXED = ANGLES["batched and shared"]


def tensors(program, requires_grad=True, dtype=None, batch=2):
    made = [torch.as_tensor(x).to(dtype) for x in random_inputs(program, batch=batch)]
    return [t.requires_grad_(requires_grad) for t in made]


def node(program, method=METHODS[0], **circuit):
    f = function(program, method, compile_fast, **circuit)
    return lambda *xs: interfaces.apply("torch", f, xs)


def loss(program, method=METHODS[0]):
    """A real number from all outputs, real and complex."""
    call = node(program, method)

    def value(*xs):
        return sum((y.abs() ** 2).sum() + 0.3 * y.real.sum() for y in call(*xs))

    return value


# ------------------------------------------------------------------ derivatives


@pytest.mark.parametrize("name", ["batched and shared", "state and more", "coefficients"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_gradcheck_and_gradgradcheck(name, method):
    call = node(ANGLES[name], method)
    assert gradcheck(call, tensors(ANGLES[name]))
    assert gradgradcheck(call, tensors(ANGLES[name]))


@pytest.mark.parametrize("name", ARRAYS)
def test_gradcheck_of_complex_arrays(name):
    assert gradcheck(node(ARRAYS[name]), tensors(ARRAYS[name]))


def test_complex_gradient_is_torchs():
    """Descending along the gradient of a complex array lowers the loss at the rate that torch's convention promises."""
    program = ARRAYS["diagonal"]
    angle, entries = tensors(program)
    value = loss(program)
    (grad,) = torch.autograd.grad(value(angle, entries), entries)
    h = 1e-6
    with torch.no_grad():
        slope = (value(angle, entries + h * grad) - value(angle, entries - h * grad)) / (2 * h)
    assert slope.item() == pytest.approx((grad.abs() ** 2).sum().item(), rel=1e-6)


def test_real_array_gets_a_real_gradient():
    program = ARRAYS["amplitudes"]
    amplitudes = torch.nn.functional.normalize(torch.rand(2, 4, dtype=torch.float64), dim=1).requires_grad_()
    call = node(program)
    assert gradcheck(lambda a: call(torch.tensor([0.3], dtype=torch.float64), a), (amplitudes,))


def test_hessian_and_jacobian():
    value, xs = loss(MIXED), tensors(MIXED)
    hessian = torch.autograd.functional.hessian(value, tuple(xs))
    for i, x in enumerate(xs):
        for k in range(x.numel()):
            step = torch.zeros_like(x).view(-1)
            step[k] = 1e-5
            up, down = (
                [y.detach() + s * step.view(x.shape) if j == i else y.detach() for j, y in enumerate(xs)]
                for s in (1, -1)
            )
            for j in range(len(xs)):
                grads = [torch.autograd.functional.jacobian(value, tuple(p))[j] for p in (up, down)]
                got = hessian[j][i].reshape(*xs[j].shape, -1)[..., k]
                torch.testing.assert_close(got, (grads[0] - grads[1]) / 2e-5, atol=1e-8, rtol=1e-6)
    jacobian = torch.autograd.functional.jacobian(lambda x: node(MIXED)(x, xs[1])[0], xs[0], create_graph=True)
    assert jacobian.requires_grad
    assert jacobian.grad_fn is not None


def test_twice_backward_with_retain_graph():
    x, b = tensors(MIXED)
    value = loss(MIXED)(x, b)
    value.backward(retain_graph=True)
    first = x.grad.clone()
    value.backward()
    torch.testing.assert_close(x.grad, 2 * first, rtol=0, atol=0)


def test_third_derivative_is_refused():
    x, b = tensors(MIXED)
    (g,) = torch.autograd.grad(loss(MIXED)(x, b), x, create_graph=True)
    (h,) = torch.autograd.grad(g.sum(), x, create_graph=True)
    with pytest.raises(DifferentiationError, match="Third derivatives"):
        torch.autograd.grad(h.sum(), x)


# ------------------------------------------------------------------ torch.func


@pytest.mark.parametrize("name", ["batched and shared", "state and more", "one rotation"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_func_transforms(name, method):
    value, xs = loss(ANGLES[name], method), tensors(ANGLES[name], requires_grad=False)
    plain = torch.autograd.functional.jacobian(value, tuple(xs))
    torch.testing.assert_close(torch.func.grad(value, argnums=tuple(range(len(xs))))(*xs), plain)
    torch.testing.assert_close(torch.func.jacrev(value, argnums=tuple(range(len(xs))))(*xs), plain)
    _, pull = torch.func.vjp(value, *xs)
    torch.testing.assert_close(pull(torch.ones((), dtype=torch.float64)), plain)
    with torch.no_grad():
        torch.testing.assert_close(pull(torch.ones((), dtype=torch.float64)), plain)
    hessian = torch.func.jacrev(torch.func.jacrev(value))(*xs)
    torch.testing.assert_close(hessian, torch.autograd.functional.hessian(lambda x: value(x, *xs[1:]), xs[0]))


def repeated(xs, which, size=3):
    torch.manual_seed(1)
    return [x + torch.rand(size, *x.shape, dtype=x.dtype) if k in which else x for k, x in enumerate(xs)]


def looped(f, args, which, size=3):
    results = [f(*(a[i] if k in which else a for k, a in enumerate(args))) for i in range(size)]
    if isinstance(results[0], tuple):
        return tuple(torch.stack(r) for r in zip(*results, strict=True))
    return torch.stack(results)


@pytest.mark.parametrize("name", ["batched and shared", "state and more", "probabilities"])
@pytest.mark.parametrize("which", [{0}, {1}, {0, 1}])
@pytest.mark.parametrize(
    "derive",
    [lambda f: f, lambda f: torch.func.grad(f, argnums=(0, 1)), torch.func.hessian],
    ids=["value", "grad", "hessian"],
)
def test_vmap(name, which, derive):
    if derive is torch.func.hessian:
        derive = lambda f: torch.func.jacrev(torch.func.jacrev(f))  # noqa: E731
    f = derive(loss(ANGLES[name]))
    args = repeated(tensors(ANGLES[name], requires_grad=False), which)
    got = torch.func.vmap(f, in_dims=tuple(0 if k in which else None for k in range(2)))(*args)
    torch.testing.assert_close(got, looped(f, args, which))


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("which", [{0}, {1}, {0, 1}])
def test_vmap_with_arrays(name, which):
    f = torch.func.grad(loss(ARRAYS[name]), argnums=(0, 1))
    args = tensors(ARRAYS[name], requires_grad=False)
    stacks = [
        torch.stack([torch.as_tensor(random_inputs(ARRAYS[name], seed)[k]) for seed in range(3)]) for k in range(2)
    ]
    args = [stacks[k] if k in which else a for k, a in enumerate(args)]
    got = torch.func.vmap(f, in_dims=tuple(0 if k in which else None for k in range(2)))(*args)
    torch.testing.assert_close(got, looped(f, args, which))


def test_gradient_of_vmap_sums_over_what_is_not_mapped():
    value = loss(MIXED)
    x, b = repeated(tensors(MIXED, requires_grad=False), {0})
    got = torch.func.grad(lambda b: torch.func.vmap(value, (0, None))(x, b).sum())(b)
    expected = torch.func.grad(lambda b: sum(value(row, b) for row in x))(b)
    torch.testing.assert_close(got, expected)


def test_nested_vmap_and_other_dimensions_are_one_execution():
    calls = []

    class Watched(ReferenceExecutable):
        def run(self, slots):
            calls.append(slots.batch_size)
            return super().run(slots)

    f = CircuitFunction(Circuit(MIXED, Watched), Adjoint())
    x, b = torch.rand(2, 5, dtype=torch.float64), torch.rand(4, 1, 3, dtype=torch.float64)

    def call(x, b):
        return interfaces.apply("torch", f, (x, b))[0]

    got = torch.func.vmap(torch.func.vmap(call, (1, None)), (None, 0))(x, b)
    assert got.shape == (4, 5, 3, 1)
    assert calls == [4 * 5 * 3]
    torch.testing.assert_close(got[2, 3], call(x[:, 3], b[2]))


def test_a_mapped_axis_of_one_element_needs_no_lanes():
    batches = []

    class Watched(ReferenceExecutable):
        def run(self, slots):
            batches.append(slots.batch_size)
            return super().run(slots)

        def vjp(self, slots, cotangents, needs):
            batches.append(slots.batch_size)
            return super().vjp(slots, cotangents, needs)

    program = expval(rx(S(0)), rx(S(1), 1), num_shared=2)
    f = CircuitFunction(Circuit(program, Watched), Adjoint())
    x = torch.tensor([[0.3], [0.4]], dtype=torch.float64)

    def call(x):
        return interfaces.apply("torch", f, (x,))[0]

    torch.testing.assert_close(torch.func.vmap(call, 1)(x)[0], node(program)(x[:, 0])[0])
    jacobian = torch.autograd.functional.jacobian(lambda x: node(program)(x)[0], x[:, 0])
    torch.testing.assert_close(torch.func.jacrev(call)(x[:, 0]), jacobian)
    assert batches == [None] * 3


# ------------------------------------------------------------------ forward mode


@pytest.mark.parametrize("name", ["batched and shared", "state and more", "coefficients"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_every_check_of_pytorch_passes(name, method):
    call = node(ANGLES[name], method)
    first = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}
    assert gradcheck(call, tensors(ANGLES[name]), **first)
    assert gradgradcheck(call, tensors(ANGLES[name]), check_fwd_over_rev=True, check_rev_over_rev=True)


def test_several_tangents_share_one_execution():
    calls = []

    class Watched(StateVectorExecutable):
        def run_with_residual(self, slots, keep=True):
            calls.append("run")
            return super().run_with_residual(slots, keep)

        def run_with_tangents(self, slots, tangents):
            calls.append(tangents.shared.shape)
            return super().run_with_tangents(slots, tangents)

    f = CircuitFunction(Circuit(MIXED, Watched), Adjoint())
    x, b = tensors(MIXED, requires_grad=False)
    jacobian = torch.func.jacfwd(lambda x: interfaces.apply("torch", f, (x, b))[0])(x)
    assert calls == [(2, 2)]  # with the values, which all directions share
    torch.testing.assert_close(jacobian, torch.func.jacrev(lambda x: interfaces.apply("torch", f, (x, b))[0])(x))


def test_a_hessian_is_one_execution():
    calls = []

    class Watched(StateVectorExecutable):
        def second_order(self, slots, cotangents, tangents, *others):
            calls.append(len(tangents.shared))
            return super().second_order(slots, cotangents, tangents, *others)

        def vjp(self, *args, **kwargs):
            calls.append("vjp")
            return super().vjp(*args, **kwargs)

    f = CircuitFunction(Circuit(MIXED, Watched), Adjoint())
    x, b = tensors(MIXED, requires_grad=False)

    def value(x):
        return (interfaces.apply("torch", f, (x, b))[0] ** 2).sum()

    hessian = torch.func.hessian(value)(x)
    assert calls == [2]
    product = torch.func.jvp(torch.func.grad(value), (x,), (x,))[1]
    assert calls == [2, 1]
    torch.testing.assert_close(product, hessian @ x)
    torch.testing.assert_close(hessian, torch.func.jacrev(torch.func.jacrev(value))(x))
    torch.testing.assert_close(hessian, torch.func.jacfwd(torch.func.jacfwd(value))(x))


def test_integers_have_no_tangent():
    program = replace(expval(rx(S(0))), tensors=(Samples((0,)),))
    f = function(program, ParameterShift(), compile_fast, shots=10)
    x = torch.tensor([0.3], dtype=torch.float64)
    values, tangents = torch.func.jvp(lambda x: interfaces.apply("torch", f, (x,)), (x,), (x,))
    assert values[1].dtype == torch.int64
    assert tangents[0].shape == values[0].shape
    assert tangents[1].dtype == torch.int64
    assert not tangents[1].any()


def test_programs_that_reverse_twice_to_go_forward():
    x, b = tensors(MIXED)
    value, v = loss(MIXED), torch.tensor([0.3, -0.7], dtype=torch.float64)
    by_hvp = torch.autograd.functional.hvp(lambda x: value(x, b.detach()), x, v)[1]
    torch.testing.assert_close(by_hvp, torch.autograd.functional.vhp(lambda x: value(x, b.detach()), x, v)[1])
    by_jvp = torch.autograd.functional.jvp(lambda x: node(MIXED)(x, b.detach())[0], x, v)[1]
    jacobian = torch.autograd.functional.jacobian(lambda x: node(MIXED)(x, b.detach())[0], x)
    torch.testing.assert_close(by_jvp, jacobian @ v)


def test_third_derivatives_are_refused():
    x, b = tensors(MIXED)
    (first,) = torch.autograd.grad(loss(MIXED)(x, b), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x, create_graph=True)
    with pytest.raises(DifferentiationError, match="Third derivatives"):
        second.sum().backward()


# ------------------------------------------------------------------ saved tensors


def test_in_place_change_after_forward_is_an_error():
    x, b = tensors(MIXED)
    w = x * 1.0
    value = loss(MIXED)(w, b)
    w.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_hooks_on_saved_tensors_fire():
    x, b = tensors(MIXED)
    packed, unpacked = [], []

    def pack(t):
        packed.append(t.shape)
        return t.clone()

    def unpack(t):
        unpacked.append(t.shape)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        (scalars,) = node(MIXED)(x, b)
    scalars.sum().backward()
    assert x.shape in packed
    assert b.shape in packed
    assert packed == unpacked


def test_weights_changed_through_data_do_not_change_the_gradient_saved_by_a_residual():
    """Saved by a residual or computed anew, the derivative is that of the forward pass."""
    x, b = tensors(MIXED)
    expected = torch.autograd.grad(loss(MIXED)(x, b), x)[0]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach().clone(), lambda t: t):
        value = loss(MIXED)(x, b)
    x.data.add_(0.5)
    torch.testing.assert_close(torch.autograd.grad(value, x)[0], expected)


class Residual(ReferenceExecutable):
    """Keeps the slots, and checks that they come back with equal values."""

    used = 0

    def run_with_residual(self, slots):
        return self.run(slots), slots

    def vjp(self, slots, cotangents, needs, residual=None):
        if residual is not None:
            Residual.used += 1
            np.testing.assert_array_equal(residual.shared, slots.shared)
            np.testing.assert_array_equal(residual.batched, slots.batched)
        return super().vjp(slots, cotangents, needs)


def test_residual_is_used_where_it_belongs():
    f = CircuitFunction(Circuit(MIXED, Residual), Adjoint())
    x, b = tensors(MIXED)

    def value(x, b):
        return (interfaces.apply("torch", f, (x, b))[0] ** 2).sum()

    expected = torch.autograd.grad(loss_of_square(x, b), x)[0]
    Residual.used = 0
    made = value(x, b)
    for _ in range(2):
        torch.testing.assert_close(torch.autograd.grad(made, x, retain_graph=True)[0], expected)
    assert Residual.used == 2
    torch.testing.assert_close(torch.func.grad(value)(x, b), expected)
    torch.testing.assert_close(torch.func.jacrev(value)(x, b), expected)
    assert gradgradcheck(value, (x, b))


@pytest.mark.parametrize("which", [{0}, {0, 1}])
def test_residual_of_a_mapped_call_is_used_by_its_gradient(which):
    f = CircuitFunction(Circuit(MIXED, Residual), Adjoint())
    x, b = repeated(tensors(MIXED, requires_grad=False), which)
    dims = tuple(0 if k in which else None for k in range(2))

    def value(x, b):
        return (interfaces.apply("torch", f, (x, b))[0] ** 2).sum()

    def gradients(value):
        return torch.func.vmap(torch.func.grad(value, (0, 1)), dims)

    expected = gradients(loss_of_square)(x, b)
    Residual.used = 0
    torch.testing.assert_close(gradients(value)(x, b), expected)
    assert Residual.used == 1
    xs = torch.stack([x, 2 * x])
    nested, expected = (torch.func.vmap(gradients(f), (0, None))(xs, b) for f in (value, loss_of_square))
    torch.testing.assert_close(nested, expected)
    assert Residual.used == 2


def test_mapped_cotangents_are_lanes_of_which_nothing_is_kept():
    f = CircuitFunction(Circuit(MIXED, Residual), Adjoint())
    x, b = tensors(MIXED, requires_grad=False)
    Residual.used = 0
    jacobian = torch.func.jacrev(lambda x: interfaces.apply("torch", f, (x, b))[0])(x)
    torch.testing.assert_close(jacobian, torch.func.jacrev(lambda x: node(MIXED)(x, b)[0])(x))
    assert Residual.used == 0


def loss_of_square(x, b):
    return (node(MIXED)(x, b)[0] ** 2).sum()


# ------------------------------------------------------------------ work, dtypes, threads


class Spy(Function):
    """Counts what is asked of a function."""

    def __init__(self, inner, log):
        self.inner, self.log = inner, log

    def __call__(self, *inputs):
        self.log.append("call")
        return self.inner(*inputs)

    def forward(self, *inputs):
        self.log.append("forward")
        return self.inner.forward(*inputs)

    def pullback(self, needs, residual=None):
        self.log.append(needs)
        return self.inner.pullback(needs, residual)

    def pushforward(self, moving):
        self.log.append(("push", moving))
        return self.inner.pushforward(moving)

    def vmap(self, size, mapped):
        return Spy(self.inner.vmap(size, mapped), self.log)

    def output_types(self, inputs):
        return self.inner.output_types(inputs)


def test_no_derivative_work_when_nothing_needs_it():
    log = []
    f = Spy(function(MIXED, Adjoint(), compile_fast), log)
    x, b = tensors(MIXED)
    with torch.no_grad():
        assert not interfaces.apply("torch", f, (x, b))[0].requires_grad
    with torch.inference_mode():
        interfaces.apply("torch", f, (x, b))
    interfaces.apply("torch", f, (x.detach(), b.detach()))
    assert log == ["call"] * 3
    log.clear()
    interfaces.apply("torch", f, (x, b.detach()))[0].sum().backward()
    assert log == ["forward", (True, False)]


@pytest.mark.parametrize(
    ("dtype", "complex_dtype"), [(torch.float32, torch.complex64), (torch.float64, torch.complex128)]
)
def test_precision_is_kept(dtype, complex_dtype):
    program = ANGLES["state and more"]
    xs = tensors(program, dtype=dtype)
    scalars, state, probs = node(program)(*xs)
    assert (scalars.dtype, state.dtype, probs.dtype) == (dtype, complex_dtype, dtype)
    (scalars.sum() + state.real.sum()).backward()
    assert [x.grad.dtype for x in xs] == [dtype] * 2
    with torch.no_grad():
        assert node(program)(*xs)[1].dtype == complex_dtype


def test_mixed_precision_is_promoted():
    x, b = tensors(MIXED)
    b = b.detach().float().requires_grad_()
    (scalars,) = node(MIXED)(x, b)
    scalars.sum().backward()
    assert (scalars.dtype, x.grad.dtype, b.grad.dtype) == (torch.float64, torch.float64, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    x, b = tensors(MIXED, dtype=dtype)
    (scalars,) = node(MIXED)(x, b)
    scalars.sum().backward()
    assert scalars.dtype == x.grad.dtype == dtype


def test_state_in_half_precision():
    x = torch.tensor([0.3], dtype=torch.float16, requires_grad=True)
    _, state = node(Program(1, (rx(S(0)),), tensors=(State(),), num_shared=1))(x)
    assert state.dtype == torch.complex64
    state.abs()[0].backward()
    torch.testing.assert_close(x.grad, -torch.sin(x.detach() / 2) / 2, atol=1e-3, rtol=0)


def test_conjugate_and_negative_views():
    program = ARRAYS["diagonal"]
    angle, entries = tensors(program, requires_grad=False)
    expected = node(program)(angle, entries.conj().resolve_conj())[0]
    torch.testing.assert_close(node(program)(angle, entries.conj())[0], expected)
    minus = torch.complex(angle, -angle).conj().imag
    torch.testing.assert_close(node(program)(minus, entries)[0], node(program)(minus.resolve_neg(), entries)[0])


def test_samples_are_integers_without_a_derivative():
    program = Program(2, (*BASE, rx(S(0)), HALF), expval().scalars, (Samples((0, 1)),), None, 1, 1)
    xs = tensors(program)
    rng = np.random.default_rng(0)
    scalars, samples = node(program, ParameterShift(), shots=10, rng=lambda: rng)(*xs)
    assert samples.shape == (2, 10, 2)
    assert not samples.is_floating_point()
    assert not samples.requires_grad
    scalars.sum().backward()
    assert torch.isfinite(xs[0].grad).all()


def test_empty_batch():
    x = torch.rand(2, dtype=torch.float64, requires_grad=True)
    b = torch.empty(1, 0, dtype=torch.float64, requires_grad=True)
    (scalars,) = node(MIXED)(x, b)
    assert scalars.shape == (0, 1)
    scalars.sum().backward()
    assert x.grad.tolist() == [0.0, 0.0]
    assert b.grad.shape == (1, 0)


def test_threads():
    inputs = [[torch.as_tensor(x).requires_grad_() for x in random_inputs(MIXED, seed)] for seed in range(4)]
    value = loss(MIXED)
    expected = [torch.autograd.grad(value(*xs), xs) for xs in inputs]
    got = [None] * 4

    def work(k):
        for _ in range(5):
            got[k] = torch.autograd.grad(value(*inputs[k]), inputs[k])

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
