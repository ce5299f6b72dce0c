"""`python -m benchmarks.bench`: e5ft beside what a user would take instead, on this machine (see __main__.py)."""
