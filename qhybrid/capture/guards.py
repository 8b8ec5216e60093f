"""Guards: whether anything changed that a quantum function reads besides its arguments.

    guard = environment_guard(function, static_objects(key))   # CaptureError if that cannot be watched
    guard()                                                    # True while a trace of the function stays valid

The bytecode of the function, and of the user's functions that it can reach, says which closure cells, globals, defaults
and attributes may be read (:mod:`qhybrid.capture.bytecode` does the reading). Each value found there gets a term in one
generated expression. Library code is trusted; random numbers, clocks, the operating system, writes to outer variables
and opaque objects are refused. Trainable torch tensors are watched by identity only, as they are read on every call.

Check the guard once more right after tracing: a function that changes what it reads fails then.
"""

from __future__ import annotations

import decimal
import enum
import fractions
import functools
import pathlib
import sys
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pennylane as qml
from autograd.tracer import Box
from pennylane.measurements import MeasurementProcess
from pennylane.operation import Operator

from qhybrid.capture.bytecode import reads, written_attributes
from qhybrid.capture.libraries import from_library, is_changing, is_library
from qhybrid.capture.values import concrete, is_functorch, is_tensor
from qhybrid.errors import CaptureError

#: Largest array from outside whose content is compared on every call; larger ones should be arguments.
MAX_BYTES = 1 << 18
#: Most values that are watched for one function, and how deep objects are followed.
MAX_TERMS, MAX_DEPTH = 2048, 8

SCALARS = (int, float, complex, bool, str, bytes, type(None), np.generic, enum.Enum, range, slice, type(Ellipsis))
EQUATABLE = (frozenset, set, fractions.Fraction, decimal.Decimal, pathlib.PurePath, np.dtype)
CHANGING_BUILTINS = frozenset({
    "eval", "exec", "compile", "globals", "locals", "vars", "input", "open", "id", "hash", "__import__", "super",
})  # fmt: skip
TORCH_RANDOM = frozenset({"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson"})

Guard = Callable[[], bool]


def environment_guard(function: Callable, arguments: Sequence[Any] = ()) -> Guard:
    """A fast check whether everything that ``function`` reads from outside is as it is now.

    Args:
        function: a function, bound method, partial or object with ``__call__``
        arguments: static arguments that are objects; what is inside them is watched too

    Returns:
        a function without arguments; True if a trace made now is still valid

    Raises:
        CaptureError: the function reads something that changes unseen, or that cannot be watched
    """
    scan = _Scan()
    scan.value(scan.bind(function), function, "the quantum function")
    for argument in arguments:
        scan.value(scan.bind(argument), argument, "an argument")
    scan.follow_escaped()
    return scan.compile()


