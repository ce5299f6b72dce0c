"""Settings of evaluation and of mining."""

import dataclasses
from typing import Annotated, ClassVar, Literal

from e5ft.settings import FilePath, Rule, Settings, Word, number, whole

Tokenisation = Literal["bigrams", "kiwi", "words"]


@dataclasses.dataclass(frozen=True)
class EvaluationSettings(Settings):
    """How a model is measured.

    Attributes:
        cutoffs: the ranks K of Recall@K, hit@K, MRR@K, nDCG@K and MAP@K.
        bm25: how the lexical reference cuts texts; None: no reference.
        batch_tokens: tokens that are encoded at once.
        intervals: bootstrap samples behind the 95 % intervals.
        dimensions: numbers of leading dimensions that are measured beside whole vectors.
    """

    PATH: ClassVar[str] = "evaluation"
    cutoffs: tuple[whole(1), ...]
    bm25: Tokenisation | None
    batch_tokens: whole(1)
    intervals: whole(1, 1_000_000)
    dimensions: tuple[whole(1), ...] | None

    def check(self) -> None:
        """Refuse an evaluation that measures nothing."""
        if not self.cutoffs:
            self.refuse("cutoffs", "must hold at least one rank, as [1,10,100]")


@dataclasses.dataclass(frozen=True)
class NearDuplicateSettings(Settings):
    """When a candidate is nearly a known answer.

    Attributes:
        ngram: characters of an n-gram, white space left out.
        threshold: the share of n-grams in common from which a candidate is left out; None: the filter is off.
        measure: whose n-grams count: the smaller text's, or both texts'.
    """

    PATH: ClassVar[str] = "filters.near_duplicate"
    ngram: whole(1, 16)
    threshold: number(above=0, most=1) | None
    measure: Literal["containment", "jaccard"]


@dataclasses.dataclass(frozen=True)
class FilterSettings(Settings):
    """Which candidates are no negatives; None switches a filter off. That of the known answers is always on.

    A row with several documents is held against its lowest-scored one: a candidate that outscores any of the answers may
    be an answer itself, and a negative too few costs less than a false one.

    Attributes:
        near_duplicate: candidates are held against every known answer of the query.
        percent: the share of the positive's score that a candidate may have.
        margin: how far below the positive's score a candidate must lie.
        max_score: the largest score of any negative (NV-Retriever's TopK-Abs).
    """

    PATH: ClassVar[str] = "filters"
    near_duplicate: NearDuplicateSettings | None
    percent: number(above=0, most=1) | None
    margin: number(least=0) | None
    max_score: number() | None

    @property
    def need_scores(self) -> bool:
        """Whether a filter asks for the scores of a model or of BM25."""
        return any(value is not None for value in (self.percent, self.margin, self.max_score))


@dataclasses.dataclass(frozen=True)
class CrossEncoderSettings(Settings):
    """The last filter of mining, a model that reads query and passage together.

    Attributes:
        path: a local sequence-classification model with one or two labels; None: off.
        margin: how far below the lowest document's score a candidate's must lie; None: only scores are kept.
        max_score: the largest score of any negative; None: off.
        max_length: tokens of query and passage together.
        batch_size: pairs a forward pass.
    """

    PATH: ClassVar[str] = "cross_encoder"
    path: FilePath | None
    margin: number() | None
    max_score: number() | None
    max_length: whole(1, 100_000)
    batch_size: whole(1, 1_000_000)


_Window = Annotated[tuple[int, ...], Rule("two ranks, from 1, as [1,50]", lambda w: len(w) == 2 and 1 <= w[0] <= w[1])]


@dataclasses.dataclass(frozen=True)
class MiningSettings(Settings):
    """Which candidates are looked at, which of them are no negatives, and how many are taken.

    Attributes:
        sources: what finds candidates. They are taken from in turns, in this order; a passage that several found is the
            first one's. Where one has no more, the others go on.
        window: first and last rank looked at, both included, in the source's list before any filter.
        per_query: negatives a row, at most.
        choose: "top": the best ranked; "sample": drawn from the window, by seed and query alone.
        max_uses: rows that may have the same passage as a negative, served in their order; None: any number.
        bm25: how BM25 cuts texts.
        search: "exact", or "ivfpq": FAISS's compressed index on disk.
        filters, cross_encoder: what is left out.
    """

    sources: tuple[Word, ...]
    window: _Window
    per_query: whole(1, 100_000)
    choose: Literal["top", "sample"]
    max_uses: whole(1) | None
    bm25: Tokenisation
    search: Literal["exact", "ivfpq"]
    filters: FilterSettings
    cross_encoder: CrossEncoderSettings

    def check(self) -> None:
        """Refuse an empty list of sources, and one that stands twice."""
        if not self.sources or len(set(self.sources)) != len(self.sources):
            self.refuse("sources", "must be a list of at least one, each once, as [dense]")
