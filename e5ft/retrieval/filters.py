"""What must not become a hard negative: passages that answer the query although this row does not say so.

Source: Qu et al. 2021 (RocketQA) for what unfiltered negatives cost; Moreira et al. 2024 (NV-Retriever) for the limits that
depend on the positive's score.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from e5ft.data.text import normalise
from e5ft.errors import ConfigurationError

MEASURES = ("containment", "jaccard")
FEWEST_CONTAINED = 16  # n-grams of a passage below which being contained in another says nothing
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, its bits well mixed: 2^64 divided by the golden ratio


def among_pairs(left: np.ndarray, right: np.ndarray, known_left: np.ndarray, known_right: np.ndarray) -> np.ndarray:
    """Which pairs are among the known ones.

    Args:
        left, right: (n,) ints, at least 0 and below 2^31: a query and a passage.
        known_left, known_right: (m,) the known pairs.

    Returns:
        (n,) bool.
    """
    return np.isin(_key(left, right), _key(known_left, known_right))


def percent_limit(positive: np.ndarray, percent: float) -> np.ndarray:
    """The largest score that a negative may have beside a positive's: positive - |positive| * (1 - percent).

    For scores above 0 this is NV-Retriever's TopK-PercPos, positive * percent. Below 0 the product would lie above the
    positive's own score and let everything pass; the limit here lies below it on both sides of 0.

    Source: Moreira et al. 2024 (NV-Retriever), section 4.1, TopK-PercPos.
    """
    return positive - np.abs(positive) * (1 - percent)


def margin_limit(positive: np.ndarray, margin: float) -> np.ndarray:
    """The same with a fixed distance: positive - margin.

    Source: Moreira et al. 2024 (NV-Retriever), section 4.1, TopK-MarginPos.
    """
    return positive - margin


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

    def __init__(self, texts: Sequence[str], *, ngram: int = 3, threshold: float = 0.8, measure: str = "containment"):
        if not isinstance(ngram, int) or isinstance(ngram, bool) or not 1 <= ngram <= 16:
            raise ConfigurationError(f"filters.near_duplicate.ngram={ngram!r}: a whole number from 1 to 16 is needed")
        if not isinstance(threshold, int | float) or not 0 < threshold <= 1:
            raise ConfigurationError(f"filters.near_duplicate.threshold={threshold!r}: above 0 and at most 1, or null for off")
        if measure not in MEASURES:
            raise ConfigurationError(f"filters.near_duplicate.measure={measure!r}: one of {', '.join(MEASURES)} is needed")
        self.threshold, self.measure = threshold, measure
        # The most recent ones are kept: passages come back as candidates of many queries, and memory must stay bounded.
        self._grams = functools.lru_cache(maxsize=50_000)(lambda index: ngrams(texts[index], ngram))

    def overlaps(self, positive: int, candidates: np.ndarray) -> np.ndarray:
        """Overlap (n,) float64 of one positive with candidates (n,), all of them indices into the texts."""
        own = self._grams(positive)
        sets = [self._grams(int(candidate)) for candidate in candidates]
        sizes = np.array([len(grams) for grams in sets])
        shared = _shared(own, sets)
        smaller, together = np.minimum(sizes, len(own)), sizes + len(own) - shared
        total = np.where(smaller >= FEWEST_CONTAINED, smaller, together) if self.measure == "containment" else together
        return np.divide(shared, total, out=np.zeros(len(sets)), where=total > 0)

    def __call__(self, positives: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """Which candidates (n,) are near-duplicates of any of the positives (m,): (n,) bool."""
        found = np.zeros(len(candidates), dtype=bool)
        for positive in positives:
            found |= self.overlaps(int(positive), candidates) >= self.threshold
        return found


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


def apply_to_groups(groups: np.ndarray, function: Callable[[int, slice], np.ndarray]) -> np.ndarray:
    """Call a function for every run of equal numbers.

    Args:
        groups: (n,) ascending ints.
        function: (number, slice of its places) -> (length of the slice,) bool.

    Returns:
        (n,) bool, the results end to end.
    """
    starts = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]]) if len(groups) else np.empty(0, np.int64)
    ends = np.r_[starts[1:], len(groups)] if len(groups) else starts
    parts = [function(int(groups[a]), slice(a, b)) for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=bool)


def _key(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return (left.astype(np.int64) << 32) | right.astype(np.int64)


def _shared(own: np.ndarray, sets: list[np.ndarray]) -> np.ndarray:
    """How many numbers each set has in common with `own`: one search for all sets, not one intersection each."""
    if not sets or not len(own):
        return np.zeros(len(sets))
    everything = np.concatenate(sets)
    places = np.searchsorted(own, everything)
    hits = own[np.minimum(places, len(own) - 1)] == everything
    ends = np.cumsum([len(grams) for grams in sets])
    counted = np.r_[0, np.cumsum(hits)]
    return (counted[ends] - counted[np.r_[0, ends[:-1]]]).astype(np.float64)
