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
# # Training a machine that is not what you think it is
#
# A quantum computer never does quite what it is told. Its gates turn a little too far, they disturb their neighbours,
# some of what they hold is lost, and the detector misreads. Whoever trains a circuit for it has two classical choices:
#
# * **in silico**: train on a simulator, which is free, and carry the result over. But the simulator is a model, and
#   the machine was never asked.
# * **in situ**: train on the machine itself. Its derivative comes from the parameter-shift rule, which runs the circuit
#   twice more for each trained angle, for each sample, at each step. That is right, and it is expensive.
#
# *Physics-aware training* (L. G. Wright et al., Nature 601, 549, 2022) is a third way: **forward on the machine,
# backward through the model.** The loss sees what the machine really gave; only the derivative, which says where to go
# from there, is borrowed from the simulator. In qhybrid this is one argument:
#
#     @qml.qnode(machine, diff_method=qml.gradients.PhysicsAware(twin="qhybrid.statevector"))
#
# On this page all three train the same classifier for the same miscalibrated chip, and we count the circuits that each
# of them sends to it:
#
# 1. a chip whose gates are not those of the data sheet,
# 2. what becomes there of a classifier trained in silico,
# 3. physics-aware training, and what a gradient costs,
# 4. all three side by side,
# 5. why a wrong derivative is good enough, and when it is not.
#
# It takes about a minute on two processor cores. Besides PyTorch and scikit-learn it needs Qiskit Aer:
# `pip install -e ".[tutorials]"`.

# %%
import json
import os
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from qiskit.circuit.library import RYGate, RZXGate
from qiskit_aer.noise import NoiseModel, ReadoutError, coherent_unitary_error, depolarizing_error
from sklearn.datasets import make_moons
from torch.nn.functional import binary_cross_entropy_with_logits, cosine_similarity
from tqdm import tqdm

import qhybrid as qml

SEEDS = (0, 1, 2)
SHOTS = 500

HERE = Path(__file__).parent if "__file__" in globals() else Path()  # a notebook runs in its own folder
OUTPUT = Path(os.environ.get("QHYBRID_TUTORIAL_OUTPUT", HERE / "output"))
OUTPUT.mkdir(parents=True, exist_ok=True)
BLUE, RED, GREEN, GREY = "#1f5fa8", "#d1495b", "#3a8f5c", "0.6"
STARTED = time.perf_counter()
RESULT = {}

# %% [markdown]
# ## 1. A chip that is not in the data sheet
#
# Three qubits, and errors of two kinds. Some are *random*: each gate sometimes forgets everything (depolarizing), and
# the detector takes a 1 for a 0 more often than a 0 for a 1. And some are *systematic*, the same at every shot: on
# each qubit every `RY` turns by a fixed angle too much, or too little, and every CNOT drags a rotation along that
# nobody asked for. No number of shots averages those away. The gates of this chip are simply other gates.

# %%
QUBITS = 3
TOO_FAR = (0.2, -0.16, 0.18)  # radians that each RY turns too much, by qubit
DRAGGED = 0.2  # radians of the ZX rotation that comes with each CNOT


def errors_of_the_chip():
    """What the chip does besides what it is told."""
    model = NoiseModel()
    for qubit, angle in enumerate(TOO_FAR):
        turned = coherent_unitary_error(RYGate(angle).to_matrix())
        model.add_quantum_error(turned.compose(depolarizing_error(0.01, 1)), ["ry"], [qubit])
    dragged = coherent_unitary_error(RZXGate(DRAGGED).to_matrix())
    model.add_all_qubit_quantum_error(dragged.compose(depolarizing_error(0.03, 2)), ["cx"])
    model.add_all_qubit_readout_error(ReadoutError([[0.98, 0.02], [0.05, 0.95]]))
    return model


def new_chip(seed=0):
    """The chip, with a counter of its own of the circuits that it is sent."""
    return qml.device("qhybrid.aer", wires=QUBITS, noise_model=errors_of_the_chip(), seed=seed)


# %% [markdown]
# How far off is it? We tell one qubit to turn by $\theta$, and read how high it stands. On paper that is $\cos\theta$.


# %%
def turned(angle):
    """The height of each qubit after one turn."""
    for wire in range(QUBITS):
        qml.RY(angle, wires=wire)
    return [qml.expval(qml.Z(wire)) for wire in range(QUBITS)]


told = np.linspace(0, 2 * np.pi, 200)
heights = np.stack(qml.QNode(turned, new_chip())(told))


