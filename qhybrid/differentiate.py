"""Gradients of the one number that a circuit gives, with and without a graph around the circuit.

A graph of autograd's costs more than a small circuit, both ways. Where one circuit is all that is differentiated and
its angles are numbers of the arguments, none is needed: the circuit's own pullback gives the cotangents of the angles,
and each of these belongs to one number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pennylane as qml
from numpy.typing import NDArray
from pennylane import numpy as pnp

from qhybrid.capture.signature import DICT, LEAVES, LIST, Item, Key
from qhybrid.errors import NotFiniteError
from qhybrid.gradients import GradientMethod
from qhybrid.traces import Entry

_ONE = np.ones(1)
_ARRAYS = (np.ndarray, pnp.tensor, np.float64)


def without_graph(
    entry: Entry, key: Key, leaves: list, method: GradientMethod, argnums: Sequence[int]
) -> tuple[Any, tuple[Any, ...]] | None:
    """The value of a circuit and its gradient by each of some arguments; ``None`` where that takes a graph.

    Args:
        entry: the trace of a call
        key, leaves: the arguments of the call, taken apart by :func:`qhybrid.capture.signature.flatten`
        method: how the circuit is differentiated
        argnums: positions of the arguments
    """
    prologue, circuit = entry.trace.prologue, entry.circuit
    if not (method.is_native and circuit.is_one_number) or entry.trace.restore([_ONE]) is not _ONE:
        return None
    wanted = _leaves_of(key[0], argnums)
    if wanted is None or not prologue.pulls_back_to(wanted):
        return None
    if not all(_is_double(leaf) for leaf in leaves) or any(_is_constant(leaves[k]) for k in wanted):
        return None
    function = circuit.function(method)
    (angles,) = prologue.plain(leaves)
    try:
        (numbers,), residual = function.forward(angles)
        pull = function.pullback_at((True,), residual)
        (cotangents,) = pull(_ONE) if pull is not None else function.pullback((True,), residual)(angles, _ONE)
    except NotFiniteError:
        return None  # the ordinary call that follows says where it comes from
    found = prologue.pulled_back(cotangents)
    return numbers[0], tuple([_like(found[k], leaves[k]) for k in wanted])


def _leaves_of(items: tuple[Item, ...], argnums: Sequence[int]) -> list[int] | None:
    """Which leaf each argument is; ``None`` if one is no leaf, is there twice, or if any argument holds several."""
    if len(set(argnums)) < len(argnums) or not all(0 <= i < len(items) for i in argnums):
        return None
    places: list[int | None] = []
    count = 0
    for item in items:
        if item[0] in (LIST, DICT):
            return None
        places.append(count if item[0] in LEAVES else None)
        count += item[0] in LEAVES
    found = [places[i] for i in argnums]
    return None if None in found else found  # type: ignore[return-value]


def _is_double(leaf: Any) -> bool:
    """Whether a leaf is a real number or array in double precision that nobody else differentiates."""
    return type(leaf) is float or (type(leaf) in _ARRAYS and leaf.dtype == np.float64)


def _is_constant(leaf: Any) -> bool:
    """Whether a leaf says that it is not to be differentiated."""
    return not getattr(leaf, "requires_grad", True)


def _like(gradient: NDArray, leaf: Any) -> Any:
    """A gradient as autograd gives it for such a leaf: one number as a number, of PennyLane as a tensor."""
    gradient = gradient.astype(float, copy=False)
    if gradient.ndim:
        return gradient
    return pnp.tensor(gradient, requires_grad=True) if type(leaf) is pnp.tensor else gradient[()]


class grad(qml.grad):  # noqa: N801 - PennyLane's name
    """PennyLane's :func:`pennylane.grad`, without a graph where one QNode of qhybrid is what is differentiated.

    Takes and gives what PennyLane's does, and hands everything else to it: functions around a QNode, arguments that
    are differentiated once more, angles that are computed from the arguments.

    Args:
        func: a QNode, or any function of one number
        argnums: positions of the arguments to differentiate by; by default those with ``requires_grad=True``
        h, method: as for PennyLane's

    Example:
        >>> import qhybrid as qml
        >>> @qml.qnode(qml.device("qhybrid.statevector"))
        ... def circuit(x):
        ...     qml.RX(x[0], wires=0)
        ...     qml.RY(x[1], wires=0)
        ...     return qml.expval(qml.Z(0))
        >>> gradient = qml.grad(circuit)
        >>> gradient(qml.numpy.array([0.5, 0.1])).round(4)
        array([-0.477 , -0.0876])
        >>> print(f"{gradient.forward:.4f}")
        0.8732
    """

    def _autograd_call(self, *args: Any, **kwargs: Any) -> Any:
        argnums = trained(args) if self._argnums is None else self._argnums
        found = value_and_gradients(self._func, args, kwargs, (argnums,) if isinstance(argnums, int) else argnums)
        if found is None:
            return super()._autograd_call(*args, **kwargs)
        self._forward, gradients = found
        single = isinstance(argnums, int) or (self._argnums is None and len(gradients) == 1)
        return gradients[0] if single else gradients


def trained(args: tuple) -> list[int]:
    """Positions of the arguments that require gradients."""
    return [i for i, arg in enumerate(args) if getattr(arg, "requires_grad", False)]


def value_and_gradients(
    func: Callable, args: tuple, kwargs: dict[str, Any], argnums: Sequence[int]
) -> tuple[Any, tuple[Any, ...]] | None:
    """:meth:`QNode.value_and_gradients` of a QNode of ours, ``None`` for anything else."""
    find = getattr(func, "value_and_gradients", None) if isinstance(func, qml.QNode) else None
    return find(args, kwargs, argnums) if find is not None and argnums else None
