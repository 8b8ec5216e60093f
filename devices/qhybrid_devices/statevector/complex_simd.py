"""Complex numbers in vector registers: a register of real and one of imaginary parts, and ``exp(i x)`` of a register.

``+``, ``-``, ``*`` and unary ``-`` work between them, and ``*`` with a register of real numbers.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.core.extending import intrinsic, lower_builtin, make_attribute_wrapper, models, register_model
from numba.core.typing.templates import AbstractTemplate, infer_global, signature

from qhybrid_devices.statevector._jit import row_kernel
from qhybrid_devices.statevector.simd import FLAGS, Register, load, save, splat, total

#: Registers are of float64 here: numbers in one of them.
WIDTH = 8


class ComplexRegister(types.Type):
    """Numba's type of a pair of registers, ``real`` and ``imag``."""

    def __init__(self, part: Register) -> None:
        self.part = part
        super().__init__(name=f"ComplexRegister({part})")


@register_model(ComplexRegister)
class _ComplexRegisterModel(models.StructModel):
    def __init__(self, dmm: Any, fe_type: ComplexRegister) -> None:
        super().__init__(dmm, fe_type, [("real", fe_type.part), ("imag", fe_type.part)])


make_attribute_wrapper(ComplexRegister, "real", "real")
make_attribute_wrapper(ComplexRegister, "imag", "imag")


def _made(context: Any, builder: Any, kind: ComplexRegister, real: Any, imag: Any) -> Any:
    made = cgutils.create_struct_proxy(kind)(context, builder)
    made.real, made.imag = real, imag
    return made._getvalue()


def _parts(context: Any, builder: Any, kind: ComplexRegister, value: Any) -> tuple[Any, Any]:
    pair = cgutils.create_struct_proxy(kind)(context, builder, value=value)
    return pair.real, pair.imag


# ------------------------------------------------------------------ arithmetic


def _define(function: Any, kinds: tuple[type, ...], lower: Any) -> None:
    """``function`` for arguments of some kinds, the first one complex; ``lower(builder, *parts)`` gives both parts."""

    class Template(AbstractTemplate):
        key = function

        def generic(self, args: tuple, kws: dict) -> Any:
            if not kws and len(args) == len(kinds) and all(map(isinstance, args, kinds)):
                return signature(args[0], *args)
            return None

    infer_global(function)(Template)

    def implement(context: Any, builder: Any, sig: Any, args: tuple) -> Any:
        pairs = [
            _parts(context, builder, kind, value) if isinstance(kind, ComplexRegister) else (value,)
            for kind, value in zip(sig.args, args, strict=True)
        ]
        return _made(context, builder, sig.return_type, *lower(builder, *[part for pair in pairs for part in pair]))

    lower_builtin(function, *kinds)(implement)


def _product(builder: Any, a: Any, b: Any, c: Any, d: Any) -> tuple[Any, Any]:
    ac, bd, ad, bc = (builder.fmul(x, y, flags=FLAGS) for x, y in ((a, c), (b, d), (a, d), (b, c)))
    return builder.fsub(ac, bd, flags=FLAGS), builder.fadd(ad, bc, flags=FLAGS)


_TWO = (ComplexRegister, ComplexRegister)
_define(operator.add, _TWO, lambda b, *x: (b.fadd(x[0], x[2], flags=FLAGS), b.fadd(x[1], x[3], flags=FLAGS)))
_define(operator.sub, _TWO, lambda b, *x: (b.fsub(x[0], x[2], flags=FLAGS), b.fsub(x[1], x[3], flags=FLAGS)))
_define(operator.mul, _TWO, _product)
_define(
    operator.mul,
    (ComplexRegister, Register),
    lambda b, *x: (b.fmul(x[0], x[2], flags=FLAGS), b.fmul(x[1], x[2], flags=FLAGS)),
)
_define(operator.neg, (ComplexRegister,), lambda b, *x: (b.fneg(x[0], flags=FLAGS), b.fneg(x[1], flags=FLAGS)))


@intrinsic
def _complex_of(typingctx, real, imag):
    made = ComplexRegister(real)

    def codegen(context, builder, sig, args):
        return _made(context, builder, made, *args)

    return made(real, imag), codegen


def _elementwise(name: str, arity: int) -> Any:
    """An instruction of LLVM's on registers, which may not be taken apart and put together in another order."""

    def codegen(context, builder, sig, args):
        register = sig.return_type
        kind = ir.FunctionType(register.llvm, [register.llvm] * arity)
        function = cgutils.get_or_insert_function(
            builder.module, kind, f"llvm.{name}.v{register.lanes}f{register.dtype.bitwidth}"
        )
        return builder.call(function, args)

    return codegen


