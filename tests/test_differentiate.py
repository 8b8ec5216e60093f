"""Gradients without a graph are those of PennyLane's ``grad``, of the same types, and everything else goes to it."""

from __future__ import annotations

import pickle
import warnings
from unittest import mock

import numpy as np
import pennylane as qml
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pennylane import numpy as pnp

import qhybrid
from qhybrid.capture.signature import flatten
from qhybrid.errors import NotFiniteError
from qhybrid.gradients.function import MOST_DERIVED
from qhybrid.gradients.gathered import Gathered
from qhybrid_devices.statevector.executable import MOST_LAYOUTS, StateVectorExecutable
from qhybrid_devices.statevector.small import SmallRun

DIRECT = StateVectorExecutable.direct

OPTIMIZERS = {
    "GradientDescentOptimizer": (0.3,),
    "MomentumOptimizer": (0.1, 0.8),
    "NesterovMomentumOptimizer": (0.1, 0.8),
    "AdagradOptimizer": (0.3,),
    "RMSPropOptimizer": (0.05,),
    "AdamOptimizer": (0.1,),
}


def two(a, w, depth=2):
    """A number, an array and a static argument; one number feeds several gates, scaled and shifted."""
    for layer in range(depth):
        qml.RX(a, wires=0)
        qml.RY(2 * w[layer, 0] - 0.3, wires=1)
        qml.CNOT([0, 1])
        qml.Rot(w[layer, 1], 0.4, -a, wires=0)
    return qml.expval(qml.Z(0) @ qml.X(1) + 0.5 * qml.Y(0))


def rotation(x):
    qml.RX(x[0], wires=0)
    qml.RY(x[1], wires=0)
    return qml.expval(qml.Z(0))


def node(func, library=qhybrid, device=None, **options):
    name = device or ("qhybrid.statevector" if library is qhybrid else "default.qubit")
    return library.qnode(library.device(name, wires=2), **options)(func)


@pytest.fixture
def no_graph(monkeypatch):
    """PennyLane's own path fails."""

    def refuse(*args, **kwargs):
        raise AssertionError("a graph was made")

    monkeypatch.setattr(qml.grad, "_autograd_call", refuse)


def draw(rng, trained=(True, True)):
    values = rng.uniform(-3, 3), rng.uniform(-3, 3, (2, 2))
    return tuple(pnp.array(v, requires_grad=t) for v, t in zip(values, trained, strict=True))


def assert_same(found, expected):
    """Numbers and types, except those of single numbers, which vary with the operations in PennyLane."""
    assert isinstance(found, tuple) == isinstance(expected, tuple)
    pairs = zip(found, expected, strict=True) if isinstance(found, tuple) else [(found, expected)]
    for own, other in pairs:
        assert (np.shape(own), own.dtype) == (np.shape(other), other.dtype)
        assert type(own) is type(other) or not np.ndim(own)
        np.testing.assert_allclose(own, other, rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), trained=st.sampled_from([(True, True), (True, False), (False, True)]))
def test_same_as_pennylane_by_flags(seed, trained):
    args = draw(np.random.default_rng(seed), trained)
    own, reference = qhybrid.grad(node(two)), qml.grad(node(two, qml))
    assert_same(own(*args), reference(*args))
    assert own.forward == pytest.approx(reference.forward, abs=1e-12)


@pytest.mark.parametrize("argnums", [0, 1, [0], (1, 0), [0, 1]])
def test_same_as_pennylane_by_position(argnums, no_graph, monkeypatch):
    args = (0.3, np.array([[0.1, -0.7], [2.0, 0.4]]))
    found = qhybrid.grad(node(two), argnums=argnums)(*args)
    monkeypatch.undo()
    assert_same(found, qml.grad(node(two, qml), argnums=argnums)(*args))


def test_static_arguments_and_keywords(no_graph, monkeypatch):
    args = draw(np.random.default_rng(1))
    circuit = node(two)
    found = [qhybrid.grad(circuit)(*args, 1), qhybrid.grad(circuit)(*args, depth=1)]
    monkeypatch.undo()
    for gradients in found:
        assert_same(gradients, qml.grad(node(two, qml))(*args, depth=1))


