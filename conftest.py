"""Doctests are looked for in every module; those of optional packages need the package."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("jax") else ["qhybrid/interfaces/jax.py"]
