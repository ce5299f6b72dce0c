"""Vectors of a whole collection: encoded once, over all processes, and kept on disk under a digest of what made them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from e5ft import distributed
from e5ft.files import digest_of
from e5ft.modeling.encoder import Encoder

_WINDOW = 8192  # texts encoded between two writes: what an interruption can lose, and what stands in memory
VERSION = 1


def encode_collection(
    encoder: Encoder, texts: Sequence[str], role: str, *, batch_tokens: int = 16384, cache: Path | None = None
) -> np.ndarray:
    """Vectors of all texts.

    Args:
        encoder: the model.
        texts: raw texts.
        role: "query" or "passage".
        batch_tokens: tokens of one forward pass.
        cache: a folder for vectors on disk, mapped into memory and found again by a digest of weights, contract and
            texts: a retrained model never sees old vectors. None: in memory, for vectors that are used once.

    Returns:
        (n, D) float32; a memory map with `cache`. Every process gets all rows.
    """
    if cache is None:
        return _encode(encoder, texts, role, batch_tokens)
    path = (
        cache
        / f"vectors-{digest_of(VERSION, _digest_of_weights(encoder), encoder.spec.to_dict(), role, _digest_of_texts(texts))}.npy"
    )
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{distributed.rank()}.partial.npy")
        stored = None
        if distributed.is_main():
            stored = np.lib.format.open_memmap(partial, "w+", dtype=np.float32, shape=(len(texts), encoder.dimension))
        for start in range(0, len(texts), _WINDOW):
            window = _encode(encoder, texts[start : start + _WINDOW], role, batch_tokens)
            if stored is not None:
                stored[start : start + len(window)] = window
        if stored is not None:
            stored.flush()
            partial.replace(path)
        distributed.barrier()
    return np.load(path, mmap_mode="r")


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


def _digest_of_weights(encoder: Encoder) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(encoder.backbone.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().data)
    digest.update(encoder.tokenizer.backend_tokenizer.to_str().encode())
    return digest.hexdigest()


def _digest_of_texts(texts: Sequence[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(8, "big"))
        digest.update(encoded)
    return digest.hexdigest()
