"""The mining command: rows in, the same rows with hard negatives out, and what a person needs to trust them."""

import json
import os
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from e5ft import distributed
from e5ft.app.commands.data import MiningData, load_file
from e5ft.app.commands.reading import DEV_ROWS, RECORD, ROWS, mining_data, model_source, rows_file
from e5ft.app.runs.folder import current_job
from e5ft.app.runs.script import device_of
from e5ft.app.settings.build import plain
from e5ft.app.settings.groups import MineSettings
from e5ft.app.settings.plan import DataPlan, RowsFile, plan
from e5ft.app.telling.mining_report import draw_mined_scores, mining_closing, mining_opening, next_command
from e5ft.app.telling.report import relative, say, text_format
from e5ft.data.lines import MAX_LINE_BYTES
from e5ft.data.store import RowStore
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
from e5ft.retrieval.removals import questioned, removed, rows_without
from e5ft.retrieval.settings import MiningSettings
from e5ft.retrieval.vectors import digest_of_model, encode_collection

PICTURE = "mining.png"


def mine(settings: MineSettings, data: MiningData | None = None, *, in_rounds: bool = False) -> float:
    """Run one mining job.

    Args:
        settings: of mine.py.
        data: of these settings, where it has been read already.
        in_rounds: whether a training goes on with the rows by itself.

    Returns:
        Negatives a row, on average.
    """
    began, mining = time.monotonic(), settings.mining
    device = _join(device_of(settings.device))
    source = model_source(settings.model, mining)
    check_method(mining.search)
    output = rows_file(settings)
    teacher = _cross_encoder(mining, device)  # first what may be missing, then what takes long
    data = data or mining_data(settings, source)
    say(mining_opening(mining, data))
    encoder = None if source is None else load_encoder(source, device)
    if encoder is not None:
        say(text_format(encoder))
    finders, scorer = _finders(settings, encoder, data.index)
    candidates, given = find_candidates(data.index, finders, mining, scorer)
    apply_filters(data.index, candidates, given, mining.limits, teacher)
    candidates, given = gathered(candidates), gathered(given)
    chosen = select(data.index, candidates, mining)
    summary = summarise(data.index, mining, candidates, given, chosen)
    summary["held_out"]["of_eval_dir"] = data.held_out
    if distributed.is_main():
        parts = (data.rows, data.index, mining, candidates, given, chosen)
        write_lines(output, _checked_lines(mined_rows(*parts)))
        summary |= {"examples": examples(mined_rows(*parts), len(chosen), settings.seed)}
        summary |= {"removed": removed(data.index, mining, mining.limits, candidates, given)}
        summary |= {"questioned": questioned(summary["candidates"], mining.limits)}
        place = data.rows.place if isinstance(data.rows, RowStore) else lambda row: None
        summary |= {"without": rows_without(data.index, candidates, chosen, place)}
        summary |= _provenance(settings, source, encoder, data) | {"seconds": round(time.monotonic() - began, 1)}
        write_json(output.parent / RECORD, summary)
        draw_mined_scores(summary, output.parent / PICTURE)
        following = None
        if not in_rounds:
            data_plan = plan(settings)
            dev_file = _dev_file(settings, data_plan, output.parent)
            following = next_command(settings, data_plan, output, dev_file, current_job(settings.name).overrides)
        say(mining_closing(summary, mining, mining.limits, output, following))
    distributed.barrier()
    return sum(map(len, chosen)) / len(chosen)


def row_lines(store: RowStore) -> Iterator[str]:
    """The lines of a file with a store's rows, in the standard columns."""
    for row in store:
        values = {"query": row.query, "document": list(row.positives), "hard_negative": list(row.negatives)}
        yield json.dumps({**values, "scores": list(row.scores)} if row.scores else values, ensure_ascii=False)


def _dev_file(settings: MineSettings, data_plan: DataPlan, folder: Path) -> str | None:
    """The dev rows' file, read as the mined rows are: the same settings say how both files are read."""
    dev = data_plan.dev
    if not isinstance(dev, RowsFile) or (dev.is_standard and settings.data.on_bad_row == "fail"):
        return settings.data.dev_file
    write_lines(folder / DEV_ROWS, row_lines(load_file(dev, settings)))
    return relative(folder / DEV_ROWS)


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
        "dropped_hard_negatives": data.own if settings.mining.own_negatives == "replace" else 0,
        "input": data.counts,
        "settings": plain(settings),
    }
