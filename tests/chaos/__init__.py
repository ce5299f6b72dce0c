"""Injected faults: what kills a run, what a user may hand over, what must not leak. `make chaos` runs everything and prints a table."""
