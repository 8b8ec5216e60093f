"""Errors, threads, copies, repetition."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pennylane as qml

from qhybrid.backend import CompilingDevice
from qhybrid.testing.checks.circuits import angles, entangle, measuring, three_values
from qhybrid.testing.subject import NotClaimed, Subject, raises, table

NUM_THREADS = 8


class UnknownOperation(qml.operation.Operation):
    """Has neither a matrix nor a decomposition."""

    num_params = 0
    num_wires = 1


def _rotation(x: Any, wire: Any = 0) -> Any:
    qml.RX(x, wires=wire)
    return qml.expval(qml.Z(wire))


def unknown_wire(subject: Subject) -> None:
    """A wire that is not on the device is an error that names it."""
    node = subject.node(_rotation, wires=2)
    node(0.3)
    raises(lambda: node(0.3, "nowhere"), "nowhere")


def sample_without_shots(subject: Subject) -> None:
    """Samples without shots are an error that mentions shots."""
    if not subject.exact:
        raise NotClaimed("the device always has shots")
    _rotated(subject)
    raises(lambda: subject.node(measuring(lambda: qml.sample(wires=0)))(angles(subject)), "shots", "analytic")


def state_with_shots(subject: Subject) -> None:
    """The state from shots is an error."""
    subject.node(measuring(lambda: qml.expval(qml.Z(0))), shots=10)(angles(subject))
    raises(lambda: subject.node(measuring(qml.state), shots=10)(angles(subject)), "state")


def unknown_operation(subject: Subject) -> None:
    """An operation that nobody can run is an error that names it."""

    def circuit(x: Any) -> Any:
        qml.RX(x, wires=0)
        UnknownOperation(wires=0)
        return qml.expval(qml.Z(0))

    _rotated(subject)
    raises(lambda: subject.node(circuit)(0.3), "UnknownOperation")


def not_a_number(subject: Subject) -> None:
    """A NaN among the inputs is an error or gives NaN, never a number."""
    node = subject.node(_rotation, wires=1)
    node(0.3)
    try:
        result = node(np.nan)
    except Exception:  # noqa: BLE001 - an error is what this asks for
        return
    assert np.isnan(result), f"<Z> after RX(nan) is {result}"


ERRORS = table("errors", unknown_wire, sample_without_shots, state_with_shots, unknown_operation, not_a_number)


def _rotated(subject: Subject) -> None:
    """Nothing, or the refusal of a device that has no rotations."""
    subject.node(_rotation)(0.3)


# ------------------------------------------------------------------ threads


def _in_threads(call: Any, tasks: Any) -> list[Any]:
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return list(pool.map(call, tasks))


def exact(subject: Subject) -> None:
    """Eight threads that call one QNode get each its own result."""
    if not subject.exact:
        raise NotClaimed("the device gives no exact results")
    x = angles(subject, NUM_THREADS)
    node = subject.node(three_values)
    expected = [subject.node(three_values)(row) for row in x]
    got = _in_threads(lambda row: [node(row) for _ in range(3)], x)
    for results, right in zip(got, expected, strict=True):
        for result in results:
            subject.close(result, right)


def sampled(subject: Subject) -> None:
    """Eight threads that sample one QNode draw different samples."""

    def circuit(x: Any) -> Any:
        entangle(x)
        return qml.sample(wires=[0, 1, 2])

    node, x = subject.node(circuit, shots=100), angles(subject)
    drawn = _in_threads(lambda _: node(x), range(NUM_THREADS))
    distinct = {np.asarray(d).tobytes() for d in drawn}
    assert len(distinct) == NUM_THREADS, f"{NUM_THREADS} threads drew only {len(distinct)} different sets of samples"


def own_random_numbers(subject: Subject) -> None:
    """Every execution has a generator of random numbers of its own."""
    device = subject.device()
    if not isinstance(device, CompilingDevice):
        raise NotClaimed("it is no CompilingDevice, so its generators are its own affair")
    made = _in_threads(lambda _: device.new_rng(), range(NUM_THREADS))
    sources = {id(g.bit_generator) for g in made}
    assert len(sources) == NUM_THREADS, f"{NUM_THREADS} executions share {len(sources)} generators"
    firsts = {int(g.integers(2**62)) for g in made}
    assert len(firsts) == NUM_THREADS, f"{NUM_THREADS} generators start at {len(firsts)} different places"


THREADS = table("threads", exact, sampled, own_random_numbers)


# ------------------------------------------------------------------ copies and repetition


def _still_right(subject: Subject, device: Any, expected: Any) -> None:
    subject.close(subject.node(three_values, device=device)(angles(subject)), expected)


def _copied(subject: Subject, duplicate: Any) -> None:
    """A copy of a device, before and after it is used, is a device that works."""
    device, x = subject.device(), angles(subject)
    expected = qml.QNode(three_values, qml.device("default.qubit", wires=3))(x)
    before = duplicate(device)
    _still_right(subject, device, expected)
    for made in (before, duplicate(device), device):
        _still_right(subject, made, expected)


def deepcopy(subject: Subject) -> None:
    """A device can be deep-copied before and after use."""
    _copied(subject, copy.deepcopy)


def pickled(subject: Subject) -> None:
    """A device can be pickled before and after use."""
    _copied(subject, lambda device: pickle.loads(pickle.dumps(device)))


def _copied_node(subject: Subject, duplicate: Any) -> None:
    node, x = subject.node(three_values), angles(subject)
    before, expected = duplicate(node), node(x)
    for made in (before, duplicate(node), node):
        subject.close(made(x), expected)


def deepcopied_node(subject: Subject) -> None:
    """A QNode on the device can be deep-copied before and after use."""
    _copied_node(subject, copy.deepcopy)


def pickled_node(subject: Subject) -> None:
    """A QNode on the device can be pickled before and after use."""
    _copied_node(subject, lambda node: pickle.loads(pickle.dumps(node)))


COPIES = table("copies", deepcopy, pickled, deepcopied_node, pickled_node)


def other_inputs(subject: Subject) -> None:
    """Each call gives the result of its own inputs, whatever ran before on the same device."""
    device, reference = subject.device(), qml.device("default.qubit", wires=3)
    functions = three_values, measuring(lambda: qml.expval(qml.X(2) @ qml.Z(1)))
    nodes = [(subject.node(f, device=device), qml.QNode(f, reference)) for f in functions]
    for x in (*angles(subject, 2), *angles(subject, 2)):
        for node, right in nodes:
            subject.close(node(x), right(x))


def untouched_inputs(subject: Subject) -> None:
    """A call changes neither its arguments nor results that were returned before."""
    node, x = subject.node(three_values), angles(subject, 2)
    before = x.copy()
    result = node(x)
    kept = copy.deepcopy(result)
    node(x + 1)
    assert np.array_equal(x, before), "the call changed its argument"
    assert np.array_equal(np.asarray(result), np.asarray(kept)), "a later call changed an earlier result"


REPETITION = table("repetition", other_inputs, untouched_inputs)
CHECKS = (*ERRORS, *THREADS, *COPIES, *REPETITION)
