"""What counts as library code, and which of it answers differently from call to call."""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
import types

#: Modules whose functions read a clock, a random state or the operating system.
CHANGING_MODULES = frozenset({
    "random", "secrets", "time", "datetime", "uuid", "os", "sys", "posix", "io", "subprocess", "socket", "threading",
    "contextvars", "gc", "inspect", "importlib", "ctypes",
})  # fmt: skip
RANDOM_MODULES = frozenset({
    "numpy.random", "torch.random", "pennylane.numpy.random", "autograd.numpy.random", "scipy.stats",
})  # fmt: skip
LIBRARIES = frozenset({
    "pennylane", "qhybrid", "qhybrid_devices", "numpy", "scipy", "torch", "autograd", "autoray", "numba", "builtins",
})  # fmt: skip
_PATHS = tuple({os.path.realpath(sysconfig.get_paths()[k]) for k in ("stdlib", "platstdlib", "purelib", "platlib")})


@functools.lru_cache(maxsize=4096)
def _is_installed(path: str) -> bool:
    return path.startswith("<frozen") or os.path.realpath(path).startswith(_PATHS) or "site-packages" in path


def is_library(module: str | None) -> bool:
    """Whether a module, given by name, is installed code rather than the user's."""
    if module is None or module == "__main__":
        return False
    top = module.split(".")[0]
    if top in LIBRARIES or top in sys.builtin_module_names:
        return True
    path = getattr(sys.modules.get(module), "__file__", None)
    return top in sys.stdlib_module_names if path is None else _is_installed(path)


def from_library(function: types.FunctionType) -> bool:
    """Whether a Python function is defined in library code."""
    return is_library(function.__globals__.get("__name__"))


def is_changing(module: str) -> bool:
    """Whether what a module answers changes from call to call."""
    parts = module.split(".")
    return parts[0] in CHANGING_MODULES or module in RANDOM_MODULES or ".".join(parts[:2]) in RANDOM_MODULES
