"""Noise on Aer, exact and sampled, against ``default.mixed`` with the same channels."""

from __future__ import annotations

import numpy as np
import pennylane as qml
import pytest
from pennylane import numpy as pnp
from qiskit.providers.fake_provider import GenericBackendV2
from qiskit_aer.noise import (
    NoiseModel,
    ReadoutError,
    amplitude_damping_error,
    coherent_unitary_error,
    depolarizing_error,
    pauli_error,
)

import qhybrid
from qhybrid.errors import CircuitError, DeviceError

DAMPING, DEPOLARIZING = 0.05, 0.04
READ = np.array([[0.95, 0.05], [0.1, 0.9]])
WEIGHTS = np.random.default_rng(0).normal(size=(2, 3, 3))
LINE = [[0, 1], [1, 0], [1, 2], [2, 1], [2, 3], [3, 2], [3, 4], [4, 3]]


def noise_model(readout: bool = True) -> NoiseModel:
    model = NoiseModel()
    model.add_all_qubit_quantum_error(amplitude_damping_error(DAMPING), ["rx", "ry", "rz"])
    model.add_all_qubit_quantum_error(depolarizing_error(DEPOLARIZING, 2), ["cx"])
    if readout:
        model.add_readout_error(ReadoutError(READ), [1])
    return model


def gates(weights, noisy: bool) -> None:
    paulis = [np.eye(2), *(qml.matrix(p(0)) for p in (qml.X, qml.Y, qml.Z))]
    words = [np.kron(a, b) for a in paulis for b in paulis]
    strengths = [1 - DEPOLARIZING * 15 / 16] + 15 * [DEPOLARIZING / 16]
    kraus = [np.sqrt(s) * w for s, w in zip(strengths, words, strict=True)]
    for layer in range(2):
        for w in range(3):
            for k, gate in enumerate([qml.RZ, qml.RY, qml.RZ]):
                gate(weights[layer, w, k], wires=w)
                if noisy:
                    qml.AmplitudeDamping(DAMPING, wires=w)
        for w in range(3):
            qml.CNOT([w, (w + 1 + layer) % 3])
            if noisy:
                qml.QubitChannel(kraus, wires=[w, (w + 1 + layer) % 3])


def circuit(weights):
    gates(weights, noisy=False)
    return qml.probs(wires=[2, 1]), qml.expval(qml.Z(0) @ qml.Z(1)), qml.var(qml.Z(2))


@qml.qnode(qml.device("default.mixed", wires=3))
def mixed(weights):
    gates(weights, noisy=True)
    return qml.probs(wires=[0, 1, 2])


def expected_probabilities(weights, readout: bool = True):
    p = qml.math.reshape(mixed(weights), (2, 2, 2))
    return qml.math.einsum("abc,by->ayc", p, READ) if readout else p


def test_exact_results_of_a_noisy_circuit():
    node = qhybrid.QNode(circuit, qml.device("qhybrid.aer", wires=3, noise_model=noise_model()))
    p = expected_probabilities(WEIGHTS)
    signs = np.array([1, -1])
    found, zz, variance = node(WEIGHTS)
    np.testing.assert_allclose(found, p.sum(0).T.reshape(-1), atol=1e-10)
    np.testing.assert_allclose(zz, np.einsum("abc,a,b->", p, signs, signs), atol=1e-10)
    np.testing.assert_allclose(variance, 1 - np.einsum("abc,c->", p, signs) ** 2, atol=1e-10)


def test_gradients_of_a_noisy_circuit():
    node = qhybrid.QNode(circuit, qml.device("qhybrid.aer", wires=3, noise_model=noise_model(readout=False)))

    def expected(weights):
        signs = np.array([1, -1])
        return qml.math.einsum("abc,a,b->", expected_probabilities(weights, False), signs, signs)

    w = pnp.array(WEIGHTS, requires_grad=True)
    got = qml.grad(lambda w: node(w)[1])(w)
    np.testing.assert_allclose(got, qml.grad(expected)(w), atol=1e-9)


def test_shots_of_a_noisy_circuit():
    shots = 40000
    node = qhybrid.QNode(circuit, qml.device("qhybrid.aer", wires=3, noise_model=noise_model(), seed=5))
    exact, sampled = node(WEIGHTS), qhybrid.set_shots(node, shots=shots)(WEIGHTS)
    np.testing.assert_allclose(sampled[0], exact[0], atol=5 * 0.5 / np.sqrt(shots))
    np.testing.assert_allclose(sampled[1], exact[1], atol=5 / np.sqrt(shots))
    np.testing.assert_allclose(sampled[2], exact[2], atol=10 / np.sqrt(shots))


