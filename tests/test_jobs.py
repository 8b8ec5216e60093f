"""Jobs: nothing lost, nothing counted twice, order kept, budgets held, interrupts survived."""

from __future__ import annotations

import _thread
import copy
import gc
import pickle
import random
import signal
import threading

import numpy as np
import pennylane as qml
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import qhybrid
from qhybrid import BudgetError, CircuitError, DeviceError, JobError, JobPolicy
from qhybrid import jobs as jobs_module
from qhybrid.errors import NotFiniteError
from qhybrid.jobs import Jobs, jobs_of, set_jobs
from tests.faulty_device import FAULTS, FaultySubmitter, JobDevice

AT_ONCE = JobPolicy(backoff=0.0)


def square(batch):
    return [(i, x * x) for i, x in batch]


# ------------------------------------------------------------------ faults


@settings(max_examples=300, deadline=None)
@given(
    circuits=st.lists(st.integers(), max_size=12),
    per_job=st.none() | st.integers(1, 5),
    faults=st.lists(st.sampled_from(FAULTS), max_size=40),
    rng=st.randoms(use_true_random=False),
)
def test_no_result_is_lost_or_counted_twice(circuits, per_job, faults, rng):
    submit = FaultySubmitter(lambda x: (x, "done"), iter(faults), rng)
    jobs = Jobs(JobPolicy(circuits_per_job=per_job, retries=len(faults), backoff=0.0))
    assert jobs.run(submit, circuits, shots=7) == [(x, "done") for x in circuits]
    assert set(submit.handed) == set(range(len(circuits)))
    assert (jobs.usage.circuits, jobs.usage.shots) == (len(submit.handed), 7 * len(submit.handed))


@settings(max_examples=200, deadline=None)
@given(
    number=st.integers(0, 10),
    faults=st.lists(st.sampled_from(FAULTS), max_size=20),
    limit=st.integers(0, 25),
    rng=st.randoms(use_true_random=False),
)
def test_no_budget_is_exceeded_whatever_goes_wrong(number, faults, limit, rng):
    submit = FaultySubmitter(str, iter(faults), rng)
    jobs = Jobs(JobPolicy(max_shots=10 * limit, circuits_per_job=3, retries=len(faults), backoff=0.0))
    try:
        assert jobs.run(submit, range(number), shots=10) == [str(i) for i in range(number)]
    except BudgetError:
        assert number + 3 * len(faults) > limit  # a submission that fails costs all three of its circuits
    assert len(submit.handed) == jobs.usage.circuits <= limit
    assert jobs.usage.shots_left == 10 * (limit - len(submit.handed))


def test_only_what_is_missing_is_submitted_again():
    batches = []

    def submit(batch):
        batches.append([i for i, _ in batch])
        for i, x in reversed(batch):
            if len(batches) == 1 and i == 1:
                raise ConnectionError("gone")
            yield i, x

    assert Jobs(AT_ONCE).run(submit, "abcd") == ["a", "b", "c", "d"]
    assert batches == [[0, 1, 2, 3], [0, 1]]


def test_circuits_per_job():
    sizes = []

    def submit(batch):
        sizes.append(len(batch))
        return square(batch)

    assert Jobs(JobPolicy(circuits_per_job=4)).run(submit, range(10)) == [x * x for x in range(10)]
    assert sizes == [4, 4, 2]
    assert Jobs().run(submit, []) == []
    assert len(sizes) == 3


def test_retries_wait_twice_as_long_each_time_and_start_anew_after_progress(monkeypatch):
    waits = []
    monkeypatch.setattr(jobs_module.time, "sleep", waits.append)
    answers = iter([[], [], [0], [], [], [1]])
    jobs = Jobs(JobPolicy(retries=3, backoff=0.5))
    assert jobs.run(lambda batch: [(i, "r") for i in next(answers)], "ab") == ["r", "r"]
    assert waits == [0.5, 1.0, 0.5, 1.0, 2.0]


