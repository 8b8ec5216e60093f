"""The QNode: traced once, never stale, a PennyLane QNode in every other way."""

from __future__ import annotations

import copy
import pickle
import random
import threading
import warnings

import numpy as np
import pennylane as qml
import pytest
import torch
from pennylane import numpy as pnp

import qhybrid
from qhybrid import FallbackWarning


def _device(wires=2, **kwargs):
    return qml.device("qhybrid.statevector", wires=wires, **kwargs)


def rotation(x):
    qml.RX(x, wires=0)
    return qml.expval(qml.Z(0))


def test_second_call_does_not_run_the_function(capsys):
    @qhybrid.qnode(_device())
    def circuit(x):
        print("ran")
        qml.RX(x, wires=0)
        return qml.expval(qml.Z(0))

    circuit(0.1)
    assert capsys.readouterr().out == "ran\nran\n"  # the trace and its audit
    assert circuit(0.3) == pytest.approx(np.cos(0.3))
    assert capsys.readouterr().out == ""


def test_nested_arguments_keywords_and_static_values():
    @qhybrid.qnode(_device())
    def circuit(params, depth, *, gate="RX", flag=True, nothing=None):
        for _ in range(depth):
            getattr(qml, gate)(params["angles"][0], wires=0)
            qml.RY(params["angles"][1][0] if flag else 0.0, wires=1)
        return {"z": qml.expval(qml.Z(0)), "rest": [qml.expval(qml.Z(1)), qml.probs(wires=0)]}

    params = {"angles": [0.3, (np.array(0.4), 2)]}
    for depth, gate, flag in [(1, "RX", True), (2, "RX", True), (1, "RZ", False), (2, "RX", True)]:
        out = circuit(params, depth, gate=gate, flag=flag)
        angle = 0.3 * depth if gate == "RX" else 0.0
        assert out["z"] == pytest.approx(np.cos(angle))
        assert out["rest"][0] == pytest.approx(np.cos(0.4 * depth) if flag else 1.0)
        np.testing.assert_allclose(out["rest"][1], [np.cos(angle / 2) ** 2, np.sin(angle / 2) ** 2], atol=1e-12)


@pytest.mark.parametrize(
    ("returns", "kind"),
    [(lambda: qml.expval(qml.Z(0)), np.floating), (lambda: (qml.expval(qml.Z(0)),), tuple),
     (lambda: [qml.expval(qml.Z(0)), qml.expval(qml.Z(1))], list), (lambda: {"a": qml.expval(qml.Z(0))}, dict)],
)  # fmt: skip
def test_results_have_pennylanes_structure(returns, kind):
    def circuit(x):
        qml.RX(x, wires=0)
        return returns()

    ours = qhybrid.QNode(circuit, _device())(0.3)
    theirs = qml.QNode(circuit, qml.device("default.qubit", wires=2))(0.3)
    assert isinstance(ours, kind)
    assert isinstance(theirs, kind)
    flat = qml.pytrees.flatten(ours)[0], qml.pytrees.flatten(theirs)[0]
    np.testing.assert_allclose(*flat, atol=1e-12)


def test_only_what_requires_gradients_is_differentiated():
    @qhybrid.qnode(_device())
    def circuit(x, y):
        qml.RX(x, wires=0)
        qml.RY(y, wires=0)
        return qml.expval(qml.Z(0))

    x, y = torch.tensor(0.3, requires_grad=True), torch.tensor(0.4)
    circuit(x, y).backward()
    assert y.grad is None
    assert x.grad.item() == pytest.approx(-np.sin(0.3) * np.cos(0.4), abs=1e-6)
    gradient = qml.grad(circuit)(pnp.array(0.3, requires_grad=False), pnp.array(0.4, requires_grad=True))
    assert gradient == pytest.approx(-np.cos(0.3) * np.sin(0.4))


# ------------------------------------------------------------------ never stale


