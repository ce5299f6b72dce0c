"""Near-copies among many texts: MinHash proposes pairs, the definition of `e5ft.retrieval.copies` decides."""

from collections.abc import Sequence

import numpy as np

from e5ft.retrieval.copies import ALIKE, ngrams_of, weight

_SLOTS = 24  # bits: 2^24 counters of texts that have an n-gram; n-grams that share one count as more common
_COMMON = 0.1  # share of the texts from which on an n-gram is left out of the signatures: templates meet in it
_BANDS, _ROWS = 24, 3  # of a signature: pairs whose n-grams are to 60 % the same meet with probability .997, to 40 % .79
_CHUNK = 4_000  # texts whose signatures are made at once
_BEFORE = 3  # members of a bucket, beside its first, that each is compared with
_LEAST_AGREEING = 0.25  # of the signature's values, below which a pair is not looked at further
_MULTIPLIERS = np.random.default_rng(0x5EED).integers(1, 2**63, _BANDS * _ROWS, dtype=np.uint64) | np.uint64(1)
_SHIFT = np.uint64(32)
_FIRST_BITS = np.uint64(64 - _SLOTS)


class Similarity:
    """How much two of some texts share: the weight of their common n-grams by that of both together.

    An n-gram weighs by how few of the texts have it (`e5ft.retrieval.copies`).

    Args:
        texts: each once.

    Attributes:
        grams: the n-grams of each text.
        counts: (2^24,) int32, how many texts have an n-gram, by its first bits.
    """

    def __init__(self, texts: Sequence[str]):
        self.grams = [ngrams_of(text) for text in texts]
        self.counts = np.zeros(1 << _SLOTS, dtype=np.int32)
        for each in self.grams:
            self.counts[each >> _FIRST_BITS] += 1  # an n-gram stands once in a text; two of one slot count once
        self._weights: dict[int, np.ndarray] = {}

    def __call__(self, one: int, other: int) -> float:
        """The share of two texts, by their numbers, from 0 to 1; 0 where one is empty."""
        own, others = self.grams[one], self.grams[other]
        if not len(own) or not len(others):
            return 0.0
        weights, total = self._weighed(one), self._weighed(one).sum() + self._weighed(other).sum()
        shared = weights[others[np.minimum(np.searchsorted(others, own), len(others) - 1)] == own].sum()
        return float(shared / (total - shared))

    def _weighed(self, number: int) -> np.ndarray:
        if number not in self._weights:
            self._weights[number] = weight(len(self.grams), self.counts[self.grams[number] >> _FIRST_BITS])
        return self._weights[number]


def near_heads(texts: Sequence[str]) -> np.ndarray:
    """For each text the first text of which it is a near-copy.

    Two texts are near-copies where their `Similarity` is at least `ALIKE`. A text that is a near-copy of none before it is its
    own head, and only heads are compared with, so that no chain of small changes joins two unlike texts.

    Args:
        texts: each once; an empty one is a copy of nothing.

    Returns:
        (n,) int64, at most the text's own number.

    Source: Broder 1997 (MinHash); Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4 (banding).
    """
    heads = np.arange(len(texts))
    if len(texts) < 2:
        return heads
    similarity, compared = Similarity(texts), set()
    for later, earlier in _candidates(similarity).tolist():  # ascending: a text's head is final before a later one asks for it
        head = int(heads[earlier])
        if heads[later] == later and (later, head) not in compared:
            compared.add((later, head))
            if similarity(head, later) >= ALIKE:
                heads[later] = head
    return heads


def _signatures(similarity: Similarity) -> np.ndarray:
    """(n, BANDS * ROWS) uint32: the smallest of each hash over a text's n-grams that are not common, or all if all are."""
    grams, counts = similarity.grams, similarity.counts
    common = max(2, int(_COMMON * len(grams)))
    signatures = np.zeros((len(grams), len(_MULTIPLIERS)), dtype=np.uint32)
    for start in range(0, len(grams), _CHUNK):
        rare = []
        for each in grams[start : start + _CHUNK]:
            kept = each[counts[each >> _FIRST_BITS] <= common]
            rare.append(kept if len(kept) else each if len(each) else np.zeros(1, np.uint64))
        flat = np.concatenate(rare)
        starts = np.cumsum([0, *map(len, rare[:-1])])
        for number, multiplier in enumerate(_MULTIPLIERS):
            hashed = ((flat * multiplier) >> _SHIFT).astype(np.uint32)
            signatures[start : start + len(rare), number] = np.minimum.reduceat(hashed, starts)
    return signatures


def _candidates(similarity: Similarity) -> np.ndarray:
    """(m, 2) int64: later and earlier text of pairs that share a band, ascending, where enough of their signatures agrees."""
    signatures, found = _signatures(similarity), []
    usable = np.array([len(each) > 0 for each in similarity.grams])
    for band in range(_BANDS):
        part = np.ascontiguousarray(signatures[:, band * _ROWS : (band + 1) * _ROWS])
        keys = part.view([("", part.dtype)] * _ROWS).ravel()
        order = np.argsort(keys, kind="stable")
        order = order[usable[order]]
        borders = np.r_[True, keys[order][1:] != keys[order][:-1]]
        first = np.maximum.accumulate(np.where(borders, np.arange(len(order)), 0))
        for before in (None, *range(1, _BEFORE + 1)):
            at = np.arange(len(order))
            partner = first if before is None else at - before
            chosen = (partner >= first) & (partner < at)
            found.append(np.stack([order[chosen], order[partner[chosen]]], axis=1))
    pairs = np.unique(np.concatenate(found), axis=0)
    kept = [
        (signatures[part[:, 0]] == signatures[part[:, 1]]).mean(axis=1) >= _LEAST_AGREEING
        for part in np.array_split(pairs, max(1, len(pairs) // 100_000))
    ]
    return pairs[np.concatenate(kept)]
