"""Trimming: a vocabulary cut to what texts and languages need, and the table of embeddings with it.

Of multilingual E5's 250,002 pieces (81 % of small's parameters) Korean texts use about a tenth. What the texts use stays, so they
are cut into the same pieces as before and have the same vectors:

- Unigram takes the segmentation with the best sum of scores; without pieces that are not in it, it is still the best. (The piece
  with the lowest score stays, too: an unknown character's score is reckoned from it.)
- BPE joins by the first merge that fits; the merges of all pieces that stay, and what they join, stay in their order.
- WordPiece and WordLevel take the longest or the only piece that fits.
"""

import dataclasses
import json
import re
import tempfile
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from tokenizers.decoders import ByteLevel
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from e5ft.data.text import normalise
from e5ft.errors import ConfigurationError, ExportError
from e5ft.exporting.settings import BY_WORDS, SCRIPTS
from e5ft.files import read_json, write_json
from e5ft.formatting import inline, portable
from e5ft.modeling.encoder import Encoder
from e5ft.modeling.tokenizer_files import read_scores

FILE = "trim.json"  # beside the weights: the record of what was cut
_BYTE = re.compile("<0x[0-9A-F]{2}>")  # stands for a byte of a character that has no piece
_ANY_SCRIPT = ("COMBINING", "MODIFIER")
_PROBES, _BATCH = 32, 1000  # texts
_WORDS = 100_000  # the most frequent ones of a language
_TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True)
class Trimmed:
    """What trimming did.

    Attributes:
        pieces, before: of the vocabulary, after and before.
        used: of them by the texts; 0 without texts.
        texts: how many there were, each counted as often as it stands there.
        difference: largest absolute difference between vectors of the first texts before and after; None without texts.
        uncovered: name of a set of other texts -> the share of their tokens whose piece is gone, and of the texts that hold one.
    """

    pieces: int
    before: int
    used: int
    texts: int
    difference: float | None
    uncovered: Mapping[str, tuple[float, float]]

    def lines(self) -> Iterator[str]:
        """What was done, for a person."""
        used = f", {self.used:,} of them used by {self.texts:,} texts" if self.texts else ""
        same = "" if self.difference is None else f"; their vectors differ by at most {self.difference:.1e}"
        yield f"trimmed: {self.pieces:,} of {self.before:,} pieces are kept{used}{same}"
        for name, (tokens, texts) in self.uncovered.items():
            yield f"  {name}: {tokens:.2%} of the tokens have lost their piece, in {texts:.1%} of the texts"

    def record(self, model: str, files: Sequence[str], languages: Sequence[str]) -> dict:
        """The content of trim.json.

        Args:
            model: the name of what was trimmed.
            files, languages: what it was trimmed to.
        """
        values = dataclasses.asdict(self)
        values["uncovered"] = {
            name: dict(zip(("tokens", "texts"), shares, strict=True)) for name, shares in self.uncovered.items()
        }
        return {"model": model, "files": list(map(portable, files)), "languages": list(languages), **values}


def card_section(record: Mapping) -> str:
    """What a reader of the model card must know, from the content of trim.json."""
    kept = [f"the texts of {name}" for name in dict.fromkeys(inline(Path(file).name) for file in record["files"])]
    kept += [
        f"the {_WORDS:,} most frequent words of {inline(language)}"
        if language in BY_WORDS
        else f"the script of {inline(language)}"
        for language in record["languages"]
    ]
    lost = [
        f"- {inline(name)}: {shares['tokens']:.2%} of the tokens have lost their piece\n"
        for name, shares in record["uncovered"].items()
    ]
    return (
        f"\n## Trimmed vocabulary\n\n{record['pieces']:,} of the {record['before']:,} pieces of {inline(record['model'])}: those of "
        f"{', '.join(kept)}, and all Hangul, digits, ASCII and punctuation as single characters. Texts that need no other piece have "
        "the vectors that the whole model gives; others are cut into smaller or unknown pieces.\n"
        + ("\n" if lost else "")
        + "".join(lost)
    )


