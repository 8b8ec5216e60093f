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
# # Derivatives four ways
#
# Everything that learns by gradients needs derivatives, many of them, and right ones. A computer can get at them in
# four ways:
#
# 1. **finite differences**: call the function twice and divide,
# 2. **symbolic**: rewrite the formula by the rules of the textbook,
# 3. **forward mode**: carry a slope along with every number,
# 4. **reverse mode**: remember what was done, and walk back over it.
#
# This page builds each of them and lets them loose on the same two functions: one from a textbook, whose derivatives
# fit on a line, and one that is measured on a quantum circuit. They will agree, but not on how exact they are, nor on
# what they cost.
#
# It takes a quarter of a minute on two processor cores; the very first time on a machine about twenty seconds more.

# %%
import json
import os
import time
from pathlib import Path

import autograd
import matplotlib.pyplot as plt
import numpy as np
import sympy
import torch
from torch import nn

import qhybrid as qml
from qhybrid import numpy as pnp

HERE = Path(__file__).parent if "__file__" in globals() else Path()  # a notebook runs in its own folder
OUTPUT = Path(os.environ.get("QHYBRID_TUTORIAL_OUTPUT", HERE / "output"))
OUTPUT.mkdir(parents=True, exist_ok=True)
BLUE, RED, GREEN, GREY = "#1f5fa8", "#d1495b", "#3c8d5a", "0.6"
RESULT = {}

# %% [markdown]
# ## 1. Two functions
#
# The first one takes two numbers,
#
# $$ f(x_1, x_2) = \ln x_1 + \cos x_2 - x_1 x_2, \qquad
#    \frac{\partial f}{\partial x_1} = \frac1{x_1} - x_2, \qquad
#    \frac{\partial f}{\partial x_2} = -\sin x_2 - x_1 . $$
#
# It is written so that it does not care what kind of numbers it is given, as long as somebody tells it what a logarithm
# and a cosine of them are. That will pay off in a moment.


# %%
def f(x1, x2, lib=pnp):
    """The function of the page, for any kind of number that the library knows."""
    return lib.log(x1) + lib.cos(x2) - x1 * x2


POINT = np.array([2.0, 1.2])
ON_PAPER = np.array([1 / POINT[0] - POINT[1], -np.sin(POINT[1]) - POINT[0]])
print(f"f = {f(*POINT):.6f}, its gradient on paper: {ON_PAPER}")

# %% [markdown]
# The second one is a circuit of two qubits. Each layer turns both of them by an angle about the $y$ axis and then
# applies $CZ$, which flips the sign of $|11\rangle$; in the end we measure $Z\otimes Z$, which is $+1$ where both
# qubits agree and $-1$ where they do not.

# %%
device = qml.device("qhybrid.statevector", wires=2)


@qml.qnode(device)
def circuit(angles):
    """How much two qubits agree.

    Args:
        angles: shape (layers, 2)
    """
    for layer in range(angles.shape[0]):
        qml.RY(angles[layer, 0], wires=0)
        qml.RY(angles[layer, 1], wires=1)
        qml.CZ(wires=[0, 1])
    return qml.expval(qml.Z(0) @ qml.Z(1))


ANGLES = np.random.default_rng(0).uniform(0.3, 1.2, size=(3, 2))
print(qml.draw(circuit)(ANGLES))
print(f"<ZZ> = {circuit(ANGLES):.6f}")

# %% [markdown]
# The state of two qubits is a list of four amplitudes, and here they stay real: $R_Y(\theta)$ takes a pair of
# amplitudes $(a, b)$, which differ in the bit of its qubit, to $(ca - sb,\; sa + cb)$ with $c = \cos\frac\theta2$ and
# $s = \sin\frac\theta2$. So the whole circuit is a few lines of arithmetic. They are written once more for any kind of
# number, because two of the four ways must see the arithmetic.


