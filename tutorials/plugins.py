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
# # One circuit, many machines
#
# A circuit says what should happen to the qubits; a *device* makes it happen. Devices come from many hands: simulators
# that compute with exact amplitudes, simulators of the noise of a real chip, optical tables that have no qubits at
# all. This page runs circuits on four of them and makes them work together:
#
# 1. the rotation of a qubit on four devices, with one changed word between them,
# 2. a classifier of handwritten digits, trained from PyTorch on a noisy chip that knows only its shots,
# 3. light on a beam splitter, a device without qubits,
# 4. light, ordinary mathematics and a qubit in *one* gradient,
# 5. what a call will cost, and how to make sure that it does not cost more.
#
# It takes about a minute on two processor cores, most of it in part 2; the very first time on a machine about twenty
# seconds more. Besides PyTorch and scikit-learn it needs Qiskit Aer: `pip install -e ".[tutorials]"`.

# %%
import json
import os
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pennylane
import torch
from qiskit.providers.fake_provider import GenericBackendV2
from qiskit_aer.noise import NoiseModel, ReadoutError, depolarizing_error
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

import qhybrid as qml
from qhybrid import numpy as pnp

SEED = 0
SHOTS = 1000

HERE = Path(__file__).parent if "__file__" in globals() else Path()  # a notebook runs in its own folder
OUTPUT = Path(os.environ.get("QHYBRID_TUTORIAL_OUTPUT", HERE / "output"))
OUTPUT.mkdir(parents=True, exist_ok=True)
BLUE, RED, GREY = "#1f5fa8", "#d1495b", "0.6"
STARTED = time.perf_counter()
RESULT = {}

# %% [markdown]
# ## 1. The same circuit on four devices
#
# The circuit is the one of `qubit_rotation.py`: two turns of a qubit, and the height $\langle Z\rangle$ at which its
# point on the Bloch sphere ends, on paper $\cos\phi_1\cos\phi_2$. Four devices shall run it:
#
# * `qhybrid.statevector`, exact amplitudes, compiled for the processor at hand;
# * `qhybrid.aer`, which is Qiskit Aer, exact as well;
# * `qhybrid.aer` once more, now as bad as a real machine: each gate goes wrong now and then, the detector misreads, and
#   an expected value is the mean of 1000 shots;
# * `lightning.qubit`, PennyLane's own fast simulator.
#
# The errors are described with Qiskit's own tools. A *depolarizing* error of strength $p$ replaces the state, with
# probability $p$, by one that knows nothing. The detector takes a 0 for a 1 with probability $q_0$, and a 1 for a 0
# with $q_1$.

# %%
GATE_ERROR, ZERO_AS_ONE, ONE_AS_ZERO = 0.05, 0.02, 0.06


def noise_of_a_chip():
    """Errors of rotations and of the detector."""
    model = NoiseModel()
    model.add_all_qubit_quantum_error(depolarizing_error(GATE_ERROR, 1), ["rx", "ry"])
    model.add_all_qubit_readout_error(ReadoutError([[1 - ZERO_AS_ONE, ZERO_AS_ONE], [ONE_AS_ZERO, 1 - ONE_AS_ZERO]]))
    return model


devices = {
    "state vector": qml.device("qhybrid.statevector", wires=1),
    "Aer": qml.device("qhybrid.aer", wires=1),
    "Aer with noise": qml.device("qhybrid.aer", wires=1, noise_model=noise_of_a_chip(), seed=SEED),
    "Lightning": qml.device("lightning.qubit", wires=1),
}


def rotation(params):
    """The height of the qubit on the Bloch sphere after two rotations."""
    qml.RX(params[0], wires=0)
    qml.RY(params[1], wires=0)
    return qml.expval(qml.Z(0))


circuits = {name: qml.QNode(rotation, device) for name, device in devices.items()}
circuits["Aer with noise"] = qml.set_shots(circuits["Aer with noise"], SHOTS)

# %% [markdown]
# The name in `qml.device` is all that differs. The function `rotation` is written once, and so is the training below:
# the same optimizer, the same start close to the north pole.
#
# First a value and a gradient from each device, at a point where the answer is not a round number.

