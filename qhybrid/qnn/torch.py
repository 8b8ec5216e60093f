"""A QNode as a PyTorch module."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qhybrid.errors import CircuitError
from qhybrid.qnode import QNode

_Initializer = Callable[[Tensor], Tensor]

_BATCH_AXIS = (
    "It takes the batch axis for a feature axis: read features from the last axis, inputs[..., i]; in a batch, "
    "inputs[i] is a sample."
)


class TorchLayer(nn.Module):
    r"""A layer whose forward pass is one batched call of a QNode. A drop-in for PennyLane's ``qnn.TorchLayer``.

    The weights are ordinary parameters, registered under the names of the QNode's arguments and read anew at each
    call, so tying, parametrizing, pruning, ``torch.func.functional_call``, ``load_state_dict(assign=True)``, copying
    and pickling work as for ``nn.Linear``.

    Input of shape ``(..., features)`` is flattened to one batch ``(batch, features)``. A QNode that returns one value
    gives ``(...)``; one that returns ``m`` values, as a tuple or a list, gives ``(..., m)``; arrays (probabilities,
    states) are joined along the last axis. The input is given to the QNode in its own dtype, and weights are converted
    to it; complex results stay complex.

    Args:
        qnode: a QNode with an argument ``inputs``; every other argument is a weight
        weight_shapes: shape of each weight; an integer ``n`` means ``(n,)``, and 1 a single number
        init_method: an initializer as in ``torch.nn.init`` for all weights, or for each weight one or its value;
            the default draws uniformly from :math:`[0, 2\pi]`

    Raises:
        TypeError: the QNode has no argument ``inputs``, or takes ``*args``
        ValueError: the names or shapes of the weights do not match

    Example::

        @qml.qnode(qml.device("qhybrid.statevector"))
        def circuit(inputs, weights):
            qml.AngleEmbedding(inputs, wires=range(2))
            qml.StronglyEntanglingLayers(weights, wires=range(2))
            return [qml.expval(qml.Z(i)) for i in range(2)]

        layer = TorchLayer(circuit, {"weights": (3, 2, 3)})
        layer(torch.rand(10, 2)).shape  # (10, 2)
    """

    #: Name of the QNode's argument that takes the input; a subclass may choose another.
    input_arg = "inputs"

    def __init__(
        self,
        qnode: Callable,
        weight_shapes: Mapping[str, int | Iterable[int]],
        init_method: _Initializer | Mapping[str, _Initializer | Tensor] | None = None,
    ) -> None:
        super().__init__()
        shapes = {name: _shape(size) for name, size in weight_shapes.items()}
        self._check_signature(qnode, shapes)
        interface = getattr(qnode, "interface", "auto")
        if interface not in ("auto", "torch", "pytorch"):
            raise ValueError(f"The QNode has interface={interface!r}; a TorchLayer needs 'auto' or 'torch'.")
        self.qnode = qnode
        #: Whether a batch as large as an input's other axes has shown that the QNode reads the right one.
        self._batch_axis_checked = False
        self._shapes = shapes
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(_initial_value(name, shape, init_method)))

    def _check_signature(self, qnode: Callable, shapes: Mapping[str, tuple[int, ...]]) -> None:
        signature = inspect.signature(_function(qnode)).parameters
        kinds = [p.kind for p in signature.values()]
        if self.input_arg not in signature:
            raise TypeError(
                f"The QNode must have an argument named {self.input_arg!r}, which takes the input of the layer; its "
                f"arguments are {list(signature)}."
            )
        if self.input_arg in shapes:
            raise ValueError(f"{self.input_arg!r} is the input of the layer; remove it from weight_shapes.")
        if inspect.Parameter.VAR_POSITIONAL in kinds:
            raise TypeError("The QNode of a layer cannot take *args; name its weights.")
        named = {n for n, p in signature.items() if p.kind is not inspect.Parameter.VAR_KEYWORD} - {self.input_arg}
        required = {n for n in named if signature[n].default is inspect.Parameter.empty}
        unknown = set() if inspect.Parameter.VAR_KEYWORD in kinds else set(shapes) - named
        if unknown or required - set(shapes):
            raise ValueError(
                "weight_shapes must give a shape for every argument of the QNode but its input: "
                f"expected {sorted(named)}, got {sorted(shapes)}."
            )

    # ------------------------------------------------------------------ calling

    def forward(self, inputs: Tensor) -> Tensor:
        """Evaluate the QNode on ``inputs``.

        Args:
            inputs: shape ``(..., features)``, or a single sample ``(features,)``

        Returns:
            the measured values, the leading axes of the input in front
        """
        leading = inputs.shape[:-1]
        flat = inputs if len(leading) < 2 else inputs.reshape(leading.numel(), inputs.shape[-1])
        batch = flat.shape[:-1]
        arguments = {self.input_arg: flat, **self._weights(flat)}
        result = self._evaluate(arguments, batch)
        if torch.compiler.is_compiling():
            pass  # what a graph computes may not depend on it
        elif not self._batch_axis_checked and batch and batch[0] == flat.shape[-1] and self._is_repeatable():
            self._check_batch_axis(arguments, result)
        result = _cast(result, inputs.dtype)
        return result if len(leading) < 2 else result.reshape((*leading, *result.shape[1:]))

    def _evaluate(self, arguments: dict[str, Tensor], batch: torch.Size) -> Tensor:
        """One call of the QNode, its values along the last axis if there are several."""
        if isinstance(self.qnode, QNode) and not torch.compiler.is_compiling():
            values = self.qnode.stacked(**arguments)
            if values is not None:
                return _joined(values, batch)
        return _joined(self.qnode(**arguments), batch)

    def _check_batch_axis(self, arguments: dict[str, Tensor], result: Tensor) -> None:
        """Run a square input once with one sample more: a circuit that reads the batch as features shows itself."""
        inputs = arguments[self.input_arg]
        with torch.no_grad():
            more = torch.cat([inputs, inputs[-1:]])
            again = self._evaluate({**arguments, self.input_arg: more}, more.shape[:-1])
            if not torch.allclose(again[:-1], result, rtol=1e-3, atol=1e-4):
                raise CircuitError(
                    f"With inputs of shape {tuple(inputs.shape)}, a sample has another result when the batch grows. "
                    f"{_BATCH_AXIS}"
                )
        self._batch_axis_checked = True

    def _is_repeatable(self) -> bool:
        """Whether two runs of the QNode give the same: exact results, and no transformation of torch.func around."""
        exact = not getattr(self.qnode, "shots", None)
        return exact and not torch._C._are_functorch_transforms_active()

    def _weights(self, inputs: Tensor) -> dict[str, Tensor]:
        device, dtype = inputs.device, inputs.dtype
        weights = {}
        for name, shape in self._shapes.items():
            weight = getattr(self, name)
            if weight.shape != shape:
                raise ValueError(f"The weight {name!r} has shape {tuple(weight.shape)}; weight_shapes says {shape}.")
            if weight.dtype != dtype or weight.device != device:
                weight = weight.to(device, _like(weight.dtype, dtype))
            weights[name] = weight
        return weights

    @classmethod
    def set_input_argument(cls, input_name: str = "inputs") -> None:
        """Choose the name of the argument that takes the input, for every layer of this class."""
        cls.input_arg = input_name

    @property
    def qnode_weights(self) -> dict[str, Tensor]:
        """The weights by name, as they are now."""
        return {name: getattr(self, name) for name in self._shapes}

    def construct(self, args: tuple, kwargs: dict) -> None:
        """Record the QNode's circuit at the input ``args[0]``; for PennyLane functions that look at ``qnode.tape``."""
        del kwargs
        self.qnode.construct((), {self.input_arg: args[0], **self._weights(args[0])})  # type: ignore[attr-defined]

    def extra_repr(self) -> str:
        """What ``print`` shows between the parentheses."""
        weights = ", ".join(f"{n}={s}" for n, s in self._shapes.items())
        return f"func={_function(self.qnode).__name__}, {weights}"

    def __str__(self) -> str:
        return f"<Quantum Torch Layer: func={_function(self.qnode).__name__}>"


