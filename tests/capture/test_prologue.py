"""Derivatives, hosts, dtypes and descriptions of a compiled prologue."""

import copy

import autograd
import autograd.numpy as anp
import numpy as np
import pennylane as qml
import pytest
import torch
from autograd.tracer import Box
from pennylane import numpy as pnp

from qhybrid.capture.prologue import Prologue
from qhybrid.capture.signature import flatten, leaf_names
from qhybrid.capture.tracer import Graph
from qhybrid.errors import CaptureError
from tests.capture.tracing import Traced, check, plain


def _rotations(values, wires=0):
    for value in values:
        qml.RX(value, wires)


CIRCUITS = {
    "gather": lambda x, w: _rotations([x[i % 3] for i in range(7)] + [w[1, 2], w[0, 0]]),
    "affine": lambda x, w: _rotations([2 * x[i] - 1 for i in range(3)] + [w[1, 1] / 3]),
    "elementwise": lambda x, w: _rotations([qml.math.tanh(w[0, i] * x[i] + 0.3) for i in range(3)]),
    "two levels": lambda x, w: _rotations([qml.math.sin(x[i] ** 2) * qml.math.exp(w[1, i]) for i in range(3)]),
    "general": lambda x, w: _rotations(qml.math.tensordot(w, qml.math.sin(x), axes=[[1], [0]])),
    "norm": lambda x, w: _rotations(2 * (x / qml.math.linalg.norm(x)) + w[0]),
    "template": lambda x, w: (qml.AngleEmbedding(x, range(3)), qml.BasicEntanglerLayers(w, range(3))),
}
BATCHED = {
    "rows": lambda x, w: [qml.RX(x[:, i] * 2, 0) for i in range(3)] and qml.RX(w[0, 0], 0),
    "re-upload": lambda x, w: _rotations([w[j, i] * x[:, i] + w[j, 0] for i in range(3) for j in range(2)]),
    "nonlinear": lambda x, w: _rotations([qml.math.sin(w[0, i] * x[:, i]) ** 2 for i in range(3)]),
    "linear": lambda x, w: _rotations(qml.math.T(qml.math.tanh(x @ qml.math.T(w)))),
    "flipped batch": lambda x, w: _rotations([x[[3, 1, 0, 2], 0] + w[0, 0]]),
    "mixed": lambda x, w: _rotations([x[:, 0], w[0, 1] * x[:, 1], qml.math.sin(x[:, 2])]),
}


def arguments(batch=None, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0.2, 0.9, (3,) if batch is None else (batch, 3)), rng.uniform(0.2, 0.9, (2, 3))


def _cases():
    yield from ((name, f, None) for name, f in CIRCUITS.items())
    yield from ((name, f, 4) for name, f in BATCHED.items())
    yield "square batch", BATCHED["re-upload"], 3
    yield "one sample", BATCHED["nonlinear"], 1


CASES = [pytest.param(f, batch, id=name) for name, f, batch in _cases()]


def _weighted(values, math):
    return sum(math.sum(math.sin((i + 1.0) * v)) for i, v in enumerate(values))


def _recorded(traced, args):
    return [p for op in traced.tape(args).operations for p in op.data]


@pytest.mark.parametrize(("function", "batch"), CASES)
def test_torch_derivatives(function, batch):
    args = tuple(torch.tensor(a, requires_grad=True) for a in arguments(batch))
    traced = Traced(function, args)

    def ours(*live):
        return _weighted(traced(live), torch)

    def direct(*live):
        return _weighted(_recorded(traced, live), torch)

    for a, b in zip(torch.autograd.grad(ours(*args), args, allow_unused=True),
                    torch.autograd.grad(direct(*args), args, allow_unused=True), strict=True):  # fmt: skip
        torch.testing.assert_close(torch.zeros(()) if a is None else a, torch.zeros(()) if b is None else b,
                                   check_dtype=False)  # fmt: skip
    ours_hessian = torch.autograd.functional.hessian(ours, args)
    direct_hessian = torch.autograd.functional.hessian(direct, args)
    torch.testing.assert_close(ours_hessian, direct_hessian)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.parametrize(("function", "batch"), CASES)
