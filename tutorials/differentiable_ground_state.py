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
# # A differentiable ground state
#
# A particle in a well has a lowest energy, and that energy depends on the shape of the well. How does it change when
# the shape does? We answer twice: by differentiating through the diagonalisation of a matrix, and by differentiating a
# circuit that has learnt the ground state. Both run in one library's graph, PyTorch's, and agree.
#
# It takes about half a minute.

# %%
import json
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from tqdm import tqdm

import qhybrid as qml
from qhybrid.optimize import TorchNaturalGradient, fubini_study

HERE = Path(__file__).parent if "__file__" in globals() else Path()  # a notebook runs in its own folder
OUTPUT = Path(os.environ.get("QHYBRID_TUTORIAL_OUTPUT", HERE / "output"))
OUTPUT.mkdir(parents=True, exist_ok=True)
BLUE, RED, GREY = "#0b62a4", "#d1495b", "#7a7a7a"
torch.set_default_dtype(torch.double)

# %% [markdown]
# ## 1. A well on a grid
#
# A spring that gets stiffer when it is stretched has the energy
#
# $$ H(\kappa) = \tfrac12 p^2 + \tfrac12 x^2 + \kappa\, x^4 . $$
#
# On eight points the position is a diagonal matrix, and the kinetic energy compares each point with its neighbours.
# Eight amplitudes are the amplitudes of three qubits. (Eight points are few: the energies are those of the grid, not
# quite those of the spring. Both of our answers are for the same grid.)

# %%
QUBITS = 3
X = torch.linspace(-2.4, 2.4, 2**QUBITS)
SPACING = (X[1] - X[0]).item()
NEIGHBOURS = torch.diag(torch.ones(len(X) - 1), 1)
KINETIC = (torch.eye(len(X)) - (NEIGHBOURS + NEIGHBOURS.T) / 2) / SPACING**2
QUARTIC = torch.diag(X**4)


def hamiltonian(kappa):
    """H(kappa) on the grid, (8, 8)."""
    return KINETIC + torch.diag(X**2) / 2 + kappa * QUARTIC


# %% [markdown]
# ## 2. By diagonalisation
#
# `torch.linalg.eigh` knows the derivatives of eigenvalues, so the ground energy is a differentiable function of
# $\kappa$ like any other, as often as we like.


# %%
def ground_energy(kappa):
    """The lowest eigenvalue of H(kappa)."""
    return torch.linalg.eigh(hamiltonian(kappa)).eigenvalues[0]


slope_of = torch.func.grad(ground_energy)
curvature_of = torch.func.grad(slope_of)
KAPPA = torch.tensor(0.5)
print(
    f"E0 = {ground_energy(KAPPA):.6f}, dE0/dkappa = {slope_of(KAPPA):.6f}, second derivative {curvature_of(KAPPA):.6f}"
)

# %% [markdown]
# ## 3. By a circuit
#
# The circuit turns and entangles three qubits, and measures the energy. Its observable is a matrix that depends on
# $\kappa$, and that matrix takes part in the graph: `qml.Hermitian` of a tensor that requires a gradient has one.

# %%
LAYERS = 3


def prepare(weights):
    """Real amplitudes; weights has shape (LAYERS, QUBITS)."""
    for layer in weights:
        for wire in range(QUBITS):
            qml.RY(layer[wire], wires=wire)
        for wire in range(QUBITS - 1):
            qml.CNOT(wires=[wire, wire + 1])
        qml.CNOT(wires=[QUBITS - 1, 0])


@qml.qnode(qml.device("qhybrid.statevector", wires=QUBITS))
def expected(weights, observable):
    """The expected value of an observable (8, 8)."""
    prepare(weights)
    return qml.expval(qml.Hermitian(observable, wires=range(QUBITS)))


@qml.qnode(qml.device("qhybrid.statevector", wires=QUBITS))
def probabilities(weights):
    """Where the particle is found."""
    prepare(weights)
    return qml.probs(wires=range(QUBITS))