# %%
TRIAL = pnp.array([0.54, 0.12], requires_grad=True)
ON_PAPER = np.array([-np.sin(0.54) * np.cos(0.12), -np.cos(0.54) * np.sin(0.12)])


at_trial = {name: (float(circuit(TRIAL)), qml.grad(circuit)(TRIAL)) for name, circuit in circuits.items()}
print(f"{'on paper':16}{np.cos(0.54) * np.cos(0.12):+.6f}  ({ON_PAPER[0]:+.6f}, {ON_PAPER[1]:+.6f})")
for name, (value, gradient) in at_trial.items():
    print(f"{name:16}{value:+.6f}  ({gradient[0]:+.6f}, {gradient[1]:+.6f})")

# %% [markdown]
# Three of them agree with the paper to the last digit shown. The noisy one cannot: its value is off because of the
# errors, and a little different at each call because of the shots. Its gradient is still a sound one, of the values
# that *this* device gives: it comes from the parameter-shift rule, which compares the circuit at two angles half a turn
# apart, where the scatter of the shots matters little. In a difference over a small step the scatter would be all
# there is.
#
# Now 50 steps of gradient descent on each.

# %%
START = (0.011, 0.012)
STEPS = 50


def descend(name):
    """Walk from START on one device.

    Args:
        name: of the device

    Returns:
        costs, shape (STEPS + 1,), from the start to the end, and the seconds that it took
    """
    circuit, optimizer = circuits[name], qml.GradientDescentOptimizer(stepsize=0.4)
    params, costs = pnp.array(START, requires_grad=True), []
    began = time.perf_counter()
    for _ in tqdm(range(STEPS), desc=name, unit="step"):
        params, cost = optimizer.step_and_cost(circuit, params)  # the cost before the step
        costs.append(float(cost))
    costs.append(float(circuit(params)))
    return np.array(costs), time.perf_counter() - began


walks = {name: descend(name) for name in devices}

# %% [markdown]
# How far down can the noisy one get? Both gates shrink the height by $1-p$. Of a height $z$, the detector makes
#
# $$ z \;\mapsto\; (1 - q_0 - q_1)\, z + (q_1 - q_0), $$
#
# because it reports 0 with probability $\frac{1+z}{2}(1-q_0) + \frac{1-z}{2}q_1$. At the south pole, where a perfect
# qubit has $z=-1$, this leaves the *noise floor*. No optimizer gets below it, except by luck with the shots, whose
# standard error is $\sqrt{(1-z^2)/1000}$.


# %%
def as_read(height):
    """The height that the noisy device reports in place of the true one."""
    return (1 - ZERO_AS_ONE - ONE_AS_ZERO) * (1 - GATE_ERROR) ** 2 * height + ONE_AS_ZERO - ZERO_AS_ONE


FLOOR = as_read(-1.0)
SCATTER = float(np.sqrt((1 - FLOOR**2) / SHOTS))


def table():
    """What each device reached and what it took, a line each."""
    yield f"{'':16}{'last cost':>11}{'seconds':>9}{'circuits sent':>15}{'shots':>9}   gradient"
    for name, (costs, seconds) in walks.items():
        usage = qml.jobs_of(devices[name]).usage
        sent = (usage.circuits or "-", usage.shots or "-")
        method = circuits[name].explain(TRIAL).method
        yield f"{name:16}{costs[-1]:+11.6f}{seconds:9.2f}{sent[0]:>15}{sent[1]:>9}   {method}"


print("\n".join(table()))
plateau = walks["Aer with noise"][0][-20:].mean()
print(f"\nnoise floor {FLOOR:+.4f}; mean of the last 20 noisy costs {plateau:+.4f}, each +- {SCATTER:.4f}")

# %% [markdown]
# A dash says that no circuits were counted: the device computes within the call and sends none. Aer is sent one circuit
# for each value, and four more for each gradient, two for each angle.


