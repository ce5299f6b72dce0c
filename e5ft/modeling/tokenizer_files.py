"""A tokenizer's files: what is done to a text before the tokenizer sees it (`data.text.normalise`) is in tokenizer.json too.

Whoever serves the folder gets NFC and single spaces without our Python. When we load it the steps are taken off again, for our Python
has done them: an encoder in memory has the tokenizer of its base, and digests and caches are those of its base.
"""

import json
import os
from pathlib import Path

from tokenizers import AddedToken, models, normalizers
from transformers import PreTrainedTokenizerFast

from e5ft.data.text import TextSpec
from e5ft.files import read_json, write_json

# In the terms of tokenizer.json. The white space is that of str.split(): `\s` there lacks U+001C to U+001F.
_WHITE_SPACE = "[\t-\r\x1c- \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+"
_NFC = {"type": "NFC"}
PREPARATION = [
    _NFC,
    {"type": "Replace", "pattern": {"Regex": _WHITE_SPACE}, "content": " "},
    {"type": "Strip", "strip_left": True, "strip_right": True},
]
_NFC_ALONE = [{"type": "Sequence", "normalizers": [_NFC]}]  # in a sequence of its own: many a base's normaliser begins with NFC


def preparation(tokenizer: PreTrainedTokenizerFast, text: TextSpec) -> list[dict]:
    """The normaliser's steps that do what `data.text.normalise` does, as many as leave a prepared text's tokens as they are.

    That is `PREPARATION`; NFC alone, or nothing, where a prefix or an added token would be changed (ModernBERT has tokens of several
    spaces). One thing is another where others serve the folder: a tokenizer works piece by piece around special tokens that a text
    spells out, so the space before `</s>` is lost to the few that have a token for it.
    """
    backend = tokenizer.backend_tokenizer
    added = [token.content for token in backend.get_added_tokens_decoder().values()]
    starts = [prefix + "a" for prefix in (text.query_prefix, text.passage_prefix)]
    own = backend.normalizer or _sequence([])
    for steps in (PREPARATION, _NFC_ALONE):
        ours = _sequence(steps).normalize_str
        if all(ours(token) == token for token in added) and all(
            own.normalize_str(ours(start)) == own.normalize_str(start) for start in starts
        ):
            return steps
    return []


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, text: TextSpec, folder: str | os.PathLike) -> None:
    """Write tokenizer.json, with our preparation in it, and what transformers 4 and 5 and fastembed want beside it.

    The class is named PreTrainedTokenizerFast, which takes tokenizer.json as it is in both: transformers 5 makes a normaliser of its own
    under XLMRobertaTokenizer, and transformers 4 does not know TokenizersBackend.

    Args:
        tokenizer: left as it was, but for truncation and padding, which every call sets.
        text: prefixes and lengths; the longer length is written as the model's.
        folder: an existing one.
    """
    folder, backend, ours = Path(folder), tokenizer.backend_tokenizer, preparation(tokenizer, text)
    own = backend.normalizer
    backend.no_truncation()
    backend.no_padding()
    try:
        if ours:
            backend.normalizer = _sequence([*ours, *_steps(own)])
        backend.save(str(folder / "tokenizer.json"))
    finally:
        backend.normalizer = own
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str | AddedToken)}
    if tokenizer.extra_special_tokens:  # transformers 5 reads the older name too
        special["additional_special_tokens"] = [str(token) for token in tokenizer.extra_special_tokens]
    same = ("padding_side", "truncation_side", "split_special_tokens", "clean_up_tokenization_spaces", "model_input_names")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max(text.query_max_length, text.passage_max_length),
        **{name: getattr(tokenizer, name) for name in same},
        **special,
    }
    before = _state(backend.pre_tokenizer)
    if "add_prefix_space" in before:  # transformers 4 turns it off where the settings do not have it
        settings["add_prefix_space"] = before["add_prefix_space"]
    write_json(folder / "tokenizer_config.json", settings)
    # For fastembed until 0.8, which adds these tokens again: <mask> takes the space before it, and must keep doing so.
    flags = {
        token.content: token.__getstate__()
        for token in backend.get_added_tokens_decoder().values()
        if token.lstrip or token.rstrip
    }
    write_json(
        folder / "special_tokens_map.json",
        {name: flags.get(token, token) if isinstance(token, str) else token for name, token in special.items()},
    )


def take_preparation_off(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Undo, in a tokenizer in memory, what `save_tokenizer` put before its normaliser; any other one stays as it is.

    Returns:
        Whether there was anything.
    """
    backend = tokenizer.backend_tokenizer
    steps = _state(backend.normalizer).get("normalizers", [])
    ours = next((known for known in (PREPARATION, _NFC_ALONE) if steps[: len(known)] == known), None)
    if ours is None:
        return False
    own = steps[len(ours) :]
    backend.normalizer = None if not own else _made(own[0]) if len(own) == 1 else _sequence(own)
    return True


def read_scores(tokenizer: PreTrainedTokenizerFast, file: str | os.PathLike) -> None:
    """Read a Unigram's scores again: `tokenizers` makes of a quarter of XLM-R's the next number above or below.

    Args:
        tokenizer: changed in place; one of another kind stays as it is.
        file: its tokenizer.json.
    """
    backend = tokenizer.backend_tokenizer
    if isinstance(backend.model, models.Unigram):
        model = read_json(file)["model"]
        pieces = [(piece, score) for piece, score in model["vocab"]]
        backend.model = models.Unigram(pieces, model["unk_id"], model.get("byte_fallback", False))


def _steps(normaliser: normalizers.Normalizer | None) -> list[dict]:
    """A normaliser as the steps of which `take_preparation_off` makes the same one again."""
    state = _state(normaliser)
    inner = state.get("normalizers", [])
    return inner if len(inner) > 1 else [state] if state else []


def _sequence(steps: list[dict]) -> normalizers.Normalizer:
    return _made({"type": "Sequence", "normalizers": steps})


def _made(state: dict) -> normalizers.Normalizer:
    normaliser = normalizers.Sequence([])
    normaliser.__setstate__(json.dumps(state).encode())
    return normaliser


def _state(part: object) -> dict:
    """A part of a tokenizer in the terms of tokenizer.json, empty where there is none."""
    return {} if part is None else json.loads(part.__getstate__())
