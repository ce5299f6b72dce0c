"""Small vectors as vector stores keep them: fewer dimensions, a byte or a bit a dimension, and the centre that bits need.

int8: one scale for all dimensions and passages, as Qdrant's scalar quantisation and Lucene's (Elasticsearch) have it, and
symmetric: products of codes are those of the vectors times a constant. Binary: a bit says whether a component is above that
of the passages' mean, the centre. All vectors of E5 lie around one direction, so bits about zero are mostly the centre's.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from e5ft.errors import ConfigurationError
from e5ft.files import read_json
from e5ft.modeling.encoder import Encoder
from e5ft.retrieval.shards import Shards
from e5ft.retrieval.vectors import encode_collection

FILE = "centre.json"
CARD = f"""
## Binary vectors

`{FILE}` has the mean of passages' vectors; bits are taken about it: `np.packbits(vectors > centre, axis=1)`.
"""  # of the model card
CENTRE_TEXTS = 10_000  # of a corpus, drawn by the seed, whose mean is its centre: more do not move it
NAMES = {"int8": "int8", "binary": "binary (centred)"}  # as tables show a precision
_ROWS = 65_536  # that are in memory as float32 while they are made smaller
_LARGEST = 127


class Kind(NamedTuple):
    """One of the ways in which vectors are kept and compared.

    Attributes:
        size: leading dimensions that are kept; None: all.
        precision: "int8" or "binary"; None: float32.
        rescored: whether float queries score the candidates again that codes of queries found.
    """

    size: int | None = None
    precision: str | None = None
    rescored: bool = False

    @property
    def key(self) -> str:
        """A short name, for files: 64d_int8_rescored."""
        return "_".join(
            [*([f"{self.size}d"] if self.size else []), *filter(None, [self.precision, self.rescored and "rescored"])]
        )

    @property
    def words(self) -> str:
        """The same as tables show it, after a comma."""
        cut = f", first {self.size} dimensions" if self.size else ""
        return cut + (f", {NAMES[self.precision]}" if self.precision else "") + (", rescored" if self.rescored else "")

    def bytes_per_passage(self, dimension: int) -> int:
        """Of one vector of a model of so many dimensions."""
        bits = {None: 32, "int8": 8, "binary": 1}[self.precision] * (self.size or dimension)
        return -(-bits // 8)


def small_kinds(sizes: Sequence[int], precisions: Sequence[str]) -> list[Kind]:
    """Each size and each precision alone and with each other, codes with and without rescoring; not whole float32 vectors."""
    hows = [(None, False), *((precision, rescored) for precision in precisions for rescored in (False, True))]
    return [Kind(size, *how) for size in (None, *sizes) for how in hows][1:]


@dataclasses.dataclass(frozen=True, eq=False)
class Centre:
    """The mean of passages' vectors.

    Attributes:
        vector: (D,) float32, the mean itself: its length is below 1.
        texts: where the passages are from, for readers.
        count: of the passages.
    """

    vector: np.ndarray
    texts: str
    count: int

    def to_dict(self) -> dict:
        """The content of centre.json."""
        return {"texts": self.texts, "count": self.count, "vector": self.vector.tolist()}

    @classmethod
    def load(cls, folder: str | os.PathLike, dimension: int) -> "Centre | None":
        """Read centre.json of a model's folder; None where there is none.

        Raises:
            ConfigurationError: it is damaged, or another model's.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            return None
        try:
            record = read_json(path)
            vector, texts, count = np.array(record["vector"], np.float32), str(record["texts"]), int(record["count"])
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(f"{path}: cannot be read; write it again with export.py data.corpus_file=FILE") from error
        if vector.shape != (dimension,) or not np.isfinite(vector).all():
            raise ConfigurationError(f"{path}: must hold {dimension} numbers, the model's dimensions; it has {vector.size}")
        return cls(vector, texts, count)


def centre_words(centre: Centre | None) -> str:
    """What binary vectors are about, for a reader."""
    if centre is None:
        return "of this set's passages; one kept with the model: export.py data.corpus_file=FILE"
    return f"of {centre.count:,} passages of {centre.texts}, kept with the model"


