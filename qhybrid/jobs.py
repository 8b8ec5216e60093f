"""Jobs: circuits sent to a device in pieces, with retries, a budget and progress; no result lost, none taken twice."""

from __future__ import annotations

import math
import operator
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeAlias

from qhybrid.errors import BudgetError, DeviceError, JobError, QHybridError, TransientError

#: Sends circuits, each with its number, to a device; gives ``(number, result)`` pairs in any order, as they arrive.
Submit: TypeAlias = Callable[[Sequence[tuple[int, Any]]], Iterable[tuple[int, Any]]]

#: Seconds that a call takes before it shows a bar nobody asked for.
PATIENCE = 2.0
#: Errors that are worth another attempt wherever they come from.
TRANSIENT = (TransientError, ConnectionError, TimeoutError)
#: In place of the number of a circuit, for an error that none of them is known to have caused.
WHOLE_JOB = object()


@dataclass(frozen=True)
class JobPolicy:
    """How circuits are sent to a device, and how many at most.

    Args:
        max_circuits: circuits over the life of the device, ``None`` for no limit
        max_shots: shots over the life of the device, ``None`` for no limit
        circuits_per_job: circuits handed over at once, ``None`` for all of a call
        retries: how often missing results are asked for again, counted anew whenever one arrives
        backoff: seconds before the first retry; each further one in a row waits twice as long
        progress: whether calls show a bar; ``None``: those of more than two seconds do, on a terminal

    Raises:
        DeviceError: one of these is out of range

    Example:
        >>> JobPolicy(max_shots=1_000_000, circuits_per_job=100).retries
        3
        >>> JobPolicy(circuits_per_job=0)
        Traceback (most recent call last):
        qhybrid.errors.DeviceError: circuits_per_job is 0; it must be a whole number of at least 1, or None.
    """

    max_circuits: int | None = None
    max_shots: int | None = None
    circuits_per_job: int | None = None
    retries: int = 3
    backoff: float = 1.0
    progress: bool | None = None

    def __post_init__(self) -> None:
        for name, least, optional in (
            ("max_circuits", 0, True), ("max_shots", 0, True), ("circuits_per_job", 1, True), ("retries", 0, False)
        ):  # fmt: skip
            value = getattr(self, name)
            if not (_is_whole(value, least) or (optional and value is None)):
                none = ", or None" if optional else ""
                raise DeviceError(f"{name} is {value!r}; it must be a whole number of at least {least}{none}.")
        seconds = self.backoff
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
            raise DeviceError(f"backoff is {seconds!r}; it must be a finite number of seconds, 0 or more.")
        if self.progress is not None and not isinstance(self.progress, bool):
            raise DeviceError(f"progress is {self.progress!r}; it must be True, False or None.")


def _is_whole(value: Any, least: int) -> bool:
    try:
        return not isinstance(value, bool) and operator.index(value) >= least
    except TypeError:
        return False


@dataclass(frozen=True)
class Usage:
    """What a device has been sent, and what its budget still allows.

    Args:
        circuits, shots: sent so far; see :class:`Jobs` for what counts
        circuits_left, shots_left: what a call may still need, ``None`` without a limit
    """

    circuits: int = 0
    shots: int = 0
    circuits_left: int | None = None
    shots_left: int | None = None

    def __str__(self) -> str:
        left = {"circuits": self.circuits_left, "shots": self.shots_left}
        limits = [f"{number} {what}" for what, number in left.items() if number is not None]
        return f"{self.circuits} circuits and {self.shots} shots used, {' and '.join(limits) or 'no limit'} left"


