"""Arguments, errors, seeds, pickles, and what is imported."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
from qiskit.circuit import Parameter
from qiskit.circuit.library import Measure, RZGate, SXGate
from qiskit.primitives import BackendEstimatorV2, BackendSamplerV2, StatevectorEstimator, StatevectorSampler
from qiskit.providers.fake_provider import GenericBackendV2

import qhybrid as qml
from qhybrid_devices import extras
from tests.strict import WARNINGS

pytestmark = pytest.mark.filterwarnings("ignore:Qiskit backend .* has no QubitProperties:UserWarning")


def bits(x):
    qml.RX(x, wires=0)
    qml.CNOT(wires=[0, 1])
    return qml.sample(wires=[0, 1]), qml.expval(qml.X(0))


def mean(x):
    qml.RX(x, wires=0)
    return qml.expval(qml.Z(0))


# ------------------------------------------------------------------ seeds


def test_the_seed_of_the_device_is_that_of_all_results(sampled):
    x = np.full(3, 1.3)
    runs = []
    for seed in (5, 5, 6):
        node = qml.set_shots(qml.QNode(bits, sampled(seed=seed)), 60)
        runs.append([node(x) for _ in range(2)])
    for first, second in zip(runs[0], runs[1], strict=True):
        np.testing.assert_array_equal(first[0], second[0])
        np.testing.assert_array_equal(first[1], second[1])
    drawn = [call[0] for run in (runs[0], runs[2]) for call in run]
    assert len({row.tobytes() for call in drawn for row in call}) == 4 * 3  # no two executions are the same


def test_the_seed_of_a_sampler_does_not_repeat_its_outcomes():
    """Qiskit's own sampler draws the same random numbers for each circuit if its seed is a number."""
    device = qml.device("qhybrid.qiskit", wires=2, sampler=StatevectorSampler(seed=42), seed=1)
    samples, _ = qml.set_shots(qml.QNode(bits, device), 60)(np.full(3, 1.3))
    assert len({row.tobytes() for row in samples}) == 3


