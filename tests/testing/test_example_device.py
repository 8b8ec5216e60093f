"""The worked example of ``devices/README.md``: complete, short, conforming, and shown as it is."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from qhybrid.testing import device_conformance

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "devices" / "example_device.py"
SHOTS = ("None", "20000")


def test_conforms():
    from example_device import ExampleDevice

    report = device_conformance(ExampleDevice)
    report.raise_if_failed()
    refused = {r.name for r in report.not_claimed if not r.name.startswith("gradients.native")}
    assert refused == {"values.photonic", "gates.channels"}


def test_at_most_a_hundred_lines():
    assert len(SOURCE.read_text().splitlines()) <= 100


def test_readme_shows_it_verbatim():
    readme = (ROOT / "devices" / "README.md").read_text()
    assert f"```python\n{SOURCE.read_text()}```" in readme


@pytest.fixture(scope="module")
def pl_device_tests(tmp_path_factory):
    """The runs of PennyLane's test suite for devices, without and with shots, one beside the other."""
    folder = tmp_path_factory.mktemp("installed")
    info = folder / "example_device-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: example-device\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pennylane.plugins]\nexample.numpy = example_device:ExampleDevice\n")
    path = os.pathsep.join([str(folder), str(ROOT), str(ROOT / "devices"), os.environ.get("PYTHONPATH", "")])
    programs = Path(sys.executable).parent  # pl-device-test starts the first pytest that the shell finds
    environment = {**os.environ, "PYTHONPATH": path, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}

    def run(shots):
        command = [str(programs / "pl-device-test"), "--device", "example.numpy", "--shots", shots]
        own = tmp_path_factory.mktemp(shots)
        return subprocess.run(command, cwd=own, env=environment, capture_output=True, text=True, timeout=300)

    with ThreadPoolExecutor() as pool:
        yield {shots: pool.submit(run, shots) for shots in SHOTS}


@pytest.mark.slow
@pytest.mark.parametrize("shots", SHOTS)
def test_pl_device_test(shots, pl_device_tests):
    """PennyLane finds it by its entry point and its own test suite for devices passes."""
    done = pl_device_tests[shots].result()
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert " passed" in done.stdout