def test_gives_tensors_as_pennylane_does():
    x = pnp.array(0.4, requires_grad=True)
    found = qhybrid.grad(node(lambda x: two(x, np.zeros((2, 2)))))(x)
    assert isinstance(found, pnp.tensor)
    assert found.requires_grad


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_take_the_same_steps(name, no_graph, monkeypatch):
    options = OPTIMIZERS[name]
    own = getattr(qhybrid, name)(*options)
    assert isinstance(own, getattr(qml, name))
    assert getattr(qhybrid.optimize, name) is type(own)
    circuit, args, path = node(two), draw(np.random.default_rng(2)), []
    for _ in range(6):
        args, value = own.step_and_cost(circuit, *args)
        path.append((*args, value))
    monkeypatch.undo()
    reference, circuit, args = getattr(qml, name)(*options), node(two, qml), draw(np.random.default_rng(2))
    for found in path:
        args, value = reference.step_and_cost(circuit, *args)
        for a, b in zip(found, (*args, value), strict=True):
            assert getattr(a, "requires_grad", None) == getattr(b, "requires_grad", None) or np.isscalar(a)
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)


def test_optimizers_are_related_as_in_pennylane():
    names = [*OPTIMIZERS, "QNGOptimizer", "MomentumQNGOptimizer"]
    kinds = [getattr(qhybrid, name) for name in names]
    theirs = [getattr(qml, name) for name in names]
    for a, b in zip(kinds, theirs, strict=True):
        assert [issubclass(a, k) for k in kinds] == [issubclass(b, k) for k in theirs]
        assert type(pickle.loads(pickle.dumps(a()))) is a
    x = pnp.array([0.1, 0.2], requires_grad=True)
    (found,), value = qhybrid.AdamOptimizer.compute_grad(node(rotation), (x,), {})
    np.testing.assert_allclose(found, [-np.sin(0.1) * np.cos(0.2), -np.cos(0.1) * np.sin(0.2)], atol=1e-12)
    assert value == pytest.approx(np.cos(0.1) * np.cos(0.2))


def test_an_optimizer_takes_the_gradient_that_it_is_given():
    x = pnp.array([0.1, 0.2], requires_grad=True)
    found = qhybrid.GradientDescentOptimizer(1.0).step(node(rotation), x, grad_fn=lambda x: np.ones(2))
    np.testing.assert_allclose(found, x - 1)


# ------------------------------------------------------------------ what goes to PennyLane's path


def cost(circuit):
    return lambda x: (1 - circuit(x)) ** 2


def computed(x):
    qml.RX(pnp.sin(x[0]), wires=0)
    qml.RY(x[0] * x[1], wires=0)
    return qml.expval(qml.Z(0))


def listed(x):
    qml.RX(x[0], wires=0)
    qml.RY(x[1], wires=1)
    return [qml.expval(qml.Z(0))]


def unused(x, y):
    return rotation(x)


X = pnp.array([0.3, -0.8], requires_grad=True)


@pytest.mark.parametrize("func", [rotation, computed])
def test_functions_around_a_circuit_and_computed_angles(func):
    for wrap in (cost, lambda circuit: circuit):
        assert_same(qhybrid.grad(wrap(node(func)))(X), qml.grad(wrap(node(func, qml)))(X))
        own = qhybrid.AdamOptimizer(0.1).step_and_cost(wrap(node(func)), X)
        reference = qml.AdamOptimizer(0.1).step_and_cost(wrap(node(func, qml)), X)
        np.testing.assert_allclose(own[0], reference[0], atol=1e-12)
        np.testing.assert_allclose(own[1], reference[1], atol=1e-12)


