"""Helpers without the interpreter: whoever calls, asleep or awake, one job at a time."""

import threading
import time

import numpy as np
import pytest

from qhybrid_devices.statevector import team as module
from qhybrid_devices.statevector import threads
from qhybrid_devices.statevector._jit import kernel
from qhybrid_devices.statevector.in_parts import WORKER, in_parts
from qhybrid_devices.statevector.team import Helpers
from qhybrid_devices.statevector.threads import num_parts

pytestmark = pytest.mark.skipif(not Helpers.are_possible, reason="no threads without the interpreter")


@kernel
def add_up(team, first, last, steps, sums, ended):
    """Work that takes a while: each item sums up 1, 1/2, 1/4 and so on, as many of them as ``steps`` says."""
    if in_parts(team, first, last):
        return
    for i in range(first, last):
        for _ in range(steps):
            sums[i] = sums[i] / 2 + 1
        ended[i] = team[WORKER]


def run(helpers, workers, count=16, steps=20_000):
    """Who did each item."""
    sums, ended = np.zeros(count), np.full(count, -1)
    address, given = helpers.called_by(workers)
    add_up((address, given, workers, num_parts(count, workers), 0, 0), 0, count, steps, sums, ended)
    np.testing.assert_array_equal(sums, 2)
    return set(ended.tolist())


@pytest.fixture(scope="module")
def helpers():
    return Helpers()


def test_helpers_begin_when_they_are_wanted(helpers):
    own = Helpers()
    assert own._size == 0
    assert run(own, 1) == {0}
    assert own._size == 0
    run(own, 2)
    run(own, 4)
    run(own, 3)
    assert own._size == 3


def test_they_help(helpers):
    """Somebody else does a part of work that takes long, whether the helpers are looking for it or asleep."""
    for pause in (0.0, 0.1):
        for _ in range(100):
            time.sleep(pause)
            workers = run(helpers, 3, steps=1_000_000)
            assert workers <= {0, 1, 2}
            if len(workers) > 1:
                break
        else:
            pytest.fail("nobody ever helped")


def test_they_sleep_when_there_is_nothing_to_do(helpers):
    run(helpers, 3)
    for _ in range(100):
        time.sleep(0.02)
        if helpers._words[module._SLEEPING] == helpers._size:
            break
    assert helpers._words[module._SLEEPING] == helpers._size
    assert helpers._words[module._JOB] == helpers._words[module._BUSY] == 0


def test_callers_in_several_threads(helpers):
    """A team has one job at a time; who finds it busy does the own one alone."""
    errors = []

    def call():
        try:
            for _ in range(300):
                assert run(helpers, 3, steps=100) <= {0, 1, 2}
        except AssertionError as error:
            errors.append(error)

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not errors
    assert helpers._words[module._JOB] == helpers._words[module._BUSY] == 0
    helpers._words[module._BUSY] = 1  # as while another caller's job is done
    try:
        assert run(helpers, 3) == {0}
    finally:
        helpers._words[module._BUSY] = 0


def test_who_has_which_team(monkeypatch):
    """The main thread has PyTorch's if there is one; all others have helpers, the same ones."""
    monkeypatch.setattr(threads._TEAM, "_helpers", None)
    monkeypatch.setattr(threads._TEAM, "_address", 7)
    monkeypatch.setattr(threads._TEAM, "openmp_address", lambda: 7)
    assert threads._TEAM.for_kernels(2) == (7, 0)
    found = []
    for _ in range(2):
        other = threading.Thread(target=lambda: found.append(threads._TEAM.for_kernels(2)))
        other.start()
        other.join()
    assert found[0] == found[1] != (7, 0)
    monkeypatch.setattr(threads._TEAM, "openmp_address", lambda: 0)
    assert threads._TEAM.for_kernels(2) == found[0]
    monkeypatch.setattr(Helpers, "are_possible", False)
    assert threads._TEAM.for_kernels(2) == (0, 0)
