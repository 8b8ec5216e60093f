"""What a conformance run found: one row a check."""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass


class Status(enum.Enum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "FAILED"
    NOT_CLAIMED = "not claimed"


class ConformanceError(AssertionError):
    """A device fails checks; the message is the table of those that failed."""


@dataclass(frozen=True)
class Row:
    """One check of one device.

    Args:
        name: ``"group.check"``, what ``skip`` and ``only`` of :func:`~qhybrid.testing.device_conformance` match
        what: what the check demands, one sentence
        status: how it ended
        detail: what went wrong, why it is not claimed, or what a check that passed had to leave out
        seconds: how long it took
    """

    name: str
    what: str
    status: Status
    detail: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        detail = "\n".join(f"{'':4}{line}" for line in self.detail.splitlines())
        return f"{self.status.value:<12}{self.name:<41}{self.what}" + (f"\n{detail}" if detail else "")


@dataclass(frozen=True)
class Report:
    """The result of :func:`~qhybrid.testing.device_conformance`; printing it gives a table.

    Args:
        device: name of the device
        rows: one for each check, in the order in which they ran

    Example:
        >>> rows = (Row("values.state", "The state is right.", Status.NOT_CLAIMED, "it has none"),)
        >>> print(Report("a.device", rows))
        Conformance of a.device: 0 passed, 0 failed, 1 not claimed
        not claimed values.state                             The state is right.
            it has none
    """

    device: str
    rows: tuple[Row, ...]

    def __getitem__(self, name: str) -> Row:
        """The row of the check ``name``.

        Raises:
            KeyError: no such check ran
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"{name!r} did not run; those that did: {', '.join(r.name for r in self.rows)}.")

    def with_status(self, status: Status) -> tuple[Row, ...]:
        """The rows that ended with ``status``."""
        return tuple(r for r in self.rows if r.status is status)

    @property
    def passed(self) -> tuple[Row, ...]:
        """The rows that passed."""
        return self.with_status(Status.PASSED)

    @property
    def failed(self) -> tuple[Row, ...]:
        """The rows that failed."""
        return self.with_status(Status.FAILED)

    @property
    def not_claimed(self) -> tuple[Row, ...]:
        """The rows of what the device does not offer, each with the reason."""
        return self.with_status(Status.NOT_CLAIMED)

    def raise_if_failed(self) -> None:
        """Nothing if every check passed or is not claimed.

        Raises:
            ConformanceError: a check failed; the message lists all that did
        """
        if self.failed:
            lines = [f"{self.device} fails {len(self.failed)} of {len(self.rows)} checks:", *map(str, self.failed)]
            raise ConformanceError("\n".join(lines))

    def __str__(self) -> str:
        count = Counter(r.status for r in self.rows)
        words = ", ".join(f"{count[s]} {s.value.lower()}" for s in Status)
        return "\n".join([f"Conformance of {self.device}: {words}", *map(str, self.rows)])