def plot_chip():
    """What each qubit of the chip answers to an angle, and what it should."""
    figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
    axes.plot(told, np.cos(told), color="black", linewidth=1, linestyle="--", label="on paper")
    for wire, color in enumerate((BLUE, RED, GREEN)):
        axes.plot(told, heights[wire], color=color, label=f"qubit {wire}")
    axes.set(xlabel=r"angle $\theta$ that it is told", ylabel=r"$\langle Z\rangle$", title="One gate on the chip")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


plot_chip().savefig(OUTPUT / "physics_aware_chip.png", dpi=150)
print(f"largest deviation after one gate: {np.abs(heights - np.cos(told)).max():.3f}")

# %% [markdown]
# After one gate that looks harmless. The classifier below has thirty `RY`s, and the errors of all of them add up.
#
# ## 2. Trained in silico
#
# The task: two interleaved half moons, 200 points to learn from and 300 to be judged by. The circuit reads the
# coordinates of a point again in each of five layers, with trained rotations and a ring of CNOTs in between; the sign
# of $\langle Z_0\rangle$ is its answer, and $-8\langle Z_0\rangle$ its logit.

# %%
LAYERS, BATCH, LEARNING_RATE, SCALE = 5, 16, 0.08, -8.0

points, classes = make_moons(500, noise=0.15, random_state=0)
points = torch.tensor((points - points.mean(axis=0)) / points.std(axis=0))
classes = torch.tensor(classes, dtype=torch.float64)
train_x, test_x, train_y, test_y = points[:200], points[200:], classes[:200], classes[200:]


def classifier(inputs, weights):
    """The expected value that decides; for a whole batch of points at once.

    Args:
        inputs: points, shape (batch, 2)
        weights: angles of the trained rotations, shape (LAYERS, QUBITS, 2)
    """
    for layer in weights:
        for wire in range(QUBITS):
            qml.RY(inputs[..., wire % 2], wires=wire)
        for wire in range(QUBITS):
            qml.RZ(layer[wire, 0], wires=wire)
            qml.RY(layer[wire, 1], wires=wire)
        for wire in range(QUBITS):
            qml.CNOT(wires=[wire, (wire + 1) % QUBITS])
    return qml.expval(qml.Z(0))


def loss_of(circuit, weights, inputs, targets):
    """Cross entropy of the circuit's answers."""
    return binary_cross_entropy_with_logits(SCALE * circuit(inputs, weights), targets)


def accuracy(circuit, weights):
    """The fraction of the test points that a circuit gets right."""
    with torch.no_grad():
        return ((SCALE * circuit(test_x, weights) > 0) == (test_y > 0.5)).double().mean().item()


on_paper = qml.QNode(classifier, qml.device("qhybrid.statevector", wires=QUBITS))
judge = qml.QNode(classifier, new_chip())  # the same chip without the scatter of shots; its circuits are not counted

# %% [markdown]
# The training loop is the same for all three ways: Adam on batches of 16 points. `circuit` is where the values come
# from, and with it, where the derivatives do. The accuracy that is written down is always that *on the chip*.


# %%
def start(seed):
    """Weights to begin with, the same for all three ways."""
    return torch.tensor(np.random.default_rng(seed).uniform(-1, 1, (LAYERS, QUBITS, 2)), requires_grad=True)


def train(circuit, steps, every, seed, name):
    """Train a circuit and look now and then how well its weights do on the chip.

    Args:
        circuit: a QNode of the classifier
        steps: of the optimizer
        every: steps between two looks
        seed: of the weights and the batches
        name: what the progress is called

    Returns:
        the weights, and for each look the circuits sent until then and the accuracy on the chip
    """
    weights, batches = start(seed), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam([weights], lr=LEARNING_RATE)
    looks = [(0, accuracy(judge, weights))]
    for step in tqdm(range(1, steps + 1), desc=name, unit="step", mininterval=1):
        chosen = torch.randperm(len(train_x), generator=batches)[:BATCH]
        optimizer.zero_grad()
        loss_of(circuit, weights, train_x[chosen], train_y[chosen]).backward()
        optimizer.step()
        if step % every == 0:
            looks.append((qml.jobs_of(circuit.device).usage.circuits, accuracy(judge, weights)))
    return weights.detach(), looks


silico = {seed: train(on_paper, 200, 20, seed, f"in silico, {seed}") for seed in SEEDS}
for seed, (weights, looks) in silico.items():
    print(f"start {seed}: {accuracy(on_paper, weights):.3f} on the simulator, {looks[-1][1]:.3f} on the chip")

# %% [markdown]
# On the simulator there is little left to improve. On the chip, the same weights are far worse.
#
# ## 3. Forward on the chip, backward through its twin
#
# The *twin* is what we believe the chip to be: here the perfect gates of the data sheet, on the state-vector simulator,
# which differentiates them with one reverse pass. It is told nothing about part 1.

