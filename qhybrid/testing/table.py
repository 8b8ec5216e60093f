"""A table of every gradient method that a QNode has, side by side."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import autograd
import numpy as np
import pennylane as qml
from numpy.typing import NDArray
from pennylane import numpy as pnp

from qhybrid.backend import CompilingDevice
from qhybrid.errors import DeviceError, DifferentiationError, FallbackWarning
from qhybrid.qnode import QNode
from qhybrid.testing.derivatives import TOLERANCES

#: The methods in the order of the table. SPSA is left out: one random estimate says nothing about being right.
METHODS = ("adjoint", "backprop", "parameter-shift", "finite-diff", "hadamard")
#: How a device says that it does not give exact results.
REFUSALS = (DeviceError, qml.exceptions.DeviceError, qml.exceptions.QuantumFunctionError)
#: How a method says that it is impossible here; what runs without a derivative at all is not at fault by then.
IMPOSSIBLE = (*REFUSALS, DifferentiationError, qml.exceptions.WireError, NotImplementedError, ValueError)


@dataclass(frozen=True)
class GradientRow:
    """One gradient method.

    Args:
        method: name that ``diff_method`` takes
        norm: Frobenius norm of the Jacobian of all results with respect to all trainable arguments
        deviation: largest absolute difference of one of its entries from the reference
        executions: circuits that the forward pass and one backward pass run; each sample of a batch counts
        seconds: of one forward pass and one backward pass, when everything is compiled
        impossible: why there is no such derivative; empty if there is one
    """

    method: str
    norm: float = float("nan")
    deviation: float = float("nan")
    executions: int = 0
    seconds: float = float("nan")
    impossible: str = ""

    def __str__(self) -> str:
        if self.impossible:
            return f"{self.method:<16}impossible: {self.impossible}"
        numbers = f"{self.norm:>12.6g}{self.deviation:>14.2g}{self.executions:>12d}{1e3 * self.seconds:>10.3g}"
        return f"{self.method:<16}{numbers}"


@dataclass(frozen=True)
class GradientTable:
    """The result of :func:`check_gradients`; printing it gives a table.

    Args:
        device: name of the device
        reference: what the deviations are from, and why
        rows: one for each method, possible or not
    """

    device: str
    reference: str
    rows: tuple[GradientRow, ...]

    def __getitem__(self, method: str) -> GradientRow:
        """The row of ``method``.

        Raises:
            KeyError: the table has no such method
        """
        for row in self.rows:
            if row.method == method:
                return row
        raise KeyError(f"no method {method!r} in this table; there are {', '.join(r.method for r in self.rows)}.")

    @property
    def possible(self) -> tuple[GradientRow, ...]:
        """The rows of the methods that gave a derivative."""
        return tuple(r for r in self.rows if not r.impossible)

    @property
    def worst(self) -> GradientRow:
        """The row that deviates most; one that is not a number before all others."""
        return max(self.possible, key=lambda r: np.inf if np.isnan(r.deviation) else r.deviation)

    def agree(self, tolerance: float = 1e-6) -> bool:
        """Whether every possible method lies within ``tolerance`` of the reference."""
        return bool(self.worst.deviation <= tolerance)

    def __str__(self) -> str:
        head = f"{'method':<16}{'norm':>12}{'deviation':>14}{'executions':>12}{'ms':>10}"
        return "\n".join([f"Gradients on {self.device}; deviations from {self.reference}", head, *map(str, self.rows)])


def check_gradients(qnode: QNode, *args: Any, shots: int | None = None) -> GradientTable:
    """Compare every gradient method that is available for ``qnode`` on its device.

    The reference is a central difference of fourth order of the QNode's own exact results with respect to its
    arguments. It uses no gradient method of anyone's, so that it shares no mistake with any row, and it is of this very
    device, noise included. Where the device gives no exact results, those of ``default.qubit`` are differentiated.

    Args:
        qnode: a QNode of qhybrid; another is left as it is
        args: its arguments, of autograd, NumPy or PyTorch. Derivatives are taken with respect to those that require
            gradients, or to all floating-point ones if none does
        shots: ``None`` for exact derivatives; a number to see each method's noise

    Returns:
        the table; print it, or ask for its ``worst`` row or whether all ``agree``

    Raises:
        DifferentiationError: there is nothing to differentiate with respect to, or no method is possible

    Example:
        >>> import qhybrid as qml
        >>> from qhybrid.testing import check_gradients
        >>> @qml.qnode(qml.device("qhybrid.statevector"))
        ... def circuit(x):
        ...     qml.RX(x[0], wires=0)
        ...     qml.CRY(x[1], wires=[0, 1])
        ...     return qml.expval(qml.Z(1))
        >>> table = check_gradients(circuit, qml.numpy.array([0.4, 1.2]))
        >>> table.agree(1e-8), [row.method for row in table.possible]
        (True, ['adjoint', 'parameter-shift', 'finite-diff', 'hadamard'])
        >>> table["adjoint"].executions, table["parameter-shift"].executions
        (2, 7)
    """
    arguments = _Arguments.of(args)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        # PennyLane's hadamard finds its auxiliary wire by itself, and says that it will not always do so.
        warnings.filterwarnings(
            "ignore", "\\s*Providing a value of None to aux_wire", qml.exceptions.PennyLaneDeprecationWarning
        )
        reference, expected = _reference(qnode, arguments)
        rows: list[GradientRow] = []
        for method in METHODS:
            if method == "backprop" and isinstance(qnode.device, CompilingDevice):
                continue  # another name of its adjoint
            rows += _rows(qnode, method, shots, arguments, expected)
    found = GradientTable(qnode.device.name, reference, tuple(rows))
    if not found.possible:
        raise DifferentiationError(f"No gradient method is possible for this QNode:\n{found}")
    return found


def _with_shots(node: QNode, shots: int | None) -> QNode:
    return qml.set_shots(node, shots=shots)


def _rows(
    qnode: QNode, method: str, shots: int | None, arguments: _Arguments, expected: NDArray
) -> tuple[GradientRow, ...]:
    """The row of one method; none if the method is another name of one that the table has."""
    try:
        node = _with_shots(qnode.update(diff_method=method), shots)
        explained = node.explain(*arguments.args)
        if explained.path != "pennylane" and explained.method != method:
            return ()
        jacobian = arguments.jacobian(node)
        executions = _executions(node, explained, arguments)
        start = time.perf_counter()
        arguments.gradient(node)
        seconds = time.perf_counter() - start
    except IMPOSSIBLE as reason:
        return (GradientRow(method, impossible=str(reason).strip().splitlines()[0]),)
    deviation = float(np.abs(jacobian - expected).max(initial=0.0))
    return (GradientRow(method, float(np.linalg.norm(jacobian)), deviation, executions, seconds),)


def _executions(node: QNode, explained: Any, arguments: _Arguments) -> int:
    if explained.path != "pennylane":
        return explained.forward_executions + explained.gradient_executions
    with qml.Tracker(node.device) as tracker:
        arguments.gradient(node)
    return int(tracker.totals.get("executions", 0)) + int(tracker.totals.get("derivatives", 0))


def _reference(qnode: QNode, arguments: _Arguments) -> tuple[str, NDArray]:
    single = np.dtype(getattr(qnode.device, "c_dtype", np.complex128)) == np.complex64
    step = TOLERANCES[np.dtype(np.float32 if single else np.float64)][1]
    what = f"central differences of its exact results with step {step:g}, which use no gradient method"
    try:
        exact = _with_shots(qnode, None)
        return what, arguments.differences(exact, step)
    except REFUSALS:
        device = qml.device("default.qubit", wires=qnode.device.wires)
        where = "central differences on default.qubit, since the device gives no exact results"
        return where, arguments.differences(qml.QNode(qnode.func, device), TOLERANCES[np.dtype(np.float64)][1])


@dataclass(frozen=True)
class _Arguments:
    """The arguments of a QNode and which of them are differentiated."""

    args: tuple[Any, ...]
    trainable: tuple[int, ...]
    is_torch: bool

    @classmethod
    def of(cls, args: tuple[Any, ...]) -> _Arguments:
        """Arguments, with those that are differentiated made ready for it.

        Raises:
            DifferentiationError: there is none
        """
        is_torch = any(qml.math.get_interface(a) == "torch" for a in args)
        real = [i for i, a in enumerate(args) if _is_real(a, is_torch)]
        trainable = [i for i in real if getattr(args[i], "requires_grad", False)] or real
        if not trainable:
            raise DifferentiationError(
                "check_gradients got no argument that is a real floating-point array or number; it differentiates "
                "with respect to those."
            )
        ready = tuple(_ready(a, is_torch) if i in trainable else a for i, a in enumerate(args))
        return cls(ready, tuple(trainable), is_torch)

    def flat(self, node: Callable) -> Callable:
        """All results in one row, as a function of the trainable arguments."""

        def function(*values: Any) -> Any:
            args = list(self.args)
            for i, value in zip(self.trainable, values, strict=True):
                args[i] = value
            return _row_of(node(*args))

        return function

    @property
    def values(self) -> tuple[Any, ...]:
        """The trainable arguments."""
        return tuple(self.args[i] for i in self.trainable)

    def jacobian(self, node: Callable) -> NDArray:
        """The Jacobian of all results, ``(results, entries of all trainable arguments)``."""
        function = self.flat(node)
        if self.is_torch:
            import torch

            blocks = torch.autograd.functional.jacobian(function, self.values)
        else:
            blocks = [autograd.jacobian(function, k)(*self.values) for k in range(len(self.values))]
        pairs = zip(blocks, self.values, strict=True)
        return np.concatenate([_array(block).reshape(-1, _array(v).size) for block, v in pairs], axis=1)

    def gradient(self, node: Callable) -> None:
        """One forward and one backward pass."""
        function = self.flat(node)
        if self.is_torch:
            function(*self.values).sum().backward()
        else:
            autograd.grad(lambda *v: qml.math.sum(function(*v)), tuple(range(len(self.values))))(*self.values)

    def differences(self, node: Callable, step: float) -> NDArray:
        """The Jacobian by central differences of fourth order."""
        function = self.flat(node)
        columns = []
        for k, value in enumerate(self.values):
            start = _array(value).astype(float)
            columns += [self._slope(function, k, start, entry, step) for entry in np.ndindex(start.shape)]
        return np.stack(columns, axis=1)

    def _slope(self, function: Callable, k: int, start: NDArray, entry: tuple[int, ...], step: float) -> NDArray:
        def at(shift: float) -> NDArray:
            moved = start.copy()
            moved[entry] += shift
            values = list(self.values)
            values[k] = _like(moved, self.values[k])
            results = _array(function(*values))
            if np.iscomplexobj(results):
                raise DifferentiationError(
                    "check_gradients got complex results, such as a state; it compares derivatives of real ones. "
                    "Measure expectation values or probabilities instead."
                )
            return results.astype(float)

        return (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step)


def _is_real(value: Any, is_torch: bool) -> bool:
    if is_torch:
        return qml.math.get_interface(value) == "torch" and value.is_floating_point()
    return isinstance(value, float | np.ndarray | np.floating) and np.asarray(value).dtype.kind == "f"


def _ready(value: Any, is_torch: bool) -> Any:
    if is_torch:
        return value.detach().clone().requires_grad_()
    return pnp.array(value, requires_grad=True)


def _array(value: Any) -> NDArray:
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def _like(array: NDArray, value: Any) -> Any:
    if hasattr(value, "detach"):
        return value.new_tensor(array)
    return pnp.array(array, requires_grad=False)


def _row_of(results: Any) -> Any:
    """All real results, flattened into one tensor of the host."""
    if isinstance(results, list | tuple):
        return qml.math.concatenate([_row_of(r) for r in results])
    return qml.math.reshape(results, (-1,))
