"""Natural gradient and imaginary time: exact single steps, known ground states, PennyLane's manners."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pennylane as qml
import pytest
from pennylane import numpy as pnp
from scipy.linalg import expm

import qhybrid
from qhybrid.errors import DifferentiationError
from qhybrid.optimize import ImaginaryTime, NaturalGradient, fubini_study
from tests.optimize.circuits import ising_ansatz, tfim

#: H2 at 0.7414 angstrom in the STO-3G basis, two qubits after parity reduction, in hartree without the repulsion of
#: the nuclei: P. J. J. O'Malley et al., "Scalable quantum simulation of molecular energies", Phys. Rev. X 6, 031007
#: (2016), table 1, at R = 0.75 angstrom (with the repulsion in the coefficient of the identity).
H2 = {"II": 0.2252, "ZI": 0.3435, "IZ": -0.4347, "ZZ": 0.5716, "XX": 0.0910, "YY": 0.0910}


def energy_of(hamiltonian, wires, ansatz=ising_ansatz, device="qhybrid.statevector"):
    @qhybrid.qnode(qml.device(device, wires=wires))
    def energy(w):
        ansatz(w)
        return qml.expval(hamiltonian)

    return energy


def ground_energy(hamiltonian, wires):
    return np.linalg.eigvalsh(qml.matrix(hamiltonian, wire_order=range(wires)))[0]


def start(shape, seed=0, spread=0.3):
    return pnp.array(np.random.default_rng(seed).normal(0, spread, shape), requires_grad=True)


# ------------------------------------------------------------------ one step


@pytest.mark.parametrize("approx", [None, "block-diag", "diag"])
@pytest.mark.parametrize("options", [{"solver": "dense"}, {"tolerance": 1e-10}, {"preconditioner": "diagonal"}])
def test_step_solves_the_damped_equation(approx, options):
    energy, w = energy_of(tfim(3), 3), start((2, 5))
    optimizer = NaturalGradient(0.3, approx, 0.02, **{"tolerance": 1e-8, **options})
    new, cost = optimizer.step_and_cost(energy, w)
    matrix = fubini_study(energy, approx)(w).dense() + 0.02 * np.eye(10)
    expected = w - 0.3 * np.linalg.solve(matrix, qml.grad(energy)(w).ravel()).reshape(w.shape)
    np.testing.assert_allclose(new, expected, atol=1e-6)
    assert new.requires_grad
    assert cost == pytest.approx(energy(w), abs=1e-12)
    assert optimizer.solution.converged


def test_agrees_with_pennylane():
    """For one argument, PennyLane's optimizer does the same."""
    energy, w = energy_of(tfim(3), 3), start((1, 5))
    theirs = qml.QNode(energy.func, qml.device("default.qubit", wires=4))
    for approx in ("block-diag", "diag", None):
        expected, cost = qml.QNGOptimizer(0.1, approx=approx, lam=0.05).step_and_cost(theirs, w)
        optimizer = NaturalGradient(0.1, approx, 0.05, tolerance=1e-10)
        new, value = optimizer.step_and_cost(energy, w)
        np.testing.assert_allclose(new, expected, atol=1e-8)
        assert value == pytest.approx(cost, abs=1e-10)


def test_undamped_step_is_that_of_the_pseudoinverse():
    """Parameters that do nothing, or the same as another, leave the metric singular."""

    @qhybrid.qnode(qml.device("qhybrid.statevector", wires=1))
    def circuit(w):
        qml.RZ(w[0], wires=0)
        qml.RY(w[1], wires=0)
        qml.RY(w[2], wires=0)
        return qml.expval(qml.Z(0))

    w = pnp.array([0.1, 0.2, 0.3], requires_grad=True)
    step = 4 * np.sin(0.5) / 2  # shared evenly by the two equal rotations
    for solver in ("cg", "dense"):
        new = NaturalGradient(0.1, damping=0.0, solver=solver).step(circuit, w)
        np.testing.assert_allclose(new, [0.1, 0.2 + 0.1 * step, 0.3 + 0.1 * step], atol=1e-9)