@pytest.mark.parametrize("retries", [0, 2])
def test_dropped_results_count_as_failed_attempts(retries):
    calls = []

    def submit(batch):
        calls.append(batch)
        return [(i, x) for i, x in batch if i != 2]

    jobs = Jobs(JobPolicy(retries=retries, backoff=0.0))
    with pytest.raises(
        JobError, match=r"Circuit 2 of the call gave no result in .*no result arrived, and no error"
    ) as e:
        jobs.run(submit, range(4))
    assert e.value.indices == (2,)
    assert len(calls) == 1 + retries
    assert jobs.usage.circuits == 4 + retries


def test_transient_errors_are_raised_in_the_end_with_their_cause():
    def submit(batch):
        raise TimeoutError("queue is full")

    with pytest.raises(JobError, match=r"in 3 attempts in a row \(TimeoutError: queue is full\)") as e:
        Jobs(JobPolicy(retries=2, backoff=0.0)).run(submit, range(7))
    assert isinstance(e.value.__cause__, TimeoutError)
    assert e.value.indices == tuple(range(7))
    assert "circuits 0, 1, 2, 3, 4 and 2 more" in str(e.value)


def _is_busy(error):
    return isinstance(error, OSError) and "busy" in str(error)


def test_further_errors_can_be_transient():
    answers = iter([OSError("busy"), OSError("on fire")])

    def submit(batch):
        raise next(answers)

    jobs = Jobs(AT_ONCE, is_transient=_is_busy)
    with pytest.raises(JobError, match="on fire"):
        jobs.run(submit, "ab")
    assert jobs.usage.circuits == 4


def test_permanent_errors_name_the_circuit_at_once():
    calls = []

    def submit(batch):
        calls.append(batch)
        yield 3, "fine"
        yield 1, ValueError("gate cz is not known")
        raise AssertionError("went on after a permanent error")

    with pytest.raises(DeviceError, match="Circuit 1 of the call failed: gate cz is not known") as e:
        Jobs(AT_ONCE).run(submit, "abcd")
    assert e.value.indices == (1,)
    assert isinstance(e.value.__cause__, ValueError)
    assert len(calls) == 1


def test_a_permanent_error_of_a_whole_job_names_those_that_it_may_be():
    def submit(batch):
        yield 0, "fine"
        raise ValueError("malformed job")

    with pytest.raises(JobError, match="One of the circuits 1, 2 of the call failed: malformed job") as e:
        Jobs(AT_ONCE).run(submit, "abc")
    assert e.value.indices == (1, 2)
    again = pickle.loads(pickle.dumps(e.value))
    assert (str(again), again.indices) == (str(e.value), (1, 2))


def test_errors_of_the_circuit_keep_their_class():
    def submit(batch):
        yield 1, NotFiniteError("angle is NaN", True, 5)

    with pytest.raises(NotFiniteError, match="angle is NaN") as e:
        Jobs(AT_ONCE).run(submit, "ab")
    assert (e.value.batched, e.value.index) == (True, 5)
    assert e.value.__notes__ == ["It comes from circuit 1 of the call."]
    assert issubclass(NotFiniteError, CircuitError)


@pytest.mark.parametrize("index", [7, -1, "a", None])
def test_unknown_numbers_are_refused(index):
    with pytest.raises(JobError, match="which was not submitted"):
        Jobs(AT_ONCE).run(lambda batch: [(index, 1)], "ab")
    jobs = Jobs(JobPolicy(circuits_per_job=1))
    with pytest.raises(JobError, match="circuit 1, which was not submitted"):
        jobs.run(lambda batch: [(1, 1)], "ab")  # its turn has not come


def test_what_is_no_pair_is_refused():
    with pytest.raises(JobError, match="One of the circuits 0, 1"):
        Jobs(AT_ONCE).run(lambda batch: ["result", "result"], "ab")


# ------------------------------------------------------------------ budgets


