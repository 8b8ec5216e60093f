"""How ``qhybrid.aer`` behaves: runs, seeds, methods, errors, budgets, pickles."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pennylane as qml
import pytest
import torch
from qiskit_aer import AerSimulator

import qhybrid
from qhybrid.errors import BudgetError, CircuitError, DeviceError
from tests.strict import WARNINGS

WEIGHTS = np.random.default_rng(0).normal(size=(2, 4, 3))
INPUTS = np.random.default_rng(1).normal(size=(6, 4))


def circuit(x, w):
    qml.AngleEmbedding(x, wires=range(4))
    qml.StronglyEntanglingLayers(w, wires=range(4))
    return [qml.expval(qml.Z(i)) for i in range(4)]


@pytest.fixture
def runs(monkeypatch):
    """How many circuits and parameter sets each run of Aer got."""
    found = []
    original = AerSimulator.run

    def run(self, circuits, *args, **kwargs):
        binds = kwargs.get("parameter_binds") or [{}]
        found.append((len(circuits), len(next(iter(binds[0].values()), [0]))))
        return original(self, circuits, *args, **kwargs)

    monkeypatch.setattr(AerSimulator, "run", run)
    return found


def test_a_training_step_is_two_runs(runs, monkeypatch):
    """One for the values, one for all shift terms of all samples; transpiled at the first call only."""
    from qhybrid_devices.aer import simulator

    transpiled = []
    original = simulator.transpile
    monkeypatch.setattr(simulator, "transpile", lambda c, *a, **k: transpiled.append(len(c)) or original(c, *a, **k))
    node = qhybrid.QNode(circuit, qml.device("qhybrid.aer", wires=4))
    x, w = torch.tensor(INPUTS), torch.tensor(WEIGHTS, requires_grad=True)
    for _ in range(3):
        torch.stack(node(x, w)).pow(2).sum().backward()
    assert runs == 3 * [(1, 6), (1, 6 * 2 * 24)]
    assert len(transpiled) == 2  # the circuit, and the same with an angle of its own for each gate


def test_the_target_is_made_once(monkeypatch):
    """Aer makes it anew whenever it is asked, which transpiling does about 150 times a circuit."""
    made = []
    original = AerSimulator.target.fget
    monkeypatch.setattr(AerSimulator, "target", property(lambda self: made.append(self) or original(self)))
    device = qml.device("qhybrid.aer", wires=2)
    for gate in (qml.RX, qml.RY):
        node = qhybrid.QNode(lambda x, gate=gate: (gate(x, wires=0), qml.expval(qml.Z(0)))[1], device)
        assert node(0.4) == pytest.approx(np.cos(0.4))
    assert len(made) == 1


def test_commuting_measurements_share_a_run(runs):
    @qhybrid.qnode(qml.device("qhybrid.aer", wires=3, seed=1), shots=100)
    def node(x):
        qml.RX(x, wires=0)
        return (
            qml.expval(qml.X(0) @ qml.Z(1)),
            qml.expval(qml.Z(1)),
            qml.expval(qml.Z(0)),
            qml.expval(qml.X(0) + qml.Y(2)),
            qml.probs(wires=[1]),
        )

    node(0.3)
    assert runs == [(2, 1)]
    assert node.explain(0.3).forward_circuits == 2


def test_seeds():
    def sampled(seed, number=1):
        node = qhybrid.QNode(circuit, qml.device("qhybrid.aer", wires=4, seed=seed), shots=50)
        return [np.array(node(INPUTS, WEIGHTS)) for _ in range(number)]

    first, second = sampled(3, 2)
    np.testing.assert_array_equal([first, second], sampled(3, 2))
    assert np.any(first != second)
    assert np.any(first != sampled(4)[0])


def test_lanes_are_independent():
    """Equal samples of one run are not equal in their shots."""

    @qhybrid.qnode(qml.device("qhybrid.aer", wires=1, seed=1), shots=100)
    def node(x):
        qml.RX(x, wires=0)
        return qml.expval(qml.Z(0))

    assert len(set(node(np.full(20, np.pi / 2)).tolist())) > 5


def test_samples_and_counts():
    @qhybrid.qnode(qml.device("qhybrid.aer", wires=["a", "b", "c"], seed=1), shots=1000)
    def node():
        qml.X("a")
        qml.Hadamard("b")
        qml.CNOT(["b", "c"])
        return qml.sample(wires=["c", "a"]), qml.counts(wires=["a", "b", "c"]), qml.sample(qml.Z("b"))

    samples, counts, eigenvalues = node()
    assert np.all(samples[:, 1] == 1)
    np.testing.assert_array_equal(eigenvalues, 1 - 2 * samples[:, 0])
    assert set(counts) == {"100", "111"}
    assert counts["111"] == samples[:, 0].sum()
    flips = np.count_nonzero(np.diff(samples[:, 0]))
    assert 400 < flips < 600  # in the order of independent shots, not sorted


@pytest.mark.parametrize("method", ["statevector", "density_matrix", "matrix_product_state"])
def test_methods(method):
    expected = qml.QNode(circuit, qml.device("default.qubit"))(INPUTS, WEIGHTS)
    node = qhybrid.QNode(circuit, qml.device("qhybrid.aer", wires=4, method=method))
    np.testing.assert_allclose(node(INPUTS, WEIGHTS), expected, atol=1e-9)


def test_stabilizer_of_many_wires():
    @qhybrid.qnode(qml.device("qhybrid.aer", wires=60, method="stabilizer", seed=1))
    def ghz():
        qml.Hadamard(0)
        for w in range(59):
            qml.CNOT([w, w + 1])
        return qml.expval(qml.X(0)), qml.expval(qml.Z(0) @ qml.Z(59))

    np.testing.assert_allclose(ghz(), [0, 1], atol=1e-12)
    np.testing.assert_allclose(qhybrid.set_shots(ghz, shots=10)()[1], 1)


def test_stabilizer_names_the_gate_that_it_cannot_run():
    node = qhybrid.QNode(circuit, qml.device("qhybrid.aer", wires=4, method="stabilizer"))
    with pytest.raises(DeviceError, match=r"method='stabilizer'.*first gate with an angle is r[xyz] on wires \[0\]"):
        node(INPUTS, WEIGHTS)


def test_matrix_product_state_of_many_wires():
    @qhybrid.qnode(qml.device("qhybrid.aer", wires=40, method="matrix_product_state"))
    def chain(x):
        for w in range(40):
            qml.RY(x, wires=w)
        for w in range(0, 40, 2):
            qml.CNOT([w, w + 1])
        return qml.expval(qml.Z(1))

    x = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    chain(x).backward()
    np.testing.assert_allclose(x.grad, -2 * np.sin(0.3) * np.cos(0.3), atol=1e-9)


def test_errors_say_what_is_possible():
    with pytest.raises(DeviceError, match="method='matrix'; choose one of automatic, statevector"):
        qml.device("qhybrid.aer", wires=2, method="matrix")
    if "GPU" not in AerSimulator().available_devices():
        with pytest.raises(DeviceError, match=r"runs on CPU, not on device='GPU'.*qiskit-aer-gpu"):
            qml.device("qhybrid.aer", wires=2, device="GPU")
    with pytest.raises(CircuitError, match="needs shots"):
        qhybrid.QNode(lambda: qml.sample(wires=0), qml.device("qhybrid.aer", wires=2))()


def test_a_circuit_too_large_for_aer():
    @qhybrid.qnode(qml.device("qhybrid.aer", wires=45, method="statevector"))
    def node(x):
        for w in range(45):
            qml.RX(x, wires=w)
            qml.CNOT([w, (w + 1) % 45])
        return qml.expval(qml.Z(0))

    with pytest.raises(DeviceError, match=r"qhybrid.aer with method='statevector'"):
        node(0.1)


def test_a_budget_stops_before_it_is_exceeded(runs):
    device = qml.device("qhybrid.aer", wires=4)
    qhybrid.set_jobs(device, qhybrid.JobPolicy(max_circuits=10))
    node = qhybrid.QNode(circuit, device)
    node(INPUTS, WEIGHTS)
    with pytest.raises(BudgetError, match="6 circuits were used, this call needs 6, and the limit is max_circuits=10"):
        node(INPUTS, WEIGHTS)
    assert runs == [(1, 6)]


@pytest.mark.parametrize("shots", [None, 20])
def test_empty_batch(shots):
    node = qhybrid.QNode(circuit, qml.device("qhybrid.aer", wires=4), shots=shots)
    assert np.shape(node(np.zeros((0, 4)), WEIGHTS)) == (4, 0)


def test_pickled_and_copied_devices_go_on_alike():
    device = qml.device("qhybrid.aer", wires=4, seed=3)
    qhybrid.QNode(circuit, device, shots=20)(INPUTS, WEIGHTS)
    copied = pickle.loads(pickle.dumps(device))
    a, b = (qhybrid.QNode(circuit, d, shots=20)(INPUTS, WEIGHTS) for d in (device, copied))
    np.testing.assert_array_equal(a, b)


def test_under_a_plain_qnode():
    device = qml.device("qhybrid.aer", wires=4)
    w = qml.numpy.array(WEIGHTS, requires_grad=True)
    cost = lambda node: lambda w: qml.numpy.sum(qml.numpy.stack(node(INPUTS, w)) ** 2)  # noqa: E731
    expected = qml.grad(cost(qml.QNode(circuit, qml.device("default.qubit"))))(w)
    np.testing.assert_allclose(qml.grad(cost(qml.QNode(circuit, device)))(w), expected, atol=1e-9)


def run(code: str) -> str:
    done = subprocess.run([sys.executable, *WARNINGS, "-c", code], capture_output=True, text=True, timeout=120)
    assert not done.returncode, done.stderr
    return done.stdout.strip()


def test_qiskit_is_imported_only_when_asked_for():
    code = (
        "import sys, qhybrid as qml\n"
        "dev = qml.device('qhybrid.statevector', wires=1)\n"
        "print(any(m.split('.')[0] in ('qiskit', 'qiskit_aer') for m in sys.modules))"
    )
    assert run(code) == "False"


def test_without_qiskit_the_error_names_the_extra():
    code = (
        "import importlib.util as u, sys\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, package=None: None if name.startswith('qiskit') else find(name, package)\n"
        "sys.modules['qiskit'] = sys.modules['qiskit_aer'] = None\n"
        "import qhybrid as qml\n"
        "try:\n"
        "    qml.device('qhybrid.aer', wires=1)\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)"
    )
    assert run(code) == (
        'DeviceError qhybrid.aer needs the package qiskit_aer. Install it with: pip install "qhybrid[aer]"'
    )


@pytest.mark.parametrize(("layers", "batch"), [(1, 3), (3, 3), (2, 2), (2, 5)])
def test_an_axis_as_long_as_the_batch_costs_no_circuits(layers, batch):
    """Only the weights are trained, whatever their shape has in common with that of the inputs."""
    device = qml.device("qhybrid.aer", wires=4)
    node = qhybrid.QNode(circuit, device)
    w = torch.tensor(np.random.default_rng(2).normal(size=(layers, 4, 3)), requires_grad=True)
    x = torch.tensor(np.random.default_rng(3).normal(size=(batch, 4)))
    torch.stack(node(x, w)).pow(2).sum().backward()
    assert qhybrid.jobs_of(device).usage.circuits == batch * (1 + 2 * 12 * layers)


@pytest.mark.parametrize("level", [0, 1, 2, 3])
@pytest.mark.parametrize("shots", [None, 20000])
def test_every_optimization_level_keeps_the_wires(level, shots):
    """Qiskit leaves out swaps and remembers where wires end."""

    @qhybrid.qnode(qml.device("qhybrid.aer", wires=2, optimization_level=level, seed=1), shots=shots)
    def node(x):
        qml.RX(x, wires=0)
        qml.SWAP([0, 1])
        return qml.expval(qml.Z(0)), qml.expval(qml.Z(1)), qml.probs(wires=[1, 0])

    first, second, probabilities = node(0.5)
    tolerance = 1e-10 if shots is None else 5 / np.sqrt(shots)
    np.testing.assert_allclose([first, second], [1, np.cos(0.5)], atol=tolerance)
    expected = [np.cos(0.25) ** 2, 0, np.sin(0.25) ** 2, 0]
    np.testing.assert_allclose(probabilities, expected, atol=tolerance)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_shots_do_not_depend_on_the_size_of_jobs(size):
    def counts(size):
        device = qml.device("qhybrid.aer", wires=1, method="matrix_product_state", seed=3)
        qhybrid.set_jobs(device, qhybrid.JobPolicy(circuits_per_job=size))
        node = qhybrid.QNode(lambda x: (qml.RX(x, 0), qml.expval(qml.Z(0)))[1], device, shots=40)
        return node(np.full(5, np.pi / 2))

    np.testing.assert_array_equal(counts(size), counts(None))


def test_gates_that_aer_has_not():
    def gates():
        qml.RY(0.3, 0)
        qml.ISWAP([0, 1])
        qml.ECR([1, 0])
        qml.QubitUnitary(np.linalg.qr(np.vander([1.0, 2, 3, 4]))[0], wires=[0, 1])
        return qml.expval(qml.Z(0))

    expected = qml.QNode(gates, qml.device("default.qubit", wires=2))()
    assert qhybrid.QNode(gates, qml.device("qhybrid.aer", wires=2))() == pytest.approx(float(expected))


def test_an_initial_layout_needs_a_backend():
    with pytest.raises(DeviceError, match="initial_layout without a backend"):
        qml.device("qhybrid.aer", wires=2, initial_layout=[1, 0])
