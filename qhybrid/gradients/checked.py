"""A gradient method that is compared with central differences before it is trusted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qhybrid.errors import DifferentiationError
from qhybrid.execution import Circuit, Needs, SecondOrder, Wanted
from qhybrid.gradients import arguments
from qhybrid.gradients.base import ALL, GradientMethod, count_directions, direction
from qhybrid.gradients.curves import Curve, random_curve, straight_curve
from qhybrid.gradients.finite_difference import FiniteDiff
from qhybrid.gradients.parameter_shift import ParameterShift
from qhybrid.gradients.stochastic import StochasticMethod
from qhybrid.program import Angle, Program, Slots

#: Allowed difference relative to the derivative, or to 1, besides the error of the central differences themselves.
TOLERANCE = 1e-6
#: How many times the error of the central differences, estimated from two steps, is allowed.
SAFETY = 10
#: Derivatives of each kind that are compared, for each circuit.
CALLS = 3


@dataclass(frozen=True, eq=False)
class Checked(GradientMethod):
    """Another method, whose first derivatives of each circuit are compared with central differences of exact results.

    Each comparison takes six executions of each sample, along one random direction that moves every wanted angle and
    array at once; along unitaries and states it follows curves on which they stay that. A disagreement is traced to
    the angle by differences along each. With shots, the method's rule is compared, at exact results of the same
    device. Not compared are tangents along arrays that a host gives.

    Args:
        method: what gives the derivatives
        calls: how many are compared, for each circuit

    Raises:
        DifferentiationError: the method draws random numbers, so that its single derivatives are not right
    """

    method: GradientMethod
    calls: int = CALLS
    _done: dict[Any, int] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.method, GradientMethod):
            arguments.refuse(self, "method", self.method, "give a gradient method as an object, such as Adjoint()")
        arguments.count(self, "calls", self.calls)
        if isinstance(self.method, StochasticMethod):
            raise DifferentiationError(
                f'check=True compares single derivatives, and those of diff_method="{self.method.name}" are random '
                "estimates, right in the mean only. Leave out check=True."
            )

    @property
    def name(self) -> str:  # type: ignore[override]
        """The method's."""
        return self.method.name

    @property
    def is_native(self) -> bool:  # type: ignore[override]
        """The method's."""
        return self.method.is_native

    def executions(self, program: Program, samples: int, needs: Needs = ALL) -> int:
        """The method's, without those of the comparisons."""
        return self.method.executions(program, samples, needs)

    def forward(self, circuit: Circuit, slots: Slots) -> tuple[tuple[NDArray, ...], Any]:
        """The method's."""
        return self.method.forward(circuit, slots)

    # ------------------------------------------------------------------ derivatives

    def vjp(
        self, circuit: Circuit, slots: Slots, cotangents: tuple[NDArray, ...], needs: Needs, residual: Any = None
    ) -> Slots:
        """The method's.

        Raises:
            DifferentiationError: it disagrees with central differences; says both values
        """
        found = self.method.vjp(circuit, slots, cotangents, needs, residual)
        if self._is_due("vjp", circuit, slots):
            exact = _exact(circuit, slots)
            exactly = found if exact is circuit else self.method.vjp(exact, slots, cotangents, needs)
            self._compare_cotangents(exact, slots, cotangents, needs, exactly)
        return found

    def jvp(self, circuit: Circuit, slots: Slots, tangents: Slots) -> tuple[NDArray, ...]:
        """The method's; see :meth:`vjp`."""
        found = self.method.jvp(circuit, slots, tangents)
        curve = straight_curve(slots, direction(tangents, 0)) if count_directions(tangents) else None
        if curve is not None and self._is_due("jvp", circuit, slots):
            exact = _exact(circuit, slots)
            exactly = found if exact is circuit else self.method.jvp(exact, slots, tangents)
            self._compare_tangents(exact, curve, exactly)
        return found

    def second_order(
        self,
        circuit: Circuit,
        slots: Slots,
        cotangents: tuple[NDArray, ...],
        tangents: Slots,
        cotangent_tangents: tuple[NDArray, ...] | None,
        needs: Needs,
        wanted: Wanted,
    ) -> SecondOrder:
        """The method's; see :meth:`vjp`. Its first derivatives, which are compared as well, give the reference."""
        given = (slots, cotangents, tangents, cotangent_tangents, needs, wanted)
        found = self.method.second_order(circuit, *given)
        curve = straight_curve(slots, direction(tangents, 0)) if count_directions(tangents) else None
        if curve is None or not self._is_due("second order", circuit, slots):
            return found
        exact = _exact(circuit, slots)
        exactly = found if exact is circuit else self.method.second_order(exact, *given)
        if wanted.results:
            self._compare_tangents(exact, curve, exactly.results)
        if wanted.tangents:

            def first(h: float) -> NDArray:
                pairs = zip(cotangents, cotangent_tangents or (), strict=False)
                moved = tuple(c + h * m[0] for c, m in pairs) if cotangent_tangents else cotangents
                return _flat(self.method.vjp(exact, curve.at(h), moved, needs))

            self.vjp(exact, slots, cotangents, needs)  # which are the reference, so that they are compared themselves
            self._compare("a second derivative", _flat(direction(exactly.tangents, 0)), first, curve.step)
        return found

    # ------------------------------------------------------------------ comparisons

    def _is_due(self, kind: str, circuit: Circuit, slots: Slots) -> bool:
        """Whether this derivative is one of those that are compared; counts it."""
        key = (kind, circuit.program)
        done = self._done.get(key, 0)
        if slots.batch_size == 0 or done >= self.calls:
            return False
        self._done[key] = done + 1
        return True

    def _compare_cotangents(
        self, exact: Circuit, slots: Slots, cotangents: tuple[NDArray, ...], needs: Needs, found: Slots
    ) -> None:
        curve = random_curve(exact.program, slots, needs, np.random.default_rng(0))
        got = np.array([_inner(found, curve.tangents)])

        def value(h: float) -> NDArray:
            return np.array([sum(map(_contract, cotangents, exact.run(curve.at(h))))])

        try:
            self._compare("the derivative along a direction of all angles and arrays", got, value, curve.step)
        except DifferentiationError as disagreement:
            cause = self._culprit(exact, slots, cotangents, needs, found)
            raise (cause or disagreement) from None

    def _culprit(
        self, exact: Circuit, slots: Slots, cotangents: tuple[NDArray, ...], needs: Needs, found: Slots
    ) -> DifferentiationError | None:
        """The disagreement about the angle where it is largest; ``None`` if it is about no angle."""
        other: GradientMethod = ParameterShift() if isinstance(self.method, FiniteDiff) else FiniteDiff()
        expected = other.vjp(exact, slots, cotangents, replace(needs, arrays=()))
        worst: tuple[float, Angle, float, float] | None = None
        pairs = ((False, found.shared, expected.shared), (True, found.batched, expected.batched))
        for batched, own, reference in pairs:
            if own is None or reference is None or not own.size:
                continue
            deviation = np.abs(own - reference)
            place = np.unravel_index(int(np.argmax(deviation)), deviation.shape)
            angle = Angle(int(place[0]), batched)
            size = float(deviation[place])
            if needs.wants(angle) and size > 1e-5 and (worst is None or size > worst[0]):
                worst = (size, angle, float(own[place]), float(reference[place]))
        if worst is None:
            return None
        _, angle, got, other_value = worst
        what = f"the derivative with respect to the angle of {angle_owner(exact.program, angle)}"
        return self._disagreement(what, got, other_value, other.name)

    def _compare_tangents(self, exact: Circuit, curve: Curve, found: Sequence[NDArray]) -> None:
        def values(h: float) -> NDArray:
            return np.concatenate([np.ravel(r) for r in exact.run(curve.at(h))])

        got = np.concatenate([np.ravel(f[0]) for f in found])
        self._compare("the tangent of a result", got, values, curve.step)

    def _compare(self, what: str, got: NDArray, function: Callable[[float], NDArray], step: float) -> None:
        """Compare with the slope at 0 of a function; two steps tell how well it is known."""
        near, middle, far = ((function(h) - function(-h)) / (2 * h) for h in (step, 2 * step, 4 * step))
        slope, coarse = (4 * near - middle) / 3, (4 * middle - far) / 3
        allowed = TOLERANCE * max(1.0, np.abs(slope).max(initial=0)) + SAFETY * np.abs(slope - coarse).max(initial=0)
        deviation = np.abs(got - slope)
        if not deviation.max(initial=0) <= allowed:
            worst = int(np.argmax(np.nan_to_num(deviation, nan=np.inf)))
            raise self._disagreement(what, got[worst], slope[worst], "central differences")

    def _disagreement(self, what: str, got: Any, expected: Any, other: str) -> DifferentiationError:
        return DifferentiationError(
            f'check=True: diff_method="{self.name}" and {other} disagree about {what}: {got:.10g} and {expected:.10g}. '
            "At least one of them is wrong for this circuit on this device; qhybrid.testing.check_gradients compares "
            "all methods."
        )


