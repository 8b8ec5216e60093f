"""What the code of a function can read from outside, from its bytecode.

Only instructions in the lists below are understood; a new one, of a newer Python, refuses the function.
"""

from __future__ import annotations

import dis
import sys
import types
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache

from qhybrid.capture.libraries import is_changing, is_library
from qhybrid.errors import CaptureError


@dataclass(frozen=True, slots=True)
class Read:
    """One read: of a ``global``, a closure ``cell`` or the ``owner`` (``self``), and the attributes taken from it."""

    kind: str
    name: str
    attributes: tuple[str, ...]


def reads(code: types.CodeType, owners: Collection[str] = ()) -> tuple[list[Read], set[str]]:
    """Everything that ``code`` and the functions inside it can read from outside.

    Args:
        code: of a function
        owners: local variables that hold a known object

    Returns:
        the reads, and all names and strings in the code, by which attributes may be looked up

    Raises:
        CaptureError: the code writes outer variables, imports what is not a library, or is not understood
    """
    found: dict[Read, None] = {}
    names: set[str] = set()
    for part in _nested(code):
        names.update(part.co_names, (c for c in part.co_consts if isinstance(c, str)))
        inherited = owners if part is code else [n for n in owners if n in part.co_freevars]
        for read in _reads_of(part, code, inherited):
            found[read] = None
    return list(found), names


def written_attributes(code: types.CodeType) -> set[str]:
    """Names of the attributes that the code sets or deletes."""
    writes = ("STORE_ATTR", "DELETE_ATTR")
    return {i.argval for part in _nested(code) for i in _instructions(part) if i.opname in writes}


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _nested(constant)


@lru_cache(maxsize=1024)
def _instructions(code: types.CodeType) -> tuple[dis.Instruction, ...]:
    return tuple(i for i in dis.get_instructions(code) if i.opname not in _NOTHING)


def _reads_of(code: types.CodeType, outer: types.CodeType, owners: Collection[str]) -> Iterator[Read]:
    instructions = _instructions(code)
    for position, instruction in enumerate(instructions):
        op, name = instruction.opname, instruction.argval
        if op in _GLOBAL_READS:
            kind = "global"
        elif op in _CELL_READS:
            if name in owners:
                kind = "owner"
            elif name in outer.co_freevars:
                kind = "cell"
            else:
                continue
        elif op in _LOCAL_READS:
            loaded = name if isinstance(name, tuple) else (name,)
            if op.startswith("STORE") and loaded[0] in owners:
                raise CaptureError(f"{outer.co_name} assigns to {loaded[0]}")
            for local in loaded[:-1]:
                if local in owners:
                    yield Read("owner", local, ())
            if loaded[-1] not in owners:
                continue
            kind, name = "owner", loaded[-1]
        else:
            _check_instruction(op, name, outer, owners)
            continue
        attributes = []
        for following in instructions[position + 1 :]:
            if following.opname not in _ATTRIBUTES:
                break
            attributes.append(following.argval)
        yield Read(kind, name, tuple(attributes))


def _check_instruction(op: str, name: object, outer: types.CodeType, owners: Collection[str]) -> None:
    where = outer.co_name
    if op in ("STORE_GLOBAL", "DELETE_GLOBAL"):
        raise CaptureError(f"{where} writes the global variable {name}")
    if op in ("STORE_DEREF", "DELETE_DEREF"):
        if name in outer.co_freevars:
            raise CaptureError(f"{where} writes the outer variable {name}")
        return
    if op.startswith("STORE_FAST") or op == "DELETE_FAST":
        if any(n in owners for n in (name if isinstance(name, tuple) else (name,))):
            raise CaptureError(f"{where} assigns to {name}")
        return
    if op == "IMPORT_NAME":
        _check_import(str(name), where)
        return
    if op == "IMPORT_STAR" or op not in _HARMLESS:
        version = "{}.{}".format(*sys.version_info)
        raise CaptureError(f"{where} uses the instruction {op}, which is not understood on Python {version}")


def _check_import(module: str, where: str) -> None:
    if is_changing(module) or not module or not is_library(module.split(".")[0]):
        raise CaptureError(f"{where} imports {module or 'a neighbouring module'}; import it at the top of the module")


