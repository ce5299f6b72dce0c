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


def near_heads(texts: Sequence[str]) -> np.ndarray:
    """For each text the first text of which it is a near-copy.

    Two texts are near-copies where their shared n-grams weigh at least `ALIKE` of those of both together; n-grams weigh by
    how few of the texts have them (`e5ft.retrieval.copies`). A text that is a near-copy of none before it is its own head,
    and only heads are compared with, so that no chain of small changes joins two unlike texts.

    Args:
        texts: each once; an empty one is a copy of nothing.

    Returns:
        (n,) int64, at most the text's own number.

    Source: Broder 1997 (MinHash); Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4 (banding).
    """
    heads = np.arange(len(texts))
    if len(texts) < 2:
        return heads
    grams = [ngrams_of(text) for text in texts]
    sizes = np.array([len(each) for each in grams])
    counts = np.zeros(1 << _SLOTS, dtype=np.int32)
    for each in grams:
        counts[each >> np.uint64(64 - _SLOTS)] += 1  # an n-gram stands once in `each`; two of one slot count once
    signatures = _signatures(grams, counts, max(2, int(_COMMON * len(texts))))
    pairs = _candidates(signatures, sizes > 0)
    if not len(pairs):
        return heads
    weights = [None] * len(texts)
    done: dict[tuple[int, int], bool] = {}

    def alike(one: int, other: int) -> bool:
        """Whether two texts are near-copies; each pair is compared once."""
        if (one, other) not in done:
            for each in (one, other):
                if weights[each] is None:
                    weights[each] = weight(len(texts), counts[grams[each] >> np.uint64(64 - _SLOTS)])
            places = np.minimum(np.searchsorted(grams[other], grams[one]), sizes[other] - 1)
            shared = weights[one][grams[other][places] == grams[one]].sum()
            together = weights[one].sum() + weights[other].sum() - shared
            done[one, other] = bool(shared >= ALIKE * together)
        return done[one, other]

    for later, earlier in pairs.tolist():  # ascending: a text's head is final before a later one asks for it
        head = int(heads[earlier])
        if heads[later] == later and alike(head, later):
            heads[later] = head
    return heads


def _signatures(grams: list[np.ndarray], counts: np.ndarray, common: int) -> np.ndarray:
    """(n, BANDS * ROWS) uint32: the smallest of each hash over a text's n-grams that are not common, or all if all are."""
    signatures = np.zeros((len(grams), len(_MULTIPLIERS)), dtype=np.uint32)
    for start in range(0, len(grams), _CHUNK):
        rare = []
        for each in grams[start : start + _CHUNK]:
            kept = each[counts[each >> np.uint64(64 - _SLOTS)] <= common]
            rare.append(kept if len(kept) else each if len(each) else np.zeros(1, np.uint64))
        flat = np.concatenate(rare)
        starts = np.cumsum([0, *map(len, rare[:-1])])
        for number, multiplier in enumerate(_MULTIPLIERS):
            hashed = ((flat * multiplier) >> _SHIFT).astype(np.uint32)
            signatures[start : start + len(rare), number] = np.minimum.reduceat(hashed, starts)
    return signatures


def _candidates(signatures: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """(m, 2) int64: later and earlier text of pairs that share a band, ascending, where enough of their signatures agrees."""
    found = []
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
