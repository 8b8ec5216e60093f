"""Every kind of gate, template and observable on Aer against ``default.qubit`` with backprop."""

from __future__ import annotations

import numpy as np
import pennylane as qml
import pytest
import torch
from pennylane import numpy as pnp

import qhybrid
from tests.agreement.cases import CASES, OBSERVABLES, WIRES, Case, entangle

TOLERANCE = 1e-9
#: The gates, each by itself; templates are made of them.
GATES = [c for c in CASES if c.num_params < 4]


def _function(case: Case):
    def circuit(x):
        entangle(x)
        case.apply(x)
        return (
            qml.expval(qml.X(0) @ qml.Y(1)),
            qml.var(qml.X(3) @ qml.X(0) + 0.5 * qml.Z(2)),
            qml.probs(wires=[3, 1]),
            qml.state(),
        )

    return circuit


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_values(case):
    x = np.random.default_rng(1).uniform(-3, 3, case.num_params)
    x = torch.tensor(x) if case.host == "torch" else pnp.array(x, requires_grad=True)
    plain = qml.QNode(_function(case), qml.device("default.qubit", wires=WIRES))
    ours = qhybrid.QNode(_function(case), qml.device("qhybrid.aer", wires=WIRES))
    for a, b in zip(ours(x), plain(x), strict=True):
        np.testing.assert_allclose(a, b, atol=TOLERANCE)


def _loss(node, x):
    a, b, c, _ = node(x)
    return (a + 2 * b + c @ torch.tensor([0.3, -0.1, 1.2, 0.7], dtype=torch.float64)).sum()


@pytest.mark.parametrize("case", [c for c in GATES if c.num_params and c.shift], ids=lambda c: c.name)
def test_gradients(case):
    x = torch.tensor(np.random.default_rng(2).uniform(-3, 3, case.num_params), requires_grad=True)
    plain = qml.QNode(_function(case), qml.device("default.qubit", wires=WIRES), diff_method="backprop")
    ours = qhybrid.QNode(_function(case), qml.device("qhybrid.aer", wires=WIRES))
    (expected,) = torch.autograd.grad(_loss(plain, x), x)
    (got,) = torch.autograd.grad(_loss(ours, x), x)
    np.testing.assert_allclose(got, expected, atol=TOLERANCE)


@pytest.mark.parametrize("name", OBSERVABLES)
def test_observables(name):
    make = OBSERVABLES[name]

    def circuit(x):
        entangle(x)
        qml.StronglyEntanglingLayers(qml.math.reshape(x, (*qml.math.shape(x)[:-1], 1, 4, 3)), wires=WIRES)
        return qml.expval(make()), qml.var(make())

    x = np.random.default_rng(3).uniform(-3, 3, (2, 12))
    plain = qml.QNode(circuit, qml.device("default.qubit", wires=WIRES))
    ours = qhybrid.QNode(circuit, qml.device("qhybrid.aer", wires=WIRES))
    np.testing.assert_allclose(ours(x), [plain(x)[0], plain(x)[1]], atol=TOLERANCE)


def test_batched_matrices_states_and_coefficients():
    """What a circuit holds as numbers differs from sample to sample."""
    rng = np.random.default_rng(4)
    unitaries = np.linalg.qr(rng.normal(size=(3, 4, 4)) + 1j * rng.normal(size=(3, 4, 4)))[0]
    states = rng.normal(size=(3, 4)) + 1j * rng.normal(size=(3, 4))
    states /= np.linalg.norm(states, axis=1, keepdims=True)
    angles = rng.uniform(-3, 3, 3)

    def circuit(states, unitaries, angles, c):
        qml.StatePrep(states, wires=[2, 0])
        qml.QubitUnitary(unitaries, wires=[1, 2])
        qml.RX(angles, wires=0)
        qml.CRY(c[1], wires=[1, 0])
        return qml.expval(c[0] * (qml.X(0) @ qml.Z(1)) + 0.5 * qml.Y(2)), qml.state()

    c = torch.tensor([0.7, -0.3], dtype=torch.float64, requires_grad=True)
    ours = qhybrid.QNode(circuit, qml.device("qhybrid.aer", wires=3))
    plain = qml.QNode(circuit, qml.device("default.qubit", wires=3))
    values = ours(states, unitaries, angles, c)
    (gradient,) = torch.autograd.grad(values[0].sum(), c)
    for b in range(3):
        expected = plain(states[b], unitaries[b], angles[b], c.detach().numpy())
        np.testing.assert_allclose(values[0][b].detach(), expected[0], atol=TOLERANCE)
        np.testing.assert_allclose(values[1][b].detach(), expected[1], atol=TOLERANCE)

    loss = sum(qml.math.real(plain(states[b], unitaries[b], angles[b], c)[0]) for b in range(3))
    np.testing.assert_allclose(gradient, torch.autograd.grad(loss, c)[0], atol=TOLERANCE)
