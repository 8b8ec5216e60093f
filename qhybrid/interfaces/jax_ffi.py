"""Python functions that compiled XLA programs call on a CPU, through XLA's foreign function interface.

``jax.pure_callback`` does the same on every platform, and takes 65 us longer: it makes JAX's arrays of all operands in
each call. Here a function finds NumPy arrays where XLA has its numbers. The structures are those of version 0.1 of
``xla/ffi/api/c_api.h``, which is in the wheels of jaxlib.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import ctypes
import secrets
import time
import traceback
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from ctypes import POINTER, Structure, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_void_p
from functools import cache
from typing import Any, NamedTuple

import jax
import numpy as np
from jax._src import callback
from jax._src.interpreters.mlir import set_sharding
from jax.interpreters import mlir
from numpy.typing import NDArray

#: Under which XLA knows what is called for all functions.
TARGET = "qhybrid_call"
#: Calls kept of programs that JAX has dropped, since one of these may still be running.
MOST_RETIRED = 256

_API_VERSION = 0, 1
_METADATA = 1  # XLA_FFI_Extension_Metadata
_INTERNAL = 13  # XLA_FFI_Error_Code_INTERNAL

#: Called with NumPy arrays, which it may keep; gives one array for each output.
Callback = Callable[..., Sequence[NDArray]]


class _Form(NamedTuple):
    """What an array in XLA's memory looks like: its shape, its dtype, and its bytes as a type of ctypes."""

    shape: tuple[int, ...]
    dtype: np.dtype
    memory: Any

    @classmethod
    def of(cls, aval: Any) -> _Form:
        """Of an abstract value."""
        dtype = np.dtype(aval.dtype)
        return cls(aval.shape, dtype, ctypes.c_byte * (aval.size * dtype.itemsize))

    def at(self, address: int | None) -> NDArray:
        """The array at an address."""
        return np.ndarray(self.shape, self.dtype, self.memory.from_address(address) if address else None)


class _Call(NamedTuple):
    """A function, and what it is given and gives in one program."""

    function: Callback
    inputs: list[_Form]
    outputs: list[_Form]


class _Calls:
    """The calls in compiled programs, by the number that a program has of each."""

    def __init__(self) -> None:
        self._live: dict[int, _Call] = {}
        self._retired: OrderedDict[int, _Call] = OrderedDict()

    def add(self, call: _Call, program: Any) -> int:
        """A number for a call that is to be kept as long as ``program`` is."""
        # Not counted: a program that JAX stored on disk in another process must not find a call of this one.
        number = secrets.randbits(62)
        self._live[number] = call
        weakref.finalize(program, self._retire, number).atexit = False
        return number

    def _retire(self, number: int) -> None:
        self._retired[number] = self._live.pop(number)
        if len(self._retired) > MOST_RETIRED:
            self._retired.popitem(last=False)

    def find(self, number: int) -> _Call:
        """The call of a number.

        Raises:
            RuntimeError: there is none in this process
        """
        found = self._live.get(number)
        if found is not None:
            return found
        if number in self._retired:
            self._retired.move_to_end(number)
            return self._retired[number]
        raise RuntimeError(
            "a compiled program calls a quantum circuit of another process, or one that is gone; "
            "compile the program where the circuit is"
        )


_CALLS = _Calls()
#: Something for each call that is running.
_RUNNING: set[object] = set()


class _Program:
    """Lives as long as a compiled program."""


def lowering(function_of: Callable[..., Callback]) -> Callable[..., Any]:
    """The lowering rule of a primitive for CPUs: a call of a Python function.

    Args:
        function_of: gives the function from the primitive's parameters; that is called with NumPy arrays of the
            operands, which it may keep, and gives one array for each output
    """

    def rule(ctx: mlir.LoweringRuleContext, *operands: Any, **parameters: Any) -> Any:
        _register()
        program = _Program()
        ctx.module_context.add_keepalive(program)
        call = _Call(function_of(**parameters), [*map(_Form.of, ctx.avals_in)], [*map(_Form.of, ctx.avals_out)])
        results = jax.ffi.ffi_lowering(TARGET)(ctx, *operands, number=np.int64(_CALLS.add(call, program)))
        # As for JAX's own callbacks: of several devices one runs it, unless the program says what each does.
        where = callback._callback_op_sharding(ctx.module_context.axis_context, None, ctx.avals_out)
        if where is not None and results:
            set_sharding(results[0].owner, where)
        return results

    return rule