# %% [markdown]
# Training lowers the energy at fixed $\kappa$. On the way we look at the derivative with respect to $\kappa$ as well:
# with the weights held still, it is the expected value of $\partial H / \partial\kappa = x^4$.


# %%
def energy_and_slope(weights, kappa):
    """The energy and its derivative with respect to kappa, the weights held still."""
    kappa = kappa.detach().clone().requires_grad_()
    energy = expected(weights.detach(), hamiltonian(kappa))
    (slope,) = torch.autograd.grad(energy, kappa)
    return energy.item(), slope.item()


def train(kappa, weights, steps):
    """Lower the energy; returns energies and slopes along the way, each (steps + 1,)."""
    matrix = hamiltonian(kappa).detach()
    lr = 0.7 / torch.linalg.matrix_norm(matrix, 2).item()  # no overshooting in the steepest direction
    metric = lambda: fubini_study(expected)(weights, matrix)  # noqa: E731
    optimizer = TorchNaturalGradient([weights], metric, lr=lr, damping=1e-3, solver="dense")
    seen = [energy_and_slope(weights, kappa)]
    for _ in range(steps):
        optimizer.zero_grad()
        expected(weights, matrix).backward()
        optimizer.step()
        seen.append(energy_and_slope(weights, kappa))
    return np.array(seen).T


weights = torch.full((LAYERS, QUBITS), 0.4).requires_grad_()
energies, slopes = train(KAPPA, weights, 150)
energy_errors = np.abs(energies - ground_energy(KAPPA).item())
slope_errors = np.abs(slopes - slope_of(KAPPA).item())
print(f"circuit:         E0 = {energies[-1]:.6f}, dE0/dkappa = {slopes[-1]:.6f}")
print(f"diagonalisation: E0 = {ground_energy(KAPPA):.6f}, dE0/dkappa = {slope_of(KAPPA):.6f}")

# %% [markdown]
# Strictly, the trained weights depend on $\kappa$ too, and we have left that out. It makes no difference: at the
# minimum the energy does not change with the weights, so the chain rule's other term is zero,
#
# $$ \frac{\mathrm{d}E_0}{\mathrm{d}\kappa} = \frac{\partial E}{\partial\kappa}
#    + \underbrace{\frac{\partial E}{\partial w}}_{0} \frac{\mathrm{d}w}{\mathrm{d}\kappa}. $$
#
# Physicists know this as the theorem of Hellmann and Feynman. It is exact only at the minimum. *Near* it, an error
# $\varepsilon$ in the state is an error $\varepsilon^2$ in the energy, but $\varepsilon$ in the derivative. The left
# panel shows it: the slope falls half as fast as the energy on this scale. Right of it is what the circuit has learnt.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.8), layout="constrained")
left.semilogy(np.maximum(energy_errors, 1e-16), color=BLUE, linewidth=2.2, label="energy")
left.semilogy(np.maximum(slope_errors, 1e-16), color=RED, linewidth=2.2, label=r"$\mathrm{d}E_0/\mathrm{d}\kappa$")
left.set(xlabel="step", ylabel="error", title="On the way to the ground state")
left.legend(frameon=False)
vectors = torch.linalg.eigh(hamiltonian(KAPPA)).eigenvectors
right.bar(X.numpy(), vectors[:, 0].numpy() ** 2, width=0.8 * SPACING, color="#cfd9e6", label="diagonalisation")
right.plot(X.numpy(), probabilities(weights).detach().numpy(), "o", color=BLUE, label="circuit")
well = (X**2 / 2 + KAPPA * X**4).numpy()
right.plot(X.numpy(), 0.4 * well / well.max(), color=GREY, linewidth=1, linestyle="--", label="the well, not to scale")
right.set(xlabel="$x$", ylabel="probability", ylim=(0, 0.58), title=rf"Ground state at $\kappa$ = {KAPPA.item():g}")
right.legend(frameon=False, fontsize=9)
for axes in (left, right):
    axes.spines[["top", "right"]].set_visible(False)
figure.savefig(OUTPUT / "differentiable_ground_state_training.png", dpi=150)