# %%
def plot_walks():
    """The cost over the steps on each device, with the floor of the noisy one and its scatter."""
    figure, axes = plt.subplots(figsize=(8, 4.4), layout="constrained")
    styles = {  # the exact curves lie on top of each other: a wide one, a narrower one, and dots
        "state vector": {"color": "#b9cfe8", "linewidth": 8, "solid_capstyle": "round"},
        "Aer": {"color": BLUE, "linewidth": 2},
        "Lightning": {"color": "black", "linestyle": "none", "marker": "o", "markersize": 3, "markevery": 2},
        "Aer with noise": {"color": RED, "linewidth": 1.5, "marker": "o", "markersize": 3},
    }
    for name, style in styles.items():
        axes.plot(walks[name][0], label=name, **style)
    axes.axhspan(FLOOR - 2 * SCATTER, FLOOR + 2 * SCATTER, color=RED, alpha=0.15, linewidth=0)
    axes.axhline(FLOOR, color=RED, linewidth=1, linestyle="--")
    axes.text(0, FLOOR + 0.06, f"noise floor {FLOOR:.3f}\n(band: two standard errors)", color=RED)
    axes.axhline(-1, color=GREY, linewidth=0.8, linestyle="--", zorder=0)
    axes.set(xlabel="step", ylabel=r"cost $\langle Z\rangle$", title="One circuit on four devices")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


plot_walks().savefig(OUTPUT / "plugins_rotation.png", dpi=150)

RESULT["rotation"] = {
    "floor": FLOOR,
    "plateau": float(plateau),
    "scatter": SCATTER,
    "gradient_error": {name: float(np.abs(gradient - ON_PAPER).max()) for name, (_, gradient) in at_trial.items()},
    "costs": {name: costs.tolist() for name, (costs, _) in walks.items()},
    "circuits": {name: qml.jobs_of(device).usage.circuits for name, device in devices.items()},
}

# %% [markdown]
# The three exact walks are one and the same curve, with the pause at height 0 that `qubit_rotation.py` explains. The
# noisy walk goes its own way down, another one for each seed: on the flat top its gradient is hardly more than chance,
# and chance decides in which direction it leaves. Then it comes down to its floor and rattles about there. The floor is
# higher than $-1$, but it lies at the *same angles*: these errors shrink and shift the landscape without moving its
# minimum. That is why training on a noisy machine can work at all.

# %% [markdown]
# ## 2. A classifier on a noisy chip
#
# Now something that learns. A 4 and a 9 written by hand are easily confused; scikit-learn has 361 of both. We keep 120
# to train on and test on the other 241. The two directions in which the training images vary most (their *principal
# components*) are our two numbers for each image, and become angles of two qubits.
#
# The chip has five qubits in a row, and its errors are made up at random around those of today's machines:
# `GenericBackendV2` stands for hardware wherever Qiskit expects hardware. `qhybrid.aer` takes it as `backend`, lays our
# two wires on two of the five qubits, translates the gates into those which this chip has, and simulates its noise.


# %%
QUBITS, LAYERS, EPOCHS, BATCH = 2, 2, 3, 15
torch.set_num_threads(1)  # everything here is so small that a second thread costs more than it saves


def fours_and_nines(train_size=120):
    """Two numbers for each image, and whether it is a 9.

    Returns:
        training and test sets: features (n, 2) in float32, labels (n,)
    """
    images, digits = load_digits(return_X_y=True)
    chosen = np.isin(digits, (4, 9))
    train_x, test_x, train_y, test_y = train_test_split(
        images[chosen], digits[chosen] == 9, train_size=train_size, stratify=digits[chosen], random_state=SEED
    )
    components = PCA(2, whiten=True, random_state=SEED).fit(train_x)
    return [
        TensorDataset(torch.tensor(components.transform(x), dtype=torch.float32), torch.tensor(y).long())
        for x, y in ((train_x, train_y), (test_x, test_y))
    ]


train_set, test_set = fours_and_nines()
chip = GenericBackendV2(5, coupling_map=[[0, 1], [1, 2], [2, 3], [3, 4]], noise_info=True, seed=SEED)
chip_device = qml.device("qhybrid.aer", wires=QUBITS, backend=chip, seed=SEED)


