"""Threads, forks, the compiler's cache, and kernels without the compiler."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numba
import numpy as np
import pytest

from qhybrid.errors import DeviceError
from qhybrid_devices.statevector import _jit, memory, sweeps, threads
from qhybrid_devices.statevector.plan import PlanOptions
from qhybrid_devices.statevector.threads import num_parts, num_threads, parallel, split

PROGRAM = """
import os
import numpy as np
from qhybrid.execution import Needs
from qhybrid.program import *
from qhybrid_devices.statevector.executable import StateVectorExecutable
from qhybrid_devices.statevector.plan import PlanOptions

gates = [Gate("R", (w,), PauliRotation("XYZ"[w % 3], Angle(w, True))) for w in range(4)]
gates += [Gate("C", (w,), Fixed(Constant(np.array([[0, 1], [1, 0]]))), (w - 1,), (True,)) for w in range(1, 4)]
program = Program(4, tuple(gates), (Expectation(Observable((Term(1.0, ((3, "Z"),)),))),), (), None, 0, 4)
slots = Slots(np.zeros(0), np.linspace(0, 1, 160).reshape(4, 40), (), 40)
x = slots.batched
wanted = np.cos(x[0]) * np.cos(x[1])  # Z on the last wire becomes ZZZZ, and only X and Y rotations turn it
for sizes in (dict(tile_wires=0, sweep_wires=1, row_bits=1), {}):
    executable = StateVectorExecutable(program, options=PlanOptions(parallel_work=1, **sizes))
    assert np.allclose(executable.run(slots)[0][:, 0], wanted * np.cos(x[3]))
    cot = np.ones((40, 1))
    assert np.allclose(executable.vjp(slots, (cot,), Needs()).batched[0], -np.sin(x[0]) * np.cos(x[1]) * np.cos(x[3]))
"""

FORK = """
child = os.fork()
if child == 0:
    assert np.allclose(executable.run(slots)[0][:, 0], wanted * np.cos(x[3]))
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""

INTERRUPT = """
import _thread, gc, random, signal, threading, time
from qhybrid_devices.statevector.threads import parallel

gc.disable()  # an interrupt in a callback of the collector, as JAX has one, is lost whatever we do
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell ignores it
rng = random.Random(7)
for _ in range(100):
    timer = threading.Timer(rng.random() / 100, _thread.interrupt_main)
    stop = time.monotonic() + 5
    try:
        timer.start()
        while time.monotonic() < stop:
            parallel(lambda part: sum(range(1000)), 8, 2)
        raise SystemExit("an interrupt was lost")
    except KeyboardInterrupt:
        timer.join()
"""


def run_python(code, **environment):
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def test_kernels_run_without_the_compiler():
    run_python(PROGRAM, NUMBA_DISABLE_JIT="1")


@pytest.mark.slow
def test_kernels_run_on_any_processor():
    run_python(PROGRAM, NUMBA_CPU_NAME="generic")


def test_a_forked_child_starts_its_own_threads():
    run_python(PROGRAM + FORK, QHYBRID_NUM_THREADS="2")


def test_the_end_of_a_process_that_has_memory_on_loan_is_quiet():
    code = "import sys; from qhybrid_devices.statevector import recycling; sys.kept = recycling.bytes_of(1 << 20)"
    assert not run_python(code)


def test_cached_kernels_depend_on_all_sources():
    if numba.config.DISABLE_JIT:
        pytest.skip("nothing is compiled")
    assert sweeps.forward._cache._cache_file._source_stamp == _jit._SOURCE_STAMP


def test_number_of_threads(monkeypatch):
    monkeypatch.setenv("QHYBRID_NUM_THREADS", "3")
    assert num_threads() == 3
    monkeypatch.setenv("QHYBRID_NUM_THREADS", "0")
    with pytest.raises(DeviceError, match="positive number"):
        num_threads()
    monkeypatch.delenv("QHYBRID_NUM_THREADS")
    assert num_threads() == len(os.sched_getaffinity(0))


def test_sizes_follow_the_cache(monkeypatch):
    single, double = np.dtype(np.float32), np.dtype(np.float64)
    monkeypatch.setenv("QHYBRID_CACHE_BYTES", str(2 << 20))
    assert PlanOptions.of_machine(double) == PlanOptions()
    assert PlanOptions.of_machine(single) == PlanOptions(register_bits=4)
    monkeypatch.setenv("QHYBRID_CACHE_BYTES", str(256 << 10))
    assert PlanOptions.of_machine(double) == PlanOptions(row_bits=8, tile_bytes=1 << 16)
    monkeypatch.setenv("QHYBRID_CACHE_BYTES", "1M")
    with pytest.raises(DeviceError, match="positive number of bytes"):
        PlanOptions.of_machine(double)
    monkeypatch.delenv("QHYBRID_CACHE_BYTES")
    assert memory.cache_bytes() > 0


