"""Values and gradients of the compiled path against ``default.qubit`` with backprop, to 1e-9."""

from __future__ import annotations

from functools import cache

import numpy as np
import pennylane as qml
import pytest
import torch
from pennylane import numpy as pnp

import qhybrid
from tests.agreement.cases import CASES, OBSERVABLES, WIRES, Case, entangle

TOLERANCE = 1e-9
METHODS = ("adjoint", "parameter-shift")
with_params = [c for c in CASES if c.num_params]


def _function(case: Case):
    def circuit(x):
        entangle(x)
        case.apply(x)
        return (
            qml.expval(qml.X(0) @ qml.Y(1)),
            qml.expval(qml.Hamiltonian([0.3, -1.1, 0.4], [qml.X(2), qml.Z(3) @ qml.Y(0), qml.Z(1)])),
            qml.var(qml.X(3) @ qml.X(0) + 0.5 * qml.Z(2)),
            qml.probs(wires=[3, 1]),
        )

    return circuit


def _flat(results, batch: bool):
    """All results in one row, or one row a sample."""
    if batch:
        rows = [qml.math.reshape(r, (qml.math.shape(r)[0], -1)) for r in results]
        return qml.math.concatenate(rows, axis=1)
    return qml.math.concatenate([qml.math.reshape(r, (-1,)) for r in results])


def _angles(case: Case, batch: int | None = None) -> np.ndarray:
    rng = np.random.default_rng(sum(map(ord, case.name)))
    shape = (case.num_params,) if batch is None else (batch, case.num_params)
    return rng.uniform(-3, 3, shape)


@cache
def _reference_at(case: Case, angles: tuple[float, ...]):
    node = qml.QNode(_function(case), qml.device("default.qubit", wires=WIRES), diff_method="backprop")

    def flat(x):
        return _flat(node(x), False)

    if case.host == "torch":
        t = torch.tensor(angles, dtype=torch.float64)
        return qml.math.toarray(flat(t)), torch.autograd.functional.jacobian(flat, t).numpy() if angles else None
    x = pnp.array(angles, requires_grad=True)
    return np.asarray(flat(x)), np.asarray(qml.jacobian(flat)(x))


def _reference(case: Case, x: np.ndarray):
    """Values and Jacobian of one sample on default.qubit, by the host whose backprop is right for the case."""
    return _reference_at(case, tuple(x.tolist()))


def _node(case: Case, method: str):
    return qhybrid.QNode(_function(case), qml.device("qhybrid.statevector", wires=WIRES), diff_method=method)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_values(case):
    x = _angles(case)
    expected, _ = _reference(case, x)
    node = _node(case, "best")
    for _ in range(2):  # the first call traces, the second replays
        np.testing.assert_allclose(_flat(node(x), False), expected, atol=TOLERANCE)
    assert node.explain(x).path == "compiled"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", with_params, ids=lambda c: c.name)
def test_gradients(case, method):
    if method == "parameter-shift" and not case.shift:
        pytest.skip("no shift rule for coefficients of non-commuting terms: refused, see test_refusals")
    x = _angles(case)
    _, expected = _reference(case, x)
    node = _node(case, method)
    ours = torch.autograd.functional.jacobian(lambda t: _flat(node(t), False), torch.tensor(x))
    np.testing.assert_allclose(ours.numpy(), expected, atol=TOLERANCE)
    ours = qml.jacobian(lambda t: _flat(node(t), False))(pnp.array(x, requires_grad=True))
    np.testing.assert_allclose(ours, expected, atol=TOLERANCE)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", [c for c in with_params if c.batches], ids=lambda c: c.name)
def test_batched(case, method):
    x = _angles(case, batch=3)
    values, jacobians = zip(*(_reference(case, row) for row in x), strict=True)
    node = _node(case, method)
    np.testing.assert_allclose(_flat(node(x), True), np.stack(values), atol=TOLERANCE)
    t = torch.tensor(x, requires_grad=True)
    weights = torch.tensor(np.random.default_rng(5).normal(size=values[0].shape))
    (_flat(node(t), True) @ weights).sum().backward()
    expected = np.stack([weights.numpy() @ j for j in jacobians])
    np.testing.assert_allclose(t.grad.numpy(), expected, atol=TOLERANCE)
    assert node.explain(x).path == "compiled"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", OBSERVABLES)
