"""Passages that are a known answer written a little differently, by the character n-grams they share."""

import functools
from collections.abc import Sequence

import numpy as np

from e5ft.data.text import normalise

FEWEST_CONTAINED = 16  # n-grams of a passage below which being contained in another says nothing
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, its bits well mixed: 2^64 divided by the golden ratio


class NearDuplicates:
    """Finds passages that are a known answer written a little differently, by the character n-grams they share.

    Args:
        texts: all passages.
        ngram: characters of an n-gram, white space left out, 1 to 16.
        threshold: overlap from which two passages are near-duplicates, above 0 and at most 1.
        measure: "containment": shared n-grams by those of the smaller passage, so that an answer from which sentences
            were deleted, or one with sentences added, is found; "jaccard": by those of both together, for which such a
            pair is less alike. Where the smaller passage has fewer than 16 n-grams it is "jaccard" always: a name of a few
            letters is contained in many passages that it has nothing to do with.

    Raises:
        ConfigurationError: a value is out of range.
    """

    def __init__(self, texts: Sequence[str], *, ngram: int, threshold: float, measure: str):
        self.threshold, self.measure = threshold, measure
        # The most recent ones are kept: passages come back as candidates of many queries, and memory must stay bounded.
        self._grams = functools.lru_cache(maxsize=50_000)(lambda index: ngrams(texts[index], ngram))

    def overlaps(self, positive: int, candidates: np.ndarray) -> np.ndarray:
        """Overlap (n,) float64 of one positive with candidates (n,), all of them indices into the texts."""
        grams = self._grams(positive)
        sets = [self._grams(int(candidate)) for candidate in candidates]
        sizes = np.array([len(others) for others in sets])
        shared = _shared(grams, sets)
        smaller, together = np.minimum(sizes, len(grams)), sizes + len(grams) - shared
        total = np.where(smaller >= FEWEST_CONTAINED, smaller, together) if self.measure == "containment" else together
        return np.divide(shared, total, out=np.zeros(len(sets)), where=total > 0)

    def __call__(self, positives: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """Which candidates (n,) are near-duplicates of any of the positives (m,): (n,) bool."""
        near = np.zeros(len(candidates), dtype=bool)
        for positive in positives:
            near |= self.overlaps(int(positive), candidates) >= self.threshold
        return near


def ngrams(text: str, n: int) -> np.ndarray:
    """The distinct character n-grams of a text as numbers.

    Args:
        text: normalised and case-folded here, white space removed; a shorter text is one n-gram.
        n: characters each.

    Returns:
        (m,) uint64, ascending; two different n-grams have the same number with probability 2^-64.
    """
    points = np.frombuffer("".join(normalise(text).casefold().split()).encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    count = max(1, len(points) - n + 1)
    numbers = np.zeros(count if len(points) else 0, dtype=np.uint64)
    for offset in range(min(n, len(points))):
        numbers = (numbers + points[offset : offset + count]) * _MULTIPLIER  # modulo 2^64
        numbers ^= numbers >> np.uint64(29)  # without it the low bits of a product know the low bits only
    return np.unique(numbers)


def _shared(grams: np.ndarray, sets: list[np.ndarray]) -> np.ndarray:
    """How many numbers each set has in common with `grams`: one search for all sets, not one intersection each."""
    if not sets or not len(grams):
        return np.zeros(len(sets))
    everything = np.concatenate(sets)
    positions = np.searchsorted(grams, everything)
    hits = grams[np.minimum(positions, len(grams) - 1)] == everything
    ends = np.cumsum([len(others) for others in sets])
    counted = np.r_[0, np.cumsum(hits)]
    return (counted[ends] - counted[np.r_[0, ends[:-1]]]).astype(np.float64)
