"""Noise in training queries: variants that are tokenised once, and which of them a query shows in an epoch."""

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import datasets
import numpy as np

from e5ft.data.noise import noised
from e5ft.data.settings import Augment
from e5ft.data.store import RowStore, TokenStore, tokenize_rows
from e5ft.data.text import TextSpec
from e5ft.files import digest_of

VERSION = 1  # part of every cache key: raise it when a kind of noise makes something else of a text


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What takes the place of queries' tokens in an epoch: a function of (seed, epoch, the query's identity) alone.

    Not of the row: rows of one query show the same in an epoch, so that a step is the same however it is cut.

    Attributes:
        share: of the distinct queries that are noised in an epoch, above 0 and at most 1.
        variants: of each kind of noise the tokens of all rows' queries, without passages.
        seed: of the choice.
        words: what is done, with an example, for a person.
    """

    share: float
    variants: tuple[TokenStore, ...]
    seed: int
    words: str

    def query(self, row: int, query_id: int, epoch: int, tokens: Sequence[int]) -> Sequence[int]:
        """The tokens that a row's query shows in an epoch; `tokens` are those without noise."""
        generator = np.random.default_rng([self.seed, epoch, query_id & 0xFFFF_FFFF_FFFF_FFFF])
        if generator.random() >= self.share:
            return tokens
        return self.variants[generator.integers(len(self.variants))].tokens[row]["query"]

    def longest_query(self, row: int, tokens: Sequence[int]) -> Sequence[int]:
        """The longest of what a row's query may show; `tokens` are those without noise."""
        return max([tokens, *(variant.tokens[row]["query"] for variant in self.variants)], key=len)

    @cached_property
    def longest(self) -> np.ndarray:
        """(rows,) int32: the most tokens of any variant of each row's query."""
        return np.max([variant.lengths for variant in self.variants], axis=0)

    def vocabulary(self) -> np.ndarray:
        """The token ids that occur in the variants, ascending: int64."""
        return np.unique(np.concatenate([variant.vocabulary() for variant in self.variants]))


def make_augmentation(
    store: RowStore, tokenizer, text: TextSpec | Sequence[TextSpec], cache: Path, augment: Augment, seed: int
) -> Augmentation | None:
    """Tokenise the noised queries of a store; None where `augment` asks for none.

    Args:
        store, tokenizer, text, cache: as for `tokenize_rows`.
        augment: the share and the kinds.
        seed: of the choice; what a kind makes of a query does not depend on it.
    """
    if not augment.share:
        return None
    stores = (
        dataclasses.replace(store, rows=_NoisedQueries(store.rows, kind), digest=digest_of("noised", VERSION, kind, store.digest))
        for kind in augment.kinds
    )
    variants = tuple(tokenize_rows(each, tokenizer, text, cache) for each in stores)
    first = store.rows[0]["query"]
    shown = "; ".join(f"{kind}: {noised(first, kind)[:40]!r}" for kind in augment.kinds)
    return Augmentation(augment.share, variants, seed, f"in {augment.share:.0%} of the queries of an epoch, {shown}")


class _NoisedQueries:
    """Rows with noised queries and no passages, in slices."""

    def __init__(self, rows: datasets.Dataset, kind: str):
        self.rows, self.kind = rows.select_columns([name for name in ("query", "source") if name in rows.column_names]), kind

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice) -> dict[str, list]:
        batch = self.rows[part]
        passages = {name: [[] for _ in batch["query"]] for name in ("positives", "negatives")}
        return {**batch, **passages, "query": [noised(query, self.kind) for query in batch["query"]]}
