"""A checked method gives what the method gives, and refuses a derivative that is wrong, of any kind and order."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pennylane as qml
import pytest
import torch
from pennylane import numpy as pnp

import qhybrid
from qhybrid.errors import DifferentiationError
from qhybrid.gradients import SPSA, Adjoint, Checked, FiniteDiff, GradientMethod, ParameterShift, PhysicsAware
from qhybrid.testing import check_jvp, check_vjp
from qhybrid_devices.statevector.device import StateVectorDevice
from qhybrid_devices.statevector.executable import StateVectorExecutable
from tests.gradients.circuits import ANGLES, ARRAYS, compile_fast, function, random_inputs
from tests.testing.broken_devices import WrongSignDevice


def circuit(x, w):
    qml.RX(x[0], wires=0)
    qml.CRY(x[1], wires=[0, 1])
    qml.Rot(w[0], w[1], w[2], wires=1)
    return qml.expval(qml.Z(1)), qml.expval(qml.X(0) @ qml.Z(1))


X, W = pnp.array([0.4, -1.2]), pnp.array([0.3, 0.5, -0.8])


def total(node):
    return lambda x, w: sum(node(x, w))


def checked_node(device="qhybrid.statevector", **kwargs):
    device = qml.device(device, wires=2) if isinstance(device, str) else device
    return qhybrid.QNode(circuit, device, check=True, **kwargs)


# ------------------------------------------------------------------ right derivatives pass


@pytest.mark.parametrize("name", ANGLES)
def test_right_derivatives_of_angles_pass(name):
    for method in (Adjoint(), ParameterShift(), FiniteDiff()):
        checked = function(ANGLES[name], Checked(method), compile_fast)
        check_vjp(checked, random_inputs(ANGLES[name]), order=2 if method == Adjoint() else 1)
        check_jvp(checked, random_inputs(ANGLES[name]))


@pytest.mark.parametrize("name", ARRAYS)
def test_right_derivatives_of_arrays_pass(name):
    program = ARRAYS[name]
    inputs = random_inputs(program)
    checked, plain = (function(program, m, compile_fast) for m in (Checked(Adjoint()), Adjoint()))
    cotangents = [np.random.default_rng(1).normal(size=y.shape) for y in plain(*inputs)]
    needs = (True,) * len(inputs)
    pairs = zip(checked.pullback(needs)(*inputs, *cotangents), plain.pullback(needs)(*inputs, *cotangents), strict=True)
    for found, expected in pairs:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("method", ["adjoint", "parameter-shift", "finite-diff"])
def test_node(method):
    node = checked_node(diff_method=method)
    plain = qhybrid.QNode(circuit, qml.device("qhybrid.statevector", wires=2))
    found, expected = (qml.grad(total(n), argnums=[0, 1])(X, W) for n in (node, plain))
    for ours, own in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, own, atol=1e-9)
    explained = node.explain(X, W)
    assert explained.method == method
    assert "the first 3 of each circuit are compared with central differences" in explained.method_reason


def test_single_precision_passes():
    device = qml.device("qhybrid.statevector", wires=2, c_dtype=np.complex64)
    for seed in range(5):
        x, w = (pnp.array(np.random.default_rng(seed).normal(size=n)) for n in (2, 3))
        qml.grad(total(checked_node(device)), argnums=[0, 1])(x, w)


def test_empty_batch():
    @qhybrid.qnode(qml.device("qhybrid.statevector", wires=1), check=True)
    def batched(x):
        qml.RX(x, wires=0)
        return qml.expval(qml.Z(0))

    x = torch.zeros(0, dtype=torch.float64, requires_grad=True)
    batched(x).sum().backward()
    assert x.grad.shape == (0,)


# ------------------------------------------------------------------ wrong ones are refused


def test_wrong_sign():
    node = checked_node(WrongSignDevice(wires=2))
    expected = qml.jacobian(lambda w: total(qhybrid.QNode(circuit, WrongSignDevice(wires=2)))(X, w))(W)
    with pytest.raises(DifferentiationError, match="and finite-diff disagree about") as refusal:
        qml.grad(total(node), argnums=1)(X, W)
    worst = np.abs(expected).max()
    assert f"{worst:.6f}"[:7] in str(refusal.value)
    assert "the angle of R" in str(refusal.value)
    assert 'diff_method="adjoint"' in str(refusal.value)
    other = checked_node(WrongSignDevice(wires=2), diff_method="parameter-shift")
    qml.grad(total(other), argnums=1)(X, W)


def test_only_the_first_calls_are_compared():
    runs = []

    class Counting(StateVectorExecutable):
        def run(self, slots):
            runs.append(slots)
            return super().run(slots)

    class CountingDevice(StateVectorDevice):
        def make_executable(self, program):
            return Counting(program)

    node = checked_node(CountingDevice(wires=2))
    numbers = []
    for _ in range(5):
        before = len(runs)
        qml.grad(total(node), argnums=1)(X, W)
        numbers.append(len(runs) - before)
    assert numbers == [6, 6, 6, 0, 0]


class WrongArrays(StateVectorExecutable):
    """Cotangents of arrays lack their conjugation."""

    def vjp(self, slots, cotangents, needs, **kwargs):
        got = super().vjp(slots, cotangents, needs, **kwargs)
        return replace(got, arrays=tuple(None if a is None else a.conj() for a in got.arrays))


def test_wrong_array():
    program = ARRAYS["unitary"]
    inputs = random_inputs(program)
    wrong = function(program, Checked(Adjoint()), WrongArrays)
    cotangents = [np.ones_like(y) for y in wrong(*inputs)]
    with pytest.raises(DifferentiationError, match="along a direction of all angles and arrays"):
        wrong.pullback((True, True))(*inputs, *cotangents)


@dataclass(frozen=True)
class WrongHigher(GradientMethod):
    """Right first derivatives; tangents and second derivatives are half too large."""

    name = "adjoint"

    def vjp(self, circuit, slots, cotangents, needs, residual=None):
        return Adjoint().vjp(circuit, slots, cotangents, needs, residual)

    def jvp(self, circuit, slots, tangents):
        return tuple(1.5 * t for t in Adjoint().jvp(circuit, slots, tangents))

    def second_order(self, circuit, slots, cotangents, tangents, *rest):
        found = Adjoint().second_order(circuit, slots, cotangents, tangents, *rest)
        return found._replace(tangents=replace(found.tangents, shared=1.5 * found.tangents.shared))


def test_wrong_tangents_and_second_derivatives():
    node = checked_node(diff_method=WrongHigher())
    w = torch.tensor(W)
    qml.grad(total(node), argnums=1)(X, W)
    with pytest.raises(DifferentiationError, match="disagree about the tangent of a result"):
        torch.func.jvp(lambda w: total(node)(torch.tensor(X), w), (w,), (torch.ones_like(w),))
    with pytest.raises(DifferentiationError, match="disagree about a second derivative"):
        torch.autograd.functional.hessian(lambda w: total(node)(torch.tensor(X), w), w)


# ------------------------------------------------------------------ shots, and what cannot be checked


def test_with_shots_the_rule_is_compared_at_exact_results():
    qml.grad(total(qml.set_shots(checked_node(), 10)), argnums=1)(X, W)

    class WrongRule(ParameterShift):
        def vjp(self, circuit, slots, cotangents, needs, residual=None):
            got = super().vjp(circuit, slots, cotangents, needs, residual)
            return replace(got, shared=2 * got.shared)

    with pytest.raises(DifferentiationError, match="disagree"):
        qml.grad(total(qml.set_shots(checked_node(diff_method=WrongRule()), 10)), argnums=1)(X, W)


def test_no_exact_results():
    class ShotsOnly(StateVectorExecutable):
        def run(self, slots):
            raise qhybrid.DeviceError("only shots here.")

    class ShotsOnlyDevice(StateVectorDevice):
        def make_executable(self, program):
            return ShotsOnly(program)

    node = qml.set_shots(checked_node(ShotsOnlyDevice(wires=2), diff_method="parameter-shift"), 10)
    node(X, W)
    with pytest.raises(DifferentiationError, match="this device gives none: only shots here"):
        qml.grad(total(node), argnums=1)(X, W)


def test_pennylanes_path_is_not_checked():
    node = checked_node(diff_method=qml.gradients.param_shift)
    with pytest.raises(DifferentiationError, match="this one runs through PennyLane: diff_method"):
        node(X, W)


def test_random_estimates_are_not_checked():
    with pytest.raises(DifferentiationError, match=r'"spsa" are random estimates'):
        checked_node(diff_method=SPSA(seed=0))


def test_the_twin_is_checked():
    node = checked_node(diff_method=PhysicsAware(twin=WrongSignDevice(wires=2)))
    with pytest.raises(DifferentiationError, match="disagree"):
        qml.grad(total(node), argnums=1)(X, W)
    with pytest.raises(DifferentiationError, match="twin a QNode with check=True"):
        checked_node(diff_method=PhysicsAware(twin=lambda x, w: w))