def angle_owner(program: Program, angle: Angle) -> str:
    """What reads an angle first, in words."""
    for gate in program.gates:
        if angle in gate.angles:
            return f"{gate.name} on wires {list(gate.wires)}"
    return "a coefficient of an observable"


def _exact(circuit: Circuit, slots: Slots) -> Circuit:
    """The circuit without shots.

    Raises:
        DifferentiationError: its device gives no exact results
    """
    if circuit.shots is None:
        return circuit
    exact = replace(circuit, shots=None)
    try:
        exact.run(slots)
    except Exception as cause:  # devices say so with errors of many classes
        raise DifferentiationError(
            f"check=True compares derivatives of exact results, and this device gives none: {cause} Check the circuit "
            "on a simulator, and leave out check=True here."
        ) from cause
    return exact


def _flat(slots: Slots) -> NDArray:
    """All entries that are there, real and imaginary parts apart."""
    parts = [np.ravel(p) for p in (slots.shared, slots.batched, *slots.arrays) if p is not None]
    return np.concatenate([np.empty(0), *(x for p in parts for x in (p.real, p.imag))])


def _inner(cotangents: Slots, tangents: Slots) -> float:
    pairs = zip(
        (cotangents.shared, cotangents.batched, *cotangents.arrays),
        (tangents.shared, tangents.batched, *tangents.arrays),
        strict=True,
    )
    return sum(_contract(c, t) for c, t in pairs if c is not None and t is not None)


def _contract(cotangent: NDArray, tangent: NDArray) -> float:
    return float(np.vdot(cotangent, tangent).real)
