"""What users of PennyLane and PyTorch do to a QNode, and what default.qubit answers."""

from __future__ import annotations

import copy
import functools
import pickle

import numpy as np
import pennylane as qml
import pytest
import torch
from pennylane import numpy as pnp

import qhybrid
from qhybrid import CircuitError, FallbackWarning
from qhybrid.qnn import TorchLayer


def _device(wires=None, **kwargs):
    return qml.device("qhybrid.statevector", wires=wires, **kwargs)


def _both(circuit, **settings):
    """The circuit here and on default.qubit."""
    return qhybrid.QNode(circuit, _device(), **settings), qml.QNode(circuit, qml.device("default.qubit"), **settings)


def _z():
    return qml.expval(qml.Z(0))


def _embedding(x, w):
    qml.AngleEmbedding(x, wires=range(2))
    qml.StronglyEntanglingLayers(w, wires=range(2))
    return [qml.expval(qml.Z(i)) for i in range(2)]


# ------------------------------------------------------------------ functions that look at their arguments


@pytest.mark.parametrize(
    "looks",
    [
        lambda x: isinstance(x, float),
        lambda x: {0.3: True}.get(x, False),
        lambda x: type(x) is float,
        lambda x: not qml.math.requires_grad(x),
    ],
)
def test_a_function_that_asks_what_its_argument_is(looks):
    def circuit(x):
        qml.RX(10 * x if looks(x) else x, wires=0)
        return _z()

    node, plain = _both(circuit)
    with pytest.warns(FallbackWarning, match="such as the type"):
        assert node(0.3) == pytest.approx(plain(0.3))
    for value in (0.3, 0.4, np.float64(0.5), pnp.array(0.6), 1):
        assert node(value) == pytest.approx(plain(value))


def test_zero_weights_are_still_traced():
    """PennyLane drops the gates of zero angles from these templates; that alone must not stop a trace."""

    def circuit(w):
        qml.Hadamard(0)
        qml.SelectPauliRot(w, control_wires=[0], target_wire=1)
        return qml.expval(qml.Z(1))

    node, plain = _both(circuit)
    for w in (np.zeros(2), np.array([0.3, 0.4])):
        assert node(w) == pytest.approx(plain(w))
    assert node.explain(np.zeros(2)).path == "compiled"


@pytest.mark.parametrize("change", [lambda a: a.append(0.3), lambda a: a.pop(), lambda a: a.sort()])
def test_a_function_that_changes_its_argument(change):
    def circuit(angles):
        change(angles)
        qml.RX(angles[0] * len(angles), wires=0)
        return _z()

    node, plain = _both(circuit)
    mine, theirs = [0.5, 0.2, 0.1, 0.4], [0.5, 0.2, 0.1, 0.4]
    with pytest.warns(FallbackWarning):
        for _ in range(3):
            assert node(mine) == pytest.approx(plain(theirs))
    assert mine == theirs


def test_a_function_that_changes_an_integer_array():
    def circuit(counts):
        counts[0] += 1
        qml.RX(0.1 * counts[0], wires=0)
        return _z()

    node, plain = _both(circuit)
    mine, theirs = np.array([1, 2]), np.array([1, 2])
    with pytest.warns(FallbackWarning, match="in place"):
        assert node(mine) == pytest.approx(plain(theirs))
    assert node(mine) == pytest.approx(plain(theirs))


def test_bits_as_an_integer_tensor_give_tensors():
    def circuit(bits):
        qml.BasisEmbedding(bits, wires=[0, 1])
        return qml.expval(qml.Z(0)), qml.probs(wires=[0, 1])

    node, plain = _both(circuit)
    for bits in (torch.tensor([1, 0]), torch.tensor([0, 1])):
        for mine, theirs in zip(node(bits), plain(bits), strict=True):
            assert isinstance(mine, torch.Tensor)
            np.testing.assert_allclose(mine, theirs, atol=1e-12)


@pytest.mark.parametrize("angle", [0.3 + 0.2j, np.array(0.3 + 0.2j), torch.tensor(0.3 + 0.2j)])
def test_complex_angles_are_refused(angle):
    def circuit(x):
        qml.RX(x, wires=0)
        return _z()

    with pytest.raises(CircuitError, match="must be real"):
        _both(circuit)[0](angle)


def test_complex_numbers_that_are_real_are_angles():
    def circuit(x):
        qml.RX(x, wires=0)
        return _z()

    with pytest.warns(FallbackWarning):
        assert _both(circuit)[0](0.3 + 0j) == pytest.approx(np.cos(0.3))