@pytest.mark.parametrize(
    ("policy", "what"), [(JobPolicy(max_circuits=8), "circuits"), (JobPolicy(max_shots=800), "shots")]
)
def test_a_budget_stops_a_call_before_it_starts(policy, what):
    calls = []

    def submit(batch):
        calls.append(batch)
        return square(batch)

    jobs = Jobs(policy)
    jobs.run(submit, range(5), shots=100)
    used, needed, limit = (5, 4, 8) if what == "circuits" else (500, 400, 800)
    said = f"{used} {what} were used, this call needs {needed}, and the limit is max_{what}={limit}"
    with pytest.raises(BudgetError, match=said):
        jobs.run(submit, range(4), shots=100)
    assert len(calls) == 1
    assert jobs.run(submit, range(3), shots=100) == [0, 1, 4]
    assert (jobs.usage.circuits, jobs.usage.shots) == (8, 800)
    assert str(jobs.usage) == f"8 circuits and 800 shots used, 0 {what} left"


def test_exact_results_use_no_shots():
    jobs = Jobs(JobPolicy(max_shots=0))
    assert jobs.run(square, range(3)) == [0, 1, 4]
    assert (jobs.usage.circuits, jobs.usage.shots, jobs.usage.shots_left) == (3, 0, 0)


def test_a_retry_beyond_the_budget_is_not_submitted():
    calls = []

    def submit(batch):
        calls.append(batch)
        raise ConnectionError("gone")

    jobs = Jobs(JobPolicy(max_circuits=5, backoff=0.0))
    with pytest.raises(BudgetError, match="3 circuits were used, submitting what was lost again needs 3") as e:
        jobs.run(submit, range(3))
    assert isinstance(e.value.__cause__, ConnectionError)
    assert len(calls) == 1
    assert jobs.usage.circuits_left == 2


def test_what_was_never_handed_over_does_not_count():
    def submit(batch):
        if batch[0][0] == 2:
            raise ValueError("no")
        return square(batch)

    jobs = Jobs(JobPolicy(max_circuits=10, circuits_per_job=1))
    with pytest.raises(JobError, match="Circuit 2 "):
        jobs.run(submit, range(10))
    assert (jobs.usage.circuits, jobs.usage.circuits_left) == (3, 7)


def test_threads_share_a_budget_that_is_never_exceeded():
    jobs = Jobs(JobPolicy(max_circuits=45, circuits_per_job=1))
    start, outcomes = threading.Barrier(8), []

    def call():
        start.wait()
        try:
            outcomes.append(jobs.run(square, range(10)) == [x * x for x in range(10)])
        except BudgetError:
            outcomes.append(None)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (outcomes.count(True), outcomes.count(None)) == (4, 4)
    assert (jobs.usage.circuits, jobs.usage.circuits_left) == (40, 5)


def test_what_calls_under_way_set_aside_is_not_left():
    jobs = Jobs(JobPolicy(max_circuits=5, circuits_per_job=1))

    def submit(batch):
        assert jobs.usage.circuits_left == 3
        if jobs.usage.circuits == 1:
            with pytest.raises(BudgetError, match="1 circuits were used and 1 set aside by calls under way"):
                jobs.run(square, range(4))
        return square(batch)

    assert jobs.run(submit, range(2)) == [0, 1]
    assert jobs.usage.circuits == 2


def test_policies_and_counts_survive_pickling():
    jobs = Jobs(JobPolicy(max_circuits=5, retries=1), is_transient=_is_busy)
    jobs.run(square, range(3), shots=2)
    for again in (pickle.loads(pickle.dumps(jobs)), copy.deepcopy(jobs)):
        assert again.policy == jobs.policy
        assert again.usage == jobs.usage
        again.run(square, range(2))
        assert again.usage.circuits_left == 0
    assert jobs.usage.circuits_left == 2


