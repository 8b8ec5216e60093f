"""Mid-circuit measurements while a circuit is lowered: wires, conditions, postselected outcomes, what is refused."""

import numpy as np
import pennylane as qml
import pytest
import torch
from pennylane import numpy as pnp
from pennylane.tape import QuantumScript

import qhybrid
from qhybrid.capture.deferral import spectrum_of_bits, z_words
from qhybrid.capture.lowering import lower
from qhybrid.capture.postselection import projector
from qhybrid.errors import CaptureError, CircuitError, DeviceError, DifferentiationError, FallbackWarning
from qhybrid.tapes import backend_of


def _device(**options):
    return qml.device("qhybrid.statevector", **options)


def _program(func, device=None):
    with qml.queuing.AnnotatedQueue() as queue:
        func()
    return lower(QuantumScript.from_queue(queue), device or _device(), varies=lambda value: False).program


# ------------------------------------------------------------------ wires

WIRES = {
    "not used again": (lambda: (qml.measure(0), qml.X(1), qml.expval(qml.Z(1))), 2),
    "read in its own basis": (lambda: (qml.measure(0), qml.X(1), qml.probs(wires=[0, 1])), 2),
    "read as a word of Z": (lambda: (qml.measure(0), qml.X(1), qml.expval(qml.Z(0) @ qml.X(1))), 2),
    "read in another basis": (lambda: (qml.measure(0), qml.X(1), qml.expval(qml.X(0))), 3),
    "its reduced state": (lambda: (qml.measure(0), qml.X(1), qml.density_matrix([0])), 3),
    "a gate on it": (lambda: (qml.measure(0), qml.RX(0.1, 0), qml.expval(qml.Z(0))), 2),
    "measured twice": (lambda: (qml.measure(0), qml.measure(0), qml.expval(qml.Z(0))), 2),
    "reset, not used again": (lambda: (qml.measure(0, reset=True), qml.X(1), qml.expval(qml.Z(1))), 2),
    "reset, then read": (lambda: (qml.measure(0, reset=True), qml.X(1), qml.expval(qml.Z(0))), 3),
    "its own value": (lambda: qml.expval(qml.measure(0)), 1),
    "a condition": (lambda: (qml.cond(qml.measure(0), qml.RX)(0.1, 1), qml.expval(qml.Z(1))), 2),
}


@pytest.mark.parametrize("name", WIRES)
def test_a_wire_for_an_outcome_only_where_it_is_needed(name):
    func, wires = WIRES[name]
    assert _program(func).num_wires == wires


def test_a_reset_is_no_gate():
    def func():
        qml.X(0)
        qml.measure(0, reset=True)
        qml.Y(0)
        qml.expval(qml.Z(0))

    gates = _program(func).gates
    assert [(g.name, g.wires) for g in gates] == [("PauliX", (0,)), ("PauliY", (1,))]


def test_simulators_take_wires_beyond_those_of_the_device():
    def circuit():
        qml.Hadamard(0)
        m = qml.measure(0)
        qml.Hadamard(0)
        return qml.expval(m), qml.probs(), qml.expval(qml.X(1))

    node = qhybrid.QNode(circuit, _device(wires=2))
    mean, probabilities, other = node()
    assert (mean, other) == (pytest.approx(0.5), pytest.approx(0.0))
    np.testing.assert_allclose(probabilities, [0.5, 0, 0.5, 0], atol=1e-12)
    assert node.explain().num_wires == 3


def test_other_devices_have_the_wires_that_they_have():
    def func():
        qml.measure("a")
        qml.Hadamard("a")
        qml.expval(qml.Z("b"))

    assert _program(func, backend_of(qml.device("default.qubit", wires=["a", "c", "b"]))).gates[0].wires == (1,)
    with pytest.raises(CaptureError, match="needs a further wire, and the device has 2"):
        _program(func, backend_of(qml.device("default.qubit", wires=["a", "b"])))


# ------------------------------------------------------------------ conditions

