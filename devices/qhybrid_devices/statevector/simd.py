"""A vector register as a value in kernels: 64 bytes of float32 or float64.

LLVM's own vectoriser gives up where it cannot prove that rows do not overlap, so kernels say what they mean:
``load``, ``save``, ``splat`` and ``total``, with ``+``, ``-``, ``*`` and unary ``-`` in between. Without the compiler
(``NUMBA_DISABLE_JIT=1``) the same names work on short NumPy arrays.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.core.codegen import get_host_cpu_features
from numba.core.extending import intrinsic, lower_builtin, models, register_model
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numpy.typing import NDArray

from qhybrid_devices.statevector.recycling import bytes_of

REGISTER_BYTES = 64
#: Numbers below which an array is not worth aligning.
SMALL = 1 << 12
FLAGS = ("reassoc", "contract", "nsz", "arcp")
#: Whether the processor that numba compiles for permutes the numbers of a register by an index register.
_FEATURES = get_host_cpu_features() if config.CPU_FEATURES is None else config.CPU_FEATURES
_PERMUTES = "+avx512f" in _FEATURES.split(",")


def register_lanes(dtype: np.dtype) -> int:
    """Numbers of ``dtype`` in one register."""
    return REGISTER_BYTES // np.dtype(dtype).itemsize


def register_array(shape: tuple[int, ...], dtype: np.dtype) -> NDArray:
    """An array, not initialised, that begins where a register may: no register of it then lies in two cache lines."""
    count = math.prod(shape)
    if count < SMALL:
        return np.empty(shape, dtype)
    size = count * np.dtype(dtype).itemsize
    room = bytes_of(size + REGISTER_BYTES)
    start = -room.__array_interface__["data"][0] % REGISTER_BYTES
    return np.ndarray(shape, dtype, room, start)


def register_copy(array: NDArray) -> NDArray:
    """A copy of such an array that begins likewise."""
    if array.size < SMALL:
        return array.copy()
    copied = register_array(array.shape, array.dtype)
    copied[...] = array
    return copied


class Register(types.Type):
    """Numba's type of a register."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        self.lanes = REGISTER_BYTES * 8 // dtype.bitwidth
        super().__init__(name=f"Register({dtype})")

    @property
    def llvm(self) -> ir.VectorType:
        """The same in LLVM."""
        return ir.VectorType(ir.DoubleType() if self.dtype.bitwidth == 64 else ir.FloatType(), self.lanes)


@register_model(Register)
class _RegisterModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Register) -> None:
        super().__init__(dmm, fe_type, fe_type.llvm)


# ------------------------------------------------------------------ arithmetic


def _define(function: Any, arity: int, instruction: str) -> None:
    class Template(AbstractTemplate):
        key = function

        def generic(self, args: tuple, kws: dict) -> Any:
            if not kws and len(args) == arity and all(isinstance(a, Register) and a == args[0] for a in args):
                return signature(args[0], *args)
            return None

    infer_global(function)(Template)

    def lower(context: Any, builder: Any, sig: Any, args: tuple) -> Any:
        return getattr(builder, instruction)(*args, flags=FLAGS)

    lower_builtin(function, *[Register] * arity)(lower)


_define(operator.add, 2, "fadd")
_define(operator.sub, 2, "fsub")
_define(operator.mul, 2, "fmul")
_define(operator.neg, 1, "fneg")


# ------------------------------------------------------------------ memory


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any, register: Register) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), register.llvm.as_pointer())


@intrinsic
def _load(typingctx, array, index):
    register = Register(array.dtype)

    def codegen(context, builder, sig, args):
        pointer = _pointer(context, builder, sig.args[0], args[0], args[1], register)
        return builder.load(pointer, align=array.dtype.bitwidth // 8)

    return register(array, types.intp), codegen


@intrinsic
def _load_apart(typingctx, array, index, step):
    register = Register(array.dtype)

    def codegen(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        value, place = ir.Constant(register.llvm, ir.Undefined), args[1]
        for lane in range(register.lanes):
            number = builder.load(builder.gep(data, [place]))
            value = builder.insert_element(value, number, ir.IntType(32)(lane))
            place = builder.add(place, args[2])
        return value

    return register(array, types.intp, types.intp), codegen


@intrinsic
def _save(typingctx, array, index, value):
    def codegen(context, builder, sig, args):
        pointer = _pointer(context, builder, sig.args[0], args[0], args[1], value)
        builder.store(args[2], pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), codegen


@intrinsic
def _splat(typingctx, value):
    register = Register(value)

    def codegen(context, builder, sig, args):
        index = ir.IntType(32)
        one = builder.insert_element(ir.Constant(register.llvm, ir.Undefined), args[0], index(0))
        mask = ir.Constant(ir.VectorType(index, register.lanes), [0] * register.lanes)
        return builder.shuffle_vector(one, ir.Constant(register.llvm, ir.Undefined), mask)

    return register(value), codegen


@intrinsic
def _total(typingctx, value):
    def codegen(context, builder, sig, args):
        scalar = value.llvm.element
        name = f"llvm.vector.reduce.fadd.v{value.lanes}f{value.dtype.bitwidth}"
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(scalar, [scalar, value.llvm]), name)
        return builder.call(function, [ir.Constant(scalar, 0.0), args[0]], fastmath=FLAGS)

    return value.dtype(value), codegen


class Exchange(types.Type):
    """Numba's type of an exchange of lanes: what :func:`exchange` makes for registers of one kind."""

    def __init__(self, register: Register) -> None:
        self.register = register
        super().__init__(name=f"Exchange({register})")

    @property
    def llvm(self) -> ir.Type:
        """An index register, or the flips themselves."""
        integer = ir.IntType(self.register.dtype.bitwidth)
        return ir.VectorType(integer, self.register.lanes) if _PERMUTES else ir.IntType(64)


@register_model(Exchange)
class _ExchangeModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Exchange) -> None:
        super().__init__(dmm, fe_type, fe_type.llvm)


