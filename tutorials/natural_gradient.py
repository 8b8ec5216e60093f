# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3

# %% [markdown]
# # Natural gradient
#
# A gradient points where the cost falls fastest *for a step of given length*. But length of what? For plain gradient
# descent it is the length of the step in the angles, and angles are only names that we gave to states. This page
# measures steps by how far they move the *state*, and watches what that does: on a sphere, where everything can be
# seen, and on a chain of spins, where it saves most of the steps.
#
# It takes about a minute.

# %%
import json
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.linalg import expm
from tqdm import tqdm

import qhybrid as qml
from qhybrid import numpy as pnp
from qhybrid.optimize import ImaginaryTime, NaturalGradient, TorchNaturalGradient, fubini_study

HERE = Path(__file__).parent if "__file__" in globals() else Path()  # a notebook runs in its own folder
OUTPUT = Path(os.environ.get("QHYBRID_TUTORIAL_OUTPUT", HERE / "output"))
OUTPUT.mkdir(parents=True, exist_ok=True)
COLORS = {"gradient descent": "#7a7a7a", "natural gradient": "#0b62a4", "exact": "#d1495b"}


# %% [markdown]
# ## 1. A sphere and its map
#
# $R_Y(a)$ and then $R_Z(b)$ take a qubit from the north pole of its sphere to latitude $a$, counted from the pole, and
# longitude $b$. The cost is smallest, $-1$, where the state points along a chosen direction.

# %%
GOAL = (1.3, 0.6)
DIRECTION = (np.sin(GOAL[0]) * np.cos(GOAL[1]), np.sin(GOAL[0]) * np.sin(GOAL[1]), np.cos(GOAL[0]))
START = (0.35, 2.2)


def place(angles):
    """Rotate the qubit to latitude angles[0] and longitude angles[1]."""
    qml.RY(angles[0], wires=0)
    qml.RZ(angles[1], wires=0)


@qml.qnode(qml.device("qhybrid.statevector", wires=1))
def cost(angles):
    """How far the qubit is from pointing along DIRECTION."""
    place(angles)
    return qml.expval(qml.Hamiltonian([-x for x in DIRECTION], [qml.X(0), qml.Y(0), qml.Z(0)]))


print("cost at the start:", cost(pnp.array(START)), " at the goal:", cost(pnp.array(GOAL)))

# %% [markdown]
# How far does a small step $(\mathrm{d}a, \mathrm{d}b)$ move the state? That is what a metric says:
#
# $$ \mathrm{d}s^2 = \sum_{ij} g_{ij}\, \mathrm{d}\theta_i\, \mathrm{d}\theta_j, \qquad
# g_{ij} = \mathrm{Re}\big[\langle\partial_i\psi|\partial_j\psi\rangle -
# \langle\partial_i\psi|\psi\rangle\langle\psi|\partial_j\psi\rangle\big]. $$
#
# The second term takes out what only changes the phase of the state, which nobody can see. Here the metric is known
# from geography: a degree of longitude is long at the equator and nothing at the pole,
# $g = \tfrac14\,\mathrm{diag}(1, \sin^2 a)$.

# %%
angles = pnp.array(START)
metric = fubini_study(cost)(angles)
on_paper = np.diag([1, np.sin(START[0]) ** 2]) / 4
print(metric.dense().round(6))
metric_error = float(np.abs(metric.dense() - on_paper).max())
print(f"difference from geography: {metric_error:.1e}")

# %% [markdown]
# The natural gradient is the gradient divided by this matrix, $\theta \leftarrow \theta - \eta\, g^{-1} \nabla
# \mathrm{cost}$: where the map is stretched, it takes larger steps on the map. Both optimizers now walk from the same
# place, close to the pole, in small steps.


