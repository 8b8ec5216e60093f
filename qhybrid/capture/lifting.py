"""Trainable torch tensors that a traced function reads from outside, as ``theta[0]`` of a module's parameter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from qhybrid.capture.tracer import Graph, Tracer, record_torch


class TrainableTensors(TorchFunctionMode):
    """While active, torch functions of trainable tensors are recorded, so that the tensors are read on every call."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not _traced_or_trainable((args, tuple(kwargs.values()))):
            return function(*args, **kwargs)
        if _is_metadata(function) and not any(isinstance(a, Tracer) for a in args):
            return function(*args, **kwargs)
        return record_torch(self.graph, function, args, kwargs)


def _traced_or_trainable(arguments: Any) -> bool:
    for value in arguments:
        if isinstance(value, Tracer) or (isinstance(value, torch.Tensor) and value.requires_grad):
            return True
        if isinstance(value, list | tuple) and _traced_or_trainable(value):
            return True
    return False


_METADATA = {"dim", "size", "numel", "is_floating_point", "is_complex", "__len__", "ndimension", "stride", "__hash__"}
_VIEWS = {"T", "mT", "H", "mH", "real", "imag", "data", "grad"}


def _is_metadata(function: Callable) -> bool:
    """Whether a function tells only what is known without a value: shape, dtype, device."""
    name = getattr(function, "__name__", "")
    if name == "__get__":
        return getattr(getattr(function, "__self__", None), "__name__", "") not in _VIEWS
    return name in _METADATA or name in ("__repr__", "__format__", "__deepcopy__")
