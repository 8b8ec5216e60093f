"""How gates become operations and sweeps."""

from __future__ import annotations

import numpy as np

from qhybrid.program import Angle, Constant, Fixed, Gate, PauliRotation, SpectralRotation
from qhybrid_devices.statevector.operations import Frame, LoweringOptions, lower_gates
from qhybrid_devices.statevector.plan import build_plan, split_product
from qhybrid_devices.statevector.table import DENSE, DIAGONAL, FLIP, PAULI, PRODUCT_DIAGONAL, SPECTRUM, U2

X, SWAP = np.array([[0, 1], [1, 0]]), np.eye(4)[[0, 2, 1, 3]]
H = np.array([[1, 1], [1, -1]]) / np.sqrt(2)


def fixed(matrix, *wires, controls=(), values=()):
    return Gate("fixed", wires, Fixed(Constant(np.array(matrix, complex))), controls, values)


def rotation(word, *wires, index=0, batched=False):
    return Gate("rotation", wires, PauliRotation(word, Angle(index, batched)))


def lower(*gates, wires=4, **options):
    return lower_gates(gates, Frame.of_wires(wires), (), LoweringOptions(**options))


def kinds(*gates, **options):
    return [op.kind for op in lower(*gates, **options)[0]]


def test_kernels_are_chosen_by_structure():
    cnot = np.eye(4)[[0, 1, 3, 2]]
    assert kinds(fixed(X, 0)) == [FLIP]
    assert kinds(fixed(cnot, 0, 1)) == [FLIP]
    assert kinds(fixed(np.diag([1, 1, 1, -1]), 0, 1)) == [DIAGONAL]
    assert kinds(fixed(np.kron(H, H), 0, 1)) == [DENSE]
    assert kinds(rotation("X", 0)) == [PAULI]
    assert kinds(rotation("ZZ", 0, 1)) == [PAULI]
    assert kinds(fixed(np.eye(2), 0)) == []


def test_controls_are_peeled_off_matrices():
    (op,), *_ = lower(fixed(np.eye(8)[[0, 1, 2, 3, 4, 5, 7, 6]], 0, 1, 2))
    assert (op.kind, op.targets, op.cmask, op.cval) == (FLIP, (1,), 0b1100, 0b1100)
    (op,), *_ = lower(fixed(np.kron(np.diag([1, 0]), X) + np.kron(np.diag([0, 1]), np.eye(2)), 0, 1))
    assert (op.kind, op.cmask, op.cval) == (FLIP, 0b1000, 0)


def test_neighbours_fuse_and_constants_are_absorbed():
    gates = fixed(H, 0), rotation("Z", 0), fixed(H, 0), rotation("Y", 0, index=1), rotation("X", 1)
    (op, _), *_ = lower(*gates)
    assert op.kind == U2
    assert [f.angle for f in op.factors] == [Angle(0), Angle(1)]
    (op,), *_ = lower(rotation("Z", 0), rotation("Z", 0, index=1))
    assert (op.kind, op.composition) == (DIAGONAL, PRODUCT_DIAGONAL)


def test_an_operation_between_prevents_fusion():
    assert kinds(rotation("X", 0), fixed(X, 1, controls=(0,), values=(True,)), rotation("X", 0)) == [PAULI, FLIP, PAULI]


def test_batched_and_shared_gates_fuse_only_on_request():
    gates = rotation("X", 0, batched=True), rotation("Y", 0)
    assert kinds(*gates) == [PAULI, PAULI]
    assert kinds(*gates, fuse_mixed=True) == [U2]


def test_swap_relabels():
    operations, frame = lower(fixed(SWAP, 0, 3), fixed(X, 0))
    assert frame.bits == (0, 2, 1, 3)
    assert [op.targets for op in operations] == [(0,)]
    assert kinds(fixed(SWAP, 0, 3), relabel=False) == [DENSE]


def cnot(control, target):
    return fixed(X, target, controls=(control,), values=(True,))


def test_cnots_are_absorbed():
    """|a b> -> |a, a+b>: the state of wire 1 is the parity of both bits, and wire 0 flips with both."""
    operations, frame = lower(cnot(0, 1), rotation("X", 0), rotation("Z", 1), wires=2, absorb=True, restore=False)
    assert frame == Frame(bits=(1, 0), flips=(0b11, 0b01), signs=(0b10, 0b11), absorbed=((1, 0),))
    assert [(op.kind, op.xmask, op.zmask) for op in operations] == [(PAULI, 0b11, 0), (PAULI, 0, 0b11)]


def test_absorbed_cnots_are_restored_where_bits_must_be_wires():
    gates = cnot(0, 1), cnot(2, 3), cnot(2, 3)
    assert kinds(*gates, absorb=True) == [FLIP]
    operations, frame = lower(*gates, fixed(np.kron(H, H), 1, 2), absorb=True, restore=False)
    assert [op.kind for op in operations] == [FLIP, DENSE]
    assert frame == Frame.of_bits((3, 2, 1, 0))
    controlled = fixed(H, 3, controls=(0,), values=(True,))
    assert kinds(*gates, controlled, absorb=True, restore=False) == [U2]
    assert kinds(*gates, fixed(H, 3, controls=(1,), values=(True,)), absorb=True, restore=False) == [FLIP, U2]


def test_what_comes_before_bits_meet_is_a_product():
    gates = rotation("X", 0), cnot(0, 1), rotation("Y", 2), rotation("Z", 1), fixed(H, 3), rotation("ZZ", 2, 3)
    operations = lower(*gates)[0]
    product, rest = split_product(operations)
    assert [op.targets for op in product] == [(3,), (1,), (0,)]
    assert [op.targets for op in rest] == [(2,), (2,), (1, 0)]
    assert build_plan(operations, 4, None, from_zeros=True).product_bits.tolist() == [3, 1, 0]
    assert build_plan(operations, 4, None).product_bits.tolist() == []


def test_one_qubit_gates_fuse_across_cnots_elsewhere():
    gates = rotation("X", 0), cnot(1, 2), rotation("Y", 0, index=1)
    assert kinds(*gates, absorb=True, restore=False) == [U2]
    assert kinds(rotation("X", 2), cnot(1, 2), rotation("Y", 2), absorb=True, restore=False) == [PAULI, PAULI]


def test_diagonal_spectra_stay_diagonal():
    projectors = Constant(np.stack([np.diag([1, 0, 0, 1]), np.diag([0, 1, 1, 0])]).astype(complex))
    gate = Gate("IsingZZ", (0, 1), SpectralRotation((-0.5, 0.5), projectors, Angle(0)))
    (op,), *_ = lower(gate)
    assert (op.kind, op.composition) == (DIAGONAL, SPECTRUM)
