"""Memory that is used again: by one array at a time, never more of it than said, from any thread."""

import gc
import threading

import numpy as np
import pytest

from qhybrid.execution import Needs
from qhybrid.program import Angle, Expectation, Gate, Observable, PauliRotation, Program, Slots, Term
from qhybrid_devices.statevector import recycling
from qhybrid_devices.statevector.executable import StateVectorExecutable
from qhybrid_devices.statevector.recycling import LARGE, MOST_KEPT, bytes_of
from qhybrid_devices.statevector.simd import REGISTER_BYTES, register_array


@pytest.fixture(autouse=True)
def nothing_kept():
    gc.collect()
    recycling._KEPT.clear()
    yield
    recycling._KEPT.clear()


def address(array):
    return array.__array_interface__["data"][0]


def kept():
    return sorted(len(block) for block in recycling._KEPT)


def test_memory_is_used_again_once_nothing_uses_it():
    first = bytes_of(LARGE)
    where, view = address(first), first[10:20].view(np.uint8)
    view[...] = 7
    del first
    other = bytes_of(LARGE)
    assert address(other) != where  # a view is a use
    np.testing.assert_array_equal(view, 7)
    del view
    assert kept() == [LARGE]
    assert address(bytes_of(LARGE)) == where
    assert kept() == [LARGE]


def test_only_memory_of_the_same_size():
    del_me = bytes_of(LARGE), bytes_of(LARGE + 64)
    del del_me
    assert kept() == [LARGE, LARGE + 64]
    held = bytes_of(LARGE + 128), bytes_of(LARGE + 64)
    assert [len(b) for b in held] == [LARGE + 128, LARGE + 64]
    assert kept() == [LARGE]


@pytest.mark.parametrize("size", [0, 1, LARGE - 1, MOST_KEPT + 1])
def test_small_and_huge_memory_is_not_kept(size):
    assert len(bytes_of(size)) == size
    assert kept() == []


def test_no_more_is_kept_than_said():
    held = [bytes_of(MOST_KEPT // 4 + 64 * i) for i in range(6)]
    held.reverse()  # the last one made is given back first
    while held:
        held.pop(0)
    assert kept() == [MOST_KEPT // 4 + 64 * i for i in range(3)]  # the last ones


def test_states_are_in_registers():
    array = register_array((2, 1 << 18), np.dtype(np.float32))
    assert array.shape == (2, 1 << 18)
    assert array.dtype == np.float32
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert address(array) % REGISTER_BYTES == 0
    del array
    assert kept() == [(1 << 21) + REGISTER_BYTES]


def test_threads():
    """Nobody gets what another one has."""
    wrong = []

    def work(mark):
        for _ in range(200):
            own = bytes_of(LARGE)
            own[::4096] = mark
            if (own[::4096] != mark).any():
                wrong.append(mark)

    workers = [threading.Thread(target=work, args=(mark,)) for mark in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
    assert set(kept()) == {LARGE}


def test_results_and_derivatives_with_states_in_used_memory():
    """A residual that is alive keeps its state, however many other runs there are."""
    gates = tuple(Gate("RY", (w,), PauliRotation("Y", Angle(w))) for w in range(16))
    program = Program(16, gates, (Expectation(Observable((Term(1.0, ((15, "Z"),)),))),), (), None, 16, 0)
    executable, angles = StateVectorExecutable(program), np.linspace(0.1, 1, 16)
    kept_run = executable.run_with_residual(Slots(angles))
    for shift in (0.0, 0.3):
        for _ in range(3):
            (value,), residual = executable.run_with_residual(Slots(angles + shift))
            np.testing.assert_allclose(value, np.cos(1 + shift), atol=1e-12)
            found = executable.vjp(Slots(angles + shift), (np.ones(1),), Needs(), residual=residual)
            np.testing.assert_allclose(found.shared[15], -np.sin(1 + shift), atol=1e-12)
    found = executable.vjp(Slots(angles), (np.ones(1),), Needs(), residual=kept_run[1])
    np.testing.assert_allclose(found.shared[15], -np.sin(1), atol=1e-12)
