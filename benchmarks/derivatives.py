"""What derivatives beyond the gradient cost: tangents, Hessian-vector products, Hessians, ensembles under ``vmap``.

Each is measured beside what theory counts it in: forward passes, gradients, native batches. Hessians are measured
beside PennyLane's. Everything is compared before it is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any
from unittest import mock

import numpy as np
import pennylane
import torch
from torch.func import grad, jvp, vmap

import qhybrid
from benchmarks import peers
from benchmarks._timing import (
    FULL,
    QUICK,
    Effort,
    Report,
    checked_difference,
    interleaved,
    verdict,
)
from qhybrid.execution import Needs
from qhybrid.program import Slots
from qhybrid_devices.statevector.executable import StateVectorExecutable

#: (qubits, layers, batch), and numbers of directions at once.
TANGENT_SIZES, DIRECTIONS = ((10, 4, 32), (16, 4, 1), (20, 2, 1)), (1, 4, 16)
QUICK_SIZES, QUICK_DIRECTIONS = ((3, 1, 2),), (1, 2)
#: The same circuit on a batch of weights; and one written for weights whose samples are on the last axis.
FIRST, LAST = NATIVE = "native batch, samples first", "native batch, samples last"
#: (qubits, layers) of the Hessian: 60 parameters; and of the ensemble, with its members.
HESSIAN_SIZE, QUICK_HESSIAN_SIZE = (10, 2), (2, 1)
ENSEMBLE_SIZES, QUICK_ENSEMBLE_SIZES = ((8, 2, 256), (10, 4, 256)), ((2, 1, 3),)
#: Tangents: forward passes for each of ``k + 1``; Hessian-vector products: gradients; Hessians: times as fast;
#: ensembles: times either native batch.
GOALS = {"tangents": 1.2, "hvp": 4.0, "hessian": 20.0, "ensemble": 1.3}
TOLERANCE = 1e-9
HESSIAN_EFFORT = Effort(rounds=5, seconds=0.3)

Node = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def circuit_of(library: Any, device: str, qubits: int, batch: int = 1, **settings: Any) -> Node:
    """``<Z_0 Z_1>`` of StronglyEntanglingLayers; with a batch after an embedding, and summed over it."""

    @library.qnode(library.device(device, wires=qubits), **settings)
    def circuit(inputs, weights):
        if batch > 1:
            library.AngleEmbedding(inputs, wires=range(qubits))
        library.StronglyEntanglingLayers(weights, wires=range(qubits))
        return library.expval(library.PauliZ(0) @ library.PauliZ(1))

    return (lambda inputs, weights: circuit(inputs, weights).sum()) if batch > 1 else circuit


def problem(qubits: int, layers: int, batch: int = 1, directions: int = 1) -> tuple[torch.Tensor, ...]:
    """Inputs, weights and directions."""
    generator = torch.Generator().manual_seed(qubits)
    shapes = (batch, qubits), (layers, qubits, 3), (directions, layers, qubits, 3)
    return tuple(torch.rand(shape, generator=generator, dtype=torch.float64) for shape in shapes)


# ------------------------------------------------------------------ tangents and Hessian-vector products


def tangent_cases(qubits: int, layers: int, batch: int, directions: tuple[int, ...]) -> dict[str, Callable]:
    """A forward pass, a gradient, tangents along several directions at once, and a Hessian-vector product."""
    node = circuit_of(qhybrid, "qhybrid.statevector", qubits, batch)
    inputs, weights, moves = problem(qubits, layers, batch, max(directions))

    def value(w: torch.Tensor) -> torch.Tensor:
        return node(inputs, w)

    def gradient() -> torch.Tensor:
        start = weights.clone().requires_grad_()
        return torch.autograd.grad(value(start), start)[0]

    def hvp() -> torch.Tensor:
        start = weights.clone().requires_grad_()
        (first,) = torch.autograd.grad(value(start), start, create_graph=True)
        return torch.autograd.grad((first * moves[0]).sum(), start)[0]

    def tangents(count: int) -> Callable[[], torch.Tensor]:
        return lambda: vmap(lambda v: jvp(value, (weights,), (v,))[1])(moves[:count])

    executable, slots = execution_of(lambda: value(weights))
    ones = tuple(np.ones_like(r) for r in executable.run(slots))

    def directions_of(count: int) -> Slots:
        shared = np.random.default_rng(0).normal(size=(count, executable.program.num_shared))
        return Slots(shared, None, (), slots.batch_size)

    def device_gradient() -> Any:
        _, residual = executable.run_with_residual(slots)
        return executable.vjp(slots, ones, Needs(batched=False), residual=residual)

    along = directions_of(1)

    def device_hvp() -> Any:
        return executable.second_order(slots, ones, along, None, Needs(batched=False))

    cases: dict[str, Callable] = {
        "device, forward": lambda: executable.run(slots),
        "device, gradient": device_gradient,
        "device, hvp": device_hvp,
    }
    cases |= {f"device, tangents {k}": partial(executable.jvp, slots, directions_of(k)) for k in directions}
    cases |= {"forward": lambda: value(weights), "gradient": gradient, "hvp, reverse": hvp}
    cases["hvp, forward over reverse"] = lambda: jvp(grad(value), (weights,), (moves[0],))[1]
    return cases | {f"tangents {k}": tangents(k) for k in directions}


def execution_of(call: Callable[[], Any]) -> tuple[StateVectorExecutable, Slots]:
    """What runs in a call, and where."""
    run = mock.patch.object(StateVectorExecutable, "run", autospec=True, side_effect=StateVectorExecutable.run)
    with mock.patch.object(StateVectorExecutable, "direct", return_value=None), run as seen:
        call()
    return seen.call_args.args[:2]


def check_tangents(cases: Mapping[str, Callable], size: tuple[int, int, int], directions: tuple[int, ...]) -> float:
    """Tangents against the gradient; Hessian-vector products against differences of gradients.

    Raises:
        ResultsDifferError: they differ
    """
    *_, moves = problem(*size, max(directions))
    gradient, worst = cases["gradient"](), 0.0
    for k in directions:
        expected = torch.tensordot(moves[:k], gradient, 3)
        worst = max(worst, checked_difference(f"{k} tangents", [cases[f"tangents {k}"]()], [expected], TOLERANCE))
    one, two = cases["hvp, reverse"](), cases["hvp, forward over reverse"]()
    return max(worst, checked_difference("Hessian-vector product", [one], [two], TOLERANCE))


def measure_tangents(size: tuple[int, int, int], directions: tuple[int, ...], effort: Effort) -> dict[str, Any]:
    """Milliseconds of all cases, and the ratios that theory speaks of."""
    cases = tangent_cases(*size, directions)
    difference = check_tangents(cases, size, directions)
    seconds = interleaved(cases, effort)
    forward, gradient = seconds["forward"], seconds["gradient"]
    return {
        "size": size,
        "difference": difference,
        "milliseconds": {n: 1e3 * t for n, t in seconds.items()},
        "device": {
            "tangents": {
                k: seconds[f"device, tangents {k}"] / ((k + 1) * seconds["device, forward"]) for k in directions
            },
            "hvp": seconds["device, hvp"] / seconds["device, gradient"],
        },
        "tangents": {k: seconds[f"tangents {k}"] / ((k + 1) * forward) for k in directions},
        "hvp": {n: seconds[n] / gradient for n in ("hvp, reverse", "hvp, forward over reverse")},
    }


# ------------------------------------------------------------------ Hessians


def hessian_cases(qubits: int, layers: int) -> dict[str, Callable[[], Any]]:
    """The Hessian in qhybrid, also in JAX where that is installed, and PennyLane's ways to it in PyTorch."""
    inputs, weights, _ = problem(qubits, layers)
    ours = circuit_of(qhybrid, "qhybrid.statevector", qubits)
    theirs = circuit_of(pennylane, "default.qubit", qubits, diff_method="backprop")
    functional = torch.autograd.functional.hessian
    cases = {
        "qhybrid, torch.func.hessian": lambda: torch.func.hessian(lambda w: ours(inputs, w))(weights),
        "qhybrid, torch.autograd, vectorized": lambda: functional(lambda w: ours(inputs, w), weights, vectorize=True),
    }
    if find_spec("jax"):
        cases["qhybrid, jax.jit(jax.hessian)"] = jax_hessian(qubits, weights)
    return cases | {
        "default.qubit, backprop, torch.autograd": lambda: functional(lambda w: theirs(inputs, w), weights),
        "default.qubit, backprop, vectorized": lambda: functional(lambda w: theirs(inputs, w), weights, vectorize=True),
    }


