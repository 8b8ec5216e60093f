"""Start: imports and the first gradient of a process, with and without kernels on disk, in processes of their own."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks._timing import Report, ResultsDifferError, verdict

PROCESSES = 5
GOALS = {"import qhybrid": 0.15, "first gradient": 1.0, "first gradient, nothing compiled": 20.0}
TOLERANCE = 1e-9

PROGRAM = """
import json, time
from math import cos, sin
start = time.perf_counter()
import pennylane
after_pennylane = time.perf_counter()
import qhybrid
after_qhybrid = time.perf_counter()

@qhybrid.qnode(qhybrid.device("qhybrid.statevector", wires=2))
def circuit(x):
    qhybrid.RX(x[0], wires=0)
    qhybrid.CNOT(wires=[0, 1])
    qhybrid.RY(x[1], wires=1)
    return qhybrid.expval(qhybrid.PauliZ(1))

x = pennylane.numpy.array([0.3, 0.7], requires_grad=True)
gradient = pennylane.grad(circuit)(x)
end = time.perf_counter()
difference = max(abs(gradient[0] + sin(0.3) * cos(0.7)), abs(gradient[1] + cos(0.3) * sin(0.7)))
print(json.dumps([after_pennylane - start, after_qhybrid - after_pennylane, end - after_qhybrid, float(difference)]))
"""


def start(cache: str | None = None) -> list[float]:
    """Seconds of one process: import pennylane, import qhybrid after it, first gradient; and the gradient's error.

    Args:
        cache: folder for compiled kernels, by default numba's own
    """
    environment = {**os.environ, **({"NUMBA_CACHE_DIR": cache} if cache else {})}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # what pip installs has its byte code
    command = [sys.executable, "-c", PROGRAM]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def run(quick: bool) -> Report:
    """Measure and check.

    Args:
        quick: one process with compiled kernels
    """
    start()  # kernels and byte code on disk, files in memory
    runs = [start() for _ in range(1 if quick else PROCESSES)]
    phases = ("import pennylane", "import qhybrid", "first gradient")
    seconds = {name: statistics.median(r[i] for r in runs) for i, name in enumerate(phases)}
    errors = [r[3] for r in runs]
    if not quick:
        with tempfile.TemporaryDirectory() as folder:
            *_, cold, error = start(folder)
        seconds["first gradient, nothing compiled"] = cold
        errors.append(error)
    if not max(errors) <= TOLERANCE:
        raise ResultsDifferError(f"a first gradient is wrong by {max(errors):.1e}")
    rows = [[name, f"{t:.2f}", GOALS.get(name, "")] for name, t in seconds.items()]
    met = all(seconds[name] <= goal for name, goal in GOALS.items() if name in seconds)
    remarks = [f"Largest error of a gradient: {max(errors):.0e}.", verdict(met, "all below their limits", quick)]
    checks = {"tolerance": TOLERANCE, "gradient difference": max(errors)}
    title = "Start of a process: seconds, medians"
    return Report("start", title, ["", "seconds", "limit"], rows, checks, {"seconds": seconds}, remarks)