class Jobs:
    """Runs circuits on one device by a policy, and counts them over the life of the device.

    What counts: a circuit, and its shots, each time it is handed to the device. A circuit whose result is lost and
    that is handed over again counts again, because the device may have run it, and may bill it. A circuit that is never
    handed over, since an error or Ctrl-C came first, does not count. A result that arrives twice counts once.

    May be used from several threads: what one call will need is set aside for it before it starts. Pickles and copies
    keep the policy and the counts.

    Args:
        policy: limits, retries, progress; may be set at any time, for the calls that follow
        is_transient: whether an error is worth another attempt, besides :class:`~qhybrid.errors.TransientError`,
            ``ConnectionError`` and ``TimeoutError``; to be picklable it must be a function of a module

    Example:
        >>> jobs = Jobs(JobPolicy(max_circuits=5, circuits_per_job=2))
        >>> jobs.run(lambda batch: [(i, circuit.upper()) for i, circuit in reversed(batch)], ["a", "b", "c"], shots=10)
        ['A', 'B', 'C']
        >>> print(jobs.usage)
        3 circuits and 30 shots used, 2 circuits left
    """

    def __init__(
        self, policy: JobPolicy | None = None, is_transient: Callable[[Exception], bool] | None = None
    ) -> None:
        self.policy = policy or JobPolicy()
        self._is_transient = is_transient
        self._budget = _Budget()

    @property
    def usage(self) -> Usage:
        """Circuits and shots used, and those left; what calls under way have set aside is not left."""
        return self._budget.usage(self.policy)

    def run(
        self, submit: Submit, circuits: Sequence[Any], shots: int | None = None, at_most: int | None = None
    ) -> list[Any]:
        """The result of each circuit, in the order of the circuits.

        ``submit(batch)`` gets numbered circuits, ``[(number, circuit), ...]``, and gives ``(number, result)`` pairs in
        any order as they arrive. What arrived before it ends or raises is kept, and what is missing is submitted again.
        It gives an exception in place of a result to say which circuit failed. Numbers mean something within one call
        only, so results of an earlier call must not come out of ``submit``. Once all results of a batch are there,
        or when the call is given up, also by Ctrl-C, ``close()`` is called on the iterator if it has one, and so runs
        the ``finally`` of a generator: the place to cancel a job that is not done. For results that do not depend on
        faults, a circuit with shots carries its own seed.

        Args:
            submit: sends a batch to the device
            circuits: anything that ``submit`` understands
            shots: of each circuit, ``None`` for exact results
            at_most: circuits that the device takes at once, whatever the policy says; ``None`` for no limit

        Raises:
            BudgetError: the call, or a retry, would exceed the budget; it was not submitted
            JobError: a permanent error, raised at once, or no result in any attempt; says which circuits
        """
        policy = self.policy
        call = _Call(circuits, shots or 0)
        bar = _Progress(policy.progress, len(circuits), call.shots)
        size = min(policy.circuits_per_job or len(circuits), at_most or len(circuits))
        failures = 0  # in a row, without a result between them
        try:
            self._budget.set_aside(call, len(circuits), policy)
            while call.missing:
                batch = [(i, circuits[i]) for i in islice(call.missing, size)]
                self._budget.spend(call, len(batch))
                before = len(call.results)
                fault = self._collect(submit, batch, call, bar)
                failures = 0 if len(call.results) > before else failures
                lost = [i for i, _ in batch if i in call.missing]
                if lost:
                    if failures == policy.retries:
                        raise _given_up(lost, failures + 1, fault) from fault
                    self._budget.set_aside(call, len(lost), policy, fault)
                    time.sleep(policy.backoff * 2**failures)
                    failures += 1
        finally:
            self._budget.give_back(call)
            bar.close()
        return [call.results[i] for i in range(len(circuits))]

    def _collect(self, submit: Submit, batch: list[tuple[int, Any]], call: _Call, bar: _Progress) -> Exception | None:
        """Submit a batch and keep what arrives; the last transient error, if there was one."""
        awaited = {i for i, _ in batch}
        call.sent |= awaited
        fault: Exception | None = None
        with closing(_arrivals(submit, batch)) as arrivals:
            for index, result in arrivals:
                if index is not WHOLE_JOB and call.has(index):
                    continue  # the second copy of a result
                if not isinstance(result, Exception):
                    call.keep(index, result)
                    bar.advance()
                    awaited.discard(index)
                elif self._deserves_retry(result):
                    fault = result
                else:
                    raise _failed(sorted(awaited) if index is WHOLE_JOB else [index], result)
                if not awaited:
                    break
        return fault

    def _deserves_retry(self, error: Exception) -> bool:
        return isinstance(error, TRANSIENT) or (self._is_transient is not None and self._is_transient(error))


# ------------------------------------------------------------------ one call


@dataclass(eq=False)
class _Call:
    """What one call knows of its circuits.

    Args:
        circuits: all of them
        shots: of each
        results: those that arrived
        sent: numbers of those handed over at least once
        missing: numbers of those without a result, in order
        set_aside: circuits that the budget keeps for this call
    """

    circuits: Sequence[Any]
    shots: int
    results: dict[int, Any] = field(default_factory=dict)
    sent: set[int] = field(default_factory=set)
    missing: dict[int, None] = field(default_factory=dict)
    set_aside: int = 0

    def __post_init__(self) -> None:
        self.missing = dict.fromkeys(range(len(self.circuits)))

    def has(self, index: Any) -> bool:
        """Whether a circuit that was submitted already has its result; refuses any other number."""
        if index not in self.sent:
            raise JobError(f"A result came for circuit {index!r}, which was not submitted.", ())
        return index in self.results

    def keep(self, index: int, result: Any) -> None:
        """Keep the first result of a circuit."""
        self.results[index] = result
        del self.missing[index]