class _Scan:
    """Collects the terms of one guard."""

    def __init__(self) -> None:
        self.bound: dict[str, Any] = {}
        self.terms: dict[str, None] = {}
        self.names: set[str] = set()
        self.escaped: list[Any] = []
        self.depth = 0
        self._functions: set[tuple[int, int]] = set()
        self._values: set[tuple[str, int]] = set()
        self._deep: set[int] = set()

    def bind(self, value: Any) -> str:
        """A name for a value inside the generated check."""
        name = f"v{len(self.bound)}"
        self.bound[name] = value
        return name

    def require(self, term: str) -> None:
        """Add one term."""
        self.terms[term] = None
        if len(self.terms) > MAX_TERMS:
            raise CaptureError(f"the function can reach more than {MAX_TERMS} values outside of it")

    def same(self, expression: str, value: Any) -> None:
        """Require identity."""
        self.require(f"{expression} is {self.bind(value)}")

    def compile(self) -> Guard:
        """The check as one generated function."""
        parameters = ", ".join(f"{name}={name}" for name in self.bound)
        source = (
            f"def check({parameters}):\n  try:\n    return bool({' and '.join(self.terms) or 'True'})\n"
            "  except (AttributeError, KeyError, IndexError, TypeError, ValueError, RuntimeError):\n    return False\n"
        )
        namespace = dict(self.bound)
        exec(source, namespace)
        return namespace["check"]

    def value(self, expression: str, value: Any, where: str) -> None:
        """Watch the value that ``expression`` gives."""
        key = (expression, id(value))
        if key in self._values:
            return
        self._values.add(key)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise CaptureError(f"{where} is nested too deeply to be watched")
        next(rule for applies, rule in _RULES if applies(value))(self, expression, value, where)
        self.depth -= 1

    # functions

    def function(self, function: types.FunctionType, owner: Any = None) -> None:
        """Watch what the code of a user's function can read; ``owner`` is its first argument if that is known."""
        key = (id(function), id(owner))
        if key in self._functions:
            return
        self._functions.add(key)
        depth, self.depth = self.depth, 0
        name, code = self.bind(function), function.__code__
        self.require(f"{name}.__code__ is {self.bind(code)}")
        for i, default in enumerate(function.__defaults__ or ()):
            self.value(f"{name}.__defaults__[{i}]", default, f"a default of {function.__name__}")
        for key_, default in (function.__kwdefaults__ or {}).items():
            self.value(f"{name}.__kwdefaults__[{key_!r}]", default, f"the default of {key_}")
        self.require(f"len({name}.__dict__) == {len(vars(function))}")
        for attribute, value in vars(function).items():
            if attribute != "__wrapped__":  # a decorated function is in its wrapper's closure
                self.value(f"{name}.{attribute}", value, f"the attribute {attribute} of {function.__name__}")
        cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
        owners = {code.co_varnames[0]: owner} if owner is not None and code.co_argcount else {}
        if function.__name__ not in ("__init__", "__post_init__", "__new__") and (stored := written_attributes(code)):
            raise CaptureError(f"{function.__name__} sets the attribute {sorted(stored)[0]!r}")
        found, names = reads(code, owners)
        self.names |= names
        for read in found:
            self._read(read.kind, read.name, read.attributes, function, cells, owners)
        self.depth = depth

    def _read(
        self, kind: str, name: str, attributes: tuple[str, ...], function: types.FunctionType, cells: dict, owners: dict
    ) -> None:
        where = f"{function.__name__} reads {'.'.join((name, *attributes))}"
        scope = function.__globals__
        if kind == "owner":
            expression, value = self.bind(owners[name]), owners[name]
        elif kind == "cell":
            if name not in cells:
                return  # a local variable of the function itself
            try:
                value = cells[name].cell_contents
            except ValueError:
                raise CaptureError(f"{where}, which has no value yet") from None
            expression = f"{self.bind(cells[name])}.cell_contents"
        elif name in scope:
            expression, value = f"{self.bind_globals(scope)}[{name!r}]", scope[name]
        else:
            self.require(f"{name!r} not in {self.bind_globals(scope)}")
            if name in CHANGING_BUILTINS:
                raise CaptureError(f"{function.__name__} uses {name}()")
            return
        self._chain(expression, value, attributes, where)

    def bind_globals(self, scope: dict) -> str:
        """The name of a module's namespace."""
        for name, value in self.bound.items():
            if value is scope:
                return name
        return self.bind(scope)

    def _chain(self, expression: str, value: Any, attributes: tuple[str, ...], where: str) -> None:
        """Follow ``value.a.b``; watch what it ends at, or the object whose attributes cannot be read one by one."""
        through_library = False
        for attribute in attributes:
            if isinstance(value, types.ModuleType):
                _check_module(value, attribute, where)
                through_library = is_library(value.__name__)
                if not through_library:
                    self.same(expression, value)
            elif not _has_plain_attributes(value) or isinstance(getattr(type(value), attribute, None), property):
                break
            if not hasattr(value, attribute):
                raise CaptureError(f"{where}, which does not exist yet")
            expression, value = f"{expression}.{attribute}", getattr(value, attribute)
        if through_library and (_is_code(value) or isinstance(value, types.ModuleType)):
            _check_code(value, where)
            return
        self.value(expression, value, where)

    # objects whose methods may be called

    def escape(self, value: Any) -> None:
        """Note an object or class of the user, whose methods may be called by any name that appears in the code."""
        self.escaped.append(value)

    def follow_escaped(self) -> None:
        """Watch the methods of escaped objects, until nothing new is found."""
        done: set[tuple[int, str, int]] = set()
        progress = True
        while progress:
            progress = False
            for value in list(self.escaped):
                for name, function in _methods(value):
                    if (id(value), name, id(function)) in done or not self._may_call(value, name):
                        continue
                    done.add((id(value), name, id(function)))
                    progress = True
                    self.function(function, None if isinstance(value, type) else value)

    def _may_call(self, value: Any, name: str) -> bool:
        cls = value if isinstance(value, type) else type(value)
        if any(base is not object and is_library(base.__module__) for base in cls.__mro__) and isinstance(value, type):
            return True  # a library class calls the methods that the user overrides
        if name.startswith("__"):
            return name not in _UNCALLED and (isinstance(value, type) or name not in ("__init__", "__post_init__"))
        return name in self.names