def test_an_argument_that_is_not_used(executions):
    y, circuit = pnp.array(0.5, requires_grad=True), node(unused)
    circuit(X, y)
    executions.clear()
    own, reference = qhybrid.grad(circuit)(X, y), qml.grad(node(unused, qml))(X, y)
    assert len(executions) == 1
    for a, b in zip(own, reference, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


@pytest.fixture
def executions(monkeypatch):
    """A list that grows with each run of a circuit."""
    found = []

    def counting(run):
        def counted(*args):
            found.append(1)
            return run(*args)

        return counted

    monkeypatch.setattr(StateVectorExecutable, "_forward", counting(StateVectorExecutable._forward))
    monkeypatch.setattr(SmallRun, "_final", counting(SmallRun._final))
    return found


class Doubled(qhybrid.QNode):
    """A QNode that has more to say."""

    def __call__(self, *args, **kwargs):
        found = super().__call__(*args, **kwargs)
        return [2 * f for f in found] if isinstance(found, list) else 2 * found


class Forwarding:
    """What computes something around a QNode and otherwise looks like it."""

    def __init__(self, circuit):
        self.circuit = circuit

    def __call__(self, *args):
        return 2 * self.circuit(*args)

    def __getattr__(self, name):
        return getattr(self.circuit, name)


def test_what_wraps_a_qnode_is_called():
    device = qhybrid.device("qhybrid.statevector", wires=2)
    expected = 2 * qml.grad(node(rotation, qml))(X)
    for circuit in (Doubled(rotation, device), Forwarding(node(rotation))):
        np.testing.assert_allclose(qhybrid.grad(circuit)(X), expected, atol=1e-12)
        _, value = qhybrid.AdamOptimizer().step_and_cost(circuit, X)
        assert value == pytest.approx(2 * node(rotation)(X))
    layer = qhybrid.qnn.TorchLayer(Doubled(angles_of_inputs, device), {"w": 1})
    found = layer(torch.tensor([[0.3, 0.4]], dtype=torch.float64))
    assert found.item() == pytest.approx(2 * np.cos(0.3 + layer.w.item()))


def angles_of_inputs(inputs, w):
    qml.RX(inputs[:, 0] + w, wires=0)
    return [qml.expval(qml.Z(0))]


def test_an_argument_that_says_that_it_is_constant():
    constant = pnp.array([0.1, 0.2], requires_grad=False)
    for gradient in (qhybrid.grad(node(rotation), argnums=0), qml.grad(node(rotation, qml), argnums=0)):
        with pytest.raises(qml.exceptions.NonDifferentiableError):
            gradient(constant)


def test_an_argument_twice():
    y = pnp.array(0.5, requires_grad=True)
    own, reference = (
        qhybrid.grad(node(unused), argnums=[0, 0])(X, y),
        qml.grad(node(unused, qml), argnums=[0, 0])(X, y),
    )
    for a, b in zip(own, reference, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def named(x):
    return {"z": rotation(x)}


@pytest.mark.filterwarnings("ignore:Output seems independent of input")
def test_a_named_result_is_no_number():
    own, reference = qhybrid.grad(node(named)), qml.grad(node(named, qml))
    np.testing.assert_allclose(own(X), reference(X))
    assert own.forward.keys() == reference.forward.keys()


def test_options_that_change_after_a_call():
    circuit = node(rotation, device="qhybrid.statevector", diff_method="hadamard")
    circuit(X)
    circuit.gradient_kwargs["aux_wire"] = 1
    with pytest.warns(qhybrid.FallbackWarning, match="is PennyLane's"):
        found = qhybrid.grad(circuit)(X)
    np.testing.assert_allclose(found, qml.grad(node(rotation, qml))(X), atol=1e-12)


def test_gradients_are_in_the_precision_of_the_argument():
    device = qhybrid.device("qhybrid.statevector", wires=2, c_dtype=np.complex64)
    for func in (rotation, lambda x: rotation(2 * x)):
        assert qhybrid.grad(qhybrid.QNode(func, device))(X).dtype == np.float64


def test_derivatives_of_gradients():
    own = qml.jacobian(qhybrid.grad(node(rotation)))(X)
    np.testing.assert_allclose(own, qml.jacobian(qml.grad(node(rotation, qml, max_diff=2)))(X), atol=1e-12)


def test_branches_are_taken_anew():
    def circuit(x):
        if x[0] > 0:
            qml.RX(x[0], wires=0)
        qml.RY(x[1], wires=0)
        return qml.expval(qml.Z(0))

    gradient, reference = qhybrid.grad(node(circuit)), qml.grad(node(circuit, qml))
    for x in (X, -X, X):
        assert_same(gradient(x), reference(x))


def test_what_a_circuit_reads_from_outside_is_never_stale():
    scale = 1.0

    @qhybrid.qnode(qhybrid.device("qhybrid.statevector"))
    def circuit(x):
        qml.RX(scale * x, wires=0)
        return qml.expval(qml.Z(0))

    x, gradient = pnp.array(0.3, requires_grad=True), qhybrid.grad(circuit)
    assert gradient(x) == pytest.approx(-np.sin(0.3), abs=1e-12)
    scale = 2.0
    assert gradient(x) == pytest.approx(-2 * np.sin(0.6), abs=1e-12)


@pytest.mark.parametrize("diff_method", ["parameter-shift", "finite-diff", "adjoint", "backprop", "hadamard"])
def test_every_method(diff_method):
    found = qhybrid.grad(node(rotation, diff_method=diff_method))(X)
    np.testing.assert_allclose(found, qml.grad(node(rotation, qml))(X), atol=1e-6)


def test_checked_derivatives():
    found = qhybrid.grad(node(rotation, check=True))(X)
    np.testing.assert_allclose(found, qml.grad(node(rotation, qml))(X), atol=1e-12)


def test_shots():
    circuit = qml.set_shots(node(rotation), shots=20_000)
    np.testing.assert_allclose(qhybrid.grad(circuit)(X), qml.grad(node(rotation, qml))(X), atol=0.05)


@pytest.mark.parametrize("device", ["lightning.qubit", "default.qubit"])
def test_other_devices(device):
    assert_same(qhybrid.grad(node(rotation, device=device))(X), qml.grad(node(rotation, qml))(X))


def test_single_precision():
    x = pnp.array([0.3, -0.8], dtype=np.float32)
    np.testing.assert_allclose(qhybrid.grad(node(rotation))(x), qml.grad(node(rotation, qml))(X), atol=1e-6)
    circuit = qhybrid.qnode(qhybrid.device("qhybrid.statevector", wires=2, c_dtype=np.complex64))(rotation)
    np.testing.assert_allclose(qhybrid.grad(circuit)(X), qml.grad(node(rotation, qml))(X), atol=1e-6)


def test_a_tracker_counts_what_pennylane_runs():
    circuit = node(rotation)
    with qml.Tracker(circuit.device) as tracker:
        qhybrid.grad(circuit)(X)
    assert tracker.totals


def test_mistakes_are_told_as_by_pennylane():
    circuit = node(rotation)
    with pytest.warns(UserWarning, match="no trainable parameters"):
        assert qhybrid.grad(circuit)(np.array([0.1, 0.2])) == ()
    with pytest.raises(TypeError, match="scalar-output"):
        qhybrid.grad(node(lambda x: (qml.RX(x[0], wires=0), qml.probs(wires=0))[1]))(X)
    with pytest.raises(NotFiniteError, match=r"x\[1\]"), warnings.catch_warnings():
        qhybrid.grad(circuit)(pnp.array([0.1, np.nan]))
    with pytest.raises(ValueError, match="differentiation of ints"):
        qhybrid.grad(circuit)(pnp.array([1, 2], requires_grad=True))
    with pytest.raises(ValueError, match="without QJIT"):
        qhybrid.grad(circuit, method="fd")(X)
    assert qhybrid.grad(circuit).__name__ == "<grad: rotation>"


def test_what_is_kept_for_sizes_of_batches_is_bounded():
    circuit = node(lambda x: (qml.RX(x, wires=0), qml.expval(qml.Z(0)))[1])
    with mock.patch.object(StateVectorExecutable, "direct", autospec=True, side_effect=DIRECT) as direct:
        for size in range(1, 2 * MOST_LAYOUTS):
            angles = np.linspace(0, 3, size)
            np.testing.assert_allclose(circuit(angles), np.cos(angles), atol=1e-12)
    (executable,) = {call.args[0] for call in direct.call_args_list}
    assert 0 < len(executable._layouts) <= MOST_LAYOUTS
    assert 0 < len(executable._small) <= MOST_LAYOUTS


def test_derived_functions_that_are_kept_are_bounded():
    circuit = node(lambda x: (qml.RX(x, wires=0), qml.expval(qml.Z(0)))[1])
    start = torch.tensor(0.0, dtype=torch.float64)
    circuit(start)
    for size in range(1, 2 * MOST_DERIVED):
        angles = torch.linspace(0, 3, size, dtype=torch.float64)
        torch.testing.assert_close(torch.func.vmap(torch.func.grad(circuit))(angles), -angles.sin())
    functions = circuit._entry(*flatten((start,), {})).circuit._functions.values()
    (gathered,) = [f for f in functions if isinstance(f, Gathered)]
    assert 0 < len(gathered.function._derivatives) <= MOST_DERIVED
