"""Vectors of a whole collection: encoded once, over all processes, and kept on disk under a digest of what made them.

On disk every process writes its own shard and none receives the others' rows: memory does not grow with the collection.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from e5ft import caches, distributed, gathering
from e5ft.data.text import RECORD, tokenizer_state
from e5ft.errors import StorageError
from e5ft.files import digest_of, read_json, replace_folder, write_json, write_manifest
from e5ft.modeling.encoder import BATCH_TOKENS, Encoder
from e5ft.retrieval.shards import Shards, processes

WINDOW = 8192  # texts encoded between two writes: what an interruption can lose, and what is in memory
_VERSION = 2  # part of every key: raised when vectors or the files of an entry change
# What a configuration holds that decides no vector: names, versions, and the text format, which is in the key by itself.
_IDLE = {"_name_or_path", "transformers_version", "architectures", "auto_map", "dtype", "id2label", "label2id", RECORD}


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
        cache: a folder for vectors on disk, mapped into memory and found again by a digest of weights, configuration,
            text format and texts: a retrained model never sees old vectors. It must lie where all processes see it. An
            interrupted run resumes after its last whole window, if it has as many processes.
            None: in memory, for vectors that are used once.
        window: texts that a process encodes between two writes to the cache, at least 1.

    Returns:
        (n, D) float32 in every process; with `cache` a memory map, or `Shards` of them where several processes wrote.

    Raises:
        StorageError: the cache cannot be written.
    """
    if cache is None or not len(texts):  # no file of no bytes can be mapped
        return _gathered(encoder.encode(_local_slice(texts), role, batch_tokens=batch_tokens), len(texts), encoder)
    key = digest_of(_VERSION, digest_of_model(encoder), encoder.spec.to_dict(), role, digest_of_texts(texts))
    path = cache / f"vectors-{key}"
    with contextlib.ExitStack() as stack:
        if distributed.is_main():  # another run that wants the same vectors waits for these
            stack.enter_context(caches.locked(path))
        # The main process alone decides: another one may look at the disk a moment later, and see something else.
        there = len(list(path.glob("*.f32"))) if distributed.is_main() and caches.is_whole(path) else 0
        there = int(distributed.gather_arrays(np.array([there]))[0][0])
        count = there or min(processes()[0], len(texts))
        if not there:
            _write_shards(path, count, texts, encoder, role, batch_tokens, window)
        files = (path / _shard(number, count) for number in range(count))
        blocks = [np.memmap(file, np.float32, mode="r").reshape(-1, encoder.dimension) for file in files]
    return blocks[0] if count == 1 else Shards(blocks)


def _shard(number: int, count: int) -> str:
    return f"{number}-of-{count}.f32"  # rows of float32, one after another


def _write_shards(path: Path, count: int, texts, encoder: Encoder, role: str, batch_tokens: int, window: int) -> None:
    """Encode texts, each process its part, into a folder that has its name once all are done."""
    partial, rank, failure = path.with_name(f"{path.name}.partial"), processes()[1], None
    try:
        with caches.writing(path.parent):
            partial.mkdir(exist_ok=True)
            if rank < count:
                start, end = np.linspace(0, len(texts), count + 1).astype(int)[rank : rank + 2].tolist()
                _write_shard(partial / _shard(rank, count), texts[start:end], encoder, role, batch_tokens, window)
    except StorageError as error:
        failure = error
    if distributed.any_process(failure is not None):
        raise failure or StorageError(f"{path.parent}: another process could not write into it")
    if distributed.is_main():
        for file in {*partial.iterdir()} - {partial / _shard(number, count) for number in range(count)}:
            file.unlink()  # records, and shards of an earlier run of another number of processes
        write_manifest(partial)
        replace_folder(partial, path)
    distributed.barrier()


def _write_shard(data: Path, texts: Sequence[str], encoder: Encoder, role: str, batch_tokens: int, window: int) -> None:
    """Encode texts into a file; a record beside it says how far it is, so that an interrupted run goes on there."""
    record, width = data.with_suffix(".json"), 4 * encoder.dimension
    done, digest = _rows_done(data, record, width)
    with open(data, "r+b" if done else "wb") as file:  # not a map: a full disk would end the process by SIGBUS
        file.seek(done * width)
        file.truncate()
        for start in range(done, len(texts), window):
            rows = encoder.encode(texts[start : start + window], role, batch_tokens=batch_tokens)
            file.write(rows)
            file.flush()
            os.fsync(file.fileno())  # first the data, then the record, which so never promises too much
            digest.update(rows)
            write_json(record, {"rows": start + len(rows), "sha256": digest.hexdigest()})


def _rows_done(data: Path, record: Path, width: int) -> tuple[int, Any]:
    """Rows of an unfinished file that need not be computed again, and their SHA-256; 0 where there is none, or it is damaged."""
    digest = hashlib.sha256()
    try:
        kept = read_json(record)
        rows, expected = int(kept["rows"]), kept["sha256"]
        digest.update(np.memmap(data, np.uint8, mode="r")[: rows * width])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, hashlib.sha256()
    return (rows, digest) if digest.hexdigest() == expected else (0, hashlib.sha256())


class RepeatedTexts:
    """Texts that are encoded again and again while the model changes: each process cuts its share into tokens once.

    Args:
        texts: raw texts.
        role: "query" or "passage".
        batch_tokens: tokens of one forward pass.
        first: (n, D) float32, vectors of the model at the first call, where they are there already.
    """

    def __init__(self, texts: Sequence[str], role: str, batch_tokens: int, first: np.ndarray | None = None):
        self.texts, self.role, self.batch_tokens = texts, role, batch_tokens
        self._tokens, self._first = None, first

    def vectors(self, encoder: Encoder) -> np.ndarray:
        """(n, D) float32 in every process, of the model as it is now; its tokenizer must be the first call's."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
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


def digest_of_model(encoder: Encoder) -> str:
    """A digest (32 hexadecimal digits) of weights, configuration and tokenizer; two models with the same one give the same vectors."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(encoder.backbone.state_dict().items()):
        digest.update(f"{name} {tensor.dtype}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().data)
    config = {key: value for key, value in encoder.config.to_diff_dict().items() if key not in _IDLE and "dropout" not in key}
    state = [config, tokenizer_state(encoder.tokenizer)]
    digest.update(json.dumps(state, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def digest_of_texts(texts: Sequence[str]) -> str:
    """A digest (32 hexadecimal digits) of texts in their order."""
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(8, "big"))
        digest.update(encoded)
    return digest.hexdigest()
