"""What the user chooses about mining: which candidates are looked at, which are removed, which are taken."""

import dataclasses
from collections.abc import Mapping

from e5ft.errors import ConfigurationError
from e5ft.retrieval import candidates, filters

CHOICES = ("top", "sample")


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which candidates are looked at and which are taken.

    Attributes:
        sources: any of dense, bm25, fused, random. They are taken from in turns, in this order; a passage that several
            found is the first one's. Where one has no more, the others go on.
        window: first and last rank looked at, from 1, both included; of the rank in the source's list as it was found.
        per_query: negatives a row, at most.
        choose: "top": the best ranked; "sample": drawn from the window, by seed and query alone.
        max_uses: rows that may have the same passage as a negative, served in their order; None: any number.
        seed: of samples and of the random source.
    """

    sources: tuple[str, ...] = ("dense",)
    window: tuple[int, int] = (1, 50)
    per_query: int = 7
    choose: str = "top"
    max_uses: int | None = None
    seed: int = 42

    def __post_init__(self):
        known = [source.name for source in candidates.SOURCES]
        if not set(self.sources) <= set(known) or not self.sources or len(set(self.sources)) != len(self.sources):
            raise ConfigurationError(f"sources={list(self.sources)}: must be any of {', '.join(known)}, each once")
        if len(self.window) != 2 or not all(map(_whole, self.window)) or self.window[0] > self.window[1]:
            raise ConfigurationError(f"window={list(self.window)}: must be first and last rank, from 1, as [1,50]")
        if not _whole(self.per_query):
            raise ConfigurationError(f"per_query={self.per_query!r}: must be a whole number of at least 1")
        if self.choose not in CHOICES:
            raise ConfigurationError(f"choose={self.choose!r}: must be one of {', '.join(CHOICES)}")
        if self.max_uses is not None and not _whole(self.max_uses):
            raise ConfigurationError(f"max_uses={self.max_uses!r}: must be a whole number of at least 1, or null for any number")


@dataclasses.dataclass(frozen=True)
class Limits:
    """The filters, in their order; None switches one off. That of the known answers is always on.

    A row with several documents is held against its lowest-scored one: a candidate that outscores any of the answers may
    be an answer itself, and a negative too few costs less than a false one.

    Attributes:
        near_duplicate: arguments of `NearDuplicates`; candidates are held against every known answer of the query.
        percent: of `percent_limit`, in (0, 1].
        margin: how far below the document's a candidate's score must lie, at least 0.
        max_score: the largest score of any negative (NV-Retriever's TopK-Abs).
        teacher_margin: how far below the document's a candidate's score by the cross-encoder must lie.
        teacher_max_score: the largest score by the cross-encoder.
    """

    near_duplicate: Mapping | None = None
    percent: float | None = None
    margin: float | None = None
    max_score: float | None = None
    teacher_margin: float | None = None
    teacher_max_score: float | None = None

    def __post_init__(self):
        for field in ("percent", "margin", "max_score", "teacher_margin", "teacher_max_score"):
            value = getattr(self, field)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value != value):
                raise ConfigurationError(f"filters.{field}={value!r}: must be a number, or null for off")
        if self.percent is not None and not 0 < self.percent <= 1:
            raise ConfigurationError(f"filters.percent={self.percent!r}: must be above 0 and at most 1, or null for off")
        if self.margin is not None and self.margin < 0:
            raise ConfigurationError(f"filters.margin={self.margin!r}: must be at least 0, or null for off")

    @property
    def need_scores(self) -> bool:
        """Whether a filter asks for the scores of a model or of BM25."""
        return any(getattr(self, rule.name, None) is not None for rule in filters.FILTERS if rule.needs_scores)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
