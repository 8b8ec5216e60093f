"""A table of every gradient method that a QNode has, side by side."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pennylane as qml
from numpy.typing import NDArray

from qhybrid.backend import CompilingDevice
from qhybrid.errors import DeviceError, DifferentiationError, FallbackWarning
from qhybrid.qnode import QNode
from qhybrid.testing.arguments import Arguments
from qhybrid.testing.derivatives import TOLERANCES

#: The methods in the order of the table. SPSA is left out: one random estimate says nothing about being right.
METHODS = ("adjoint", "backprop", "parameter-shift", "finite-diff", "hadamard")
#: The derivatives of each order: rows of one method.
DERIVATIVES = {1: ("gradient", "jvp"), 2: ("hessian", "hvp")}
#: Step of second differences, by precision: the square of it divides the rounding.
SECOND_STEPS = {np.dtype(np.float32): 0.2, np.dtype(np.float64): 1e-2}
#: How a device says that it does not give exact results.
REFUSALS = (DeviceError, qml.exceptions.DeviceError, qml.exceptions.QuantumFunctionError)
#: How a method says that it is impossible here; what runs without a derivative at all is not at fault by then.
IMPOSSIBLE = (*REFUSALS, DifferentiationError, qml.exceptions.WireError, NotImplementedError, ValueError)


@dataclass(frozen=True)
class GradientRow:
    """One derivative by one gradient method.

    Args:
        method: name that ``diff_method`` takes
        derivative: ``"gradient"``, the Jacobian of all results with respect to all trainable arguments, in reverse;
            ``"jvp"``, its product with one direction, forward; of a weighted sum of all results ``"hessian"``, reverse
            over reverse, and ``"hvp"``, its product with one direction, forward over reverse
        norm: Frobenius norm of the derivative
        deviation: largest absolute difference of one of its entries from the reference
        executions: of a gradient: circuits that the forward pass and one backward pass run; each sample of a batch
            counts
        seconds: of one derivative, when everything is compiled; of a gradient: one forward pass and one backward pass
        impossible: why there is no such derivative; empty if there is one
    """

    method: str
    derivative: str = "gradient"
    norm: float = float("nan")
    deviation: float = float("nan")
    executions: int = 0
    seconds: float = float("nan")
    impossible: str = ""

    def __str__(self) -> str:
        name = f"{self.method:<16}{self.derivative:<10}"
        if self.impossible:
            return f"{name}impossible: {self.impossible}"
        executions = self.executions or "-"
        return f"{name}{self.norm:>12.6g}{self.deviation:>14.2g}{executions:>12}{1e3 * self.seconds:>10.3g}"


@dataclass(frozen=True)
class GradientTable:
    """The result of :func:`check_gradients`; printing it gives a table.

    Args:
        device: name of the device
        reference: what the deviations are from, and why
        rows: one for each derivative by each method, possible or not
    """

    device: str
    reference: str
    rows: tuple[GradientRow, ...]

    def __getitem__(self, key: str | tuple[str, str]) -> GradientRow:
        """The row of a method's gradient, or of a method and a derivative.

        Raises:
            KeyError: the table has no such row
        """
        wanted = (key, "gradient") if isinstance(key, str) else key
        for row in self.rows:
            if (row.method, row.derivative) == wanted:
                return row
        there = ", ".join(f"{r.method} {r.derivative}" for r in self.rows)
        raise KeyError(f"no row {' '.join(wanted)!r} in this table; there are {there}.")

    @property
    def possible(self) -> tuple[GradientRow, ...]:
        """The rows with a derivative."""
        return tuple(r for r in self.rows if not r.impossible)

    @property
    def worst(self) -> GradientRow:
        """The row that deviates most; one that is not a number before all others."""
        return max(self.possible, key=lambda r: np.inf if np.isnan(r.deviation) else r.deviation)

    def agree(self, tolerance: float = 1e-6) -> bool:
        """Whether every possible derivative lies within ``tolerance`` of the reference."""
        return bool(self.worst.deviation <= tolerance)

    def __str__(self) -> str:
        head = f"{'method':<16}{'derivative':<10}{'norm':>12}{'deviation':>14}{'executions':>12}{'ms':>10}"
        return "\n".join([f"Gradients on {self.device}; deviations from {self.reference}", head, *map(str, self.rows)])


def check_gradients(qnode: QNode, *args: Any, shots: int | None = None, order: int = 1) -> GradientTable:
    """Compare every gradient method that is available for ``qnode`` on its device, forward and in reverse.

    The references are central differences of fourth order of the QNode's own exact results with respect to its
    arguments. They use no gradient method of anyone's, so that they share no mistake with any row, and they are of this
    very device, noise included. Where the device gives no exact results, those of ``default.qubit`` are differentiated.

    Args:
        qnode: a QNode of qhybrid; another is left as it is
        args: its arguments, of autograd, NumPy or PyTorch. Derivatives are taken with respect to those that require
            gradients, or to all floating-point ones if none does
        shots: ``None`` for exact derivatives; a number to see each method's noise
        order: 2 also compares Hessians and Hessian-vector products, of one weighted sum of all results

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
        >>> table.agree(1e-8), [row.method for row in table.possible if row.derivative == "gradient"]
        (True, ['adjoint', 'parameter-shift', 'finite-diff', 'hadamard'])
        >>> table["adjoint"].executions, table["parameter-shift"].executions
        (2, 7)
        >>> table = check_gradients(circuit, qml.numpy.array([0.4, 1.2]), order=2)
        >>> table.agree(1e-7), table["adjoint", "hvp"].norm > 0
        (True, True)
    """
    if order not in DERIVATIVES:
        raise DifferentiationError(f"check_gradients got order={order!r}; choose one of {list(DERIVATIVES)}.")
    derivatives = [d for o in range(1, order + 1) for d in DERIVATIVES[o]]
    arguments = Arguments.of(args)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        # PennyLane's hadamard finds its auxiliary wire by itself, and says that it will not always do so.
        warnings.filterwarnings(
            "ignore", "\\s*Providing a value of None to aux_wire", qml.exceptions.PennyLaneDeprecationWarning
        )
        # PyTorch's own, at its first forward-mode derivative.
        warnings.filterwarnings("ignore", ".torch.jit.script. is deprecated", DeprecationWarning)
        reference, expected = _reference(qnode, arguments, order)
        rows: list[GradientRow] = []
        for method in METHODS:
            if method == "backprop" and isinstance(qnode.device, CompilingDevice):
                continue  # another name of its adjoint
            rows += _rows(qnode, method, shots, arguments, expected, derivatives)
    found = GradientTable(qnode.device.name, reference, tuple(rows))
    if not found.possible:
        raise DifferentiationError(f"No gradient method is possible for this QNode:\n{found}")
    return found


def _with_shots(node: QNode, shots: int | None) -> QNode:
    return qml.set_shots(node, shots=shots)


def _rows(
    qnode: QNode,
    method: str,
    shots: int | None,
    arguments: Arguments,
    expected: dict[str, NDArray],
    derivatives: list[str],
) -> list[GradientRow]:
    """The rows of one method; none if the method is another name of one that the table has."""
    try:
        node = _with_shots(qnode.update(diff_method=method), shots)
        explained = node.explain(*arguments.args)
    except IMPOSSIBLE as reason:
        return [GradientRow(method, d, impossible=_first_line(reason)) for d in derivatives]
    if explained.path == "pennylane":
        derivatives = ["gradient"]  # all that its path gives without further settings
    elif explained.method != method:
        return []
    return [_row(node, method, d, explained, arguments, expected[d]) for d in derivatives]


def _row(
    node: QNode, method: str, derivative: str, explained: Any, arguments: Arguments, expected: NDArray
) -> GradientRow:
    executions = 0
    try:
        found = arguments.derivative(node, derivative)
        if derivative == "gradient":
            executions = _executions(node, explained, arguments)
        start = time.perf_counter()
        if derivative == "gradient":
            arguments.gradient(node)
        else:
            arguments.derivative(node, derivative)
        seconds = time.perf_counter() - start
    except IMPOSSIBLE as reason:
        return GradientRow(method, derivative, impossible=_first_line(reason))
    deviation = float(np.abs(found - expected).max(initial=0.0))
    return GradientRow(method, derivative, float(np.linalg.norm(found)), deviation, executions, seconds)


def _first_line(reason: Exception) -> str:
    return (str(reason).strip() or type(reason).__name__).splitlines()[0]


def _executions(node: QNode, explained: Any, arguments: Arguments) -> int:
    if explained.path != "pennylane":
        return explained.forward_executions + explained.gradient_executions
    with qml.Tracker(node.device) as tracker:
        arguments.gradient(node)
    return int(tracker.totals.get("executions", 0)) + int(tracker.totals.get("derivatives", 0))


def _reference(qnode: QNode, arguments: Arguments, order: int) -> tuple[str, dict[str, NDArray]]:
    """What the deviations are from, and the references of all derivatives up to an order."""
    single = np.dtype(getattr(qnode.device, "c_dtype", np.complex128)) == np.complex64
    precision = np.dtype(np.float32 if single else np.float64)
    step = TOLERANCES[precision][1]
    what = f"central differences of its exact results with step {step:g}, which use no gradient method"
    try:
        exact = _with_shots(qnode, None)
        return what, _differences(exact, arguments, precision, order)
    except REFUSALS:
        device = qml.device("default.qubit", wires=qnode.device.wires)
        where = "central differences on default.qubit, since the device gives no exact results"
        return where, _differences(qml.QNode(qnode.func, device), arguments, np.dtype(np.float64), order)


def _differences(node: QNode, arguments: Arguments, precision: np.dtype, order: int) -> dict[str, NDArray]:
    jacobian = arguments.differences(node, TOLERANCES[precision][1])
    found = {"gradient": jacobian, "jvp": jacobian @ arguments.direction}
    if order > 1:
        hessian = arguments.second_differences(node, SECOND_STEPS[precision])
        found |= {"hessian": hessian, "hvp": hessian @ arguments.direction}
    return found