def test_changed_closure_global_attribute_and_array_are_seen():
    scale, array, tensor = 1.0, np.array([0.5]), torch.tensor([0.5])

    class Model:
        offset = 0.1

        def circuit(self, x):
            qml.RX(scale * x + array[0] + self.offset + tensor[0].item() * 0, wires=0)
            return qml.expval(qml.Z(0))

    model = Model()

    @qhybrid.qnode(_device())
    def circuit(x):
        qml.RX(scale * x + array[0] + model.offset, wires=0)
        return qml.expval(qml.Z(0))

    assert circuit(0.2) == pytest.approx(np.cos(0.8))
    scale = 2.0
    assert circuit(0.2) == pytest.approx(np.cos(1.0))
    array[0] = 0.7
    assert circuit(0.2) == pytest.approx(np.cos(1.2))
    model.offset = 0.4
    assert circuit(0.2) == pytest.approx(np.cos(1.5))
    bound = qhybrid.QNode(model.circuit, _device())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        assert bound(0.2) == pytest.approx(np.cos(0.4 + 0.7 + 0.4))


def test_branches_on_values_are_guarded():
    @qhybrid.qnode(_device())
    def circuit(x):
        if x > 1:
            qml.X(0)
        qml.RX(x, wires=0)
        return qml.expval(qml.Z(0))

    for x in (0.2, 1.4, 0.3, 1.5, 0.2):
        assert circuit(x) == pytest.approx((-1 if x > 1 else 1) * np.cos(x))
    assert circuit.explain(0.2).path == "compiled"


def test_random_functions_run_every_time():
    @qhybrid.qnode(_device())
    def circuit(x):
        qml.RX(x * random.choice([0.0, 1.0]), wires=0)
        return qml.expval(qml.Z(0))

    with pytest.warns(FallbackWarning, match="random"):
        first = circuit(np.pi)
    values = {round(float(circuit(np.pi)), 6) for _ in range(30)} | {round(float(first), 6)}
    assert values == {-1.0, 1.0}


def test_values_that_cannot_be_traced_are_recorded_every_time_with_one_warning():
    @qhybrid.qnode(_device())
    def circuit(x):
        qml.RX(float(x) * 2, wires=0)
        return qml.expval(qml.Z(0))

    with pytest.warns(FallbackWarning, match="cannot be traced") as caught:
        assert circuit(np.array(0.2)) == pytest.approx(np.cos(0.4))
        assert circuit(np.array(0.3)) == pytest.approx(np.cos(0.6))
    assert len(caught) == 1
    assert circuit.explain(np.array(0.3)).path == "recorded"


def test_trace_can_be_switched_off(capsys):
    @qhybrid.qnode(_device(), trace=False)
    def circuit(x):
        print("ran")
        qml.RX(x, wires=0)
        return qml.expval(qml.Z(0))

    for x in (0.1, 0.2, 0.3):
        assert circuit(x) == pytest.approx(np.cos(x))
    assert capsys.readouterr().out == "ran\n" * 3
    assert qml.grad(circuit)(pnp.array(0.3)) == pytest.approx(-np.sin(0.3))


def test_an_outside_world_that_always_changes_is_noticed():
    counter = [0]

    @qhybrid.qnode(_device())
    def circuit(x):
        qml.RX(x + counter[0], wires=0)
        return qml.expval(qml.Z(0))

    with pytest.warns(FallbackWarning, match="changes"):
        for i in range(10):
            counter[0] = i
            assert circuit(0.1) == pytest.approx(np.cos(0.1 + i))


