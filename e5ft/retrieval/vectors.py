"""Vectors of a whole collection: encoded once, over all processes, and kept on disk under a digest of what made them.

On disk every process writes its own shard and none receives the others' rows: memory does not grow with the collection.
"""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from e5ft import distributed, gathering
from e5ft.data.text import tokenizer_state
from e5ft.files import digest_of, read_json, write_json
from e5ft.modeling.encoder import Encoder
from e5ft.retrieval.shards import Shards

WINDOW = 8192  # texts encoded between two writes: what an interruption can lose, and what stands in memory
VERSION = 1


def encode_collection(
    encoder: Encoder,
    texts: Sequence[str],
    role: str,
    *,
    batch_tokens: int = 16384,
    cache: Path | None = None,
    window: int = WINDOW,
) -> np.ndarray | Shards:
    """Vectors of all texts.

    Args:
        encoder: the model.
        texts: raw texts.
        role: "query" or "passage".
        batch_tokens: tokens of one forward pass.
        cache: a folder for vectors on disk, mapped into memory and found again by a digest of weights, contract and
            texts: a retrained model never sees old vectors. It must lie where all processes see it. An interrupted run goes on
            after its last whole window, if it has as many processes.
            None: in memory, for vectors that are used once.
        window: texts that a process encodes between two writes to the cache, at least 1.

    Returns:
        (n, D) float32 in every process; with `cache` a memory map, or `Shards` of them where several processes wrote.
    """
    if cache is None or not len(texts):  # no file of no bytes can be mapped
        own = encoder.encode(_own(texts), role, batch_tokens=batch_tokens)
        return _everyones(own, len(texts), encoder)
    key = digest_of(VERSION, digest_of_weights(encoder), encoder.spec.to_dict(), role, _digest_of_texts(texts))
    path = cache / f"vectors-{key}.npy"
    with contextlib.ExitStack() as stack:
        if distributed.is_main():  # another run that wants the same vectors waits for these
            cache.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(f"{path}.lock"))
        # The main process alone decides: another one may look at the disk a moment later, and see something else.
        there = int(distributed.gather_arrays(np.array([_shards_there(path)]))[0][0])
        size, rank = (distributed.world_size(), distributed.rank()) if distributed.active() else (1, 0)
        count = there or min(size, len(texts))
        if not there and rank < count:
            borders = np.linspace(0, len(texts), count + 1).astype(int)
            own = texts[int(borders[rank]) : int(borders[rank + 1])]
            file = _Partial(_shard(path, rank, count), (len(own), encoder.dimension))
            for start in range(file.done(), len(own), window):
                file.write(start, encoder.encode(own[start : start + window], role, batch_tokens=batch_tokens))
            file.finish()
        distributed.barrier()
    blocks = [np.load(_shard(path, number, count), mmap_mode="r") for number in range(count)]
    return blocks[0] if count == 1 else Shards(blocks)


def _shard(path: Path, number: int, count: int) -> Path:
    return path if count == 1 else path.with_name(f"{path.stem}-{number}-of-{count}.npy")


def _shards_there(path: Path) -> int:
    """How many shards an earlier run, of as many processes as it had, left finished; 0: there is no whole set."""
    if path.is_file():
        return 1
    counts = (int(first.stem.rpartition("-")[2]) for first in path.parent.glob(f"{path.stem}-0-of-*.npy"))
    return next((count for count in sorted(counts) if all(_shard(path, i, count).is_file() for i in range(count))), 0)


class _Partial:
    """A matrix on disk that grows from the front, with a record beside it of how many rows are certainly there."""

    def __init__(self, path: Path, shape: tuple[int, int]):
        self.path, self.shape = path, shape
        self._data, self._record = path.with_suffix(".partial.npy"), path.with_suffix(".progress.json")
        self._map = None

    def done(self) -> int:
        """Rows that need not be computed again."""
        if self.path.is_file():
            return self.shape[0]
        try:
            rows = int(read_json(self._record)["rows"])
            stored = np.load(self._data, mmap_mode="r")
        except (OSError, ValueError, KeyError, TypeError, json.JSONDecodeError):
            return 0  # nothing there, or half a file: begin anew
        return rows if stored.shape == self.shape and stored.dtype == np.float32 and 0 <= rows <= len(stored) else 0

    def write(self, start: int, rows: np.ndarray) -> None:
        """Put rows at `start`. First the data reaches the disk, then the record: the record never promises too much."""
        if self._map is None:
            mode, shape = ("w+", self.shape) if start == 0 else ("r+", None)
            if start == 0:
                self._record.unlink(missing_ok=True)  # an old record must not speak for the new file
            self._map = np.lib.format.open_memmap(self._data, mode, dtype=np.float32, shape=shape)
        self._map[start : start + len(rows)] = rows
        self._map.flush()
        write_json(self._record, {"rows": start + len(rows)})

    def finish(self) -> None:
        """Give the whole matrix its name."""
        if not self.path.is_file():
            self._data.replace(self.path)
        self._record.unlink(missing_ok=True)


class RepeatedTexts:
    """Texts that are encoded again and again while the model changes: each process cuts its share into tokens once.

    Args:
        texts: raw texts.
        role: "query" or "passage".
        batch_tokens: tokens of one forward pass.
    """

    def __init__(self, texts: Sequence[str], role: str, batch_tokens: int = 16384):
        self.texts, self.role, self.batch_tokens = texts, role, batch_tokens
        self._tokens = None

    def vectors(self, encoder: Encoder) -> np.ndarray:
        """(n, D) float32 in every process, of the model as it is now; its tokenizer must be the first call's."""
        if self._tokens is None:
            self._tokens = [np.array(ids, dtype=np.int32) for ids in encoder.tokenize(_own(self.texts), self.role)]
        return _everyones(encoder.encode_tokens(self._tokens, batch_tokens=self.batch_tokens), len(self.texts), encoder)


def _own(texts: Sequence[str]) -> list[str]:
    """Every n-th text of n processes."""
    size, rank = (distributed.world_size(), distributed.rank()) if distributed.active() else (1, 0)
    return [texts[i] for i in range(rank, len(texts), size)]


def _everyones(own: np.ndarray, count: int, encoder: Encoder) -> np.ndarray:
    """The rows of all processes, in the order of the texts."""
    size = distributed.world_size() if distributed.active() else 1
    if size == 1:
        return own
    everyone = gathering.gather_rows(torch.from_numpy(own).to(encoder.device)).cpu().numpy()
    order = np.concatenate([np.arange(rank, count, size) for rank in range(size)])
    vectors = np.empty_like(everyone)
    vectors[order] = everyone
    return vectors


def digest_of_weights(encoder: Encoder) -> str:
    """A digest (32 hexadecimal digits) of weights and tokenizer; two models with the same one give the same vectors."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(encoder.backbone.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().data)
    digest.update(json.dumps(tokenizer_state(encoder.tokenizer), sort_keys=True).encode())
    return digest.hexdigest()


def _digest_of_texts(texts: Sequence[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(8, "big"))
        digest.update(encoded)
    return digest.hexdigest()