# %%
def walk(optimizer, function, params, steps):
    """The parameters before and after each of some steps, and the costs there.

    Args:
        optimizer: one in PennyLane's style
        function: the cost
        params: where to start
        steps: how many steps

    Returns:
        parameters, shape (steps + 1, ...), and costs, shape (steps + 1,)
    """
    path, costs = [params], []
    for _ in tqdm(range(steps), desc=type(optimizer).__name__, unit="step"):
        params, value = optimizer.step_and_cost(function, params)
        path.append(params)
        costs.append(float(value))
    return np.array(path), np.array([*costs, float(function(params))])


paths = {
    "gradient descent": walk(qml.GradientDescentOptimizer(0.04), cost, angles, 250)[0],
    "natural gradient": walk(NaturalGradient(0.005, damping=1e-6), cost, angles, 300)[0],
}


# %%
def on_sphere(path):
    """Points of the unit sphere for angles of shape (n, 2)."""
    a, b = np.asarray(path).T
    return np.array([np.sin(a) * np.cos(b), np.sin(a) * np.sin(b), np.cos(a)])


def draw_map(axes):
    """The cost over the angles, and ellipses: steps that move the state equally far."""
    a, b = np.meshgrid(np.linspace(0.02, 1.9, 120), np.linspace(-0.5, 3.5, 120), indexing="ij")
    heights = -np.tensordot(DIRECTION, on_sphere(np.stack([a.ravel(), b.ravel()], 1)), 1).reshape(a.shape)
    axes.contourf(b, a, heights, levels=24, cmap="Greys_r", vmin=-2.5)
    turn = np.linspace(0, 2 * np.pi, 60)
    for latitude in (0.15, 0.5, 0.85, 1.2, 1.55):
        for longitude in (0.0, 1.0, 2.0, 3.0):
            root = np.sqrt(np.diag(fubini_study(cost)(pnp.array([latitude, longitude])).dense()))
            axes.plot(longitude + 0.04 / root[1] * np.sin(turn), latitude + 0.04 / root[0] * np.cos(turn), "k", lw=0.7)
    for name, path in paths.items():
        axes.plot(path[:, 1], path[:, 0], color=COLORS[name], lw=2.2, label=name)
    axes.plot(START[1], START[0], "o", markersize=8, markerfacecolor="white", markeredgecolor="black")
    axes.plot(GOAL[1], GOAL[0], "*", markersize=14, color="black")
    axes.set(xlabel="longitude $b$", ylabel="latitude $a$", ylim=(1.9, 0.02), xlim=(-0.5, 3.5), title="On the map")
    axes.legend(loc="lower right", framealpha=0.9)


def draw_sphere(axes):
    """The same on the sphere, with the straight way between start and goal."""
    u, v = np.meshgrid(np.linspace(0, 2 * np.pi, 40), np.linspace(0, np.pi, 20))
    axes.plot_wireframe(np.cos(u) * np.sin(v), np.sin(u) * np.sin(v), np.cos(v), color="0.85", linewidth=0.4)
    for name, path in paths.items():
        axes.plot(*on_sphere(path), color=COLORS[name], lw=2.2)
    ends = on_sphere([START, GOAL])
    straight = ends @ np.stack([np.linspace(1, 0, 60), np.linspace(0, 1, 60)])
    axes.plot(*(straight / np.linalg.norm(straight, axis=0)), ":", color=COLORS["exact"], lw=2.5)
    axes.plot(*ends[:, :1], "o", markersize=8, markerfacecolor="white", markeredgecolor="black")
    axes.plot(*ends[:, 1:], "*", markersize=14, color="black")
    axes.set_box_aspect((1, 1, 1), zoom=1.3)
    axes.set_axis_off()
    axes.view_init(elev=38, azim=75)
    axes.set_title("On the sphere")


figure = plt.figure(figsize=(10.5, 4.6), layout="constrained")
draw_map(figure.add_subplot(1, 2, 1))
draw_sphere(figure.add_subplot(1, 2, 2, projection="3d"))
figure.savefig(OUTPUT / "natural_gradient_map.png", dpi=150)