def _arrivals(submit: Submit, batch: list[tuple[int, Any]]) -> Generator[tuple[Any, Any], None, None]:
    """What ``submit`` gives; an error that it raises comes last, as the result of the whole job."""
    stream: Any = None
    try:
        stream = iter(submit(batch))
        for index, result in stream:  # noqa: UP028 - what is no pair is an error here, not in the caller
            yield index, result
    except Exception as error:  # noqa: BLE001 - the caller tells those that deserve a retry from all others
        yield WHOLE_JOB, error
    finally:
        _close(stream)


def _close(stream: Any) -> None:
    close = getattr(stream, "close", None)
    if close is not None:
        try:
            close()
        except Exception as error:  # noqa: BLE001 - must not replace the results, or the interrupt, on its way out
            warnings.warn(f"A job could not be closed: {error!r}", RuntimeWarning, stacklevel=2)


def _failed(indices: Sequence[int], error: Exception) -> Exception:
    """A permanent error, with the circuits that it is about."""
    if isinstance(error, QHybridError) and not isinstance(
        error, DeviceError
    ):  # the circuit's fault: it keeps its class
        error.add_note(f"It comes from {_named(indices)} of the call.")
        return error
    failed = JobError(f"{_named(indices).capitalize()} of the call failed: {error or type(error).__name__}", indices)
    failed.__cause__ = error
    return failed


def _given_up(indices: Sequence[int], attempts: int, fault: Exception | None) -> JobError:
    why = "no result arrived, and no error" if fault is None else f"{type(fault).__name__}: {fault}"
    times = "1 attempt" if attempts == 1 else f"{attempts} attempts in a row"
    return JobError(
        f"{_named(indices).capitalize()} of the call gave no result in {times} ({why}). "
        "JobPolicy(retries=..., backoff=...) sets how often and how patiently it is tried.",
        indices,
    )


def _named(indices: Sequence[int]) -> str:
    """``circuit 3``, or ``one of the circuits 3, 4, 7``; counted from 0."""
    if len(indices) == 1:
        return f"circuit {indices[0]}"
    shown = ", ".join(map(str, indices[:5]))
    return f"one of the circuits {shown}" + (f" and {len(indices) - 5} more" if len(indices) > 5 else "")


# ------------------------------------------------------------------ the budget


class _Budget:
    """What was used over the life of a device, and what the calls under way have set aside.

    Each change is one assignment after all checks, so that an interrupt leaves it done or not done.
    """

    def __init__(self) -> None:
        self._used = (0, 0)  # circuits, shots
        self._calls: set[_Call] = set()
        self._lock = threading.Lock()

    def __getstate__(self) -> tuple[int, int]:
        return self._used

    def __setstate__(self, used: tuple[int, int]) -> None:
        self.__init__()  # type: ignore[misc]
        self._used = used

    def set_aside(self, call: _Call, circuits: int, policy: JobPolicy, fault: Exception | None = None) -> None:
        """Keep a number of circuits for a call, ``fault`` being why it needs them, or refuse."""
        with self._lock:
            self._check("circuits", policy.max_circuits, 0, circuits, fault)
            self._check("shots", policy.max_shots, 1, circuits * call.shots, fault)
            self._calls.add(call)
            call.set_aside += circuits

    def spend(self, call: _Call, circuits: int) -> None:
        """Circuits of those set aside are handed over now."""
        with self._lock:
            self._used = (self._used[0] + circuits, self._used[1] + circuits * call.shots)
            call.set_aside -= circuits

    def give_back(self, call: _Call) -> None:
        """The call is over; what it has not spent is free again."""
        with self._lock:
            self._calls.discard(call)

    def usage(self, policy: JobPolicy) -> Usage:
        """What was used and what is left."""
        with self._lock:
            limits = (policy.max_circuits, policy.max_shots)
            left = (None if m is None else max(0, m - self._taken(k)) for k, m in enumerate(limits))
            return Usage(*self._used, *left)

    def _taken(self, kind: int) -> int:
        """Circuits (kind 0) or shots (kind 1) used or set aside."""
        return self._used[kind] + sum(c.set_aside * (c.shots if kind else 1) for c in self._calls)

    def _check(self, what: str, limit: int | None, kind: int, needed: int, fault: Exception | None) -> None:
        taken = self._taken(kind)
        if limit is None or taken + needed <= limit:
            return
        used = self._used[kind]
        others = f" and {taken - used} set aside by calls under way" if taken > used else ""
        what_for = "this call needs" if fault is None else "submitting what was lost again needs"
        raise BudgetError(
            f"{used} {what} were used{others}, {what_for} {needed}, and the limit is max_{what}={limit}. "
            "Nothing was submitted beyond it; qhybrid.set_jobs(device, policy) sets another limit."
        ) from fault


