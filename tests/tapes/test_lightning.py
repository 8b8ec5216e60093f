"""``lightning.qubit`` by its kernels: results are the device's own, derivatives those of the oracle."""

from __future__ import annotations

import numpy as np
import pennylane as qml
import pytest
import torch

import qhybrid
from qhybrid.execution import Needs
from qhybrid.program import Program, Slots
from qhybrid.tapes import backend_of
from qhybrid.tapes.openmp import _runtimes, one_thread
from qhybrid_devices.statevector.reference import ReferenceExecutable
from tests.tapes.programs import WIRES, random_program


def _layers(x, w):
    qml.AngleEmbedding(x, wires=range(3))
    qml.StronglyEntanglingLayers(w, wires=range(3))


def _gradients(function, device, *args, **kwargs):
    tensors = [torch.tensor(a, requires_grad=True) for a in args]
    result = qhybrid.QNode(function, device, **kwargs)(*tensors)
    (torch.stack(list(result), -1) if isinstance(result, list | tuple) else result).square().sum().backward()
    return [t.grad.numpy() for t in tensors]


@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("seed", range(8))
def test_kernels_agree_with_the_oracle(batch, seed):
    program, slots = random_program(seed, batch, state=False)
    program = Program(
        WIRES,
        program.gates,
        program.scalars[:1],
        (),
        program.preparation,
        program.num_shared,
        program.num_batched,
        program.arrays,
    )
    if not program.is_batched:
        slots = Slots(slots.shared, None, slots.arrays)
    executable = backend_of(qml.device("lightning.qubit", wires=WIRES)).compile(program)
    reference = ReferenceExecutable(program)
    np.testing.assert_allclose(executable.run(slots)[0], reference.run(slots)[0], atol=1e-10)
    assert (executable.backend.direct(executable) is None) == executable.measured.varies


@pytest.mark.parametrize(
    "name", ["PhaseShift", "IsingXY", "SingleExcitation", "SingleExcitationPlus", "CRZ", "MultiRZ"]
)
@pytest.mark.parametrize("controls", [[], [2], [2, 3]])
def test_generators_of_the_adjoint_kernel(name, controls, mocker):
    def circuit(x):
        for w in range(4):
            qml.RY(0.3 + w, wires=w)
        wires = [0] if name == "PhaseShift" else [0, 1]
        kind = getattr(qml, name)
        (qml.ctrl(kind, controls, control_values=[1] * len(controls)) if controls else kind)(x, wires=wires)
        for w in range(4):
            qml.RX(0.4 * w + x, wires=w)
        return [qml.expval(qml.Z(0) @ qml.Y(1)), qml.expval(qml.X(1) + 0.4 * qml.Z(2) + 0.2 * qml.I(0))]

    device = qml.device("lightning.qubit", wires=4)
    execute = mocker.spy(device, "execute")
    found = _gradients(circuit, device, np.array([0.3, -1.2]))
    assert execute.call_count == 1  # the comparison with the kernels
    np.testing.assert_allclose(
        found, _gradients(circuit, qml.device("qhybrid.statevector"), np.array([0.3, -1.2])), atol=1e-8
    )


def test_features_as_amplitudes_keep_the_adjoint_kernel(mocker):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(3, 8))

    def circuit(w):
        qml.AmplitudeEmbedding(features, wires=[2, 0, 1], normalize=True)
        qml.QubitUnitary(qml.matrix(qml.IsingXX(0.3, [0, 1])), wires=[1, 2])
        qml.StronglyEntanglingLayers(w, wires=range(3))
        return [qml.expval(qml.Z(w)) for w in range(3)]

    device = qml.device("lightning.qubit", wires=3)
    weights = rng.uniform(size=(2, 3, 3))
    execute = mocker.spy(device, "execute")
    found = _gradients(circuit, device, weights)
    assert execute.call_count == 1
    np.testing.assert_allclose(found[0], _gradients(circuit, qml.device("qhybrid.statevector"), weights)[0], atol=1e-8)


