"""The mining command: rows in, the same rows with hard negatives out, and what a person needs to trust them."""

import time
from pathlib import Path

import torch

from e5ft import distributed
from e5ft.app.commands.data import MiningData, load_file
from e5ft.app.commands.reading import DEV_ROWS, RECORD, ROWS, mining_data, model_source, rows_file
from e5ft.app.runs.folder import current_job
from e5ft.app.runs.script import device_of
from e5ft.app.settings.build import plain
from e5ft.app.settings.groups import MineSettings
from e5ft.app.settings.plan import DataPlan, RowsFile, plan
from e5ft.app.telling.mining_report import draw_mined_scores, mining_closing, mining_opening, next_command
from e5ft.app.telling.report import header_line, relative, say, text_format
from e5ft.data.rows import row_lines
from e5ft.data.store import RowStore
from e5ft.files import write_json, write_lines
from e5ft.gathering import joined
from e5ft.modeling.cross_encoder import CrossEncoder
from e5ft.modeling.encoder import Encoder
from e5ft.modeling.loading import load_encoder
from e5ft.modeling.settings import ModelSource
from e5ft.retrieval.approximate import check_method
from e5ft.retrieval.filters import apply_filters
from e5ft.retrieval.mined import examples, mined_lines, mined_rows, summarise
from e5ft.retrieval.mining import build_searches, find_candidates, gathered, select
from e5ft.retrieval.removals import questioned, removed, rows_without
from e5ft.retrieval.settings import MiningSettings
from e5ft.retrieval.vectors import digest_of_model

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
    device = joined(device_of(settings.device))
    source = model_source(settings.model, mining)
    check_method(mining.search)
    output = rows_file(settings)
    teacher = _cross_encoder(mining, device)  # first what may be missing, then what takes long
    data = data or mining_data(settings, source)
    say(mining_opening(mining, data))
    encoder = None if source is None else load_encoder(source, device)
    if encoder is not None:
        say(text_format(encoder))
        counts = f"{len(data.index.passages):,} passages, {len(data.index.queries):,} queries"
        say(header_line("encoding", f"{counts}; vectors are kept in {settings.cache_dir}"))
    cache = Path(settings.cache_dir)
    finders, scorer = build_searches(data.index, mining, encoder, batch_tokens=settings.batch_tokens, cache=cache)
    candidates, given = find_candidates(data.index, finders, mining, scorer)
    apply_filters(data.index, candidates, given, mining.limits, teacher)
    candidates, given = gathered(candidates), gathered(given)
    chosen = select(data.index, candidates, mining)
    summary = summarise(data.index, mining, candidates, given, chosen)
    summary["held_out"]["of_eval_dir"] = data.held_out
    if distributed.is_main():
        parts = (data.rows, data.index, mining, candidates, given, chosen)
        write_lines(output, mined_lines(mined_rows(*parts)))
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


def _dev_file(settings: MineSettings, data_plan: DataPlan, folder: Path) -> str | None:
    """The dev rows' file, read as the mined rows are: the same settings say how both files are read."""
    dev = data_plan.dev
    if not isinstance(dev, RowsFile) or (dev.is_standard and settings.data.on_bad_row == "fail"):
        return settings.data.dev_file
    write_lines(folder / DEV_ROWS, row_lines(load_file(dev, settings)))
    return relative(folder / DEV_ROWS)


def _cross_encoder(mining: MiningSettings, device: torch.device) -> CrossEncoder | None:
    asked = mining.cross_encoder
    if asked.path is None:
        return None
    return CrossEncoder(asked.path, device=device, max_length=asked.max_length, batch_size=asked.batch_size)


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