# ------------------------------------------------------------------ XLA's structures


class _Extension(Structure):
    _fields_ = (("size", c_size_t), ("type", c_int), ("next", c_void_p))


class _Version(Structure):
    _fields_ = (("size", c_size_t), ("extension", c_void_p), ("major", c_int), ("minor", c_int))


class _Metadata(Structure):
    _fields_ = (("size", c_size_t), ("version", _Version), ("traits", c_uint32))


class _MetadataExtension(Structure):
    _fields_ = (("base", _Extension), ("metadata", POINTER(_Metadata)))


class _Buffer(Structure):
    _fields_ = (
        ("size", c_size_t), ("extension", c_void_p), ("dtype", c_int), ("data", c_void_p), ("rank", c_int64),
        ("dims", POINTER(c_int64)),
    )  # fmt: skip


class _Buffers(Structure):
    _fields_ = (
        ("size", c_size_t), ("extension", c_void_p), ("count", c_int64), ("types", c_void_p),
        ("buffers", POINTER(POINTER(_Buffer))),
    )  # fmt: skip


class _Scalar(Structure):
    _fields_ = (("dtype", c_int), ("value", POINTER(c_int64)))


class _Attributes(Structure):
    _fields_ = (
        ("size", c_size_t), ("extension", c_void_p), ("count", c_int64), ("types", c_void_p), ("names", c_void_p),
        ("scalars", POINTER(POINTER(_Scalar))),
    )  # fmt: skip


class _Error(Structure):
    _fields_ = (("size", c_size_t), ("extension", c_void_p), ("message", c_char_p), ("code", c_int))


class _Api(Structure):
    _fields_ = (
        ("size", c_size_t), ("extension", c_void_p), ("version", _Version), ("internal", c_void_p),
        ("error_create", ctypes.CFUNCTYPE(c_void_p, POINTER(_Error))),
    )  # fmt: skip


class _CallFrame(Structure):
    _fields_ = (
        ("size", c_size_t), ("extension", POINTER(_Extension)), ("api", POINTER(_Api)), ("context", c_void_p),
        ("stage", c_int), ("arguments", _Buffers), ("results", _Buffers), ("attributes", _Attributes),
    )  # fmt: skip


# ------------------------------------------------------------------ what XLA calls


def _answer(pointer: Any) -> int | None:
    """Handle a call of XLA's: a question for metadata, or a call of a function. Gives an error, or ``None``."""
    frame = pointer.contents
    if frame.extension and frame.extension.contents.type == _METADATA:
        metadata = ctypes.cast(frame.extension, POINTER(_MetadataExtension)).contents.metadata.contents
        metadata.version.major, metadata.version.minor = _API_VERSION
        metadata.traits = 0
        return None
    running = object()
    _RUNNING.add(running)
    try:
        call = _CALLS.find(frame.attributes.scalars[0].contents.value[0])
        inputs, outputs = frame.arguments.buffers, frame.results.buffers
        # Copies: XLA's memory is its own again as soon as this returns.
        found = call.function(*[form.at(inputs[i].contents.data).copy() for i, form in enumerate(call.inputs)])
        for i, (form, value) in enumerate(zip(call.outputs, found, strict=True)):
            form.at(outputs[i].contents.data)[...] = value
    except BaseException as error:  # noqa: BLE001 (nothing can be raised through XLA, which raises what it is given)
        if isinstance(error, KeyboardInterrupt):
            _thread.interrupt_main()
        message = _Error(ctypes.sizeof(_Error), None, traceback.format_exc().encode(), _INTERNAL)
        return frame.api.contents.error_create(ctypes.byref(message))
    finally:
        _RUNNING.discard(running)
    return None


_HANDLER = ctypes.CFUNCTYPE(c_void_p, POINTER(_CallFrame))(_answer)


def _finish() -> None:
    """Wait for calls: Python ends a thread that wants the interpreter later, and JAX waits for that thread for ever."""
    for array in jax.live_arrays():
        if not array.is_deleted():
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # nobody asked for this array, nor for its error
                array.block_until_ready()
    while _RUNNING:
        time.sleep(0.001)


@cache
def _register() -> None:
    atexit.register(_finish)
    jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(ctypes.cast(_HANDLER, c_void_p).value), platform="cpu")
