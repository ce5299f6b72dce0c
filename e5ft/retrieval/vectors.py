"""Vectors of a whole collection: encoded once, over all processes, and kept on disk under a digest of what made them."""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from e5ft import distributed
from e5ft.files import digest_of, read_json, write_json
from e5ft.modeling.encoder import Encoder

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
) -> np.ndarray:
    """Vectors of all texts.

    Args:
        encoder: the model.
        texts: raw texts.
        role: "query" or "passage".
        batch_tokens: tokens of one forward pass.
        cache: a folder for vectors on disk, mapped into memory and found again by a digest of weights, contract and
            texts: a retrained model never sees old vectors. An interrupted run goes on after its last whole window.
            None: in memory, for vectors that are used once.
        window: texts encoded between two writes to the cache, at least 1.

    Returns:
        (n, D) float32; a memory map with `cache`. Every process gets all rows.
    """
    if cache is None or not len(texts):  # no file of no bytes can be mapped
        return _encode(encoder, texts, role, batch_tokens)
    key = digest_of(VERSION, digest_of_weights(encoder), encoder.spec.to_dict(), role, _digest_of_texts(texts))
    path = cache / f"vectors-{key}.npy"
    with contextlib.ExitStack() as stack:
        if distributed.is_main():  # another run that wants the same vectors waits for these
            cache.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(f"{path}.lock"))
        file = _Partial(path, (len(texts), encoder.dimension))
        # The main process alone decides: another one may look at the disk a moment later, and see something else.
        done = int(distributed.gather_arrays(np.array([file.done()]), encoder.device)[0][0])
        for start in range(done, len(texts), window):
            vectors = _encode(encoder, texts[start : start + window], role, batch_tokens)
            if distributed.is_main():
                file.write(start, vectors)
        if distributed.is_main():
            file.finish()
        distributed.barrier()
    return np.load(path, mmap_mode="r")


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


def _encode(encoder: Encoder, texts: Sequence[str], role: str, batch_tokens: int) -> np.ndarray:
    """Each process encodes every n-th text; all get all rows, in order."""
    size = distributed.world_size() if distributed.active() else 1
    own = encoder.encode(
        [texts[i] for i in range(distributed.rank() if size > 1 else 0, len(texts), size)], role, batch_tokens=batch_tokens
    )
    if size == 1:
        return own
    everyone = distributed.gather_rows(torch.from_numpy(own).to(encoder.device)).cpu().numpy()
    order = np.concatenate([np.arange(rank, len(texts), size) for rank in range(size)])
    vectors = np.empty_like(everyone)
    vectors[order] = everyone
    return vectors


def digest_of_weights(encoder: Encoder) -> str:
    """A digest (32 hexadecimal digits) of weights and tokenizer; two models with the same one give the same vectors."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(encoder.backbone.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().data)
    tokenizer = json.loads(encoder.tokenizer.backend_tokenizer.to_str())
    # Every call leaves its truncation and padding there; the contract, which has the lengths, is part of the key anyway.
    digest.update(json.dumps({**tokenizer, "truncation": None, "padding": None}, sort_keys=True).encode())
    return digest.hexdigest()


def _digest_of_texts(texts: Sequence[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(8, "big"))
        digest.update(encoded)
    return digest.hexdigest()