def test_tensors_without_values_are_refused():
    layer = TorchLayer(qhybrid.QNode(lambda inputs, w: _embedding(inputs, w), _device()), {"w": (1, 2, 3)})
    with pytest.raises(CircuitError, match="meta"):
        layer(torch.rand(3, 2, device="meta"))


# ------------------------------------------------------------------ state outside of the function


def test_attributes_of_the_function_itself():
    def circuit(x):
        qml.RX(x * circuit.factor, wires=0)
        return _z()

    circuit.factor = 1.0
    node, plain = _both(circuit)
    for circuit.factor in (1.0, 3.0, 2.0):
        assert node(0.3) == pytest.approx(plain(0.3))


@pytest.mark.parametrize("container", [dict, list])
def test_classes_that_inherit_from_containers(container):
    class Settings(container):
        pass

    settings = Settings([(0, 1.0)]) if container is dict else Settings([1.0])

    def circuit(x):
        qml.RX(x * settings[0], wires=0)
        return _z()

    node, plain = _both(circuit)
    for settings[0] in (1.0, 2.0, 3.0):
        assert node(0.3) == pytest.approx(plain(0.3))


@pytest.mark.parametrize("name", ["func", "device", "diff_method", "interface"])
def test_settings_assigned_to_a_node_that_was_called(name):
    def other(x):
        qml.RY(2 * x, wires=0)
        return _z()

    node, plain = _both(lambda x: (qml.RX(x, wires=0), _z())[1])
    new = {"func": other, "device": _device(["a", 0]), "diff_method": "parameter-shift", "interface": "torch"}[name]
    for each in (node, plain):
        each(0.3)
    for each in (node, plain):
        setattr(each, name, new)
    mine, theirs = node(0.3), plain(0.3) if name != "device" else node.update(device=new)(0.3)
    assert type(mine) is type(theirs)
    assert float(mine) == pytest.approx(float(theirs))
    if name == "diff_method":
        assert node.explain(0.3).method == "parameter-shift"


def test_tracker_counts_executions():
    node = qhybrid.QNode(lambda x: (qml.RX(x, wires=0), _z())[1], _device())
    node(0.3)
    with qml.Tracker(node.device) as tracker:
        assert node(0.3) == pytest.approx(np.cos(0.3))
        node(np.array([0.1, 0.2]))
    assert tracker.totals["executions"] == 3


def test_the_outside_world_may_change_often_if_signatures_do():
    """Retraces are counted for each signature that is kept, not for ever."""
    scale = [1.0]

    def circuit(n, x):
        qml.RX(scale[0] * n * x, wires=0)
        return _z()

    node, plain = _both(circuit)
    for scale[0] in range(1, 4):
        for n in range(70):
            found = node(n, 0.3)
        assert found == pytest.approx(plain(n, 0.3))
    assert len(node._cache.traces) <= 64
    assert node.explain(1, 0.3).path == "compiled"


# ------------------------------------------------------------------ operations and measurements


@pytest.mark.parametrize("trace", [True, False])
def test_gradients_through_qsvt_phases(trace):
    def circuit(phases):
        block = qml.BlockEncode(np.array([[0.1, 0.2], [0.3, 0.4]]), wires=[0, 1])
        qml.QSVT(block, [qml.PCPhase(phases[i], 2, wires=[0, 1]) for i in range(3)])
        qml.RX(0.2, wires=0)
        return _z()

    gradients = []
    for node in (qhybrid.QNode(circuit, _device(), trace=trace), qml.QNode(circuit, qml.device("default.qubit"))):
        phases = torch.tensor([0.3, 0.5, 0.9], dtype=torch.float64, requires_grad=True)
        gradients += torch.autograd.grad(node(phases), phases)
    torch.testing.assert_close(*gradients)


def _rotation_of_sign(sign):
    class Rotation(qml.operation.Operation):
        num_params, num_wires, ndim_params = 1, 1, (0,)

        def generator(self):
            return qml.Hamiltonian([-0.5 * sign], [qml.X(self.wires[0])])

        @staticmethod
        def compute_matrix(angle):
            return qml.RX.compute_matrix(sign * angle)

    return Rotation


@pytest.mark.parametrize("sign", [1, -1])
def test_operations_of_the_user_that_share_a_name(sign):
    rotation = _rotation_of_sign(sign)

    def circuit(x):
        rotation(x, wires=0)
        return qml.expval(qml.Y(0))

    node, plain = _both(circuit)
    assert node(0.3) == pytest.approx(plain(0.3)) == pytest.approx(-sign * np.sin(0.3))


