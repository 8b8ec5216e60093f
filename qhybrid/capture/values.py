"""Values of argument leaves of any host, without their gradients."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from autograd.tracer import Box

from qhybrid.capture.replay import plain_torch
from qhybrid.errors import CaptureError


def is_tensor(value: Any) -> bool:
    """Whether a value is a torch tensor; torch is not imported for the question."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_functorch(value: Any) -> bool:
    """Whether a value is a tensor wrapped by ``torch.func``."""
    return is_tensor(value) and sys.modules["torch"]._C._functorch.is_functorch_wrapped_tensor(value)


def is_differentiated(value: Any) -> bool:
    """Whether a host follows what is computed from a value, for its derivatives."""
    if isinstance(value, Box):
        return True
    if not is_tensor(value):
        return False
    torch = sys.modules["torch"]
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(value):
        if functorch.is_gradtrackingtensor(value):
            return True
        value = functorch.get_unwrapped(value)
    return value.requires_grad or torch.autograd.forward_ad.unpack_dual(value).tangent is not None


def is_batched(value: Any) -> bool:
    """Whether a value stands for many samples under ``torch.func.vmap``."""
    functorch = sys.modules["torch"]._C._functorch if is_tensor(value) else None
    while functorch is not None and functorch.is_functorch_wrapped_tensor(value):
        if functorch.is_batchedtensor(value):
            return True
        value = functorch.get_unwrapped(value)
    return False


def concrete(leaf: Any) -> Any:
    """The value of a leaf without its gradient: a NumPy array or a number.

    Under ``torch.func.vmap`` it is the value of the first sample.

    Raises:
        CaptureError: the value cannot be read, for example of a fake tensor
    """
    if isinstance(leaf, Box):
        return concrete(leaf._value)
    if isinstance(leaf, np.ndarray):
        return leaf.view(np.ndarray)
    if not is_tensor(leaf):
        return leaf
    torch = sys.modules["torch"]
    with plain_torch():
        try:
            return _tensor_value(torch, leaf)
        except (RuntimeError, TypeError, NotImplementedError) as error:
            raise CaptureError(f"the values of a torch tensor cannot be read: {error}") from error


def constant_tensor(value: Any, precision: Any, device: Any = None) -> Any:
    """Numbers from outside of torch as a tensor that does not raise the precision of what it meets.

    Args:
        value: a number or an array
        precision: a real torch dtype; arrays and complex numbers have at least single precision, since a state or a
            matrix that is rounded more than that is none
        device: of the tensor
    """
    torch = sys.modules["torch"]
    array = np.asarray(value)
    if array.ndim or array.dtype.kind == "c":
        precision = torch.promote_types(precision, torch.float32)
    dtype = precision.to_complex() if array.dtype.kind == "c" else precision
    return torch.as_tensor(array, dtype=dtype, device=device)


def _tensor_value(torch: Any, tensor: Any) -> np.ndarray:
    functorch = torch._C._functorch
    if functorch.is_batchedtensor(tensor):
        axis = functorch.maybe_get_bdim(tensor)
        samples = _tensor_value(torch, functorch.get_unwrapped(tensor))
        if samples.shape[axis] == 0:
            return np.zeros(tuple(tensor.shape), samples.dtype)
        return samples.take(0, axis)
    if functorch.is_functorch_wrapped_tensor(tensor):
        return _tensor_value(torch, functorch.get_unwrapped(tensor))
    return tensor.detach().resolve_conj().resolve_neg().cpu().numpy()