def jax_hessian(qubits: int, weights: torch.Tensor) -> Callable[[], Any]:
    """The Hessian in JAX, compiled; what its peer in PennyLane is written as."""
    import jax

    jax.config.update("jax_enable_x64", True)

    @qhybrid.qnode(qhybrid.device("qhybrid.statevector", wires=qubits), interface="jax")
    def circuit(weights):
        qhybrid.StronglyEntanglingLayers(weights, wires=range(qubits))
        return qhybrid.expval(qhybrid.PauliZ(0) @ qhybrid.PauliZ(1))

    compiled, at = jax.jit(jax.hessian(circuit)), jax.numpy.asarray(weights.numpy())
    return lambda: jax.block_until_ready(compiled(at))


def measure_hessians(qubits: int, layers: int, effort: Effort) -> dict[str, Any]:
    """Check and time Hessians; PennyLane on JAX in a process of its own."""
    with peers.started("hessian") as remotes:
        cases: dict[str, Any] = dict(hessian_cases(qubits, layers))
        _, weights, _ = problem(qubits, layers)
        for name, remote in remotes.items():
            cases[name] = remote.build({"weights": weights.numpy()})["hessian"]
        ours, *_ = cases
        reference = "default.qubit, backprop, torch.autograd"
        expected = np.asarray(cases[reference]()).reshape(weights.numel(), -1)
        differences = {
            name: checked_difference(name, [np.asarray(case()).reshape(expected.shape)], [expected], TOLERANCE)
            for name, case in cases.items()
            if name != reference
        }
        seconds = interleaved(cases, effort)
    return {
        "size": (qubits, layers),
        "difference": differences,
        "milliseconds": {n: 1e3 * t for n, t in seconds.items()},
        "ratio": {n: t / seconds[ours] for n, t in seconds.items()},
        "best": best_ratio(seconds),
        "best in PyTorch": best_ratio({n: t for n, t in seconds.items() if "jax" not in n.lower()}),
    }


