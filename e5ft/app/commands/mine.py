"""The mining command: rows in, the same rows with hard negatives out, and what a person needs to trust them."""

import dataclasses
import json
import os
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from e5ft import distributed
from e5ft.app.commands.data import MiningData, load_mining_data
from e5ft.app.commands.reading import RECORD, ROWS, check_scores, model_source, rows_file
from e5ft.app.runs.script import device_of
from e5ft.app.settings.build import plain
from e5ft.app.settings.groups import MineSettings
from e5ft.app.settings.plan import plan
from e5ft.app.telling.report import draw_mined_scores, mining_closing, mining_opening, say
from e5ft.data.lines import MAX_LINE_BYTES
from e5ft.errors import DataError
from e5ft.files import write_json, write_lines
from e5ft.modeling.cross_encoder import CrossEncoder
from e5ft.modeling.encoder import Encoder
from e5ft.modeling.loading import load_encoder
from e5ft.modeling.settings import ModelSource
from e5ft.retrieval.approximate import check_method, search
from e5ft.retrieval.bm25 import BM25
from e5ft.retrieval.candidates import (
    Finder,
    MiningIndex,
    Scorer,
    Searchers,
    bm25_finder,
    bm25_scorer,
    build_finders,
    dense_scorer,
    remembered,
    sources_that_need,
)
from e5ft.retrieval.filters import apply_filters
from e5ft.retrieval.mined import examples, mined_rows, summarise
from e5ft.retrieval.mining import find_candidates, gathered, select
from e5ft.retrieval.settings import MiningSettings
from e5ft.retrieval.vectors import digest_of_model, encode_collection

PICTURE = "mining.png"


def mine(settings: MineSettings, data: MiningData | None = None) -> float:
    """Run one mining job.

    Args:
        settings: of mine.py.
        data: of these settings, where it has been read already.

    Returns:
        Negatives a row, on average.
    """
    began, mining = time.monotonic(), settings.mining
    device = _join(device_of(settings.device))
    source = model_source(settings.model, mining)
    check_scores(mining, source)
    check_method(mining.search)
    output = rows_file(settings)
    teacher = _cross_encoder(mining, device)  # first what may be missing, then what takes long
    data = data or load_mining_data(plan(settings), settings)
    say(mining_opening(source, mining, data))
    encoder = None if source is None else load_encoder(source, device)
    finders, scorer = _finders(settings, encoder, data.index)
    candidates, documents = find_candidates(data.index, finders, mining, scorer)
    apply_filters(data.index, candidates, documents, mining.limits, teacher)
    candidates, documents = gathered(candidates), gathered(documents)
    chosen = select(data.index, candidates, mining)
    summary = summarise(data.index, mining, candidates, documents, chosen)
    if distributed.is_main():
        parts = (data.rows, data.index, mining, candidates, documents, chosen)
        write_lines(output, _checked_lines(mined_rows(*parts)))
        summary |= {"examples": examples(mined_rows(*parts), len(chosen), settings.seed)}
        summary |= _provenance(settings, source, encoder, data) | {"seconds": round(time.monotonic() - began, 1)}
        write_json(output.parent / RECORD, summary)
        draw_mined_scores(summary, output.parent / PICTURE)
    say(mining_closing(summary, mining, mining.limits, output))
    distributed.barrier()
    return sum(map(len, chosen)) / len(chosen)


def _join(device: torch.device) -> torch.device:
    """Under torchrun: one process group, each process on its own GPU."""
    if distributed.world_size() == 1:
        return device
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        device = torch.device("cuda", torch.cuda.current_device())
    if not dist.is_initialized():
        # A day: the processes meet after each has filtered its own rows, and a cross-encoder's work is never even.
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(days=1))
    return device


def _cross_encoder(mining: MiningSettings, device: torch.device) -> CrossEncoder | None:
    asked = mining.cross_encoder
    if asked.path is None:
        return None
    return CrossEncoder(asked.path, device=device, max_length=asked.max_length, batch_size=asked.batch_size)


def _finders(settings: MineSettings, encoder: Encoder | None, index: MiningIndex) -> tuple[dict[str, Finder], Scorer | None]:
    """What each source finds, and one scorer for all: the model, else BM25, else none."""
    mining, cache = settings.mining, Path(settings.cache_dir)
    searchers, scorer = Searchers(index, mining.seed), None
    if sources_that_need("bm25", mining.sources):
        bm25 = BM25(index.passages, tokenisation=mining.bm25)
        searchers.bm25 = remembered(bm25_finder(bm25, index))
        scorer = bm25_scorer(bm25, index)
    if encoder is not None:
        say(f"  encoding    {len(index.passages):,} passages, {len(index.queries):,} queries; vectors are kept in {cache}")
        options = dict(batch_tokens=settings.batch_tokens, cache=cache)
        passages = encode_collection(encoder, index.passages, "passage", **options)
        queries = encode_collection(encoder, index.queries, "query", **options)
        scorer = dense_scorer(queries, passages)

        def dense(chosen, depth):
            """Rank candidates by the cosine of their vectors; a Finder."""
            options = dict(method=mining.search, device=encoder.device, seed=mining.seed, folder=cache)
            return search(queries[chosen], passages[: index.candidates], depth, **options)[1]

        searchers.model = remembered(dense)
    return build_finders(mining.sources, searchers), scorer


def _checked_lines(rows: Iterable[dict]) -> Iterator[str]:
    for number, row in enumerate(rows, start=1):
        line = json.dumps(row, ensure_ascii=False, allow_nan=False)
        if len(line.encode()) >= MAX_LINE_BYTES:
            raise DataError(
                f"row {number} would be a line of {len(line.encode()):,} bytes, which train.py refuses; lower per_query"
            )
        yield line


def _provenance(settings: MineSettings, source: ModelSource | None, encoder: Encoder | None, data: MiningData) -> dict:
    """What made the file, so that it can be made again."""
    return {
        "output_file": ROWS,
        "source": data.label,
        "model": None if source is None else source.label,
        "model_digest": None if encoder is None else digest_of_model(encoder),
        "approximate": settings.mining.search != "exact" and encoder is not None,
        "dropped_hard_negatives": data.dropped,
        "input": dataclasses.asdict(data.counts),
        "settings": plain(settings),
    }