# ------------------------------------------------------------------ where the device's own derivative is wrong


WEIGHTS = np.random.default_rng(1).uniform(size=(1, 3, 3))


def _diagonal(w):
    _layers(np.array([0.1, 0.2, 0.3]), w)
    qml.DiagonalQubitUnitary(np.exp(1j * np.arange(4.0)), wires=[0, 1])
    qml.RX(w[0, 0, 0], wires=0)
    return qml.expval(qml.Z(0) @ qml.X(1))


def test_a_constant_diagonal_does_not_take_the_gradient_away():
    found = _gradients(_diagonal, qml.device("lightning.qubit", wires=3), WEIGHTS)
    np.testing.assert_allclose(
        found[0], _gradients(_diagonal, qml.device("qhybrid.statevector"), WEIGHTS)[0], atol=1e-8
    )
    assert np.abs(found[0]).max() > 0.01


def test_batched_multirz():
    def circuit(x):
        qml.Hadamard(0)
        qml.RY(0.4, wires=1)
        qml.MultiRZ(x, wires=[0, 1])
        return qml.expval(qml.X(0))

    x = np.array([0.1, 0.7, 2.0])
    found = _gradients(circuit, qml.device("lightning.qubit", wires=2), x)
    np.testing.assert_allclose(found[0], _gradients(circuit, qml.device("qhybrid.statevector"), x)[0], atol=1e-8)


def test_coefficients_of_a_hamiltonian():
    def circuit(x, c):
        qml.RX(x, wires=0)
        qml.RY(0.4, wires=1)
        qml.CNOT([0, 1])
        return qml.expval(qml.Hamiltonian(c, [qml.Z(0) @ qml.Z(1), qml.X(1), qml.I(0)]))

    args = np.array(0.3), np.array([0.2, -0.7, 0.5])
    found = _gradients(circuit, qml.device("lightning.qubit", wires=2), *args)
    expected = _gradients(circuit, qml.device("qhybrid.statevector"), *args)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-8)


def test_double_precision_in_torch():
    x = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64, requires_grad=True)
    node = qhybrid.QNode(
        lambda x: (_layers(x, WEIGHTS), qml.expval(qml.Z(0)))[-1], qml.device("lightning.qubit", wires=3)
    )
    assert node(x).dtype == torch.float64
    assert torch.autograd.gradcheck(node, (x,))
    assert torch.autograd.gradgradcheck(node, (x,))


def test_single_precision_device():
    device = qml.device("lightning.qubit", wires=3, c_dtype=np.complex64)
    found = _gradients(_diagonal, device, WEIGHTS)
    np.testing.assert_allclose(
        found[0], _gradients(_diagonal, qml.device("qhybrid.statevector"), WEIGHTS)[0], atol=1e-5
    )


def test_needs():
    program, slots = random_program(2, 3, arrays=False, state=False)
    program = Program(
        WIRES,
        tuple(g for g in program.gates if g.name == "word"),
        program.scalars[:1],
        (),
        None,
        program.num_shared,
        program.num_batched,
    )
    executable = backend_of(qml.device("lightning.qubit", wires=WIRES)).compile(program)
    found = executable.vjp(slots, (np.ones((3, 1)),), Needs(False, True, ()))
    assert found.shared is None
    expected = ReferenceExecutable(program).vjp(slots, (np.ones((3, 1)),), Needs(True, True, ()))
    np.testing.assert_allclose(found.batched, expected.batched, atol=1e-8)


def test_the_number_of_threads_is_restored():
    from pennylane_lightning import lightning_qubit_ops

    library = lightning_qubit_ops.__file__
    runtimes = _runtimes(library)
    before = [r.omp_get_max_threads() for r in runtimes]
    with one_thread(library):
        assert [r.omp_get_max_threads() for r in runtimes] == [1] * len(runtimes)
    assert runtimes
    assert [r.omp_get_max_threads() for r in runtimes] == before
