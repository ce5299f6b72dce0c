"""The text contract: how a raw string becomes what the model reads. Training, evaluation and export all use this file."""

import dataclasses
import functools
import hashlib
import unicodedata
from typing import ClassVar

from e5ft.settings import Settings, build, whole


def normalise(text: str) -> str:
    """NFC with runs of white space made one space and the ends stripped.

    XLM-R's fast tokenizers do not recompose Hangul written in NFD (https://github.com/huggingface/tokenizers/issues/2116):
    without NFC the same Korean word is one syllable here and three jamo there.

    Args:
        text: any string.

    Returns:
        The normalised string, possibly empty.
    """
    return " ".join(unicodedata.normalize("NFC", text).split())


@functools.lru_cache(maxsize=8192)  # a row's texts are asked for twice: when it is checked, and when it is stored with 999 others
def text_id(text: str) -> int:
    """A 64-bit identity of a normalised text: equal texts have equal ids, in every process and run.

    Args:
        text: a string; normalised here, so that callers cannot forget it. No prefix.

    Returns:
        A signed 64-bit integer (BLAKE2b). Two different texts among n collide with probability n^2 / 2^65:
        3e-6 for ten million.
    """
    digest = hashlib.blake2b(normalise(text).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


@dataclasses.dataclass(frozen=True)
class TextSpec(Settings):
    """What is done to a text before the tokenizer sees it, stored with the model in config.json under the key `e5ft`.

    Attributes:
        query_prefix: put before every query ("query: " for E5).
        passage_prefix: put before every passage ("passage: " for E5).
        query_max_length: tokens of a query, prefix and special tokens included; 4 to 8192.
        passage_max_length: the same for passages.
    """

    PATH: ClassVar[str] = "model.text"
    query_prefix: str = "query: "
    passage_prefix: str = "passage: "
    query_max_length: whole(4, 8192) = 512
    passage_max_length: whole(4, 8192) = 512

    def query(self, text: str) -> str:
        """Normalise a query and put its prefix before it, unless the text carries it already."""
        return _prefixed(normalise(text), self.query_prefix)

    def passage(self, text: str) -> str:
        """Normalise a passage and put its prefix before it, unless the text carries it already."""
        return _prefixed(normalise(text), self.passage_prefix)

    def to_dict(self) -> dict:
        """The fields as plain values, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "TextSpec":
        """The inverse of `to_dict`.

        Raises:
            ConfigurationError: a field is unknown or out of range.
        """
        return build(cls, values)


def _prefixed(text: str, prefix: str) -> str:
    # The text is normalised, so a prefix that it carries is compared in its normalised form (E5-instruct's has a line end).
    bare = normalise(prefix)
    carried = bare + " " if prefix[-1:].isspace() else bare
    if bare and (text == bare or text.startswith(carried)):
        text = text[len(carried) :]
    return prefix + text
