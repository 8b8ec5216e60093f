"""One graph of two hosts: functions written for autograd inside PyTorch's graph, and PyTorch's inside autograd's.

:func:`to_torch` makes a function of tensors out of one that is written in ``autograd.numpy`` (or ``qhybrid.numpy``);
:func:`to_autograd` makes a function of arrays out of a module or a function of PyTorch's. Each is one node of the graph
that it stands in, and its derivative is taken by the host that it was written for. So one reverse pass runs through
quantum nodes, NumPy code and layers of PyTorch, whichever of the two hosts starts it::

    @qml.bridge.to_torch
    def physics(angles):  # autograd.numpy and a QNode
        return anp.log(1 + circuit(anp.sin(angles)) ** 2)

    model = lambda x: head(physics(body(x)))  # body and head are modules
    model(x).sum().backward()
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["functional", "to_autograd", "to_torch"]


def to_torch(function: Callable) -> Callable:
    """A function of tensors out of a function of arrays that is written in ``autograd.numpy``; also a decorator.

    Tensors among the arguments, also inside tuples, lists and dicts, reach the function as arrays of their precision;
    everything else reaches it as it is. What it returns, arrays or such containers of them, comes back as tensors on
    the device and in the promoted precision of the tensors it was given. Integers and booleans come back as they are,
    without a derivative. The function may use QNodes.

    The derivative is autograd's, in PyTorch's convention for complex numbers. It can be differentiated again, as often
    as autograd can, and works under ``torch.func``, where ``vmap`` calls the function once for each element. Under
    ``torch.no_grad()`` only the function runs.

    Args:
        function: written in ``autograd.numpy`` or ``qhybrid.numpy``

    Returns:
        the same function of tensors

    Raises:
        ImportError: PyTorch is not installed
        TypeError: on a call, the function returned something that is no array, or uses ``numpy`` itself

    Example:
        >>> import torch, autograd.numpy as anp
        >>> from qhybrid import bridge
        >>> @bridge.to_torch
        ... def energy(x, shift):
        ...     return anp.sum(anp.cos(x)) + shift
        >>> x = torch.tensor([0.0, torch.pi / 2], dtype=torch.float64, requires_grad=True)
        >>> energy(x, 2).backward()
        >>> x.grad.abs()
        tensor([0., 1.], dtype=torch.float64)
    """
    _require_torch()
    from qhybrid.bridge.calls import as_torch_function

    return as_torch_function(function)


def to_autograd(module: Callable | None = None, *, accumulate_grad: bool = False) -> Callable:
    """A function of arrays for autograd's graph out of a module or function of PyTorch's; also a decorator.

    Arrays among the arguments, also inside tuples, lists and dicts, reach the module as tensors, those that are not
    integers in the precision and on the device of the module's parameters; everything else reaches it as it is. Results
    come back as arrays in the precision that the module gave them: call ``module.double()`` first for exact
    derivatives.

    The derivative is PyTorch's, in autograd's convention for complex numbers. It can be differentiated again, as often
    as PyTorch can. Without differentiation the module runs under ``torch.no_grad()``.

    To autograd, the parameters of the module are constants; :func:`functional` makes them an argument.

    Args:
        module: an ``nn.Module`` or a function of tensors
        accumulate_grad: whether a reverse pass through the module also adds to the ``.grad`` of its parameters, as
            ``loss.backward()`` does, for use with ``torch.optim``. The pass must reach the module: an argument of it
            must depend on what autograd differentiates. A pass that is itself differentiated adds nothing.

    Returns:
        the same function of arrays

    Raises:
        ImportError: PyTorch is not installed
        TypeError: ``accumulate_grad`` for something without parameters; on a call, something that is no tensor returned

    Example:
        >>> import autograd, numpy as np, torch
        >>> from qhybrid import bridge
        >>> layer = torch.nn.Linear(2, 1, bias=False).double()
        >>> _ = torch.nn.init.constant_(layer.weight, 3.0)
        >>> f = bridge.to_autograd(layer)
        >>> autograd.grad(lambda x: f(2 * x)[0] ** 2)(np.array([1.0, 0.0]))
        array([72., 72.])
    """
    _require_torch()
    from qhybrid.bridge.calls import as_autograd_function

    if module is None:
        return lambda given: as_autograd_function(given, accumulate_grad)
    return as_autograd_function(module, accumulate_grad)


def functional(module: Any) -> tuple[Callable, dict[str, NDArray]]:
    """A module of PyTorch's as a function of its parameters too, for autograd's graph.

    Args:
        module: an ``nn.Module``

    Returns:
        a function ``f(parameters, *args, **kwargs)``, otherwise as :func:`to_autograd` gives it, and the parameters as
        they are now, a dict of arrays by name. The module itself is not changed.

    Raises:
        ImportError: PyTorch is not installed
        TypeError: not a module

    Example:
        >>> import autograd, torch, numpy as np
        >>> from qhybrid import bridge
        >>> f, parameters = bridge.functional(torch.nn.Linear(2, 1).double())
        >>> gradient = autograd.grad(lambda p: f(p, np.array([2.0, 5.0]))[0])(parameters)
        >>> gradient["weight"], gradient["bias"]
        (array([[2., 5.]]), array([1.]))
    """
    _require_torch()
    from qhybrid.bridge.calls import as_function_of_parameters

    return as_function_of_parameters(module)


def _require_torch() -> None:
    if find_spec("torch") is None:
        raise ImportError('qhybrid.bridge needs PyTorch: pip install "qhybrid[torch]"')