def two_qubits(inputs, weights):
    """Two angles in, two expected values out, for a batch of samples at once.

    Args:
        inputs: angles, shape (batch, QUBITS)
        weights: angles of the trained rotations, shape (LAYERS, QUBITS, 2)
    """
    for layer in weights:
        qml.AngleEmbedding(inputs, wires=range(QUBITS), rotation="Y")
        for wire in range(QUBITS):
            qml.RZ(layer[wire, 0], wires=wire)
            qml.RY(layer[wire, 1], wires=wire)
        qml.CNOT(wires=[0, 1])
    return [qml.expval(qml.Z(wire)) for wire in range(QUBITS)]


on_chip = qml.set_shots(qml.QNode(two_qubits, chip_device), SHOTS)
torch.manual_seed(SEED)
model = nn.Sequential(
    qml.qnn.TorchLayer(on_chip, {"weights": (LAYERS, QUBITS, 2)}),
    nn.Linear(QUBITS, 2),
)
print(model)

# %% [markdown]
# The training loop is PyTorch's, with Adam. What `loss.backward()` asks of the chip can be told beforehand: each of
# the eight angles of each of the 15 samples needs two circuits, and the forward pass one for each sample.


# %%
def accuracy(model, dataset):
    """The fraction of a data set that a model gets right."""
    features, labels = dataset.tensors
    with torch.no_grad():
        return (model(features).argmax(dim=1) == labels).double().mean().item()


def train(model):
    """Train on every batch, EPOCHS times.

    Returns:
        the loss of each step, and the accuracy on the test images after each epoch, which chooses nothing
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    loader = DataLoader(train_set, BATCH, shuffle=True, generator=torch.Generator().manual_seed(SEED))
    losses, accuracies = [], [accuracy(model, test_set)]
    with tqdm(total=EPOCHS * len(loader), desc="chip", unit="step", mininterval=2) as progress:
        for _ in range(EPOCHS):
            for features, labels in loader:
                optimizer.zero_grad()
                loss = cross_entropy(model(features), labels)
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
                progress.set_postfix(loss=f"{loss.item():.3f}", test=f"{accuracies[-1]:.3f}", refresh=False)
                progress.update()
            accuracies.append(accuracy(model, test_set))
    return losses, accuracies


began = time.perf_counter()
losses, accuracies = train(model)
seconds = time.perf_counter() - began
usage = qml.jobs_of(chip_device).usage
print(f"{len(losses)} steps in {seconds:.1f} s: {usage.circuits} circuits, {usage.shots / 1e6:.1f} million shots")

# %% [markdown]
# To judge the result we need two more numbers: what the very same weights do on a device without noise and shots, and
# what a plain linear model, logistic regression, makes of the same two numbers.


# %%
def without_noise(model):
    """The same layers with the same weights, the circuit on an exact device."""
    exact = qml.QNode(two_qubits, qml.device("qhybrid.statevector", wires=QUBITS))
    layer = qml.qnn.TorchLayer(exact, {"weights": (LAYERS, QUBITS, 2)})
    layer.load_state_dict(model[0].state_dict())
    return nn.Sequential(layer, model[1])


linear = LogisticRegression().fit(*(part.numpy() for part in train_set.tensors))
tested = {
    "on the noisy chip": accuracies[-1],
    "same weights, exact": accuracy(without_noise(model), test_set),
    "logistic regression": linear.score(*(part.numpy() for part in test_set.tensors)),
}
for name, value in tested.items():
    print(f"{name:20} test accuracy {value:.3f} +- {np.sqrt(value * (1 - value) / len(test_set)):.3f}")


# %%
def draw_training(left):
    """The loss of each step, and the accuracy after each epoch."""
    steps = np.arange(1, len(losses) + 1)
    left.plot(steps, losses, color=BLUE, linewidth=1.5)
    left.set(xlabel="step", ylim=(0, None), title="Training on the chip")
    left.set_ylabel("cross entropy of the batch", color=BLUE)
    right = left.twinx()
    right.plot(np.linspace(0, len(losses), len(accuracies)), accuracies, "o-", color=RED, linewidth=1.5)
    right.set_ylabel("fraction of the test images right", color=RED)
    right.set_ylim(0, 1.03)
    left.spines["top"].set_visible(False)
    right.spines["top"].set_visible(False)


def draw_regions(axes, points=36):
    """What the model on the chip takes each point of the plane for, with the test images."""
    features, labels = (part.numpy() for part in test_set.tensors)
    low, high = features.min(axis=0) - 0.3, features.max(axis=0) + 0.3
    first, second = np.meshgrid(*(np.linspace(a, b, points) for a, b in zip(low, high, strict=True)))
    grid = torch.tensor(np.stack([first.ravel(), second.ravel()], axis=1), dtype=torch.float32)
    with torch.no_grad():
        nines = model(grid).softmax(dim=1)[:, 1].reshape(points, points).numpy()
    shades = axes.contourf(first, second, nines, levels=np.linspace(0, 1, 11), cmap="RdBu", alpha=0.6)
    axes.contour(first, second, nines, levels=[0.5], colors="black", linewidths=1)
    axes.figure.colorbar(shades, ax=axes, label="probability of a 9", ticks=(0, 0.5, 1))
    for digit, color, marker in ((4, RED, "o"), (9, BLUE, "s")):
        own = features[labels == (digit == 9)]
        axes.plot(*own.T, marker, color=color, markersize=4.5, markeredgecolor="white", label=f"a {digit}")
    axes.set(xlabel="first component", ylabel="second component", title="Regions, and the test images")
    axes.legend(loc="best", framealpha=0.9)


def plot_classifier():
    """Curves and regions of the classifier."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    draw_training(left)
    draw_regions(right)
    return figure


