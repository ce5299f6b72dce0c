"""Settings of rows that are made from documents."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal

from e5ft.data.settings import Columns, DataSettings
from e5ft.errors import ConfigurationError
from e5ft.modeling.settings import ModelSource
from e5ft.settings import Settings, Word, number, whole

_UNREAD = ("dev_file", "eval_dir", "keep_dir")  # of the data group: sets that are read elsewhere
Kind = Literal["title", "heading", "first_sentence", "faq", "keywords"]


@dataclasses.dataclass(frozen=True)
class GeneratorSettings(Settings):
    """A language model that writes queries, behind an OpenAI-compatible endpoint.

    Attributes:
        url: of the endpoint, ending in /v1 or /v1/chat/completions; None: no language model.
        model: the name that the endpoint knows it by.
        kinds: keys of `prompts`; the chunks take them in turns.
        per_chunk: queries asked for a chunk, each of another kind.
        max_calls: at most so many calls, of a seeded choice of chunks; None: as many as there are chunks and kinds.
        parallel: calls under way at once; as many answers can a kill lose.
        temperature, max_tokens: of the request.
        body: further fields of the request.
        retries: of a call that ends with 429, 5xx or no answer.
        timeout: seconds within which a request must be answered whole.
        price: of a million tokens in and out, for the line before the first call; None: it is not known.
        system: the system prompt.
        prompts: kind -> prompt; `{title}` and `{passage}` are filled in.
    """

    PATH: ClassVar[str] = "generator"
    url: Word | None
    model: Word | None
    kinds: tuple[Word, ...]
    per_chunk: whole(1, 100)
    max_calls: whole(1) | None
    parallel: whole(1, 256)
    temperature: number(least=0, most=2) | None
    max_tokens: whole(1) | None
    body: dict
    retries: whole(0, 100)
    timeout: number(above=0, most=86_400)
    price: tuple[number(least=0), ...] | None
    system: str
    prompts: dict

    def check(self) -> None:
        """Refuse kinds without a prompt, an endpoint without a model, and a price that is not two numbers."""
        unknown = [kind for kind in self.kinds if not isinstance(self.prompts.get(kind), str)]
        if unknown or not self.kinds:
            self.refuse("kinds", f"must be keys of generator.prompts: {', '.join(self.prompts)}")
        if any("{passage}" not in self.prompts[kind] for kind in self.kinds):
            self.refuse("prompts", "each must hold {passage}")
        if self.per_chunk > len(self.kinds):
            self.refuse("per_chunk", f"must be at most {len(self.kinds)}, the number of generator.kinds")
        if self.url is not None and not self.url.startswith(("http://", "https://")):
            self.refuse("url", "must be a web address that ends in /v1: generator.url=http://localhost:8000/v1")
        if self.url is not None and self.model is None:
            self.refuse("model", "must be the name that the endpoint knows the model by: generator.model=NAME")
        if self.price is not None and len(self.price) != 2:
            self.refuse("price", "must be two numbers, of a million tokens in and out: generator.price=[0.15,0.6]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MakingSettings(Settings):
    """How rows are made of documents.

    Attributes:
        kinds: of queries that are in the documents.
        min_chars, max_chars: characters of a chunk.
        round_trip: the ranks among which a query must find its chunk; None: it need not.
        test_share: of the queries; `data.dev_share` likewise.
        data: `corpus_file`, the documents, and how they are read.
        model: of the round trip; None: BM25 alone.
        generator: a language model.
    """

    kinds: tuple[Kind, ...]
    min_chars: whole(1)
    max_chars: whole(50)
    round_trip: whole(1) | None
    test_share: number(above=0, most=0.5)
    data: DataSettings
    model: ModelSource | None
    generator: GeneratorSettings

    def check(self) -> None:
        """Refuse rows of nothing, what is not read, and chunks that cannot be."""
        if self.data.corpus_file is None:
            self.data.refuse("corpus_file", "must be a folder of documents, or a file: data.corpus_file=DIR")
        unread = ("train_file", "columns", "max_train_rows", "config", "revision", *_UNREAD)
        _refuse_unread(self.data, unread, "rows are made of data.corpus_file alone")
        if len(set(self.kinds)) != len(self.kinds) or not (self.kinds or self.generator.url):
            self.refuse("kinds", "must be kinds of query, each once; none only with generator.url")
        if self.model is not None and self.model.init == "random":
            self.model.refuse("init", "must be pretrained: what random weights find is noise; leave the model out for BM25 alone")
        if 2 * self.min_chars > self.max_chars:
            self.refuse("min_chars", f"must be at most {self.max_chars // 2}, half of max_chars")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DividingSettings(Settings):
    """How rows are divided.

    Attributes:
        test_share: of the rows; `data.dev_share` likewise.
        data: `train_file`, the rows, and how they are read.
    """

    test_share: number(above=0, most=0.5)
    data: DataSettings

    def check(self) -> None:
        """Refuse a division of nothing, and of a mix, and what is not read."""
        if self.data.mix is not None:
            raise ConfigurationError("data=mix: must be one file; split each source by itself: data.train_file=FILE")
        if self.data.train_file is None:
            self.data.refuse("train_file", "must be your rows: data.train_file=FILE")
        _refuse_unread(self.data, _UNREAD, "data.train_file is divided, and no other set is read")


def _refuse_unread(data: DataSettings, names: Sequence[str], why: str) -> None:
    """Refuse settings of the data group that a command does not read, where they say anything."""
    for name in names:
        if getattr(data, name) not in (None, (), Columns()):
            data.refuse(name, f"must not be set: {why}")
