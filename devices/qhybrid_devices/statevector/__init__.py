"""State-vector simulation on the CPU: a planner, numba kernels on lanes and sweeps, and native derivatives."""
