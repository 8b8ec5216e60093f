"""The device under test, what it claims, and how its results are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pennylane as qml
from pennylane.exceptions import DeviceError as PennyLaneDeviceError
from pennylane.exceptions import QuantumFunctionError

from qhybrid.capabilities import capabilities_of
from qhybrid.errors import CircuitError, DeviceError, DifferentiationError
from qhybrid.qnode import QNode

#: How a device says that it does not do something; any other error is a failure.
REFUSALS = (DeviceError, PennyLaneDeviceError, DifferentiationError, QuantumFunctionError, NotImplementedError)
#: Allowed deviation from the mean, in standard deviations.
SIGMAS = 5
#: Allowed error of exact results by precision of the state.
TOLERANCES = {np.dtype(np.complex64): 2e-5, np.dtype(np.complex128): 1e-8}
#: An upper bound of what the observables of the checks can deviate by in one shot.
SPREAD = 4.0


class NotClaimed(Exception):  # noqa: N818 - not an error: it ends a check
    """The device does not offer what the check is about; the message says why."""


class Refused(NotClaimed):
    """The device refused; a failure if it declares what it refused."""


@dataclass(frozen=True)
class Check:
    """A named check.

    Args:
        name: ``"group.check"``
        run: takes the subject; returns a note for the report or ``None``; raises ``AssertionError`` if the device is
            wrong and :class:`NotClaimed`, or lets the device's refusal through, if it does not offer this
        claim: the measurement, in the device's declared capabilities, that makes a refusal a failure
    """

    name: str
    run: Callable[[Subject], str | None]
    claim: str = ""

    @property
    def what(self) -> str:
        """What the check demands: the first line of its function's docstring."""
        return (self.run.__doc__ or "").strip().splitlines()[0]


def table(group: str, *functions: Callable[[Subject], str | None], **claims: str) -> tuple[Check, ...]:
    """The checks of one group, named after their functions.

    Args:
        group: first part of their names
        functions: the checks
        claims: :attr:`Check.claim` by function name
    """
    return tuple(Check(f"{group}.{f.__name__}", f, claims.get(f.__name__, "")) for f in functions)


@dataclass(frozen=True)
class Subject:
    """A device under test.

    Args:
        make: called with keywords, ``make(wires=...)`` or ``make(wires=..., seed=...)``
        tolerance: allowed error of exact results
        shots: of sampled results
        seed: of the devices and of the inputs
    """

    make: Callable[..., Any]
    tolerance: float
    shots: int
    seed: int

    # ------------------------------------------------------------------ devices and nodes

    def device(self, wires: Any = 3) -> Any:
        """A device, seeded if it can be."""
        if self.unseeded is None:
            return self.make(wires=wires, seed=self.seed)
        return self.make(wires=wires)

    def seeded(self, seed: int, wires: Any = 3) -> Any:
        """A device with ``seed``.

        Raises:
            NotClaimed: it takes none
        """
        if self.unseeded is not None:
            raise NotClaimed(self.unseeded)
        return self.make(wires=wires, seed=seed)

    @cached_property
    def unseeded(self) -> str | None:
        """Why the device takes no seed; ``None`` if it does."""
        try:
            self.make(wires=1, seed=self.seed)
        except TypeError as refusal:
            return f"it takes no seed: {refusal}"
        return None

    def node(self, function: Callable, wires: Any = 3, shots: Any = None, device: Any = None, **settings: Any) -> QNode:
        """A qhybrid QNode on the device; with shots also where it gives no exact results."""
        node = QNode(function, self.device(wires) if device is None else device, **settings)
        shots = self.shots if shots is None and not self.exact else shots
        return node if shots is None else qml.set_shots(node, shots=shots)

    @property
    def inputs(self) -> np.random.Generator:
        """Random inputs, the same for every check."""
        return np.random.default_rng(self.seed)

    # ------------------------------------------------------------------ capabilities

    @cached_property
    def exact(self) -> bool:
        """Whether the device gives exact results: it does unless it asks for shots."""
        node = QNode(_one_gate, self.make(wires=1))
        try:
            node()
        except REFUSALS as refusal:
            return "shots" not in str(refusal)
        return True

    @cached_property
    def refusals(self) -> tuple[type[Exception], ...]:
        """The errors that are refusals; without exact results also what the core itself says cannot be sampled."""
        return REFUSALS if self.exact else (*REFUSALS, CircuitError)

    @cached_property
    def claims(self) -> frozenset[str]:
        """Operations, observables and measurements that the device's own capabilities list."""
        capabilities = self.make(wires=1).capabilities
        if capabilities is None:
            return frozenset()
        return frozenset({*capabilities.operations, *capabilities.observables, *capabilities.measurement_processes})

    @cached_property
    def derivatives(self) -> tuple[str, ...]:
        """The exact derivatives of its own that the device says it has, as ``diff_method`` takes them."""
        return tuple(m for m in capabilities_of(self.make(wires=1)).derivatives if m != "device")

    def needs_compiled(self, node: QNode, *args: Any) -> None:
        """Nothing if the QNode compiles circuits for this device.

        Raises:
            NotClaimed: it runs through PennyLane's own path, whose limits are not the device's
        """
        explanation = node.explain(*args)
        if explanation.path == "pennylane":
            raise NotClaimed(f"this is PennyLane's path, not the device's: {explanation.reason}")

    # ------------------------------------------------------------------ comparing

    def close(self, got: Any, expected: Any, factor: float = 1.0) -> None:
        """Compare results: exact ones to the tolerance times ``factor``, sampled ones to the noise of the shots.

        Raises:
            AssertionError: they differ; says by how much
        """
        tolerance = self.tolerance * factor if self.exact else SIGMAS * SPREAD / self.shots**0.5
        compare(got, expected, tolerance)

    def agrees(
        self, function: Callable, *args: Any, wires: Any = 3, reference: str = "default.qubit", state: bool = False
    ) -> None:
        """Compare a circuit with PennyLane's ``reference`` device.

        Args:
            function: the circuit
            args: its arguments
            wires: of both devices
            reference: name of a device
            state: whether the circuit returns a state, which may be a vector or a density matrix
        """
        expected = qml.QNode(function, qml.device(reference, wires=wires))(*args)
        got = self.node(function, wires)(*args)
        if state and np.ndim(got) > np.ndim(expected):
            expected = np.outer(expected, np.conj(expected))
        self.close(got, expected)

    def each(self, cases: Mapping[str, Any], test: Callable[[Any], None], required: bool = False) -> str | None:
        """Run ``test`` on every case; a refused case fails only if the device claims it.

        Args:
            cases: by name
            test: takes a case
            required: whether the device claims all of them; else those claimed that its capabilities list

        Returns:
            a note that names what was refused

        Raises:
            AssertionError: some cases are wrong; names them
            Refused: every case was refused
        """
        wrong: dict[str, str] = {}
        refused: dict[str, str] = {}
        for name, case in cases.items():
            try:
                test(case)
            except self.refusals as refusal:
                claimed = required or name in self.claims
                (wrong if claimed else refused)[name] = described(refusal)
            except Exception as error:  # noqa: BLE001 - whatever a device raises is a finding
                wrong[name] = described(error)
        if wrong:
            raise AssertionError("\n".join(f"{name}: {why}" for name, why in wrong.items()))
        if len(refused) == len(cases):
            raise Refused(f"refuses {', '.join(refused)}: {next(iter(refused.values()))}")
        return "\n".join(f"refuses {name}: {why}" for name, why in refused.items()) or None


