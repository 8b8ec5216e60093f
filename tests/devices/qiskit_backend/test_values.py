"""Values and gradients against ``default.qubit``: exact ones to 1e-8, sampled ones at five standard errors."""

from __future__ import annotations

import numpy as np
import pennylane
import pytest
import torch
from scipy.stats import unitary_group

import qhybrid as qml

#: Given by Aer for each of Qiskit's generic backends.
pytestmark = pytest.mark.filterwarnings("ignore:Qiskit backend .* has no QubitProperties:UserWarning")

SHOTS = 4000
ONE = np.array([[0.3, 0.2 - 0.1j], [0.2 + 0.1j, -0.7]])
TWO = np.array([[0.3, 0.2 - 0.1j, 0, 0.4], [0.2 + 0.1j, -0.7, 0, 0], [0, 0, 0.6, 0], [0.4, 0, 0, 0.2]])


def layers(x, w):
    """Batched features and shared weights."""
    for i in range(4):
        qml.RY(x[..., i], wires=i)
    qml.CNOT(wires=[0, 2])
    qml.CRX(w[0], wires=[2, 1])
    qml.PauliRot(w[1], "XYZ", wires=[3, 0, 1])
    qml.ctrl(qml.PhaseShift(w[2], wires=3), control=[1, 0], control_values=[True, False])
    qml.Rot(w[0], w[1], w[2], wires=3)


def scalars(x, w):
    layers(x, w)
    return (
        qml.expval(qml.Z(0) @ qml.X(3)),
        qml.expval(w[0] * qml.Y(1) + w[1] * qml.Z(2) @ qml.Z(0) + 0.3 * qml.Identity(0)),
        qml.expval(qml.Hermitian(ONE, wires=3) @ qml.Z(1)),
        qml.var(qml.X(2) @ qml.Y(0)),
    )


def exact_only(x, w):
    """The terms have different bases, so that no samples are joint."""
    layers(x, w)
    return (
        qml.var(0.4 * qml.X(0) - 0.7 * qml.Z(0) @ qml.Y(3)),
        qml.expval(qml.Hermitian(TWO, wires=[3, 1])),
        qml.probs(wires=[3, 0]),
        qml.probs(op=qml.Hadamard(2)),
        qml.probs(op=qml.X(1) @ qml.Y(0)),
    )


def tensors(x, w):
    layers(x, w)
    return qml.expval(qml.X(1)), qml.probs(wires=[2, 0]), qml.probs(op=qml.Y(3)), qml.var(qml.Z(1))


def arguments(batch, seed=3):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(4,) if batch is None else (batch, 4))
    return torch.tensor(x), torch.tensor(rng.normal(size=3), requires_grad=True)


def reference(function, x, w):
    """Results and the gradient of their weighted sum, one sample at a time."""
    node = pennylane.QNode(function, pennylane.device("default.qubit", wires=4), diff_method="backprop")
    rows = [node(row, w) for row in x.reshape(-1, 4)]
    results = [torch.stack([torch.real(r[k]) for r in rows]) for k in range(len(rows[0]))]
    results = [r if x.ndim > 1 else r[0] for r in results]
    return results, torch.autograd.grad(weighted(results), w)[0]


def weighted(results):
    total = 0.0
    for k, r in enumerate(results):
        weights = torch.linspace(0.5, 1.5, r.numel(), dtype=torch.float64).reshape(r.shape)
        total = total + (k + 1) * (r * weights).sum()
    return total


@pytest.mark.parametrize(("function", "batch"), [(scalars, 2), (exact_only, None)])
def test_exact_values_and_gradients(exact, function, batch):
    x, w = arguments(batch)
    wanted, gradient = reference(function, x, w)
    results = qml.QNode(function, exact(), diff_method="parameter-shift")(x, w)
    for a, b in zip(results, wanted, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, atol=1e-8, rtol=0)
    torch.testing.assert_close(torch.autograd.grad(weighted(results), w)[0], gradient, atol=1e-8, rtol=0)