@pytest.mark.parametrize(
    ("setting", "allowed"),
    [
        ({"max_circuits": -1}, "whole number of at least 0, or None"),
        ({"max_shots": 1.5}, "whole number of at least 0, or None"),
        ({"circuits_per_job": 0}, "whole number of at least 1, or None"),
        ({"circuits_per_job": True}, "whole number of at least 1, or None"),
        ({"retries": None}, "whole number of at least 0."),
        ({"backoff": float("nan")}, "finite number of seconds"),
        ({"backoff": "1"}, "finite number of seconds"),
        ({"progress": "yes"}, "True, False or None"),
    ],
)
def test_policies_say_what_is_allowed(setting, allowed):
    (name,) = setting
    with pytest.raises(DeviceError, match=f"{name} is .*{allowed}"):
        JobPolicy(**setting)


# ------------------------------------------------------------------ interrupts


@pytest.fixture
def interrupts():
    """SIGINT interrupts, also where a shell ignores it for its jobs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_an_interrupt_leaves_jobs_usable():
    events = []

    def submit(batch):
        try:
            for i, x in batch:
                if i == 2:
                    signal.raise_signal(signal.SIGINT)
                yield i, x
        finally:
            events.append("cancelled")

    jobs = Jobs(JobPolicy(max_circuits=20, circuits_per_job=4))
    with pytest.raises(KeyboardInterrupt):
        jobs.run(submit, range(10))
    assert events == ["cancelled"]
    assert (jobs.usage.circuits, jobs.usage.circuits_left) == (4, 16)  # the job at work counts, those after it do not
    assert jobs.run(square, range(16)) == [x * x for x in range(16)]


class _Waiting:
    """An iterator of a class of its own, interrupted while it waits."""

    def __init__(self, complaint=None):
        self.closed, self.complaint = False, complaint

    def __iter__(self):
        return self

    def __next__(self):
        raise KeyboardInterrupt

    def close(self):
        self.closed = True
        if self.complaint:
            raise self.complaint


def test_a_job_is_cancelled_when_interrupted():
    job = _Waiting()
    with pytest.raises(KeyboardInterrupt):
        Jobs().run(lambda batch: job, "ab")
    assert job.closed


def test_an_interrupt_is_not_lost_where_cancelling_fails():
    with pytest.warns(RuntimeWarning, match="could not be closed: ConnectionError"), pytest.raises(KeyboardInterrupt):
        Jobs().run(lambda batch: _Waiting(ConnectionError("gone")), "ab")


def test_an_interrupt_while_waiting_for_a_retry(monkeypatch):
    def interrupted(seconds):
        raise KeyboardInterrupt

    jobs = Jobs(JobPolicy(max_circuits=10))
    with monkeypatch.context() as patch:
        patch.setattr(jobs_module.time, "sleep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            jobs.run(lambda batch: [], range(4))
    assert (jobs.usage.circuits, jobs.usage.circuits_left) == (4, 6)


@pytest.mark.usefixtures("interrupts")
def test_interrupts_at_any_moment():
    rng = random.Random(3)
    jobs = Jobs(JobPolicy(max_circuits=10**9, circuits_per_job=2, retries=1000, backoff=0.0))
    handed, interrupted = 0, 0

    def submit(batch):
        nonlocal handed
        handed += len(batch)
        for i, x in batch:
            if rng.random() < 0.1:
                raise ConnectionError
            yield i, x

    for _ in range(40):
        timer = threading.Timer(rng.random() / 100, _thread.interrupt_main)
        try:
            timer.start()
            while True:
                jobs.run(submit, range(50))
        except KeyboardInterrupt:
            interrupted += 1
        timer.join()
    usage = jobs.usage
    assert interrupted == 40
    assert handed <= usage.circuits <= handed + 2 * interrupted  # at most the job that was about to start
    assert usage.circuits_left == 10**9 - usage.circuits  # nothing is still set aside
    assert jobs.run(square, range(3)) == [0, 1, 4]


# ------------------------------------------------------------------ progress


def test_a_bar_shows_circuits_and_shots(capsys):
    Jobs(JobPolicy(progress=True)).run(square, range(3), shots=100)
    said = capsys.readouterr()
    assert "3/3" in said.err
    assert "300/300 shots" in said.err
    assert said.out == ""
    Jobs(JobPolicy(progress=True)).run(square, range(3))
    assert "shots" not in capsys.readouterr().err


def test_by_default_only_slow_calls_on_a_terminal_show_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(jobs_module, "PATIENCE", 0.0)
    Jobs().run(square, range(3))
    assert capsys.readouterr().err == ""  # no terminal
    monkeypatch.setattr(jobs_module.sys.stderr, "isatty", lambda: True, raising=False)
    Jobs().run(square, range(3))
    assert "3/3" in capsys.readouterr().err
    Jobs(JobPolicy(progress=False)).run(square, range(3))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(jobs_module, "PATIENCE", 60.0)
    Jobs().run(square, range(3))
    assert capsys.readouterr().err == ""


# ------------------------------------------------------------------ the jobs of a device


class _Slotted:
    __slots__ = ("__weakref__",)
    __hash__ = None  # nor hashable


class _Closed:
    __slots__ = ()


def test_any_object_can_have_jobs():
    legacy = qml.device("default.gaussian", wires=1)
    for device in (qml.device("default.mixed", wires=1), legacy, JobDevice(wires=1), _Slotted()):
        first = jobs_of(device)
        assert jobs_of(device) is first
        set_jobs(device, JobPolicy(max_circuits=3))
        assert jobs_of(device) is first
        assert first.policy.max_circuits == 3
    with pytest.raises(DeviceError, match="_Closed can have no job policy"):
        jobs_of(_Closed())


def test_jobs_kept_elsewhere_go_with_their_object():
    device = _Slotted()
    set_jobs(device, AT_ONCE)
    before = len(jobs_module._ELSEWHERE)
    del device
    gc.collect()
    assert len(jobs_module._ELSEWHERE) == before - 1


def test_another_policy_keeps_the_count():
    device = JobDevice(wires=1)
    jobs_of(device).run(square, range(3))
    set_jobs(device, JobPolicy(max_circuits=4))
    assert device.jobs.usage.circuits_left == 1


def test_a_device_may_bring_its_own_jobs():
    device = JobDevice(wires=1)
    device.jobs = Jobs(AT_ONCE, is_transient=_is_busy)
    assert jobs_of(device) is device.jobs
    assert device.jobs.policy is AT_ONCE
    assert pickle.loads(pickle.dumps(device.jobs)).policy == AT_ONCE


def test_a_policy_that_would_mean_nothing_is_refused():
    with pytest.raises(DeviceError, match="sends no jobs"):
        qhybrid.set_jobs(qml.device("qhybrid.statevector", wires=1), AT_ONCE)
    with pytest.raises(DeviceError, match=r"is a qhybrid\.JobPolicy, not 5"):
        qhybrid.set_jobs(JobDevice(wires=1), 5)


def test_jobs_travel_with_a_pickled_device():
    device = qml.device("qhybrid.statevector", wires=1)
    device.jobs.run(square, range(3))
    assert pickle.loads(pickle.dumps(device)).jobs.usage.circuits == 3


# ------------------------------------------------------------------ through a QNode


def _circuit(device, shots=None):
    @qhybrid.qnode(device, diff_method="parameter-shift", shots=shots)
    def circuit(x, w):
        qml.AngleEmbedding(x, wires=range(2))
        qml.StronglyEntanglingLayers(w, wires=range(2))
        return qml.expval(qml.Z(0)), qml.probs(wires=1)

    return circuit


def _train(device, shots):
    circuit = _circuit(device, shots)
    x = torch.linspace(0, 1, 6, dtype=torch.float64).reshape(3, 2)
    w = torch.full((1, 2, 3), 0.3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([w], lr=0.1)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        z, p = circuit(x, w)
        loss = (z**2).sum() + p[:, 0].sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, w.detach().numpy()


@pytest.mark.parametrize("shots", [None, 100])
def test_training_gives_the_same_bits_with_and_without_faults(shots):
    policy = JobPolicy(retries=50, backoff=0.0, circuits_per_job=10)
    outcomes, counts = [], []
    for rate in (0.0, 0.2):
        device = JobDevice(wires=2, seed=5, rate=rate)
        set_jobs(device, policy)
        outcomes.append(_train(device, shots))
        counts.append(device.jobs.usage.circuits)
        assert counts[-1] == len(device.handed)
    assert outcomes[0][0] == outcomes[1][0]
    np.testing.assert_array_equal(outcomes[0][1], outcomes[1][1])
    assert outcomes[0][0][-1] < outcomes[0][0][0]
    assert counts[1] > counts[0]


def test_explain_tells_what_a_call_and_its_gradient_submit():
    device = JobDevice(wires=2, seed=5)
    set_jobs(device, JobPolicy(max_circuits=100, max_shots=5000))
    circuit = _circuit(device, shots=50)
    x, w = torch.zeros(3, 2, dtype=torch.float64), torch.zeros(1, 2, 3, dtype=torch.float64, requires_grad=True)
    found = circuit.explain(x, w)
    assert device.handed == []
    z, _ = circuit(x, w)
    forward = device.jobs.usage
    assert (found.forward_circuits, found.forward_shots) == (forward.circuits, forward.shots) == (3, 150)
    x.requires_grad_()
    found = circuit.explain(x, w)
    z, _ = circuit(x, w)
    z.sum().backward()
    assert found.usage == forward
    assert found.gradient_circuits == device.jobs.usage.circuits - 2 * forward.circuits == 3 * 2 * 8
    assert found.gradient_shots == 50 * found.gradient_circuits
    assert "3 circuits with 150 shots forward, 48 with 2400 for a gradient" in str(found)
    assert "3 circuits and 150 shots used, 97 circuits and 4850 shots left" in str(found)


def test_explain_counts_groups_of_measurements(monkeypatch):
    from tests.faulty_device import JobExecutable

    monkeypatch.setattr(JobExecutable, "circuits_per_execution", lambda self, shots: 1 if shots is None else 2)
    found = _circuit(JobDevice(wires=2), shots=(10, 30)).explain(np.zeros((3, 2)), np.zeros((1, 2, 3)))
    assert (found.forward_executions, found.forward_circuits, found.forward_shots) == (6, 12, 3 * 2 * 40)
    assert found.gradient_shots == 2 * 40 * 3 * 2 * 8


def test_explain_says_nothing_of_jobs_where_there_are_none():
    found = _circuit(qml.device("qhybrid.statevector", wires=2)).explain(np.zeros(2), np.zeros((1, 2, 3)))
    assert found.usage is None
    assert "jobs" not in str(found)


def test_a_budget_holds_for_a_qnode():
    device = JobDevice(wires=2)
    set_jobs(device, JobPolicy(max_circuits=7))
    circuit = _circuit(device)
    x, w = np.zeros((3, 2)), np.zeros((1, 2, 3))
    circuit(x, w)
    circuit(x, w)
    with pytest.raises(BudgetError, match="6 circuits were used, this call needs 3"):
        circuit(x, w)
    assert len(device.handed) == 6


def test_a_permanent_error_reaches_the_caller_of_a_qnode():
    device = JobDevice(wires=2)

    def submit(batch):
        return [(i, RuntimeError("bad qubit") if i == 2 else circuit()) for i, circuit in batch]

    device.submitter = lambda: submit
    with pytest.raises(JobError, match="Circuit 2 of the call failed: bad qubit"):
        _circuit(device)(np.zeros((3, 2)), np.zeros((1, 2, 3)))