def _one_gate() -> Any:
    qml.X(0)
    return qml.expval(qml.Z(0))


def compare(got: Any, expected: Any, tolerance: float) -> None:
    """Compare nested results.

    Raises:
        AssertionError: shapes differ, or values by more than ``tolerance``; says by how much
    """
    if isinstance(expected, Sequence):
        assert isinstance(got, Sequence), f"{type(got).__name__} in place of {len(expected)} results"
        assert len(got) == len(expected), f"{len(got)} results in place of {len(expected)}"
        for one, other in zip(got, expected, strict=True):
            compare(one, other, tolerance)
        return
    one, other = np.asarray(qml.math.toarray(got)), np.asarray(qml.math.toarray(expected))
    assert one.shape == other.shape, f"a result of shape {one.shape} in place of {other.shape}"
    if one.size:
        deviation = np.abs(one - other).max()
        at = np.unravel_index(np.argmax(np.abs(one - other)), one.shape)
        assert deviation <= tolerance, (
            f"{one[at]:.10g} in place of {other[at]:.10g}, {deviation:.2g} off; {tolerance:.2g} is allowed"
        )


def within(got: Any, mean: Any, sigma: Any, shots: int) -> None:
    """Compare an estimate from shots with its mean and standard deviation.

    Raises:
        AssertionError: it is further away than :data:`SIGMAS` allow
    """
    got, mean = np.asarray(got, dtype=float), np.asarray(mean, dtype=float)
    assert got.shape == mean.shape, f"an estimate of shape {got.shape} in place of {mean.shape}"
    allowed = SIGMAS * (np.asarray(sigma) + 1 / shots)
    worst = np.argmax(np.abs(got - mean) - allowed)
    assert (np.abs(got - mean) <= allowed).all(), (
        f"{got.flat[worst]:.6g} from {shots} shots in place of {mean.flat[worst]:.6g}, "
        f"more than {SIGMAS} standard deviations off"
    )


def raises(call: Callable[[], Any], *mentions: str) -> None:
    """Check that ``call`` raises an error that says what it should.

    Args:
        call: what must fail
        mentions: of which the message must contain at least one

    Raises:
        AssertionError: no error, or one that mentions none of these
    """
    try:
        result = call()
    except Exception as error:  # of any class, if it says what is wrong
        if mentions and not any(m in str(error) for m in mentions):
            raise AssertionError(f"the error does not mention {' or '.join(mentions)}: {described(error)}") from error
        return
    raise AssertionError(f"no error; the result is {result!r}")


def described(error: BaseException) -> str:
    """An error in one line, with its class unless it is the verdict of a check."""
    line = _first_line(error)
    return line if type(error) is AssertionError else f"{type(error).__name__}: {line}"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