plot_classifier().savefig(OUTPUT / "plugins_classifier.png", dpi=150)
RESULT["classifier"] = {"test_accuracy": tested, "circuits": usage.circuits, "seconds": round(seconds, 2)}

# %% [markdown]
# The number after +- is the standard error that comes from having 241 test images; within it, all three are even. The
# errors of this chip cost nothing that could be seen: they draw the expected values together, and the decision asks
# only which of two scores is larger. Nor does the circuit beat a straight line here; two numbers in which a straight
# line does so well are no test of that.
#
# The border between the regions is not smooth, because each point of the map is a circuit of its own, with its own 1000
# shots. Most of the test images are far enough away for this not to matter.
#
# ## 3. A device without qubits
#
# In optics the wires are *modes*, channels in which light travels, and what is counted are photons. PennyLane's
# `default.gaussian` simulates such circuits as long as the light stays Gaussian, that is, laser light, squeezed light
# and everything that mirrors and beam splitters make of them.
#
# We send a faint laser pulse, one photon in the mean, into mode 0 of a beam splitter, and ask how many come out of
# mode 1. The beam splitter with angles $\theta$ and $\varphi$ lets the amplitude $\cos\theta$ pass and redirects
# $\sin\theta$, with a phase $\varphi$ that no counter notices:
#
# $$ \langle n_0 \rangle = \cos^2\theta, \qquad \langle n_1 \rangle = \sin^2\theta . $$
#
# Circuits of modes are not compiled; they run through PennyLane. So we say `pennylane.qnode` here, which is what it
# amounts to. The gradient is exact all the same: Gaussian gates have shift rules of their own.

# %%
light = qml.device("default.gaussian", wires=2)


@pennylane.qnode(light)
def beam_splitter(params, mode=1):
    """The mean number of photons in a mode behind a beam splitter, for one photon in the mean that enters mode 0."""
    qml.Displacement(1.0, 0.0, wires=0)
    qml.Beamsplitter(params[0], params[1], wires=[0, 1])
    return qml.expval(qml.NumberOperator(mode))  # one mode a call: default.gaussian measures one thing at a time


def photons_not_redirected(params):
    """The cost: the photons that do not come out of mode 1."""
    return 1 - beam_splitter(params)


somewhere = pnp.array([0.54, 0.12], requires_grad=True)
print(qml.draw(beam_splitter)(somewhere))
print("gradient:", qml.grad(photons_not_redirected)(somewhere), " on paper:", np.array([-np.sin(2 * 0.54), 0.0]))