# %% [markdown]
# Each ellipse on the map holds steps that move the state equally far: near the pole they are wide, since longitude does
# almost nothing there. Gradient descent does not know: it leaves the longitude as it is for too long, and goes a long
# way round. The natural gradient goes straight, along the dotted great circle, and would do so with any other map of
# the sphere. That is the point: *it does not depend on the names we gave to the states.*

# %%
normal = np.cross(*on_sphere([START, GOAL]).T)
normal /= np.linalg.norm(normal)
off_course = {name: float(np.abs(normal @ on_sphere(path)).max()) for name, path in paths.items()}
for name, distance in off_course.items():
    print(f"{name}: at most {distance:.3f} away from the straight way")

# %% [markdown]
# ## 2. A chain of spins
#
# Now six qubits in a row, each with its neighbours and a field at odds: the Ising chain in a transverse field,
# $H = -\sum_i Z_i Z_{i+1} - \sum_i X_i$. Three layers of gates, an angle for each of them, make 33 angles.

# %%
QUBITS, LAYERS = 6, 3
TERMS = [qml.Z(i) @ qml.Z(i + 1) for i in range(QUBITS - 1)] + [qml.X(i) for i in range(QUBITS)]
CHAIN = qml.Hamiltonian([-1.0] * len(TERMS), TERMS)
MATRIX = qml.matrix(CHAIN, wire_order=range(QUBITS)).real
GROUND = np.linalg.eigvalsh(MATRIX)[0]


def layers(w):
    """Rotations about ZZ of neighbours and X of each; w has shape (LAYERS, 2 * QUBITS - 1)."""
    for i in range(QUBITS):
        qml.Hadamard(i)
    for layer in w:
        for i in range(QUBITS - 1):
            qml.IsingZZ(layer[i], wires=[i, i + 1])
        for i in range(QUBITS):
            qml.RX(layer[QUBITS - 1 + i], wires=i)


@qml.qnode(qml.device("qhybrid.statevector", wires=QUBITS))
def energy(w):
    """Expected energy."""
    layers(w)
    return qml.expval(CHAIN)


w_start = pnp.array(np.random.default_rng(0).normal(0, 0.1, (LAYERS, 2 * QUBITS - 1)), requires_grad=True)

# %% [markdown]
# With $P$ angles the metric is a $P \times P$ matrix, and building and inverting it would soon cost more than all the
# rest. It need not be built. Its product with a vector $v$ is: how the state moves along $v$ (one forward-mode
# derivative), without the part along the state itself, and back to the angles (one reverse-mode derivative). Conjugate
# gradients solve the equation with such products alone.

# %%
metric = fubini_study(energy)(w_start)
vector = np.random.default_rng(1).normal(size=w_start.size)
operator_error = float(np.abs(metric @ vector - metric.dense() @ vector).max())
print(f"{metric.shape} metric; a product without the matrix differs by {operator_error:.1e}")

# %% [markdown]
# A little *damping*, a constant added to the diagonal, keeps steps short where the state hardly depends on some
# combination of angles.

# %%
natural = NaturalGradient(0.05, damping=1e-3)
curves = {
    "natural gradient": walk(natural, energy, w_start, 60)[1] - GROUND,
    "gradient descent": walk(qml.GradientDescentOptimizer(0.1), energy, w_start, 600)[1] - GROUND,
}
print(f"products with the metric in the last step: {natural.solution.products}")
for name, errors in curves.items():
    print(f"{name}: {errors[-1]:.5f} above the ground state after {len(errors) - 1} steps")

# %% [markdown]
# ## 3. Imaginary time
#
# Why does it work so well? A state that evolves for an imaginary time, $e^{-H\tau}|\psi\rangle$, loses everything but
# its ground state. A circuit cannot follow exactly, but it can move as nearly so as its angles allow, and that motion
# is $\dot\theta = -\tfrac12\, g^{-1} \nabla E$: half a natural gradient. Natural gradient descent *is* evolution in
# imaginary time, by steps $2\eta$.