def test_torch_func(function, batch):
    args = tuple(torch.tensor(a) for a in arguments(batch))
    traced = Traced(function, args)

    def ours(*live):
        return _weighted(traced(live), torch)

    expected = torch.autograd.functional.jacobian(lambda *live: _weighted(_recorded(traced, live), torch), args)
    torch.testing.assert_close(torch.func.jacrev(ours, argnums=(0, 1))(*args), expected)
    torch.testing.assert_close(torch.func.jacfwd(ours, argnums=(0, 1))(*args), expected)
    stacked = tuple(torch.stack([a, 2 * a, a + 0.1]) for a in args)
    samples = torch.stack([ours(*(s[i] for s in stacked)) for i in range(3)])
    torch.testing.assert_close(torch.func.vmap(ours)(*stacked), samples)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(ours))(*stacked)[0], torch.func.grad(ours)(*args))


@pytest.mark.parametrize(("function", "batch"), CASES)
def test_autograd_derivatives(function, batch):
    args = tuple(pnp.array(a, requires_grad=True) for a in arguments(batch))
    traced = Traced(function, args)

    def ours(x, w):
        return _weighted(traced((x, w)), anp)

    def direct(x, w):
        return _weighted(_recorded(traced, (x, w)), anp)

    for argnum in (0, 1):
        got, expected = autograd.grad(ours, argnum)(*args), autograd.grad(direct, argnum)(*args)
        np.testing.assert_allclose(got, expected, atol=1e-12)
        second = [autograd.jacobian(autograd.grad(f, argnum), argnum)(*args) for f in (ours, direct)]
        np.testing.assert_allclose(*second, atol=1e-12)


@pytest.mark.parametrize(("function", "batch"), CASES)
def test_tracing_under_transforms_gives_the_same_program(function, batch):
    args = tuple(torch.tensor(a) for a in arguments(batch))
    expected = [plain(v) for v in Traced(function, args)(args)]

    def inside(*live):
        kept.append(Traced(function, live))
        return sum(v.sum() for v in kept[-1](live))

    kept = []
    torch.func.grad(inside)(*args)
    torch.func.vmap(inside)(*(a[None] for a in args))
    torch.func.vmap(torch.func.grad(inside))(*(a[None] for a in args))
    for traced in kept:
        for got, value in zip(traced(args), expected, strict=True):
            np.testing.assert_allclose(plain(got), value)
    arrays = tuple(pnp.array(a, requires_grad=True) for a in arguments(batch))

    def inside_autograd(x, w):
        kept.append(Traced(function, (x, w)))
        return sum(anp.sum(v) for v in kept[-1]((x, w)))

    autograd.grad(inside_autograd)(*arrays)
    for got, value in zip(kept[-1](arrays), expected, strict=True):
        np.testing.assert_allclose(got, value)


def test_two_uses_of_an_element_add_up():
    x = torch.tensor([0.1, 0.2], requires_grad=True)
    traced = Traced(lambda x: _rotations([x[0], x[0], 3 * x[1], x[0]]), (x,))
    sum(traced((x,))).backward()
    torch.testing.assert_close(x.grad, torch.tensor([3.0, 3.0]))


@pytest.mark.parametrize(("dtypes", "expected"), [
    ((torch.float32, torch.float32), torch.float32),
    ((torch.float32, torch.float64), torch.float64),
])  # fmt: skip
@pytest.mark.parametrize("name", CIRCUITS)
def test_torch_dtypes_are_kept(name, dtypes, expected):
    if name == "general" and len(set(dtypes)) > 1:
        pytest.skip("torch has no product of mixed dtypes")
    args = tuple(torch.tensor(a, dtype=d) for a, d in zip(arguments(), dtypes, strict=True))
    traced = Traced(CIRCUITS[name], args)
    assert all(v.dtype == expected for v in traced(args))


def test_numpy_dtypes_are_kept():
    args = tuple(a.astype(np.float32) for a in arguments())
    assert all(v.dtype == np.float32 for v in Traced(CIRCUITS["affine"], args)(args))


def test_python_floats_follow_the_arrays():
    def function(x, scale):
        _rotations([scale * x[0], x[1] + scale, scale])

    x = torch.tensor([0.1, 0.2])
    traced = Traced(function, (x, 0.5))
    torch.testing.assert_close(torch.stack(traced((x, 0.25))), torch.tensor([0.025, 0.45, 0.25]))
    assert traced((x, 0.25))[0].dtype == torch.float32
    assert Traced(lambda s: qml.RX(2 * s, 0), (0.5,))((1.5,))[0] == 3.0
    grad = autograd.grad(lambda s: Traced(lambda s: qml.RX(2 * s**2, 0), (s,))((s,))[0])
    assert grad(0.5) == pytest.approx(2.0)


