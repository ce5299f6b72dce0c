"""XLM-R's classes and SentencePiece's file, for readers that know nothing else: eland, and llama.cpp's converter to GGUF.

Neither reads tokenizer.json: eland takes the slow tokenizer, which is made of `sentencepiece.bpe.model`, and the converter takes
every BertModel for one with WordPiece. mE5-small is a BertModel with XLM-R's pieces; an XLMRobertaModel gives the same vectors.
"""

import base64
import json
import struct
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase, XLMRobertaConfig, XLMRobertaModel

from e5ft.errors import ConfigurationError
from e5ft.files import read_json, write_json
from e5ft.modeling.charsmap import recomposing
from e5ft.modeling.encoder import Encoder
from e5ft.modeling.lora import merged_state

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")  # pieces 0 to 3; <mask> is the last
_FILE = "sentencepiece.bpe.model"
_PADDING = 1
_UNUSED_ROWS = _PADDING + 1  # RoBERTa's family counts positions from the padding index + 1
_SHARED = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "layer_norm_eps", "initializer_range"),
)
_UNKNOWN, _CONTROL = 2, 3  # types of a piece in sentencepiece_model.proto


def as_xlm_roberta(encoder: Encoder, asked: str = "architecture=xlm_roberta") -> Encoder:
    """The encoder as an XLMRobertaModel, which gives the same hidden states: itself, or a copy of a BertModel.

    XLM-R's positions begin at row 2, so two rows stand before BERT's; of its token types only the first, which every text
    has, is kept.

    Args:
        encoder: in any state; it is left as it was.
        asked: the setting that asks for it, for messages.

    Raises:
        ConfigurationError: it is neither, or its tokenizer is not XLM-R's kind.
    """
    config = encoder.backbone.config
    check_xlm_roberta(config.model_type, encoder.tokenizer, asked)
    if config.model_type == "xlm-roberta":
        return encoder
    made = XLMRobertaConfig(
        **{name: getattr(config, name) for name in _SHARED},
        max_position_embeddings=config.max_position_embeddings + _UNUSED_ROWS,
        type_vocab_size=1,
        bos_token_id=0,
        pad_token_id=_PADDING,
        eos_token_id=2,
        dtype="float32",
    )
    pooler = encoder.pooler[0]
    with torch.random.fork_rng(devices=[]):
        backbone = XLMRobertaModel(made, add_pooling_layer=pooler is not None)
    state = dict(merged_state(encoder) or encoder.backbone.state_dict())
    if pooler is not None:
        state |= {f"pooler.{name}": tensor for name, tensor in pooler.state_dict().items()}
    table = state["embeddings.position_embeddings.weight"]
    state["embeddings.position_embeddings.weight"] = torch.cat([table.new_zeros(_UNUSED_ROWS, table.shape[1]), table])
    state["embeddings.token_type_embeddings.weight"] = state["embeddings.token_type_embeddings.weight"][:1]
    backbone.load_state_dict(state, strict=True)
    return Encoder(backbone, encoder.tokenizer, encoder.spec, encoder.padded or None).to(encoder.device).eval()


def check_xlm_roberta(model_type: str, tokenizer: PreTrainedTokenizerBase, asked: str) -> None:
    """Refuse a model that cannot be written as an XLMRobertaModel; its weights are not needed.

    Args:
        model_type: of its configuration.
        tokenizer: a fast one.
        asked: the setting that asks for it, for messages.

    Raises:
        ConfigurationError: it is neither BERT nor XLM-R, or its tokenizer is not XLM-R's kind.
    """
    xlm_roberta_pieces(tokenizer, asked)
    if model_type not in ("bert", "xlm-roberta"):
        raise _refused(asked, f"the model is of type {model_type!r}, must be bert or xlm-roberta")