def best_ratio(seconds: Mapping[str, float]) -> float:
    """How many times as long PennyLane's fastest way takes as qhybrid's."""
    ours = min(t for n, t in seconds.items() if n.startswith("qhybrid"))
    return min(t for n, t in seconds.items() if not n.startswith("qhybrid")) / ours


# ------------------------------------------------------------------ ensembles


def ensemble_cases(qubits: int, layers: int, members: int) -> dict[str, Callable[[], torch.Tensor]]:
    """Values and gradients of many sets of weights: under ``vmap``, and as a batch.

    A batch is the same weights given to the same circuit, which broadcasts; and, in :data:`LAST`, weights with samples
    on their last axis, as a device has them, for a circuit written for these.
    """
    generator = torch.Generator().manual_seed(0)
    many = torch.rand(members, layers, qubits, 3, generator=generator, dtype=torch.float64)
    last = many.movedim(0, -1).contiguous()

    @qhybrid.qnode(qhybrid.device("qhybrid.statevector", wires=qubits))
    def circuit(weights):
        qhybrid.StronglyEntanglingLayers(weights, wires=range(qubits))
        return qhybrid.expval(qhybrid.PauliZ(0) @ qhybrid.PauliZ(1))

    @qhybrid.qnode(qhybrid.device("qhybrid.statevector", wires=qubits))
    def circuit_of_last(weights):
        for layer in range(layers):
            for wire in range(qubits):
                qhybrid.Rot(*weights[layer, wire], wires=wire)
            distance = layer % (qubits - 1) + 1
            for wire in range(qubits):
                qhybrid.CNOT([wire, (wire + distance) % qubits])
        return qhybrid.expval(qhybrid.PauliZ(0) @ qhybrid.PauliZ(1))

    def gradient(node: Callable[[torch.Tensor], torch.Tensor], weights: torch.Tensor) -> torch.Tensor:
        start = weights.clone().requires_grad_()
        return torch.autograd.grad(node(start).sum(), start)[0]

    values, gradients = vmap(circuit), vmap(grad(circuit))
    return {
        f"values, {FIRST}": lambda: circuit(many),
        f"values, {LAST}": lambda: circuit_of_last(last),
        "values, vmap": lambda: values(many),
        f"gradients, {FIRST}": lambda: gradient(circuit, many),
        f"gradients, {LAST}": lambda: gradient(circuit_of_last, last).movedim(-1, 0),
        "gradients, vmap": lambda: gradients(many),
    }


def measure_ensembles(size: tuple[int, int, int], effort: Effort) -> dict[str, Any]:
    """Check and time ``vmap`` beside native batches."""
    cases = ensemble_cases(*size)
    difference = {
        name: checked_difference(name, [cases[f"{what}, vmap"]()], [cases[name]()], TOLERANCE)
        for what in ("values", "gradients")
        for name in (f"{what}, {batch}" for batch in NATIVE)
    }
    seconds = interleaved(cases, effort)
    return {
        "size": size,
        "difference": difference,
        "milliseconds": {n: 1e3 * t for n, t in seconds.items()},
        "ratio": {
            f"{w}, {b}": seconds[f"{w}, vmap"] / seconds[f"{w}, {b}"] for w in ("values", "gradients") for b in NATIVE
        },
    }


# ------------------------------------------------------------------ the report


