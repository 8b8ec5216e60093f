"""Every optimizer of PennyLane, and torch's with a schedule, reach a known minimum on our QNodes."""

from __future__ import annotations

import numpy as np
import pennylane as qml
import pytest
import torch
from pennylane import numpy as pnp

import qhybrid

START = np.array([0.3, 0.4])


def _rotation(seed=5, **kwargs):
    """<Z> after RX and RY: the minimum is -1, at cos(x0) cos(x1) = -1."""

    @qhybrid.qnode(qml.device("qhybrid.statevector", wires=1, seed=seed), **kwargs)
    def circuit(x):
        qml.RX(x[0], wires=0)
        qml.RY(x[1], wires=0)
        return qml.expval(qml.Z(0))

    return circuit


STEPPERS = {
    "GradientDescent": (lambda: qml.GradientDescentOptimizer(0.4), 60),
    "Momentum": (lambda: qml.MomentumOptimizer(0.1, momentum=0.8), 120),
    "NesterovMomentum": (lambda: qml.NesterovMomentumOptimizer(0.1, momentum=0.8), 120),
    "Adagrad": (lambda: qml.AdagradOptimizer(0.5), 120),
    "RMSProp": (lambda: qml.RMSPropOptimizer(0.05), 150),
    "Adam": (lambda: qml.AdamOptimizer(0.2), 150),
    "SPSA": (lambda: qml.SPSAOptimizer(maxiter=150, a=0.6), 150),
    "QNG": (lambda: qml.QNGOptimizer(0.2), 60),
    "MomentumQNG": (lambda: qml.MomentumQNGOptimizer(0.1, momentum=0.5), 60),
    "QNSPSA": (lambda: qml.QNSPSAOptimizer(5e-2, seed=3, blocking=False), 250),
}


@pytest.mark.parametrize("name", STEPPERS)
def test_reaches_the_minimum(name):
    np.random.seed(4)  # noqa: NPY002 - PennyLane's SPSA draws from the global generator
    make, steps = STEPPERS[name]
    optimizer, cost = make(), _rotation()
    x = pnp.array(START, requires_grad=True)
    for _ in range(steps):
        x = optimizer.step(cost, x)
    assert cost(x) == pytest.approx(-1, abs=2e-2)


def test_adagrad_resets():
    optimizer, cost = qml.AdagradOptimizer(0.5), _rotation()
    x = pnp.array(START, requires_grad=True)
    first = optimizer.step(cost, x)
    optimizer.step(cost, first)
    optimizer.reset()
    np.testing.assert_allclose(optimizer.step(cost, x), first, atol=1e-12)


def test_step_and_cost_with_two_arguments():
    @qhybrid.qnode(qml.device("qhybrid.statevector", wires=1))
    def cost(a, b, data):
        qml.RX(a + data, wires=0)
        qml.RY(b, wires=0)
        return qml.expval(qml.Z(0))

    optimizer = qml.GradientDescentOptimizer(0.4)
    a, b = pnp.array(0.3, requires_grad=True), pnp.array(0.2, requires_grad=True)
    data = pnp.array(0.1, requires_grad=False)
    for _ in range(80):
        (a, b, data), _ = optimizer.step_and_cost(cost, a, b, data)
    assert cost(a, b, data) == pytest.approx(-1, abs=1e-4)
    assert float(data) == 0.1


def test_rotosolve():
    cost = _rotation()
    optimizer = qml.RotosolveOptimizer()
    x = pnp.array(START, requires_grad=True)
    for _ in range(3):
        x = optimizer.step(cost, x, nums_frequency={"x": {(0,): 1, (1,): 1}})
    assert cost(x) == pytest.approx(-1, abs=1e-6)


def test_rotoselect():
    @qhybrid.qnode(qml.device("qhybrid.statevector", wires=1))
    def circuit(x, generators):
        generators[0](x[0], wires=0)
        generators[1](x[1], wires=0)
        return qml.expval(qml.Z(0))

    def cost(x, generators):
        return circuit(pnp.array(x), tuple(generators))

    optimizer = qml.RotoselectOptimizer()
    x, generators = [0.3, 0.7], [qml.RX, qml.RY]
    for _ in range(4):
        x, generators = optimizer.step(cost, x, generators)
    assert cost(x, generators) == pytest.approx(-1, abs=1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_shot_adaptive():
    """It soon takes two shots a step, so a single run may go astray; most of them arrive."""
    found = []
    for seed in range(7):
        cost = _rotation(seed, shots=100)
        optimizer = qml.ShotAdaptiveOptimizer(min_shots=20, stepsize=0.1)
        x = pnp.array([0.9, 1.2], requires_grad=True)
        for _ in range(40):
            x = optimizer.step(cost, x)
        found.append(_rotation()(x))
    assert np.median(found) == pytest.approx(-1, abs=0.1)


@pytest.mark.filterwarnings("ignore::qhybrid.FallbackWarning")  # it makes a new circuit at every step
def test_adaptive():
    @qhybrid.qnode(qml.device("qhybrid.statevector", wires=2))
    def circuit():
        qml.Hadamard(0)
        return qml.expval(qml.X(0) @ qml.X(1) + qml.Z(1))

    pool = [qml.RY(pnp.array(0.1, requires_grad=True), wires=0), qml.RY(pnp.array(0.1, requires_grad=True), wires=1)]
    optimizer = qml.AdaptiveOptimizer(param_steps=20, stepsize=0.3)
    energies = []
    for _ in range(4):
        circuit, energy, _ = optimizer.step_and_cost(circuit, pool, drain_pool=False)
        energies.append(float(energy))
    assert energies[-1] == pytest.approx(-np.sqrt(2), abs=5e-2)


@pytest.mark.filterwarnings("ignore::qhybrid.FallbackWarning")  # it makes a new circuit at every step
def test_riemannian():
    @qhybrid.qnode(qml.device("qhybrid.statevector", wires=1))
    def circuit():
        qml.RY(0.4, wires=0)
        return qml.expval(qml.Hamiltonian([1.0], [qml.Z(0)]))

    optimizer = qml.RiemannianGradientOptimizer(circuit, stepsize=0.2)
    for _ in range(30):
        _, cost = optimizer.step_and_cost()
    assert cost == pytest.approx(-1, abs=1e-2)


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam, torch.optim.LBFGS])
def test_torch_optimizers_with_a_schedule(make):
    cost = _rotation()
    x = torch.nn.Parameter(torch.tensor(START))
    optimizer = make([x], lr=0.4)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=30, gamma=0.5)

    def closure():
        optimizer.zero_grad()
        value = cost(x)
        value.backward()
        return value

    for _ in range(80):
        optimizer.step(closure)
        schedule.step()
    assert cost(x).item() == pytest.approx(-1, abs=1e-3)
