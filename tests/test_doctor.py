"""``python -m qhybrid doctor``: what is there, what is broken, what to install."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import textwrap
from importlib import metadata

import pennylane as qml
import pytest

from qhybrid import doctor
from qhybrid.__main__ import main
from qhybrid.capabilities import Capabilities, capabilities_of
from tests.faulty_device import JobDevice
from tests.strict import WARNINGS

#: Modules of a package, each with a device that goes wrong in its own way.
SOURCES = {
    "good": "from pennylane.devices import DefaultQubit\nclass Device(DefaultQubit):\n    pass",
    "choosy": """
        from pennylane.devices import DefaultQubit
        class Device(DefaultQubit):
            def __init__(self, wires, address, *, token, shots=None):
                super().__init__(wires)
        """,
    "raises": """
        from pennylane.devices import DefaultQubit
        class Device(DefaultQubit):
            def __init__(self, wires=None, shots=None):
                raise OSError("no licence\\nfound")
        """,
    "unimportable": "raise RuntimeError('built for another processor')",
    "library": "raise ImportError('libsim.so.3: cannot open shared object file')",
    "partial": "import numpy.no_such_part",
    "needs_extra": """
        try:
            import no_such_sim
        except ImportError as e:
            raise ImportError("get the simulator") from e
        """,
    "needs_other": "import no_such_module",
    "nothing": "",
    "mute": """
        from pennylane.devices import DefaultQubit
        class Device(DefaultQubit):
            def supports_derivatives(self, *args):
                raise ZeroDivisionError("oops")
        """,
}
METADATA = """
Metadata-Version: 2.1
Name: Broken-Package
Version: 1.5
Provides-Extra: all
Provides-Extra: sim
Provides-Extra: named
Requires-Dist: not a requirement at all
Requires-Dist: no-such-sim>=2; extra == "all"
Requires-Dist: pytest; extra == "all"
Requires-Dist: no-such-sim>=2; extra == "sim"
Requires-Dist: no-such-first; extra == "named"
Requires-Dist: numpy; extra == "named"
"""


@pytest.fixture
def broken_package(tmp_path, monkeypatch):
    """An installed package with all these devices, and one whose extra is called like it."""
    info = tmp_path / "broken_package-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(METADATA.strip())
    entries = [f"broken.{name} = broken_{name}:Device" for name in SOURCES]
    lines = ["[pennylane.plugins]", *entries, "broken.named = broken_unimportable:Device"]
    (info / "entry_points.txt").write_text("\n".join(lines))
    for name, source in SOURCES.items():
        (tmp_path / f"broken_{name}.py").write_text(textwrap.dedent(source))
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in SOURCES:
        sys.modules.pop(f"broken_{name}", None)
    monkeypatch.undo()
    qml.refresh_devices()


@pytest.fixture
def few(monkeypatch):
    """Only the devices whose names start with ``prefix`` are registered, so that a test is quick."""

    def keep(*prefixes):
        found = [e for e in doctor._entry_points() if e.name.startswith(prefixes)]
        monkeypatch.setattr(doctor, "_entry_points", lambda: found)

    return keep


def _devices(report):
    return {d.name: d for d in report.devices}


def test_the_command_line():
    command = [sys.executable, *WARNINGS, "-m", "qhybrid", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.stderr == ""
    assert done.returncode == int(doctor.BROKEN in done.stdout)
    lines = done.stdout.splitlines()
    assert f"  pennylane   {qml.version()}" in lines
    names = [line.split()[0] for line in lines[lines.index("Devices") + 1 : lines.index("Machine") - 1]]
    ours = [e.name for e in metadata.entry_points(group="pennylane.plugins") if e.dist.name == "qhybrid"]
    assert names[: len(set(ours))] == sorted(set(ours))
    assert {"qhybrid.statevector", "default.qubit", "lightning.qubit"} <= set(names)


def test_nothing_heavy_is_imported_by_the_doctor_itself():
    # JAX is not among them: PennyLane itself imports it whenever it is installed
    code = "import sys, qhybrid.doctor; print({'torch', 'numba', 'qiskit', 'qhybrid_devices'} & {*sys.modules})"
    done = subprocess.run([sys.executable, *WARNINGS, "-c", code], capture_output=True, text=True, timeout=300)
    assert (done.stdout.strip(), done.stderr) == (str(set()), "")


def test_a_healthy_machine(few, capsys):
    few("qhybrid.statevector", "default.mixed", "lightning.qubit")
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "derivatives adjoint, backprop, device; exact and shots; batches; no noise channels  [qhybrid " in said
    report = doctor.examine()
    assert [d.name for d in report.devices] == ["qhybrid.statevector", "default.mixed", "lightning.qubit"]
    assert {d.state for d in report.devices} == {doctor.READY}
    packages = dict(report.packages)
    assert packages["numpy"] == metadata.version("numpy")
    assert packages["Python"].startswith(".".join(map(str, sys.version_info[:2])))


def test_what_is_broken_is_said_and_does_not_stop_the_rest(broken_package, few, capsys):
    few("broken.", "default.qubit")
    assert main(["doctor"]) == 1
    assert "broken.raises        BROKEN" in capsys.readouterr().out
    found = _devices(doctor.examine())
    assert found["default.qubit"].state == found["broken.good"].state == doctor.READY
    assert found["broken.good"].package == "Broken-Package 1.5"
    broken = {
        "raises": "OSError: no licence found",
        "unimportable": "RuntimeError: built for another processor",
        "library": "ImportError: libsim.so.3: cannot open shared object file",
        "partial": "ModuleNotFoundError: No module named 'numpy.no_such_part'",
    }
    for name, detail in broken.items():
        assert (found[f"broken.{name}"].state, found[f"broken.{name}"].detail) == (doctor.BROKEN, detail)
    assert found["broken.mute"].state == doctor.READY
    assert found["broken.mute"].detail == "does not say what it can do: ZeroDivisionError: oops"


def test_what_is_missing_comes_with_the_command_that_installs_it(broken_package, few, capsys):
    few("broken.needs", "broken.nothing", "broken.named")
    assert main(["doctor"]) == 0
    assert "BROKEN" not in capsys.readouterr().out
    found = {name: d.detail for name, d in _devices(doctor.examine()).items()}
    assert found == {
        "broken.needs_extra": 'no_such_sim is not installed; pip install "Broken-Package[sim]"',  # less than [all]
        "broken.needs_other": "ModuleNotFoundError: No module named 'no_such_module'",
        "broken.nothing": "its package registers the device but has no Device",
        "broken.named": 'no-such-first not installed; pip install "Broken-Package[named]"',
    }
    assert {d.state for d in doctor.examine().devices} == {doctor.MISSING}


def test_devices_that_need_arguments_are_not_broken(broken_package, few):
    few("broken.choosy")
    (found,) = doctor.examine().devices
    assert found.state == doctor.ARGUMENTS
    assert found.detail == "qhybrid.device('broken.choosy', wires=..., address=..., token=...)"


def test_packages_that_are_missing_or_of_the_wrong_version(few, monkeypatch):
    few("no such device")
    versions = {"pennylane": "0.44.1", "torch": None, "qiskit": None}
    monkeypatch.setattr(doctor, "_version", lambda name: versions.get(name, "99.0"))
    packages = dict(doctor.examine().packages)
    assert packages["pennylane"].startswith("0.44.1; WRONG VERSION, qhybrid needs ")
    assert packages["torch"] == 'not installed; pip install "qhybrid[torch]"'
    assert packages["qiskit"] == 'not installed; pip install "qhybrid[qiskit]"'


def test_without_metadata_of_qhybrid_itself(few, monkeypatch):
    few("no such device")
    monkeypatch.setattr(doctor, "OURS", "no-such-distribution")
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    assert dict(doctor.examine().packages)["torch"] == "not installed; pip install torch"


# ------------------------------------------------------------------ the machine


@pytest.mark.parametrize(
    ("setting", "said"),
    [("3", "3 (QHYBRID_NUM_THREADS), on "), ("many", "QHYBRID_NUM_THREADS is 'many'; it must be"), ("", "is not set")],
)
def test_threads(few, monkeypatch, setting, said):
    few("no such device")
    monkeypatch.setenv("QHYBRID_NUM_THREADS", setting)
    assert said in dict(doctor.examine().machine)["threads"]


def test_where_compiled_kernels_are_kept(few):
    few("qhybrid.statevector")
    (found,) = doctor.examine().devices
    assert found.cache is not None
    assert os.path.isabs(found.cache)
    assert dict(doctor.examine().machine)["compiled kernels"] == found.cache


class _Driver:
    """CUDA's driver, as far as it is asked."""

    def __init__(self, names, status=0):
        self.names, self.status = names, status

    def cuInit(self, flags):
        return self.status

    def cuDeviceGetCount(self, count):
        count._obj.value = len(self.names)
        return 0

    def cuDeviceGet(self, device, number):
        device._obj.value = number
        return 0

    def cuDeviceGetName(self, buffer, size, device):
        name = self.names[device.value]
        if name is None:
            return 101
        buffer.value = name
        return 0


