"""Natural gradient: a VQE of the transverse-field Ising chain, and a step with thousands of parameters.

All contestants start from the same angles, and stop when the energy is as close to the exact ground state as
:class:`Size` says. Each has its step size, and those with a metric their damping, from a grid of its own: every
combination is run, and the one that needs fewest steps is timed. PennyLane's optimizer makes the same steps as ours
with the same metric, which is checked first; so its grid is run with ours, and only the winner with PennyLane's. Its
exact metric is that of ``adjoint_metric_tensor``, PennyLane's fastest on a simulator; the one that it makes of circuits
takes longer. One of its steps is timed, and counted as often as ours needed.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pennylane as qml
from pennylane import numpy as pnp

import qhybrid
from benchmarks._timing import Report, absences, checked_difference, has_lightning, verdict
from qhybrid.optimize import NaturalGradient


@dataclass(frozen=True)
class Size:
    """How much is run.

    Args:
        qubits, layers: of the VQE
        target: energy error at which a run ends
        limits: steps after which a run is given up: of gradient descent, and with a metric
        big: qubits and layers of the single step
    """

    qubits: int
    layers: int
    target: float
    limits: tuple[int, int]
    big: tuple[int, int]


FULL_SIZE = Size(10, 4, 0.1, (2000, 300), (12, 218))
QUICK_SIZE = Size(3, 2, 0.2, (300, 100), (4, 5))
#: Spread of the angles that all runs start from, and of those of the single step.
SPREAD, BIG_SPREAD = 0.1, 0.03
STEP_SIZES = {
    "gradient descent": (0.025, 0.05, 0.1, 0.2, 0.4),
    "block-diag": (0.0125, 0.025, 0.05, 0.1),
    "full": (0.025, 0.05, 0.1),
}
DAMPINGS = (1e-3, 1e-2, 1e-1)
#: How much of the gradient conjugate gradients leave.
TOLERANCE = 0.05
#: The largest difference between one step of ours and of PennyLane's with the same settings.
STEP_TOLERANCE = 1e-6
GOALS = {"steps": 10.0, "gradients": 50.0, "memory": 0.25}
MIB = 1 << 20

Path = tuple[list[float], list[float]]


def hamiltonian(qubits: int) -> qml.Hamiltonian:
    """The open chain at its critical point."""
    terms = [qml.Z(i) @ qml.Z(i + 1) for i in range(qubits - 1)] + [qml.X(i) for i in range(qubits)]
    return qml.Hamiltonian([-1.0] * len(terms), terms)


def energy_of(library: Any, device: str, qubits: int) -> Callable:
    """The energy of IsingZZ and RX layers on |+...+>, an angle for each gate."""
    chain = hamiltonian(qubits)

    @library.qnode(library.device(device, wires=qubits + (library is qml)))  # PennyLane's metric takes a wire more
    def energy(w: Any) -> Any:
        for i in range(qubits):
            qml.Hadamard(i)
        for layer in w:
            for i in range(qubits - 1):
                qml.IsingZZ(layer[i], wires=[i, i + 1])
            for i in range(qubits):
                qml.RX(layer[qubits - 1 + i], wires=i)
        return qml.expval(chain)

    return energy


def start(qubits: int, layers: int, spread: float) -> Any:
    """The angles that all contestants start from."""
    return pnp.array(np.random.default_rng(0).normal(0, spread, (layers, 2 * qubits - 1)), requires_grad=True)


def descend(optimizer: Any, energy: Callable, w: Any, exact: float, target: float, limit: int, **options: Any) -> Path:
    """Run until the target is reached or the limit: energy errors and seconds since the start, before each step."""
    errors, seconds, begin = [], [], time.perf_counter()
    for _ in range(limit + 1):
        w, value = optimizer.step_and_cost(energy, w, **options)
        errors.append(float(value) - exact)
        seconds.append(time.perf_counter() - begin)
        if errors[-1] <= target:
            break
    return errors, [0.0, *seconds[:-1]]


def tuned(
    make: Callable[..., Any], grid: list[dict[str, float]], run: Callable[[Any, int], Path], target: float, limit: int
) -> dict[str, Any]:
    """The settings that reach the target in the fewest steps; all reached step counts are kept.

    Args:
        make: makes an optimizer of settings
        grid: all settings
        run: runs an optimizer for so many steps at most
        target: energy error that ends a run
        limit: steps of the first run; later ones stop at the best so far
    """
    tried, best, least = [], grid[0], limit
    for settings in grid:
        errors, _ = run(make(**settings), least)
        steps = len(errors) - 1
        tried.append({**settings, "steps": steps, "error": errors[-1]})
        if errors[-1] <= target and steps < least:
            best, least = settings, steps
    return {"settings": best, "steps": least, "tried": tried}


def grids() -> dict[str, list[dict[str, float]]]:
    """Settings by kind of contestant."""
    plain = [{"stepsize": s} for s in STEP_SIZES["gradient descent"]]
    damped = {
        a: [{"stepsize": s, "damping": d} for s in STEP_SIZES[a] for d in DAMPINGS] for a in ("block-diag", "full")
    }
    return {"gradient descent": plain, **damped}


def check_steps(ours: Callable, theirs: Callable, w: Any) -> dict[str, float]:
    """One step with each approximation, ours against PennyLane's."""
    found = {}
    for name, options in pennylane_metrics(theirs).items():
        mine = NaturalGradient(0.05, None if name == "full" else name, 0.1, solver="dense").step(ours, w)
        other = qml.QNGOptimizer(0.05, lam=0.1).step(theirs, w, **options)
        found[name] = checked_difference(f"a step with the {name} metric", [mine], [other], STEP_TOLERANCE)
    return found