def test_mixed_hosts_join_in_torch():
    x, w = np.array([0.1, 0.2]), torch.tensor([0.3, 0.4], dtype=torch.float64, requires_grad=True)
    traced = Traced(lambda x, w: _rotations([x[0] * w[0], x[1], w[1]]), (x, w))
    values = traced((x, w))
    torch.testing.assert_close(torch.autograd.grad(sum(values), w)[0], torch.tensor([0.1, 1.0], dtype=torch.float64))


def test_complex_leaves():
    def function(z):
        _rotations([z.real[0], 2 * z.imag[1]])

    z = torch.tensor([0.1 + 0.2j, 0.3 + 0.4j], requires_grad=True)
    traced = Traced(function, (z,))
    values = traced((z,))
    assert [v.item() for v in values] == pytest.approx([0.1, 0.8])
    torch.testing.assert_close(torch.autograd.grad(sum(values), z)[0], torch.tensor([1.0, 2.0j]))
    assert Traced(lambda z: qml.RX(qml.math.imag(z), 0), (0.1 + 0.2j,))((0.3 + 0.7j,)) == [0.7]


def test_arrays_are_returned_whole():
    def function(u, s, x):
        qml.QubitUnitary(u, 0)
        qml.QubitUnitary(2 * u / 2, 1)
        qml.RX(x[:, 0], 0)
        qml.StatePrep(s[:, :2] / 2, 0, validate_norm=False)

    rng = np.random.default_rng(3)
    for host in (torch.tensor, np.array, pnp.array):
        args = host(np.eye(2) + 0j), host(rng.normal(size=(4, 3))), host(rng.normal(size=(4, 2)))
        traced = Traced(function, args, expand=False)
        for got, expected in zip(traced(args), _recorded(traced, args), strict=True):
            np.testing.assert_allclose(plain(got), plain(expected))


def test_constants_become_rows():
    graph = Graph()
    (x,) = graph.inputs([np.array([0.1, 0.2])])
    with graph:
        element = x[1]
    prologue = Prologue(graph, [0.5, element], [np.array([1.0, 2.0, 3.0])], [np.eye(2)], ["x"])
    shared, batched, array = prologue([np.array([0.3, 0.4])]).tensors
    np.testing.assert_array_equal(shared, [0.5, 0.4])
    np.testing.assert_array_equal(batched, [[1.0, 2.0, 3.0]])
    np.testing.assert_array_equal(array, np.eye(2))
    assert prologue.describe_row(False, 0) == "a constant"


def test_rows_are_described():
    def function(x, params):
        _rotations([x[1], 2 * params["a"][0][1, 2] - 1, x[0] * params["b"], qml.math.sin(x[0])])

    args = (np.array([0.1, 0.2]), {"a": [np.ones((2, 3))], "b": 0.5})
    prologue = Traced(function, args).prologue
    assert leaf_names(flatten(args, {})[0], function) == ["x", "params['a'][0]", "params['b']"]
    assert [prologue.describe_row(False, i) for i in range(4)] == [
        "x[1]",
        "params['a'][0][1, 2]",
        "a function of params['b'], x",
        "a function of x",
    ]
    batched = Traced(BATCHED["mixed"], arguments(5)).prologue
    assert [batched.describe_row(True, i) for i in range(3)] == ["x[:, 0]", "a function of w, x", "a function of x"]


def test_a_complex_angle_is_refused():
    graph = Graph()
    (z,) = graph.inputs([1j])
    with pytest.raises(CaptureError, match="complex"):
        Prologue(graph, [z], [], [], ["z"])


def test_a_poisoned_graph_is_refused():
    graph = Graph()
    (x,) = graph.inputs([0.5])
    with graph, pytest.raises(CaptureError):
        float(x)
    with pytest.raises(CaptureError, match="Python number"):
        Prologue(graph, [x], [], [], ["x"])


