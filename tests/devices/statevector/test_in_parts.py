"""Loops of kernels spread over threads: every item once, by whichever team there is, and errors on the way."""

import os
import threading

import numpy as np
import pytest
from numba import config, types

from qhybrid_devices.statevector import threads
from qhybrid_devices.statevector._jit import kernel
from qhybrid_devices.statevector.in_parts import PART, WORKER, in_parts
from qhybrid_devices.statevector.team import Helpers
from qhybrid_devices.statevector.threads import ALONE, num_parts, run_kernel


@kernel
def count_items(team, first, last, seen, workers, parts, added):
    if in_parts(team, first, last):
        return
    for i in range(first, last):
        seen[i] += added
        workers[i] = team[WORKER]
        parts[i] = team[PART]


_this_thread = threading.get_ident if config.DISABLE_JIT else types.ExternalFunction("pthread_self", types.int64())


@kernel
def note_threads(team, first, last, workers, threads):
    if in_parts(team, first, last):
        return
    for i in range(first, last):
        workers[i] = team[WORKER]
        threads[i] = _this_thread()


@kernel
def fail_at(team, first, last, bad, done):
    if in_parts(team, first, last):
        return
    for i in range(first, last):
        if i == bad:
            raise ValueError("bad item")
        done[i] = True


@pytest.fixture(params=["openmp", "helpers", "python"])
def team(request, monkeypatch):
    """Whose threads there are."""
    if request.param == "openmp":
        pytest.importorskip("torch")
        if not threads._TEAM.openmp_address():
            pytest.skip("no OpenMP that others may use")
    else:
        monkeypatch.setattr(threads._TEAM, "openmp_address", lambda: 0)
        monkeypatch.setattr(Helpers, "are_possible", Helpers.are_possible and request.param == "helpers")
        if request.param == "helpers" and not Helpers.are_possible:
            pytest.skip("no threads without the interpreter")
    return request.param


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 100])
def test_every_item_once(team, count, workers):
    seen, by, parts = np.zeros(count), np.full(count, -1), np.full(count, -1)
    for _ in range(20):
        run_kernel(count_items, count, workers, seen, by, parts, 1.0)
    np.testing.assert_array_equal(seen, 20)
    if count:
        assert set(parts) == set(range(num_parts(count, workers)))  # the same whoever does them
        np.testing.assert_array_equal(parts, np.sort(parts))
        assert 0 <= by.min() <= by.max() < min(workers, count)


def test_shares(team):
    """Nobody does a part of another's share before all of the own one are begun: at most one of two does any."""
    if team == "python":
        pytest.skip("parts are handed out one by one")
    count, runs = 400_000, 50
    seen, by, parts, helped = np.zeros(count), np.full(count, -1), np.full(count, -1), 0
    for _ in range(runs):
        run_kernel(count_items, count, 2, seen, by, parts, 1.0)
        first, second = by.reshape(2, -1)
        assert (first == 0).all() or (second == 1).all()
        helped += by.max()
    np.testing.assert_array_equal(seen, runs)
    assert helped > 0 or len(os.sched_getaffinity(0)) == 1


@pytest.mark.parametrize("workers", [2, 5])
def test_numbers_of_workers(team, workers):
    """Each number is one thread, and 0 is the caller."""
    if team == "python":
        pytest.skip("workers are numbered by Python")
    by, whose = np.full(10_000, -1), np.zeros(10_000, np.int64)
    for _ in range(20):
        run_kernel(note_threads, len(by), workers, by, whose)
        pairs = set(zip(by.tolist(), whose.tolist(), strict=True))
        assert len({w for w, _ in pairs}) == len({t for _, t in pairs}) == len(pairs)
        assert all((w == 0) == (t == threading.get_ident()) for w, t in pairs)


def test_many_workers(team):
    """More than there are shares."""
    if team == "helpers":
        pytest.skip("its threads wait for as long as the process runs: 99 more would slow down all other tests")
    count = workers = 100
    seen, by, parts = np.zeros(count), np.full(count, -1), np.full(count, -1)
    run_kernel(count_items, count, workers, seen, by, parts, 1.0)
    np.testing.assert_array_equal(seen, 1)
    assert 0 <= by.min() <= by.max() < workers


def test_alone():
    seen, by, parts = np.zeros(5), np.zeros(5), np.zeros(5)
    count_items(ALONE, 1, 4, seen, by, parts, 1.0)
    count_items((0, 0, 1, 1, 7, 3), 4, 5, seen, by, parts, 1.0)
    np.testing.assert_array_equal(seen, [0, 1, 1, 1, 1])
    np.testing.assert_array_equal(by, [0, 0, 0, 0, 7])
    np.testing.assert_array_equal(parts, [0, 0, 0, 0, 3])


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("bad", [0, 3, 9])
def test_errors(team, workers, bad):
    """They are raised where the kernel was called; a team does the other parts all the same."""
    done, parts = np.zeros(10, np.bool_), num_parts(10, workers)
    together = team != "python" and workers > 1
    with pytest.raises(RuntimeError if together else ValueError, match="part of a loop" if together else "bad item"):
        run_kernel(fail_at, 10, workers, bad, done)
    assert not done[bad]
    if together:
        assert all(done[start:stop].all() for start, stop in threads.split(10, parts) if not start <= bad < stop)
