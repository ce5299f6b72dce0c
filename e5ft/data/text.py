"""The text format: how a raw string becomes the tokens that a model reads. Training, evaluation and export all use this file."""

import dataclasses
import functools
import hashlib
import json
import unicodedata
from collections.abc import Sequence
from typing import ClassVar

from e5ft.settings import Settings, build, whole

RECORD = "e5ft"  # the key of config.json under which pooling and text format are stored


def normalise(text: str) -> str:
    """Bring a text to NFC, make every run of white space one space, and strip the ends.

    XLM-R's fast tokenizers do not recompose Hangul written in NFD (https://github.com/huggingface/tokenizers/issues/2116):
    without NFC the same Korean word is one syllable here and three jamo there.

    Args:
        text: any string.

    Returns:
        The normalised string, possibly empty.
    """
    return " ".join(unicodedata.normalize("NFC", text).split())


@functools.lru_cache(maxsize=8192)  # neighbouring rows share hard negatives: 20,000 rows take .33 s with it, .50 s without
def text_id(text: str) -> int:
    """Return a 64-bit identity of a normalised text: equal texts have equal ids, in every process and run.

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
    """What is done to a text before the tokenizer sees it, stored in the model's config.json under the key `e5ft`.

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
        """Return the fields as plain values, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "TextSpec":
        """Read what `to_dict` wrote.

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


def tokenize(tokenizer, texts: Sequence[str], max_length: int):
    """Tokenise texts that carry their prefixes already; what is longer is cut.

    Args:
        tokenizer: a fast tokenizer of transformers.
        texts: at least one.
        max_length: tokens of a text, special tokens included.

    Returns:
        A `BatchEncoding` of `input_ids`, a list for each text, and `encodings`, whose
        `overflowing` is not empty where a text was cut.
    """
    return tokenizer(texts, truncation=True, max_length=max_length, return_attention_mask=False, return_token_type_ids=False)


def tokenizer_state(tokenizer) -> dict:
    """Return what decides a text's tokens, without the truncation and padding that every call leaves in the tokenizer."""
    settings = {name: getattr(tokenizer, name, None) for name in ("truncation_side", "split_special_tokens")}
    return {**json.loads(tokenizer.backend_tokenizer.to_str()), "truncation": None, "padding": None, **settings}