def test_cache_size_as_linux_gives_it(tmp_path):
    for i, (level, kind, size) in enumerate([("1", "Data", "48K"), ("2", "Unified", "1280K"), ("3", "Unified", "8M")]):
        (tmp_path / f"index{i}").mkdir()
        for name, value in (("level", level), ("type", kind), ("size", size)):
            (tmp_path / f"index{i}" / name).write_text(f"{value}\n")
    assert memory._level2(tmp_path) == 1280 << 10
    assert memory._level2(tmp_path / "missing") is None


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("workers", [1, 3])
def test_parallel_covers_every_item_once(count, workers):
    seen = np.zeros(count, int)

    indices = []

    def task(part):
        assert 0 <= part.worker < workers
        indices.append(part.index)
        seen[part.start : part.stop] += 1

    parallel(task, count, workers)
    assert np.all(seen == 1)
    assert sorted(indices) == list(range(num_parts(count, workers)))
    assert split(count, workers)[-1][1] == count


def test_a_thread_that_comes_late_ends_for_itself_only(monkeypatch):
    """What another one still does is waited for, though the late one ends first."""
    monkeypatch.setattr(threads._TEAM, "openmp_address", lambda: 0)
    jobs, mailbox = [], SimpleNamespace(put=lambda job: jobs.append(job))
    monkeypatch.setattr(threads._TEAM, "_mailbox", mailbox)
    monkeypatch.setattr(threads._TEAM, "_grow", lambda size: None)
    caller, begun, late_ended, ended = threading.current_thread(), threading.Event(), threading.Event(), []

    def work():
        name = threading.current_thread().name
        if threading.current_thread() is caller:
            threading.Thread(target=jobs[0], name="early").start()
            begun.wait()
            threading.Timer(0.1, late).start()  # when the caller waits
        elif name == "early":
            begun.set()
            late_ended.wait()
            time.sleep(0.1)
            ended.append(name)

    def late():
        jobs[1]()
        late_ended.set()

    threads._TEAM.run(work, 3)
    assert ended == ["early"]


def test_errors_in_a_thread_are_raised():
    def task(part):
        if part.index == 1:
            raise RuntimeError("in a thread")

    with pytest.raises(RuntimeError, match="in a thread"):
        parallel(task, 4, 2)


@pytest.mark.parametrize("host", ["", "import torch"])
def test_an_interrupt_is_never_lost(host, monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)  # PyTorch's threads as its users have them
    assert not run_python(f"{host}\n{INTERRUPT}")


def test_an_interrupt_outside_of_the_work_is_raised():
    def interrupted():
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        threads._TEAM.run(interrupted, 2)


def test_long_compiling_is_announced_once(capsys):
    kernel = SimpleNamespace(data={"dispatcher": sweeps.forward})
    other = SimpleNamespace(data={"dispatcher": SimpleNamespace(py_func=test_errors_in_a_thread_are_raised)})
    listener = _jit._FirstUse(patience=0.05)
    for seconds in (0.01, 0.2, 0.2):
        for compiling in (other, kernel):
            listener.on_start(compiling)
            listener.on_start(compiling)
            time.sleep(seconds)
            listener.on_end(compiling)
            listener.on_end(compiling)
    err = capsys.readouterr().err
    assert err.count("compiling kernels") == 1


USED = """
import sys
from qhybrid_devices.statevector.threads import _TEAM
print(executable.vjp(slots, (cot,), Needs()).batched.tobytes().hex())
assert bool(_TEAM._openmp) is ("torch" in sys.modules)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch's threads are found on Linux only")
def test_workers_of_pytorch_and_own_ones_agree():
    """The same parts, so the same sums to the last bit, whoever does them; and own threads after a fork."""
    torch = "import torch\ntorch.rand(500, 500) @ torch.rand(500, 500)\n"
    results = [run_python(head + PROGRAM + USED, QHYBRID_NUM_THREADS="3") for head in ("", torch)]
    assert results[0] == results[1]
    run_python(torch + PROGRAM + FORK, QHYBRID_NUM_THREADS="2")
