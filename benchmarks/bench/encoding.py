"""Encoding a corpus: `Encoder.encode` beside `SentenceTransformer.encode`."""

import random
from pathlib import Path

import numpy as np
import torch

from benchmarks.bench.flops import product_of, training_flops
from benchmarks.bench.lines import check_close
from benchmarks.bench.models import our_encoder, their_model, write_model
from benchmarks.bench.texts import LENGTHS, Writer, draw_length
from benchmarks.bench.timing import in_turns

SAME_VECTORS = 1e-5  # in float32


def compare(folder: Path, *, shape: str, data: str, bf16: bool, texts: int, repetitions: int, batch_size: int = 32) -> dict:
    """The same passages, tokenisation included; in bf16 both have bf16 weights.

    Raises:
        Void: the float32 vectors differ by more than 1e-5.
    """
    model = write_model(shape, folder)
    ours, theirs = our_encoder(model), their_model(model)
    passages = _passages(ours.tokenizer, texts, data)

    def our_vectors(some=passages):
        return ours.encode(some, "passage")

    def their_vectors(some=passages):
        return theirs.encode(some, prompt_name="document", batch_size=batch_size, show_progress_bar=False)

    some = passages[: min(64, texts)]
    exact = our_vectors(some)
    check_close(f"{shape}: largest difference of the vectors", float(np.abs(exact - their_vectors(some)).max()), SAME_VECTORS)
    if bf16:
        ours, theirs = ours.to(torch.bfloat16), theirs.to(torch.bfloat16)
    loss = [float(1 - (exact * _unit(call(some))).sum(axis=1).min()) for call in (our_vectors, their_vectors)]
    lengths, config = [len(ids) for ids in ours.tokenize(passages, "passage")], ours.config
    dense = sum(p.numel() for name, p in ours.named_parameters() if "embeddings" not in name)
    found = {
        "cosine_lost": loss,
        "flops": training_flops(dense, config.num_hidden_layers, config.hidden_size, lengths) // 3,  # forward alone
    }
    product, found["product_flops"] = product_of(2048, config.hidden_size, torch.bfloat16 if bf16 else torch.float32)
    return {**in_turns({"ours": our_vectors, "theirs": their_vectors, "rate": product}, repetitions), **found}


def memory(folder: Path, *, data: str, bf16: bool, texts: int, contender: str, model: str) -> dict:
    """One contender's encoding, for the peak of its process."""
    passages = _passages(our_encoder(Path(model)).tokenizer, texts, data)
    if contender == "ours":
        encoder = our_encoder(Path(model))
        (encoder.to(torch.bfloat16) if bf16 else encoder).encode(passages, "passage")
    else:
        encoder = their_model(Path(model))
        (encoder.to(torch.bfloat16) if bf16 else encoder).encode(passages, prompt_name="document", show_progress_bar=False)
    return {}


def _passages(tokenizer, count: int, data: str) -> list[str]:
    generator, writer = random.Random(0), Writer(tokenizer)
    return [writer.text("passage", draw_length(LENGTHS[data].passage, generator.random())) for _ in range(count)]


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
