"""How sure a mean over queries is: intervals and the sign-flip test, by scipy, seeded and in bounded memory."""

import numpy as np
from scipy import stats

LEVEL = 0.95
SAMPLES = 2000  # resamples of an interval
ENOUGH = 200  # queries from which on the bootstrap covers as often as it says; below, its intervals are too narrow
BATCH_VALUES = 4_000_000  # resampled values held at once: 32 MB, a few times


def mean_intervals(
    values: np.ndarray, *, least: float = 0.0, level: float = LEVEL, samples: int = SAMPLES, seed: int = 0
) -> np.ndarray:
    """Intervals of the means of several metrics: Student's t below 200 queries, from there on the percentile bootstrap.

    Args:
        values: (Q, M), float64, from `least` to 1: a row a query, at least one, and a column a metric.
        least: the lowest value there can be: 0 of a metric, -1 of a difference.
        level: coverage, between 0 and 1.
        samples: resamples, at least 1.
        seed: fixes the resamples; equal Q and seed give equal resamples.

    Returns:
        (M, 2), float64: low and high, between `least` and 1; equal where all queries have one value.

    Source: Efron and Tibshirani 1993, chapter 13; Hesterberg 2015 (arXiv:1411.5279) on few observations.
    """
    if len(values) < ENOUGH:
        freedom = max(len(values) - 1, 1)
        deviation = values.std(axis=0, ddof=min(1, len(values) - 1)) * (np.ptp(values, axis=0) > 0)  # of equal ones it rounds
        half, mean = stats.t.ppf((1 + level) / 2, freedom) * deviation / len(values) ** 0.5, values.mean(axis=0)
        return np.clip(np.stack([mean - half, mean + half], axis=1), least, 1.0)
    result = stats.bootstrap(
        (values,), np.mean, axis=0, method="percentile", vectorized=True,
        confidence_level=level, n_resamples=samples, batch=_batch(values), rng=seed,
    )  # fmt: skip
    return np.stack(result.confidence_interval, axis=1)


def difference_intervals(
    differences: np.ndarray, *, level: float = LEVEL, samples: int = SAMPLES, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Intervals of the means of paired differences, and the sign-flip test's p: an interval leaves 0 out only if the test does.

    Where few queries differ, resampling alone would leave 0 out too often (four of 1,000, all one way: p = .125): there the
    interval is widened to 0.

    Args:
        differences: (Q, M), float64, from -1 to 1: a row a query, at least one, and a column a metric.
        level: coverage; 1 - level is what p must not exceed.
        samples: resamples, at least 1.
        seed: fixes resamples and sign patterns.

    Returns:
        (M, 2) low and high; (M,) p. Both float64.
    """
    ends = mean_intervals(differences, least=-1.0, level=level, samples=samples, seed=seed)
    p_values = sign_flip_p(differences, seed=seed)
    open_ends = np.stack([np.minimum(ends[:, 0], 0), np.maximum(ends[:, 1], 0)], axis=1)
    return np.where((p_values > 1 - level)[:, None], open_ends, ends), p_values


def smallest_seen(queries: int, low: float, high: float) -> float:
    """The difference below which so many queries cannot tell two systems apart: below it, the interval includes 0.

    It is half the width of the paired interval, t s / sqrt(n), with the standard deviation s of the paired differences. Where
    these are all the same they tell nothing: then s is .5, the most that values between 0 and 1 can have.

    Args:
        queries: how many were compared, at least 1.
        low, high: interval of the mean paired difference, from `mean_intervals`.

    Returns:
        At most 1.

    Source: Hull 1993 (the paired t test on queries); Popoviciu 1935 (the bound on s).
    """
    half = (high - low) / 2 if high > low else stats.t.ppf((1 + LEVEL) / 2, max(queries - 1, 1)) * 0.5 / queries**0.5
    return min(1.0, float(half))


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