CONDITIONS = {
    "never": (lambda a, b, c: a > 1, []),
    "always": (lambda a, b, c: a + b >= 0, [{}]),
    "one does not matter": (lambda a, b, c: a + 0 * b == 1, [{0: True}]),
    "or": (lambda a, b, c: a | b, [{0: False, 1: True}, {0: True}]),
    "parity": (lambda a, b, c: a + c == 1, [{0: False, 2: True}, {0: True, 2: False}]),
    "number": (lambda a, b, c: a + 2 * b + 4 * c == 6, [{0: False, 1: True, 2: True}]),
}


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_copy_for_each_way_to_meet_a_condition(name):
    condition, expected = CONDITIONS[name]

    def func():
        m = [qml.measure(w) for w in range(3)]
        qml.cond(condition(*m), qml.RX)(0.3, wires=3)
        qml.expval(qml.Z(3))

    gates = _program(func).gates
    assert [dict(zip(g.controls, g.control_values, strict=True)) for g in gates] == expected
    assert all(g.classical == len(g.controls) for g in gates)


def test_conditions_on_postselected_outcomes_are_settled():
    def func():
        m, n = qml.measure(0, postselect=1), qml.measure(1)
        qml.cond(m & n, qml.RX)(0.3, wires=2)
        qml.cond(~m, qml.RY)(0.3, wires=2)
        qml.cond(m, qml.RZ)(0.3, wires=2)
        qml.expval(qml.Z(2))

    assert [(g.controls, g.control_values) for g in _program(func).gates] == [((1,), (True,)), ((), ())]


def test_functions_of_bits_as_words_of_z():
    values = np.random.default_rng(3).normal(size=8)
    found = np.zeros(8)
    for coefficient, word in zip(spectrum_of_bits(values), z_words((2, 0, 1)), strict=True):
        signs = [(-1) ** sum((k >> (2 - (2, 0, 1).index(w))) & 1 for w, _ in word) for k in range(8)]
        found += coefficient * np.array(signs)
    np.testing.assert_allclose(found, values, atol=1e-12)


def test_projectors_as_words_of_z():
    given = {0: True, 1: False}
    assert projector(given) == [(0.25, ()), (0.25, ((1, "Z"),)), (-0.25, ((0, "Z"),)), (-0.25, ((0, "Z"), (1, "Z")))]


# ------------------------------------------------------------------ traces


@pytest.mark.parametrize("postselect", [None, 1])
def test_traces_hold(postselect):
    """PennyLane orders outcomes by random names; no audit may see a difference in that."""

    def circuit(x):
        for wire in range(3):
            qml.RX(x[wire], wires=wire)
        m = [qml.measure(0, postselect=postselect, reset=True), qml.measure(1), qml.measure(2, reset=True)]
        qml.cond(m[1] + m[2] + m[0] > 1, qml.RY)(x[0], wires=0)
        qml.RX(x[1], wires=2)
        return qml.expval(m[2] - 3 * m[1]), qml.probs(op=m), qml.expval(qml.Z(0) @ qml.Z(2)), qml.var(m[2] * m[1])

    node = qhybrid.QNode(circuit, _device())
    plain = qml.QNode(circuit, qml.device("default.qubit"), mcm_method="deferred")
    for x in np.random.default_rng(0).uniform(
        0.3, 2.5, (10, 3)
    ):  # the calls 1 and 8 are audited; a warning is an error
        for mine, theirs in zip(node(x), plain(x), strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-11)
    assert node.explain(x).path == "compiled"


def test_outcomes_may_be_weighted_with_an_argument():
    def circuit(x, w):
        qml.RX(x, wires=0)
        m = qml.measure(0)
        return qml.expval(w * m), qml.var(w * m)

    x, w = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.8, 1.7))
    mean, variance = qhybrid.QNode(circuit, _device())(x, w)
    p = torch.sin(x / 2) ** 2
    torch.testing.assert_close((mean, variance), (w * p, w**2 * p * (1 - p)))
    found, wanted = (torch.autograd.grad(r, (x, w)) for r in (mean + variance, w * p + w**2 * p * (1 - p)))
    torch.testing.assert_close(found, wanted)