def test_several_arguments_and_constants():
    @qhybrid.qnode(qml.device("qhybrid.statevector", wires=2))
    def circuit(a, data, b, scale=1.0):
        qml.RY(scale * a[0], wires=0)
        qml.RX(data, wires=1)
        qml.CNOT([0, 1])
        qml.RY(b + a[1], wires=1)
        return qml.expval(qml.Z(0) @ qml.Z(1))

    a, b = pnp.array([0.3, 0.4], requires_grad=True), pnp.array(0.5, requires_grad=True)
    data = pnp.array(0.2, requires_grad=False)
    optimizer = NaturalGradient(0.1, damping=0.1, tolerance=1e-10)
    (new_a, new_data, new_b), _ = optimizer.step_and_cost(circuit, a, data, b, scale=2.0)
    metric = fubini_study(circuit)(a, data, b, scale=2.0)
    assert metric.shape == (3, 3)
    assert abs(metric.dense()[1, 2]) > 0.01  # between two arguments
    gradient = np.hstack([np.ravel(g) for g in qml.grad(circuit, argnums=[0, 2])(a, data, b, scale=2.0)])
    move = 0.1 * np.linalg.solve(metric.dense() + 0.1 * np.eye(3), gradient)
    np.testing.assert_allclose(np.hstack([a - new_a, b - new_b]), move, atol=1e-8)
    assert new_data is data


def test_cost_of_several_circuits_takes_a_metric():
    energy, w = energy_of(tfim(3), 3), start((2, 5))

    def cost(w):
        return energy(w) ** 2 + energy(w)

    with pytest.raises(TypeError, match="metric_tensor_fn="):
        NaturalGradient().step(cost, w)
    ours = NaturalGradient(0.1).step(cost, w, metric_tensor_fn=fubini_study(energy))
    theirs = NaturalGradient(0.1).step(cost, w, metric_tensor_fn=qml.metric_tensor(energy, approx="block-diag"))
    blocks = NaturalGradient(0.1).step(cost, w, metric_tensor_fn=fubini_study(energy, "block-diag"))
    np.testing.assert_allclose(theirs, blocks, atol=1e-5)
    assert np.abs(ours - blocks).max() > 1e-3
    assert cost(ours) < cost(w)


def test_metric_of_other_arguments_is_refused():
    energy, w = energy_of(tfim(2), 2), start((1, 3))
    with pytest.raises(ValueError, match=r"\(8, 8\).*3 trained"):
        NaturalGradient().step(energy, w, metric_tensor_fn=lambda w: np.eye(8))


def test_metric_of_the_last_step_may_be_kept():
    energy, w = energy_of(tfim(2), 2), start((1, 3))
    optimizer = NaturalGradient(0.1, damping=0.1, solver="dense")
    new = optimizer.step(energy, w)
    kept = optimizer.step(energy, new, recompute_tensor=False)
    matrix = fubini_study(energy)(w).dense() + 0.1 * np.eye(3)
    expected = new - 0.1 * np.linalg.solve(matrix, qml.grad(energy)(new).ravel()).reshape(w.shape)
    np.testing.assert_allclose(kept, expected, atol=1e-9)


def test_given_gradient_is_used():
    energy, w = energy_of(tfim(2), 2), start((1, 3))
    optimizer = NaturalGradient(0.1, damping=0.1)
    new, cost = optimizer.step_and_cost(energy, w, grad_fn=lambda w: (np.zeros(w.shape),))
    np.testing.assert_array_equal(new, w)
    assert cost == pytest.approx(energy(w))


def test_nothing_to_train():
    energy, w = energy_of(tfim(2), 2), np.zeros((1, 3))
    new, cost = NaturalGradient().step_and_cost(energy, w)
    assert new is w
    assert cost == pytest.approx(energy(w))


def test_reset_forgets_the_last_step():
    energy, w = energy_of(tfim(3), 3), start((2, 5))
    optimizer = NaturalGradient(0.1, tolerance=1e-2)
    first = optimizer.step(energy, w)
    optimizer.step(energy, first)
    optimizer.reset()
    np.testing.assert_array_equal(optimizer.step(energy, w), first)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"damping": -1.0}, "damping"),
        ({"damping": np.nan}, "damping"),
        ({"solver": "lu"}, "solver"),
        ({"max_iterations": 0}, "max_iterations"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"preconditioner": "jacobi"}, "preconditioner"),
        ({"approx": "blocks"}, "approximation"),
    ],
)
def test_impossible_settings_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        NaturalGradient(0.1, **settings)


def test_gradient_that_is_not_finite_stops_before_a_step():
    energy, w = energy_of(tfim(2), 2), start((1, 3))
    with pytest.raises(FloatingPointError, match="no step was made"):
        NaturalGradient().step(energy, w, grad_fn=lambda w: (np.full(w.shape, np.nan),))


def test_shots_are_refused_and_pennylanes_metric_works():
    energy, w = energy_of(tfim(2), 2), start((1, 3))
    energy = qml.set_shots(energy, shots=20_000)
    with pytest.raises(DifferentiationError, match="metric_tensor_fn="):
        NaturalGradient().step(energy, w)
    metric = qml.metric_tensor(energy, approx="block-diag")
    new = NaturalGradient(0.05, damping=0.1).step(energy, w, metric_tensor_fn=metric)
    exact = energy_of(tfim(2), 2)
    assert exact(new) < exact(w)


