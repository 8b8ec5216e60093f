"""Circuits that measure inside, against PennyLane's deferred measurements and backprop."""

import numpy as np
import pennylane as qml
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pennylane import numpy as pnp

import qhybrid
from qhybrid.errors import CircuitError

DEVICES = ("qhybrid.statevector", "qhybrid.aer", "default.qubit", "lightning.qubit")
POINT = (0.7, 1.1)


def _entangled(x, y):
    qml.RX(x, wires=0)
    qml.RY(y, wires=1)
    qml.CNOT(wires=[0, 1])


def conditional(x, y):
    """A gate that waits for an outcome, on a wire that goes on."""
    _entangled(x, y)
    m = qml.measure(0)
    qml.cond(m, qml.RX)(y, wires=1)
    qml.RY(0.3, wires=0)
    return qml.expval(qml.X(0) @ qml.Z(1)), qml.expval(m), qml.probs(op=m), qml.var(qml.Y(1))


def several_values(x, y):
    """Functions of several outcomes, with both branches, on gates of several angles."""
    _entangled(x, y)
    m = [qml.measure(0), qml.measure(1)]
    qml.RY(0.3, wires=0)
    m.append(qml.measure(0))
    qml.cond((m[0] & m[1]) | ~m[2], lambda: qml.Rot(x, y, x * y, wires=1), lambda: qml.CRX(x * y, wires=[2, 1]))()
    qml.cond(m[0] + m[1] + m[2] == 1, qml.RY)(y, wires=2)
    return qml.expval(qml.Z(1) @ qml.Y(2)), qml.expval(m[0] * m[1] - m[2]), qml.probs(op=m), qml.var(m[0] + 2 * m[2])


def reset(x, y):
    """Wires that are used again after a reset."""
    _entangled(x, y)
    m = qml.measure(0, reset=True)
    qml.RX(x, wires=0)
    qml.cond(m, qml.RZ)(y, wires=0)
    qml.CRY(y, wires=[0, 1])
    n = qml.measure(0, reset=True)
    qml.cond(n != m, qml.RY)(x * y, wires=0)
    return qml.expval(qml.Z(0)), qml.probs(wires=[1, 0]), qml.expval(m - n), qml.var(qml.X(0) + 0.5 * qml.Z(1))


def postselected(x, y):
    """Outcomes that are given, before a conditional gate, a reset and another outcome."""
    _entangled(x, y)
    m = qml.measure(0, postselect=1)
    qml.cond(m, qml.RX)(y, wires=1)
    qml.RY(0.3, wires=0)
    n = qml.measure(1, reset=True)
    qml.cond(m + n == 1, qml.RZ, qml.RX)(x * y, wires=0)
    qml.RX(x, wires=1)
    qml.measure(0, postselect=0, reset=True)
    qml.RY(y, wires=0)
    qml.CNOT(wires=[0, 2])
    return (
        qml.expval(qml.X(0) @ qml.Y(1)),
        qml.expval(m + 2 * n),
        qml.probs(op=[m, n]),
        qml.var(qml.Z(0) @ qml.Z(1) + 0.3 * qml.X(2)),
        qml.var(m - n),
        qml.probs(wires=[1, 0]),
        qml.purity([0]),
        qml.expval(qml.Hermitian(np.array([[1.0, 0.5j], [-0.5j, -1.0]]), wires=0)),
        qml.var(qml.Hermitian(np.array([[1.0, 0.5j], [-0.5j, -1.0]]), wires=0)),
    )


def teleported(x, y):
    """A state moves by two measurements and two corrections."""
    qml.Rot(x, y, x * y, wires=0)
    qml.Hadamard(1)
    qml.CNOT(wires=[1, 2])
    qml.CNOT(wires=[0, 1])
    qml.Hadamard(0)
    first, second = qml.measure(0), qml.measure(1)
    qml.cond(second, qml.PauliX)(wires=2)
    qml.cond(first, qml.PauliZ)(wires=2)
    return qml.expval(qml.Z(2)), qml.expval(qml.X(2)), qml.expval(qml.Y(2)), qml.expval(first), qml.expval(second)