# %%
params, optimizer = pnp.array([0.01, 0.01], requires_grad=True), qml.GradientDescentOptimizer(stepsize=0.4)
path = [params]
for _ in tqdm(range(25), desc="light", unit="step"):
    params = optimizer.step(photons_not_redirected, params)
    path.append(params)
thetas = np.array(path)[:, 0]
photons = np.array([[beam_splitter(point, mode=mode) for mode in (0, 1)] for point in path])
print(f"theta = {thetas[-1]:.6f} (a quarter turn is {np.pi / 2:.6f}), photons in mode 1: {photons[-1, 1]:.8f}")


# %%
def plot_light():
    """Photons in each mode over the steps, and the walk on the curve of sin^2."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for mode, color in ((0, RED), (1, BLUE)):
        left.plot(photons[:, mode], "o-", color=color, markersize=4, label=f"mode {mode}")
    left.plot(photons.sum(axis=1), color=GREY, linestyle="--", linewidth=1, label="together")
    left.set(xlabel="step", ylabel="mean number of photons", title="Where the light comes out")
    left.legend(frameon=False, loc="center left")
    angles = np.linspace(-0.05, 1.75, 200)
    right.plot(angles, np.sin(angles) ** 2, color="#b9cfe8", linewidth=5, label=r"$\sin^2\theta$")
    right.plot(thetas, photons[:, 1], "o-", color=BLUE, markersize=4, linewidth=1, label="steps")
    right.plot(thetas[-1], photons[-1, 1], "*", color="black", markersize=14)
    right.set(xlabel=r"$\theta$", ylabel=r"$\langle n_1\rangle$", title="The walk on the landscape")
    right.set_xticks((0, np.pi / 4, np.pi / 2), ("0", r"$\pi/4$", r"$\pi/2$"))
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


plot_light().savefig(OUTPUT / "plugins_light.png", dpi=150)
RESULT["light"] = {"theta": float(thetas[-1]), "photons": photons[-1].tolist()}

# %% [markdown]
# At a quarter turn the beam splitter is a mirror, and all light leaves through mode 1. The phase $\varphi$ has no
# influence on the count, so its derivative is zero, and it stays where it was.
#
# ## 4. Light, mathematics and a qubit in one gradient
#
# Two machines that could hardly be more different now get the same input $x$. The *optical* one turns its beam splitter
# by $\theta = g x + h$ and reports the photons in mode 1, for a pulse of amplitude $a$. The *qubit* turns by $s x + t$
# about the $x$ axis and then by $u$ about $y$, and reports the probability of being found in $|1\rangle$. On paper
#
# $$ n(x) = a^2 \sin^2(g x + h), \qquad p(x) = \tfrac12\bigl(1 - \cos(s x + t)\cos u\bigr). $$
#
# Between them stands a classical function, the mean squared difference over twelve inputs. Whoever differentiates it
# walks through all three: the optical table, NumPy, and the state vector.

# %%
INPUTS = np.linspace(0, np.pi, 12)
qubit_device = qml.device("qhybrid.statevector", wires=1)


@pennylane.qnode(light)
def photon_count(theta, amplitude):
    """Photons in mode 1; default.gaussian takes one angle at a time."""
    qml.Displacement(amplitude, 0.0, wires=0)
    qml.Beamsplitter(theta, 0.0, wires=[0, 1])
    return qml.expval(qml.NumberOperator(1))


@qml.qnode(qubit_device)
def height(first, second):
    """The height of a qubit turned about x, then y; angles may come as a batch."""
    qml.RX(first, wires=0)
    qml.RY(second, wires=0)
    return qml.expval(qml.Z(0))


def optical(inputs, optics):
    """The optical machine: optics is (g, h, a), inputs and result have shape (n,)."""
    return pnp.array([photon_count(optics[0] * x + optics[1], optics[2]) for x in inputs])


def qubit(inputs, turns):
    """The qubit machine: turns is (s, t, u), inputs and result have shape (n,)."""
    return (1 - height(turns[0] * inputs + turns[1], turns[2])) / 2


def mismatch(turns, optics):
    """How differently both machines answer."""
    return pnp.mean((optical(INPUTS, optics) - qubit(INPUTS, turns)) ** 2)


def mismatch_on_paper(turns, optics):
    """The same from the formulas."""
    n = optics[2] ** 2 * pnp.sin(optics[0] * INPUTS + optics[1]) ** 2
    p = (1 - pnp.cos(turns[0] * INPUTS + turns[1]) * pnp.cos(turns[2])) / 2
    return pnp.mean((n - p) ** 2)


# %% [markdown]
# One call of `qml.grad` gives the derivatives with respect to both, and they must be those of the formulas.

# %%
turns_at_first = pnp.array([1.2, 0.5, 0.4], requires_grad=True)
optics_at_first = pnp.array([1.0, 0.0, 1.0], requires_grad=True)

by_machines = qml.grad(mismatch, argnums=[0, 1])(turns_at_first, optics_at_first)
by_formulas = qml.grad(mismatch_on_paper, argnums=[0, 1])(turns_at_first, optics_at_first)
for name, mine, paper in zip(("qubit", "optical"), by_machines, by_formulas, strict=True):
    print(f"{name:8} {np.array2string(mine, precision=6)}  on paper {np.array2string(paper, precision=6)}")
gradient_error = float(np.abs(np.array(by_machines) - np.array(by_formulas)).max())
print(f"largest difference: {gradient_error:.1e}")

# %% [markdown]
# **The qubit learns from the light.** The optical machine is fixed at $g=1$, $h=0$, $a=1$, and the qubit is trained to
# give the same answers. Since $\sin^2 x = \frac12(1-\cos 2x)$, it ought to find $s=2$, $t=0$ and $u=0$: the angle on
# the Bloch sphere is twice the angle of the beam splitter.
#
# **The light learns from the qubit.** Then the other way round. A qubit fixed at $s=3$, $t=0.6$, $u=0$ is the teacher,
# and the beam splitter and the pulse are trained, with the derivative running through the optical table. The answer on
# paper is half of both angles, $g=1.5$ and $h=0.3$, and $a=1$.

# %%
ROUNDS = 120


def fit(cost, start, desc):
    """Minimize a cost with Adam.

    Args:
        cost: a function of parameters (3,)
        start: parameters (3,)
        desc: what the progress is called

    Returns:
        parameters (ROUNDS + 1, 3) and costs (ROUNDS + 1,), from the start to the end
    """
    optimizer, params = qml.AdamOptimizer(stepsize=0.1), pnp.array(start, requires_grad=True)
    path, costs = [params], []
    for _ in tqdm(range(ROUNDS), desc=desc, unit="step", mininterval=1):
        params, value = optimizer.step_and_cost(cost, params)
        path.append(params)
        costs.append(float(value))
    return np.array(path), np.array([*costs, float(cost(params))])


OPTICAL_TEACHER = pnp.array([1.0, 0.0, 1.0], requires_grad=False)
QUBIT_TEACHER = pnp.array([3.0, 0.6, 0.0], requires_grad=False)

qubit_path, qubit_costs = fit(lambda turns: mismatch(turns, OPTICAL_TEACHER), [1.2, 0.5, 0.4], "qubit")
optical_path, optical_costs = fit(lambda optics: mismatch(QUBIT_TEACHER, optics), [1.2, 0.0, 0.7], "optical")
for names, path, costs in (("s, t, u", qubit_path, qubit_costs), ("g, h, a", optical_path, optical_costs)):
    print(f"{names} = {path[-1][0]:.3f}, {path[-1][1]:.3f}, {path[-1][2]:.3f}, with a mismatch of {costs[-1]:.1e}")


# %%
def draw_lesson(axes, teacher, pupil, path, title):
    """The teacher's answers over x, and the pupil's before, during and after training.

    Args:
        axes: to draw on
        teacher: a function of inputs (n,)
        pupil: a function of inputs (n,) and parameters (3,)
        path: the pupil's parameters (ROUNDS + 1, 3)
        title: of the panel
    """
    fine = np.linspace(0, np.pi, 60)
    axes.plot(fine, teacher(fine), color="#b9cfe8", linewidth=8, label="teacher", solid_capstyle="round")
    axes.plot(fine, pupil(fine, path[0]), color=RED, linewidth=1.5, linestyle="--", label="pupil at first")
    for step, color in ((5, "#f4c7cd"), (10, "#e994a0"), (20, RED)):
        axes.plot(fine, pupil(fine, path[step]), color=color, linewidth=1.2, label=f"after {step} steps")
    axes.plot(INPUTS, pupil(INPUTS, path[-1]), "o", color="black", markersize=4.5, label="pupil at last")
    axes.set(xlabel="input $x$", ylabel="answer", title=title, ylim=(-0.05, 1.5))
    axes.set_xticks((0, np.pi / 2, np.pi), ("0", r"$\pi/2$", r"$\pi$"))
    axes.legend(frameon=False, loc="upper center", ncols=3, fontsize=8, columnspacing=1, handlelength=1.5)


def plot_lessons():
    """Both lessons, and how the mismatch fell."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    draw_lesson(left, lambda x: optical(x, OPTICAL_TEACHER), qubit, qubit_path, "The qubit learns from the light")
    draw_lesson(middle, lambda x: qubit(x, QUBIT_TEACHER), optical, optical_path, "The light learns from the qubit")
    right.semilogy(qubit_costs, color=RED, linewidth=2, label="qubit")
    right.semilogy(optical_costs, color=BLUE, linewidth=2, label="light")
    right.set(xlabel="step", ylabel="mismatch", title="Mean squared difference")
    right.legend(frameon=False)
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


