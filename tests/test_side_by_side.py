"""What users do with QNodes, the same code on PennyLane's default.qubit and here: results and gradients agree."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pennylane as qml
import pytest
import torch
import torch.utils.checkpoint
from pennylane import numpy as pnp
from torch import nn

import qhybrid

Run = Callable[[Any, Any], Any]


def assert_same(run: Run, wires: Any = 5) -> None:
    """``run(library, device)`` gives the same with either library."""
    ours = run(qhybrid, qhybrid.device("qhybrid.statevector", wires=wires))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", np.exceptions.ComplexWarning)  # backprop's own, not of ours
        theirs = run(qml, qml.device("default.qubit", wires=wires))
    found, expected = (qml.pytrees.flatten(r) for r in (ours, theirs))
    assert found[1] == expected[1]
    for a, b in zip(found[0], expected[0], strict=True):
        np.testing.assert_allclose(_array(a), _array(b), atol=1e-7)


def _array(value: Any) -> np.ndarray:
    return value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


X = pnp.array([0.3, 0.7, -0.2], requires_grad=True)

# ------------------------------------------------------------------ circuits: value and Jacobian


def conditional(q, x):
    q.RX(x[0], 0)
    m = q.measure(0)
    q.cond(m, q.RY, q.RZ)(x[1], 1)
    q.cond(m == 0, lambda: q.RX(x[2], 1))()
    return q.expval(q.X(1) @ q.Z(2)), q.var(m)


def measured_and_reset(q, x):
    q.RX(x[0], 0)
    q.CNOT([0, 1])
    m = q.measure(0, reset=True)
    q.RX(x[1], 0)
    n = q.measure(1)
    q.cond(m & ~n, q.RY)(x[2], 2)
    return q.expval(q.Z(2)), q.expval(m), q.probs(op=[m, n])


def controlled_adjoint_power(q, x):
    q.Hadamard(0)
    q.ctrl(q.adjoint(q.RX), control=[0, 1], control_values=[1, 0])(x[0], 2)
    q.pow(q.RY(x[1], 1), 3)
    q.adjoint(lambda: (q.RX(x[2], 0), q.S(1)))()
    return q.expval(q.prod(q.X(0), q.Z(2)) + 0.3 * q.Y(1))


def mixed_measurements(q, x):
    q.BasicEntanglerLayers(x.reshape(1, 3), wires=range(3))
    hermitian = np.array([[1, 2 - 1j], [2 + 1j, 0]])
    return q.probs(wires=[2, 0]), q.expval(q.Hermitian(hermitian, 1)), q.var(q.X(0) @ q.Y(2))


def branches(q, x):
    for i in range(3):
        if x[i] > 0:
            q.RX(x[i], i)
        else:
            q.RY(x[i] * 2, i)
    q.CNOT([0, 1])
    return q.expval(q.Z(1)), q.expval(q.Z(2))


def trainable_hamiltonian(q, x):
    q.RX(x[0], 0)
    q.RY(x[1], 1)
    q.RX(0.4, 2)
    q.CNOT([0, 2])
    return q.expval(q.Hamiltonian(list(x), [q.Z(0), q.X(1), q.Y(2) @ q.Z(0)]))


def trainable_state(q, x):
    q.StatePrep(q.math.stack([q.math.cos(x[0]), q.math.sin(x[0]), 0 * x[0], 0 * x[0]]), wires=[1, 0])
    q.RX(x[1], 1)
    return q.expval(q.Z(0)), q.expval(q.Z(1))


def embedded_and_normalized(q, x):
    q.AmplitudeEmbedding(q.math.concatenate([x, x[:1]]), wires=[0, 1], normalize=True)
    q.RX(x[0], 0)
    return q.expval(q.Z(0) @ q.X(1))


def many_gates(q, x):
    q.QubitUnitary(np.kron(np.eye(2), [[0, 1], [1, 0]]), wires=[0, 2])
    q.IsingXX(x[0], [0, 1])
    q.PauliRot(x[1], "XYZ", [0, 1, 2])
    q.MultiRZ(x[2], [2, 0])
    q.SWAP([0, 2])
    q.Toffoli([0, 1, 2])
    q.CRot(x[0], x[1], x[2], [2, 1])
    return q.expval(q.Z(0)), q.expval(q.Y(1)), q.expval(q.X(2))


def fourier(q, x):
    q.QFT(wires=range(3))
    q.RX(x[0], 1)
    q.adjoint(q.QFT)(wires=range(3))
    q.ControlledPhaseShift(x[1], [0, 2])
    q.PhaseShift(x[2], 1)
    q.Hadamard(0)
    q.CZ([0, 1])
    q.Hadamard(1)
    return q.probs()


def cnots_everywhere(q, x):
    q.CNOT([0, 1])
    q.CNOT([1, 2])
    q.RX(x[0], 1)
    q.CNOT([2, 0])
    q.RY(x[1], 0)
    q.CRX(x[2], [0, 1])
    q.CNOT([1, 0])
    q.PauliX(2)
    q.RZ(x[0], 2)
    q.CNOT([0, 2])
    q.Hadamard(1)
    return q.expval(q.X(0) @ q.Y(1)), q.expval(q.Z(2)), q.var(q.Y(0)), q.expval(q.Z(0) @ q.Z(1) @ q.Z(2))


def time_evolution(q, x):
    q.exp(q.X(0) @ q.Y(1), -1j * x[0])
    q.ApproxTimeEvolution(q.Hamiltonian([1.0, 0.4], [q.X(0), q.Z(0) @ q.Z(1)]), x[0], 3)
    q.TrotterProduct(q.X(0) + q.Z(0), x[2], n=2)
    q.SingleExcitation(x[1], [0, 1])
    return q.expval(q.Z(1))


CIRCUITS = [
    conditional, measured_and_reset, controlled_adjoint_power, mixed_measurements, branches, trainable_hamiltonian,
    trainable_state, embedded_and_normalized, many_gates, fourier, cnots_everywhere, time_evolution,
]  # fmt: skip


@pytest.mark.parametrize("circuit", CIRCUITS, ids=lambda c: c.__name__)
@pytest.mark.filterwarnings("ignore::qhybrid.FallbackWarning")
def test_circuits(circuit):
    def run(library, device):
        node = library.QNode(lambda x: circuit(library, x), device)

        def flat(x):
            result = node(x)
            return qml.numpy.hstack([qml.numpy.ravel(r) for r in (result if isinstance(result, tuple) else (result,))])

        return [node(X), qml.jacobian(flat)(X)]

    assert_same(run)


def test_wires_by_name_in_another_order():
    def run(library, device):
        @library.qnode(device)
        def circuit(x):
            library.RX(x[0], "a")
            library.CNOT(["a", "b"])
            library.RY(x[1], "q")
            library.CNOT(["b", "q"])
            return library.probs(wires=["q", "a"]), library.expval(library.Z("b"))

        return [circuit(X), qml.jacobian(lambda x: circuit(x)[0])(X)]

    assert_same(run, wires=["q", "b", "a"])


def test_entropies_and_states():
    def run(library, device):
        @library.qnode(device)
        def circuit(x):
            library.RX(x[0], 0)
            library.CNOT([0, 1])
            library.Barrier([0, 1])
            library.GlobalPhase(x[1])
            return library.purity([0]), library.vn_entropy([0]), library.mutual_info([0], [1]), library.state()

        return circuit(X)

    assert_same(run)


@pytest.mark.parametrize(
    ("first", "second"), [((), ()), ((5,), ()), ((), (5,)), ((5,), (5,)), ((1,), (1,)), ((1,), ()), ((40,), (40,))]
)
def test_batches(first, second):
    def values(shape, low, high):
        return pnp.array(np.linspace(low, high, int(np.prod(shape))).reshape(shape), requires_grad=True)

    def run(library, device):
        @library.qnode(device)
        def circuit(a, b):
            library.RX(a, 0)
            library.RY(b, 1)
            library.CNOT([0, 1])
            library.CNOT([1, 2])
            library.RX(a, 1)
            return library.expval(library.Z(1)), library.probs(wires=[0, 2])

        a, b = values(first, 0.1, 1), values(second, 0.3, 2)
        return [circuit(a, b), *(qml.jacobian(lambda a, b, k=k: circuit(a, b)[k])(a, b) for k in range(2))]

    assert_same(run)


# ------------------------------------------------------------------ what is around a circuit


def test_values_from_outside_change():
    def run(library, device):
        settings, factors, out = {"scale": 0.1}, [0.2], []

        @library.qnode(device)
        def circuit(a, extra=factors):
            library.RX(a * settings["scale"], 0)
            for f in extra:
                library.RX(a * f, 0)
            return library.expval(library.Z(0))

        for scale in (0.1, 0.2, 0.9):
            settings["scale"] = scale
            out.append(circuit(1.3))
        factors.append(0.5)
        return [*out, circuit(1.3)]

    assert_same(run)


class Model:
    """A circuit that is a method and reads its object."""

    def __init__(self, library, device):
        self.weights = np.array([0.2, 0.3])
        self.node = library.QNode(self.circuit, device)

    def circuit(self, a):
        """Two rotations."""
        qml.RX(a * self.weights[0], 0)
        qml.RY(self.weights[1], 0)
        return qml.expval(qml.Z(0))


def test_methods_and_their_copies():
    def run(library, device):
        model = Model(library, device)
        out = [model.node(1.0)]
        model.weights[0] = 2.0
        out.append(model.node(1.0))
        other = copy.deepcopy(model)
        other.weights[0] = 7
        return [*out, other.node(1.0), model.node(1.0)]

    assert_same(run)


def test_arguments_of_all_kinds():
    def run(library, device):
        @library.qnode(device)
        def circuit(p, *, n=1, flag=False, names=("a",)):
            for _ in range(n):
                library.RX(p["w"][0], 0)
            if flag:
                library.RY(p["w"][1][0], 0)
            if "b" in names:
                library.RX(p["z"], 1)
            return {"z": library.expval(library.Z(0)), "l": [library.expval(library.Z(1))]}

        p = {"w": [0.3, (0.4,)], "z": np.float32(0.2)}
        return [circuit(p), circuit(p, n=3), circuit(p, flag=True), circuit(p, names=["b"]), circuit(p, names=("b",))]

    assert_same(run)


def test_numbers_of_all_types():
    def run(library, device):
        @library.qnode(device)
        def circuit(a):
            library.RX(a, 0)
            return library.expval(library.Z(0))

        return [circuit(a) for a in (1, 1.0, 2, np.int64(3), np.float32(0.5), np.array(1), np.array(1.5))]

    assert_same(run)


def test_nested_nodes_and_hessians():
    def run(library, device):
        @library.qnode(device)
        def inner(a):
            library.RX(a, 0)
            return library.expval(library.Z(0))

        @library.qnode(device, max_diff=2)
        def outer(a, b):
            library.RX(a, 0)
            library.CNOT([0, 1])
            library.RY(b, 1)
            return library.expval(library.X(1))

        def both(a):
            return outer(inner(a), a * inner(a) ** 2)

        a = pnp.array(0.4, requires_grad=True)
        hessian = qml.jacobian(qml.grad(lambda x: outer(x[0], x[1] * x[2])))(X)
        return [both(a), qml.grad(both)(a), hessian]

    assert_same(run)


# ------------------------------------------------------------------ PyTorch


def layer_circuit(library, device, **options):
    """Embedding and two entangling layers on three wires."""

    @library.qnode(device, **options)
    def circuit(inputs, weights):
        library.AngleEmbedding(inputs, wires=range(3))
        library.StronglyEntanglingLayers(weights, wires=range(3))
        return [library.expval(library.Z(i)) for i in range(3)]

    return circuit


def stacked(result):
    """Values along the last axis."""
    return torch.stack(list(result), -1)


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(5, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    weights = torch.rand(2, 3, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    return inputs, weights


@pytest.mark.parametrize("constant_inputs", [False, True])
def test_torch_batch(tensors, constant_inputs):
    def run(library, device):
        inputs, weights = (t.detach().clone().requires_grad_() for t in tensors)
        out = stacked(layer_circuit(library, device)(inputs.detach() if constant_inputs else inputs, weights))
        (out**2).sum().backward()
        return [out, weights.grad, *([] if constant_inputs else [inputs.grad])]

    assert_same(run)


def test_torch_partial_backward_and_no_grad(tensors):
    def run(library, device):
        inputs, weights = (t.detach().clone().requires_grad_() for t in tensors)
        circuit = layer_circuit(library, device)
        out = circuit(inputs, weights)
        out[1].sum().backward(retain_graph=True)
        first = inputs.grad.clone()
        out[0][2].backward()
        with torch.no_grad():
            plain = stacked(circuit(inputs, weights))
        with torch.inference_mode():
            inferred = stacked(circuit(inputs, weights)).clone()
        return [first, inputs.grad, plain, inferred]

    assert_same(run)


def test_torch_double_backward_and_jacrev(tensors):
    def run(library, device):
        circuit, weights = layer_circuit(library, device, max_diff=2), tensors[1].detach()
        x = tensors[0][0].detach().requires_grad_()
        (g,) = torch.autograd.grad(stacked(circuit(x, weights)).sum(), x, create_graph=True)
        (h,) = torch.autograd.grad((g**2).sum(), x)
        return [g, h, torch.func.jacrev(lambda x: stacked(circuit(x, weights)))(x.detach())]

    assert_same(run)


def test_torch_optimizer_and_checkpoint(tensors):
    def run(library, device):
        circuit = layer_circuit(library, device)
        inputs, weights = (t.detach().clone().requires_grad_() for t in tensors)
        optimizer = torch.optim.LBFGS([weights], lr=0.3, max_iter=5)

        def closure():
            optimizer.zero_grad()
            loss = stacked(circuit(inputs.detach(), weights)).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        out = torch.utils.checkpoint.checkpoint(lambda x: stacked(circuit(x, weights)), inputs, use_reentrant=False)
        out.sum().backward()
        return [weights, inputs.grad, weights.grad]

    assert_same(run)


def test_torch_threads(tensors):
    def run(library, device):
        circuit = layer_circuit(library, device)

        def gradient(i):
            weights = tensors[1].detach().clone().requires_grad_()
            stacked(circuit(tensors[0].detach() * i, weights)).sum().backward()
            return weights.grad

        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(gradient, range(8)))

    assert_same(run)


def test_torch_layer_copies_and_leading_axes(tensors):
    def run(library, device):
        layer = library.qnn.TorchLayer(layer_circuit(library, device), {"weights": (2, 3, 3)}).double()
        linear = nn.Linear(3, 2).double()
        with torch.no_grad():
            layer.weights.copy_(tensors[1])
            for p in linear.parameters():
                p.fill_(0.3)
        model = nn.Sequential(layer, linear)
        other = copy.deepcopy(model)
        out = other(tensors[0].detach())
        out.sum().backward()
        model.load_state_dict(other.state_dict())
        return [out, other[0].weights.grad, model(tensors[0].detach().reshape(5, 1, 3))]

    assert_same(run)


def test_torch_functions_inside_the_circuit(tensors):
    def run(library, device):
        @library.qnode(device)
        def circuit(a, b):
            z = torch.sin(a) * b.sum()
            library.RX(z[0], 0)
            library.RY(z[1] ** 2, 1)
            library.CNOT([0, 1])
            library.RX(nn.functional.softplus(z[2]), 2)
            return library.expval(library.Z(1)), library.probs(wires=[2])

        a, b = (t.detach().requires_grad_() for t in tensors[0][:2])
        value, probabilities = circuit(a, b)
        (value + 2 * probabilities[0]).backward()
        return [value, probabilities, a.grad, b.grad]

    assert_same(run)