# %%
DT, TIME_STEPS = 0.02, 75
cooled, energies = walk(ImaginaryTime(DT, damping=1e-6, solver="dense"), energy, w_start, TIME_STEPS)
times = DT * np.arange(TIME_STEPS + 1)


@qml.qnode(qml.device("qhybrid.statevector", wires=QUBITS))
def state(w):
    """The state that the layers prepare."""
    layers(w)
    return qml.state()


def exact_energies(psi, step, count):
    """Energies of exp(-H tau) psi, normalised, at tau = 0, step, 2 step, ..."""
    propagator, found = expm(-step * MATRIX), []
    for _ in range(count + 1):
        found.append(float((psi.conj() @ MATRIX @ psi).real))
        psi = propagator @ psi
        psi = psi / np.linalg.norm(psi)
    return np.array(found)


exact = exact_energies(np.array(state(w_start)), DT, TIME_STEPS)
time_difference = float(np.abs(exact - energies).max())
print(f"largest difference from the exact evolution: {time_difference:.3f}")


# %%
def plot_energies():
    """Energy errors over steps, and energies over imaginary time."""
    shown, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.8), layout="constrained")
    for name, errors in curves.items():
        left.loglog(np.arange(1, len(errors) + 1), errors, color=COLORS[name], linewidth=2.2, label=name)
    left.set(xlabel="step", ylabel="energy above the ground state", title="Steps to the ground state")
    left.legend(frameon=False)
    right.plot(times, exact, ":", color=COLORS["exact"], linewidth=3, label=r"exact $e^{-H\tau}|\psi\rangle$")
    right.plot(times, energies, color=COLORS["natural gradient"], linewidth=1.8, label="circuit")
    right.axhline(GROUND, color="0.6", linewidth=0.8, linestyle="--")
    right.set(xlabel=r"imaginary time $\tau$", ylabel="energy", title="The circuit cools down")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return shown


energy_figure = plot_energies()
energy_figure.savefig(OUTPUT / "natural_gradient_energy.png", dpi=150)

# %% [markdown]
# ## 4. The same in PyTorch
#
# `TorchNaturalGradient` is one of PyTorch's optimizers. It is told the parameters, and how to get their metric: from a
# function, as here, or from a `TorchLayer`, whose metric it takes at the inputs of each step.

# %%
w = torch.tensor(np.array(w_start), requires_grad=True)
optimizer = TorchNaturalGradient([w], lambda: fubini_study(energy)(w), lr=0.05, damping=1e-3)
for _ in range(60):
    optimizer.zero_grad()
    loss = energy(w)
    loss.backward()
    optimizer.step()
torch_error = energy(w).item() - GROUND
print(f"PyTorch: {torch_error:.5f} above the ground state")

# %% [markdown]
# ## 5. Keeping the result

# %%
RESULT = {
    "metric_error": metric_error,
    "operator_error": operator_error,
    "off_course": off_course,
    "energy_errors": {name: float(errors[-1]) for name, errors in curves.items()},
    "time_difference": time_difference,
    "torch_error": torch_error,
}
(OUTPUT / "natural_gradient.json").write_text(json.dumps(RESULT, indent=2) + "\n")
for name in ("natural_gradient_map.png", "natural_gradient_energy.png", "natural_gradient.json"):
    print("saved", OUTPUT / name)

# %% [markdown]
# ## Where to go from here
#
# * Start the first walk at `(0.02, 2.2)`, almost at the pole. Which optimizer notices?
# * Set `damping=0.1` for the chain, then `1e-5`. What does each cost, in steps and in products with the metric?
# * `NaturalGradient(approx="block-diag")` forgets what couples one layer of gates to another, as PennyLane's
#   `QNGOptimizer` does. How many steps does it need?
# * `differentiable_ground_state.py`, next to this page, differentiates the ground energy itself.