def until_success(x, y):
    """Up to three attempts with one ancilla; further ones only after failures."""

    def attempt():
        qml.RX(x, wires=1)
        qml.CRY(y, wires=[1, 0])
        qml.RX(-x, wires=1)

    attempt()
    done = qml.measure(1, reset=True)
    for _ in range(2):
        qml.cond(~done, attempt)()
        done = done | qml.measure(1, reset=True)
    qml.cond(~done, qml.RY)(x, wires=0)
    return qml.expval(qml.Z(0)), qml.expval(done), qml.expval(qml.X(0))


CIRCUITS = (conditional, several_values, reset, postselected, teleported, until_success)


def _device(name):
    return qml.device(name, wires=8) if name == "lightning.qubit" else qml.device(name)


def _flat(node):
    return lambda *a: qml.math.hstack([qml.math.reshape(r, (-1,)) for r in node(*a)])


def _plain(circuit):
    return _flat(qml.QNode(circuit, qml.device("default.qubit"), diff_method="backprop", mcm_method="deferred"))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("circuit", CIRCUITS, ids=lambda c: c.__name__)
def test_values_and_first_derivatives(circuit, device):
    node, plain = qhybrid.QNode(circuit, _device(device)), _plain(circuit)
    point = [pnp.array(v, requires_grad=True) for v in POINT]
    wanted = plain(*point)
    np.testing.assert_allclose(_flat(node)(*point), wanted, atol=1e-11)
    ours, theirs = (qml.grad(_weighted(f, len(wanted)))(*point) for f in (_flat(node), plain))
    np.testing.assert_allclose(ours, theirs, atol=1e-10)
    assert node.explain(*point).path == "compiled"


def _weighted(f, size):
    """One number that every result changes."""
    return lambda *a: qml.math.sum(f(*a) * np.cos(np.arange(size)))


@pytest.mark.parametrize("circuit", CIRCUITS, ids=lambda c: c.__name__)
def test_second_derivatives(circuit):
    """Of autograd over autograd and of torch's reverse over reverse."""
    node, plain = _flat(qhybrid.QNode(circuit, _device(DEVICES[0]))), _plain(circuit)
    size = len(plain(*POINT))

    def in_torch(f):
        weights = torch.cos(torch.arange(size, dtype=torch.float64))
        return torch.autograd.functional.hessian(
            lambda z: (f(z[0], z[1]) * weights).sum(), torch.tensor(POINT, dtype=torch.float64)
        )

    wanted = in_torch(plain)
    torch.testing.assert_close(in_torch(node), wanted, atol=1e-9, rtol=0)
    found = qml.jacobian(qml.grad(lambda z: _weighted(node, size)(z[0], z[1])))(pnp.array(POINT))
    np.testing.assert_allclose(found, wanted, atol=1e-9)


@pytest.mark.parametrize("method", ["adjoint", "parameter-shift"])
@pytest.mark.parametrize("circuit", CIRCUITS, ids=lambda c: c.__name__)
def test_batches_in_torch(circuit, method):
    """Every sample of a batch as PennyLane gives it alone, by both methods."""
    node = qhybrid.QNode(circuit, _device(DEVICES[0]), diff_method=method)
    plain = _plain(circuit)
    x = torch.tensor([0.7, -0.4, 2.1], dtype=torch.float64, requires_grad=True)
    y = torch.tensor(1.1, dtype=torch.float64, requires_grad=True)
    found = torch.cat([r.reshape(3, -1) for r in node(x, y)], dim=1)
    wanted = torch.stack([plain(one, y) for one in x])
    torch.testing.assert_close(found, wanted, atol=1e-11, rtol=0)
    weights = torch.cos(torch.arange(wanted.numel(), dtype=torch.float64)).reshape(wanted.shape)
    ours, theirs = (torch.autograd.grad((r * weights).sum(), (x, y)) for r in (found, wanted))
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=0)