# %%
def circuit_by_hand(angles, lib=np):
    """The same in plain arithmetic.

    Args:
        angles: numbers of any kind, shape (layers, 2)
        lib: what knows their sine and cosine
    """
    state = [1, 0, 0, 0]  # of 00, 01, 10, 11
    for first, second in angles:
        for angle, pairs in ((first, ((0, 2), (1, 3))), (second, ((0, 1), (2, 3)))):
            c, s = lib.cos(angle / 2), lib.sin(angle / 2)
            for i, j in pairs:
                state[i], state[j] = c * state[i] - s * state[j], s * state[i] + c * state[j]
        state[3] = -state[3]
    return state[0] ** 2 - state[1] ** 2 - state[2] ** 2 + state[3] ** 2


print(f"by hand: {circuit_by_hand(ANGLES):.6f}, difference {abs(circuit_by_hand(ANGLES) - circuit(ANGLES)):.1e}")

# %% [markdown]
# ## 2. Finite differences
#
# The derivative is the limit of a quotient, so take the quotient and leave out the limit:
#
# $$ f'(x) \approx \frac{f(x+h) - f(x)}{h} \quad\text{or, better,}\quad \frac{f(x+h) - f(x-h)}{2h} . $$
#
# Nothing has to be known about $f$. But which $h$? A large one bends: the rest of the Taylor series leaves an error
# that grows like $h$, or like $h^2$ for the symmetric quotient. A small one starves: two values that agree in almost
# all of their sixteen digits are subtracted, and what remains is rounding, of size $\varepsilon / h$ with
# $\varepsilon\approx 10^{-16}$.


# %%
def finite_difference(function, point, h, symmetric=True):
    """The gradient by quotients.

    Args:
        function: of an array
        point: where, of any shape
        h: the step
        symmetric: whether to step both ways

    Returns:
        an array of the shape of the point
    """
    gradient = np.zeros(point.size)
    for k, step in enumerate(h * np.eye(point.size).reshape(point.size, *point.shape)):
        ahead = function(point + step)
        behind = function(point - step) if symmetric else function(point)
        gradient[k] = (ahead - behind) / (2 * h if symmetric else h)
    return gradient.reshape(point.shape)


def f_of_array(x):
    """The first function, of one array (2,)."""
    return f(x[0], x[1])


STEP = 1e-5
by_difference = {"f": finite_difference(f_of_array, POINT, STEP), "circuit": finite_difference(circuit, ANGLES, STEP)}
print("f:      ", by_difference["f"])
print("circuit:", by_difference["circuit"].ravel())

# %% [markdown]
# We will plot the error over the step once there is something exact to compare it with.
#
# ## 3. Symbolic
#
# The rules of differentiation rewrite formulas, and a computer can follow them. SymPy does; given symbols in place of
# numbers, our functions return their own formulas.

# %%
x1, x2 = sympy.symbols("x1 x2", positive=True)
formula = f(x1, x2, sympy)
slopes = [sympy.diff(formula, x) for x in (x1, x2)]
print(f"f = {formula}")
for x, slope in zip((x1, x2), slopes, strict=True):
    print(f"df/d{x} = {slope}")


# %%
def symbolic_circuit(layers):
    """The formula of the circuit and of its gradient.

    Args:
        layers: how many

    Returns:
        the angles, the formula, and its derivatives, in the order of the angles
    """
    angles = sympy.symbols(f"a:{2 * layers}")
    value = circuit_by_hand([angles[k : k + 2] for k in range(0, len(angles), 2)], sympy)
    return angles, value, [sympy.diff(value, a) for a in angles]


names, expression, derivatives = symbolic_circuit(len(ANGLES))
numbers = dict(zip(names, ANGLES.ravel(), strict=True))
by_formula = {
    "f": np.array([float(s.subs({x1: POINT[0], x2: POINT[1]})) for s in slopes]),
    "circuit": np.array([float(d.evalf(17, subs=numbers)) for d in derivatives]).reshape(ANGLES.shape),
}
print("circuit:", by_formula["circuit"].ravel())