def run(quick: bool) -> Report:
    """Check, then time.

    Args:
        quick: small sizes, one call each
    """
    sizes, directions = (QUICK_SIZES, QUICK_DIRECTIONS) if quick else (TANGENT_SIZES, DIRECTIONS)
    tangents = [measure_tangents(size, directions, QUICK if quick else FULL) for size in sizes]
    hessians = measure_hessians(*(QUICK_HESSIAN_SIZE if quick else HESSIAN_SIZE), QUICK if quick else HESSIAN_EFFORT)
    members = QUICK_ENSEMBLE_SIZES if quick else ENSEMBLE_SIZES
    ensembles = [measure_ensembles(size, QUICK if quick else FULL) for size in members]
    rows: list[list[str]] = []
    for found in tangents:
        size = "{} qubits, {} layers, batch {}".format(*found["size"])
        rows += [[f"{size}: {n}", f"{ms:.3g}", ""] for n, ms in found["milliseconds"].items() if n in _UNITS]
        rows += [
            [f"{size}: {k} tangents and the value", f"{found['milliseconds'][f'tangents {k}']:.3g}",
             f"{found['tangents'][k]:.2f} forward passes for each of {k + 1}"]
            for k in directions
        ]  # fmt: skip
        rows += [
            [f"{size}: {n}", f"{found['milliseconds'][n]:.3g}", f"{r:.2f} gradients"] for n, r in found["hvp"].items()
        ]
        rows += [[f"{size}: {n}", f"{ms:.3g}", in_words] for n, ms, in_words in device_rows(found)]
    rows += [
        [f"Hessian, {hessians['size'][0]} qubits, {hessians['size'][1]} layers: {n}", f"{ms:.3g}",
         f"{hessians['ratio'][n]:.1f}x"]
        for n, ms in hessians["milliseconds"].items()
    ]  # fmt: skip
    for found in ensembles:
        size = "{} qubits, {} layers, {} members".format(*found["size"])
        rows += [[f"Ensemble, {size}: {n}", f"{ms:.3g}", ""] for n, ms in found["milliseconds"].items()]
    best, in_torch = hessians["best"], hessians["best in PyTorch"]
    most = max(r for found in tangents for r in found["device"]["tangents"].values())
    hvp = max(found["device"]["hvp"] for found in tangents)
    hosts_most = max(r for found in tangents for r in found["tangents"].values())
    hosts_hvp = max(min(found["hvp"].values()) for found in tangents)
    widest = {
        batch: max(found["ratio"][f"{what}, {batch}"] for found in ensembles for what in ("values", "gradients"))
        for batch in NATIVE
    }
    passed = {
        f"k tangents <= {GOALS['tangents']:g} (k + 1) passes (device {most:.2f}, through PyTorch {hosts_most:.2f})": (
            most <= GOALS["tangents"]
        ),
        f"hvp <= {GOALS['hvp']:g} gradients (device {hvp:.2f}, through PyTorch {hosts_hvp:.2f})": hvp <= GOALS["hvp"],
        f"Hessian >= {GOALS['hessian']:g}x PennyLane's best ({best:.1f}, in PyTorch {in_torch:.1f})": (
            best >= GOALS["hessian"]
        ),
    }
    for batch, ratio in widest.items():
        passed[f"vmap <= {GOALS['ensemble']:g}x a {batch} ({ratio:.2f})"] = ratio <= GOALS["ensemble"]
    remarks = [*peers.absences("hessian"), *(verdict(met, goal, quick) for goal, met in passed.items())]
    results = {"goals": GOALS, "tangents": tangents, "hessian": hessians, "ensembles": ensembles}
    check = {
        "tolerance": TOLERANCE,
        "differences": [
            *(found["difference"] for found in tangents), hessians["difference"],
            *(found["difference"] for found in ensembles),
        ],
    }  # fmt: skip
    title = "Derivatives beyond the gradient, in PyTorch: milliseconds, medians of interleaved calls"
    return Report("derivatives", title, ["", "ms", "in other words"], rows, check, results, remarks)


_UNITS = ("forward", "gradient")


def device_rows(found: Mapping[str, Any]) -> list[tuple[str, float, str]]:
    """What the same derivatives cost on the device, without the host: name, milliseconds, in other words."""
    milliseconds, device = found["milliseconds"], found["device"]
    units = [(name, milliseconds[name], "") for name in ("device, forward", "device, gradient")]
    tangents = [
        (f"device, {k} tangents", milliseconds[f"device, tangents {k}"], f"{r:.2f} forward passes for each of {k + 1}")
        for k, r in device["tangents"].items()
    ]
    return [*units, *tangents, ("device, hvp", milliseconds["device, hvp"], f"{device['hvp']:.2f} gradients")]
