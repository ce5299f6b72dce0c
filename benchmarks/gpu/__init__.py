"""`python -m benchmarks.gpu`: what no CPU can show, on this machine's GPU (see __main__.py)."""