# %% [markdown]
# Exact, and for $f$ even readable. For the circuit, look at what it costs: each rotation writes every amplitude as a
# sum over *two* amplitudes before it, so the formula about doubles with each rotation, although the computation grows
# by a handful of multiplications only. A formula cannot say "as computed above". We count its operations.

# %%
MAX_LAYERS = 4
swell = {"angles": [], "value": [], "gradient": []}
for layers in range(1, MAX_LAYERS + 1):
    _, value, gradient = symbolic_circuit(layers)
    swell["angles"].append(2 * layers)
    swell["value"].append(int(sympy.count_ops(value)))
    swell["gradient"].append(int(sum(sympy.count_ops(g) for g in gradient)))
for angles, value, gradient in zip(*swell.values(), strict=True):
    print(f"{angles} angles: {value:6} operations in the formula, {gradient:7} in its gradient")

# %% [markdown]
# ## 4. Forward mode: dual numbers
#
# Carry along with each number $v$ the rate $\dot v$ at which it changes when we move through the input in some
# direction. Written as one thing, $v + \dot v\,\epsilon$ with $\epsilon^2 = 0$, that is a *dual number*, and its
# arithmetic follows from this one rule:
#
# $$ (v + \dot v\epsilon)(w + \dot w\epsilon) = vw + (\dot v w + v\dot w)\,\epsilon, \qquad
#    g(v + \dot v\epsilon) = g(v) + g'(v)\,\dot v\,\epsilon . $$
#
# The product rule and the chain rule are in it already. Thirty lines suffice.


# %%
class Dual:
    """A number and the rate at which it changes."""

    def __init__(self, value, rate=0.0):
        self.value, self.rate = value, rate

    @staticmethod
    def of(number):
        """Any number as a dual number; constants do not change."""
        return number if isinstance(number, Dual) else Dual(number)

    def __add__(self, other):
        other = Dual.of(other)
        return Dual(self.value + other.value, self.rate + other.rate)

    def __mul__(self, other):
        other = Dual.of(other)
        return Dual(self.value * other.value, self.rate * other.value + self.value * other.rate)

    def __pow__(self, n):
        return Dual(self.value**n, n * self.value ** (n - 1) * self.rate)

    def __truediv__(self, number):
        return Dual(self.value / number, self.rate / number)

    def __neg__(self):
        return Dual(-self.value, -self.rate)

    def __sub__(self, other):
        return self + -Dual.of(other)

    __radd__, __rmul__ = __add__, __mul__


class DualLibrary:
    """What NumPy is for numbers: each function with its derivative."""

    @staticmethod
    def log(x):
        return Dual(np.log(x.value), x.rate / x.value)

    @staticmethod
    def sin(x):
        return Dual(np.sin(x.value), np.cos(x.value) * x.rate)

    @staticmethod
    def cos(x):
        return Dual(np.cos(x.value), -np.sin(x.value) * x.rate)


# %% [markdown]
# Give $x_1$ the rate 1 and $x_2$ the rate 0, and the rate of the result is $\partial f/\partial x_1$; no step, no
# limit. It is the derivative along *one* direction, so a gradient needs one pass for each input.


# %%
def forward_gradient(function, point):
    """The gradient by one pass with dual numbers for each input.

    Args:
        function: of an array of dual numbers
        point: where, of any shape
    """
    gradient = []
    for direction in np.eye(point.size).reshape(point.size, *point.shape):
        duals = np.vectorize(Dual, otypes=[object])(point, direction)
        gradient.append(function(duals).rate)
    return np.array(gradient).reshape(point.shape)


