"""Functions that only move numbers become one operation an array; others stay what they are."""

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402
from jax.experimental import io_callback  # noqa: E402

import qhybrid as qml  # noqa: E402
from qhybrid.interfaces.jax_moves import moved_outputs, rearranged  # noqa: E402


@pytest.fixture(autouse=True)
def double_precision():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def stacked(w, x):
    return (jnp.stack([w[i, j] for i in range(2) for j in range(3)]), jnp.stack([x[:, 1], x[:, 0]]))


def reordered(w, x):
    return (jnp.stack([w[1, 2], w[0, 0], w[1, 2], x[3, 1], jnp.asarray(0.25), w[0, 1], x[0, 0], w[1, 0], w[0, 0]]),)


def with_constants(w, x):
    return (jnp.stack([*(w[0, j] for j in range(3)), 0.5, -1.0, *(w[1, j] for j in range(3))]), x[::-1, None])


def nothing(w, x):
    return (jnp.ones(3),)


MOVES = [stacked, reordered, with_constants, nothing]


def operands():
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(2, 3))), jnp.asarray(rng.normal(size=(4, 2)))


def equations(function, *arguments):
    return len(jax.make_jaxpr(function)(*arguments).jaxpr.eqns)


@pytest.mark.parametrize("function", MOVES)
def test_the_same_numbers(function):
    w, x = operands()
    wanted = function(w, x)
    got = jax.jit(lambda w, x: tuple(rearranged(function, w, x)))(w, x)
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("function", MOVES)
@pytest.mark.parametrize("mode", ["reverse", "forward", "mapped"])
def test_the_same_derivatives(function, mode):
    w, x = operands()
    rng = np.random.default_rng(1)
    weights = [rng.normal(size=np.shape(r)) for r in function(w, x)]

    def total(how):
        return lambda w, x: sum(jnp.sum(c * r**2) for c, r in zip(weights, how(w, x), strict=True))

    def derivative(value):
        if mode == "mapped":
            return jax.jit(jax.vmap(jax.grad(value, (0, 1)), (0, None)))(jnp.stack([w, 2 * w]), x)
        return jax.jit((jax.jacrev if mode == "reverse" else jax.jacfwd)(value, (0, 1)))(w, x)

    got = derivative(total(lambda w, x: rearranged(function, w, x)))
    for a, b in zip(got, derivative(total(function)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-14)


def test_many_slices_are_one_operation():
    w = jnp.arange(200.0)

    def many(w):
        return (jnp.stack([w[i] for i in range(200)]), jnp.stack([w[7 * i % 200] for i in range(200)]))

    assert equations(many, w) > 400
    assert equations(lambda w: tuple(rearranged(many, w)), w) < 10


@pytest.mark.parametrize(
    "function",
    [
        lambda w, x: (2 * w,),
        lambda w, x: (w + 1.0,),
        lambda w, x: (jnp.stack([w[0, 0] - x[0, 0]]),),
        lambda w, x: (jnp.where(w > 0, w, 0.0),),
        lambda w, x: (w[jnp.argmax(x[:, 0]) % 2],),
        lambda w, x: (jnp.sort(w[0]),),
        lambda w, x: (w.astype(jnp.float32).astype(float),),
        lambda w, x: (jax.jit(jnp.sin)(w),),
        lambda w, x: (w.astype(complex),),
    ],
)
def test_arithmetic_stays(function):
    w, x = operands()
    closed = jax.make_jaxpr(function)(w, x)
    assert moved_outputs(closed.jaxpr, [True, True]) is None
    got = jax.jit(lambda w, x: tuple(rearranged(function, w, x)))(w, x)
    for a, b in zip(got, function(w, x), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-15)


def test_arrays_from_outside():
    """Of a program that is being made, and constants of it."""
    w, x = operands()
    known = jnp.asarray([4.0, 5.0])

    def outer(w, x):
        return tuple(rearranged(lambda w: (jnp.stack([x[1, 0], w[0, 2], known[1], x[0, 1]]),), w))

    np.testing.assert_array_equal(jax.jit(outer)(w, x)[0], [x[1, 0], w[0, 2], 5.0, x[0, 1]])
    got = jax.jit(jax.grad(lambda x: outer(w, x)[0] @ jnp.arange(4.0)))(x)
    np.testing.assert_array_equal(got, [[0, 3], [0, 0], [0, 0], [0, 0]])


def test_other_arguments_and_types():
    w, _ = operands()
    tree = {"a": (w, "text"), "b": 3}
    got = jax.jit(lambda w: tuple(rearranged(lambda t: (t["a"][0][0, : t["b"]],), {**tree, "a": (w, "text")})))(w)
    np.testing.assert_array_equal(got[0], w[0])
    whole = jax.jit(lambda i: tuple(rearranged(lambda i: (i[::-1],), i)))(jnp.arange(3))
    np.testing.assert_array_equal(whole[0], [2, 1, 0])
    single = jax.jit(lambda w: tuple(rearranged(lambda w: (w.T.reshape(-1),), w)))(w.astype(jnp.float32))
    assert single[0].dtype == jnp.float32
    np.testing.assert_array_equal(single[0], w.astype(jnp.float32).T.reshape(-1))


def test_what_is_out_of_bounds():
    w = jnp.arange(3.0)

    def beyond(w):
        return (jnp.take(w, jnp.asarray([1, 7])),)

    got = jax.jit(lambda w: tuple(rearranged(beyond, w)))(w)
    np.testing.assert_array_equal(got[0], beyond(w)[0])
    assert np.isnan(got[0][1])


def single_wire(function):
    return qml.qnode(qml.device("qhybrid.statevector", wires=2), interface="jax")(function)


def test_random_keys():
    @single_wire
    def circuit(w, key):
        qml.RX(w[0, 0], wires=0)
        qml.RY(0.1 * jax.random.normal(key, ()), wires=0)
        return qml.expval(qml.Z(0))

    w, _ = operands()
    for key in (jax.random.key(1), jax.random.PRNGKey(1)):
        wanted = np.cos(w[0, 0]) * np.cos(0.1 * jax.random.normal(key, ()))
        np.testing.assert_allclose(jax.jit(circuit)(w, key), wanted, atol=1e-12)
        np.testing.assert_allclose(jax.jit(lambda w, key=key: circuit(w, key))(w), wanted, atol=1e-12)


def test_arrays_that_have_numbers_can_be_read():
    @single_wire
    def circuit(w, count):
        for i in range(int(count)):
            qml.RX(w[0, i], wires=0)
        return qml.expval(qml.Z(0))

    w, _ = operands()
    count = jnp.array(3)
    np.testing.assert_allclose(jax.jit(lambda w: circuit(w, count))(w), np.cos(w[0].sum()), atol=1e-12)


@pytest.mark.filterwarnings("ignore:.*out of bounds:FutureWarning")
def test_derivatives_of_what_is_out_of_bounds():
    w, _ = operands()

    def beyond(w):
        return (w[jnp.asarray([5, 0]), 1],)

    def total(how):
        return jax.jit(jax.grad(lambda w: jnp.sum(how(w)[0] ** 2)))(w)

    np.testing.assert_array_equal(total(lambda w: rearranged(beyond, w)), total(beyond))


def test_no_numbers_at_all():
    w, x = operands()
    empty = jax.jit(lambda w, x: tuple(rearranged(lambda w, x: (jnp.stack([x[:0, 0], x[:0, 1]]), w[0]), w, x)))(w, x)
    assert empty[0].shape == (2, 0)
    np.testing.assert_array_equal(empty[1], w[0])


def test_effects_happen_in_every_call():
    number = [0.3]

    @single_wire
    def circuit(w):
        qml.RX(w[0, 0], wires=0)
        qml.RX(io_callback(lambda: np.asarray(number[0]), jax.ShapeDtypeStruct((), float)), wires=0)
        return qml.expval(qml.Z(0))

    w, _ = operands()
    compiled = jax.jit(circuit)
    for number[0] in (0.3, 1.0):
        np.testing.assert_allclose(compiled(w), np.cos(w[0, 0] + number[0]), atol=1e-12)


def test_constants_keep_their_precision():
    w = jnp.arange(12.0, dtype=jnp.float32)
    constants = np.random.default_rng(2).normal(size=12)

    def mixed(w):
        return (jnp.stack([v for i in range(12) for v in (w[i].astype(float), jnp.asarray(constants[i]))]),)

    got = jax.jit(lambda w: tuple(rearranged(mixed, w)))(w)[0]
    assert got.dtype == float
    np.testing.assert_array_equal(got, mixed(w)[0])


def test_a_circuit_without_numbers_of_jax():
    @qml.qnode(qml.device("qhybrid.statevector", wires=1), interface="jax")
    def circuit(x):
        qml.RX(0.3, wires=0)
        return qml.expval(qml.Z(0))

    np.testing.assert_allclose(jax.jit(circuit)(jnp.asarray(0.2)), np.cos(0.3), atol=1e-12)
    assert jax.jit(jax.grad(circuit))(jnp.asarray(0.2)) == 0


def test_programs_of_circuits_are_short():
    @qml.qnode(qml.device("qhybrid.statevector", wires=4), interface="jax")
    def circuit(weights, x):
        qml.AngleEmbedding(x, wires=range(4))
        qml.StronglyEntanglingLayers(weights, wires=range(4))
        return qml.expval(qml.Z(0) @ qml.Z(1))

    rng = np.random.default_rng(3)
    weights, x = jnp.asarray(rng.normal(size=(5, 4, 3))), jnp.asarray(rng.normal(size=(6, 4)))
    assert equations(circuit, weights, x) < 12
    assert equations(jax.grad(lambda w: circuit(w, x).sum()), weights) < 30
    np.testing.assert_allclose(jax.jit(circuit)(weights, x), circuit(np.asarray(weights), np.asarray(x)), atol=1e-12)
