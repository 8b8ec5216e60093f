"""Calls of Python by compiled programs: arrays of all kinds, errors, how long a call is kept; residuals in programs."""

import gc
import subprocess
import sys
import textwrap
from unittest import mock

import numpy as np
import pytest

from qhybrid import errors, interfaces
from qhybrid.gradients import Adjoint, ParameterShift
from qhybrid_devices.statevector.executable import StateVectorExecutable
from qhybrid_devices.statevector.small import SmallRun
from tests.gradients.circuits import ANGLES, ARRAYS, compile_fast, function, random_inputs

jax = pytest.importorskip("jax")
jnp = jax.numpy
jax_host = pytest.importorskip("qhybrid.interfaces.jax")
jax_ffi = pytest.importorskip("qhybrid.interfaces.jax_ffi")

called = jax.extend.core.Primitive("called")
called.multiple_results = True


@called.def_abstract_eval
def _called_types(*avals, function, types):
    return [jax.core.ShapedArray(t.shape, t.dtype) for t in types]


jax.interpreters.mlir.register_lowering(called, jax_ffi.lowering(lambda function, types: function), platform="cpu")


def compiled(function, *types):
    return jax.jit(lambda *xs: called.bind(*xs, function=function, types=types))


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.experimental.enable_x64():
        yield


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "complex64", "complex128", "int32", "bool"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,), (2, 0, 3)])
def test_arrays_are_those_of_the_program(dtype, shape):
    seen = []

    def function(x, y):
        seen.append((x, y))
        return y, x

    x, y = jnp.ones(shape, dtype), jnp.arange(6.0).reshape(2, 3).T
    turned = compiled(function, jax.ShapeDtypeStruct((3, 2), y.dtype), jax.ShapeDtypeStruct(shape, dtype))(x, y)
    assert [(t.shape, t.dtype) for t in turned] == [((3, 2), y.dtype), (shape, jnp.dtype(dtype))]
    np.testing.assert_array_equal(turned[0], y)
    np.testing.assert_array_equal(turned[1], x)
    ((kept, other),) = seen
    assert kept.dtype == jnp.dtype(dtype)
    assert kept.flags.owndata
    np.testing.assert_array_equal(other, y)  # a copy: it is there after the program has ended


def test_results_take_the_announced_precision():
    (y,) = compiled(lambda x: (np.full(2, 1 / 3),), jax.ShapeDtypeStruct((2,), jnp.float32))(1.0)
    np.testing.assert_array_equal(y, np.full(2, 1 / 3, np.float32))


def test_an_error_is_raised_with_its_traceback():
    def function(x):
        raise errors.DifferentiationError("theta is odd")

    call = compiled(function, jax.ShapeDtypeStruct((), float))
    for _ in range(2):
        with pytest.raises(
            jax.errors.JaxRuntimeError, match=r"(?s)Traceback.*in function.*DifferentiationError: theta is odd"
        ):
            jax.block_until_ready(call(1.0))


@pytest.mark.parametrize("given", [(), (np.zeros(2), np.zeros(2)), (np.zeros(3),)])
def test_wrong_results_are_an_error(given):
    with pytest.raises(jax.errors.JaxRuntimeError, match="ValueError"):
        jax.block_until_ready(compiled(lambda x: given, jax.ShapeDtypeStruct((2,), float))(1.0))


def test_an_interrupt_reaches_the_main_thread():
    def function(x):
        raise KeyboardInterrupt

    interrupted = mock.patch.object(jax_ffi._thread, "interrupt_main")
    with interrupted as interrupt, pytest.raises(jax.errors.JaxRuntimeError, match="KeyboardInterrupt"):
        jax.block_until_ready(compiled(function, jax.ShapeDtypeStruct((), float))(1.0))
    interrupt.assert_called_once_with()


def test_calls_live_as_long_as_their_programs():
    calls, kept = jax_ffi._CALLS, []
    before = set(calls._live)
    call = compiled(lambda x: (kept, x)[1:], jax.ShapeDtypeStruct((), float))
    assert call(2.0)[0] == 2
    gc.collect()
    (number,) = set(calls._live) - before
    assert calls.find(number).function(1) == (1,)
    del call
    jax.clear_caches()
    gc.collect()
    assert number not in calls._live
    assert calls.find(number).function(1) == (1,)  # a program that is still running finds it
    for _ in range(jax_ffi.MOST_RETIRED):
        calls.add(None, jax_ffi._Program())
    assert len(calls._retired) == jax_ffi.MOST_RETIRED
    with pytest.raises(RuntimeError, match="a quantum circuit of another process, or one that is gone"):
        calls.find(number)