def test_observables(name, method):
    make = OBSERVABLES[name]

    def circuit(x):
        entangle(x)
        qml.StronglyEntanglingLayers(qml.math.reshape(x, (1, 4, 3)), wires=WIRES)
        return qml.expval(make()), qml.var(make())

    x = np.random.default_rng(3).uniform(-3, 3, 12)
    plain = qml.QNode(circuit, qml.device("default.qubit", wires=WIRES), diff_method="backprop")
    ours = qhybrid.QNode(circuit, qml.device("qhybrid.statevector", wires=WIRES), diff_method=method)
    np.testing.assert_allclose(ours(x), plain(x), atol=TOLERANCE)
    jacobian = torch.autograd.functional.jacobian
    expected = jacobian(lambda t: torch.stack(plain(t)), torch.tensor(x))
    np.testing.assert_allclose(jacobian(lambda t: torch.stack(ours(t)), torch.tensor(x)), expected, atol=TOLERANCE)


def test_trainable_coefficients():
    """PennyLane's adjoint confuses coefficients with gates; its backprop is right."""

    def circuit(c, x):
        entangle(x)
        qml.RX(x, wires=0)
        return qml.expval(qml.Hamiltonian([c[0], c[1], 0.5], [qml.X(0), qml.Z(1) @ qml.Z(0), qml.Y(2)]))

    c, x = pnp.array([0.4, -1.2], requires_grad=True), pnp.array(0.7, requires_grad=True)
    expected = qml.grad(qml.QNode(circuit, qml.device("default.qubit"), diff_method="backprop"))(c, x)
    for method in METHODS:
        node = qhybrid.QNode(circuit, qml.device("qhybrid.statevector"), diff_method=method)
        for ours, theirs in zip(qml.grad(node)(c, x), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)


def test_arrays_are_differentiated():
    """Unitary entries, prepared amplitudes and a Hermitian matrix, against torch backprop on default.qubit."""

    def circuit(a, amplitudes, matrix):
        qml.AmplitudeEmbedding(amplitudes, wires=[0, 1], normalize=True)
        hermitian = a + qml.math.conj(qml.math.T(a))
        qml.QubitUnitary(torch.matrix_exp(1j * hermitian), wires=[1, 2])
        return qml.expval(qml.Hermitian(matrix + qml.math.conj(qml.math.T(matrix)), wires=[0, 2]))

    rng = np.random.default_rng(2)
    raw = [rng.normal(size=(4, 4)) + 1j * rng.normal(size=(4, 4)), rng.normal(size=4), rng.normal(size=(4, 4)) + 0j]
    grads = []
    for make in (qhybrid.QNode, qml.QNode):
        device = qml.device("qhybrid.statevector" if make is qhybrid.QNode else "default.qubit", wires=3)
        inputs = [torch.tensor(r, requires_grad=True) for r in raw]
        out = make(circuit, device, diff_method="backprop")(*inputs)
        out.real.backward()
        grads.append([out.detach().real.numpy(), *(i.grad.numpy() for i in inputs)])
    for ours, theirs in zip(*grads, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)


@pytest.mark.parametrize(
    "measure",
    [qml.state, lambda: qml.density_matrix([1, 3]), lambda: qml.purity([0, 2]), lambda: qml.vn_entropy([0]),
     lambda: qml.mutual_info([0], [1]), lambda: qml.probs(), lambda: qml.probs(op=qml.X(1) @ qml.Y(2))],
    ids=["state", "density_matrix", "purity", "vn_entropy", "mutual_info", "probs", "probs of an observable"],
)  # fmt: skip
def test_state_measurements(measure):
    def circuit(x):
        entangle(x)
        qml.RX(x, wires=1)
        return measure()

    def loss(node, t):
        out = node(t)
        return (out * torch.linspace(0.5, 1.5, out.numel(), dtype=torch.float64).reshape(out.shape)).abs().sum()

    results = []
    for make, name in ((qhybrid.QNode, "qhybrid.statevector"), (qml.QNode, "default.qubit")):
        node = make(circuit, qml.device(name, wires=WIRES), diff_method="backprop")
        t = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        value = loss(node, t)
        value.backward()
        results.append((value.item(), t.grad.item(), qml.math.toarray(node(t.detach()))))
    np.testing.assert_allclose(results[0][0], results[1][0], atol=TOLERANCE)
    np.testing.assert_allclose(results[0][1], results[1][1], atol=TOLERANCE)
    np.testing.assert_allclose(results[0][2], results[1][2], atol=TOLERANCE)