def _function(qnode: Callable) -> Callable:
    return getattr(qnode, "func", qnode)


def _shape(size: int | Iterable[int]) -> tuple[int, ...]:
    if isinstance(size, Iterable):
        return tuple(size)
    return () if size == 1 else (size,)


def _initial_value(
    name: str, shape: tuple[int, ...], init_method: _Initializer | Mapping[str, _Initializer | Tensor] | None
) -> Tensor:
    chosen: Any = init_method
    if isinstance(init_method, Mapping):
        if name not in init_method:
            raise ValueError(f"init_method says nothing about the weight {name!r}; it knows {list(init_method)}.")
        chosen = init_method[name]
    if isinstance(chosen, Tensor):
        if tuple(chosen.shape) != shape:
            raise ValueError(
                f"The Tensor specified for weight '{name}' doesn't have the appropriate shape: it is "
                f"{tuple(chosen.shape)}, weight_shapes says {shape}."
            )
        return chosen.detach().clone()
    values = torch.empty(shape or (1,))
    initialized = nn.init.uniform_(values, b=2 * math.pi) if chosen is None else chosen(values)
    return initialized.detach() if shape else initialized.detach()[0].clone()


def _like(weight: torch.dtype, inputs: torch.dtype) -> torch.dtype:
    """The dtype a weight takes with such inputs: their precision, if they have one; real weights stay real."""
    if not (inputs.is_floating_point or inputs.is_complex):
        return weight
    return inputs.to_complex() if weight.is_complex else inputs.to_real()


def _cast(result: Tensor, inputs: torch.dtype) -> Tensor:
    """``result`` in the precision of the inputs; complex stays complex, integers stay integers."""
    if result.dtype == inputs or not (result.is_floating_point() or result.is_complex()):
        return result
    return result.to(_like(result.dtype, inputs))


def _joined(result: Any, batch: torch.Size) -> Tensor:
    """One tensor with the batch in front: several measurements are joined along the last axis."""
    if isinstance(result, Tensor):
        if result.shape[: len(batch)] != batch:
            shape = tuple(result.shape)
            raise CircuitError(
                f"The QNode gave a result of shape {shape} for a batch of {batch[0]} samples. {_BATCH_AXIS}"
            )
        return result
    parts = list(result.values()) if isinstance(result, Mapping) else list(result)
    parts = [_joined(p, batch) for p in parts]
    if all(p.ndim == len(batch) for p in parts):
        return torch.stack(parts, dim=-1)
    return torch.cat([p.reshape(*p.shape[: len(batch)], math.prod(p.shape[len(batch) :])) for p in parts], dim=-1)