def test_a_projector_is_a_postselection():
    def circuit(x):
        qml.RX(x, wires=0)
        qml.CRY(1.1, wires=[0, 1])
        qml.Projector([1], wires=0)
        qml.Hadamard(0)
        return qml.expval(qml.Z(1)), qml.probs(wires=[0, 1])

    for mine, theirs in zip(
        qhybrid.QNode(circuit, _device())(0.7), qml.QNode(circuit, qml.device("default.qubit"))(0.7), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, atol=1e-12)


@pytest.mark.parametrize("postselect", [None, 1])
def test_plain_qnodes_on_our_device(postselect):
    def circuit(x):
        qml.RX(x, wires=0)
        m = qml.measure(0, reset=True, postselect=postselect)
        qml.RX(x, wires=0)
        qml.cond(m, qml.RY)(2 * x, wires=1)
        return qml.expval(qml.Z(0) @ qml.Z(1))

    x = pnp.array(0.7, requires_grad=True)
    mine, theirs = qml.QNode(circuit, _device(wires=2)), qml.QNode(circuit, qml.device("default.qubit"))
    assert mine(x) == pytest.approx(theirs(x), abs=1e-12)
    assert qml.grad(mine)(x) == pytest.approx(qml.grad(theirs)(x), abs=1e-10)


# ------------------------------------------------------------------ postselected samples


def _pair(x):
    qml.RX(x, wires=0)
    qml.CRY(1.1, wires=[0, 1])
    qml.RX(0.9, wires=2)


def _on_shots(func, shots=20_000, **options):
    return qml.set_shots(qhybrid.QNode(func, _device(seed=5), **options), shots)


def test_samples_that_do_not_pass_are_discarded():
    def circuit(x):
        _pair(x)
        m = qml.measure(0, postselect=1)
        qml.RX(0.3, wires=0)
        n = qml.measure(1)
        return qml.sample(wires=[1, 0]), qml.counts(m), qml.sample(m + 2 * n), qml.counts([n, m])

    samples, counts, values, pairs = _on_shots(circuit)(1.2)
    probability = np.sin(0.6) ** 2
    passed = len(samples)
    assert abs(passed - 20_000 * probability) < 5 * np.sqrt(20_000 * probability * (1 - probability))
    assert samples.shape == (passed, 2)
    assert counts == {1: passed}
    assert set(np.unique(values)) == {1, 3}
    assert len(values) == passed
    assert set(pairs) == {"01", "11"}
    assert sum(pairs.values()) == passed
    assert abs(samples[:, 0].mean() - np.sin(0.55) ** 2) < 5 * 0.5 / np.sqrt(passed)


def test_statistics_from_samples_that_pass():
    def circuit(x):
        _pair(x)
        m = qml.measure(0, postselect=1)
        qml.RX(0.3, wires=0)
        return (
            qml.expval(qml.Z(1)),
            qml.expval(qml.X(1) @ qml.Z(2)),
            qml.var(qml.Z(1) + 2 * qml.Z(2)),
            qml.probs(wires=[1, 0]),
            qml.expval(qml.Z(1) + qml.X(1)),
            qml.expval(m),
        )

    exact = qhybrid.QNode(circuit, _device())(1.2)
    for found, wanted in zip(_on_shots(circuit)(1.2), exact, strict=True):
        np.testing.assert_allclose(found, wanted, atol=5 * 2.5 / np.sqrt(20_000 * np.sin(0.6) ** 2))


def test_postselected_batches():
    def probabilities(x):
        _pair(x)
        qml.measure(0, postselect=1)
        return qml.probs(wires=[1, 2])

    def counted(x):
        _pair(x)
        qml.measure(0, postselect=1)
        return qml.counts(wires=1)

    def sampled(x):
        _pair(x)
        qml.measure(0, postselect=1)
        return qml.sample(wires=1)

    x = np.array([0.7, 1.9])
    exact = qhybrid.QNode(probabilities, _device())(x)
    np.testing.assert_allclose(_on_shots(probabilities)(x), exact, atol=0.05)
    counts = _on_shots(counted)(x)
    assert [sum(c.values()) / 20_000 for c in counts] == pytest.approx(np.sin(x / 2) ** 2, abs=0.02)
    with pytest.raises(CircuitError, match="of a batch has another number of samples that pass"):
        _on_shots(sampled)(x)


