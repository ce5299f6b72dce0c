"""How sure a mean over queries is: bootstrap intervals and the sign-flip test, by scipy, seeded and in bounded memory."""

import numpy as np
from scipy import stats

LEVEL = 0.95
BATCH_VALUES = 4_000_000  # resampled values held at once: 32 MB, a few times


def bootstrap_intervals(values: np.ndarray, *, level: float = LEVEL, samples: int = 2000, seed: int = 0) -> np.ndarray:
    """Percentile bootstrap intervals of the means of several metrics, over the same resampled queries.

    Args:
        values: (Q, M), float64: a row a query, at least one, and a column a metric.
        level: coverage, between 0 and 1.
        samples: resamples, at least 1.
        seed: fixes the resamples; equal Q and seed give equal resamples.

    Returns:
        (M, 2), float64: low and high.

    Source: Efron and Tibshirani 1993, chapter 13.
    """
    if len(values) == 1:  # scipy asks for two observations; a mean of copies is the value all the same
        values = np.repeat(values, 2, axis=0)
    result = stats.bootstrap(
        (values,), np.mean, axis=0, method="percentile", vectorized=True,
        confidence_level=level, n_resamples=samples, batch=_batch(values), rng=seed,
    )  # fmt: skip
    return np.stack(result.confidence_interval, axis=1)


def sign_flip_p(differences: np.ndarray, *, permutations: int = 10_000, seed: int = 0) -> np.ndarray:
    """Two-sided p of the paired randomisation test, which flips the sign of each query's difference by a coin.

    Args:
        differences: (Q, M), float64: a row a query, at least one, and a column a metric.
        permutations: random sign patterns, at least 1; where there are no more than these, all patterns are taken once.
        seed: fixes the patterns.

    Returns:
        (M,): the share of the patterns whose mean is at least as far from 0 as the one observed, which counts as one more
        pattern where they are drawn at random. So p is never 0.

    Source: Smucker, Allan and Carterette 2007 (randomisation test); Phipson and Smyth 2010 (the observed pattern counts).
    """
    if len(differences) == 1:  # scipy asks for two observations; both signs are equally far from 0
        return np.ones(differences.shape[1])
    return stats.permutation_test(
        (differences,), lambda x, axis: np.abs(x.mean(axis)), axis=0, permutation_type="samples", vectorized=True,
        alternative="greater", n_resamples=permutations, batch=_batch(differences), rng=seed,
    ).pvalue  # fmt: skip


def _batch(values: np.ndarray) -> int:
    return max(1, BATCH_VALUES // values.size)
