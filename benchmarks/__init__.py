"""Side-by-side benchmarks: each checks that the results agree before it measures anything; see the README beside."""