# %% [markdown]
# ## 4. Following the ground state
#
# From one $\kappa$ to the next the trained weights are a good start, so a few steps suffice for each.

# %%
kappas = torch.linspace(0.0, 1.0, 9)
followed = [train(kappa, weights, 80)[:, -1] for kappa in tqdm(kappas, desc="kappa", unit="value")]
energies_followed, slopes_followed = np.array(followed).T
grid = torch.linspace(0.0, 1.0, 80)
exact_energies = torch.func.vmap(ground_energy)(grid)
exact_slopes = torch.func.vmap(slope_of)(grid)
energy_difference = float(np.abs(energies_followed - [ground_energy(k).item() for k in kappas]).max())
slope_difference = float(np.abs(slopes_followed - [slope_of(k).item() for k in kappas]).max())
print(f"largest differences: energy {energy_difference:.1e}, slope {slope_difference:.1e}")

figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.6), layout="constrained")
for axes, exact, found, label in (
    (left, exact_energies, energies_followed, "$E_0$"),
    (right, exact_slopes, slopes_followed, r"$\mathrm{d}E_0/\mathrm{d}\kappa$"),
):
    axes.plot(grid.numpy(), exact.numpy(), color=GREY, linewidth=2, label="diagonalisation")
    axes.plot(kappas.numpy(), found, "o", color=RED if axes is right else BLUE, label="circuit")
    axes.set(xlabel=r"$\kappa$", ylabel=label)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
left.set_title("Ground energy")
right.set_title("Its derivative")
figure.savefig(OUTPUT / "differentiable_ground_state_slopes.png", dpi=150)

# %% [markdown]
# ## 5. Once more
#
# In the second derivative the weights can no longer be left out, but how they follow $\kappa$ is known: they stay
# where $\partial E/\partial w = 0$. Differentiating *that* gives a linear equation for their motion, and so
#
# $$ \frac{\mathrm{d}^2 E_0}{\mathrm{d}\kappa^2} = -\, m^\mathsf{T} M^{+} m, \qquad
#    m = \frac{\partial}{\partial w}\langle x^4 \rangle, \qquad M = \frac{\partial^2 E}{\partial w^2}. $$
#
# (There is no term $\partial^2 E/\partial\kappa^2$, since $H$ is linear in $\kappa$; and $M^{+}$ is the pseudoinverse,
# since nine angles for seven free amplitudes leave two directions in which nothing changes.)

# %%
train(KAPPA, weights, 300)
trained, matrix = weights.detach(), hamiltonian(KAPPA)
mixed = torch.func.grad(lambda w: expected(w, QUARTIC))(trained).reshape(-1)
hessian = torch.func.jacrev(torch.func.jacrev(lambda w: expected(w, matrix)))(trained).reshape(len(mixed), -1)
curvature = -(mixed @ torch.linalg.pinv(hessian, rtol=1e-6) @ mixed).item()
print(f"second derivative: circuit {curvature:.6f}, diagonalisation {curvature_of(KAPPA).item():.6f}")

# %% [markdown]
# ## 6. Keeping the result

# %%
RESULT = {
    "energy": [energies[-1], ground_energy(KAPPA).item()],
    "slope": [slopes[-1], slope_of(KAPPA).item()],
    "curvature": [curvature, curvature_of(KAPPA).item()],
    "energy_difference": energy_difference,
    "slope_difference": slope_difference,
}
(OUTPUT / "differentiable_ground_state.json").write_text(json.dumps(RESULT, indent=2) + "\n")
for name in ("training.png", "slopes.png"):
    print("saved", OUTPUT / f"differentiable_ground_state_{name}")
print("saved", OUTPUT / "differentiable_ground_state.json")

# %% [markdown]
# ## Where to go from here
#
# * Stop the first training after 20 steps. How wrong is the energy, and how wrong the slope?
# * Which $\kappa$ has the ground energy 1? Newton's method needs the energy and the slope, which the circuit gives.
# * Take four qubits and a finer grid. How many layers does the circuit need now?
# * `natural_gradient.py`, next to this page, explains the optimizer that was used here.
