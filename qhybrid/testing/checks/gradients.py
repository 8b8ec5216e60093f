"""Derivatives by every method, against backprop on default.qubit."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pennylane as qml
from pennylane import numpy as pnp

from qhybrid.testing.checks.circuits import NUM_ANGLES, angles, entangle
from qhybrid.testing.subject import SIGMAS, NotClaimed, Subject, compare, table

#: Allowed error of a derivative, in multiples of the tolerance of values.
FACTOR = 10.0
#: Of finite differences: the error of a step that suits the precision.
FINITE_DIFFERENCES = {False: 1e-5, True: 5e-3}


def _circuit(x: Any) -> Any:
    entangle(x)
    qml.CRX(x[..., 0], wires=[0, 2])
    return qml.expval(qml.X(0) @ qml.Y(1)), qml.expval(0.5 * qml.Z(2) - qml.Y(0) @ qml.X(2))


def _rich(x: Any) -> Any:
    entangle(x)
    qml.IsingXY(x[..., 1], wires=[0, 2])
    return qml.expval(qml.Z(1)), qml.var(qml.X(0) @ qml.Z(2)), qml.probs(wires=[2, 1])


def _batched(x: Any, w: Any) -> Any:
    entangle(w)
    qml.RX(x, wires=1)
    qml.CRY(x, wires=[1, 2])
    return qml.expval(qml.Z(1)), qml.expval(qml.X(0) @ qml.Y(2))


def _coefficients(x: Any, c: Any) -> Any:
    entangle(x)
    return (qml.expval(qml.dot([c[0], c[1], 0.5], [qml.X(0), qml.Z(1) @ qml.Z(0), qml.Y(2)])),)


def _flat(node: Callable) -> Callable:
    return lambda *args: qml.math.concatenate([qml.math.reshape(r, (-1,)) for r in node(*args)])


def _backprop(circuit: Callable) -> Callable:
    return qml.QNode(circuit, qml.device("default.qubit", wires=3), diff_method="backprop")


def _jacobian(node: Callable, *args: Any) -> Any:
    return qml.jacobian(_flat(node), argnums=list(range(len(args))))(*(pnp.array(a, requires_grad=True) for a in args))


def _needs_exact(subject: Subject) -> None:
    if not subject.exact:
        raise NotClaimed("the device gives no exact results; see gradients.from_shots")


def _compare(subject: Subject, circuit: Callable, args: tuple, method: str, tolerance: float | None = None) -> None:
    got, expected = (_jacobian(n, *args) for n in (subject.node(circuit, diff_method=method), _backprop(circuit)))
    compare(got, expected, tolerance or FACTOR * subject.tolerance)


def _natively(subject: Subject, test: Callable[[str], None], required: bool = False) -> str | None:
    """Run ``test`` with every derivative of its own that the device says it has."""
    _needs_exact(subject)
    if not subject.derivatives:
        raise NotClaimed("the device says that it has no derivative of its own")
    return subject.each({m: m for m in subject.derivatives}, test, required)


def native(subject: Subject) -> str | None:
    """The device's own derivative of expectation values is right."""
    return _natively(subject, lambda m: _compare(subject, _circuit, (angles(subject),), m), required=True)


def native_of_everything(subject: Subject) -> str | None:
    """The device's own derivative of variances and probabilities is right."""
    return _natively(subject, lambda m: _compare(subject, _rich, (angles(subject),), m))


def native_of_coefficients(subject: Subject) -> str | None:
    """The device's own derivative with respect to coefficients of an observable is right or refused."""
    args = angles(subject), np.array([0.4, -1.2])
    return _natively(subject, lambda m: _compare(subject, _coefficients, args, m))


def parameter_shift(subject: Subject) -> None:
    """Parameter-shift is right."""
    _needs_exact(subject)
    _compare(subject, _circuit, (angles(subject),), "parameter-shift")


def parameter_shift_of_everything(subject: Subject) -> None:
    """Parameter-shift of variances and probabilities is right."""
    _needs_exact(subject)
    _compare(subject, _rich, (angles(subject),), "parameter-shift")


def finite_differences(subject: Subject) -> None:
    """Finite differences are right to their accuracy."""
    _needs_exact(subject)
    single = subject.tolerance > 1e-6
    node = subject.node(_circuit, diff_method="finite-diff", **({"gradient_kwargs": {"h": 0.03}} if single else {}))
    x = angles(subject)
    if single:
        subject.needs_compiled(node, x)
    compare(_jacobian(node, x), _jacobian(_backprop(_circuit), x), FINITE_DIFFERENCES[single])


def _batched_and_shared(subject: Subject, method: str) -> None:
    args = subject.inputs.uniform(-3, 3, 3), angles(subject)
    _compare(subject, _batched, args, method)


def native_of_batches(subject: Subject) -> str | None:
    """The device's own derivative with respect to batched inputs and shared weights is right."""
    return _natively(subject, lambda m: _batched_and_shared(subject, m))


def parameter_shift_of_batches(subject: Subject) -> None:
    """Parameter-shift with respect to batched inputs and shared weights is right."""
    _needs_exact(subject)
    _batched_and_shared(subject, "parameter-shift")


def second_order(subject: Subject) -> None:
    """Hessians through parameter-shift are right."""
    _needs_exact(subject)

    def total(node: Callable) -> Callable:
        return lambda x: qml.math.sum(_flat(node)(x))

    node = subject.node(_circuit, diff_method="parameter-shift", max_diff=2)
    x = pnp.array(angles(subject), requires_grad=True)
    subject.needs_compiled(node, x)  # PennyLane's path gives zeros for several measurements in autograd
    got, expected = (qml.jacobian(qml.grad(total(n)))(x) for n in (node, _backprop(_circuit)))
    compare(got, expected, FACTOR * subject.tolerance)


def _torch(subject: Subject, method: str) -> None:
    if find_spec("torch") is None:
        raise NotClaimed("PyTorch is not installed")
    import torch

    args = subject.inputs.uniform(-3, 3, 3), angles(subject)
    tensors = tuple(torch.tensor(a) for a in args)
    node = subject.node(_batched, diff_method=method)
    got = torch.autograd.functional.jacobian(_flat(node), tensors)
    compare(tuple(g.numpy() for g in got), _jacobian(_backprop(_batched), *args), FACTOR * subject.tolerance)


def native_in_torch(subject: Subject) -> str | None:
    """The device's own derivative is right in PyTorch."""
    return _natively(subject, lambda m: _torch(subject, m))


def parameter_shift_in_torch(subject: Subject) -> None:
    """Parameter-shift is right in PyTorch."""
    _needs_exact(subject)
    _torch(subject, "parameter-shift")


def from_shots(subject: Subject) -> None:
    """Parameter-shift from shots lies within its noise."""

    def circuit(x: Any) -> Any:
        entangle(x)
        return (qml.expval(qml.X(0) @ qml.Y(1)),)

    x = angles(subject)
    got = _jacobian(subject.node(circuit, shots=subject.shots, diff_method="parameter-shift"), x)
    # Each entry is half a difference of two means of +-1.
    compare(got, _jacobian(_backprop(circuit), x), SIGMAS / np.sqrt(2 * subject.shots))
    assert np.any(got), f"the gradient from shots is zero in all {NUM_ANGLES} entries"


CHECKS = table(
    "gradients",
    native,
    native_of_everything,
    native_of_coefficients,
    native_of_batches,
    native_in_torch,
    parameter_shift,
    parameter_shift_of_everything,
    parameter_shift_of_batches,
    parameter_shift_in_torch,
    finite_differences,
    second_order,
    from_shots,
)