def test_the_seed_of_an_estimator(estimated):
    x = np.full(3, 1.3)
    runs = [qml.set_shots(qml.QNode(mean, estimated(seed=seed)), 1000)(x) for seed in (5, 5, 6)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert len({*runs[0], *runs[2]}) == 6


def test_noise_of_estimates_is_independent_for_circuits_of_their_own(estimated):
    def rotated(u):
        qml.QubitUnitary(u, wires=0)
        return qml.expval(qml.Z(0))

    phases = np.exp(1j * np.arange(4))[:, None, None] * np.array([[1, 1], [1, -1]]) / np.sqrt(2)
    assert len(set(qml.set_shots(qml.QNode(rotated, estimated(seed=5)), 10001)(phases))) == 4


def test_pickles(sampled, exact):
    device = sampled(seed=3)
    qml.set_shots(qml.QNode(mean, device), 10)(0.2)
    again = pickle.loads(pickle.dumps(device))
    results = [qml.set_shots(qml.QNode(bits, d), 50)(0.9) for d in (device, again)]
    np.testing.assert_array_equal(results[0][0], results[1][0])
    device = exact()
    assert qml.QNode(mean, pickle.loads(pickle.dumps(device)))(0.4) == pytest.approx(np.cos(0.4), abs=1e-12)


def test_plain_pennylane():
    import pennylane

    device = qml.device("qhybrid.qiskit", wires=1)
    node = pennylane.QNode(mean, device)
    x = pennylane.numpy.array(0.4, requires_grad=True)
    assert pennylane.grad(node)(x) == pytest.approx(-np.sin(0.4), abs=1e-12)


# ------------------------------------------------------------------ errors


def test_too_many_wires(make_line):
    device = qml.device("qhybrid.qiskit", wires=6, backend=make_line())

    def wide():
        return [qml.expval(qml.Z(w)) for w in range(6)]

    assert qml.set_shots(qml.QNode(mean, device), 10)(0.0) == 1
    with pytest.raises(qml.DeviceError, match=r"6 wires.*has 5 qubits"):
        qml.set_shots(qml.QNode(wide, device), 10)()


def test_a_layout_that_is_too_short(make_line):
    device = qml.device("qhybrid.qiskit", wires=3, backend=make_line(), initial_layout=[0, 1])
    with pytest.raises(qml.DeviceError, match=r"3 wires.*2 qubits: \[0, 1\]"):
        qml.set_shots(qml.QNode(mean, device), 10)(0.1)


def test_a_layout_may_be_longer_than_the_circuit(make_line):
    device = qml.device("qhybrid.qiskit", backend=make_line(), initial_layout=[4, 2, 0])
    assert qml.set_shots(qml.QNode(mean, device), 10)(np.pi) == -1


def test_a_layout_is_that_of_the_device_not_of_the_wires_used(make_line, mocker):
    device = qml.device("qhybrid.qiskit", wires=["a", "b", "c"], backend=make_line(), initial_layout=[4, 2, 0])
    drawn = mocker.spy(BackendSamplerV2, "run")

    def last(x):
        qml.RX(x, wires="c")
        return qml.expval(qml.Z("c"))

    assert qml.set_shots(qml.QNode(last, device), 10)(np.pi) == -1
    ((circuit, _, _),) = drawn.call_args.args[1]
    assert {circuit.find_bit(q).index for i in circuit.data for q in i.qubits} == {0}


def test_a_layout_without_a_backend():
    with pytest.raises(qml.DeviceError, match="initial_layout would mean nothing"):
        qml.device("qhybrid.qiskit", wires=2, sampler=StatevectorSampler(), initial_layout=[1, 0])


@pytest.mark.parametrize("layout", [[7, 0], [1, 1], [-1, 0]])
def test_qubits_that_the_backend_does_not_have(make_line, layout):
    with pytest.raises(qml.DeviceError, match=r"initial_layout is \[.*has 5 qubits"):
        qml.device("qhybrid.qiskit", wires=2, backend=make_line(), initial_layout=layout)


@pytest.mark.parametrize("option", [{"optimisation": 3}, {"optimization_level": 7}])
def test_options_that_the_transpiler_does_not_take(make_line, option):
    with pytest.raises(qml.DeviceError, match=r"does not take these options.*(optimisation|7)"):
        qml.device("qhybrid.qiskit", wires=2, backend=make_line(), **option)


class NoEntangler(GenericBackendV2):
    """Has one-qubit gates only."""

    def __init__(self):
        from qiskit.transpiler import Target

        super().__init__(2, noise_info=False)
        self._target = Target(num_qubits=2)
        for gate in (RZGate(Parameter("t")), SXGate(), Measure()):
            self._target.add_instruction(gate, {(0,): None, (1,): None})


def test_an_instruction_that_cannot_be_translated():
    device = qml.device("qhybrid.qiskit", wires=2, backend=NoEntangler())
    with pytest.raises(qml.DeviceError, match=r"cannot run cx on wires \[0, 1\]"):
        qml.set_shots(qml.QNode(bits, device), 10)(0.1)


def test_exact_results_need_an_exact_estimator(make_line):
    backend = make_line()
    for given, message in (
        ({"backend": backend}, "A backend gives samples.*Set shots"),
        ({"sampler": StatevectorSampler()}, "A sampler gives samples.*Set shots"),
        ({"estimator": BackendEstimatorV2(backend=backend)}, "This BackendEstimatorV2 measures with shots.*Set shots"),
    ):
        with pytest.raises(qml.DeviceError, match=message):
            qml.QNode(mean, qml.device("qhybrid.qiskit", wires=1, **given))(0.1)


def test_what_an_estimator_does_not_give():
    device = qml.device("qhybrid.qiskit", wires=11, estimator=StatevectorEstimator())

    def probabilities():
        return qml.expval(qml.Z(0)), qml.probs(wires=0)

    def state():
        return qml.state()

    with pytest.raises(qml.DeviceError, match=r"Probabilities and samples.*Give it one.*sampler="):
        qml.set_shots(qml.QNode(probabilities, device), 10)()
    with pytest.raises(qml.DeviceError, match="no state vector"):
        qml.QNode(state, device)()
    with pytest.raises(qml.DeviceError, match=r"11 wires would need 2048 expectation values"):
        qml.QNode(lambda: qml.probs(), device)()


@pytest.mark.parametrize("name", ["backend", "sampler", "estimator"])
def test_arguments_of_the_wrong_kind(name):
    with pytest.raises(qml.DeviceError, match=f"{name} is a builtins.str; it must be a qiskit.*V2"):
        qml.device("qhybrid.qiskit", wires=1, **{name: "ibm_somewhere"})


def test_a_backend_that_runs_through_primitives_only(make_line):
    kind = type("IBMBackend", (GenericBackendV2,), {})
    with pytest.raises(qml.DeviceError, match=r"sampler=qiskit_ibm_runtime.SamplerV2"):
        qml.device("qhybrid.qiskit", wires=1, backend=make_line(kind))


def test_too_many_wires_measured_together():
    def wide():
        return [qml.expval(qml.Z(w)) for w in range(63)]

    with pytest.raises(qml.DeviceError, match="up to 62 wires together, not 63"):
        qml.set_shots(qml.QNode(wide, qml.device("qhybrid.qiskit", wires=63)), 10)()


# ------------------------------------------------------------------ imports


def test_without_qiskit_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(qml.DeviceError, match=r'pip install "qhybrid\[qiskit\]"'):
        qml.device("qhybrid.qiskit", wires=1)


def test_qiskit_is_imported_by_its_device_only():
    program = (
        "import sys, qhybrid, qhybrid_devices.qiskit_backend.device\n"
        "qhybrid.device('qhybrid.statevector', wires=1)\n"
        "assert 'qiskit' not in sys.modules\n"
    )
    subprocess.run([sys.executable, *WARNINGS, "-c", program], check=True, timeout=120)