_UNCALLED = {"__repr__", "__str__", "__init_subclass__", "__del__", "__getstate__", "__setstate__", "__reduce__"}


def _methods(value: Any) -> Iterator[tuple[str, types.FunctionType]]:
    """Functions that the user's classes in the ancestry of an object, or of a class, define."""
    cls = value if isinstance(value, type) else type(value)
    for base in cls.__mro__:
        if base is object or is_library(base.__module__):
            continue
        for name, member in vars(base).items():
            member = member.fget if isinstance(member, property) else member
            member = getattr(member, "__func__", member)
            if isinstance(member, types.FunctionType) and not from_library(member):
                yield name, member


# ------------------------------------------------------------------ what is library code


def _is_code(value: Any) -> bool:
    return isinstance(value, types.FunctionType | types.BuiltinFunctionType | type | np.ufunc) or (
        callable(value) and is_library(type(value).__module__) and not isinstance(value, types.MethodType)
    )


def _check_module(module: types.ModuleType, attribute: str, where: str) -> None:
    name = module.__name__
    if is_changing(name) or is_changing(f"{name}.{attribute}"):
        raise CaptureError(f"{where}: it changes from call to call")
    if name.split(".")[0] == "torch" and attribute in TORCH_RANDOM:
        raise CaptureError(f"{where}: it draws random numbers")


def _check_code(value: Any, where: str) -> None:
    """Refuse library functions and classes that answer differently from call to call."""
    module = (value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)) or ""
    if is_changing(module):
        raise CaptureError(f"{where}: it changes from call to call")
    owner = getattr(value, "__self__", None)
    if owner is not None and not isinstance(owner, types.ModuleType | type):
        raise CaptureError(f"{where}: it is a method of a {type(owner).__name__}")
    if owner is not None and getattr(owner, "__name__", "") == "_VariableFunctionsClass":
        name = getattr(value, "__name__", "")
        if name in TORCH_RANDOM:
            raise CaptureError(f"{where}: it draws random numbers")


def _has_plain_attributes(value: Any) -> bool:
    """Whether attributes are read one by one; otherwise the object as a whole is watched."""
    if isinstance(value, (np.ndarray, list, dict, tuple, set, *SCALARS)):
        return False
    if isinstance(value, type):
        return not is_library(value.__module__)
    return not is_library(type(value).__module__)


# ------------------------------------------------------------------ one rule a kind of value


def _scalar(scan: _Scan, expression: str, value: Any, where: str) -> None:
    kept, kind = scan.bind(value), scan.bind(type(value))
    scan.require(f"({expression} is {kept} or (type({expression}) is {kind} and {expression} == {kept}))")


def _equatable(scan: _Scan, expression: str, value: Any, where: str) -> None:
    copy = set(value) if isinstance(value, set) else value
    scan.require(f"(type({expression}) is {scan.bind(type(value))} and {expression} == {scan.bind(copy)})")


def _array(scan: _Scan, expression: str, value: np.ndarray, where: str) -> None:
    if value.dtype.hasobject:
        raise CaptureError(f"{where}, an array of Python objects")
    if value.nbytes > MAX_BYTES:
        raise CaptureError(f"{where}, an array of {value.nbytes} bytes; pass it as an argument")
    template = (type(value), value.dtype, value.shape, value.tobytes())
    scan.require(f"{scan.bind(_same_array)}({expression}, {scan.bind(template)})")


def _same_array(array: Any, template: tuple) -> bool:
    kind, dtype, shape, content = template
    return type(array) is kind and array.dtype == dtype and array.shape == shape and array.tobytes() == content


def _tensor(scan: _Scan, expression: str, value: Any, where: str) -> None:
    if is_functorch(value):
        raise CaptureError(f"{where}, a tensor under torch.func; pass it as an argument")
    if value.requires_grad:
        shape, dtype = scan.bind(value.shape), scan.bind(value.dtype)
        scan.same(expression, value)
        scan.require(f"{expression}.shape == {shape} and {expression}.dtype is {dtype}")
        return
    if value.numel() * value.element_size() > MAX_BYTES:
        raise CaptureError(f"{where}, a tensor of {value.numel()} numbers; pass it as an argument")
    scan.require(f"{scan.bind(_same_tensor)}({expression}, {scan.bind(_tensor_content(value))})")


def _tensor_content(tensor: Any) -> tuple:
    return (type(tensor), tensor.dtype, tensor.shape, tensor.requires_grad, concrete(tensor).tobytes())


def _same_tensor(tensor: Any, template: tuple) -> bool:
    return isinstance(tensor, template[0]) and _tensor_content(tensor) == template