def xlm_roberta_pieces(
    tokenizer: PreTrainedTokenizerBase, asked: str = "architecture=xlm_roberta"
) -> tuple[list[tuple[str, float]], bytes]:
    """What makes a tokenizer of XLM-R's kind: its pieces with their scores, and its table of characters.

    Args:
        tokenizer: a fast one.
        asked: the setting that asks for them, for messages.

    Returns:
        (piece, log probability) by token id, and the table as `e5ft.modeling.charsmap` describes it.

    Raises:
        ConfigurationError: it works in another way, for which the two files have no place.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    model, normaliser, before = state["model"], state["normalizer"] or {}, state["pre_tokenizer"] or {}
    steps = normaliser.get("normalizers", [normaliser])
    tables = [step["precompiled_charsmap"] for step in steps if step.get("type") == "Precompiled"]
    others = {step.get("type") for step in steps} - {
        "Precompiled",
        "NFC",
        "Strip",
        "Replace",
    }  # of blanks; export's check sees the rest
    splits = [step.get("type") for step in before.get("pretokenizers", [before])]
    if (
        model["type"] != "Unigram"
        or len(tables) != 1
        or others
        or splits not in (["WhitespaceSplit", "Metaspace"], ["Metaspace"])
    ):
        raise _refused(
            asked, f"the tokenizer ({model['type']}) is not XLM-R's: Unigram with its table of characters, split at blanks"
        )
    pieces = [(piece, score) for piece, score in model["vocab"]]
    names = [piece for piece, _ in pieces]
    if tuple(names[:4]) != SPECIAL or names[-1] != "<mask>" or model.get("byte_fallback"):
        raise _refused(asked, f"the tokenizer's pieces must begin with {' '.join(SPECIAL)} and end with <mask>")
    if added := [token["content"] for token in state["added_tokens"] if token["content"] not in (*SPECIAL, "<mask>")]:
        raise _refused(asked, f"the tokenizer has added tokens ({added[0]!r}), for which there is no place")
    return pieces, base64.b64decode(tables[0])


def write_tokenizer_files(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write `sentencepiece.bpe.model`, and XLM-R's class into the tokenizer_config.json that is there."""
    (folder / _FILE).write_bytes(sentencepiece_model(*xlm_roberta_pieces(tokenizer)))
    file = folder / "tokenizer_config.json"
    write_json(file, {**read_json(file), "tokenizer_class": "XLMRobertaTokenizer"})


def sentencepiece_model(pieces: Sequence[tuple[str, float]], charsmap: bytes) -> bytes:
    """The model file of Google's `sentencepiece` library, as XLM-R's tokenizer class expects it.

    That class puts <pad> and <mask> in and moves every other id by one. The library looks up characters of any length, so
    the table written recomposes NFD.

    Args:
        pieces: as `xlm_roberta_pieces` gives them.
        charsmap: likewise.

    Source:
        sentencepiece_model.proto of google/sentencepiece; what is left out has XLM-R's value by default.
    """
    special = [_message((1, name.encode()), (2, 0.0), (3, kind)) for name, kind in
               (("<unk>", _UNKNOWN), ("<s>", _CONTROL), ("</s>", _CONTROL))]  # fmt: skip
    plain = [_message((1, piece.encode()), (2, float(score))) for piece, score in pieces[4:-1]]
    trainer = _message((3, 1), (4, len(special) + len(plain)))  # Unigram
    normaliser = _message((1, b"nmt_nfkc"), (2, recomposing(charsmap)))
    return _message(*((1, piece) for piece in (*special, *plain)), (2, trainer), (3, normaliser))


def _message(*fields: tuple[int, bytes | float | int]) -> bytes:
    """Protocol buffers' encoding of (field number, value)."""
    encoded = bytearray()
    for number, value in fields:
        if isinstance(value, bytes):
            encoded += _varint(number << 3 | 2) + _varint(len(value)) + value
        elif isinstance(value, float):
            encoded += _varint(number << 3 | 5) + struct.pack("<f", value)
        else:
            encoded += _varint(number << 3) + _varint(value)
    return bytes(encoded)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _refused(asked: str, reason: str) -> ConfigurationError:
    return ConfigurationError(f"{asked}: {reason}; leave it out")
