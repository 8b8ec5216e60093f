"""Small programs that between them hold every kind of operator, slot, observable and measurement."""

from functools import lru_cache

import numpy as np

from qhybrid.execution import Circuit, Executable
from qhybrid.gradients import CircuitFunction
from qhybrid.program import (
    Angle,
    ArrayRef,
    ArraySlot,
    Constant,
    Diagonal,
    Evolution,
    Expectation,
    Fixed,
    Gate,
    Matrix,
    Observable,
    PauliRotation,
    Preparation,
    Probabilities,
    Program,
    SpectralRotation,
    State,
    Term,
    Variance,
)
from qhybrid_devices.statevector.executable import StateVectorExecutable
from qhybrid_devices.statevector.reference import ReferenceExecutable

S, B = Angle, (lambda k: Angle(k, True))
X, Z = np.array([[0, 1], [1, 0]]), np.diag([1, -1])
HADAMARD = Gate("Hadamard", (0,), Fixed(Constant((X + Z) / np.sqrt(2))))
CNOT = Gate("CNOT", (1,), Fixed(Constant(X)), (0,), (True,))
ZZ = Observable((Term(1.0, ((0, "Z"), (1, "Z"))), Term(0.3, ((0, "X"),))))
BASE = (HADAMARD, CNOT)

#: eigenvalues (-1, 0, 2.5) on one and a half qubits' worth of projectors: frequencies that are not equidistant
SPECTRAL = SpectralRotation(
    (-1.0, 0.0, 2.5),
    Constant(np.array([np.diag([1, 0, 0, 0]), np.diag([0, 1, 1, 0]), np.diag([0, 0, 0, 1])])),
    S(0),
)


def rx(angle: Angle, wire: int = 0, word: str = "X", scale: float = 1.0) -> Gate:
    """A Pauli rotation."""
    return Gate("R" + word, (wire,), PauliRotation(word, angle, scale))


def expval(*gates: Gate, observable: Observable = ZZ, **slots) -> Program:
    """<observable> after a Bell state, ``gates`` and a fixed rotation."""
    return Program(2, (*BASE, *gates, rx(S(0), 1, "Y")), (Expectation(observable),), **{"num_shared": 1, **slots})


HALF = rx(B(0), 1, "Y")
COEFFICIENT = Observable((Term(S(1), ((0, "Z"),)), Term(S(0), ((1, "X"),)), Term(0.5, ((0, "X"), (1, "Y")))))

#: By name. Angle slots only: every gradient method and second derivatives apply.
ANGLES: dict[str, Program] = {
    "one rotation": expval(rx(S(0))),
    "batched and shared": expval(rx(B(0)), rx(S(1), 1), num_shared=2, num_batched=1),
    "tied slot": expval(rx(S(0)), rx(S(0), 1, "X", -2.0), rx(S(0), 0, "Z", 0.7)),
    "tied batched slot": expval(rx(B(0)), rx(B(0), 1, "X", -2.0), num_batched=1),
    "controlled rotation": expval(Gate("CRX", (1,), PauliRotation("X", S(1)), (0,), (False,)), num_shared=2),
    "two-letter word": expval(Gate("PauliRot", (0, 1), PauliRotation("XY", S(1))), num_shared=2),
    "spectral": expval(Gate("spectral", (0, 1), SPECTRAL)),
    "controlled phase": expval(
        Gate("phase", (), SpectralRotation((-1.0,), Constant(np.ones((1, 1, 1))), S(1)), (1,), (True,)), num_shared=2
    ),
    "evolution time": expval(
        Gate("evolve", (0, 1), Evolution(Constant(np.stack([np.kron(X, Z), np.kron(Z, X)])), B(0), (0.7, 0.4))),
        num_batched=1,
    ),
    "evolution coefficients": expval(
        Gate("evolve", (0,), Evolution(Constant(np.stack([X, 2 * X])), 0.8, (S(1), 0.4))), num_shared=2
    ),
    "coefficients": expval(rx(S(0)), observable=COEFFICIENT, num_shared=2),
    "variance": Program(2, (*BASE, rx(S(0)), HALF), (Variance(ZZ), Expectation(ZZ)), num_shared=1, num_batched=1),
    "variance of coefficients": Program(
        2, (*BASE, rx(S(0)), HALF), (Variance(COEFFICIENT),), num_shared=2, num_batched=1
    ),
    "probabilities": Program(
        2, (*BASE, rx(S(0)), HALF), (), (Probabilities((1,)), Probabilities((1, 0), (HADAMARD,))), None, 1, 1
    ),
    "state": Program(2, (*BASE, rx(S(0)), rx(S(1), 1, "Y", 1.7)), (), (State(),), None, 2),
    "state and more": Program(
        2,
        (*BASE, rx(S(0)), Gate("CRX", (1,), PauliRotation("X", B(0)), (0,), (True,))),
        (Expectation(ZZ), Variance(ZZ)),
        (State(), Probabilities((0,))),
        None,
        1,
        1,
    ),
}

