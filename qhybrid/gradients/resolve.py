"""From the ``diff_method`` that a user gives to a gradient method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from importlib import import_module
from typing import Any

from qhybrid.errors import DifferentiationError
from qhybrid.gradients.adjoint import Adjoint
from qhybrid.gradients.base import GradientMethod
from qhybrid.gradients.parameter_shift import ParameterShift
from qhybrid.gradients.physics_aware import PhysicsAware
from qhybrid.gradients.refused import NoDerivative

#: Module and class of each method, by the names that ``diff_method`` takes; imported when asked for.
_METHODS = {
    "adjoint": ("adjoint", "Adjoint"),
    "backprop": ("adjoint", "Adjoint"),
    "device": ("adjoint", "Adjoint"),
    "parameter-shift": ("parameter_shift", "ParameterShift"),
    "finite-diff": ("finite_difference", "FiniteDiff"),
    "hadamard": ("hadamard", "Hadamard"),
    "spsa": ("spsa", "SPSA"),
}
#: Names of the device's own derivative.
NATIVE_METHODS = tuple(name for name, (module, _) in _METHODS.items() if module == "adjoint")
#: Methods that PennyLane has, too: with options that are not ours they are PennyLane's.
SHARED_METHODS = ("hadamard", "spsa")


def _method(name: str) -> type[GradientMethod]:
    module, cls = _METHODS[name]
    return getattr(import_module(f"qhybrid.gradients.{module}"), cls)


def check_method(diff_method: Any) -> None:
    """Refuse what is no gradient method on any device.

    Args:
        diff_method: as a user gives it: a name, a method, ``None``, or a gradient transform of PennyLane's (a callable)

    Raises:
        DifferentiationError: it is unknown; lists the known ones
    """
    if diff_method is None or isinstance(diff_method, GradientMethod) or callable(diff_method):
        return
    known = ("best", *_METHODS)
    if diff_method not in known:
        raise DifferentiationError(
            f"Unknown diff_method {diff_method!r}; choose one of {', '.join(map(repr, known))}, None, or an object "
            "such as qhybrid.gradients.FiniteDiff(h=1e-4)."
        )


def resolves(diff_method: Any, options: Mapping[str, Any] | None = None) -> bool:
    """Whether :func:`resolve` knows ``diff_method``; if not, it is PennyLane's.

    Args:
        diff_method: as a user gives it
        options: arguments of the method; those that only PennyLane's method of the same name has make it PennyLane's

    >>> resolves("best"), resolves("hadamard"), resolves("hadamard", {"aux_wire": 3})
    (True, True, False)
    """
    if diff_method is None or isinstance(diff_method, GradientMethod):
        return True
    if isinstance(diff_method, str) and diff_method in SHARED_METHODS:
        return set(options or {}) <= set(_options(_method(diff_method)))
    return isinstance(diff_method, str) and (diff_method == "best" or diff_method in _METHODS)


def pennylane_name(diff_method: Any) -> Any:
    """What PennyLane's own path, where a circuit has to take it, is told in place of ``diff_method``.

    >>> pennylane_name(ParameterShift()), pennylane_name(PhysicsAware())
    ('parameter-shift', None)
    """
    if not isinstance(diff_method, GradientMethod):
        return diff_method
    if isinstance(diff_method, PhysicsAware):
        return None  # PennyLane gives values only; the derivative is the twin's
    return diff_method.name if diff_method.name in _METHODS else "best"


def resolve(
    diff_method: str | GradientMethod | None,
    has_vjp: bool,
    shots: int | None,
    options: Mapping[str, Any] | None = None,
) -> tuple[GradientMethod, str]:
    """The gradient method that ``diff_method`` means, and why.

    Args:
        diff_method: ``"best"``, the name of a method, a method, or ``None`` for no derivative
        has_vjp: whether the device has an exact derivative of its own
        shots: of the circuit, ``None`` for exact results
        options: arguments of the method, for example ``{"h": 1e-4}`` for ``"finite-diff"``

    Returns:
        the method, and the reason in words

    Raises:
        DifferentiationError: the method is unknown, impossible here, or has no such option; lists the possible ones

    >>> resolve("best", has_vjp=True, shots=None)
    (Adjoint(), 'best: exact results and the device has its own derivative')
    >>> resolve("best", has_vjp=True, shots=100)
    (ParameterShift(shifts=None, allotment='equal'), 'best: results come from shots')
    """
    options = dict(options or {})
    if diff_method is None:
        return NoDerivative(), "diff_method=None"
    native = has_vjp and shots is None
    if isinstance(diff_method, GradientMethod):
        _check_possible(diff_method, diff_method.name, native, shots)
        return diff_method, "given as an object"
    if diff_method == "best":
        if native:
            return _make(Adjoint, diff_method, options), "best: exact results and the device has its own derivative"
        why = "results come from shots" if shots is not None else "the device has no derivative of its own"
        return _make(ParameterShift, diff_method, options), f"best: {why}"
    if not resolves(diff_method):
        raise DifferentiationError(f"Unknown diff_method {diff_method!r}. {_possible(native)}")
    made = _make(_method(diff_method), diff_method, options)
    _check_possible(made, diff_method, native, shots)
    alias = "" if diff_method == made.name else f": the device's exact derivative, {made.name}"
    return made, f'diff_method="{diff_method}"{alias}'


def _make(method: type[GradientMethod], name: str, options: dict[str, Any]) -> GradientMethod:
    known = _options(method)
    unknown = sorted(set(options) - set(known))
    if unknown:
        takes = f"takes {known}" if known else "takes no options"
        raise DifferentiationError(f'diff_method="{name}" got the options {unknown}; it {takes}.')
    return method(**options)


def _options(method: type[GradientMethod]) -> list[str]:
    return [f.name for f in fields(method)]


def _check_possible(method: GradientMethod, name: str, native: bool, shots: int | None) -> None:
    reason = None if shots is None else method.refusal(name, shots)
    if reason is not None:
        raise DifferentiationError(reason)
    if method.is_native and not native:
        why = f"with shots={shots}" if shots is not None else "on this device, which has no derivative of its own"
        raise DifferentiationError(f'diff_method="{name}" is impossible {why}. {_possible(native)}')


def _possible(native: bool) -> str:
    names = [n for n in _METHODS if native or n not in NATIVE_METHODS]
    return f"Possible here: {', '.join(map(repr, ['best', *names]))} or None."