by_dual = {
    "f": forward_gradient(lambda x: f(x[0], x[1], DualLibrary), POINT),
    "circuit": forward_gradient(lambda a: circuit_by_hand(a, DualLibrary), ANGLES),
}
print("f:      ", by_dual["f"])
print("circuit:", by_dual["circuit"].ravel())

# %% [markdown]
# The compiled circuit has forward mode, too: `autograd.make_jvp` pushes a direction through the state vector itself,
# beside the state. The directional derivative along all angles at once must be the sum of the gradient.

# %%
value, rate = autograd.make_jvp(circuit)(ANGLES)(np.ones_like(ANGLES))
print(f"along (1, ..., 1): {float(rate):.12f}, by dual numbers {by_dual['circuit'].sum():.12f}")

# %% [markdown]
# ## 5. Reverse mode: the way back
#
# Forward mode asks how *one input* moves everything after it. Reverse mode turns the question around: how does
# everything before it move *the one output*? Write the computation of $f$ as a list of steps, and to each number $v_k$
# its *adjoint* $\bar v_k = \partial f / \partial v_k$, which is printed as `v'` below. It is a sum over all those who
# use $v_k$, so the adjoints can be found from the last step to the first.

# %%
v1, v2 = POINT
v3, v4, v5 = np.log(v1), np.cos(v2), v1 * v2
v6 = v3 + v4 - v5

bar6 = 1.0
bar3, bar4, bar5 = bar6, bar6, -bar6
bar2 = bar5 * v1 - bar4 * np.sin(v2)
bar1 = bar5 * v2 + bar3 / v1

print("forward                           backward")
steps = (
    ("v1 = x1", v1, "v1' = v3' / v1 + v5' v2", bar1),
    ("v2 = x2", v2, "v2' = -v4' sin v2 + v5' v1", bar2),
    ("v3 = ln v1", v3, "v3' = v6'", bar3),
    ("v4 = cos v2", v4, "v4' = v6'", bar4),
    ("v5 = v1 v2", v5, "v5' = -v6'", bar5),
    ("v6 = v3 + v4 - v5", v6, "v6' = 1", bar6),
)
for step, number, back, adjoint in steps:
    print(f"{step:20}{number:+.6f}      {back:28}{adjoint:+.6f}")

# %% [markdown]
# Read the left side downwards and the right side upwards. One way down and one way up give the derivatives along *both*
# inputs, and it would be all of them if there were a million. The price is memory: the way back needs the numbers of
# the way forth.
#
# The list is a graph, and nobody has to write it by hand: a library records it while the function runs. `qml.graph`
# draws what was recorded.

# %%
picture = qml.graph(f, *POINT)
print("saved", picture.save(OUTPUT / "derivatives_four_ways_f.svg"))
picture

# %% [markdown]
# For the circuit the way back is even kinder. Gates can be undone, so the amplitudes need not be remembered: the state
# and its adjoint walk back through the circuit together, gate by gate, and each gate leaves its derivative on the way.
# That is the *adjoint method*, and it is what a QNode on the state vector uses.

# %%
by_reverse = {"f": autograd.grad(f_of_array)(POINT), "circuit": autograd.grad(circuit)(ANGLES)}
print("f:      ", by_reverse["f"], " by the table", np.array([bar1, bar2]))
print("circuit:", by_reverse["circuit"].ravel())
print(circuit.explain(pnp.array(ANGLES, requires_grad=True)).method)

# %% [markdown]
# ### One graph for everything
#
# Reverse mode works through whatever has been recorded, and the pieces need not come from the same library. Here a
# layer of PyTorch's makes angles, the circuit makes an expected value, and our $f$, written for NumPy, takes it in.
# `qml.bridge.to_torch` makes $f$ a function of tensors; *one* backward pass runs through all three.

# %%
f_of_tensors = qml.bridge.to_torch(f)
torch.manual_seed(0)
encoder = nn.Linear(3, 2).double()