#: Programs with array slots: first derivatives, by adjoint.
ARRAYS: dict[str, Program] = {
    "unitary": expval(Gate("U", (0,), Matrix(ArrayRef(0))), arrays=(ArraySlot((2, 2)),)),
    "batched adjoint unitary": expval(
        Gate("U", (1,), Matrix(ArrayRef(0), True), (0,), (True,)), arrays=(ArraySlot((2, 2), True),)
    ),
    "diagonal": expval(Gate("D", (0, 1), Diagonal(ArrayRef(0))), HADAMARD, arrays=(ArraySlot((4,), True),)),
    "amplitudes": Program(
        2,
        (rx(S(0)), CNOT),
        (Expectation(ZZ), Variance(ZZ)),
        (Probabilities((1,)), State()),
        Preparation((1, 0), ArrayRef(0)),
        1,
        0,
        (ArraySlot((4,), True),),
    ),
}


@lru_cache
def compile_reference(program: Program) -> Executable:
    """The dense oracle."""
    return ReferenceExecutable(program)


@lru_cache
def compile_fast(program: Program) -> Executable:
    """The state-vector simulator."""
    return StateVectorExecutable(program)


def function(program: Program, method, compiler=compile_reference, **circuit) -> CircuitFunction:
    """``program`` on the dense oracle, or on what another ``compiler`` gives."""
    return CircuitFunction(Circuit(program, compiler, **circuit), method)


def random_inputs(program: Program, seed: int = 0, batch: int = 2) -> list[np.ndarray]:
    """Random angles, and unitaries or normalised amplitudes."""
    rng = np.random.default_rng(seed)
    inputs = [rng.normal(size=program.num_shared)] if program.num_shared else []
    inputs += [rng.normal(size=(program.num_batched, batch))] if program.num_batched else []
    for slot in program.arrays:
        shape = (batch,) * slot.batched + slot.shape
        values = rng.normal(size=shape) + 1j * rng.normal(size=shape)
        if len(slot.shape) == 2:
            values = np.linalg.qr(values)[0]
        elif program.preparation is None:
            values = values / np.abs(values)
        else:
            values = values / np.linalg.norm(values, axis=-1, keepdims=True)
        inputs.append(values)
    return inputs


def draws(program: Program, method, shots: int | None, repeats: int, angles, seed: int = 0) -> np.ndarray:
    """Estimates ``(repeats, angles)`` of the gradient of the sum of all results, one a sample of one large batch.

    All angles of ``program`` are batched; ``angles`` are those of every sample.
    """
    rng = np.random.default_rng(seed)
    f = function(program, method, compile_fast, shots=shots, rng=lambda: rng)
    batched = np.repeat(np.asarray(angles, dtype=float)[:, None], repeats, axis=1)
    cotangents = [np.ones((repeats, *shape[1:])) for shape, _ in f.output_types([batched])]
    return f.pullback((True,))(batched, *cotangents)[0].T


def assert_unbiased(estimates: np.ndarray, exact: np.ndarray, sigmas: float = 5.0) -> None:
    """The mean of independent estimates, along the first axis, is within so many standard errors of ``exact``."""
    error = estimates.std(axis=0, ddof=1) / np.sqrt(len(estimates))
    distance = np.abs(estimates.mean(axis=0) - exact)
    assert (distance <= sigmas * error + 1e-9).all(), f"{distance} is more than {sigmas} times {error}"


def exact_gradient(program: Program, angles) -> np.ndarray:
    """The gradient of the sum of all results of a program with batched angles."""
    from qhybrid.gradients import Adjoint

    return draws(program, Adjoint(), None, 1, angles)[0]