# ------------------------------------------------------------------ rare outcomes


def _rare(x):
    """The outcome has probability ``sin(x / 2) ** 2``, the result given it is ``-cos(x)``."""
    qml.RX(x, wires=0)
    qml.CNOT([0, 1])
    qml.measure(0, postselect=1)
    qml.RY(x, wires=1)
    return qml.expval(qml.Z(1))


@pytest.mark.parametrize("x", [1e-2, 1e-3, 1e-4, 1e-5])
def test_derivatives_given_rare_outcomes(x):
    node = qhybrid.QNode(_rare, _device())
    at = pnp.array(x, requires_grad=True)
    bound = 1e-15 / np.sin(x / 2) ** 2  # the second derivative divides rounding errors by the probability
    assert float(node(x)) == pytest.approx(-np.cos(x), rel=1e-14)
    assert float(qml.grad(node)(at)) == pytest.approx(np.sin(x), rel=1e-5, abs=0)
    assert float(qml.jacobian(qml.grad(node))(at)) == pytest.approx(np.cos(x), abs=max(bound, 1e-10))
    tensor = torch.tensor(x, dtype=torch.float64)
    assert float(torch.func.grad(node)(tensor)) == pytest.approx(np.sin(x), rel=1e-5, abs=0)
    assert float(torch.func.hessian(node)(tensor)) == pytest.approx(np.cos(x), abs=max(bound, 1e-10))


_DERIVATIVES = {
    "autograd": lambda node, x: qml.grad(node)(pnp.array(x)),
    "backward": lambda node, x: node(torch.tensor(x, dtype=torch.float64, requires_grad=True)).backward(),
    "torch.func.grad": lambda node, x: torch.func.grad(node)(torch.tensor(x, dtype=torch.float64)),
    "torch.func.jvp": lambda node, x: torch.func.jvp(
        node, (torch.tensor(x, dtype=torch.float64),), (torch.ones((), dtype=torch.float64),)
    ),
}


@pytest.mark.parametrize("host", _DERIVATIVES)
@pytest.mark.parametrize(
    ("device", "options", "x"),
    [
        ("qhybrid.statevector", {}, 1e-6),
        ("qhybrid.statevector", {"diff_method": "parameter-shift"}, 1e-3),
        ("default.qubit", {}, 1e-3),
        ("cirq.simulator", {}, 1e-2),
    ],
)
def test_derivatives_that_would_be_rounding_errors_are_refused(host, device, options, x):
    node = qhybrid.QNode(_rare, qml.device(device, wires=2), **options)
    assert float(node(x)) == pytest.approx(-np.cos(x), rel=1e-12 if device != "cirq.simulator" else 1e-3)
    with pytest.raises(DifferentiationError, match=r"outcomes have probability 2\.5e-"):
        _DERIVATIVES[host](node, x)
    _DERIVATIVES[host](node, 0.1)  # an ordinary outcome is not refused


def test_rare_outcomes_in_single_precision():
    node = qhybrid.QNode(_rare, _device(c_dtype=np.complex64))
    x = torch.tensor(0.01, requires_grad=True)
    with pytest.raises(DifferentiationError, match="from 1e-03 on"):
        node(x)
    with torch.no_grad():
        assert float(node(x)) == pytest.approx(-np.cos(0.01), abs=1e-6)


# ------------------------------------------------------------------ what is refused


def test_outcomes_that_never_occur():
    def circuit(x):
        qml.RX(x, wires=0)
        qml.measure(0, postselect=1)
        return qml.expval(qml.Z(1)), qml.probs(wires=1)

    with pytest.raises(CircuitError, match="A postselected outcome has probability zero"):
        qhybrid.QNode(circuit, _device())(0.0)
    with pytest.raises(CircuitError, match="none of the samples has it"):
        _on_shots(circuit, shots=3)(0.01)


