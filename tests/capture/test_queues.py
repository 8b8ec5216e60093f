"""Threads that record, make operators and call QNodes at the same time do not see each other's queues."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pennylane as qml
import pytest
from pennylane.queuing import AnnotatedQueue, QueuingManager

import qhybrid
from qhybrid.capture.queues import keep_queues_apart

THREADS = 8


class Steps:
    """Two threads that take turns: ``reach(n)`` waits until all steps before ``n`` were reached."""

    def __init__(self):
        self.now, self.changed = 0, threading.Condition()

    def reach(self, step):
        with self.changed:
            assert self.changed.wait_for(lambda: self.now == step - 1, timeout=20), f"step {step} never came"
            self.now = step
            self.changed.notify_all()


@QueuingManager.stop_recording()
def unrecorded(steps, first, last):
    steps.reach(first)
    op = qml.Z(0)
    steps.reach(last)
    return op


@pytest.mark.parametrize(("enters", "leaves"), [(1, 4), (2, 4), (1, 3), (2, 3)])
def test_what_another_thread_does_not_record_is_its_own_affair(enters, leaves):
    """All orders in which one thread opens and closes a queue while another does not record."""
    steps, others = Steps(), sorted({1, 2, 3, 4} - {enters, leaves})

    def record():
        steps.reach(others[0])
        with AnnotatedQueue() as queue:
            qml.X(0)
            steps.reach(others[1])
            qml.Y(0)
        return queue

    with ThreadPoolExecutor(2) as pool:
        recorded = pool.submit(record)
        made = pool.submit(unrecorded, steps, enters, leaves)
        assert recorded.result(30).queue == [qml.X(0), qml.Y(0)]
        assert made.result(30) == qml.Z(0)
    assert not QueuingManager.recording()


def test_a_thread_makes_operators_while_another_records():
    with AnnotatedQueue() as queue, ThreadPoolExecutor(1) as pool:
        qml.X(0)
        pool.submit(qml.Y, 0).result(30)
    assert queue.queue == [qml.X(0)]


def test_stopped_recordings_nest_and_end_with_errors():
    @QueuingManager.stop_recording()
    def fails():
        with QueuingManager.stop_recording():
            qml.X(0)
        return qml.Y(0) / 0

    with AnnotatedQueue() as queue:
        with pytest.raises(ZeroDivisionError):
            fails()
        qml.Z(0)
    assert queue.queue == [qml.Z(0)]


def test_once_is_enough():
    stacks = QueuingManager._active_contexts
    keep_queues_apart()
    assert QueuingManager._active_contexts is stacks


@pytest.mark.filterwarnings("ignore::qhybrid.FallbackWarning")
@pytest.mark.parametrize("made", [qhybrid.qnode, qml.qnode])
def test_a_function_that_is_recorded_waits_for_what_another_thread_records(made):
    """Both threads call one QNode for the first time, one of them while it records another circuit."""
    recording, tracing = threading.Event(), threading.Event()

    @qhybrid.qnode(qml.device("qhybrid.statevector", wires=1))
    def angle(x):
        tracing.set()
        qml.RX(x, 0)
        return qml.expval(qml.Z(0))

    @made(qml.device("default.qubit", wires=1))
    def outer(x):
        recording.set()
        assert tracing.wait(20)
        with QueuingManager.stop_recording():
            inner = angle(x)
        qml.RX(inner, 0)
        return qml.expval(qml.Z(0))

    with ThreadPoolExecutor(2) as pool:
        result = pool.submit(outer, 0.3)
        assert recording.wait(20)
        np.testing.assert_allclose(pool.submit(angle, 0.3).result(60), np.cos(0.3), atol=1e-12)
        np.testing.assert_allclose(result.result(60), np.cos(np.cos(0.3)), atol=1e-12)


@pytest.fixture
def hurried():
    """Threads take turns so often that any two lines may come between two others."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def circuit(x):
    qml.RX(x, 0)
    qml.CNOT([0, 1])
    qml.Rot(x, 2 * x, x, 1)
    qml.IsingXX(x, [0, 1])
    return qml.expval(qml.Z(1) @ qml.X(0)), qml.probs(wires=[0, 1])


@pytest.mark.parametrize("name", ["qhybrid.statevector", "default.mixed"])
def test_qnodes_are_compiled_in_threads(hurried, name):
    """Each thread traces and runs a QNode of its own."""
    nodes = [qhybrid.qnode(qml.device(name, wires=2))(circuit) for _ in range(THREADS)]
    mean, probabilities = qml.qnode(qml.device("default.qubit"))(circuit)(0.3)
    with ThreadPoolExecutor(THREADS) as pool:
        for got in pool.map(lambda node: [node(0.3) for _ in range(3)], nodes):
            for own_mean, own_probabilities in got:
                np.testing.assert_allclose(own_mean, mean, atol=1e-12)
                np.testing.assert_allclose(own_probabilities, probabilities, atol=1e-12)


@pytest.mark.filterwarnings("ignore::qhybrid.FallbackWarning")
def test_a_qnode_left_to_pennylane_runs_in_threads(hurried):
    """PennyLane makes operators outside of any lock while it runs a tape."""

    @qhybrid.qnode(qml.device("default.clifford"), shots=100)
    def bell():
        qml.H(0)
        qml.CNOT([0, 1])
        return qml.sample(wires=[0, 1])

    with ThreadPoolExecutor(THREADS) as pool:
        for samples in pool.map(lambda _: bell(), range(2 * THREADS)):
            assert np.shape(samples) == (100, 2)
            assert (samples[:, 0] == samples[:, 1]).all()
