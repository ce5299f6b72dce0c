"""Settings of evaluation and of mining."""

import dataclasses
from typing import Annotated, ClassVar, Literal

from e5ft.settings import FilePath, Rule, Settings, Word, number, whole

Tokenisation = Literal["auto", "bigrams", "kiwi", "words"]


@dataclasses.dataclass(frozen=True)
class EvaluationSettings(Settings):
    """How a model is measured.

    Attributes:
        cutoffs: the ranks K of Recall@K, hit@K, MRR@K, nDCG@K and MAP@K.
        bm25: how the lexical reference cuts texts; None: no reference.
        hybrid_weight: the share of the dense scores in the hybrid of model and BM25; "auto": chosen on the dev set; None: no hybrid.
        batch_tokens: tokens that are encoded at once.
        intervals: bootstrap samples behind the 95 % intervals of scores, of 200 queries or more; differences take 2,000.
        dimensions: numbers of leading dimensions that are measured beside whole vectors.
        precisions: of vectors that are measured beside float32: a byte, or a bit about the centre, a dimension.
    """

    PATH: ClassVar[str] = "evaluation"
    cutoffs: tuple[whole(1), ...]
    bm25: Tokenisation | None
    hybrid_weight: Literal["auto"] | number(least=0, most=1) | None
    batch_tokens: whole(1)
    intervals: whole(1, 1_000_000)
    dimensions: tuple[whole(1), ...] | None
    precisions: tuple[Literal["int8", "binary"], ...] = ()

    def check(self) -> None:
        """Refuse an evaluation that measures nothing."""
        if not self.cutoffs:
            self.refuse("cutoffs", "must hold at least one rank, as [1,10,100]")
        if len(set(self.precisions)) != len(self.precisions):
            self.refuse("precisions", "must be each once, as [int8,binary]")
        if self.bm25 is None and self.hybrid_weight not in ("auto", None):
            self.refuse("hybrid_weight", "must be auto or null with evaluation.bm25=null: there is nothing to mix with")


@dataclasses.dataclass(frozen=True)
class NearDuplicateSettings(Settings):
    """When a candidate is nearly a known answer.

    Attributes:
        ngram: characters of an n-gram, white space left out.
        threshold: the share of n-grams in common from which a candidate is left out; None: the filter is off.
        measure: whose n-grams count: the smaller text's, or both texts'.
    """

    PATH: ClassVar[str] = "filters.near_duplicate"
    ngram: whole(1, 16) = 3
    threshold: number(above=0, most=1) | None = None
    measure: Literal["containment", "jaccard"] = "containment"


@dataclasses.dataclass(frozen=True)
class Limits(Settings):
    """The filters of candidates; None switches one off. That of the known answers is always on.

    A row with several documents is held against its lowest-scored one: a candidate that outscores any of the answers may
    be an answer itself, and a negative too few costs less than a false one.

    Attributes:
        near_duplicate: candidates are held against every known answer of the query.
        percent: the share of the positive's score that a candidate may have.
        margin: how far below the positive's score a candidate must lie.
        max_score: the largest score of any negative (NV-Retriever's TopK-Abs).
        teacher_margin: how far below the document's a candidate's score by the cross-encoder must lie.
        teacher_max_score: the largest score by the cross-encoder.
    """

    PATH: ClassVar[str] = "filters"
    near_duplicate: NearDuplicateSettings | None = None
    percent: number(above=0, most=1) | None = None
    margin: number(least=0) | None = None
    max_score: number() | None = None
    teacher_margin: number() | None = None
    teacher_max_score: number() | None = None

    def check(self) -> None:
        """Switch a filter without a threshold off."""
        if self.near_duplicate is not None and self.near_duplicate.threshold is None:
            object.__setattr__(self, "near_duplicate", None)


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


def _is_window(window: tuple) -> bool:
    return len(window) == 2 and 1 <= window[0] <= window[1]


@dataclasses.dataclass(frozen=True)
class Selection(Settings):
    """Which candidates are looked at and which are taken.

    Attributes:
        sources: what finds candidates (`candidates.SOURCES`). They are taken from in turns, in this order; a passage that
            several found is the first one's. Where one has no more, the others continue.
        window: first and last rank looked at, both included, in the source's list before any filter.
        per_query: mined negatives a row, at most.
        choose: "top": the best ranked; "sample": drawn from the window, by seed and query alone.
        max_uses: rows that may have the same passage as a negative, served in their order; None: any number.
        own_negatives: "replace": those that the rows had are left out; "keep": they stay, unfiltered, before the mined ones.
        seed: of samples and of the random source.
    """

    sources: tuple[Word, ...] = ("dense",)
    window: Annotated[tuple[int, ...], Rule("two ranks, from 1, as [1,50]", _is_window)] = (1, 50)
    per_query: whole(1, 100_000) = 7
    choose: Literal["top", "sample"] = "top"
    max_uses: whole(1) | None = None
    own_negatives: Literal["replace", "keep"] = "replace"
    seed: int = 42

    def check(self) -> None:
        """Refuse an empty list of sources, and one that is named twice."""
        if not self.sources or len(set(self.sources)) != len(self.sources):
            self.refuse("sources", "must be a list of at least one, each once, as [dense]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MiningSettings(Selection):
    """All of mining: what is taken, how it is found and what is left out.

    Attributes:
        bm25: how BM25 cuts texts.
        search: "exact", or "ivfpq": FAISS's compressed index on disk.
        filters, cross_encoder: what is left out.
    """

    bm25: Tokenisation
    search: Literal["exact", "ivfpq"]
    filters: Limits
    cross_encoder: CrossEncoderSettings

    @property
    def limits(self) -> Limits:
        """The filters with those of the cross-encoder, if there is one."""
        teacher = self.cross_encoder
        if teacher.path is None:
            return self.filters
        return dataclasses.replace(self.filters, teacher_margin=teacher.margin, teacher_max_score=teacher.max_score)
