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
from e5ft.modeling.encoder import RECORD, Encoder
from e5ft.retrieval.shards import Shards, processes

WINDOW = 8192  # texts encoded between two writes: what an interruption can lose, and what stands in memory
VERSION = 1
# Of config.json: what no vector depends on, and pooling and text format, which stand by themselves.
_NOT_SHAPE = {
    "_name_or_path",
    "architectures",
    "attention_probs_dropout_prob",
    "dtype",
    "hidden_dropout_prob",
    "transformers_version",
    RECORD,
}
BATCH_TOKENS = 16384  # of one forward pass, unless given


def encode_collection(
    encoder: Encoder,
    texts: Sequence[str],
    role: str,
    *,
    batch_tokens: int = BATCH_TOKENS,
    cache: Path | None = None,
    window: int = WINDOW,
) -> np.ndarray | Shards:
    """Encode all texts.

    Args:
        encoder: the model.
        texts: raw texts.
        role: "query" or "passage".
        batch_tokens: tokens of one forward pass.
        cache: a folder for vectors on disk, mapped into memory and found again by a digest of weights, text format and
            texts: a retrained model never sees old vectors. It must lie where all processes see it. An interrupted run
            resumes after its last whole window, if it has as many processes.
            None: in memory, for vectors that are used once.
        window: texts that a process encodes between two writes to the cache, at least 1.

    Returns:
        (n, D) float32 in every process; with `cache` a memory map, or `Shards` of them where several processes wrote.
    """
    if cache is None or not len(texts):  # no file of no bytes can be mapped
        return _gathered(encoder.encode(_local_slice(texts), role, batch_tokens=batch_tokens), len(texts), encoder)
    key = digest_of(VERSION, digest_of_weights(encoder), encoder.spec.to_dict(), role, digest_of_texts(texts))
    path = cache / f"vectors-{key}.npy"
    with contextlib.ExitStack() as stack:
        if distributed.is_main():  # another run that wants the same vectors waits for these
            cache.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(f"{path}.lock"))
        # The main process alone decides: another one may look at the disk a moment later, and see something else.
        there = int(distributed.gather_arrays(np.array([_shards_there(path)]))[0][0])
        size, rank = processes()
        count = there or min(size, len(texts))
        if not there and rank < count:
            start, end = np.linspace(0, len(texts), count + 1).astype(int)[rank : rank + 2].tolist()
            _write_shard(_shard(path, rank, count), texts[start:end], encoder, role, batch_tokens, window)
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


def _write_shard(path: Path, texts: Sequence[str], encoder: Encoder, role: str, batch_tokens: int, window: int) -> None:
    """Encode texts into a file that has its name once it is complete; until then a record beside it says how far it is."""
    if path.is_file():
        return
    data, record, shape = path.with_suffix(".partial.npy"), path.with_suffix(".progress.json"), (len(texts), encoder.dimension)
    done = _rows_done(data, record, shape)
    if not done:
        record.unlink(missing_ok=True)  # an old record must not speak for the new file
    rows = np.lib.format.open_memmap(data, "r+" if done else "w+", dtype=np.float32, shape=None if done else shape)
    for start in range(done, len(texts), window):
        rows[start : start + window] = encoder.encode(texts[start : start + window], role, batch_tokens=batch_tokens)
        rows.flush()  # first the data, then the record, which so never promises too much
        write_json(record, {"rows": min(start + window, len(texts))})
    data.replace(path)
    record.unlink(missing_ok=True)


def _rows_done(data: Path, record: Path, shape: tuple[int, int]) -> int:
    """Rows of an unfinished file that need not be computed again; 0 where there is none, or it is damaged."""
    try:
        rows, stored = int(read_json(record)["rows"]), np.load(data, mmap_mode="r")
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return rows if stored.shape == shape and stored.dtype == np.float32 and 0 <= rows <= len(stored) else 0


class RepeatedTexts:
    """Texts that are encoded again and again while the model changes: each process cuts its share into tokens once.

    Args:
        texts: raw texts.
        role: "query" or "passage".
        batch_tokens: tokens of one forward pass.
    """

    def __init__(self, texts: Sequence[str], role: str, batch_tokens: int):
        self.texts, self.role, self.batch_tokens = texts, role, batch_tokens
        self._tokens = None

    def vectors(self, encoder: Encoder) -> np.ndarray:
        """(n, D) float32 in every process, of the model as it is now; its tokenizer must be the first call's."""
        if self._tokens is None:
            self._tokens = [np.array(ids, dtype=np.int32) for ids in encoder.tokenize(_local_slice(self.texts), self.role)]
        return _gathered(encoder.encode_tokens(self._tokens, batch_tokens=self.batch_tokens), len(self.texts), encoder)


def _local_slice(texts: Sequence[str]) -> list[str]:
    """Every n-th text, n being the number of processes, from this process's rank on."""
    size, rank = processes()
    return [texts[i] for i in range(rank, len(texts), size)]


def _gathered(local: np.ndarray, count: int, encoder: Encoder) -> np.ndarray:
    """The rows of all processes, in the order of the texts."""
    size, _ = processes()
    if size == 1:
        return local
    everyone = gathering.gather_rows(torch.from_numpy(local).to(encoder.device)).cpu().numpy()
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


def digest_of_model(encoder: Encoder) -> str:
    """A digest (20 hexadecimal digits) of weights, tokenizer and config.json, without names, versions and dropout."""
    config = {name: value for name, value in encoder.config.to_diff_dict().items() if name not in _NOT_SHAPE}
    return digest_of(digest_of_weights(encoder), config)


def digest_of_texts(texts: Sequence[str]) -> str:
    """A digest (32 hexadecimal digits) of texts in their order."""
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(8, "big"))
        digest.update(encoded)
    return digest.hexdigest()