def test_channels_in_the_circuit():
    def noisy(x):
        qml.RX(x[0], 0)
        qml.DepolarizingChannel(0.1, 0)
        qml.CNOT([0, 1])
        qml.AmplitudeDamping(0.2, 1)
        qml.ThermalRelaxationError(0.1, 1.0, 1.2, 0.3, wires=0)
        qml.CRX(x[1], [1, 0])
        return qml.expval(qml.Y(0) @ qml.X(1) + qml.Z(1)), qml.probs(wires=[1, 0])

    x = pnp.array([0.3, 0.4], requires_grad=True)
    ours = qhybrid.QNode(noisy, qml.device("qhybrid.aer", wires=2))
    plain = qml.QNode(noisy, qml.device("default.mixed", wires=2))
    for a, b in zip(ours(x), plain(x), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)
    got, expected = (qml.grad(lambda x, node=node: node(x)[0])(x) for node in (ours, plain))
    np.testing.assert_allclose(got, expected, atol=1e-10)
    assert ours.explain(x).path == "compiled"


def test_the_state_vector_refuses_channels():
    @qhybrid.qnode(qml.device("qhybrid.statevector", wires=1))
    def noisy():
        qml.DepolarizingChannel(0.1, 0)
        return qml.expval(qml.Z(0))

    with pytest.raises(DeviceError, match=r"DepolarizingChannel on wires \[0\] is noise.*qhybrid.aer or default.mixed"):
        noisy()


@pytest.mark.parametrize("layout", [None, [4, 0, 2]])
def test_a_backend_with_its_couplings_and_noise(layout):
    backend = GenericBackendV2(5, coupling_map=LINE, seed=1)
    device = qml.device("qhybrid.aer", wires=3, backend=backend, initial_layout=layout, seed=1)
    node = qhybrid.QNode(circuit, device)
    exact, ideal = node(WEIGHTS), qhybrid.QNode(circuit, qml.device("qhybrid.statevector", wires=3))(WEIGHTS)
    assert 1e-4 < np.abs(exact[0] - ideal[0]).max() < 0.2  # noisy, but on the right wires
    shots = 40000
    sampled = qhybrid.set_shots(node, shots=shots)(WEIGHTS)
    np.testing.assert_allclose(sampled[0], exact[0], atol=5 * 0.5 / np.sqrt(shots))


@pytest.mark.filterwarnings("ignore:.*has no QubitProperties:UserWarning")
def test_a_backend_without_noise_keeps_every_wire_through_its_layout():
    backend = GenericBackendV2(5, coupling_map=LINE, seed=1, noise_info=False)
    node = qhybrid.QNode(circuit, qml.device("qhybrid.aer", wires=3, backend=backend, initial_layout=[4, 0, 2]))
    ideal = qhybrid.QNode(circuit, qml.device("qhybrid.statevector", wires=3))
    for a, b in zip(node(WEIGHTS), ideal(WEIGHTS), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)


def test_a_noisy_circuit_has_no_state():
    @qhybrid.qnode(qml.device("qhybrid.aer", wires=1, noise_model=noise_model()))
    def node():
        qml.RX(0.3, wires=0)
        return qml.state()

    with pytest.raises(CircuitError, match="noisy circuit, or one on the qubits of a backend, has no state vector"):
        node()


def test_exact_noise_needs_a_density_matrix():
    device = qml.device("qhybrid.aer", wires=3, noise_model=noise_model(), method="statevector")
    node = qhybrid.QNode(circuit, device)
    with pytest.raises(DeviceError, match=r"method='density_matrix', not 'statevector'.*set shots"):
        node(WEIGHTS)
    assert np.shape(qhybrid.set_shots(node, shots=10)(WEIGHTS)[0]) == (4,)


def test_a_noise_model_of_pennylane():
    """The device adds its channels as ``qml.add_noise`` does to a QNode."""
    model = qml.NoiseModel(
        {
            qml.noise.op_in([qml.RX, qml.Rot]): qml.noise.partial_wires(qml.AmplitudeDamping, 0.1),
            qml.noise.op_eq(qml.CNOT): qml.noise.partial_wires(qml.PhaseDamping, 0.2, wires=1),
        }
    )

    def plain(x, w):
        qml.RX(x, wires=0)
        qml.CNOT([0, 1])
        qml.Rot(0.1, w, 0.3, wires=1)
        qml.RY(w, wires=0)
        return qml.expval(qml.Z(1) @ qml.X(0)), qml.probs(wires=[0])

    ours = qhybrid.QNode(plain, qml.device("qhybrid.aer", wires=2, noise_model=model))
    reference = qml.add_noise(qml.QNode(plain, qml.device("default.mixed", wires=2)), model)
    w = pnp.array(0.4, requires_grad=True)
    for a, b in zip(ours(0.3, w), reference(0.3, w), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)
    got, expected = (qml.grad(lambda w, node=node: node(0.3, w)[0])(w) for node in (ours, reference))
    np.testing.assert_allclose(got, expected, atol=1e-10)
    assert ours.explain(0.3, w).path == "compiled"


COHERENT = np.diag(np.exp([0.1j, -0.1j, -0.1j, 0.1j])) @ np.kron(
    np.array([[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]]), np.eye(2)
)


