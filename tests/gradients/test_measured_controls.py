"""Gates that wait for outcomes are shifted as if nothing controlled them."""

import numpy as np
import pennylane as qml
import pytest
import torch
from pennylane import numpy as pnp

import qhybrid
from qhybrid.errors import DifferentiationError
from qhybrid.gradients.lanes import untie
from qhybrid.gradients.shift_rules import generator_spectrum
from qhybrid.program import Angle, Gate, PauliRotation, Program


def _spread():
    for wire in range(3):
        qml.RY(0.6 + 0.4 * wire, wires=wire)
    return [qml.measure(w) for w in range(3)]


def _circuit(apply):
    def circuit(x):
        apply(_spread(), x)
        return qml.expval(qml.Z(3)), qml.expval(qml.X(3))

    return circuit


CASES = {
    "one outcome": (lambda m, x: qml.cond(m[0], qml.RX)(x, wires=3), 2),
    "two exclusive copies": (lambda m, x: qml.cond(m[0] + m[1] == 1, qml.RX)(x, wires=3), 2),
    "five exclusive copies": (lambda m, x: qml.cond(m[0] + m[1] + m[2] != 1, qml.RX)(x, wires=3), 2),
    "a controlled gate": (lambda m, x: qml.cond(m[0], qml.CRX)(x, wires=[1, 3]), 4),
    "controlled, two copies": (lambda m, x: qml.cond(m[0] != m[2], qml.CRY)(x, wires=[1, 3]), 4),
    "two frequencies": (lambda m, x: qml.cond(m[0] | m[1], qml.SingleExcitation)(x, wires=[4, 3]), 4),
    "both branches": (lambda m, x: qml.cond(m[0], qml.RX, qml.RY)(x, wires=3), 4),
    "one gate inside of another's condition": (
        lambda m, x: qml.cond(m[0], lambda: qml.cond(m[1] | m[2], qml.RX)(x, wires=3))(),
        2,
    ),
    "a phase that nothing shows": (lambda m, x: qml.cond(m[0], qml.GlobalPhase)(x, wires=3), 0),
    "a condition that always holds": (lambda m, x: qml.cond(m[0] >= 0, qml.RX)(x, wires=3), 2),
}


@pytest.mark.parametrize("name", CASES)
def test_evaluations_and_values(name):
    apply, evaluations = CASES[name]
    device = qml.device("qhybrid.statevector")
    shifted = qhybrid.QNode(_circuit(apply), device, diff_method="parameter-shift")
    exact = qhybrid.QNode(_circuit(apply), device, diff_method="adjoint")
    tested = qhybrid.QNode(_circuit(apply), device, diff_method="hadamard")
    x = torch.tensor(0.9, dtype=torch.float64)
    assert shifted.explain(x).gradient_executions == evaluations
    by_shifts, by_tests, wanted = (
        torch.func.jacrev(lambda t, f=f: torch.stack(f(t)))(x) for f in (shifted, tested, exact)
    )
    torch.testing.assert_close(by_shifts, wanted, atol=1e-10, rtol=0)
    torch.testing.assert_close(by_tests, wanted, atol=1e-10, rtol=0)
    found, wanted = (torch.autograd.functional.hessian(lambda t, f=f: sum(f(t)), x) for f in (shifted, exact))
    torch.testing.assert_close(found, wanted, atol=1e-9, rtol=0)


def test_copies_that_may_act_together_are_shifted_apart():
    x = Angle(0)

    def gate(*outcomes):
        wires, values = tuple(w for w, _ in outcomes), tuple(bool(v) for _, v in outcomes)
        return Gate("RX", (3,), PauliRotation("X", x), wires, values, classical=len(wires))

    exclusive = Program(4, (gate((0, 1)), gate((0, 0), (1, 1)), gate((0, 0), (1, 0))), num_shared=1)
    assert len(untie(exclusive).sources) == 1
    together = Program(4, (gate((0, 1)), gate((1, 1)), gate((0, 0), (1, 0))), num_shared=1)
    assert len(untie(together).sources) == 2
    quantum = Program(4, (Gate("RX", (3,), PauliRotation("X", x), (0,), (True,)),) * 2, num_shared=1)
    assert len(untie(quantum).sources) == 2


def test_only_controls_in_superposition_widen_the_spectrum():
    operator = PauliRotation("X", Angle(0))
    measured = Gate("RX", (2,), operator, (0,), (True,), classical=1)
    both = Gate("RX", (2,), operator, (0, 1), (True, True), classical=1)
    assert sorted(generator_spectrum(measured, 0)) == [-0.5, 0.5]
    assert sorted(generator_spectrum(both, 0)) == [-0.5, 0.0, 0.5]


@pytest.mark.parametrize("device", ["qhybrid.statevector", "qhybrid.aer"])
def test_gradients_from_shots_are_unbiased(device):
    def circuit(x, y):
        qml.RY(y, wires=0)
        m = qml.measure(0)
        qml.RY(0.8, wires=0)
        n = qml.measure(0)
        qml.cond(m + n == 1, qml.RX)(x, wires=1)
        qml.cond(~m, qml.RY)(0.5 * x, wires=1)
        return qml.expval(qml.Z(1))

    point = [pnp.array(v, requires_grad=True) for v in (0.9, 1.3)]
    exact = np.array(qml.grad(qhybrid.QNode(circuit, qml.device("qhybrid.statevector")))(*point))
    node = qml.set_shots(qhybrid.QNode(circuit, qml.device(device, seed=11)), 100)
    found = np.array([qml.grad(node)(*point) for _ in range(150)])
    error = found.std(axis=0, ddof=1) / np.sqrt(len(found))
    assert np.all(np.abs(found.mean(axis=0) - exact) < 5 * error)
    assert np.all(error < 0.02)  # else the line above would say little


@pytest.mark.parametrize("host", ["autograd", "torch", "torch forward"])
def test_postselected_gradients_from_shots_are_refused(host):
    def circuit(x):
        qml.RX(x, wires=0)
        qml.CNOT(wires=[0, 1])
        qml.measure(0, postselect=1)
        return qml.expval(qml.Z(1))

    node = qml.set_shots(qhybrid.QNode(circuit, qml.device("qhybrid.statevector", seed=1)), 100)
    x = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    derivative = {
        "autograd": lambda: qml.grad(node)(pnp.array(0.9)),
        "torch": lambda: node(x).backward(),
        "torch forward": lambda: torch.func.jvp(node, (x,), (torch.ones_like(x),)),
    }[host]
    with pytest.raises(DifferentiationError, match="quotients of estimates, whose derivative is biased"):
        derivative()
    explained = node.explain(x)
    assert (explained.gradient_executions, explained.method) == (0, "none")
