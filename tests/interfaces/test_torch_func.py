"""Levels of torch.func that nodes go through by themselves: the same as by PyTorch's own way for any function."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import qhybrid
from qhybrid.errors import DifferentiationError
from qhybrid.interfaces import torch as torch_interface
from qhybrid_devices.statevector.small import SmallRun

MEMBERS, FEATURES = 4, 3


@qhybrid.qnode(qhybrid.device("qhybrid.statevector", wires=3))
def circuit(x, w):
    for i in range(FEATURES):
        qhybrid.RX(x[..., i] * 0.7, wires=i)
        qhybrid.RY(w[i], wires=i)
    qhybrid.CNOT([0, 1])
    qhybrid.RZ(w[0] * w[1], wires=1)
    qhybrid.CNOT([1, 2])
    return qhybrid.expval(qhybrid.X(1) @ qhybrid.Z(2))


@qhybrid.qnode(qhybrid.device("qhybrid.statevector", wires=2))
def state(x, w):
    qhybrid.RX(x[..., 0], wires=0)
    qhybrid.CRY(w[1], wires=[0, 1])
    qhybrid.RZ(x[..., 2] + w[0], wires=1)
    return qhybrid.state(), qhybrid.probs(wires=1)


def overlap(x, w):
    """A real function of a complex state and of probabilities."""
    amplitudes, probabilities = state(x, w)
    return (amplitudes[..., 1] * amplitudes[..., 2].conj() * (1 + 2j)).real.sum() + (probabilities**2).sum()


def pulled(f, x, w):
    """The pullback of values, asked for twice, once outside of what made it."""
    values, pull = vjp(f, x, w)
    return pull(torch.ones_like(values))[0] + pull(2 * values)[0]


def tangents_of_tangents(f, x, w):
    return jvp(lambda v: jvp(f, (x[0], v), (x[1], w[1]))[1], (w[0],), (x[2],))[1]


def tangents_of_part(f, x, w):
    """A function part of which is not to be differentiated, neither forward nor in reverse."""

    def product(v):
        with forward_ad._set_fwd_grad_enabled(False):
            still = f(x, v)
        with torch.no_grad():
            return still * f(x, v)

    return jvp(product, (w,), (x,))[1] + grad(lambda v: product(v).sum() + f(x, v))(w).sum()


@qhybrid.qnode(qhybrid.device("qhybrid.statevector", wires=1))
def prepared(v):
    qhybrid.StatePrep(v / v.norm(), wires=0)
    return qhybrid.expval(qhybrid.Z(0))


TRANSFORMATIONS = {
    "mapped weights": lambda f: lambda x, w: vmap(f, in_dims=(None, 0))(x[0], w),
    "mapped data": lambda f: lambda x, w: vmap(f, in_dims=(0, None))(x, w[0]),
    "another axis": lambda f: lambda x, w: vmap(f, in_dims=(1, -1))(x.mT, w.mT),
    "in chunks": lambda f: lambda x, w: vmap(f, in_dims=(0, None), chunk_size=3)(x, w[0]),
    "one element": lambda f: lambda x, w: vmap(f, in_dims=(None, 0))(x[0], w[:1]),
    "one element of gradients": lambda f: lambda x, w: vmap(grad(f))(x[:1], w[:1]),
    "no element": lambda f: lambda x, w: vmap(grad(lambda b: f(x[:0], b).sum()))(w),
    "no angles": lambda f: lambda x, w: vmap(prepared)(x[:, :2]) + vmap(grad(prepared))(w[:, :2]).sum(),
    "neither": lambda f: lambda x, w: vmap(lambda t: t.sum() * f(x[0], w[0]))(x),
    "twice": lambda f: lambda x, w: vmap(vmap(f, in_dims=(0, None)), in_dims=(None, 0))(x, w),
    "gradients": lambda f: lambda x, w: vmap(grad(f, argnums=1))(x, w),
    "gradient of a sum": lambda f: lambda x, w: grad(lambda v: vmap(f)(x, v).sin().sum())(w),
    "gradients of gradients": lambda f: lambda x, w: vmap(grad(lambda a, b: grad(f)(a, b).sum(), argnums=1))(x, w),
    "hessians": lambda f: lambda x, w: vmap(hessian(f))(x, w),
    "reverse over reverse": lambda f: lambda x, w: jacrev(jacrev(f))(x[0], w[0]),
    "reverse over forward": lambda f: lambda x, w: vmap(jacrev(jacfwd(f)))(x, w),
    "tangents": lambda f: lambda x, w: vmap(lambda a, b: jvp(f, (a, b), (b, a))[1])(x, w),
    "jacobian": lambda f: lambda x, w: jacfwd(f, argnums=1)(x[0], w[0]),
    "tangents in no_grad": lambda f: lambda x, w: tangents_of_part(f, x[0], w[0]),
    "tangents of tangents": lambda f: lambda x, w: tangents_of_tangents(f, x, w),
    "tangents of gradients": lambda f: lambda x, w: jvp(vmap(grad(f)), (x, w), (w, x))[1],
    "pullbacks": lambda f: lambda x, w: vmap(lambda a, b: pulled(f, a, b))(x, w),
    "a batch inside": lambda f: lambda x, w: vmap(lambda b: f(x, b).sum())(w),
}


def arguments(requires_grad=False):
    generator = torch.Generator().manual_seed(5)
    made = torch.rand(2, MEMBERS, FEATURES, generator=generator, dtype=torch.float64)
    return [t.clone().requires_grad_(requires_grad) for t in made]


def by_pytorch(monkeypatch):
    """Send nodes through levels as PyTorch sends any function."""
    monkeypatch.setattr(torch_interface, "_under_transforms", lambda call, xs: torch_interface._Node.apply(call, *xs))


@pytest.mark.parametrize("function", [circuit, overlap], ids=["mean", "state"])
@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_as_by_pytorch(monkeypatch, name, function):
    made = TRANSFORMATIONS[name](function)
    found = made(*arguments())
    by_pytorch(monkeypatch)
    torch.testing.assert_close(found, made(*arguments()), rtol=0, atol=1e-12)


IN_GRAPHS = ("mapped weights", "in chunks", "one element", "gradients", "gradient of a sum", "pullbacks", "tangents")


@pytest.mark.parametrize("name", [*IN_GRAPHS, "jacobian"])
def test_inside_an_ordinary_graph(monkeypatch, name):
    made = TRANSFORMATIONS[name](circuit)

    def gradients():
        x, w = arguments(requires_grad=True)
        return torch.autograd.grad((made(x, w) ** 2).sum(), [x, w], allow_unused=True, materialize_grads=True)

    found = gradients()
    by_pytorch(monkeypatch)
    torch.testing.assert_close(found, gradients(), rtol=0, atol=1e-12)


def test_maps_gradients_and_tangents_take_no_other_way(monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("PyTorch's own way was taken")

    monkeypatch.setattr(torch_interface._Node, "apply", forbidden)
    for name in ("mapped weights", "gradients", "gradient of a sum", "twice", "hessians", "tangents of gradients"):
        TRANSFORMATIONS[name](circuit)(*arguments())
    x, w = arguments()
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(w[0], w[1])
        circuit(x[0], dual)
        with pytest.raises(AssertionError, match="own way"):
            circuit(x[0].requires_grad_(), dual)


@pytest.mark.parametrize("function", [circuit, overlap], ids=["mean", "state"])
def test_dual_numbers_without_a_graph(function):
    """Plain, under ``vmap`` and inside of ``grad``: what ``jvp`` says."""
    x, w = arguments()

    def plain(v):
        return function(x[0], v)

    for f in (plain, grad(plain), lambda v: vmap(lambda a: function(a, v))(x)):
        with forward_ad.dual_level():
            value, tangent = forward_ad.unpack_dual(f(forward_ad.make_dual(w[0], w[1])))
        torch.testing.assert_close((value, tangent), jvp(f, (w[0],), (w[1],)), rtol=0, atol=1e-12)


def test_pullbacks_outlive_their_level():
    x, w = arguments(requires_grad=True)
    value, pull = vjp(circuit, x[0], w[0])
    (first, _) = pull(torch.ones_like(value))
    plain = circuit(x[0], w[0])
    (expected,) = torch.autograd.grad(plain, x, create_graph=True)
    torch.testing.assert_close(first, expected[0], rtol=0, atol=1e-12)
    second = torch.autograd.grad(first.sum(), w)[0]
    torch.testing.assert_close(second, torch.autograd.grad(expected.sum(), w)[0], rtol=0, atol=1e-12)


def test_forward_runs_are_not_repeated(monkeypatch):
    """The pullback under vmap goes back from the final states of the evaluation under vmap."""
    samples, final = [], SmallRun._final
    x, w = arguments()
    gradients = vmap(grad(circuit))
    gradients(x, w)
    monkeypatch.setattr(
        SmallRun, "_final", lambda self, values: samples.append(self.layout.count) or final(self, values)
    )
    gradients(x, w)
    assert samples == [MEMBERS]


def test_what_torch_fx_records_is_refused():
    """Its kernels would be constants in the record."""
    x, w = arguments()
    with pytest.raises(DifferentiationError, match=r"Use torch\.func\.jvp"):
        torch.func.linearize(lambda v: circuit(x[0], v), w[0])


def test_tensors_that_outlive_their_level():
    """PyTorch unwraps them where they are used: in a graph, without one, and at another level."""
    x, w = arguments()
    kept = []
    expected = grad(lambda v: kept.append(v) or circuit(x[0], v))(w[0])
    (dead,) = kept
    torch.testing.assert_close(circuit(x[0], dead), circuit(x[0], w[0]))
    data = x[0].clone().requires_grad_()
    torch.testing.assert_close(*[torch.autograd.grad(circuit(data, v), data)[0] for v in (dead, w[0])])
    torch.testing.assert_close(grad(lambda v: circuit(x[0], v + 0 * dead))(w[0]), expected)
    torch.testing.assert_close(*[jvp(lambda v: circuit(v, u), (x[0],), (x[1],))[1] for u in (dead, w[0])])