@pytest.mark.parametrize(
    ("driver", "said"),
    [
        (_Driver([b"A big one", None]), "A big one, GPU 1 (error 101)"),
        (_Driver([]), "none visible"),
        (_Driver([], status=100), "none visible (the CUDA driver answers with error 100)"),
        (None, "none visible (no CUDA driver)"),
    ],
)
def test_gpus(monkeypatch, driver, said):
    def load(name):
        if driver is None:
            raise OSError(name)
        return driver

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert doctor._gpus() == said


# ------------------------------------------------------------------ capabilities

EXACT_AND_SHOTS = {"exact": True, "shots": True}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("default.qubit", Capabilities(("adjoint", "backprop"), **EXACT_AND_SHOTS, batches=True)),
        ("default.mixed", Capabilities(("backprop",), **EXACT_AND_SHOTS, batches=True, noise=True)),
        ("default.clifford", Capabilities((), **EXACT_AND_SHOTS, noise=True)),
        ("lightning.qubit", Capabilities(("adjoint",), **EXACT_AND_SHOTS)),
        ("default.gaussian", Capabilities()),
        ("default.qutrit", Capabilities()),
        ("default.qutrit.mixed", Capabilities()),
    ],
)
def test_capabilities_are_what_the_device_says(name, wanted):
    assert capabilities_of(qml.device(name, wires=2)) == wanted


def test_capabilities_of_devices_that_compile():
    wanted = Capabilities((), **EXACT_AND_SHOTS, batches=True)
    assert capabilities_of(JobDevice(wires=2)) == wanted  # it has no derivative of its own


# ------------------------------------------------------------------ the command line


@pytest.mark.parametrize("arguments", [[], ["nurse"], ["doctor", "--fast"]])
def test_other_commands_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as e:
        main(arguments)
    assert e.value.code == 2
    assert "usage: python -m qhybrid" in capsys.readouterr().err
