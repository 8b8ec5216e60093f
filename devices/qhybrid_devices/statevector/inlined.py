"""Functions that are only ever inlined: optimized and translated where they are called, and nowhere else.

Numba optimizes each function together with all that it calls, and translates it to machine code; each caller does both
once more with all of it inlined. Of functions that nothing but kernels call, nobody ever runs the first translation: to
do without takes a quarter off the time to compile all.
"""

from __future__ import annotations

from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import PassManager


class _NoMachineCode:
    """Takes the place of a code generator where there is no code to tell about its environment."""

    def set_env(self, name: str, environment: Any) -> None:
        """Nothing: errors with arguments made at run time look it up, and what is printed; kernels have neither."""


class _InlinedLibrary(JITCodeLibrary):
    """The code of a function as it was written, with that of all functions it calls beside it."""

    @property
    def codegen(self) -> Any:
        return _NoMachineCode()

    def get_pointer_to_function(self, name: str) -> int:
        self._ensure_finalized()
        return 0

    def _optimize_final_module(self) -> None:
        """Left to the callers."""

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._finalized = True


class InlinedCompiler(CompilerBase):
    """Numba's compiler for functions that are only ever inlined."""

    def define_pipelines(self) -> list[PassManager]:
        """The usual passes, whose code goes to a library of the kind above."""
        self.state.library = _InlinedLibrary(self.state.targetctx.codegen(), self.state.func_id.func_qualname)
        return [DefaultPassBuilder.define_nopython_pipeline(self.state)]