# ------------------------------------------------------------------ what evaluations leave for derivatives


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("name", ["batched and shared", "state and more", "amplitudes"])
@pytest.mark.parametrize("lanes", [1, 3])
def test_gradients_run_the_circuit_forward_once(transform, name, lanes):
    f = function((ANGLES | ARRAYS)[name], Adjoint(), compile_fast)

    def value(*xs):
        return sum(jnp.sum(jnp.abs(y) ** 2) for y in interfaces.apply("jax", f, xs))

    inputs = [jnp.stack([jnp.asarray(x)] * lanes) for x in random_inputs((ANGLES | ARRAYS)[name])]
    one = jax.grad(value, tuple(range(len(inputs))))
    gradient = transform(jax.vmap(one) if lanes > 1 else lambda *xs: one(*[x[0] for x in xs]))
    expected = gradient(*inputs)
    general = mock.patch.object(
        StateVectorExecutable, "_forward", autospec=True, side_effect=StateVectorExecutable._forward
    )
    small = mock.patch.object(SmallRun, "_final", autospec=True, side_effect=SmallRun._final)
    with general as general, small as small:
        again = gradient(*inputs)
    assert general.call_count + small.call_count == 1
    for a, b in zip(again, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_residual_is_used_at_its_own_inputs_only():
    f = function(ANGLES["one rotation"], Adjoint(), compile_fast)

    def value(x):
        return interfaces.apply("jax", f, (x,))[0].sum()

    def slope(x):
        return (value(x + 1e-6) - value(x - 1e-6)) / 2e-6

    both = jax.jit(lambda x, y: jax.vjp(lambda x, y: value(x) * value(y), x, y)[1](1.0))
    x, y = jnp.array([0.3]), jnp.array([0.9])
    np.testing.assert_allclose(both(x, y), [[slope(x) * value(y)], [value(x) * slope(y)]], atol=1e-8)
    _, pull = jax.vjp(value, x)
    jax.grad(value)(y)
    for _ in range(2):
        np.testing.assert_allclose(pull(1.0)[0], [slope(x)], atol=1e-8)


def test_a_residual_is_not_used_where_only_cotangents_are_mapped():
    f = function(ANGLES["state and more"], Adjoint(), compile_fast)
    inputs = [jnp.asarray(x) for x in random_inputs(ANGLES["state and more"])]
    jacobian = jax.jit(jax.jacrev(lambda x: interfaces.apply("jax", f, (x, *inputs[1:]))[0]))
    taken, take = [], jax_host._Residual.take
    with mock.patch.object(jax_host._Residual, "take", lambda *args: taken.append(take(*args)) or taken[-1]):
        rows = jacobian(inputs[0])
    assert taken == [None]
    forward = jax.jacfwd(lambda x: interfaces.apply("jax", f, (x, *inputs[1:]))[0])(inputs[0])
    np.testing.assert_allclose(rows, forward, atol=1e-12)


def test_nothing_is_left_where_no_derivative_is_compiled():
    f = function(ANGLES["one rotation"], Adjoint(), compile_fast)
    moved = jax.jit(lambda x: jax.jvp(lambda x: interfaces.apply("jax", f, (x,))[0], (x,), (jnp.ones(1),)))
    with mock.patch.object(jax_host._Residual, "leave", autospec=True) as leave:
        y, dy = moved(jnp.array([0.3]))
    assert -1 < dy < 0 < y < 1
    leave.assert_not_called()


@pytest.mark.parametrize("method", [Adjoint(), ParameterShift()])
def test_callbacks_of_other_platforms_give_the_same(method):
    program = ANGLES["state and more"] if isinstance(method, Adjoint) else ANGLES["batched and shared"]
    f, inputs = function(program, method, compile_fast), random_inputs(program)
    node = jax_host._Node(f)
    expected = jax.jit(lambda *xs: interfaces.apply("jax", f, xs))(*inputs)
    got = jax.jit(lambda *xs: jax_host._evaluate_later(*xs, node=node))(*inputs)
    for a, b in zip(got, expected, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_batches_spread_over_devices(tmp_path):
    script = textwrap.dedent("""
        import jax, numpy as np, qhybrid
        from jax.sharding import NamedSharding, PartitionSpec
        jax.config.update("jax_enable_x64", True)

        @qhybrid.qnode(qhybrid.device("qhybrid.statevector", wires=2), interface="jax")
        def circuit(x, w):
            qhybrid.RX(x, wires=0)
            qhybrid.RY(w, wires=1)
            qhybrid.CNOT([0, 1])
            return qhybrid.expval(qhybrid.PauliZ(1))

        gradient = jax.jit(jax.grad(lambda w, x: circuit(x, w).sum()))
        x = np.linspace(0, 1, 4)
        mesh = jax.make_mesh((2,), ("batch",))
        spread = jax.device_put(x, NamedSharding(mesh, PartitionSpec("batch")))
        assert len(spread.sharding.device_set) == 2
        np.testing.assert_allclose(gradient(0.3, spread), -np.sin(0.3) * np.cos(x).sum(), atol=1e-12)
    """)
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, timeout=300, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["result = run(0.5)", "run(0.5)"])
def test_a_process_ends_after_the_calls_in_it(tmp_path, keep):
    """One that is not waited for is ended, and with its thread JAX does."""
    script = textwrap.dedent(f"""
        import functools, pathlib, time, jax, numpy as np
        from jax.extend.core import Primitive
        from jax.interpreters import mlir
        from qhybrid.interfaces import jax_ffi

        def slow(x):
            time.sleep(1)
            pathlib.Path("done").touch()
            return [x]

        call = Primitive("slow")
        call.def_abstract_eval(lambda x: x)
        mlir.register_lowering(call, jax_ffi.lowering(lambda: slow), platform="cpu")
        run = jax.jit(call.bind)
        {keep}
        for _ in range(200):
            if jax_ffi._RUNNING:
                break
            time.sleep(0.001)
    """)
    environment = {"PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, timeout=60, env=environment)
    assert (tmp_path / "done").exists()


def test_one_device_runs_a_call_unless_each_has_its_part():
    """Of a program over several devices, as JAX's own callbacks are."""
    one = jnp.ones(())
    text = compiled(lambda x: [x], jax.ShapeDtypeStruct((), one.dtype)).lower(one).as_text()
    (line,) = [line for line in text.splitlines() if jax_ffi.TARGET in line]
    assert "maximal" in line