def trim(
    encoder: Encoder, texts: Iterable[str], languages: Iterable[str], others: Mapping[str, Iterable[str]] | None = None
) -> Trimmed:
    """Cut an encoder's vocabulary, in place: tokenizer, table of embeddings and configuration.

    Special tokens stay, and the order of what stays; the padding token keeps its id, since RoBERTa counts positions from it.

    Args:
        encoder: with a table of embeddings of its own, not a compact one.
        texts: to cover; each is read as a query and as a passage.
        languages: those of `SCRIPTS` keep the pieces whose letters are all of their scripts, those of `BY_WORDS` the pieces of
            their frequent words; pieces without letters stay with any.
        others: name -> texts that are only counted.

    Raises:
        ConfigurationError: wordfreq, which knows the words, is not installed.
        ExportError: a text that should be covered has another vector afterwards.
    """
    languages = list(languages)
    words = _words([language for language in languages if language in BY_WORDS])
    tokenizer, before = encoder.tokenizer, len(encoder.tokenizer)
    stored = json.loads(tokenizer.backend_tokenizer.to_str())
    used, probes, count = np.zeros(before, dtype=bool), [], 0
    for batch in _batches(texts):
        probes += batch[: _PROBES - len(probes)]
        count += len(batch)
        used[np.concatenate([np.asarray(ids, dtype=np.int64) for ids in _token_ids(encoder, batch)])] = True
    kept = {*np.flatnonzero(used).tolist(), *_needed(encoder, stored)}
    if languages:
        scripts = {script for language in languages for script in SCRIPTS.get(language, ())}
        kept |= _in_scripts(tokenizer, stored, scripts)
        kept.update(*tokenizer(words, add_special_tokens=False)["input_ids"] if words else ())
    if stored["model"]["type"] == "BPE":
        kept = _with_parts(stored["model"], kept)
    order = sorted(kept)
    uncovered = {name: _uncovered(tokenizer, order, each) for name, each in (others or {}).items()}
    vectors = [encoder.encode(probes, role) for role in ("query", "passage")]
    encoder.tokenizer = _cut_tokenizer(tokenizer, order)
    _cut_table(encoder, order)
    difference = None
    if probes:
        again = [encoder.encode(probes, role) for role in ("query", "passage")]
        difference = float(np.abs(np.stack(again) - np.stack(vectors)).max())
        if not difference <= _TOLERANCE:
            raise ExportError(
                f"trim: covered texts have other vectors (difference {difference:.1e}, at most {_TOLERANCE:.0e}); "
                "this tokenizer cannot be trimmed"
            )
    return Trimmed(len(order), before, int(used.sum()), count, difference, uncovered)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    texts = iter(texts)
    return iter(lambda: list(islice(texts, _BATCH)), [])


def _token_ids(encoder: Encoder, texts: Sequence[str]) -> Iterator[list[int]]:
    """Whole texts in both roles: where a text is cut off, the rest of the word decides how its beginning is segmented."""
    for prepare in (encoder.spec.text.query, encoder.spec.text.passage):
        yield from encoder.tokenizer(
            list(map(prepare, texts)), truncation=False, verbose=False, return_attention_mask=False, return_token_type_ids=False
        )["input_ids"]


def _uncovered(tokenizer: PreTrainedTokenizerFast, kept: Sequence[int], texts: Iterable[str]) -> tuple[float, float]:
    """The share of tokens whose piece is gone, and of texts that hold one."""
    gone = np.ones(len(tokenizer), dtype=bool)
    gone[kept] = False
    tokens = lost = count = hit = 0
    for batch in _batches(texts):
        prepared = list(map(normalise, batch))
        for ids in tokenizer(prepared, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]:
            here = int(gone[ids].sum())
            tokens, lost, count, hit = tokens + len(ids), lost + here, count + 1, hit + (here > 0)
    return lost / max(tokens, 1), hit / max(count, 1)


def _needed(encoder: Encoder, stored: dict) -> set[int]:
    """What stays whatever the texts are: special tokens, both prefixes, what the tokenizer leans on, and single characters."""
    model, tokenizer = stored["model"], encoder.tokenizer
    pieces = tokenizer.get_vocab()
    needed = {token["id"] for token in stored["added_tokens"]} | set(tokenizer.all_special_ids)
    special = {value for value in _special_ids(encoder.config).values() if value < len(tokenizer)}
    needed |= special | set(range((getattr(encoder.config, "pad_token_id", None) or 0) + 1))
    if model["type"] == "Unigram":
        scores = [score for _, score in model["vocab"]]
        needed |= {int(np.argmin(scores))} | ({model["unk_id"]} - {None})
    elif model.get("unk_token") in pieces:
        needed.add(pieces[model["unk_token"]])
    needed.update(*_token_ids(encoder, [""]))
    bytes_only = _is_byte_level(stored)
    for index, text in _shown(tokenizer, stored):
        if len(text) <= 1 and _is_common(text):
            needed.add(index)
    return needed | {i for piece, i in pieces.items() if _BYTE.fullmatch(piece) or (bytes_only and len(piece) == 1)}


def _special_ids(config) -> dict[str, int]:
    """pad_token_id and the like of a configuration, where they are set."""
    values = {name: value for name, value in config.to_dict().items() if name.endswith("_token_id")}
    return {name: value for name, value in values.items() if isinstance(value, int) and value >= 0}


def _is_byte_level(stored: dict) -> bool:
    return '"type": "ByteLevel"' in json.dumps([stored["pre_tokenizer"], stored["normalizer"]])


def _shown(tokenizer: PreTrainedTokenizerFast, stored: dict) -> Iterator[tuple[int, str]]:
    """Every piece's id and its text without what marks its place in a word."""
    model, bytes_only = stored["model"], _is_byte_level(stored)
    prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    for piece, index in tokenizer.get_vocab().items():
        text = ByteLevel().decode([piece]) if bytes_only else piece.removeprefix(prefix).removesuffix(suffix)
        yield index, text.removeprefix("▁").strip()


