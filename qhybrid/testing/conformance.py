"""Conformance: whether a device does what it claims."""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from qhybrid.catalogue import device as load_device
from qhybrid.errors import FallbackWarning
from qhybrid.testing.checks import CHECKS
from qhybrid.testing.report import Report, Row, Status
from qhybrid.testing.subject import TOLERANCES, Check, NotClaimed, Refused, Subject, described


def device_conformance(
    device: str | Callable[..., Any],
    *,
    shots: int = 10_000,
    tolerance: float | None = None,
    seed: int = 42,
    only: Iterable[str] = ("*",),
    skip: Mapping[str, str] | None = None,
) -> Report:
    """Check a device against ``default.qubit``, ``default.mixed`` and closed forms, as a QNode of qhybrid uses it.

    What a device offers is read from the device: ``has_vjp``, PennyLane's ``capabilities`` and
    ``supports_derivatives``, whether its constructor takes a ``seed``, and what it refuses. A refusal is an error of
    the classes ``DeviceError`` (PennyLane's or qhybrid's), ``DifferentiationError``, ``QuantumFunctionError`` or
    ``NotImplementedError``; it counts as *not claimed*, with the device's words, unless the device declares the very
    thing that it refuses. A device that refuses everything fails.

    Args:
        device: name of an installed device, or what makes one: a class or function that is called with keywords,
            ``device(wires=3)`` or ``device(wires=3, seed=7)``
        shots: of sampled results, which must lie within 5 standard deviations
        tolerance: allowed error of exact results; by default that of the device's ``c_dtype``, double precision if
            it has none. Gradients may be off by ten times as much
        seed: of the device and of all inputs
        only: patterns of the checks to run, such as ``"gradients.*"``
        skip: checks to leave out, pattern to reason; they stand in the report as not claimed

    Returns:
        the report; print it, or call ``raise_if_failed()``

    Raises:
        DeviceError: no device of this name is installed
        ValueError: a pattern of ``only`` or ``skip`` matches no check

    Example:
        >>> from qhybrid.testing import device_conformance
        >>> report = device_conformance("qhybrid.statevector", only=["values.*"])
        >>> report.raise_if_failed()
        >>> print(report["values.variances"])
        passed      values.variances                         Variances are right.
    """
    make = functools.partial(load_device, device) if isinstance(device, str) else device
    skip = dict(skip or {})
    only = tuple(only)
    _check_patterns((*only, *skip))
    sample = make(wires=1)
    if tolerance is None:
        tolerance = TOLERANCES[np.dtype(getattr(sample, "c_dtype", np.complex128))]
    subject = Subject(make, tolerance, shots, seed)
    chosen = [c for c in CHECKS if any(fnmatchcase(c.name, pattern) for pattern in only)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        rows = [_row(check, subject, skip) for check in chosen]
    return Report(sample.name, (*rows, *_nothing_at_all(rows)))


def _row(check: Check, subject: Subject, skip: Mapping[str, str]) -> Row:
    for pattern, why in skip.items():
        if fnmatchcase(check.name, pattern):
            return Row(check.name, check.what, Status.NOT_CLAIMED, f"skipped: {why}")
    return _run(check, subject)


def _run(check: Check, subject: Subject) -> Row:
    start = time.perf_counter()
    refusals: tuple[type[Exception], ...] = (Refused, *subject.refusals)
    try:
        status, detail = Status.PASSED, check.run(subject) or ""
    except refusals as refusal:
        declared = check.claim in subject.claims
        status = Status.FAILED if declared else Status.NOT_CLAIMED
        words = str(refusal) if isinstance(refusal, Refused) else described(refusal)
        detail = f"its capabilities list {check.claim}, but it {words}" if declared else words
    except NotClaimed as reason:
        status, detail = Status.NOT_CLAIMED, str(reason)
    except Exception as error:  # noqa: BLE001 - whatever a device raises is a finding
        status, detail = Status.FAILED, str(error) if type(error) is AssertionError else described(error)
    return Row(check.name, check.what, status, detail, time.perf_counter() - start)


def _nothing_at_all(rows: list[Row]) -> list[Row]:
    """A failure if the device never gave a right value, so that refusing everything is not conformance."""
    if any(r.status is not Status.NOT_CLAIMED for r in rows):
        return []
    return [Row("claims", "The device does something.", Status.FAILED, "every check was refused or skipped")]


def _check_patterns(patterns: Iterable[str]) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(check.name, pattern) for check in CHECKS):
            known = ", ".join(check.name for check in CHECKS)
            raise ValueError(f"No conformance check matches {pattern!r}. The checks are: {known}.")