_NOTHING = frozenset({"PUSH_NULL", "CACHE", "EXTENDED_ARG", "NOP", "RESUME", "PRECALL", "COPY_FREE_VARS", "NOT_TAKEN"})
_GLOBAL_READS = frozenset({"LOAD_GLOBAL", "LOAD_NAME"})
_CELL_READS = frozenset({"LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF"})
_LOCAL_READS = frozenset({
    "LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_FAST_AND_CLEAR", "LOAD_FAST_LOAD_FAST", "STORE_FAST_LOAD_FAST",
    "LOAD_FAST_BORROW", "LOAD_FAST_BORROW_LOAD_FAST_BORROW",
})  # fmt: skip
_ATTRIBUTES = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
_HARMLESS = frozenset({
    # 3.11
    "ASYNC_GEN_WRAP", "BEFORE_WITH", "BINARY_OP", "BINARY_SUBSCR", "BUILD_CONST_KEY_MAP", "BUILD_LIST", "BUILD_MAP",
    "BUILD_SET", "BUILD_SLICE", "BUILD_STRING", "BUILD_TUPLE", "CALL", "CALL_FUNCTION_EX", "CHECK_EXC_MATCH",
    "COMPARE_OP", "CONTAINS_OP", "COPY", "DELETE_ATTR", "DELETE_SUBSCR", "DICT_MERGE", "DICT_UPDATE", "FORMAT_VALUE",
    "FOR_ITER", "GET_ITER", "GET_LEN", "GET_YIELD_FROM_ITER", "IMPORT_FROM", "IS_OP", "JUMP_BACKWARD",
    "JUMP_BACKWARD_NO_INTERRUPT", "JUMP_FORWARD", "JUMP_IF_FALSE_OR_POP", "JUMP_IF_TRUE_OR_POP", "KW_NAMES",
    "LIST_APPEND", "LIST_EXTEND", "LIST_TO_TUPLE", "LOAD_ASSERTION_ERROR", "LOAD_ATTR", "LOAD_BUILD_CLASS",
    "LOAD_CLOSURE", "LOAD_CONST", "LOAD_METHOD", "MAKE_CELL", "MAKE_FUNCTION", "MAP_ADD", "MATCH_CLASS", "MATCH_KEYS",
    "MATCH_MAPPING", "MATCH_SEQUENCE", "POP_EXCEPT", "POP_JUMP_BACKWARD_IF_FALSE", "POP_JUMP_BACKWARD_IF_NONE",
    "POP_JUMP_BACKWARD_IF_NOT_NONE", "POP_JUMP_BACKWARD_IF_TRUE", "POP_JUMP_FORWARD_IF_FALSE",
    "POP_JUMP_FORWARD_IF_NONE", "POP_JUMP_FORWARD_IF_NOT_NONE", "POP_JUMP_FORWARD_IF_TRUE", "POP_TOP", "PUSH_EXC_INFO",
    "RAISE_VARARGS", "RERAISE", "RETURN_GENERATOR", "RETURN_VALUE", "SEND", "SET_ADD", "SET_UPDATE", "STORE_ATTR",
    "STORE_NAME", "STORE_SUBSCR", "SWAP", "UNARY_INVERT", "UNARY_NEGATIVE", "UNARY_NOT", "UNARY_POSITIVE", "UNPACK_EX",
    "UNPACK_SEQUENCE", "WITH_EXCEPT_START", "YIELD_VALUE", "DELETE_NAME",
    # 3.12
    "BINARY_SLICE", "CALL_INTRINSIC_1", "CALL_INTRINSIC_2", "CLEANUP_THROW", "END_FOR", "END_SEND", "POP_JUMP_IF_FALSE",
    "POP_JUMP_IF_NONE", "POP_JUMP_IF_NOT_NONE", "POP_JUMP_IF_TRUE", "RETURN_CONST", "STORE_SLICE", "INTERPRETER_EXIT",
    # 3.13
    "BUILD_SET_UPDATE", "CALL_KW", "CONVERT_VALUE", "EXIT_INIT_CHECK", "FORMAT_SIMPLE", "FORMAT_WITH_SPEC",
    "SET_FUNCTION_ATTRIBUTE", "TO_BOOL",
})  # fmt: skip