def test_the_state_after_a_measurement():
    def circuit():
        qml.Hadamard(0)
        qml.measure(0)
        return qml.state()

    with pytest.raises(CircuitError, match=r"not one vector.*density_matrix"):
        qhybrid.QNode(circuit, _device())()


def test_variances_of_postselected_sums_in_several_bases():
    def circuit():
        qml.Hadamard(0)
        qml.measure(0, postselect=1)
        return qml.var(qml.Z(1) + qml.X(1))

    with pytest.raises(CircuitError, match="terms need different measurement bases"):
        _on_shots(circuit)()


def test_outcomes_of_another_circuit():
    kept = []

    def first():
        qml.Hadamard(0)
        kept.append(qml.measure(0))
        return qml.expval(qml.Z(0))

    def second():
        qml.cond(kept[0], qml.X)(1)
        return qml.expval(qml.Z(1))

    qhybrid.QNode(first, _device(), trace=False)()
    with pytest.raises(CircuitError, match="that this circuit does not make"):
        qhybrid.QNode(second, _device(), trace=False)()


def _measured(x):
    qml.RX(x, wires=0)
    m = qml.measure(0, postselect=1)
    qml.cond(m, qml.RY)(x, wires=1)
    return qml.expval(qml.Z(1))


def test_other_methods_of_measuring():
    refused = qhybrid.QNode(_measured, _device(), mcm_method="tree-traversal")
    with pytest.raises(DeviceError, match="mcm_method='tree-traversal' was asked for"):
        refused(0.7)
    for method in ("deferred", "device", None):
        node = qhybrid.QNode(_measured, _device(), mcm_method=method)
        assert node(0.7) == pytest.approx(np.cos(0.7))
        assert node.explain(0.7).path == "compiled"
    asked = qhybrid.QNode(_measured, qml.device("default.qubit"), mcm_method="tree-traversal")
    with pytest.warns(FallbackWarning, match="mcm_method='tree-traversal' was asked for"):
        assert asked(0.7) == pytest.approx(np.cos(0.7))
    asked = qhybrid.QNode(_measured, qml.device("default.qubit"), mcm_method="device")
    with pytest.warns(FallbackWarning, match="the device's own mid-circuit measurements"):
        assert asked(0.7) == pytest.approx(np.cos(0.7))


def test_a_method_of_measuring_is_no_matter_without_measurements():
    def circuit(x):
        qml.RX(x, wires=0)
        return qml.expval(qml.Z(0))

    assert qhybrid.QNode(circuit, _device(), mcm_method="tree-traversal")(0.7) == pytest.approx(np.cos(0.7))


def test_shots_are_not_filled_up():
    with pytest.raises(DeviceError, match="postselect_mode='fill-shots' was asked for"):
        _on_shots(_measured, postselect_mode="fill-shots")(0.7)
    assert _on_shots(_measured, postselect_mode="hw-like")(0.7) == pytest.approx(np.cos(0.7), abs=0.1)
    options = {"postselect_mode": "fill-shots", "mcm_method": "deferred"}
    filled = qhybrid.QNode(_measured, qml.device("default.qubit", seed=4), **options)
    with pytest.warns(FallbackWarning, match="fill-shots"):
        assert qml.set_shots(filled, 4000)(0.7) == pytest.approx(np.cos(0.7), abs=0.1)
    plain = qml.QNode(_measured, _device(), diff_method=None, postselect_mode="fill-shots")
    with pytest.raises(DeviceError, match="postselect_mode='fill-shots' was asked for"):
        qml.set_shots(plain, 100)(0.7)


def test_gradient_transforms_do_not_know_of_postselection():
    with pytest.raises(DeviceError, match=r"gradient transforms .* qhybrid.QNode"):
        qml.QNode(_measured, _device(), diff_method="parameter-shift")(0.7)
    assert qml.QNode(_measured, _device(), diff_method=None)(0.7) == pytest.approx(np.cos(0.7))
