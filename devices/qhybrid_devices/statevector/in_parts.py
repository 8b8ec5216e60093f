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

Each worker begins with a share of the parts of its own, and then does what others have not begun. The caller is worker
0 and begins with the same share in all loops of so many parts; what one kernel leaves in the cache of its processor is
then still there for the next one. Helpers are numbered as they come, so of two workers each has the same share again,
of more only the caller has it for certain.
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
#: What threads share: the number of the next helper, whether a part failed, who the caller is, where it is counted how
#: many parts of each share have been taken, how many parts there are; then the arguments of the kernel: its team, its
#: range, and others.
_NEXT_HELPER, _FAILED, _CALLER, _TAKEN, _PARTS = range(5)
#: What a kernel returns when it has raised nothing: Numba's codes.
_NO_ERROR = (0, -2)
#: With more workers than this, some begin with the same share.
_MOST_SHARES = 64


@intrinsic
def _in_parts(typingctx, team, first, last):
    def codegen(context, builder, sig, values):
        kernel, address = builder.function, builder.extract_value(values[0], 0)
        zero = _WORD(0)
        together = builder.icmp_signed("!=", address, zero)
        with builder.if_then(together):
            context_, workers, parts = (builder.extract_value(values[0], i) for i in (1, 2, 3))
            taken = cgutils.alloca_once(builder, _WORD, size=_MOST_SHARES)
            cgutils.memset(builder, taken, _WORD(8 * _MOST_SHARES), 0)
            # Of a compiled function the first two arguments are where it leaves its result and its error.
            content = [_WORD(1), zero, _this_thread(builder), taken, parts, *kernel.args[2:]]
            shared = cgutils.alloca_once(builder, ir.LiteralStructType([v.type for v in content]))
            for i, value in enumerate(content):
                builder.store(value, _field(builder, shared, i))
            thread = _thread(builder.module, shared.type, kernel)
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
    fields = (builder.load(_field(builder, shared, _CALLER + i)) for i in range(len(kernel.args) + 1))
    caller, taken, parts, _, _, workers, _, _, _, first, last, *others = fields
    worker, most = _number(builder, shared, caller), _WORD(_MOST_SHARES)
    shares = builder.select(builder.icmp_signed("<", workers, most), workers, most)
    with cgutils.for_range(builder, shares) as loop:
        owner = builder.srem(builder.add(worker, loop.index), shares)
        start, stop = (builder.sdiv(builder.mul(w, parts), shares) for w in (owner, builder.add(owner, one)))
        look, take, do, end = (function.append_basic_block(n) for n in ("look", "take", "do", "end"))
        builder.branch(look)
        builder.position_at_end(look)  # before a counter is written, which takes it from all other processors
        counter = builder.gep(taken, [owner])
        begun = builder.add(start, builder.load_atomic(counter, "monotonic", 8))
        builder.cbranch(builder.icmp_signed("<", begun, stop), take, end)
        builder.position_at_end(take)
        part = builder.add(start, builder.atomic_rmw("add", counter, one, "monotonic"))
        builder.cbranch(builder.icmp_signed("<", part, stop), do, end)
        builder.position_at_end(do)
        count = builder.sub(last, first)
        edges = [builder.sdiv(builder.mul(p, count), parts) for p in (part, builder.add(part, one))]
        items = [builder.add(first, e) for e in edges]
        code = builder.call(kernel, [*left, zero, zero, one, one, worker, part, *items, *others])
        is_error = builder.and_(*(builder.icmp_signed("!=", code, _INT(c)) for c in _NO_ERROR))
        with cgutils.if_unlikely(builder, is_error):
            builder.store(one, _field(builder, shared, _FAILED))
        builder.branch(look)
        builder.position_at_end(end)
    builder.ret_void()
    return function


def _number(builder: Any, shared: Any, caller: Any) -> Any:
    """The number of the worker that this thread is: 0 if it is the caller, those of helpers as they come."""
    number = cgutils.alloca_once_value(builder, _WORD(0))
    with builder.if_then(builder.icmp_unsigned("!=", _this_thread(builder), caller)):
        helper = builder.atomic_rmw("add", _field(builder, shared, _NEXT_HELPER), _WORD(1), "monotonic")
        builder.store(helper, number)
    return builder.load(number)


def _this_thread(builder: Any) -> Any:
    """What tells this thread from others."""
    kind = ir.FunctionType(_WORD, [])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, "pthread_self"), [])


def _field(builder: Any, shared: Any, index: int) -> Any:
    return builder.gep(shared, [_INT(0), _INT(index)])


def _in_one_part(team: Team, first: int, last: int) -> bool:
    return False


#: ``in_parts(team, first, last)``: whether other calls of this kernel have done the items ``first .. last - 1``, as is
#: asked for by ``team``. The first thing that a kernel does, whose first arguments these are; an error of one of those
#: calls is a ``RuntimeError`` of this one.
in_parts = _in_one_part if config.DISABLE_JIT else _in_parts
