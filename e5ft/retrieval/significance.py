"""How sure a mean over queries is: bootstrap intervals and the sign-flip test. Memory is bounded, everything is seeded."""

from collections.abc import Iterator, Sequence

import numpy as np

from e5ft.errors import ConfigurationError, DataError

BLOCK_VALUES = 4_000_000  # random numbers held at once


def bootstrap_interval(
    values: Sequence[float], *, level: float = 0.95, samples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The percentile bootstrap interval of a mean over queries; see `bootstrap_intervals`.

    Args:
        values: (Q,) a value a query.
        level: coverage, between 0 and 1.
        samples: resamples, at least 1.
        seed: fixes the resamples.

    Returns:
        (low, high).

    Raises:
        DataError: there is no query.
        ConfigurationError: level or samples out of range.
    """
    column = np.asarray(values, dtype=np.float64).reshape(-1, 1)
    low, high = bootstrap_intervals(column, level=level, samples=samples, seed=seed)[0]
    return float(low), float(high)


def bootstrap_intervals(values: np.ndarray, *, level: float = 0.95, samples: int = 2000, seed: int = 0) -> np.ndarray:
    """Percentile bootstrap intervals of the means of several metrics, over the same resampled queries.

    Args:
        values: (Q, M), float64: a row a query, a column a metric.
        level: coverage, between 0 and 1.
        samples: resamples, at least 1.
        seed: fixes the resamples; equal Q and seed give equal resamples.

    Returns:
        (M, 2), float64: low and high.

    Raises:
        DataError: there is no query.
        ConfigurationError: level or samples out of range.

    Source: Efron and Tibshirani 1993, chapter 13.
    """
    _check(len(values), "samples", samples)
    if not 0 < level < 1:
        raise ConfigurationError(f"level={level!r}: a share between 0 and 1 is needed, for instance 0.95")
    queries = len(values)
    means = []
    for generator, rows in _blocks(samples, queries, seed):
        chosen = generator.integers(0, queries, size=(rows, queries))
        flat = (chosen + queries * np.arange(rows)[:, None]).ravel()
        counts = np.bincount(flat, minlength=rows * queries).reshape(rows, queries)  # how often each query was drawn
        means.append(counts @ values / queries)  # (rows, Q) x (Q, M) -> (rows, M)
    tail = (1 - level) / 2
    return np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0).T  # (2, M) -> (M, 2)


def sign_flip_p(differences: Sequence[float], *, permutations: int = 10_000, seed: int = 0) -> float:
    """Two-sided p of the paired randomisation test: were the sign of each query's difference a coin's throw.

    Args:
        differences: (Q,) a difference a query.
        permutations: random sign patterns, at least 1.
        seed: fixes the patterns.

    Returns:
        (1 + patterns whose mean is at least as far from 0) / (1 + permutations), so never 0.

    Raises:
        DataError: there is no query.
        ConfigurationError: permutations is below 1.

    Source: Smucker, Allan and Carterette 2007 (randomisation test); Phipson and Smyth 2010 (the +1).
    """
    differences = np.asarray(differences, dtype=np.float64)
    _check(len(differences), "permutations", permutations)
    observed = abs(differences.sum())
    # Sums of equal terms in another order differ in their last bits, and must still count as equal.
    observed -= 1e-12 * np.abs(differences).sum()
    reached = 0
    for generator, rows in _blocks(permutations, len(differences), seed):
        signs = generator.integers(0, 2, size=(rows, len(differences)), dtype=np.int8) * 2.0 - 1.0
        reached += int((np.abs(signs @ differences) >= observed).sum())
    return (1 + reached) / (1 + permutations)


def _blocks(total: int, width: int, seed: int) -> Iterator[tuple[np.random.Generator, int]]:
    """The one generator, and rows that together make `total`, `width` numbers each."""
    generator = np.random.default_rng(seed)
    rows = max(1, BLOCK_VALUES // width)
    for start in range(0, total, rows):
        yield generator, min(rows, total - start)


def _check(queries: int, field: str, value: int) -> None:
    if not queries:
        raise DataError("there is no query to compute an interval or a test from")
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigurationError(f"{field}={value!r}: a whole number of at least 1 is needed")