@pytest.mark.parametrize(("function", "batch"), [(scalars, None), (tensors, 2)])
def test_sampled_values_and_gradients(sampled, function, batch):
    x, w = arguments(batch)
    wanted, gradient = reference(function, x, w)
    node = qml.set_shots(qml.QNode(function, sampled(seed=11), diff_method="parameter-shift"), SHOTS)
    results = node(x, w)
    for a, b in zip(results, wanted, strict=True):
        assert a.shape == b.shape
        # All eigenvalues are below 1.5 in size, those of a variance below 2.25.
        torch.testing.assert_close(a, b, atol=5 * 2.25 / SHOTS**0.5, rtol=0)
    (found,) = torch.autograd.grad(weighted(results), w)
    torch.testing.assert_close(found, gradient, atol=5 * spread(function, x, w), rtol=0)


def spread(function, x, w):
    """A standard error that a gradient estimated from shots does not exceed: from 40 gradients of a simulator."""
    node = qml.QNode(function, qml.device("qhybrid.statevector", wires=4, seed=5), diff_method="parameter-shift")
    node = qml.set_shots(node, SHOTS)
    drawn = torch.stack([torch.autograd.grad(weighted(node(x, w)), w)[0] for _ in range(40)])
    return float(drawn.std(0).max())


def test_estimated_with_shots(estimated):
    x, w = arguments(3)
    wanted, _ = reference(scalars, x, w)
    results = qml.set_shots(qml.QNode(scalars, estimated(seed=3)), SHOTS)(x, w)
    for a, b in zip(results, wanted, strict=True):
        assert not torch.equal(a, b)  # there is noise
        torch.testing.assert_close(a, b, atol=5 * 2.25 / SHOTS**0.5, rtol=0)


def test_precision_is_that_of_the_shots():
    """The noise of an estimator is 1 / sqrt(shots) for one Pauli word."""
    from qiskit.primitives import StatevectorEstimator

    node = qml.QNode(lambda x: [qml.RX(x, wires=0), qml.expval(qml.Z(0))][-1],
                     qml.device("qhybrid.qiskit", wires=1, estimator=StatevectorEstimator(), seed=1))  # fmt: skip
    drawn = qml.set_shots(node, 400)(np.full(500, 0.3)) - np.cos(0.3)
    assert abs(drawn.mean()) < 5 * 0.05 / 500**0.5
    assert abs(drawn.std() / 0.05 - 1) < 5 / 1000**0.5


def test_bits_through_a_layout_that_permutes(sampled):
    def circuit():
        qml.X(wires=1)
        qml.X(wires=3)
        qml.SWAP(wires=[0, 3])
        return qml.sample(wires=[0, 1, 3]), qml.counts(), qml.probs(wires=[3, 1]), qml.sample(qml.Z(1))

    samples, counts, probabilities, signs = qml.set_shots(qml.QNode(circuit, sampled()), 50)()
    np.testing.assert_array_equal(samples, np.tile([1, 1, 0], (50, 1)))
    assert counts == {"1100": 50}
    np.testing.assert_array_equal(probabilities, [0, 1, 0, 0])
    np.testing.assert_array_equal(signs, -np.ones(50))


def test_probabilities_of_all_wires(sampled):
    x, w = (a.detach().numpy() for a in arguments(None))

    def circuit():
        layers(x, w)
        return qml.probs(wires=[2, 0, 3, 1])

    wanted = pennylane.QNode(circuit, pennylane.device("default.qubit", wires=4))()
    found = qml.set_shots(qml.QNode(circuit, sampled(seed=5)), 20000)()
    assert np.all(np.abs(found - wanted) <= 5 * np.sqrt(wanted * (1 - wanted) / 20000) + 1e-9)


def test_unitaries_and_states_of_each_sample(exact, sampled):
    rng = np.random.default_rng(1)
    unitaries = np.stack([unitary_group.rvs(4, random_state=rng) for _ in range(3)])
    states = rng.normal(size=(3, 8)) + 1j * rng.normal(size=(3, 8))
    states /= np.linalg.norm(states, axis=1)[:, None]

    def circuit(u, s, x):
        qml.StatePrep(s, wires=[2, 0, 3])
        qml.QubitUnitary(u, wires=[3, 1])
        qml.RX(x, wires=0)
        qml.ctrl(qml.QubitUnitary, control=0, control_values=[False])(u[..., :2, :2] * 0 + np.eye(2)[::-1], wires=2)
        return qml.expval(qml.Z(1) @ qml.X(0)), qml.expval(qml.Y(2) + 0.3 * qml.Z(3))

    x = np.array([0.1, 0.2, 0.3])
    plain = pennylane.QNode(circuit, pennylane.device("default.qubit", wires=4))
    wanted = np.array([plain(*row) for row in zip(unitaries, states, x, strict=True)]).T
    np.testing.assert_allclose(qml.QNode(circuit, exact())(unitaries, states, x), wanted, atol=1e-8)
    drawn = qml.set_shots(qml.QNode(circuit, sampled(seed=2)), SHOTS)(unitaries, states, x)
    np.testing.assert_allclose(drawn, wanted, atol=5 * 1.3 / SHOTS**0.5)


