"""Functions that are only ever inlined: right where they are called, and nowhere else."""

import numpy as np
import pytest
from numba import config, typeof

from qhybrid_devices.statevector._jit import kernel, row_kernel


@row_kernel
def largest(x):
    best = x[0]
    for i in range(1, x.shape[0]):
        best = max(best, x[i])
    return best


@row_kernel
def scaled(x, scale):
    if scale == 0:
        raise ValueError("nothing is left of zero times anything")
    return scale * largest(x)


@kernel
def scaled_rows(rows, scale, out):
    for i in range(rows.shape[0]):
        out[i] = scaled(rows[i], scale)


@pytest.fixture
def rows():
    return np.random.default_rng(1).normal(size=(5, 7))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_called_by_each_other(rows, dtype):
    rows, out = rows.astype(dtype), np.empty(5, dtype)
    scaled_rows(rows, 2.0, out)
    np.testing.assert_array_equal(out, 2 * rows.max(1))


def test_errors(rows):
    with pytest.raises(ValueError, match="nothing is left"):
        scaled_rows(rows, 0.0, np.empty(5))


@pytest.mark.skipif(bool(config.DISABLE_JIT), reason="nothing is compiled")
def test_no_machine_code(rows):
    """Only the kernel has any."""
    scaled_rows(rows, 1.0, np.empty(5))
    largest.compile((typeof(rows[0]),))  # they were not compiled if the kernel was kept on disk
    scaled.compile((typeof(rows[0]), typeof(1.0)))
    for function, has_any in ((largest, False), (scaled, False), (scaled_rows, True)):
        assert function.overloads
        for compiled in function.overloads.values():
            engine = compiled.library._codegen._engine
            assert engine.is_symbol_defined(compiled.fndesc.mangled_name) == has_any