def _torch_module(scan: _Scan, expression: str, value: Any, where: str) -> None:
    """A torch module: parameters by identity, buffers and settings by content, the user's methods by their code."""
    scan.same(expression, value)
    for module in value.modules():
        if module._forward_hooks or module._forward_pre_hooks:
            raise CaptureError(f"{where}, a torch module with hooks")
        if not is_library(type(module).__module__):
            scan.escape(module)
            scan.names |= {"forward"}
    for tensor in (*value.parameters(), *value.buffers()):
        if tensor.numel() * tensor.element_size() > MAX_BYTES and not tensor.requires_grad:
            raise CaptureError(f"{where}, a torch module with large frozen tensors")
    scan.require(f"{scan.bind(_module_state)}({expression}) == {scan.bind(_module_state(value))}")


def _module_state(module: Any) -> list:
    state: list[Any] = []
    for part in module.modules():
        state.append([(k, v) for k, v in vars(part).items() if isinstance(v, SCALARS)])
        for tensor in (*part._parameters.values(), *part._buffers.values()):
            trainable = tensor is not None and tensor.requires_grad
            state.append(id(tensor) if tensor is None or trainable else _tensor_content(tensor))
    return state


def _library_function(scan: _Scan, expression: str, value: Any, where: str) -> None:
    _check_code(value, where)
    scan.same(expression, value)
    for i, cell in enumerate(getattr(value, "__closure__", None) or ()):
        try:
            content = cell.cell_contents
        except ValueError:  # a variable that the library has not set yet
            continue
        if isinstance(content, types.FunctionType | types.MethodType | functools.partial):
            scan.value(f"{scan.bind(value)}.__closure__[{i}].cell_contents", content, where)


def _user_function(scan: _Scan, expression: str, value: types.FunctionType, where: str) -> None:
    scan.same(expression, value)
    scan.function(value)


def _method(scan: _Scan, expression: str, value: types.MethodType, where: str) -> None:
    scan.require(f"{expression} == {scan.bind(value)}")
    if isinstance(value.__func__, types.FunctionType) and not from_library(value.__func__):
        scan.function(value.__func__, value.__self__)
    else:
        scan.value(f"{expression}.__self__", value.__self__, where)


def _partial(scan: _Scan, expression: str, value: functools.partial, where: str) -> None:
    scan.require(f"type({expression}) is {scan.bind(type(value))}")
    for part in ("func", "args", "keywords"):
        scan.value(f"{expression}.{part}", getattr(value, part), where)


def _wrapper(scan: _Scan, expression: str, value: Any, where: str) -> None:
    scan.same(expression, value)
    scan.value(f"{expression}.__wrapped__", value.__wrapped__, where)


def _sequence(scan: _Scan, expression: str, value: Any, where: str) -> None:
    scan.require(f"type({expression}) is {scan.bind(type(value))}")
    if all(isinstance(v, SCALARS) for v in value):
        kept, kinds = scan.bind([*value] if isinstance(value, list) else value), scan.bind([*map(type, value)])
        scan.require(f"({expression} == {kept} and [*map(type, {expression})] == {kinds})")
        return
    scan.require(f"len({expression}) == {len(value)}")
    for i, item in enumerate(value):
        scan.value(f"{expression}[{i}]", item, where)


def _mapping(scan: _Scan, expression: str, value: dict, where: str) -> None:
    if not all(isinstance(k, str | int | float | tuple | bytes | enum.Enum) for k in value):
        raise CaptureError(f"{where}, a dict with keys that cannot be watched")
    scan.require(f"(type({expression}) is {scan.bind(type(value))} and [*{expression}] == {scan.bind([*value])})")
    for key, item in value.items():
        scan.value(f"{expression}[{scan.bind(key)}]", item, where)


def _operator(scan: _Scan, expression: str, value: Any, where: str) -> None:
    scan.same(expression, value)
    if value.data:
        scan.value(f"{expression}.data", tuple(value.data), where)


def _measurement(scan: _Scan, expression: str, value: Any, where: str) -> None:
    scan.same(expression, value)
    if value.obs is not None:
        scan.value(f"{expression}.obs", value.obs, where)


def _library_object(scan: _Scan, expression: str, value: Any, where: str) -> None:
    """PennyLane's and torch's immutable objects by identity; anything else of a library is refused."""
    top = type(value).__module__.split(".")[0]
    if top in ("torch", "pennylane", "qhybrid", "qhybrid_devices"):
        scan.same(expression, value)
        return
    if isinstance(value, types.SimpleNamespace):
        _user_object(scan, expression, value, where)
        return
    raise CaptureError(f"{where}, a {type(value).__module__}.{type(value).__name__} whose state cannot be watched")


