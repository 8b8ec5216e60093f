"""Kernels that share out their items among threads by themselves, without the interpreter.

A thread that has to take the interpreter lock first begins some 50 us late, as long as a whole circuit of ten qubits
takes. So a kernel itself calls a team of threads, OpenMP's or that of ``team.py``, which call the kernel again for one
part of the items after the other::

    @kernel
    def double(team, first, last, x):
        if in_parts(team, first, last):
            return
        for i in range(first, last):
            x[i] *= 2

A kernel's ``team`` is a tuple of six numbers: the address of a function like OpenMP's ``GOMP_parallel``, what it is
given besides what that takes, the number of threads, and that of parts; or, if the address is zero and the kernel is to
do its items, which worker it is, and which part they are, at ``WORKER`` and ``PART``.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.core.extending import intrinsic

Team = tuple[int, int, int, int, int, int]
WORKER, PART = 4, 5

_WORD, _INT, _BYTES = ir.IntType(64), ir.IntType(32), ir.IntType(8).as_pointer()
#: What threads share: who is next, which part is next, whether one failed, how many parts there are; then the arguments
#: of the kernel: its team, its range, and others.
_NEXT_WORKER, _NEXT_PART, _FAILED, _PARTS = range(4)
#: What a kernel returns when it has raised nothing: Numba's codes.
_NO_ERROR = (0, -2)


@intrinsic
def _in_parts(typingctx, team, first, last):
    def codegen(context, builder, sig, values):
        kernel, address = builder.function, builder.extract_value(values[0], 0)
        zero = _WORD(0)
        together = builder.icmp_signed("!=", address, zero)
        with builder.if_then(together):
            # Of a compiled function the first two arguments are where it leaves its result and its error.
            content = [zero, zero, zero, builder.extract_value(values[0], 3), *kernel.args[2:]]
            shared = cgutils.alloca_once(builder, ir.LiteralStructType([v.type for v in content]))
            for i, value in enumerate(content):
                builder.store(value, _field(builder, shared, i))
            thread = _thread(builder.module, shared.type, kernel)
            context_, workers = (builder.extract_value(values[0], i) for i in (1, 2))
            # A function of C does not see that it is given one argument more than it takes.
            team_type = ir.FunctionType(ir.VoidType(), [thread.type, _BYTES, _INT, _INT, _WORD])
            run = builder.inttoptr(address, team_type.as_pointer())
            data = builder.bitcast(shared, _BYTES)
            builder.call(run, [thread, data, builder.trunc(workers, _INT), _INT(0), context_])
            failed = builder.icmp_signed("!=", builder.load(_field(builder, shared, _FAILED)), zero)
            with cgutils.if_unlikely(builder, failed):
                context.call_conv.return_user_exc(builder, RuntimeError, ("a part of a loop has failed",))
        return together

    return types.boolean(team, first, last), codegen


def _thread(module: Any, shared_type: Any, kernel: Any) -> Any:
    """What each thread of a team calls with what they share: it calls the kernel for one part after the other."""
    name = module.get_unique_name("qhybrid_thread")
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [_BYTES]), name)
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    zero, one = _WORD(0), _WORD(1)
    shared = builder.bitcast(function.args[0], shared_type)
    left = [builder.alloca(a.type.pointee) for a in kernel.args[:2]]
    parts, *arguments = (builder.load(_field(builder, shared, _PARTS + i)) for i in range(len(kernel.args) - 1))
    first, last, *others = arguments[6:]
    worker = builder.atomic_rmw("add", _field(builder, shared, _NEXT_WORKER), one, "monotonic")
    take, do, end = (function.append_basic_block(n) for n in ("take", "do", "end"))
    builder.branch(take)
    builder.position_at_end(take)
    part = builder.atomic_rmw("add", _field(builder, shared, _NEXT_PART), one, "monotonic")
    builder.cbranch(builder.icmp_signed("<", part, parts), do, end)
    builder.position_at_end(do)
    count = builder.sub(last, first)
    edges = [builder.sdiv(builder.mul(p, count), parts) for p in (part, builder.add(part, one))]
    items = [builder.add(first, e) for e in edges]
    code = builder.call(kernel, [*left, zero, zero, one, one, worker, part, *items, *others])
    is_error = builder.and_(*(builder.icmp_signed("!=", code, _INT(c)) for c in _NO_ERROR))
    with cgutils.if_unlikely(builder, is_error):
        builder.store(one, _field(builder, shared, _FAILED))
    builder.branch(take)
    builder.position_at_end(end)
    builder.ret_void()
    return function


def _field(builder: Any, shared: Any, index: int) -> Any:
    return builder.gep(shared, [_INT(0), _INT(index)])


def _in_one_part(team: Team, first: int, last: int) -> bool:
    return False


#: ``in_parts(team, first, last)``: whether other calls of this kernel have done the items ``first .. last - 1``, as is
#: asked for by ``team``. The first thing that a kernel does, whose first arguments these are; an error of one of those
#: calls is a ``RuntimeError`` of this one.
in_parts = _in_one_part if config.DISABLE_JIT else _in_parts