@intrinsic
def _exchange(typingctx, array, flips):
    made = Exchange(Register(array.dtype))

    def codegen(context, builder, sig, args):
        if not _PERMUTES:
            return args[1]
        vector, lanes = made.llvm, made.register.lanes
        flips = builder.trunc(args[1], vector.element) if vector.element.width < 64 else args[1]
        one = builder.insert_element(ir.Constant(vector, ir.Undefined), flips, ir.IntType(32)(0))
        mask = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
        every = builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), mask)
        return builder.xor(ir.Constant(vector, list(range(lanes))), every)

    return made(array, types.int64), codegen


@intrinsic
def _exchanged(typingctx, value, order):
    def codegen(context, builder, sig, args):
        if isinstance(order, types.NoneType):
            return args[0]
        return _permute(builder, value, *args) if _PERMUTES else _exchange_by_bits(builder, value, *args)

    return value(value, order), codegen


def _permute(builder: Any, register: Register, value: Any, order: Any) -> Any:
    kind = "df" if register.dtype.bitwidth == 64 else "sf"
    signature = ir.FunctionType(register.llvm, [register.llvm, order.type])
    name = f"llvm.x86.avx512.permvar.{kind}.512"
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), [value, order])


def _exchange_by_bits(builder: Any, register: Register, value: Any, flips: Any) -> Any:
    """Where lanes cannot be permuted by an index register: neighbours, pairs and so on, each kept or exchanged."""
    bit = 1
    while bit < register.lanes:
        mask = ir.Constant(ir.VectorType(ir.IntType(32), register.lanes), [i ^ bit for i in range(register.lanes)])
        flipped = builder.shuffle_vector(value, ir.Constant(register.llvm, ir.Undefined), mask)
        wanted = builder.icmp_unsigned("!=", builder.and_(flips, flips.type(bit)), flips.type(0))
        value = builder.select(wanted, flipped, value)
        bit *= 2
    return value


@intrinsic
def _borrowed(typingctx, array):
    def codegen(context, builder, sig, args):
        view = context.make_array(sig.args[0])(context, builder, args[0])
        view.meminfo = cgutils.get_null_value(view.meminfo.type)
        view.parent = cgutils.get_null_value(view.parent.type)
        return view._getvalue()

    return array(array), codegen


def _borrowed_numpy(array):
    return array


@intrinsic
def _popcount(typingctx, value):
    def codegen(context, builder, sig, args):
        return builder.ctpop(args[0])

    return types.int64(types.int64), codegen


def _popcount_python(value):
    return int(value).bit_count()


def _exchange_numpy(array, flips):
    return np.arange(register_lanes(array.dtype)) ^ flips


def _exchanged_numpy(register, order):
    return register if order is None else register[order]


def _load_numpy(array, index):
    return array[index : index + register_lanes(array.dtype)].copy()


def _load_apart_numpy(array, index, step):
    return array[index : index + register_lanes(array.dtype) * step : step].copy()


def _save_numpy(array, index, value):
    array[index : index + register_lanes(array.dtype)] = value


#: ``load(array, i)``: the register at position ``i`` of a flat array.
load = _load_numpy if config.DISABLE_JIT else _load
#: ``load_apart(array, i, step)``: a register of every ``step``-th number from position ``i`` on.
load_apart = _load_apart_numpy if config.DISABLE_JIT else _load_apart
#: ``save(array, i, register)``: write it back.
save = _save_numpy if config.DISABLE_JIT else _save
#: ``splat(x)``: a register full of one number.
splat = np.float64 if config.DISABLE_JIT else _splat
#: ``total(register)``: the sum of its numbers.
total = np.sum if config.DISABLE_JIT else _total
#: ``exchange(array, flips)``: how lane ``t`` finds lane ``t ^ flips``, for registers of ``array``.
exchange = _exchange_numpy if config.DISABLE_JIT else _exchange
#: ``exchanged(register, order)``: its numbers with lanes exchanged as :func:`exchange` says; for None as they are.
exchanged = _exchanged_numpy if config.DISABLE_JIT else _exchanged
#: ``borrowed(array)``: the same array, but whoever takes views of it counts no references: each count is an atomic
#: operation, and a few of them cost as much as a gate on a small state. The caller of the kernel owns it.
borrowed = _borrowed_numpy if config.DISABLE_JIT else _borrowed
#: ``popcount(x)``: the number of bits set in an integer.
popcount = _popcount_python if config.DISABLE_JIT else _popcount
