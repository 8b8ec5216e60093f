"""What ``import qhybrid`` brings, and what it leaves for later."""

from __future__ import annotations

import math
import subprocess
import sys

import pennylane as qml
import pytest

import qhybrid
from tests.strict import WARNINGS

#: Modules of devices of others, of jobs, of reports and of methods that nobody asked for.
LATER = (
    "qhybrid.tapes.backend", "qhybrid.tapes.executable", "qhybrid.jobs", "qhybrid.explanation", "qhybrid.drawing",
    "qhybrid.gradients.finite_difference", "qhybrid.gradients.hadamard", "qhybrid.gradients.stochastic",
)  # fmt: skip


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


def test_numpy_as_pennylane_has_it():
    import qhybrid.numpy as np
    from qhybrid import numpy
    from qhybrid.numpy import tensor

    @qhybrid.qnode(qml.device("qhybrid.statevector", wires=1))
    def circuit(x):
        qml.RX(np.sum(np.sin(x)) * np.linalg.norm(np.ones(4)), wires=0)
        return qml.expval(qml.Z(0))

    x = np.array([0.1, 0.2], requires_grad=True)
    assert (type(x), numpy, tensor) == (qml.numpy.tensor, np, qml.numpy.tensor)
    angle = 2 * (math.sin(0.1) + math.sin(0.2))
    assert circuit(x) == pytest.approx(math.cos(angle))
    expected = [-2 * math.sin(angle) * math.cos(v) for v in (0.1, 0.2)]
    assert list(qml.grad(circuit)(x)) == pytest.approx(expected)


def test_numpy_is_imported_first():
    assert _run("import qhybrid.numpy as np; print(np.array([0.1], requires_grad=True).requires_grad)") == "True"


def test_random_numbers_of_numpy_are_drawn_at_every_call():
    import qhybrid.numpy as np

    @qhybrid.qnode(qml.device("qhybrid.statevector", wires=1))
    def circuit():
        qml.RX(np.random.uniform(), wires=0)
        return qml.expval(qml.Z(0))

    np.random.seed(3)
    with pytest.warns(qhybrid.FallbackWarning, match="random"):
        values = {float(circuit()) for _ in range(4)}
    assert len(values) == 4


def test_an_unknown_name_of_numpy():
    import qhybrid.numpy as np

    with pytest.raises(AttributeError, match=r"neither qhybrid.numpy nor pennylane.numpy has .* 'nonsense'"):
        _ = np.nonsense
