"""What ``import qhybrid`` brings, and what it leaves for later."""

from __future__ import annotations

import subprocess
import sys

import qhybrid
from tests.strict import WARNINGS

#: Modules of devices of others, of jobs and of reports.
LATER = ("qhybrid.tapes.backend", "qhybrid.tapes.executable", "qhybrid.jobs", "qhybrid.explanation", "qhybrid.drawing")


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, *WARNINGS, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_gradient_on_the_own_device_imports_nothing_of_devices_of_others():
    code = f"""
import sys
import qhybrid as qml

@qml.qnode(qml.device("qhybrid.statevector", wires=1))
def circuit(x):
    qml.RX(x, wires=0)
    return qml.expval(qml.Z(0))

print(f"{{qml.grad(circuit)(qml.numpy.array(0.5)):.4f}}", [m for m in {LATER} if m in sys.modules])
"""
    assert _run(code) == "-0.4794 []"


def test_names_of_later_modules_are_there():
    names = ["Explanation", "JobPolicy", "graph", "jobs_of", "set_jobs"]
    code = f"from qhybrid import *; import qhybrid; print([n for n in {names} if globals()[n] is getattr(qhybrid, n)])"
    assert _run(code) == str(names)
    assert set(names) <= set(dir(qhybrid))