# ------------------------------------------------------------------ known ground states


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"solver": "dense"},
        {"preconditioner": "diagonal"},
        {"max_iterations": 4},
        {"approx": "block-diag", "damping": 0.05, "stepsize": 0.05},
    ],
)
def test_reaches_the_ground_state_of_an_ising_chain(options):
    energy, w = energy_of(tfim(4), 4), start((3, 7), seed=1)
    optimizer = NaturalGradient(**{"stepsize": 0.1, "damping": 1e-3, **options})
    for _ in range(150):
        w = optimizer.step(energy, w)
    assert energy(w) == pytest.approx(ground_energy(tfim(4), 4), abs=2e-3)


def test_far_fewer_steps_than_gradient_descent():
    energy, first = energy_of(tfim(4), 4), start((3, 7), seed=1)
    goal = ground_energy(tfim(4), 4) + 1e-2

    def steps(optimizer, limit):
        w = first
        for count in range(limit):
            if energy(w) <= goal:
                return count
            w = optimizer.step(energy, w)
        return limit

    natural = steps(NaturalGradient(0.1), 200)
    plain = min(steps(qml.GradientDescentOptimizer(size), 5 * natural) for size in (0.05, 0.1, 0.2))
    assert natural < 100
    assert plain == 5 * natural


def hydrogen():
    words = {"I": qml.Identity, "X": qml.X, "Y": qml.Y, "Z": qml.Z}
    return qml.Hamiltonian(list(H2.values()), [words[a](0) @ words[b](1) for a, b in H2])


def hydrogen_ansatz(w):
    qml.X(0)
    qml.RY(w[0], wires=0)
    qml.CNOT([0, 1])
    qml.X(0)
    qml.RZ(w[1], wires=0)


def test_imaginary_time_finds_the_ground_state_of_hydrogen():
    molecule = hydrogen()
    energy = energy_of(molecule, 2, hydrogen_ansatz)
    exact = ground_energy(molecule, 2)
    w, optimizer = pnp.array([0.8, 0.5], requires_grad=True), ImaginaryTime(0.1, damping=1e-6)
    energies = [energy(w)]
    for _ in range(150):
        w = optimizer.step(energy, w)
        energies.append(energy(w))
    assert energies[-1] == pytest.approx(exact, abs=1e-6)
    assert np.all(np.diff(energies) < 1e-9)


def test_imaginary_time_follows_the_exact_path():
    """A circuit that reaches every real state of one qubit follows exp(-H tau) itself."""
    hamiltonian = 0.7 * qml.Z(0) + 0.4 * qml.X(0)
    energy = energy_of(hamiltonian, 1, lambda w: qml.RY(w, wires=0))
    w, optimizer = pnp.array(0.9, requires_grad=True), ImaginaryTime(1e-3, damping=0.0)
    assert optimizer.time_step == 1e-3
    psi, matrix = np.array([np.cos(0.45), np.sin(0.45)]), qml.matrix(hamiltonian)
    for tau in (0.2, 0.4):
        for _ in range(200):
            w = optimizer.step(energy, w)
        evolved = expm(-tau * matrix) @ psi
        expected = evolved @ matrix @ evolved / (evolved @ evolved)
        assert energy(w) == pytest.approx(expected.real, abs=2e-3)


def test_imaginary_time_loses_energy_at_twice_its_variance():
    """dE/dtau = -2 Var(H), where the circuit can follow."""
    energy = energy_of(qml.Z(0), 1, lambda w: qml.RY(w, wires=0))
    w = pnp.array(1.1, requires_grad=True)
    new = ImaginaryTime(1e-5, damping=0.0).step(energy, w)
    assert (energy(new) - energy(w)) / 1e-5 == pytest.approx(-2 * np.sin(1.1) ** 2, rel=1e-4)


# ------------------------------------------------------------------ many parameters


@pytest.mark.slow
@pytest.mark.parametrize("preconditioner", [None, "diagonal"])
def test_many_parameters_in_little_memory(preconditioner):
    """1,500 parameters on 8 qubits: no matrix, no Jacobian, and few products with the metric."""
    energy, w = energy_of(tfim(8), 8), start((100, 15), spread=0.03)
    optimizer = NaturalGradient(0.05, damping=1e-2, tolerance=1e-2, preconditioner=preconditioner)
    optimizer.step(energy, w)  # traced and compiled
    optimizer.reset()
    tracemalloc.start()
    new, before = optimizer.step_and_cost(energy, w)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    jacobian, matrix = 16 * w.size * 2**8, 8 * w.size**2
    assert peak < 0.2 * min(jacobian, matrix)
    assert optimizer.solution.products <= 40
    assert energy(new) < before
