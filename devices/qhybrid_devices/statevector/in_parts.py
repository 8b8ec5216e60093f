"""Loops of a kernel over items that do not depend on each other, spread over threads without the interpreter.

A thread that has to take the interpreter lock first begins some 50 us late, as long as a whole circuit of ten qubits
takes. So the loop itself is compiled: a kernel hands a function, and what it works on, to an OpenMP team, whose threads
take the items part by part.

A kernel's ``team`` is a tuple of five numbers: the address of OpenMP's function, the number of threads, and that of
parts; or, if the address is zero, and the caller's thread does all items as one part, the numbers of this worker and
of this part, in the last two places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.core.extending import intrinsic

Team = tuple[int, int, int, int, int]

_WORD, _INT, _BYTES = ir.IntType(64), ir.IntType(32), ir.IntType(8).as_pointer()
#: What the threads share: who is next, which part is next, whether one failed; then what :func:`_in_parts` is given.
_WORKER, _PART, _FAILED, _PARTS, _FIRST, _LAST, _ARGUMENTS = range(7)


def _call(function, worker, part, first, last, arguments):
    function(worker, part, first, last, *arguments)


@intrinsic
def _in_parts(typingctx, team, first, last, function, arguments):
    range_type = (types.intp,) * 4
    call_type = types.void(function, *range_type, arguments)

    def codegen(context, builder, sig, values):
        call = context.compile_subroutine(builder, _call, call_type).fndesc
        unpacked = cgutils.unpack_tuple(builder, values[0], 5)
        address, workers, parts, worker, part = unpacked
        items, arguments_value = values[1:3], values[4]

        def run(b, worker, part, first, last, given):
            inputs = [context.get_dummy_value(), worker, part, first, last, given]
            return context.call_internal_no_propagate(b, call, call_type, inputs)[0]

        zero = _WORD(0)
        content = [zero, zero, zero, parts, *items, arguments_value]
        shared = cgutils.alloca_once(builder, ir.LiteralStructType([v.type for v in content]))
        with builder.if_else(builder.icmp_signed("==", address, zero)) as (alone, together):
            with alone:
                status = run(builder, worker, part, *items, arguments_value)
                builder.store(builder.zext(status.is_error, _WORD), _field(builder, shared, _FAILED))
            with together:
                for i, value in enumerate(content):
                    builder.store(value, _field(builder, shared, i))
                thread = _thread(builder.module, shared.type, run)
                team_type = ir.FunctionType(ir.VoidType(), [thread.type, _BYTES, _INT, _INT])
                start = builder.inttoptr(address, team_type.as_pointer())
                builder.call(start, [thread, builder.bitcast(shared, _BYTES), builder.trunc(workers, _INT), _INT(0)])
        failed = builder.icmp_signed("!=", builder.load(_field(builder, shared, _FAILED)), zero)
        with cgutils.if_unlikely(builder, failed):
            context.call_conv.return_user_exc(builder, RuntimeError, ("a part of a loop has failed",))
        return context.get_dummy_value()

    return types.void(team, first, last, function, arguments), codegen


def _thread(module: Any, shared_type: Any, run: Callable[..., Any]) -> Any:
    """What each thread of a team calls with what they share: it takes one part after the other."""
    name = module.get_unique_name("qhybrid_thread")
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [_BYTES]), name)
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    one = _WORD(1)
    shared = builder.bitcast(function.args[0], shared_type)
    parts, first, last, arguments = (builder.load(_field(builder, shared, i)) for i in range(_PARTS, _ARGUMENTS + 1))
    worker = builder.atomic_rmw("add", _field(builder, shared, _WORKER), one, "monotonic")
    take, do, end = (function.append_basic_block(n) for n in ("take", "do", "end"))
    builder.branch(take)
    builder.position_at_end(take)
    part = builder.atomic_rmw("add", _field(builder, shared, _PART), one, "monotonic")
    builder.cbranch(builder.icmp_signed("<", part, parts), do, end)
    builder.position_at_end(do)
    count = builder.sub(last, first)
    edges = [builder.sdiv(builder.mul(p, count), parts) for p in (part, builder.add(part, one))]
    status = run(builder, worker, part, *(builder.add(first, e) for e in edges), arguments)
    with cgutils.if_unlikely(builder, status.is_error):
        builder.store(one, _field(builder, shared, _FAILED))
    builder.branch(take)
    builder.position_at_end(end)
    builder.ret_void()
    return function


def _field(builder: Any, shared: Any, index: int) -> Any:
    return builder.gep(shared, [_INT(0), _INT(index)])


def _in_one_part(team: Team, first: int, last: int, function: Callable[..., None], arguments: Sequence[Any]) -> None:
    function(*team[3:], first, last, *arguments)


#: ``in_parts(team, first, last, function, arguments)`` calls ``function(worker, part, start, stop, *arguments)``, a row
#: kernel, for parts ``start .. stop - 1`` of ``first .. last - 1``. For kernels only, which return after it.
in_parts = _in_one_part if config.DISABLE_JIT else _in_parts
