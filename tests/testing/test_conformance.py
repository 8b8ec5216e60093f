"""Right devices pass, and each wrong device fails the very check that is about its mistake."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import pytest

import qhybrid
from qhybrid.errors import DeviceError
from qhybrid.testing import ConformanceError, Status, device_conformance
from qhybrid.testing.checks import CHECKS
from qhybrid.testing.checks.robustness import not_a_number
from qhybrid_devices.statevector.device import StateVectorDevice
from tests.testing.broken_devices import MISTAKES, RefusesEverything, WrongSignDevice

#: Defects of other people's devices, which their own authors would have to mend.
SUMS = {"values.variances_of_sums": "PennyLane splits them and stumbles"}
GAUSSIAN = {**SUMS, "copies.pickled*": "what wraps devices of the old kind recurses without end"}
LIGHTNING = {
    "copies.deepcopy": "its state is a C++ object that cannot be copied",
    "copies.pickled": "its state is a C++ object that cannot be pickled",
}
TENSOR = {"gates.several_wires": "it contracts MultiRZ and FermionicSWAP on wires that are not neighbours wrongly"}
CIRQ = {
    **SUMS,
    "copies.deepcopy": "it holds a module, which cannot be copied",
    "copies.pickled*": "it holds a module, which cannot be pickled",
}
#: For each device, what is left out and why.
DEVICES = {
    "complex128": ("qhybrid.statevector", {}),
    "complex64": (functools.partial(qhybrid.device, "qhybrid.statevector", c_dtype=np.complex64), {}),
    "qhybrid.aer": ("qhybrid.aer", {}),
    "default.qubit": ("default.qubit", {}),
    "lightning.qubit": ("lightning.qubit", LIGHTNING),
    "default.mixed": ("default.mixed", {}),
    "reference.qubit": ("reference.qubit", SUMS),
    "default.clifford": ("default.clifford", {}),
    "default.tensor": ("default.tensor", TENSOR),
    "default.gaussian": ("default.gaussian", GAUSSIAN),
    "cirq.simulator": ("cirq.simulator", CIRQ),
}
#: Cirq computes in single precision.
LOOSE = {"cirq.simulator": 2e-5}
#: What must be claimed, so that a device does not conform by refusing.
CLAIMS = {
    "default.tensor": {"values.pauli_words", "values.state", "batches.shared_angles"},
    "default.clifford": {"values.clifford", "wires.order", "shots.clifford"},
    "default.gaussian": {"values.photonic"},
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Operator .* does not define a decomposition:UserWarning")  # default.gaussian
@pytest.mark.parametrize("name", DEVICES)
def test_device_conforms(name):
    device, skip = DEVICES[name]
    report = device_conformance(device, skip=skip, tolerance=LOOSE.get(name))
    report.raise_if_failed()
    claimed = CLAIMS.get(name, {"values.pauli_words", "gates.several_wires", "batches.inputs", "shots.samples"})
    assert claimed <= {r.name for r in report.passed}, str(report)


def test_state_vector_claims_all_but_noise_and_light():
    report = device_conformance("qhybrid.statevector", only=["values.*", "gates.channels", "gradients.*", "threads.*"])
    report.raise_if_failed()
    assert {r.name for r in report.not_claimed} == {"values.photonic", "gates.channels"}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.name)
def test_mistake_is_found(mistake):
    report = device_conformance(mistake.device, only=mistake.fails)
    assert {r.name for r in report.failed} == set(mistake.fails), str(report)
    with pytest.raises(ConformanceError, match=mistake.fails[0]):
        report.raise_if_failed()


def test_a_mistake_fails_nothing_else():
    """Checks are specific: a wrong sign of the native gradient is no matter of values, shots or threads."""
    report = device_conformance(WrongSignDevice)
    assert all(r.name.startswith("gradients.native") for r in report.failed), str(report)


def test_refusing_everything_is_not_conformance():
    report = device_conformance(RefusesEverything, only=["values.*"])
    assert [r.name for r in report.failed] == ["claims"]


def test_report_is_readable():
    report = device_conformance("qhybrid.statevector", only=["values.state", "gates.channels"])
    text = str(report).splitlines()
    assert text[0] == "Conformance of qhybrid.statevector: 1 passed, 0 failed, 1 not claimed"
    assert text[1].startswith("passed      values.state ")
    assert text[2].startswith("not claimed gates.channels ")
    assert "AmplitudeDamping" in text[3]
    assert report["values.state"].status is Status.PASSED
    with pytest.raises(KeyError, match="did not run"):
        report["values.variances"]


def test_skipped_checks_stand_in_the_report():
    report = device_conformance("qhybrid.statevector", only=["seeds.*"], skip={"seeds.sa*": "slow on Mondays"})
    assert report["seeds.same"].status is Status.NOT_CLAIMED
    assert report["seeds.same"].detail == "skipped: slow on Mondays"
    assert {r.name for r in report.passed} == {"seeds.others", "seeds.calls"}


def test_unknown_pattern_is_refused():
    with pytest.raises(ValueError, match=r"No conformance check matches 'value.\*'.*values.rotation"):
        device_conformance("qhybrid.statevector", only=["value.*"])


def test_unknown_device_is_refused():
    with pytest.raises(DeviceError, match=r"There is no device 'qhybrid\.statevectr'"):
        device_conformance("qhybrid.statevectr")


def test_device_without_seed_does_not_claim_seeds():
    def make(wires):
        return qhybrid.device("qhybrid.statevector", wires=wires)

    report = device_conformance(make, only=["seeds.same", "shots.samples"])
    assert report["seeds.same"].status is Status.NOT_CLAIMED
    assert "seed" in report["seeds.same"].detail
    assert report["shots.samples"].status is Status.PASSED


def test_device_that_needs_shots_is_checked_through_them():
    class Sampler(StateVectorDevice):
        has_vjp = False

        def make_executable(self, program):
            executable = super().make_executable(program)

            def run(slots):
                raise DeviceError("this device needs shots")

            executable.run = run
            executable.run_with_residual = run
            return executable

    report = device_conformance(Sampler, only=["values.*", "gates.several_wires", "gradients.*", "batches.*"])
    report.raise_if_failed()
    assert {"values.pauli_words", "gates.several_wires", "gradients.from_shots"} <= {r.name for r in report.passed}
    assert "no exact results" in report["gradients.parameter_shift"].detail


def test_a_number_from_nan_is_found():
    """The core refuses NaN before a device sees it, so the check is tried on a QNode of its own."""

    class Subject:
        def node(self, function, wires):
            return lambda x: 1.0

    with pytest.raises(AssertionError, match=r"RX\(nan\) is 1\.0"):
        not_a_number(Subject())


def test_names_are_unique_and_described():
    names = [c.name for c in CHECKS]
    assert len(set(names)) == len(names)
    for check in CHECKS:
        assert check.what.endswith("."), check.name


def test_no_fallback_warnings_leave():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        device_conformance("default.qubit", only=["values.rotation"]).raise_if_failed()
