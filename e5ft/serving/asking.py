"""The probes of golden.json as the texts that a target is sent, and its answers as vectors."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from e5ft.data.text import normalise
from e5ft.exporting.golden import LONG, ROLES, Golden
from e5ft.json_http import AnswerError

PrefixBy = Literal["auto", "client", "server"]
Encode = Callable[[Sequence[str], str | None], object]
_TOGETHER = 8  # texts in a request: servers take 32, some fewer


class Way(NamedTuple):
    """A way to embed texts.

    Attributes:
        name: in words.
        has_prompts: whether it adds the prefix itself where it is told the role.
        encode: texts and role (None: they are final) -> a vector each; None where it cannot be tried.
        why_not: what it lacks then.
    """

    name: str
    has_prompts: bool
    encode: Encode | None
    why_not: str = ""


def answers_to(golden: Golden, way: Way, prefix: PrefixBy = "auto") -> list[np.ndarray | AnswerError]:
    """Send all probes, as a client must: those of a kind that the model's folder leaves to it, normalised.

    Args:
        golden: the reference.
        way: to the target; one that can be tried.
        prefix: who adds it; "auto": the target where it can.

    Returns:
        A vector (D,) for each probe, of any numbers; the error where an over-long text was refused, or broke the server.

    Raises:
        AnswerError: no answer, or not so many vectors of that dimension.
    """
    by_server = way.has_prompts if prefix == "auto" else prefix == "server"
    answers: dict[int, np.ndarray | AnswerError] = {}
    for is_long in (False, True):
        for role in ROLES:
            numbers = [n for n, p in enumerate(golden.probes) if p.role == role and (p.kind == LONG) == is_long]
            for start in range(0, len(numbers), _TOGETHER):
                part = numbers[start : start + _TOGETHER]
                texts = [("" if by_server else golden.prefixes[role]) + _as_sent(golden, n) for n in part]
                try:
                    vectors = way.encode(texts, role if by_server else None)
                except AnswerError as error:
                    if not is_long or not (error.is_too_long or (error.status or 0) >= 500):
                        raise
                    answers |= dict.fromkeys(part, error)
                    continue
                answers |= zip(part, _matrix(vectors, len(part), golden.dimension), strict=True)
    return [answers[number] for number in range(len(golden.probes))]


def _as_sent(golden: Golden, number: int) -> str:
    probe = golden.probes[number]
    return normalise(probe.text) if probe.kind in golden.by_client else probe.text


def _matrix(vectors: object, count: int, dimension: int) -> np.ndarray:
    """The answer as (count, dimension) float64."""
    try:
        matrix = np.asarray(vectors, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise AnswerError(f"the answer holds no vectors of numbers ({str(error)[:80]})") from error
    if matrix.ndim != 2:
        raise AnswerError(f"the answer has shape {matrix.shape}: must be a vector for each of {count} texts")
    if len(matrix) != count:
        raise AnswerError(f"the answer has {len(matrix)} vectors for {count} texts")
    if matrix.shape[1] != dimension:
        raise AnswerError(f"the answer has vectors of {matrix.shape[1]} dimensions: must be {dimension}, as the exported model's")
    return matrix