def pennylane_metrics(energy: Callable) -> dict[str, dict[str, Callable]]:
    """Further arguments of a step of QNGOptimizer, by the metric that they mean."""
    return {"block-diag": {}, "full": {"metric_tensor_fn": qml.adjoint_metric_tensor(energy)}}


def compare(size: Size) -> dict[str, Any]:
    """Check, tune and time the VQE."""
    device = "lightning.qubit" if has_lightning() else "default.qubit"
    ours = energy_of(qhybrid, "qhybrid.statevector", size.qubits)
    theirs = energy_of(qml, device, size.qubits)
    chain = qml.matrix(hamiltonian(size.qubits), wire_order=range(size.qubits))
    exact, w = float(np.linalg.eigvalsh(chain)[0]), start(size.qubits, size.layers, SPREAD)
    dense = energy_of(qml, "default.qubit", size.qubits)
    check = check_steps(ours, dense, w)

    def run(optimizer: Any, limit: int, energy: Callable = ours, **options: Any) -> Path:
        return descend(optimizer, energy, w, exact, size.target, limit, **options)

    def natural(approx: str | None, **options: Any) -> Callable[..., NaturalGradient]:
        return lambda stepsize, damping: NaturalGradient(stepsize, approx, damping, tolerance=TOLERANCE, **options)

    makers = {
        "gradient descent": qml.GradientDescentOptimizer,
        "block-diag": natural("block-diag", solver="dense"),
        "full": natural(None),
    }
    plain, metric = size.limits
    best = {
        n: tuned(makers[n], g, run, size.target, plain if n == "gradient descent" else metric)
        for n, g in grids().items()
    }
    settings = {n: b["settings"] for n, b in best.items()}

    def pennylanes(kind: str) -> qml.QNGOptimizer:
        return qml.QNGOptimizer(settings[kind]["stepsize"], lam=settings[kind]["damping"])

    paths = {
        "gradient descent": run(makers["gradient descent"](**settings["gradient descent"]), plain),
        "natural gradient, exact metric": run(makers["full"](**settings["full"]), metric),
        "natural gradient, block-diag": run(makers["block-diag"](**settings["block-diag"]), metric),
        f"QNGOptimizer, block-diag, {device}": run(pennylanes("block-diag"), metric, theirs),
    }
    begin = time.perf_counter()
    pennylanes("full").step(dense, w, **pennylane_metrics(dense)["full"])
    return {
        "exact": exact,
        "target": size.target,
        "check": check,
        "seconds a step of QNGOptimizer, exact metric": time.perf_counter() - begin,
        "tuned": best,
        "paths": {n: {"errors": e, "seconds": s} for n, (e, s) in paths.items()},
    }


