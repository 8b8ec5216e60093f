"""The worked example of ``devices/README.md``: complete, short, conforming, and shown as it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qhybrid.testing import device_conformance

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "devices" / "example_device.py"


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


@pytest.mark.slow
@pytest.mark.parametrize("shots", ["None", "20000"])
def test_pl_device_test(shots, tmp_path):
    """PennyLane finds it by its entry point and its own test suite for devices passes."""
    info = tmp_path / "example_device-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: example-device\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pennylane.plugins]\nexample.numpy = example_device:ExampleDevice\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT), str(ROOT / "devices"), os.environ.get("PYTHONPATH", "")])
    programs = Path(sys.executable).parent  # pl-device-test starts the first pytest that the shell finds
    environment = {**os.environ, "PYTHONPATH": path, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    command = [str(programs / "pl-device-test"), "--device", "example.numpy", "--shots", shots]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert " passed" in done.stdout
