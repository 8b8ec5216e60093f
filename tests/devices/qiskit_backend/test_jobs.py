"""What is sent: one transpilation for each structure, one job for all samples and shift terms, limits kept, faults."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from qiskit.primitives import BaseEstimatorV2, StatevectorEstimator, StatevectorSampler
from qiskit.primitives.containers.observables_array import ObservablesArray
from qiskit.providers.fake_provider import GenericBackendV2

import qhybrid as qml
from qhybrid_devices.qiskit_backend import transpiler
from qhybrid_devices.qiskit_backend.faults import is_transient

pytestmark = pytest.mark.filterwarnings("ignore:Qiskit backend .* has no QubitProperties:UserWarning")


def circuit(x, w):
    qml.RX(x, wires=0)
    qml.CNOT(wires=[0, 1])
    qml.RY(w[0], wires=1)
    qml.CRZ(w[1], wires=[1, 0])
    qml.RX(w[0], wires=0)
    return qml.expval(qml.Z(0)), qml.expval(qml.X(1) @ qml.Z(0)), qml.expval(qml.Z(1))


def loss(node, x, w):
    return sum(r.sum() for r in node(x, w))


def arguments(batch=5):
    return torch.linspace(-1, 1, batch, dtype=torch.float64), torch.tensor([0.3, -0.8], requires_grad=True)


def test_a_training_step_is_one_job_forward_and_one_for_the_gradient(counting):
    device = qml.device("qhybrid.qiskit", wires=2, sampler=counting)
    node = qml.set_shots(qml.QNode(circuit, device, diff_method="parameter-shift"), 20)
    x, w = arguments()
    value = loss(node, x, w)
    groups = 2  # Z Z, and Z X
    assert counting.jobs == [[5] * groups]
    value.backward()
    shifts = 2 + 4 + 2  # of two rotations and of a controlled one
    assert counting.jobs[1:] == [[5 * shifts] * groups]
    assert device.jobs.usage.circuits == sum(map(sum, counting.jobs))


def test_explain_tells_what_is_sent(counting):
    device = qml.device("qhybrid.qiskit", wires=2, sampler=counting)
    node = qml.set_shots(qml.QNode(circuit, device, diff_method="parameter-shift"), 20)
    x, w = arguments()
    told = node.explain(x, w)
    loss(node, x, w).backward()
    sent = [sum(job) for job in counting.jobs]
    assert (told.forward_circuits, told.forward_shots) == (sent[0], 20 * sent[0])
    # Each parameter of the circuit has its terms there, those of the features too, which no one asked to differentiate.
    assert told.gradient_circuits >= sent[1]


def test_transpiled_once_for_each_group(mocker, make_line):
    made = mocker.spy(transpiler, "generate_preset_pass_manager")
    device = qml.device("qhybrid.qiskit", wires=2, backend=make_line(), optimization_level=1, seed=3)
    node = qml.set_shots(qml.QNode(circuit, device, diff_method="parameter-shift"), 20)
    x, w = arguments(2)
    for scale in (1.0, 0.5):
        loss(node, scale * x, w).backward()
        # Two groups of the circuit, and of the circuit with an angle of its own for each shift.
        layouts = [call.kwargs["initial_layout"] for call in made.call_args_list if call.kwargs["optimization_level"]]
        assert len(layouts) == 1 + 4  # the first one checks the options
    assert layouts[1] is layouts[3] is None
    assert layouts[2] == layouts[4]
    assert len(set(layouts[2])) == 2


def test_same_arrays_share_a_circuit(counting):
    device = qml.device("qhybrid.qiskit", wires=1, sampler=counting)

    def prepared(u, x):
        qml.QubitUnitary(u, wires=0)
        qml.RX(x, wires=0)
        return qml.expval(qml.Z(0))

    node = qml.set_shots(qml.QNode(prepared, device), 10)
    u = np.stack([np.eye(2), np.eye(2)[::-1], np.eye(2)])
    assert list(node(u, np.array([0.0, 0.0, np.pi]))) == [1, -1, -1]
    assert counting.jobs == [[2, 1]]


class Limited(GenericBackendV2):
    """Takes three circuits at a time, with ten shots each."""

    max_circuits = 3
    max_shots = 10

    def run(self, circuits, **options):
        assert len(circuits) <= 3
        assert options["shots"] <= 10
        self.seeds = [*getattr(self, "seeds", []), options["seed_simulator"]]
        return super().run(circuits, **options)


def test_the_limits_of_a_backend_are_kept(make_line):
    backend = make_line(Limited)
    device = qml.device("qhybrid.qiskit", wires=2, backend=backend, seed=1)

    def sampled(x):
        qml.RX(x, wires=0)
        return qml.sample(wires=[0]), qml.expval(qml.X(0))

    x = np.full(4, np.pi / 2)
    bits, means = qml.set_shots(qml.QNode(sampled, device), 25)(x)
    assert bits.shape == (4, 25, 1)
    assert means.shape == (4,)
    jobs = 3 * 3  # 8 circuits in threes, three times for 10, 10 and 5 shots
    assert len(set(backend.seeds)) == jobs
    assert len({row.tobytes() for row in bits}) == 4
    usage = device.jobs.usage
    assert (usage.circuits, usage.shots) == (8 * 3, 8 * 25)
    assert qml.set_shots(qml.QNode(sampled, device), 25).explain(x).forward_circuits == usage.circuits


def test_a_policy_holds(counting):
    device = qml.device("qhybrid.qiskit", wires=2, sampler=counting)
    node = qml.set_shots(qml.QNode(circuit, device), 20)
    x, w = arguments()
    qml.set_jobs(device, qml.JobPolicy(max_shots=250, circuits_per_job=4))
    node(x, w)
    assert [sum(job) for job in counting.jobs] == [4, 4, 2]
    with pytest.raises(qml.BudgetError, match="max_shots=250"):
        node(x, w)
    assert len(counting.jobs) == 3


class Faulty(StatevectorSampler):
    """Raises the errors it is given, one a job, then works."""

    def __init__(self, *errors):
        super().__init__(seed=np.random.default_rng(1))
        self.errors, self.cancelled = list(errors), 0

    def run(self, pubs, *, shots=None):
        job = super().run(pubs, shots=shots)
        if self.errors:
            job.result()
            return FailedJob(self, self.errors.pop(0))
        return job


class FailedJob:
    def __init__(self, sampler, error):
        self.sampler, self.error = sampler, error

    def result(self):
        raise self.error

    def in_final_state(self):
        return False

    def cancel(self):
        self.sampler.cancelled += 1


def test_transient_faults_are_tried_again():
    sampler = Faulty(ConnectionError("gone"), TimeoutError("late"))
    device = qml.device("qhybrid.qiskit", wires=2, sampler=sampler)
    qml.set_jobs(device, qml.JobPolicy(backoff=0.0))
    x, w = arguments()
    results = qml.set_shots(qml.QNode(circuit, device), 20)(x, w)
    assert [r.shape for r in results] == [(5,)] * 3
    assert sampler.cancelled == 2
    assert device.jobs.usage.circuits == 3 * 10


def test_permanent_faults_are_raised_at_once():
    sampler = Faulty(ValueError("the circuit is not for this backend"))
    node = qml.set_shots(qml.QNode(circuit, qml.device("qhybrid.qiskit", wires=2, sampler=sampler)), 20)
    with pytest.raises(qml.JobError, match="the circuit is not for this backend") as caught:
        node(*arguments(1))
    assert caught.value.indices == (0, 1)


def test_an_interrupt_cancels_the_job():
    sampler = Faulty(KeyboardInterrupt())
    device = qml.device("qhybrid.qiskit", wires=2, sampler=sampler)
    node = qml.set_shots(qml.QNode(circuit, device), 20)
    with pytest.raises(KeyboardInterrupt):
        node(*arguments())
    assert sampler.cancelled == 1
    assert [r.shape for r in node(*arguments())] == [(5,)] * 3


def test_a_job_that_cannot_be_cancelled_does_not_hide_the_interrupt(monkeypatch):
    def cancel(self):
        raise RuntimeError("no such job")

    monkeypatch.setattr(FailedJob, "cancel", cancel)
    node = qml.QNode(circuit, qml.device("qhybrid.qiskit", wires=2, sampler=Faulty(KeyboardInterrupt())))
    with pytest.raises(KeyboardInterrupt), pytest.warns(RuntimeWarning, match="no such job"):
        qml.set_shots(node, 20)(*arguments())


class Service(Exception):  # noqa: N818 - as services name theirs
    def __init__(self, status_code):
        super().__init__(f"status {status_code}")
        self.status_code = status_code


def test_errors_that_may_pass():
    wrapped = RuntimeError("submission failed")
    wrapped.__cause__ = Service(503)
    foreign = type("ReadTimeout", (OSError,), {"__module__": "requests.exceptions"})
    assert all(map(is_transient, [Service(429), wrapped, foreign("late"), ConnectionResetError(), TimeoutError()]))
    assert not any(map(is_transient, [Service(400), Service(-1), RuntimeError("no"), OSError("disk")]))


class Rounding(StatevectorSampler):
    """Runs more shots than it is asked for, or fewer."""

    def __init__(self, factor):
        super().__init__(seed=np.random.default_rng(2))
        self.factor = factor

    def run(self, pubs, *, shots=None):
        return super().run([(c, v, int(s * self.factor)) for c, v, s in pubs])


def test_shots_are_as_many_as_asked_for():
    def sampled():
        qml.Hadamard(wires=0)
        return qml.sample(wires=0)

    more, fewer = (qml.device("qhybrid.qiskit", wires=1, sampler=Rounding(f)) for f in (1.5, 0.5))
    assert qml.set_shots(qml.QNode(sampled, more), 20)().shape == (20, 1)
    with pytest.raises(qml.DeviceError, match="gave 10 shots of the 20"):
        qml.set_shots(qml.QNode(sampled, fewer), 20)()


class Watching(BaseEstimatorV2):
    """Keeps what it is asked."""

    def __init__(self):
        self.asked = []

    def run(self, pubs, *, precision=None):
        self.asked += pubs
        return StatevectorEstimator(seed=1).run(pubs, precision=precision)


def test_one_pub_for_an_estimator():
    estimator = Watching()
    device = qml.device("qhybrid.qiskit", wires=2, estimator=estimator)
    x, w = arguments()
    qml.set_shots(qml.QNode(circuit, device), 100)(x, w)
    ((ansatz, observables, bindings, precision),) = estimator.asked
    assert ObservablesArray.coerce(observables).shape == (3, 1)
    assert bindings.shape == (5,)
    assert {p.name for p in ansatz.parameters} == {"batched_0", "shared_0", "0.5*shared_1", "-0.5*shared_1", "shared_2"}
    assert precision == 0.1