# %%
in_situ_chip, aware_chip = new_chip(), new_chip()
in_situ = qml.set_shots(qml.QNode(classifier, in_situ_chip), SHOTS)
aware = qml.set_shots(
    qml.QNode(classifier, aware_chip, diff_method=qml.gradients.PhysicsAware(twin="qhybrid.statevector")), SHOTS
)

batch, weights = train_x[:BATCH], start(0)
print("IN SITU\n" + str(in_situ.explain(batch, weights)))
print("\nPHYSICS-AWARE\n" + str(aware.explain(batch, weights)))

# %% [markdown]
# In situ, a step sends 16 circuits for the values, and for the derivatives two for each of the 30 trained angles of
# each point: 976 in all. Physics-aware, a step sends the 16.
#
# ## 4. Side by side
#
# Each way starts from the same three sets of weights. One training in situ takes 21 steps, physics-aware
# 120, and in silico it was 200.

# %%
ways = {"in situ": [], "physics-aware": []}
for seed in SEEDS:
    for name, method, steps, every in (
        ("in situ", "parameter-shift", 21, 3),
        ("physics-aware", qml.gradients.PhysicsAware(), 120, 5),
    ):
        circuit = qml.set_shots(qml.QNode(classifier, new_chip(seed), diff_method=method), SHOTS)
        ways[name].append(train(circuit, steps, every, seed, f"{name}, {seed}"))

curves = {name: np.array([looks for _, looks in runs]) for name, runs in ways.items()}  # (seeds, looks, 2)
silico_curve = np.array([looks for _, looks in silico.values()])
GOAL = 0.95


def circuits_until(curve, goal=GOAL):
    """Circuits after which the accuracy, in the mean over the starts, has reached a goal.

    Args:
        curve: circuits and accuracies, shape (seeds, looks, 2)
        goal: accuracy
    """
    reached = np.flatnonzero(curve[..., 1].mean(axis=0) >= goal)
    return int(curve[0, reached[0], 0]) if len(reached) else None


last = {name: float(curve[:, -1, 1].mean()) for name, curve in curves.items()}
last["in silico"] = float(silico_curve[:, -1, 1].mean())
best_silico = float(silico_curve[..., 1].mean(axis=0).max())
needed = {name: circuits_until(curve) for name, curve in curves.items()}
for name in ("in silico", "in situ", "physics-aware"):
    sent = int(curves[name][0, -1, 0]) if name in curves else 0
    until = f"; {GOAL:.0%} after {needed[name]} circuits" if needed.get(name) else ""
    print(f"{name:14} {last[name]:.3f} on the chip after {sent} circuits{until}")


# %%
def plot_costs():
    """The accuracy on the chip over the circuits that it was sent: mean and range of the three starts."""
    figure, axes = plt.subplots(figsize=(8, 4.6), layout="constrained")
    for name, color in (("in situ", RED), ("physics-aware", BLUE)):
        sent, values = curves[name][0, 1:, 0], curves[name][:, 1:, 1]
        axes.fill_between(sent, values.min(axis=0), values.max(axis=0), color=color, alpha=0.15, linewidth=0)
        axes.plot(sent, values.mean(axis=0), "o-", color=color, markersize=4, label=name)
        if needed[name]:
            axes.plot(needed[name], GOAL, "*", color=color, markersize=16, markeredgecolor="white", zorder=3)
    axes.axhspan(*(f(silico_curve[:, -1, 1]) for f in (np.min, np.max)), color=GREEN, alpha=0.15, linewidth=0)
    axes.axhline(last["in silico"], color=GREEN, linewidth=1.5, label="in silico (no circuits)")
    axes.axhline(GOAL, color=GREY, linewidth=0.8, linestyle="--", zorder=0)
    axes.set(xscale="log", xlabel="circuits sent to the chip", ylabel="accuracy on the chip", ylim=(0.4, 1.01))
    axes.set_title("What a miscalibrated chip learns, and what it costs")
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


plot_costs().savefig(OUTPUT / "physics_aware_costs.png", dpi=150)

# %% [markdown]
# The bands span the three starts, and a star marks where the mean has reached 95 %. Physics-aware training gets there
# with a small part of the circuits, and to where training in silico does not get at all.
#
# Where does the difference sit? Here is what the chip takes each point of the plane for, with the weights that were
# trained in silico and with those that were trained physics-aware.


