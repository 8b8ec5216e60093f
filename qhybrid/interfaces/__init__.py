"""Hosts: binding a :class:`~qhybrid.execution.Function` to a reverse-mode graph.

``apply(host, function, tensors)`` evaluates a function on the tensors of a host, which is ``"numpy"``, ``"autograd"``,
``"torch"`` or ``"jax"``, and gives a tuple of the host's tensors.
Every host module has ``apply(function, *tensors)``; none knows how a circuit is differentiated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from qhybrid.execution import Function

#: Names of the hosts.
HOSTS = ("numpy", "autograd", "torch", "jax")


def apply(host: str, function: Function, tensors: Sequence[Any]) -> tuple[Any, ...]:
    """``function`` as a node of the graph of ``host``.

    Args:
        host: one of :data:`HOSTS`
        function: what to evaluate
        tensors: its inputs, tensors of the host

    Returns:
        its outputs, tensors of the host

    Raises:
        ValueError: the host is not known
    """
    return _applier(host)(function, *tensors)


@cache
def _applier(host: str) -> Callable[..., tuple[Any, ...]]:
    """The ``apply`` of a host, whose framework is imported at its first use."""
    if host not in HOSTS:
        raise ValueError(f"Unknown host {host!r}; known are {', '.join(HOSTS)}.")
    return _apply_numpy if host == "numpy" else import_module(f"qhybrid.interfaces.{host}").apply


def _apply_numpy(function: Function, *tensors: Any) -> tuple[Any, ...]:
    return function(*map(np.asarray, tensors))
