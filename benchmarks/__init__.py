"""Side-by-side benchmarks: each checks that the results agree before it measures anything.

``python -m benchmarks`` runs all of them, ``python -m benchmarks w1 overhead`` some. Each prints a table and writes its
numbers to ``benchmarks/results``.
"""