def test_samples_are_tensors_where_angles_are():
    def circuit(x):
        qml.RX(x, wires=0)
        return qml.sample(wires=[0, 1]), qml.sample(qml.Z(0)), qml.counts(wires=0)

    node, plain = _both(circuit, shots=10)
    for x in (torch.tensor(0.0, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)):
        mine, theirs = node(x), plain(x)
        for a, b in zip(mine[:2], theirs[:2], strict=True):
            assert isinstance(a, torch.Tensor)
            assert a.dtype == b.dtype
            assert torch.equal(a, b)
        assert mine[2] == theirs[2]


def _on_three_measurements(x):
    for wire in range(3):
        qml.RY(x[wire], wires=wire)
    measured = [qml.measure(wire) for wire in (2, 0, 1)]
    return qml.expval(measured[0] + 2 * measured[1] + 4 * measured[2]), qml.probs(op=measured)


def test_order_of_the_wires_of_measurement_values():
    node, plain = _both(_on_three_measurements)
    for x in (np.array([0.3, 1.2, 2.1]), np.array([0.2, 0.5, 0.9])):
        for _ in range(4):
            for mine, theirs in zip(node(x), plain(x), strict=True):
                np.testing.assert_allclose(mine, theirs, atol=1e-12)


def test_order_of_the_wires_of_counted_measurement_values():
    """PennyLane's order is by random ids: a node audited against another order would give up its trace."""

    def circuit(x):
        for wire in range(3):
            qml.RX(x[wire], wires=wire)
        measured = [qml.measure(wire) for wire in (2, 0, 1)]
        return qml.counts(measured), qml.sample(measured[0] + 2 * measured[1]), qml.counts(4 * measured[2])

    x = np.array([np.pi, 0.0, np.pi])
    for _ in range(6):
        node, plain = _both(circuit, shots=5)
        for mine, theirs in zip(node(x), plain(x), strict=True):
            assert np.array_equal(mine, theirs) if isinstance(theirs, np.ndarray) else mine == theirs
        assert node.explain(x).path == "compiled"


# ------------------------------------------------------------------ models


class Model(torch.nn.Module):
    """A module whose circuit is one of its methods."""

    def __init__(self):
        super().__init__()
        self.depth = 2
        self.weights = torch.nn.Parameter(torch.full((2,), 0.4, dtype=torch.float64))
        self.node = qhybrid.QNode(self.circuit, _device())

    def circuit(self, x):
        for i in range(self.depth):
            qml.RX(x * self.weights[i], wires=0)
        return _z()

    def forward(self, x):
        return self.node(x)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_a_model_has_weights_and_settings_of_its_own(how):
    model = Model()
    x = torch.tensor(0.7, dtype=torch.float64)
    before = model(x)
    copied = how(model)
    with torch.no_grad():
        copied.weights.mul_(2)
    copied.depth = 1
    assert copied(x).item() == pytest.approx(np.cos(0.7 * 0.8))
    assert torch.equal(model(x), before)
    copied(x).backward()
    assert model.weights.grad is None
    assert copied.weights.grad is not None


def _scaled(scale, x):
    qml.RX(scale * x, wires=0)
    return _z()


def test_a_node_of_a_partial_function_is_pickled():
    node = qhybrid.QNode(functools.partial(_scaled, 2.0), _device())
    assert pickle.loads(pickle.dumps(node))(0.3) == pytest.approx(np.cos(0.6))


def test_jacobian_with_batched_gradients():
    node, plain = _both(_embedding)
    rng = np.random.default_rng(0)
    x, w = torch.tensor(rng.uniform(size=(3, 2))), torch.tensor(rng.uniform(size=(1, 2, 3)))
    found = torch.autograd.functional.jacobian(lambda v: torch.stack(node(x, v)), w, vectorize=True)
    expected = torch.autograd.functional.jacobian(lambda v: torch.stack(tuple(plain(x, v))), w)
    torch.testing.assert_close(found, expected)
    found = torch.autograd.functional.hessian(lambda v: torch.stack(node(x, v)).square().sum(), w, vectorize=True)
    expected = torch.autograd.functional.hessian(lambda v: torch.stack(tuple(plain(x, v))).square().sum(), w)
    torch.testing.assert_close(found, expected)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # PyTorch's own, where a graph starts
def test_torch_compile_leaves_circuits_alone():
    layer = TorchLayer(qhybrid.QNode(lambda inputs, w: _embedding(inputs, w), _device()), {"w": (1, 2, 3)})
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), layer, torch.nn.Linear(2, 1))
    x = torch.rand(4, 2)
    model(x).sum().backward()
    expected = layer.w.grad.clone()
    model.zero_grad()
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(x), model(x))
    compiled(x).sum().backward()
    torch.testing.assert_close(layer.w.grad, expected)