def hybrid(x):
    """PyTorch, a circuit, autograd, in this order."""
    angles = torch.tanh(encoder(x))
    return f_of_tensors(2 + circuit(angles.reshape(1, 2)), angles[0])


sample = torch.tensor([0.2, -0.4, 0.9], dtype=torch.float64)
hybrid(sample).backward()
print("gradient of the weights of the layer:")
print(encoder.weight.grad.numpy())
before = finite_difference(lambda x: float(hybrid(torch.tensor(x)).detach()), sample.numpy(), STEP)
sample.requires_grad_()
(through_all,) = torch.autograd.grad(hybrid(sample), sample)
print(f"along the inputs: {through_all.numpy()}, by differences {before}")
RESULT["hybrid_error"] = float(np.abs(through_all.numpy() - before).max())

# %%
picture = qml.graph(hybrid, sample)
print("saved", picture.save(OUTPUT / "derivatives_four_ways_hybrid.svg"))
picture

# %% [markdown]
# ## 6. Do they agree?
#
# Everybody against the paper for $f$, and against the formula for the circuit.

# %%
ways = {"finite differences": by_difference, "symbolic": by_formula, "forward": by_dual, "reverse": by_reverse}
truth = {"f": ON_PAPER, "circuit": by_formula["circuit"]}
RESULT["error"] = {
    name: {where: float(np.abs(found[where] - truth[where]).max()) for where in truth} for name, found in ways.items()
}
print(f"{'':20}{'f':>10}{'circuit':>10}")
for name, errors in RESULT["error"].items():
    print(f"{name:20}{errors['f']:10.1e}{errors['circuit']:10.1e}")

# %% [markdown]
# Three of them are exact to the last digit or two. Finite differences lose a third of the digits, and half of them if
# they step to one side only, and that is with the best step, as the picture of the error over the step shows. The two
# branches of each curve meet at about $\sqrt\varepsilon\approx 10^{-8}$ for the one-sided quotient and at
# $\sqrt[3]\varepsilon\approx 10^{-5}$ for the symmetric one.

# %%
STEPS = np.logspace(-15, 0, 61)


def errors_over_steps(function, point, exact, symmetric):
    """The largest error of finite differences for each step."""
    return np.array([np.abs(finite_difference(function, point, h, symmetric) - exact).max() for h in STEPS])


def plot_errors():
    """Errors over the step, for both functions and both quotients."""
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained", sharey=True)
    cases = (("f", f_of_array, POINT, "$f(x_1, x_2)$"), ("circuit", circuit, ANGLES, "circuit"))
    for axes, (key, function, point, title) in zip(panels, cases, strict=True):
        for symmetric, color in ((False, BLUE), (True, RED)):
            errors = errors_over_steps(function, point, truth[key], symmetric)
            name = "symmetric" if symmetric else "one-sided"
            axes.loglog(STEPS, np.maximum(errors, 1e-17), color=color, linewidth=1.6, label=name)
            RESULT.setdefault("best_step", {})[f"{key}, {name}"] = float(STEPS[errors.argmin()])
        axes.loglog(STEPS, 1e-16 / STEPS, color=GREY, linestyle=":", label=r"$\varepsilon / h$")
        exact = max(RESULT["error"]["reverse"][key], 1e-16)
        axes.axhline(exact, color=GREEN, linewidth=1.6, label="forward, reverse")
        axes.set(xlabel="step $h$", title=title, ylim=(1e-17, 10))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("largest error")
    panels[1].legend(frameon=False, loc="upper center")
    return figure


plot_errors().savefig(OUTPUT / "derivatives_four_ways_error.png", dpi=150)

# %% [markdown]
# ## 7. What do they cost?
#
# One gradient of a circuit of eight qubits with more and more angles, in units of one evaluation of it. Finite
# differences evaluate twice for each angle, forward mode makes one pass for each angle, reverse mode makes one pass
# whatever their number. So we time one pass of each and multiply.