# ------------------------------------------------------------------ progress


class _Progress:
    """A bar with the circuits and shots done, for a call that takes long or whose policy asks for one."""

    def __init__(self, wanted: bool | None, circuits: int, shots: int) -> None:
        self._wanted = wanted is True or (wanted is None and sys.stderr is not None and sys.stderr.isatty())
        self._from = time.monotonic() + (0.0 if wanted else PATIENCE)
        self._circuits, self._shots = circuits, shots
        self._done = 0
        self._bar: Any = None

    def advance(self) -> None:
        """One more circuit is done."""
        self._done += 1
        if not self._wanted or (self._bar is None and time.monotonic() < self._from):
            return
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=self._circuits, unit=" circuits", dynamic_ncols=True)
        if self._shots:
            done, total = self._done * self._shots, self._circuits * self._shots
            self._bar.set_postfix_str(f"{done}/{total} shots", refresh=False)
        self._bar.update(self._done - self._bar.n)

    def close(self) -> None:
        """The call is over."""
        if self._bar is not None:
            self._bar.close()


# ------------------------------------------------------------------ the jobs of a device

#: Jobs of objects that take no attributes, by their identity, as long as they live.
_ELSEWHERE: dict[int, Jobs] = {}
_ATTRIBUTE = "_qhybrid_jobs"
_LOCK = threading.Lock()


def jobs_of(device: Any) -> Jobs:
    """The jobs of a device, which keep its policy and count what it was sent; made when first asked for.

    Args:
        device: any object, most often a PennyLane device

    Raises:
        DeviceError: the object takes neither attributes nor weak references
    """
    with _LOCK:
        jobs = getattr(device, _ATTRIBUTE, None) or _ELSEWHERE.get(id(device))
        if not isinstance(jobs, Jobs):
            jobs = Jobs()
            _attach(device, jobs)
    return jobs


def attach_jobs(device: Any, jobs: Jobs) -> None:
    """Give a device jobs of its own making, for example with a predicate for its own transient errors."""
    with _LOCK:
        _attach(device, jobs)


def _attach(device: Any, jobs: Jobs) -> None:
    try:
        setattr(device, _ATTRIBUTE, jobs)
    except (AttributeError, TypeError):
        if id(device) not in _ELSEWHERE:
            try:
                weakref.finalize(device, _ELSEWHERE.pop, id(device), None).atexit = False
            except TypeError:
                raise DeviceError(
                    f"A {type(device).__name__} can have no job policy, as it takes neither attributes nor weak "
                    "references; wrap it in an object of an ordinary class."
                ) from None
        _ELSEWHERE[id(device)] = jobs


def set_jobs(device: Any, policy: JobPolicy) -> None:
    """Set how circuits are sent to a device from now on; what it has used so far still counts.

    Args:
        device: a PennyLane device, or one of qhybrid's that sends circuits as jobs
        policy: limits, retries, progress

    Raises:
        DeviceError: it is no device, or one that computes in this process and sends no jobs, so that no limit would
            hold

    Example:
        >>> import qhybrid as qml
        >>> dev = qml.device("lightning.qubit", wires=2)
        >>> qml.set_jobs(dev, qml.JobPolicy(max_circuits=1000))
        >>> print(qml.jobs_of(dev).usage)
        0 circuits and 0 shots used, 1000 circuits left
    """
    if not isinstance(policy, JobPolicy):
        raise DeviceError(f"A policy is a qhybrid.JobPolicy, not {policy!r}.")
    if callable(device):
        raise DeviceError(f"A policy is for a device, and {device!r} is none; a QNode has one as its attribute device.")
    if not getattr(device, "runs_jobs", True):
        raise DeviceError(
            f"{device.name} computes in this process and sends no jobs, so a job policy would mean nothing to it. "
            "Set one on a device that sends circuits elsewhere."
        )
    jobs_of(device).policy = policy