plot_lessons().savefig(OUTPUT / "plugins_hybrid.png", dpi=150)
RESULT["hybrid"] = {
    "gradient_error": gradient_error,
    "qubit": {"params": qubit_path[-1].tolist(), "mismatch": float(qubit_costs[-1])},
    "optical": {"params": optical_path[-1].tolist(), "mismatch": float(optical_costs[-1])},
}

# %% [markdown]
# The angle $u$ is the last to settle, since $\cos u$ is flat around 0. Neither machine knows what the other is made of.
# Each hands its derivative to its neighbour, and that is all the chain rule asks for; any of the devices of part 1
# could stand in for the state vector.
#
# ## 5. What will it cost?
#
# Where each circuit is paid for, it is good to know the price before. `explain` tells it without running anything. Here
# is the noisy device of part 1.

# %%
noisy, noisy_device = circuits["Aer with noise"], devices["Aer with noise"]
print(noisy.explain(TRIAL))

# %% [markdown]
# And it is better still to have a limit that holds. A `JobPolicy` gives a device a budget over its whole life. With
# four more circuits allowed, there is enough for a value, which takes one, and for the forward pass of a gradient. The
# four of its backward pass are too many, and they are refused before the first of them is sent.

# %%
used = qml.jobs_of(noisy_device).usage.circuits
qml.set_jobs(noisy_device, qml.JobPolicy(max_circuits=used + 4))
print("a value:   ", float(noisy(TRIAL)))
try:
    qml.grad(noisy)(TRIAL)
except qml.BudgetError as error:
    refusal = str(error)
    print("a gradient:", refusal)
print("afterwards:", qml.jobs_of(noisy_device).usage)

# %% [markdown]
# ## 6. Keeping the result

# %%
RESULT["budget"] = {"refusal": refusal, "circuits_after": qml.jobs_of(noisy_device).usage.circuits - used}
RESULT["seconds"] = round(time.perf_counter() - STARTED, 1)
(OUTPUT / "plugins.json").write_text(json.dumps(RESULT, indent=2) + "\n")
for path in sorted(OUTPUT.glob("plugins*")):
    print("saved", path)
print(f"all of it took {RESULT['seconds']} s")

# %% [markdown]
# ## Where to go from here
#
# * Make the detector worse, `ONE_AS_ZERO = 0.3`, and predict the floor before you run part 1.
# * Leave out `qml.set_shots` in part 1: the floor remains, and the scatter is gone.
# * Train part 2 with 100 shots in place of 1000. How few are enough?
# * In part 4, let the qubit run on the noisy device of part 1. Can any $s$, $t$ and $u$ make up for the noise?
# * Train both machines of part 4 at once, `argnums=[0, 1]`. Where do they meet?
