"""What PennyLane must be told about traced values, installed at the first trace and valid for the whole process.

The hooks change nothing for other values: PennyLane's ``requires_grad`` answers True for a tracer (otherwise PennyLane
drops gates whose angle happens to be zero), a PennyLane array leaves arithmetic with a tracer to the tracer, and the
functions of ``pennylane.math`` that write into arrays return new ones.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pennylane as qml
from pennylane import numpy as pnp

from qhybrid.capture.replay import CALL, set_items

_LOCK = threading.Lock()
_installed = False


def install(tracer_type: type) -> None:
    """Install the hooks once."""
    global _installed
    with _LOCK:
        if _installed:
            return
        _installed = True
        _replace(qml.math.requires_grad, _requires_grad(tracer_type))
        _replace(qml.math.set_index, _set_index(tracer_type))
        _replace(qml.math.scatter_element_add, _scatter_element_add(tracer_type))
        _replace(qml.math.scatter, _scatter(tracer_type))
        _replace(qml.math.expm, _expm(tracer_type))
        _leave_arithmetic_to(tracer_type)


def _replace(original: Callable, replacement: Callable) -> None:
    """Put ``replacement`` wherever a module of PennyLane holds ``original``."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "pennylane" and module is not None:
            for attribute, value in list(vars(module).items()):
                if value is original:
                    setattr(module, attribute, replacement)


def _requires_grad(tracer_type: Any) -> Callable:
    original = qml.math.requires_grad

    @functools.wraps(original)
    def requires_grad(tensor: Any, interface: str | None = None) -> bool:
        return True if type(tensor) is tracer_type else original(tensor, interface)

    return requires_grad


def _first_tracer(tracer_type: Any, *values: Any) -> Any:
    return next((v for v in values if type(v) is tracer_type), None)


def _set_index(tracer_type: Any) -> Callable:
    original = qml.math.set_index

    @functools.wraps(original)
    def set_index(array: Any, idx: Any, val: Any, like: str | None = None) -> Any:
        tracer = _first_tracer(tracer_type, array, val)
        if tracer is None:
            return original(array, idx, val, like=like)
        return tracer._graph.record(CALL, set_items, (array, idx, val))

    return set_index


def _scatter_element_add(tracer_type: Any) -> Callable:
    original = qml.math.scatter_element_add

    @functools.wraps(original)
    def scatter_element_add(tensor: Any, index: Any, value: Any, like: str | None = None, **options: Any) -> Any:
        tracer = _first_tracer(tracer_type, tensor, value)
        if tracer is None:
            return original(tensor, index, value, like=like, **options)
        return tracer._graph.record(CALL, set_items, (tensor, tuple(index), value, True))

    return scatter_element_add


def _scatter(tracer_type: Any) -> Callable:
    original = qml.math.scatter

    @functools.wraps(original)
    def scatter(indices: Any, array: Any, new_dims: Any, like: str | None = None) -> Any:
        if type(array) is not tracer_type:
            return original(indices, array, new_dims, like=like)
        return array._graph.record(CALL, set_items, (np.zeros(new_dims, array.dtype), indices, array))

    return scatter


def _expm(tracer_type: Any) -> Callable:
    original = qml.math.expm

    @functools.wraps(original)
    def expm(tensor: Any, like: str | None = None) -> Any:
        if type(tensor) is not tracer_type:
            return original(tensor, like=like)
        return tensor._graph.record(CALL, original, (tensor,))

    return expm


def _leave_arithmetic_to(tracer_type: type) -> None:
    original = pnp.tensor.__array_ufunc__

    @functools.wraps(original)
    def array_ufunc(self: Any, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if any(type(value) is tracer_type for value in inputs):
            return NotImplemented
        return original(self, ufunc, method, *inputs, **kwargs)

    pnp.tensor.__array_ufunc__ = array_ufunc
