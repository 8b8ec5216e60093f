"""Complex arguments and results: each host's own convention, for holomorphic losses and for others."""

from __future__ import annotations

import autograd
import autograd.numpy as anp
import numpy as np
import pennylane as qml
import pytest
import scipy
import torch

import qhybrid
from qhybrid.capture.values import concrete

WIRES = 2


def device():
    return qml.device("qhybrid.statevector", wires=WIRES)


def layers(unitary, amplitudes, angle):
    qml.StatePrep(amplitudes, wires=range(WIRES), validate_norm=False)
    qml.RY(angle, 0)
    qml.QubitUnitary(unitary, wires=range(WIRES), unitary_check=False)
    qml.IsingXX(2 * angle, wires=[0, 1])


@qhybrid.qnode(device())
def amplitudes(*args):
    layers(*args)
    return qml.state()


@qhybrid.qnode(device())
def numbers(*args):
    layers(*args)
    return qml.expval(qml.Z(0) @ qml.X(1)), qml.var(qml.Y(0)), qml.probs(wires=[1])


def random_complex(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def arguments():
    """An antihermitian generator, a state's direction and an angle, free to vary in any way."""
    generator, direction = torch.from_numpy(random_complex(4, 4)), torch.from_numpy(random_complex(4, seed=1))
    return [t.requires_grad_() for t in (generator, direction, torch.tensor(0.3, dtype=torch.float64))]


def through(node):
    """A node at a unitary matrix and a normalised state made of free numbers."""

    def function(generator, direction, angle):
        unitary = torch.linalg.matrix_exp(generator - generator.mH)
        results = node(unitary, direction / torch.linalg.vector_norm(direction), angle)
        return results if isinstance(results, torch.Tensor) else torch.cat([r.reshape(-1) for r in results])

    return function


@pytest.mark.parametrize("node", [amplitudes, numbers], ids=["state", "numbers"])
def test_torch_agrees_with_differences_at_first_and_second_order(node):
    function = through(node)
    how = {"check_batched_forward_grad": False}  # PyTorch fails on `generator.mH` then, whatever follows
    assert torch.autograd.gradcheck(function, arguments(), check_forward_ad=True, check_batched_grad=True, **how)
    assert torch.autograd.gradgradcheck(function, arguments(), check_fwd_over_rev=True)


def matrix_of(angle):
    """What the circuit does to amplitudes, but for the unitary in its middle."""
    first = qml.matrix(qml.RY(angle, 0), wire_order=range(WIRES))
    return first, qml.matrix(qml.IsingXX(2 * angle, wires=[0, 1]), wire_order=range(WIRES))


def closed_form():
    """Unitary, amplitudes, angle, weights, and the derivatives of ``weights . state``, which is holomorphic."""
    unitary, psi = np.linalg.qr(random_complex(4, 4))[0], random_complex(4, seed=1)
    psi, weights, angle = psi / np.linalg.norm(psi), random_complex(4, seed=2), 0.3
    before, after = matrix_of(angle)
    left = weights @ after
    return unitary, psi, angle, weights, left @ unitary @ before, np.outer(left, before @ psi)


def test_holomorphic_derivatives_are_those_of_autograd():
    unitary, psi, angle, weights, by_psi, by_unitary = closed_form()

    def loss(u, p):
        return anp.sum(weights * amplitudes(u, p, angle))

    np.testing.assert_allclose(autograd.holomorphic_grad(loss, 1)(unitary, psi), by_psi, atol=1e-12)
    np.testing.assert_allclose(autograd.holomorphic_grad(loss, 0)(unitary, psi), by_unitary, atol=1e-12)


def test_holomorphic_derivatives_in_torch_are_conjugated():
    unitary, psi, angle, weights, by_psi, by_unitary = closed_form()
    inputs = [torch.from_numpy(unitary).requires_grad_(), torch.from_numpy(psi).requires_grad_()]
    value = (torch.from_numpy(weights) * amplitudes(*inputs, torch.tensor(angle, dtype=torch.float64))).sum()
    found = torch.autograd.grad(value, inputs, torch.ones_like(value))
    np.testing.assert_allclose(found[1], by_psi.conj(), atol=1e-12)
    np.testing.assert_allclose(found[0], by_unitary.conj(), atol=1e-12)


def test_a_tangent_of_amplitudes_goes_through_as_it_is():
    """The state is linear in the amplitudes, whatever the phase of the tangent."""
    unitary, psi, angle, *_ = closed_form()
    before, after = matrix_of(angle)
    tangent = random_complex(4, seed=5)
    expected = after @ unitary @ before @ tangent
    inputs = [torch.from_numpy(unitary), torch.from_numpy(psi), torch.tensor(angle, dtype=torch.float64)]
    _, found = torch.func.jvp(lambda p: amplitudes(inputs[0], p, inputs[2]), (inputs[1],), (torch.from_numpy(tangent),))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    _, found = autograd.make_jvp(lambda p: amplitudes(unitary, p, angle))(psi)(tangent)
    np.testing.assert_allclose(concrete(found), expected, atol=1e-12)


@pytest.mark.parametrize("weight", [1.0, 1j, 0.3 - 2j])
def test_losses_that_are_not_holomorphic(weight):
    """``|weights . state|^2 + Re(weight sum state^2)``: its change along any direction is what each host promises."""
    unitary, psi, angle, weights, *_ = closed_form()

    def loss(lib, state):
        return lib.abs(lib.sum(lib.asarray(weights) * state)) ** 2 + lib.real(weight * lib.sum(state**2))

    generator, h = random_complex(4, 4, seed=7), 1e-3
    generator -= generator.conj().T
    direction = generator @ psi
    points = [scipy.linalg.expm(s * h * generator) @ psi for s in (1, -1, 2, -2)]
    values = [loss(np, np.asarray(concrete(amplitudes(unitary, p, angle)))) for p in points]
    slope = (8 * (values[0] - values[1]) - (values[2] - values[3])) / (12 * h)

    ours = autograd.grad(lambda p: loss(anp, amplitudes(unitary, p, angle)))(psi)
    np.testing.assert_allclose(np.sum(ours * direction).real, slope, atol=1e-9)  # autograd: dL/dx - i dL/dy
    p = torch.from_numpy(psi).requires_grad_()
    loss(torch, amplitudes(torch.from_numpy(unitary), p, torch.tensor(angle, dtype=torch.float64))).backward()
    np.testing.assert_allclose(np.sum(p.grad.numpy().conj() * direction).real, slope, atol=1e-9)  # dL/dx + i dL/dy
