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
# ---

# %% [markdown]
# # Turning a qubit upside down
#
# A qubit begins in the state $|0\rangle$, and we want it in $|1\rangle$. We may turn it about two axes, by angles
# that we are free to choose. Which angles do it? For one qubit the answer can be found with pencil and paper, which
# makes it a good first exercise: everything the computer finds, we can check.
#
# On the way you will meet the five things that every variational program is made of: a *device*, a *quantum
# function*, a *QNode* that binds the two, the *gradient* of that QNode, and an *optimizer* that walks along the
# gradient.
#
# Running the whole page takes a few seconds; the very first time on a machine about twenty more, while the kernels of
# the device are compiled.

# %%
import json
import os
from pathlib import Path

import autograd
import matplotlib.pyplot as plt
import numpy as np
from tqdm import tqdm

import qhybrid as qml
from qhybrid import numpy as pnp

HERE = Path(__file__).parent if "__file__" in globals() else Path()  # a notebook runs in its own folder
OUTPUT = Path(os.environ.get("QHYBRID_TUTORIAL_OUTPUT", HERE / "output"))
OUTPUT.mkdir(parents=True, exist_ok=True)
COLORS = {"gradient descent": "#1f5fa8", "Adagrad": "#d1495b"}


# %% [markdown]
# ## 1. The problem on paper
#
# A pure state of one qubit is a point on a sphere, the *Bloch sphere*: $|0\rangle$ is the north pole, $|1\rangle$ the
# south pole. The gate $R_X(\phi_1)$ turns the sphere about its $x$ axis, $R_Y(\phi_2)$ about its $y$ axis:
#
# $$ R_X(\phi) = e^{-i\phi X/2}, \qquad R_Y(\phi) = e^{-i\phi Y/2}. $$
#
# To see where the point ended up, we measure $Z$, whose expected value is the height of the point: $+1$ at the north
# pole, $-1$ at the south pole. Multiplying the matrices gives
#
# $$ \langle Z \rangle = \cos\phi_1 \cos\phi_2 . $$
#
# This is our cost. Its smallest value is $-1$, and it is reached, for example, at $(0, \pi)$ and at $(\pi, 0)$.

# %% [markdown]
# ## 2. Device and QNode
#
# A device is what runs circuits. `qhybrid.statevector` computes with exact amplitudes on the processor. A quantum
# function is an ordinary Python function that places gates on wires and returns measurements; the decorator turns it
# into a QNode, which is called like any function of numbers.

# %%
device = qml.device("qhybrid.statevector", wires=1)


@qml.qnode(device)
def circuit(params):
    """The height of the qubit on the Bloch sphere after two rotations."""
    qml.RX(params[0], wires=0)
    qml.RY(params[1], wires=0)
    return qml.expval(qml.PauliZ(0))


print(qml.draw(circuit)(pnp.array([0.54, 0.12])))

# %% [markdown]
# Angles come in arrays of `qhybrid.numpy`, which is PennyLane's NumPy: arrays that also know whether they are to be
# trained.

# %%
trial = pnp.array([0.54, 0.12], requires_grad=True)
print("circuit:     ", circuit(trial))
print("closed form: ", np.cos(0.54) * np.cos(0.12))

# %% [markdown]
# ## 3. Differentiating
#
# `qml.grad` takes a function and gives back another one: its gradient. `argnums` says with respect to which argument,
# counted from zero. Our circuit has a single argument, an array of two angles, so its gradient is an array of two
# numbers.

# %%
gradient = qml.grad(circuit, argnums=0)


def gradient_on_paper(params):
    """The gradient of cos(a) cos(b)."""
    a, b = params
    return np.array([-np.sin(a) * np.cos(b), -np.cos(a) * np.sin(b)])


print("from the circuit:", gradient(trial))
print("on paper:        ", gradient_on_paper(trial))

# %% [markdown]
# The two agree to the last digits, since nothing was approximated by small differences: on a simulator the derivative
# is computed exactly, by running the circuit backwards once. Let us make sure over many angles.

