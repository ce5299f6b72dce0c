"""Lengths of texts by source: in characters, and in tokens where a model's tokenizer is at hand, with what its length cuts off."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from e5ft.auditing.rows import QUERY, AuditedRows, Finding
from e5ft.data.text import tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from e5ft.data.text import TextSpec

_AT = (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)
_BATCH = 1000


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Lengths of a source's texts of one role, each use counted.

    Attributes:
        texts: how many.
        characters: the shortest, the quartiles, the 95th percentile and the longest.
        tokens: the same, prefix included; None without a tokenizer.
        total_tokens: of all together.
        cut: share of the texts that are longer than the model reads; None without a tokenizer.
    """

    texts: int
    characters: tuple[int, ...]
    tokens: tuple[int, ...] | None = None
    total_tokens: int | None = None
    cut: float | None = None


def lengths_of(
    rows: AuditedRows, source_names: Sequence[str], reads: "tuple[PreTrainedTokenizerFast, TextSpec] | None"
) -> tuple[dict[str, dict[str, Lengths]], list[Finding]]:
    """Measure all texts.

    Args:
        rows: what is audited.
        source_names: in the order in which the rows count them.
        reads: a model's tokenizer and text format.

    Returns:
        source -> role -> lengths, and the texts that are too long.
    """
    characters, sources = np.array([len(text) for text in rows.texts]), rows.sources()
    found: dict[str, dict[str, Lengths]] = {name: {} for name in source_names}
    too_long: list[Finding] = []
    for role, uses in rows.uses.items():
        tokens = None if reads is None else _tokens(rows, role, *reads)
        limit = 0 if reads is None else _limit(role, reads[1])
        for number, name in enumerate(source_names):
            chosen = uses.numbers[sources[uses.rows] == number]
            if not len(chosen):
                continue
            of = Lengths(len(chosen), _quantiles(characters[chosen]))
            if tokens is not None:
                counts = tokens[chosen]
                of = dataclasses.replace(
                    of, tokens=_quantiles(counts), total_tokens=int(counts.sum()), cut=round(float((counts > limit).mean()), 6)
                )
            found[name][role] = of
        if tokens is not None:
            for row, field, number in rows.using(tokens > limit, role):
                evidence = f"{tokens[number]:,} > {limit:,}"
                too_long.append(Finding("too_long", row, field, number, evidence, float(tokens[number])))
    return found, too_long


def _limit(role: str, text: "TextSpec") -> int:
    return text.query_max_length if role == QUERY else text.passage_max_length


def _tokens(rows: AuditedRows, role: str, tokenizer: "PreTrainedTokenizerFast", text: "TextSpec") -> np.ndarray:
    """(T,) int64: tokens of the texts of a role, prefix and special tokens included; 0 of other texts."""
    tokens, chosen = np.zeros(len(rows.texts), dtype=np.int64), np.unique(rows.uses[role].numbers)
    prepare = text.query if role == QUERY else text.passage
    for start in range(0, len(chosen), _BATCH):
        part = chosen[start : start + _BATCH]
        output = tokenize(tokenizer, [prepare(rows.texts[number]) for number in part], _limit(role, text))
        tokens[part] = [len(each.ids) + sum(len(more.ids) for more in each.overflowing) for each in output.encodings]
    return tokens


def _quantiles(values: np.ndarray) -> tuple[int, ...]:
    return tuple(np.quantile(values, _AT).round().astype(int).tolist())