def one_step(size: Size) -> dict[str, float]:
    """Cost of a step of the large circuit: products, gradients' worth of time, memory."""
    qubits, layers = size.big
    energy, w = energy_of(qhybrid, "qhybrid.statevector", qubits), start(qubits, layers, BIG_SPREAD)
    gradient, optimizer = qml.grad(energy), NaturalGradient(0.05, damping=1e-2, tolerance=1e-2)
    optimizer.step(energy, w)
    optimizer.reset()
    gradient(w)
    seconds = []
    for case in (lambda: gradient(w), lambda: optimizer.step(energy, w)):
        times = []
        for _ in range(5):
            optimizer.reset()
            begin = time.perf_counter()
            case()
            times.append(time.perf_counter() - begin)
        seconds.append(float(np.median(times)))
    tracemalloc.start()
    optimizer.reset()
    optimizer.step(energy, w)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert optimizer.solution is not None
    return {
        "parameters": w.size,
        "qubits": qubits,
        "products": optimizer.solution.products,
        "seconds": seconds[1],
        "gradients": seconds[1] / seconds[0],
        "peak MiB": peak / MIB,
        "matrix MiB": 8 * w.size**2 / MIB,
    }


def _kind(name: str) -> str:
    """Whose settings a contestant has."""
    return name if name == "gradient descent" else "block-diag" if "block-diag" in name else "full"


def _row(name: str, path: Mapping[str, list[float]], target: float, best: Mapping[str, Any]) -> list[str]:
    steps, reached = len(path["errors"]) - 1, path["errors"][-1] <= target
    settings = ", ".join(f"{k} {v:g}" for k, v in best["settings"].items())
    return [name, settings, f"{steps}" if reached else f"> {steps}", f"{path['seconds'][-1]:.3g}"]


def run(quick: bool) -> Report:
    """Check, tune, then time.

    Args:
        quick: a small chain
    """
    size = QUICK_SIZE if quick else FULL_SIZE
    found = compare(size)
    big = one_step(size)
    rows = [_row(n, p, size.target, found["tuned"][_kind(n)]) for n, p in found["paths"].items()]
    parameters = size.layers * (2 * size.qubits - 1)
    title = (
        f"Natural gradient: Ising chain of {size.qubits} qubits, {size.layers} layers, {parameters} angles; steps and "
        f"seconds to an energy error of {size.target:g}"
    )
    return Report(
        "natural_gradient",
        title,
        ["optimizer", "best settings", "steps", "seconds"],
        rows,
        {"step difference": found["check"], "tolerance": STEP_TOLERANCE},
        {**found, "size": asdict(size), "one step": big},
        _remarks(found, big, quick),
    )


def _remarks(found: Mapping[str, Any], big: Mapping[str, float], quick: bool) -> list[str]:
    paths, each = found["paths"], found["seconds a step of QNGOptimizer, exact metric"]
    steps = {n: len(p["errors"]) - 1 for n, p in paths.items()}
    seconds = {n: p["seconds"][-1] for n, p in paths.items()}
    natural = steps["natural gradient, exact metric"]
    fewer = steps["gradient descent"] / max(1, natural)
    theirs = min(natural * each, *(s for n, s in seconds.items() if n.startswith("QNG")))
    faster = theirs / seconds["natural gradient, exact metric"]
    memory = big["peak MiB"] / big["matrix MiB"]
    return [
        f"QNGOptimizer with adjoint_metric_tensor: {each:.3g} s a step, so {natural * each:.3g} s for {natural} steps.",
        f"One step with {big['parameters']:.0f} parameters on {big['qubits']:.0f} qubits: {big['products']:.0f} "
        f"products with the metric, {big['seconds']:.3g} s, as much as {big['gradients']:.3g} gradients; at most "
        f"{big['peak MiB']:.3g} MiB of arrays, where the matrix would take {big['matrix MiB']:.3g} MiB.",
        *absences(),
        verdict(fewer >= GOALS["steps"], f"gradient descent / natural, steps >= 10 (found: {fewer:.3g})", quick),
        verdict(faster > 1, f"QNGOptimizer / natural, seconds > 1 (found: {faster:.3g})", quick),
        verdict(
            big["gradients"] <= GOALS["gradients"],
            f"a large step <= {GOALS['gradients']:g} gradients (found: {big['gradients']:.3g})",
            quick,
        ),
        verdict(memory <= GOALS["memory"], f"memory of a large step <= 1/4 of the matrix (found: {memory:.3g})", quick),
    ]