# %%
grid = np.random.default_rng(7).uniform(-np.pi, np.pi, size=(50, 2))
gradient_error = max(np.abs(gradient(pnp.array(point)) - gradient_on_paper(point)).max() for point in grid)
print(f"largest difference over {len(grid)} random points: {gradient_error:.1e}")


# %% [markdown]
# When the angles are separate arguments, `argnums` picks one or several of them. (The autograd library underneath,
# which works on a QNode just as well, calls the same thing `argnum`.)


# %%
@qml.qnode(device)
def circuit_of_two(phi1, phi2):
    """The same circuit with an argument for each angle."""
    qml.RX(phi1, wires=0)
    qml.RY(phi2, wires=0)
    return qml.expval(qml.PauliZ(0))


phi1, phi2 = trial
print("both arguments:  ", qml.grad(circuit_of_two, argnums=[0, 1])(phi1, phi2))
print("the second only: ", qml.grad(circuit_of_two, argnums=1)(phi1, phi2))
print("through autograd:", autograd.grad(circuit_of_two, argnum=1)(phi1, phi2))

# %% [markdown]
# ## 4. Going downhill
#
# Gradient descent repeats one line: $\phi \leftarrow \phi - \eta\, \nabla \mathrm{cost}(\phi)$, with a step size
# $\eta$. We start close to the north pole, at $(0.011, 0.012)$. Exactly at the pole both derivatives vanish, because
# the pole is a maximum and a maximum is flat; a nudge off it is needed for the walk to begin at all.

# %%
START = (0.011, 0.012)
STEPS = 100


def minimize(optimizer, steps=STEPS):
    """Walk from START for some steps.

    Args:
        optimizer: one of PennyLane's gradient optimizers
        steps: how many steps

    Returns:
        the angles, shape (steps + 1, 2), and the costs, shape (steps + 1,), from the start to the end
    """
    params = pnp.array(START, requires_grad=True)
    path, costs = [params], []
    progress = tqdm(range(steps), desc=type(optimizer).__name__, unit="step")
    for _ in progress:
        params, cost = optimizer.step_and_cost(circuit, params)  # the cost before the step
        path.append(params)
        costs.append(float(cost))
        progress.set_postfix(cost=f"{cost:+.7f}", refresh=False)
    costs.append(float(circuit(params)))
    return np.array(path), np.array(costs)


def report(name, path, costs):
    """Print where a walk ended."""
    print(f"{name}: cost {costs[-1]:+.8f} at angles ({path[-1][0]:+.6f}, {path[-1][1]:+.6f})")


# %%
descent_path, descent_costs = minimize(qml.GradientDescentOptimizer(stepsize=0.4))
report("gradient descent", descent_path, descent_costs)

# %% [markdown]
# The cost is $-1$ and the angles are $(0, \pi)$, one of the answers found on paper. Why this one and not $(\pi, 0)$?
# The cost does not change when the two angles are swapped, so neither has an advantage but the one we gave: $\phi_2$
# began a little larger. The figures below show how that small difference decides.

# %% [markdown]
# ## 5. Another optimizer
#
# Gradient descent uses one step size for everything, for ever. *Adagrad* keeps, for each angle, the sum of its
# squared gradients so far, and divides the step by the root of that sum: angles with small gradients take relatively
# larger steps. An optimizer that remembers must be told to forget before it is used on a new problem; that is what
# `reset()` is for.

# %%
adagrad = qml.AdagradOptimizer(stepsize=0.4)
adagrad_path, adagrad_costs = minimize(adagrad)
report("adagrad", adagrad_path, adagrad_costs)

adagrad.reset()
again_path, again_costs = minimize(adagrad)
print("after reset() the walk repeats itself:", bool(np.allclose(again_path, adagrad_path)))

# %% [markdown]
# Adagrad arrives as well. Which one is quicker depends on the step sizes; the same number, 0.4, means something
# different to each, so do not read the next figure as a race.
#
# ## 6. Looking at it
#
# First the cost over the steps. On the right is the distance left to the minimum on a logarithmic scale, where a
# straight line means that each step removes the same fraction of what is left. (It ends near $10^{-16}$ because a
# 64-bit number cannot tell $-1$ from its neighbours any better.)