@pytest.mark.parametrize(
    "gate",
    [
        lambda x: qml.CRX(x, [0, 1]),
        lambda x: qml.ControlledPhaseShift(x, [0, 1]),
        lambda x: qml.ctrl(qml.PhaseShift(x, 0), [1, 2], control_values=[1, 0]),
        lambda x: qml.SingleExcitationPlus(x, [0, 2]),
        lambda x: qml.IsingXY(x, [2, 1]),
        lambda x: qml.PauliRot(x, "XYZ", [0, 1, 2]),
        lambda x: qml.ctrl(qml.PauliRot(x, "YX", [0, 1]), 2),
        lambda x: qml.PSWAP(x, [0, 1]),
    ],
)
@pytest.mark.parametrize("error", ["damping", "coherent"])
def test_shifts_hold_for_the_gates_that_noise_is_between(gate, error):
    """A decomposition with noise in it has frequencies that its gate has not."""
    model = NoiseModel(basis_gates=["rx", "ry", "rz", "cx"])
    if error == "damping":
        model.add_all_qubit_quantum_error(amplitude_damping_error(0.1), ["rx", "ry", "rz"])
    else:
        model.add_all_qubit_quantum_error(coherent_unitary_error(COHERENT), ["cx"])

    @qhybrid.qnode(qml.device("qhybrid.aer", wires=3, noise_model=model))
    def node(x):
        for w in range(3):
            qml.RY(0.4 + 0.3 * w, wires=w)
        qml.CNOT([0, 1])
        gate(x)
        qml.RX(0.5, wires=1)
        return qml.expval(qml.Y(0) @ qml.X(1) + qml.Z(2))

    x = pnp.array(0.7, requires_grad=True)
    steps = np.array([2, 1, -1, -2]) * 1e-2
    expected = np.array([-1, 8, -8, 1]) @ np.array([node(0.7 + h) for h in steps]) / 0.12
    np.testing.assert_allclose(qml.grad(node)(x), expected, atol=1e-7)


def test_the_same_gates_every_time():
    """With two kinds of two-qubit gates that are not equally bad, it must not be left to chance which are used."""
    model = NoiseModel(basis_gates=["rz", "sx", "cx", "cz"])
    model.add_all_qubit_quantum_error(depolarizing_error(0.02, 2), ["cx"])
    model.add_all_qubit_quantum_error(depolarizing_error(0.2, 2), ["cz"])

    def node(x):
        qml.IsingXY(x, [0, 1])
        qml.SingleExcitation(x, [1, 0])
        qml.RY(0.3, 0)
        return qml.expval(qml.Z(0) @ qml.X(1))

    devices = [qml.device("qhybrid.aer", wires=2, noise_model=model) for _ in range(4)]
    values = [qhybrid.QNode(node, d)(np.array([0.9, 0.9])) for d in devices]
    values.append(np.array([qhybrid.QNode(node, devices[0])(0.9)] * 2))
    np.testing.assert_allclose(values, values[0][0], atol=1e-12)


def test_quantum_errors_of_measurements_show_in_shots_only():
    model = NoiseModel()
    model.add_all_qubit_quantum_error(pauli_error([("X", 0.2), ("I", 0.8)]), "measure")

    @qhybrid.qnode(qml.device("qhybrid.aer", wires=1, noise_model=model, seed=1))
    def node():
        return qml.expval(qml.Z(0))

    with pytest.raises(DeviceError, match=r"quantum errors on measurements.*Set shots"):
        node()
    assert qhybrid.set_shots(node, shots=20000)() == pytest.approx(0.6, abs=5 * 0.8 / np.sqrt(20000))


@pytest.mark.parametrize("shots", [None, 20000])
def test_a_prepared_state_with_noise(shots):
    def circuit():
        qml.StatePrep(np.array([0.6, 0.8]), wires=0)
        qml.DepolarizingChannel(0.1, wires=0)
        return qml.expval(qml.Z(0))

    node = qhybrid.QNode(circuit, qml.device("qhybrid.aer", wires=1, seed=1), shots=shots)
    expected = qml.QNode(circuit, qml.device("default.mixed", wires=1))()
    assert node() == pytest.approx(float(expected), abs=1e-10 if shots is None else 5 / np.sqrt(shots))


def test_phases_where_the_basis_has_none():
    """Qiskit puts half of a phase gate into the global phase, of which Aer cannot bind several values."""
    node = qhybrid.QNode(
        lambda x: (qml.Hadamard(0), qml.PhaseShift(x, 0), qml.expval(qml.X(0)))[-1],
        qml.device("qhybrid.aer", wires=1, noise_model=NoiseModel(basis_gates=["rz", "sx", "cx"]), seed=1),
        shots=20000,
    )
    x = np.array([0.3, 0.9])
    np.testing.assert_allclose(node(x), np.cos(x), atol=5 / np.sqrt(20000))