@pytest.mark.parametrize("circuit", [reset, postselected], ids=lambda c: c.__name__)
def test_forward_mode(circuit):
    node = _flat(qhybrid.QNode(circuit, _device(DEVICES[0])))
    point = torch.tensor(POINT, dtype=torch.float64)
    found = torch.func.jacfwd(lambda z: node(z[0], z[1]))(point)
    torch.testing.assert_close(found, torch.tensor(_jacobian(circuit)), atol=1e-9, rtol=0)


@pytest.mark.parametrize("circuit", [reset, postselected], ids=lambda c: c.__name__)
def test_under_jit(circuit):
    jax = pytest.importorskip("jax")
    node = _flat(qhybrid.QNode(circuit, _device(DEVICES[0])))
    with jax.experimental.enable_x64():
        found = jax.jit(jax.jacobian(lambda z: node(z[0], z[1])))(jax.numpy.array(POINT))
    np.testing.assert_allclose(found, _jacobian(circuit), atol=1e-9)


def _jacobian(circuit):
    point = [pnp.array(v, requires_grad=True) for v in POINT]
    return np.stack(qml.jacobian(_plain(circuit))(*point), axis=-1)


# ------------------------------------------------------------------ random circuits

_KINDS = ("rotate", "rotate", "entangle", "measure", "measure", "reset", "postselect", "cond", "cond")
_STEPS = st.lists(st.tuples(st.sampled_from(_KINDS), st.integers(0, 2), st.integers(0, 6)), min_size=4, max_size=14)
_GATES = (qml.RX, qml.RY, qml.RZ, qml.PhaseShift)


def _random_circuit(steps):
    def circuit(x):
        measured, postselected = [], 0
        for wire in range(3):
            qml.RY(x[wire] + 0.3 * wire, wires=wire)
        for i, (kind, wire, choice) in enumerate(steps):
            angle = x[i % len(x)] * (1 + 0.1 * i)
            if kind == "rotate":
                _GATES[choice % 4](angle, wires=wire)
            elif kind == "entangle":
                qml.CRX(angle, wires=[wire, (wire + 1 + choice % 2) % 3])
            elif kind == "cond" and measured:
                a, b = measured[choice % len(measured)], measured[-1]
                condition = (a, ~a, a & b, a | ~b, a + b == 1, a * 2 + b > 1, a == b)[choice]
                qml.cond(condition, _GATES[choice % 4], _GATES[(choice + 1) % 4])(angle, wires=wire)
            elif kind in ("measure", "reset") and len(measured) < 4:
                measured.append(qml.measure(wire, reset=kind == "reset"))
            elif kind == "postselect" and postselected < 2 and len(measured) < 4:
                postselected += 1
                measured.append(qml.measure(wire, postselect=choice % 2, reset=choice > 3))
        results = [qml.expval(qml.Z(0) @ qml.X(1)), qml.probs(wires=[2, 0]), qml.var(qml.Y(2))]
        if measured:
            results += [qml.expval(measured[0]), qml.expval(sum(measured)), qml.probs(op=measured)]
        return results

    return circuit


@settings(max_examples=60, derandomize=True, deadline=None)
@given(_STEPS, st.integers(0, 1000))
def test_random_dynamic_circuits(steps, seed):
    circuit = _random_circuit(steps)
    x = torch.tensor(np.random.default_rng(seed).uniform(-1.5, 1.5, 4), requires_grad=True)
    node, plain = _flat(qhybrid.QNode(circuit, qml.device("qhybrid.statevector"))), _plain(circuit)
    wanted = plain(x)
    if not torch.isfinite(wanted).all():
        with pytest.raises(CircuitError, match="probability zero"):
            node(x)
        return
    weights = torch.cos(torch.arange(len(wanted), dtype=torch.float64))
    ours, theirs = (torch.autograd.grad((r * weights).sum(), x)[0] for r in (node(x), wanted))
    torch.testing.assert_close(node(x), wanted, atol=1e-9, rtol=0)
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)