def _user_class(scan: _Scan, expression: str, value: type, where: str) -> None:
    scan.escape(value)
    _class_attributes(scan, expression, value, where)


def _class_attributes(scan: _Scan, expression: str, value: type, where: str) -> None:
    scan.same(expression, value)
    for name, member in vars(value).items():
        if not name.startswith("__") and isinstance(member, (*SCALARS, np.ndarray, list, tuple, dict)):
            scan.value(f"{expression}.{name}", member, where)


def _user_object(scan: _Scan, expression: str, value: Any, where: str) -> None:
    if id(value) in scan._deep:
        scan.same(expression, value)
        return
    scan._deep.add(id(value))
    scan.same(expression, value)
    scan.escape(value)
    if (rule := next((rule for kind, rule in _CONTENT if isinstance(value, kind)), None)) is not None:
        rule(scan, expression, value, where)
    elif not all(base in _BARE or base.__flags__ & _HEAP_TYPE for base in type(value).__mro__):
        raise CaptureError(f"{where}, a {type(value).__name__} whose content cannot be watched")
    slots = [s for base in type(value).__mro__ for s in getattr(base, "__slots__", ()) if hasattr(value, s)]
    if hasattr(value, "__dict__"):
        scan.require(f"len({expression}.__dict__) == {len(vars(value))}")
    elif not slots:
        raise CaptureError(f"{where}, a {type(value).__name__} without attributes that can be watched")
    for name in (*slots, *getattr(value, "__dict__", ())):
        scan.value(f"{expression}.{name}", getattr(value, name), where)
    for base in type(value).__mro__:
        if not is_library(base.__module__):
            _class_attributes(scan, scan.bind(base), base, where)


#: What a user's class that inherits from a built-in container holds besides its attributes.
_CONTENT = (((list, tuple), _sequence), (dict, _mapping))
#: The bit of ``type.__flags__`` that classes made in Python have; built-in types may keep state out of sight.
_HEAP_TYPE = 1 << 9
#: Built-in types whose instances have attributes only.
_BARE = (object, types.SimpleNamespace)


def _refuse_box(scan: _Scan, expression: str, value: Any, where: str) -> None:
    raise CaptureError(f"{where}, a value that autograd differentiates; pass it as an argument")


def _refuse_qnode(scan: _Scan, expression: str, value: Any, where: str) -> None:
    raise CaptureError(f"{where}, another QNode; call it outside and pass its result as an argument")


def _is_torch_module(value: Any) -> bool:
    return "torch" in sys.modules and isinstance(value, sys.modules["torch"].nn.Module)


def _is_library_function(value: Any) -> bool:
    if isinstance(value, types.FunctionType):
        return from_library(value)
    if isinstance(value, type):
        return is_library(value.__module__)
    return isinstance(value, types.BuiltinFunctionType | np.ufunc | types.ModuleType | types.MethodDescriptorType)


def _user_module(scan: _Scan, expression: str, value: types.ModuleType, where: str) -> None:
    if not is_library(value.__name__):
        raise CaptureError(f"{where}, a module that is passed around as a value")
    _check_code(value, where)
    scan.same(expression, value)


def _of(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds)


_RULES: tuple[tuple[Callable[[Any], bool], Callable[[_Scan, str, Any, str], None]], ...] = (
    (_of(*SCALARS), _scalar),
    (_of(Box), _refuse_box),
    (_of(qml.QNode), _refuse_qnode),
    (_of(*EQUATABLE), _equatable),
    (_of(np.ndarray), _array),
    (is_tensor, _tensor),
    (_of(types.ModuleType), _user_module),
    (_is_library_function, _library_function),
    (_of(types.FunctionType), _user_function),
    (_of(types.MethodType), _method),
    (_of(functools.partial), _partial),
    (lambda v: type(v) in (list, tuple) or (isinstance(v, tuple) and hasattr(v, "_fields")), _sequence),
    (lambda v: type(v) in (dict, OrderedDict), _mapping),
    (_is_torch_module, _torch_module),
    (_of(Operator), _operator),
    (_of(MeasurementProcess), _measurement),
    (_of(type), _user_class),
    (lambda v: isinstance(getattr(v, "__wrapped__", None), types.FunctionType), _wrapper),
    (lambda v: is_library(type(v).__module__), _library_object),
    (_of(object), _user_object),
)
