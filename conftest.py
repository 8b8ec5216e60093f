"""Doctests are looked for in every module; those of optional packages need the package."""

from importlib.util import find_spec

#: Each is imported in the environment of its peer alone.
PEERS = ("catalyst", "deepquantum", "mindquantum", "pennylane_jax", "qulacs", "tensorcircuit", "tfq", "torchquantum")

collect_ignore = [f"benchmarks/peers/{name}.py" for name in PEERS]
collect_ignore += [] if find_spec("jax") else ["qhybrid/interfaces/jax.py"]