def test_a_prologue_may_be_copied():
    args = arguments()
    traced = Traced(CIRCUITS["two levels"], args)
    other = copy.deepcopy(traced.prologue)
    for a, b in zip(other(args).tensors, traced.prologue(args).tensors, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_loop_over_elements_costs_one_gather():
    args = arguments()
    assert Traced(CIRCUITS["gather"], args).prologue._plan.steps == ()
    assert len(Traced(CIRCUITS["elementwise"], args).prologue._plan.steps) == 2
    assert len(Traced(BATCHED["re-upload"], arguments(5)).prologue._plan.steps) == 2


def _embedded(v, u, t, x):
    """Arrays of ``v`` and ``u``, angles of ``t`` and ``x``; steps of a kind merge over both if nothing forbids it."""
    state = qml.math.stack([qml.math.sin(v[0]), qml.math.sin(u[1]), 0.5 * v[1], 0.25 + 0 * v[0]])
    qml.StatePrep((state / qml.math.linalg.norm(state))[None], [0, 1])
    qml.RX(qml.math.sin(t), 0)
    qml.RY(t * u[0], 0)
    qml.RZ(x, 1)


def _embedded_batch(v, u, t, x):
    """The same with a batch."""
    state = qml.math.stack([qml.math.sin(v[:, 0]), qml.math.sin(u[:, 1]), 0.5 * v[:, 1], u[:, 0]], axis=-1)
    qml.StatePrep(state / qml.math.sqrt(qml.math.sum(state**2, axis=-1))[:, None], [0, 1])
    qml.RX(qml.math.sin(t), 0)
    qml.RY(qml.math.sin(x), 0)
    qml.RZ(t * u[:, 0], 1)


def _embedding_arguments(function, seed):
    rng = np.random.default_rng(seed)
    front, batch = ((3,), (3,)) if function is _embedded_batch else ((), ())
    return [rng.uniform(0.2, 0.9, shape) for shape in ((*front, 2), (*front, 2), (), batch)]


EMBEDDINGS = pytest.mark.parametrize("function", [_embedded, _embedded_batch])


@EMBEDDINGS
@pytest.mark.parametrize("host", ["numpy", "autograd", "torch"])
def test_arrays_beside_angles(function, host):
    check(function, _embedding_arguments(function, 0), _embedding_arguments(function, 1), host, expand=False)


@EMBEDDINGS
@pytest.mark.parametrize("trained", [(2,), (3,), (2, 3), (1,), (0,)])
def test_an_array_depends_on_its_own_sources_alone(function, trained):
    args = [torch.tensor(a) for a in _embedding_arguments(function, 0)]
    traced = Traced(function, args, expand=False)
    live = [a.clone().requires_grad_(k in trained) for k, a in enumerate(args)]
    assert traced(live)[0].requires_grad == bool({0, 1} & set(trained))


@EMBEDDINGS
def test_an_array_depends_on_its_own_sources_alone_in_autograd_and_torch_func(function):
    args = [pnp.array(a, requires_grad=True) for a in _embedding_arguments(function, 0)]
    traced, moved = Traced(function, args, expand=False), []

    def angles(t, of):
        state, *angles = of([*args[:2], t, args[3]])
        moved.append(isinstance(state, Box) or (isinstance(state, torch.Tensor) and state.requires_grad))
        return sum(a.sum() for a in angles)

    autograd.grad(angles)(args[2], traced)
    args = [torch.tensor(np.asarray(a)) for a in args]
    traced = Traced(function, args, expand=False)
    torch.func.grad(angles)(args[2], traced)
    assert moved == [False, False]


@EMBEDDINGS
def test_derivatives_of_arrays_beside_angles(function):
    args = [torch.tensor(a, requires_grad=True) for a in _embedding_arguments(function, 0)]
    traced = Traced(function, args, expand=False)

    def direct(*live):
        return [p for op in traced.tape(live).operations for p in op.data]

    for ours, plainly in zip(traced(args), direct(*args), strict=True):
        found = torch.autograd.grad(torch.cos(ours).sum(), args, allow_unused=True, retain_graph=True)
        expected = torch.autograd.grad(torch.cos(plainly).sum(), args, allow_unused=True, retain_graph=True)
        for x, a, b in zip(args, found, expected, strict=True):
            zero = torch.zeros_like(x)
            torch.testing.assert_close(zero if a is None else a, zero if b is None else b)