def test_gradient_along_coefficients():
    def circuit(c, x):
        qml.RX(x, wires=0)
        qml.CNOT(wires=[0, 1])
        return qml.expval(qml.Hamiltonian(c, [qml.Z(0), qml.X(0) @ qml.X(1), qml.Y(1)]))

    found = []
    for make, name in ((qml.QNode, "qhybrid.qiskit"), (pennylane.QNode, "default.qubit")):
        c, x = torch.tensor([0.3, -0.2, 0.9], requires_grad=True), torch.tensor(0.7, requires_grad=True)
        node = make(circuit, qml.device(name, wires=2), diff_method="parameter-shift")
        found.append(torch.autograd.grad(node(c, x), (c, x)))
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=0)


def test_evolution_under_terms_that_do_not_commute(exact):
    def circuit(t):
        qml.Hadamard(wires=0)
        qml.exp(qml.X(0) @ qml.Z(1) + 0.5 * qml.Y(0), -1j * t)
        return qml.expval(qml.Y(0)), qml.expval(qml.X(1))

    t = np.array([0.2, 1.1])
    plain = pennylane.QNode(circuit, pennylane.device("default.qubit", wires=4))
    np.testing.assert_allclose(qml.QNode(circuit, exact())(t), np.array([plain(s) for s in t]).T, atol=1e-8)


def test_the_identity():
    def circuit(x):
        qml.RX(x, wires=0)
        return qml.expval(0.5 * qml.Identity(1))

    device = qml.device("qhybrid.qiskit", wires=2)
    assert qml.QNode(circuit, device)(0.3) == 0.5
    assert device.jobs.usage.circuits == 0  # no expectation value has to be asked for
    assert qml.set_shots(qml.QNode(circuit, device), 10)(0.3) == 0.5


def test_empty_batch(exact, sampled):
    def circuit(x):
        qml.RX(x, wires=0)
        return qml.expval(qml.Z(0)), qml.var(qml.X(0))

    assert [r.shape for r in qml.QNode(circuit, exact())(np.zeros(0))] == [(0,), (0,)]

    def tensors(x):
        qml.RX(x, wires=0)
        return qml.expval(qml.Z(0)), qml.sample(wires=[0, 1]), qml.probs(wires=[0])

    results = qml.set_shots(qml.QNode(tensors, sampled()), 10)(np.zeros(0))
    assert [r.shape for r in results] == [(0,), (0, 10, 2), (0, 2)]


def identity():
    """Twenty gates that do nothing together."""
    for _ in range(20):
        qml.CNOT(wires=[0, 1])
    return qml.expval(qml.Z(0)), qml.expval(qml.Z(1))


def test_noise_of_a_fake_backend(make_line):
    values = {}
    for noisy in (False, True):
        backend = make_line(noise_info=noisy)
        device = qml.device("qhybrid.qiskit", wires=2, backend=backend, seed=1, optimization_level=0)
        values[noisy] = qml.set_shots(qml.QNode(identity, device), 5000)()
    assert values[False] == (1.0, 1.0)
    assert all(0.8 < v < 1 for v in values[True])


def test_noise_has_the_size_of_its_model():
    """Twenty depolarising channels shrink an expectation value by 0.99 each, readout by 0.8."""
    from qiskit_aer import AerSimulator
    from qiskit_aer.noise import NoiseModel, ReadoutError, depolarizing_error

    model = NoiseModel()
    model.add_all_qubit_quantum_error(depolarizing_error(0.01, 2), ["cx"])
    model.add_all_qubit_readout_error(ReadoutError([[0.9, 0.1], [0.1, 0.9]]))
    backend = AerSimulator(noise_model=model)
    device = qml.device("qhybrid.qiskit", wires=2, backend=backend, seed=1, optimization_level=0)
    values = qml.set_shots(qml.QNode(identity, device), 10000)()
    np.testing.assert_allclose(values, 0.8 * 0.99**20, atol=5 / 100)
