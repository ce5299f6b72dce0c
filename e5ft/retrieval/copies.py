"""Which of many texts are nearly one of a few: unlabelled copies of answers, and test questions asked in other words."""

from collections.abc import Iterable

import numpy as np

from e5ft.retrieval.near_duplicates import ngrams

NGRAM = 3  # characters
ALIKE = 0.6  # weighted share of n-grams from which two texts are near-copies
_CHARACTERS = 4_000  # of a text that are compared
_POSTINGS = 4_096  # originals looked up for a text, rarest n-grams first
_COMPARED = 64  # originals that a text is compared with: those that share most of these n-grams
_SLOTS = 1 << 22  # of the table that tells most n-grams of no original at once


class NearCopies:
    """Finds near-copies of some texts, the originals, among many others, by the character n-grams they share.

    Two texts are near-copies where their shared n-grams weigh at least `ALIKE` of those of both together. An n-gram of
    df of N texts weighs log(1 + N / df), so that a template that hundreds of answers share tells nothing. The search
    is exact but for three bounds: 4,000 characters of a text are read, 4,096 originals are looked up by its rarest
    n-grams, and it is compared with the 64 that share most of these. 100,000 texts of 200 characters against 1,000 originals take
    4 to 7 s of one core; memory holds the originals' n-grams, 20 bytes each, and none of the other texts'.

    Args:
        originals: the texts whose copies are looked for.

    Source: Broder 1997 (resemblance of sets of n-grams); Bayardo, Ma and Srikant 2007 (rarest features first).
    """

    def __init__(self, originals: Iterable[str]):
        grams = [ngrams_of(text) for text in originals]
        self._sizes = np.array([len(each) for each in grams], dtype=np.int64)
        owners = np.repeat(np.arange(len(grams)), self._sizes)
        self._vocabulary, numbers = np.unique(np.concatenate([*grams, np.empty(0, np.uint64)]), return_inverse=True)
        self._starts = np.r_[0, np.cumsum(self._sizes)]
        self._numbers = numbers.astype(np.int32)  # the n-grams of original i stand from start i to start i + 1
        by_number = np.argsort(numbers, kind="stable")
        self._owners = owners[by_number].astype(np.int32)  # the originals of n-gram g, from first g to first g + 1
        self._first = np.r_[0, np.cumsum(np.bincount(numbers, minlength=len(self._vocabulary)))]
        self._slots = np.zeros(_SLOTS, dtype=bool)
        self._slots[self._vocabulary % np.uint64(_SLOTS)] = True

    def pairs(self, texts: Iterable[str]) -> np.ndarray:
        """Which text is a near-copy of which original.

        Args:
            texts: can be read twice, in the same order.

        Returns:
            (n, 2) int64: text and original, ascending.
        """
        frequency = np.diff(self._first)
        near, total = set(), len(self._sizes)
        for number, text in enumerate(texts):  # no text is one that has too few n-grams of any original
            known, size = self._known(text)
            np.add.at(frequency, known, 1)
            total += 1
            if len(known) >= ALIKE * size > 0:
                near.add(number)
        if not near:
            return np.empty((0, 2), dtype=np.int64)
        weights = weight(total, frequency)
        weighed = np.add.reduceat(np.r_[weights[self._numbers], 0], self._starts[:-1]) * (self._sizes > 0)
        found = []
        for number, text in enumerate(texts):
            if number in near:
                known, size = self._known(text)
                # An n-gram of no original weighs most: how many texts have it was not counted.
                foreign = (size - len(known)) * np.log1p(total)
                found += [(number, original) for original in self._alike(known, foreign, weights, weighed)]
        return np.array(found, dtype=np.int64).reshape(-1, 2)

    def _known(self, text: str) -> tuple[np.ndarray, int]:
        """The numbers (m,) of a text's n-grams that an original has, and how many n-grams it has in all."""
        grams = ngrams_of(text)
        likely = grams[self._slots[grams % np.uint64(_SLOTS)]]
        if not len(likely):
            return np.empty(0, dtype=np.int64), len(grams)
        places = np.minimum(np.searchsorted(self._vocabulary, likely), len(self._vocabulary) - 1)
        return places[self._vocabulary[places] == likely], len(grams)

    def _alike(self, known: np.ndarray, foreign: float, weights: np.ndarray, weighed: np.ndarray) -> list[int]:
        """The originals (ascending) of which a text is a near-copy; its n-grams of no original weigh `foreign` together."""
        known = known[np.argsort(-weights[known], kind="stable")]
        reached = np.cumsum(weights[known]) + foreign
        own = reached[-1]
        if own - foreign < ALIKE * own:
            return []
        # A near-copy lacks at most 1 - ALIKE of the text's weight, so it has one of its heaviest n-grams that weigh more.
        heaviest = known[: np.searchsorted(reached, (1 - ALIKE) * own, side="right") + 1]
        counts = np.cumsum(self._first[heaviest + 1] - self._first[heaviest])
        heaviest = heaviest[: max(1, np.searchsorted(counts, _POSTINGS, side="right"))]
        looked_up = np.concatenate([self._owners[self._first[g] : self._first[g + 1]] for g in heaviest])
        originals, times = np.unique(looked_up, return_counts=True)
        originals = np.sort(originals[np.argsort(-times, kind="stable")[:_COMPARED]])
        parts = [self._numbers[self._starts[o] : self._starts[o + 1]] for o in originals]
        numbers, ends = np.concatenate(parts), np.cumsum([len(part) for part in parts])
        shared = np.where(np.isin(numbers, known), weights[numbers], 0)
        shared = np.add.reduceat(shared, np.r_[0, ends[:-1]])
        return originals[shared >= ALIKE * (own + weighed[originals] - shared)].tolist()


def ngrams_of(text: str) -> np.ndarray:
    """The n-grams by which a text is compared, as of `ngrams`."""
    return ngrams(text[:_CHARACTERS], NGRAM)


def weight(total: int, frequency: np.ndarray) -> np.ndarray:
    """The weights of n-grams that so many of all texts have."""
    return np.log1p(total / np.maximum(frequency, 1))
