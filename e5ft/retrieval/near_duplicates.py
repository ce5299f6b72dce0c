"""Passages that are a known answer written a little differently, by the character n-grams they share.

What many passages share tells nothing: answers made from one template ("X is handled by department Y, extension Z") overlap in
the template and differ in what they say. So the n-grams that two passages share must be about as rare as those in which they differ.
"""

import functools
from collections.abc import Sequence

import numpy as np

from e5ft.data.text import normalise

FEWEST_CONTAINED = 16  # n-grams of a passage below which being contained in another says nothing
RARENESS = 0.75  # mean weight of the shared n-grams, by that of all of a passage, below which they are a template's
COMMON = 4000  # passages; an n-gram that so many others have, or all others, weighs nothing
_SLOTS = 24  # bits: 2^24 counters are 64 MB for a corpus of any size; where n-grams share one, they count as more common
_UNIT = 1 << 20  # weights are whole numbers of 2^-20, so that sums do not depend on the order
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, its bits well mixed: 2^64 divided by the golden ratio


class NearDuplicates:
    """Finds passages that are a known answer written a little differently, by the character n-grams they share.

    A passage is one if the overlap reaches the threshold and the shared n-grams are no template's: of N passages, an n-gram
    that M passages beside the two (or beside the one) have weighs log((min(N, COMMON) + 1) / (M + 1))^2, and the mean weight of
    the shared ones must be at least RARENESS of the mean over one of the passages. Weights come from one pass over all texts.

    Source: the inverse document frequency of Sparck Jones 1972, squared as in the product of two tf-idf weights.

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
        self.threshold, self.measure, self._texts, self._n = threshold, measure, texts, ngram
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
            alike = np.flatnonzero(self.overlaps(int(positive), candidates) >= self.threshold)
            if len(alike):
                near[alike] |= self._share_what_is_rare(int(positive), candidates[alike])
        return near

    def _share_what_is_rare(self, positive: int, candidates: np.ndarray) -> np.ndarray:
        """Whether the n-grams that a positive has in common with each candidate (n,) are as rare as the others: (n,) bool."""
        grams, sets = self._grams(positive), [self._grams(int(candidate)) for candidate in candidates]
        sizes = np.array([len(others) for others in sets])
        everything = np.concatenate(sets)
        hits = _found(grams, everything)
        alone, shared = (self._weights(everything, passages) for passages in (1, 2))
        count, shared_sum, shared_alone = _sums(sizes, hits, hits * shared, hits * alone)
        [own_sum] = _sums(sizes, np.where(hits, shared, alone))
        positive_sum = self._weights(grams, 1).sum() + shared_sum - shared_alone
        mean = np.minimum(own_sum / sizes, positive_sum / len(grams))  # a sentence added makes one passage rarer, not both
        return shared_sum / count >= RARENESS * mean

    def _weights(self, grams: np.ndarray, passages: int) -> np.ndarray:
        """Weights (n,) int64 of n-grams by the passages that have them, without the one or two that are compared."""
        counts, weights = self._counted
        others = np.maximum(counts[grams >> np.uint64(64 - _SLOTS)].astype(np.int64) - passages, 0)
        return weights[np.minimum(others, len(weights) - 1)]

    @functools.cached_property
    def _counted(self) -> tuple[np.ndarray, np.ndarray]:
        """How many passages have each n-gram, by its first bits, (2^24,) uint32; and the weight by the number of others."""
        counts = np.zeros(1 << _SLOTS, dtype=np.uint32)
        for text in self._texts:
            counts[ngrams(text, self._n) >> np.uint64(64 - _SLOTS)] += 1
        passages = min(len(self._texts), COMMON)
        weights = np.log((passages + 1) / np.arange(1, passages + 2)) ** 2  # of 0 others to all: the last is 0
        return counts, np.round(weights * _UNIT).astype(np.int64)


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
    [count] = _sums([len(others) for others in sets], _found(grams, np.concatenate(sets)))
    return count.astype(np.float64)


def _found(grams: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Whether each number is among `grams`, which are ascending and at least one."""
    return grams[np.minimum(np.searchsorted(grams, numbers), len(grams) - 1)] == numbers


def _sums(sizes: Sequence[int], *values: np.ndarray) -> list[np.ndarray]:
    """Sums over consecutive parts of these sizes, each of them (parts,) int64."""
    ends = np.cumsum(np.r_[0, sizes])
    counted = [np.r_[0, np.cumsum(numbers, dtype=np.int64)] for numbers in values]
    return [sums[ends[1:]] - sums[ends[:-1]] for sums in counted]