def test_threads_share_a_node():
    node = qhybrid.QNode(rotation, _device())
    errors = []

    def work(seed):
        for x in np.random.default_rng(seed).uniform(-3, 3, 30):
            t = torch.tensor(x, requires_grad=True)
            value = node(t)
            value.backward()
            if abs(value.item() - np.cos(x)) > 1e-9 or abs(t.grad.item() + np.sin(x)) > 1e-9:
                errors.append(x)

    threads = [threading.Thread(target=work, args=(s,)) for s in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors


# ------------------------------------------------------------------ a PennyLane QNode


def test_drawing_specs_and_transforms():
    @qhybrid.qnode(_device())
    def circuit(x):
        qml.RX(x[0], wires=0)
        qml.CNOT([0, 1])
        qml.RY(x[1], wires=1)
        return qml.expval(qml.Z(1))

    x = pnp.array([0.3, 0.4], requires_grad=True)
    assert "RX(0.30)" in qml.draw(circuit)(x)
    assert qml.specs(circuit)(x)["resources"].num_gates == 3
    expected = qml.QNode(circuit.func, qml.device("default.qubit", wires=2))
    np.testing.assert_allclose(
        qml.metric_tensor(circuit, approx="block-diag")(x), qml.metric_tensor(expected, approx="block-diag")(x)
    )
    np.testing.assert_allclose(qml.gradients.param_shift(circuit)(x), qml.grad(expected)(x), atol=1e-10)
    np.testing.assert_allclose(qml.matrix(circuit)(x), qml.matrix(expected)(x), atol=1e-12)
    with pytest.warns(FallbackWarning, match="transforms"):
        assert qml.transforms.merge_rotations(circuit)(x) == pytest.approx(expected(x))


def test_update_copy_and_set_shots():
    node = qhybrid.QNode(rotation, _device(seed=1), diff_method="parameter-shift")
    assert isinstance(node, qml.QNode)
    assert node.update(diff_method="adjoint").explain(0.1).method == "adjoint"
    assert isinstance(copy.copy(node), qhybrid.QNode)
    assert copy.deepcopy(node)(0.3) == pytest.approx(np.cos(0.3))
    shots = qml.set_shots(node, shots=[100, (200, 2)])
    assert np.shape(shots(0.3)) == (3,)
    assert node.explain(0.1).forward_executions == 1


def test_pickle():
    node = pickle.loads(pickle.dumps(qhybrid.QNode(rotation, _device())))
    assert node(0.3) == pytest.approx(np.cos(0.3))

    @qhybrid.qnode(_device())
    def local(x):
        return rotation(x)

    with pytest.raises(TypeError, match="top level of a module"):
        pickle.dumps(local)


def test_other_devices_run_compiled():
    node = qhybrid.QNode(rotation, qml.device("default.qubit", wires=1))
    assert node(0.3) == pytest.approx(np.cos(0.3))
    assert node.explain(0.3).path == "compiled"


@pytest.mark.parametrize(
    ("interface", "kind"), [("torch", torch.Tensor), ("autograd", pnp.tensor), ("numpy", np.floating)]
)
def test_interface_by_name(interface, kind):
    assert isinstance(qhybrid.QNode(rotation, _device(), interface=interface)(np.array(0.3)), kind)


def test_explain_counts_shift_executions():
    def circuit(x, w):
        qml.RX(x, wires=0)
        qml.CRY(w, wires=[0, 1])
        return qml.expval(qml.Z(1))

    node = qhybrid.QNode(circuit, _device(), diff_method="parameter-shift")
    found = node.explain(np.ones(5), 0.3)
    assert (found.method, found.batch_size, found.forward_executions) == ("parameter-shift", 5, 5)
    assert found.gradient_executions == 5 * (2 + 4)
    assert "because" not in str(found)


def test_falls_through_to_pennylane():
    assert qhybrid.RX is qml.RX
    assert qhybrid.gradients.param_shift is qml.gradients.param_shift
    assert qhybrid.capture.enabled() is False
    with pytest.raises(AttributeError, match="neither qhybrid nor pennylane"):
        qhybrid.no_such_name  # noqa: B018


# ------------------------------------------------------------------ shots


def test_same_seed_same_samples():
    def draw():
        @qhybrid.qnode(_device(seed=11), shots=50)
        def circuit(x):
            qml.RX(x, wires=0)
            return qml.sample(wires=[0, 1]), qml.counts(wires=0), qml.expval(qml.Z(0)), qml.var(qml.X(0))

        return circuit(1.1)

    a, b = draw(), draw()
    np.testing.assert_array_equal(a[0], b[0])
    assert a[0].shape == (50, 2)
    assert sum(a[1].values()) == 50
    assert a[1] == b[1]
    assert a[2:] == b[2:]


def test_shift_gradients_from_shots_are_unbiased():
    node = qhybrid.QNode(rotation, _device(seed=3), shots=4000)
    x = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    gradients = []
    for _ in range(50):
        x.grad = None
        node(x).backward()
        gradients.append(x.grad.item())
    error = np.std(gradients) / np.sqrt(50)
    assert np.mean(gradients) == pytest.approx(-np.sin(0.7), abs=5 * error)
    assert node.explain(x).method == "parameter-shift"


def test_batched_shift_gradients_with_shots():
    @qhybrid.qnode(_device(seed=3), shots=20_000)
    def circuit(x, w):
        qml.RX(x, wires=0)
        qml.RY(w, wires=0)
        return qml.expval(qml.Z(0))

    x = torch.tensor([0.1, 0.9, 2.0], dtype=torch.float64, requires_grad=True)
    w = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    circuit(x, w).sum().backward()
    angles = x.detach().numpy()
    np.testing.assert_allclose(x.grad, -np.sin(angles) * np.cos(0.4), atol=0.05)
    np.testing.assert_allclose(w.grad, -(np.cos(angles) * np.sin(0.4)).sum(), atol=0.1)


# ------------------------------------------------------------------ batches and wires


def test_empty_batch():
    node = qhybrid.QNode(rotation, _device())
    x = torch.zeros(0, dtype=torch.float64, requires_grad=True)
    out = node(x)
    assert out.shape == (0,)
    out.sum().backward()
    assert x.grad.shape == (0,)


def test_any_wire_labels_and_no_wires():
    def circuit(x):
        qml.RX(x, wires="b")
        qml.CNOT(wires=["b", -3])
        return qml.probs(wires=[-3, "b"]), qml.expval(qml.Z(-3))

    for wires in (None, ["a", -3, "b"]):
        probs, z = qhybrid.QNode(circuit, _device(wires))(0.8)
        np.testing.assert_allclose(probs, [np.cos(0.4) ** 2, 0, 0, np.sin(0.4) ** 2], atol=1e-12)
        assert z == pytest.approx(np.cos(0.8))


def test_single_precision():
    node = qhybrid.QNode(rotation, _device(c_dtype=np.complex64))
    x = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    node(x).backward()
    assert x.grad.item() == pytest.approx(-np.sin(0.7), abs=1e-5)


@pytest.fixture
def default_dtype(request):
    """Torch's default dtype, for one test."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


@pytest.mark.filterwarnings("ignore:.*calls its function every time:qhybrid.FallbackWarning")
@pytest.mark.parametrize("default_dtype", [torch.float32, torch.float64], indirect=True)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("trace", [True, False])
def test_results_and_derivatives_keep_the_dtype_of_torch_inputs(default_dtype, dtype, trace):
    @qhybrid.qnode(qml.device("qhybrid.statevector", wires=1), trace=trace)
    def circuit(x):
        qml.RX(x, 0)
        qml.RY(0.2, 0)
        return qml.expval(0.5 * qml.Z(0))

    x = torch.tensor(0.3, dtype=dtype)
    value = circuit(x)
    assert value.dtype == dtype
    assert abs(float(value) - 0.5 * np.cos(0.3) * np.cos(0.2)) < 4 * torch.finfo(dtype).eps
    assert torch.func.grad(circuit)(x).dtype == torch.func.jacfwd(circuit)(x).dtype == dtype
    assert [y.dtype for y in torch.func.jvp(circuit, (x,), (torch.ones_like(x),))] == [dtype] * 2


@pytest.mark.filterwarnings("ignore:.*calls its function every time:qhybrid.FallbackWarning")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    device = qml.device("qhybrid.statevector", wires=1)
    circuit = qhybrid.QNode(rotation, device)
    x = torch.linspace(-3, 3, 50, dtype=dtype, requires_grad=True)
    value = circuit(x)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    exactly = x.detach().double()
    assert torch.equal(value, torch.cos(exactly).to(dtype))
    assert torch.equal(gradient, -torch.sin(exactly).to(dtype))

    @qhybrid.qnode(device)
    def state(x):
        qml.RX(x, wires=0)
        return qml.state()

    assert state(x.detach()).dtype == torch.complex64


@pytest.mark.parametrize("default_dtype", [torch.float32, torch.float64], indirect=True)
@pytest.mark.parametrize("trace", [True, False])
def test_constant_arrays_do_not_raise_the_dtype(default_dtype, trace):
    @qhybrid.qnode(qml.device("qhybrid.statevector", wires=1), trace=trace)
    def circuit(x):
        qml.StatePrep(np.array([0.6, 0.8]), 0)
        qml.RX(x, 0)
        return qml.expval(qml.Hermitian(np.array([[1.0, 0.5], [0.5, 2.0]]), 0)), qml.state()

    assert [y.dtype for y in circuit(torch.tensor(0.3, dtype=torch.float32))] == [torch.float32, torch.complex64]
    assert [y.dtype for y in circuit(torch.tensor(0.3, dtype=torch.float64))] == [torch.float64, torch.complex128]


@pytest.mark.parametrize("options", [{"shots": 2000}, {"diff_method": "parameter-shift"}, {"diff_method": "hadamard"}])
def test_an_angle_is_trained_beside_an_embedded_state(options):
    @qhybrid.qnode(qml.device("qhybrid.statevector", wires=2, seed=3), **options)
    def circuit(v, t):
        qml.AmplitudeEmbedding(v, wires=0, normalize=True)
        qml.RX(t, 0)
        return qml.expval(qml.Z(0))

    v, expected = np.array([0.3, 0.8]), -np.sin(0.3) * (0.09 - 0.64) / 0.73
    found = [
        torch.autograd.grad(circuit(torch.tensor(v), t := torch.tensor(0.3, requires_grad=True)), t)[0],
        torch.func.grad(circuit, 1)(torch.tensor(v), torch.tensor(0.3)),
        qml.grad(circuit, argnums=1)(pnp.array(v, requires_grad=False), pnp.array(0.3)),
    ]
    np.testing.assert_allclose(found, expected, atol=0.1 if "shots" in options else 1e-6)


def test_under_plain_pennylane_gradients_are_native():
    @qml.qnode(qml.device("qhybrid.statevector", wires=2))
    def circuit(x):
        qml.RX(x[0], wires=0)
        qml.CRY(x[1], wires=[0, 1])
        return qml.expval(qml.Z(0) @ qml.Z(1))

    x = pnp.array([0.3, 0.8], requires_grad=True)
    expected = qml.QNode(circuit.func, qml.device("default.qubit"))
    np.testing.assert_allclose(qml.grad(circuit)(x), qml.grad(expected)(x), atol=1e-10)
    t = torch.tensor([0.3, 0.8], requires_grad=True, dtype=torch.float64)
    circuit(t).backward()
    np.testing.assert_allclose(t.grad, qml.grad(expected)(x), atol=1e-10)


# ------------------------------------------------------------------ mid-circuit measurements


def _teleported(x):
    qml.RX(x, wires=0)
    m = qml.measure(0)
    qml.cond(m, qml.RY)(x, wires=1)
    return qml.expval(m), qml.expval(qml.Z(1)), qml.probs(op=m)


def test_values_and_gradients_through_a_measurement():
    node = qhybrid.QNode(_teleported, _device(3))
    plain = qml.QNode(_teleported, qml.device("default.qubit", wires=3), diff_method="backprop")
    x = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    for ours, theirs in zip(node(x), plain(x), strict=True):
        torch.testing.assert_close(ours, theirs)
    (ours,), (theirs,) = (torch.autograd.grad(sum(n(x)[:2]), x) for n in (node, plain))
    torch.testing.assert_close(ours, theirs)
    assert node.explain(x).path == "compiled"


def test_counts_and_samples_of_a_measurement():
    def circuit(x):
        qml.RX(x, wires=0)
        m = qml.measure(0)
        return qml.counts(m), qml.sample(m)

    counts, samples = qhybrid.QNode(circuit, _device(seed=2), shots=100)(np.pi)
    assert counts == {1: 100}
    np.testing.assert_array_equal(samples, np.ones(100))


@pytest.mark.parametrize("host", ["torch", "autograd"])
def test_constants_are_not_shifted(host):
    """An argument that nobody trains costs no circuits, and ``explain`` knows."""
    device = qml.device("qhybrid.aer", wires=2)

    @qhybrid.qnode(device)
    def circuit(a, b, c):
        qml.RX(a, wires=0)
        qml.RY(b, wires=0)
        qml.CRZ(c, wires=[0, 1])
        qml.Hadamard(1)
        return qml.expval(qml.Z(0))

    if host == "torch":
        a = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        arguments = (a, torch.tensor(0.2, dtype=torch.float64), 0.7)
        circuit(*arguments).backward()
        found = a.grad
    else:
        arguments = (pnp.array(0.3), pnp.array(0.2, requires_grad=False), 0.7)
        found = qml.grad(circuit)(*arguments)
    assert float(found) == pytest.approx(-np.sin(0.3) * np.cos(0.2))
    assert qhybrid.jobs_of(device).usage.circuits == 1 + 2
    explained = circuit.explain(*arguments)
    assert (explained.forward_circuits, explained.gradient_circuits) == (1, 2)