# %%
def draw_regions(axes, circuit, weights, title, cells=40):
    """What a circuit takes each point of the plane for, and the test points."""
    low, high = points.min(dim=0).values.numpy() - 0.3, points.max(dim=0).values.numpy() + 0.3
    first, second = np.meshgrid(*(np.linspace(a, b, cells) for a, b in zip(low, high, strict=True)))
    with torch.no_grad():
        grid = torch.tensor(np.stack([first.ravel(), second.ravel()], axis=1))
        logits = (SCALE * circuit(grid, weights)).reshape(cells, cells).numpy()
    axes.contourf(first, second, logits, levels=np.linspace(-8, 8, 17), cmap="RdBu", alpha=0.6)
    axes.contour(first, second, logits, levels=[0.0], colors="black", linewidths=1)
    for of_class, color, marker in ((0, RED, "o"), (1, BLUE, "s")):
        own = test_x[test_y == of_class]
        axes.plot(*own.T, marker, color=color, markersize=3.5, markeredgecolor="white", markeredgewidth=0.5)
    axes.set_title(f"{title}\n{accuracy(circuit, weights):.3f} of the test points")
    axes.set_xticks(())
    axes.set_yticks(())


def plot_regions(seed=0):
    """In silico on the simulator and on the chip, and physics-aware on the chip."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 4.2), layout="constrained")
    draw_regions(left, on_paper, silico[seed][0], "in silico, on the simulator")
    draw_regions(middle, judge, silico[seed][0], "in silico, on the chip")
    draw_regions(right, judge, ways["physics-aware"][seed][0], "physics-aware, on the chip")
    return figure


plot_regions().savefig(OUTPUT / "physics_aware_regions.png", dpi=150)

# %% [markdown]
# ## 5. Why a wrong derivative is good enough
#
# The gradient of the loss is a product: how much the loss wants each answer changed, times how the answers change with
# the weights,
#
# $$ \frac{dL}{dw} \;=\; \sum_i \underbrace{\frac{\partial L}{\partial y_i}}_{\text{at the chip's answers}} \;
# \underbrace{\frac{\partial y_i}{\partial w}}_{\text{of the twin}} . $$
#
# Training in silico takes both from the twin, and it stops once the *twin's* answers are right. Physics-aware training
# takes the first factor from the chip. Where the chip's answers are right, that factor vanishes, whatever the second
# one may be; and where they are not, the second one need only point less than a right angle away.
#
# That can be looked at. At the weights that were trained in silico, with all training points and without shots, we
# compare the direction of the chip's own gradient, from the shift rule, with the two others.


# %%
def gradient_of(circuit, weights):
    """The gradient of the loss of all training points, flattened."""
    at = weights.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss_of(circuit, at, train_x, train_y), at)
    return found.flatten()


aware_exact = qml.QNode(classifier, new_chip(), diff_method=qml.gradients.PhysicsAware())
cosines = {"in silico": [], "physics-aware": []}
for seed in SEEDS:
    weights = silico[seed][0]
    own = gradient_of(judge, weights)
    cosines["in silico"].append(float(cosine_similarity(own, gradient_of(on_paper, weights), dim=0)))
    cosines["physics-aware"].append(float(cosine_similarity(own, gradient_of(aware_exact, weights), dim=0)))
for name, values in cosines.items():
    print(f"cosine of the angle to the chip's own gradient, {name}: {', '.join(f'{v:+.2f}' for v in values)}")

# %% [markdown]
# The physics-aware gradient points the chip's way each time, if not exactly. The simulator's own may point anywhere: it
# is what is left of a loss that has no more to say there.
#
# The borrowed factor is a limit as well. If the twin is far off, by a good part of a quarter turn, its derivative
# points elsewhere, and training walks about or leads uphill. Then a better twin is needed, and any model of the chip
# will do: `twin=` also takes a noisy simulator, a circuit with calibrated angles, or a neural network that was fitted
# to what the chip gives. And where the training has to end in an exact minimum of the chip's own loss, the last steps
# can be done in situ.
#
# ## 6. Keeping the result

# %%
RESULT["accuracy"] = {**last, "in silico, at best": best_silico}
RESULT["on_the_simulator"] = [accuracy(on_paper, weights) for weights, _ in silico.values()]
RESULT["circuits"] = {name: int(curve[0, -1, 0]) for name, curve in curves.items()}
RESULT["circuits_until_goal"] = needed
RESULT["cosines"] = cosines
RESULT["seconds"] = round(time.perf_counter() - STARTED, 1)
(OUTPUT / "physics_aware.json").write_text(json.dumps(RESULT, indent=2) + "\n")
for path in sorted(OUTPUT.glob("physics_aware*")):
    print("saved", path)
print(f"all of it took {RESULT['seconds']} s")

# %% [markdown]
# ## Where to go from here
#
# * Set `TOO_FAR` and `DRAGGED` to zero. What is left of the differences?
# * Double them, and watch physics-aware training lose its way. Then give it a twin that knows `TOO_FAR`.
# * Start physics-aware training from the weights that were trained in silico. How few circuits are enough?
# * 50 shots in place of 500: what does it do to each of the two that use the chip?