@intrinsic
def _floor(typingctx, value):
    return value(value), _elementwise("floor", 1)


@intrinsic
def _fused(typingctx, factor, other, addend):
    return addend(factor, other, addend), _elementwise("fma", 3)


#: ``complex_of(real, imag)``: the pair of two registers.
complex_of = (lambda real, imag: real + 1j * imag) if config.DISABLE_JIT else _complex_of
#: ``floor(register)``: the largest integers that are not larger.
floor = np.floor if config.DISABLE_JIT else _floor
#: ``fused(a, b, c)``: ``a * b + c``, rounded once.
fused = (lambda a, b, c: np.asarray(np.longdouble(a) * b + c, float)) if config.DISABLE_JIT else _fused


@row_kernel
def conjugate(z):
    """The complex conjugate."""
    return complex_of(z.real, -z.imag)


@row_kernel
def every(z):
    """A register full of one complex number."""
    return complex_of(splat(z.real), splat(z.imag))


@row_kernel
def get(table, i):
    """Complex register ``i`` of a flat table of real numbers."""
    return complex_of(load(table, 2 * i * WIDTH), load(table, (2 * i + 1) * WIDTH))


@row_kernel
def put(table, i, z):
    """Write it back."""
    save(table, 2 * i * WIDTH, z.real)
    save(table, (2 * i + 1) * WIDTH, z.imag)


# ------------------------------------------------------------------ exp(i x)

_TWO_OVER_PI = 2 / np.pi
#: Pi / 2 as a sum of two numbers, the first one rounded to double precision.
_HALF_PI, _HALF_PI_REST = np.pi / 2, 6.123233995736766e-17
#: Squares above which angles are left to the library: quarter turns are exact numbers far beyond.
_LARGE = 1e24
#: Coefficients of sin(r) / r - 1 and of cos(r) - 1 + r**2 / 2 in r**2, for abs(r) <= pi / 4: those of fdlibm.
_SINE = (
    -1.66666666666666324348e-01, 8.33333333332248946124e-03, -1.98412698298579493134e-04,
    2.75573137070700676789e-06, -2.50507602534068634195e-08, 1.58969099521155010221e-10,
)  # fmt: skip
_COSINE = (
    4.16666666666666019037e-02, -1.38888888888741095749e-03, 2.48015872894767294178e-05,
    -2.75573143513906633035e-07, 2.08757232129817482790e-09, -1.13596475577881948265e-11,
)  # fmt: skip


@row_kernel
def polynomial(coefficients, z):
    """``c_0 + c_1 z + ...`` of six coefficients."""
    c = coefficients
    high = (splat(c[4]) + splat(c[5]) * z) * z
    return splat(c[0]) + (splat(c[1]) + (splat(c[2]) + (splat(c[3]) + high) * z) * z) * z


@row_kernel
def phase(x, buffer):
    """``exp(i x)`` of a register, each part within two units in the last place, or 1e-30.

    Formula: x = k pi/2 + r; then by the parity of k, sine and cosine of r change places, and by that of half of it,
    their signs. The reduction is Cody and Waite's with fused products, the polynomials are fdlibm's.

    Args:
        x: angles
        buffer: scratch for a register
    """
    if not total(x * x) < _LARGE:
        return library_phase(x, buffer)
    one, two = splat(1.0), splat(2.0)
    k = floor(x * splat(_TWO_OVER_PI) + splat(0.5))
    r = fused(-k, splat(_HALF_PI_REST), fused(-k, splat(_HALF_PI), x))
    z = r * r
    sine = r + r * z * polynomial(_SINE, z)
    cosine = one - splat(0.5) * z + z * z * polynomial(_COSINE, z)
    half = floor(splat(0.5) * k)
    odd = k - two * half
    sign = one - two * (half - two * floor(splat(0.5) * half))
    even = one - odd
    return complex_of(sign * (even * cosine - odd * sine), sign * (even * sine + odd * cosine))


@row_kernel
def library_phase(x, buffer):
    """The same for angles that are astronomically large, or no numbers."""
    save(buffer, 0, x)
    for t in range(WIDTH):
        buffer[t] = np.cos(buffer[t])
    real = load(buffer, 0)
    save(buffer, 0, x)
    for t in range(WIDTH):
        buffer[t] = np.sin(buffer[t])
    return complex_of(real, load(buffer, 0))
