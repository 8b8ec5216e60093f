"""Doctests are looked for in every module; those of optional packages need the package."""

import os
from importlib.util import find_spec

#: Idle threads of PyTorch sleep, here and in processes of the tests. By default they keep a core busy for a while, a
#: core less for what else runs: on two busy cores training takes three times as long. PyTorch reads it when loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

#: Each is imported in the environment of its peer alone.
PEERS = (
    "catalyst", "deepquantum", "mindquantum", "pennylane_jax", "qulacs", "tensorcircuit", "tensorcircuit_torch", "tfq",
    "torchquantum",
)  # fmt: skip

collect_ignore = [f"benchmarks/peers/{name}.py" for name in PEERS]
collect_ignore += [] if find_spec("jax") else ["qhybrid/interfaces/jax.py", "qhybrid/interfaces/jax_moves.py"]