# %%
WIRES = 8
SIZES = (1, 2, 4, 8, 16, 32)


@qml.qnode(qml.device("qhybrid.statevector", wires=WIRES))
def wide(angles):
    """A circuit whose size is the number of its angles (layers, WIRES)."""
    qml.BasicEntanglerLayers(angles, wires=range(WIRES), rotation=qml.RY)
    return qml.expval(qml.Z(0))


def seconds(action, repeats=20):
    """The least time that a call takes, after a first one that does not count."""
    action()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return min(times)


cost = {"angles": [], "finite differences": [], "forward": [], "reverse": []}
for layers in SIZES:
    point = np.random.default_rng(layers).uniform(0, np.pi, size=(layers, WIRES))
    direction = np.eye(1, point.size).reshape(point.shape)
    one_pass = {
        "value": lambda p=point: wide(p),
        "finite differences": lambda p=point, v=direction: (wide(p + STEP * v) - wide(p - STEP * v)) / (2 * STEP),
        "forward": lambda p=point, v=direction: autograd.make_jvp(wide)(p)(v),
        "reverse": lambda p=point: autograd.grad(wide)(p),
    }
    times = {name: seconds(action) for name, action in one_pass.items()}
    cost["angles"].append(point.size)
    for name, passes in (("finite differences", point.size), ("forward", point.size), ("reverse", 1)):
        cost[name].append(passes * times[name] / times["value"])
for row in zip(*cost.values(), strict=True):
    print("{:4} angles: finite differences {:7.0f}, forward {:7.0f}, reverse {:5.1f} evaluations".format(*row))


# %%
def plot_cost():
    """Cost of a gradient over the number of angles, and the size of the formulas."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for name, color in (("finite differences", RED), ("forward", BLUE), ("reverse", GREEN)):
        left.loglog(cost["angles"], cost[name], "o-", color=color, markersize=4, label=name)
    left.set(xlabel="angles", ylabel="evaluations of the circuit", title="Time of one gradient")
    left.legend(frameon=False)
    for name, color in (("gradient", "#7a4fb5"), ("value", GREY)):
        right.semilogy(swell["angles"], swell[name], "o-", color=color, markersize=4, label=f"formula of the {name}")
    right.set(xlabel="angles", ylabel="operations", title="Size of the symbolic result")
    right.set_xticks(swell["angles"])
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


plot_cost().savefig(OUTPUT / "derivatives_four_ways_cost.png", dpi=150)

# %% [markdown]
# So each way has its place. Finite differences check the others, and serve where nothing is known about a function.
# Formulas are for people, and for functions as small as $f$. Forward mode is for few inputs and many outputs, for a
# single direction, and for second derivatives on top of a gradient. And where one number depends on many, as a loss
# depends on its parameters, it is reverse mode: its cost does not ask how many.
#
# On hardware there is no state to walk back with, and a fifth way takes over, the parameter-shift rule: two circuits
# for each angle, like finite differences, but a large step and an exact result. `plugins.py`, next to this page, uses
# it.
#
# ## 8. Keeping the result

# %%
RESULT |= {"swell": swell, "cost": cost}
(OUTPUT / "derivatives_four_ways.json").write_text(json.dumps(RESULT, indent=2) + "\n")
for path in sorted(OUTPUT.glob("derivatives_four_ways*")):
    print("saved", path)

# %% [markdown]
# ## Where to go from here
#
# * Teach `Dual` to divide by another dual number, and differentiate $x_1 / \ln x_1$.
# * Put dual numbers *into* dual numbers, `Dual(Dual(2.0, 1.0), Dual(1.0, 0.0))`. What is the rate of the rate?
# * Give $f$ single-precision numbers. Where does the best step go?
# * Draw `qml.graph(circuit_by_hand, ANGLES, pnp)`, and compare it with `qml.graph(circuit, ANGLES)`.
# * In the hybrid function, let another layer of PyTorch's come after $f$.