# %%
def plot_costs(curves):
    """Two panels: the cost, and its distance to the minimum on a logarithmic scale.

    Args:
        curves: costs, shape (steps + 1,), by the name of the optimizer

    Returns:
        the figure
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for name, costs in curves.items():
        left.plot(costs, color=COLORS[name], linewidth=2, label=name)
        right.semilogy(np.maximum(costs + 1, 1e-16), color=COLORS[name], linewidth=2)
    left.axhline(-1, color="0.6", linewidth=0.8, linestyle="--", zorder=0)
    left.set(xlabel="step", ylabel=r"cost $\langle Z\rangle$", title="Cost")
    right.set(xlabel="step", ylabel=r"$\langle Z\rangle + 1$", title="Distance to the minimum", ylim=(1e-17, 10))
    left.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


loss_figure = plot_costs({"gradient descent": descent_costs, "Adagrad": adagrad_costs})
loss_figure.savefig(OUTPUT / "qubit_rotation_loss.png", dpi=150)

# %% [markdown]
# Both walks pause at cost 0 on the way. To see why, we draw them twice more: over the map of the cost, with an angle
# along each edge, and on the Bloch sphere. Every pair of angles is a state, and the coordinates of a state on the
# sphere are its expected values of $X$, $Y$ and $Z$. A circuit may return all three; and if the angles come as a
# batch, one call does for all steps.


# %%
@qml.qnode(device)
def bloch_vector(params):
    """The point on the Bloch sphere; params has shape (2,) or (2, batch)."""
    qml.RX(params[0], wires=0)
    qml.RY(params[1], wires=0)
    return qml.expval(qml.PauliX(0)), qml.expval(qml.PauliY(0)), qml.expval(qml.PauliZ(0))


def draw_map(axes, paths):
    """The cost over both angles, and the walks on it."""
    first, second = np.meshgrid(np.linspace(-0.3, 3.5, 160), np.linspace(-0.3, 3.5, 160))
    heights = np.cos(first) * np.cos(second)
    filled = axes.contourf(first, second, heights, levels=np.linspace(-1, 1, 21), cmap="Greys_r", vmin=-2.5)
    axes.figure.colorbar(filled, ax=axes, label=r"cost $\langle Z\rangle$", shrink=0.75, ticks=(-1, -0.5, 0, 0.5, 1))
    for name, path in paths.items():
        axes.plot(*path.T, "o-", color=COLORS[name], markersize=3.5, linewidth=1.5, label=name)
    axes.plot(*START, "o", markersize=9, markerfacecolor="white", markeredgecolor="black")
    axes.plot(0, np.pi, "*", markersize=15, color="black")
    axes.plot(np.pi / 2, np.pi / 2, "x", markersize=9, markeredgewidth=2, color="black")
    names = {"start": (0.12, -0.13), "saddle": (1.70, 1.52), "minimum": (0.16, 3.22)}
    for label, place in names.items():
        axes.text(*place, label)
    ticks = (0, np.pi / 2, np.pi)
    axes.set_xticks(ticks, ("0", r"$\pi/2$", r"$\pi$"))
    axes.set_yticks(ticks, ("0", r"$\pi/2$", r"$\pi$"))
    axes.set(xlabel=r"$\phi_1$", ylabel=r"$\phi_2$", aspect="equal")
    axes.legend(loc="lower right", framealpha=0.9)


def draw_sphere(axes):
    """An empty Bloch sphere with its axes and poles."""
    u, v = np.meshgrid(np.linspace(0, 2 * np.pi, 60), np.linspace(0, np.pi, 30))
    x, y, z = np.cos(u) * np.sin(v), np.sin(u) * np.sin(v), np.cos(v)
    axes.plot_surface(x, y, z, color="#dfe7f1", alpha=0.25, linewidth=0, shade=False, zorder=0)
    turn = np.linspace(0, 2 * np.pi, 200)
    cos, sin, zero = np.cos(turn), np.sin(turn), np.zeros_like(turn)
    for circle in ((cos, sin, zero), (cos, zero, sin), (zero, cos, sin)):
        axes.plot(*circle, color="0.72", linewidth=0.7, zorder=1)
    for direction, name in zip(np.eye(3), ("$x$", "$y$", ""), strict=True):
        axes.plot(*np.stack([-direction, direction], axis=1), color="0.6", linewidth=0.7, zorder=1)
        axes.text(*(1.15 * direction), name, color="0.4", ha="center", va="center")
    axes.text(0, 0, 1.12, r"$|0\rangle$", ha="center", fontsize=13)
    axes.text(0, 0, -1.28, r"$|1\rangle$", ha="center", fontsize=13)
    axes.set_box_aspect((1, 1, 1), zoom=1.4)
    axes.set_proj_type("ortho")
    axes.set_axis_off()
    axes.view_init(elev=16, azim=-42)


def draw_walks_on_sphere(axes, paths):
    """The states of each walk, from the start (hollow) to the end (star)."""
    draw_sphere(axes)
    for name, path in paths.items():
        points = np.array(bloch_vector(path.T))
        axes.plot(*points, "o-", color=COLORS[name], markersize=3.5, linewidth=1.8, zorder=3)
    axes.plot(*points[:, :1], "o", markersize=9, markerfacecolor="white", markeredgecolor="black", zorder=4)
    axes.plot(*points[:, -1:], "*", markersize=15, color="black", zorder=4)


def plot_paths(paths):
    """The walks over the map of the cost and on the Bloch sphere.

    Args:
        paths: angles, shape (steps + 1, 2), by the name of the optimizer

    Returns:
        the figure
    """
    figure = plt.figure(figsize=(11, 5), layout="constrained")
    draw_map(figure.add_subplot(1, 2, 1), paths)
    draw_walks_on_sphere(figure.add_subplot(1, 2, 2, projection="3d", computed_zorder=False), paths)
    return figure


bloch_figure = plot_paths({"gradient descent": descent_path, "Adagrad": adagrad_path})
bloch_figure.savefig(OUTPUT / "qubit_rotation_bloch.png", dpi=150)

# %% [markdown]
# Both angles grow side by side at first, almost equal, and that leads towards $(\pi/2, \pi/2)$: a *saddle*, downhill
# to two sides and uphill to the others. There the gradient nearly vanishes, and the walk slows down. On the sphere
# this is the point on the equator at $-y$. Then the small lead of $\phi_2$ decides: the walk leaves the saddle
# towards $(0, \pi)$.
#
# Adagrad comes closer to the saddle, and stays longer. It divides each derivative by its own history, which makes its
# first steps along both angles equally long, and so takes away most of the lead that $\phi_2$ had.
#
# ## 7. Keeping the result

# %%
RESULT = {
    "gradient_error": float(gradient_error),
    "gradient_descent": {"cost": float(descent_costs[-1]), "angles": descent_path[-1].tolist()},
    "adagrad": {"cost": float(adagrad_costs[-1]), "angles": adagrad_path[-1].tolist()},
}
(OUTPUT / "qubit_rotation.json").write_text(json.dumps(RESULT, indent=2) + "\n")
for name in ("qubit_rotation_loss.png", "qubit_rotation_bloch.png", "qubit_rotation.json"):
    print("saved", OUTPUT / name)

# %% [markdown]
# ## Where to go from here
#
# * Start exactly at $(0, 0)$ and see gradient descent stay where it is.
# * Start at $(0.012, 0.011)$. To which of the two answers does it walk now?
# * Start with two equal angles. Where does it end, and why does it not get away from there?
# * Change the measurement to `qml.PauliX(0)` and predict the angles before you run it.
# * `hybrid_classifier.py`, next to this page, puts a circuit of eight qubits between two PyTorch layers and reads
#   handwritten digits.
# * `plugins.py` runs this circuit on other devices, one of them noisy, and trains it together with a beam splitter.