def centre_of(passages: np.ndarray | Shards, texts: str) -> Centre:
    """The centre of vectors (P, D), P at least 1; `texts` says where they are from."""
    total = sum(rows.sum(axis=0, dtype=np.float64) for rows in _chunks(passages))
    return Centre((total / len(passages)).astype(np.float32), texts, len(passages))


def centre_of_texts(encoder: Encoder, texts: Sequence[str], name: str, seed: int) -> Centre:
    """The centre of at most `CENTRE_TEXTS` passages, drawn from all.

    Args:
        encoder: the model.
        texts: of passages, at least one.
        name: of the texts, for readers.
        seed: of the draw.
    """
    drawn = range(len(texts))
    if len(texts) > CENTRE_TEXTS:
        drawn = np.sort(np.random.default_rng(seed).choice(len(texts), CENTRE_TEXTS, replace=False)).tolist()
    return centre_of(encode_collection(encoder, [texts[i] for i in drawn], "passage"), name)


def int8_codes(vectors: np.ndarray, scale: float) -> np.ndarray:
    """(n, D) int8: components times the scale, rounded, at most 127 either way.

    Args:
        vectors: (n, D), floating point.
        scale: above 0; for the least error 127 over the largest component of the passages, for queries the same.
    """
    return np.clip(np.rint(vectors * np.float32(scale)), -_LARGEST, _LARGEST).astype(np.int8)


def binary_codes(vectors: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """(n, ceil(D / 8)) uint8: a bit a component, 1 where it is above the centre's, the first component in the highest bit.

    Args:
        vectors: (n, D), floating point.
        centre: (D,); zeros for bits about zero.
    """
    return np.packbits(vectors > centre, axis=1)


def signs(codes: np.ndarray, dimension: int) -> np.ndarray:
    """(n, D) float32 of -1 and 1 from packed bits. A product of two rows is D less twice their Hamming distance."""
    return np.unpackbits(codes, axis=1, count=dimension).astype(np.float32) * 2 - 1


class Decoded:
    """Codes that read as float32 rows: what is searched is decoded as it is read, and a chunk at a time is in memory.

    Args:
        codes: (n, bytes).
        dimension: of the rows.
        decode: codes of some rows -> (rows, dimension) float32.
    """

    def __init__(self, codes: np.ndarray, dimension: int, decode: Callable[[np.ndarray], np.ndarray]):
        self.codes, self.shape, self._decode = codes, (len(codes), dimension), decode

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return self._decode(self.codes[rows])


def quantised(
    queries: np.ndarray, passages: np.ndarray | Shards, precision: str, size: int | None, centre: np.ndarray | None
) -> tuple[np.ndarray, Decoded, np.ndarray]:
    """What a store of small vectors searches.

    Args:
        queries: (Q, D) float32, unit vectors.
        passages: (P, D) float32, unit vectors; P at least 1.
        precision: "int8" or "binary".
        size: leading dimensions that are kept; None: all.
        centre: (D,), for bits.

    Returns:
        The queries' codes as float32 (Q, size), the passages', and float32 queries (Q, size) to score candidates by again.
        Bits of cut vectors are the first bits of the whole ones; int8 is of cut vectors at length 1 again.
    """
    if precision == "int8":
        if size is not None:
            queries, passages = first_components(queries, size), first_components(passages, size)
        scale = _LARGEST / max(1e-12, *(float(np.abs(rows).max()) for rows in _chunks(passages)))
        codes, decode, exact = lambda rows: int8_codes(rows, scale), lambda rows: rows.astype(np.float32), queries
    else:
        width = len(centre) if size is None else size
        codes, decode = lambda rows: binary_codes(rows[:, :width], centre[:width]), lambda rows: signs(rows, width)
        exact = (queries - centre)[:, :width]
    passage_codes = np.concatenate([codes(rows) for rows in _chunks(passages)])
    return decode(codes(queries)), Decoded(passage_codes, exact.shape[1], decode), exact


def first_components(vectors: np.ndarray | Shards, size: int) -> np.ndarray:
    """The first components (n, size) of vectors (n, D), at length 1 again."""
    cut = np.concatenate([np.array(chunk[:, :size]) for chunk in _chunks(vectors)])
    return cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12)


def _chunks(vectors: np.ndarray | Shards | Sequence) -> Iterator[np.ndarray]:
    return (np.asarray(vectors[start : start + _ROWS]) for start in range(0, len(vectors), _ROWS))