def _is_common(character: str) -> bool:
    """Hangul, a digit, punctuation or ASCII; the empty text, too."""
    kind = unicodedata.category(character) if character else ""
    return character.isascii() or kind == "Nd" or kind[0] == "P" or _script(character) == "HANGUL"


@cache
def _script(character: str) -> str:
    return re.split("[ -]", unicodedata.name(character, "?"))[0]


def _words(languages: Sequence[str]) -> list[str]:
    """The frequent words of languages, as they stand within a sentence, at its beginning and in capitals.

    Raises:
        ConfigurationError: wordfreq is not installed.
    """
    if not languages:
        return []
    try:
        from wordfreq import top_n_list
    except ImportError:
        raise ConfigurationError(f"trim.languages={languages[0]}: needs the package wordfreq: pip install wordfreq") from None
    words = [word for language in languages for word in top_n_list("nb" if language == "no" else language, _WORDS)]
    return [form(word) for word in words for form in (str, str.title, str.upper)]


def _in_scripts(tokenizer: PreTrainedTokenizerFast, stored: dict, scripts: set[str]) -> set[int]:
    """The pieces all of whose letters and marks are of these scripts, and those that have none."""

    def fits(text: str) -> bool:
        # Bytes that are a part of a character are no letter, and stay.
        found = {_script(character) for character in text if unicodedata.category(character)[0] in "LM"}
        return found <= {*scripts, *_ANY_SCRIPT} or (len(text) == 1 and "HANJA" in scripts and found == {"CJK"})

    return {index for index, text in _shown(tokenizer, stored) if fits(text)}


def _with_parts(model: dict, kept: set[int]) -> set[int]:
    """The pieces and all that BPE joins on the way to them."""
    vocabulary, cut = model["vocab"], len(model["continuing_subword_prefix"] or "")
    pairs, kept = defaultdict(list), set(kept)
    for first, second in model["merges"]:
        pairs[vocabulary[first + second[cut:]]] += [vocabulary[first], vocabulary[second]]
    waiting = list(kept)
    while waiting:
        parts = set(pairs.get(waiting.pop(), ())) - kept
        kept |= parts
        waiting += parts
    return kept


def _cut_tokenizer(tokenizer: PreTrainedTokenizerFast, kept: Sequence[int]) -> PreTrainedTokenizerFast:
    """A tokenizer of the same class with the pieces of these ids (ascending), numbered from 0.

    Raises:
        ExportError: its class makes other pieces of the files.
    """
    place = {old: new for new, old in enumerate(kept)}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        file = Path(folder) / "tokenizer.json"
        stored = read_json(file)
        _cut_model(stored["model"], place)
        stored["added_tokens"] = [{**token, "id": place[token["id"]]} for token in stored["added_tokens"]]
        stored |= {"truncation": None, "padding": None}
        _renumber(stored["post_processor"], place)
        write_json(file, stored)
        made = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        read_scores(made, file)
    expected = {piece: place[index] for piece, index in tokenizer.get_vocab().items() if index in place}
    if made.get_vocab() != expected:
        raise ExportError(
            f"trim: {type(tokenizer).__name__} does not load a vocabulary of {len(kept):,} pieces as it was written"
        )
    return made


def _cut_model(model: dict, place: Mapping[int, int]) -> None:
    if model["type"] == "Unigram":
        model["vocab"] = [entry for index, entry in enumerate(model["vocab"]) if index in place]
        model["unk_id"] = place.get(model["unk_id"])
        return
    model["vocab"] = {piece: place[index] for piece, index in model["vocab"].items() if index in place}
    if model["type"] == "BPE":
        cut = len(model["continuing_subword_prefix"] or "")
        model["merges"] = [[first, second] for first, second in model["merges"] if first + second[cut:] in model["vocab"]]


def _renumber(processor: dict | None, place: Mapping[int, int]) -> None:
    """Give the special tokens that are put around a text their new ids."""
    for part in (processor or {}).get("processors", ()):
        _renumber(part, place)
    for token in (processor or {}).get("special_tokens", {}).values():
        token["ids"] = [place[index] for index in token["ids"]]
    for end in ("sep", "cls"):
        if end in (processor or {}):
            processor[end][1] = place[processor[end][1]]


@torch.no_grad()
def _cut_table(encoder: Encoder, kept: Sequence[int]) -> None:
    table, config = encoder.backbone.get_input_embeddings(), encoder.config
    table.weight[: len(kept)] = table.weight[torch.tensor(kept, device=table.weight.device)]
    encoder.backbone.resize_token_embeddings(len(kept), mean_resizing=False)
    place = {old: new for new, old in enumerate(kept)}
    for name, value in _special_ids(config).items():
        setattr(config, name, place.get(value, value))
