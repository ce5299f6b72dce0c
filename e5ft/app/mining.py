"""The mining job: rows in, the same rows with hard negatives out, and what a person needs to trust them."""

import dataclasses
import json
import os
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from omegaconf import DictConfig, OmegaConf

from e5ft import distributed
from e5ft.app import configuration
from e5ft.app.mining_data import MiningData, load_mining_data
from e5ft.app.places import OUTPUTS, below
from e5ft.app.telling.report import draw_mined_scores, mining_closing, mining_opening, say
from e5ft.data.lines import MAX_LINE_BYTES
from e5ft.errors import ConfigurationError, DataError
from e5ft.files import read_json, write_json, write_lines
from e5ft.modeling.cross_encoder import CrossEncoder
from e5ft.modeling.encoder import Encoder
from e5ft.modeling.loading import ModelSource, load_encoder
from e5ft.retrieval import candidates as sources
from e5ft.retrieval.approximate import approximate, check_method, search
from e5ft.retrieval.bm25 import BM25
from e5ft.retrieval.candidates import Finder, Problem, Scorer
from e5ft.retrieval.mined import examples, mined_rows, summarise
from e5ft.retrieval.mining import apply_filters, find_candidates, gathered, select
from e5ft.retrieval.selection import Limits, Selection
from e5ft.retrieval.vectors import digest_of_weights, encode_collection


def mine(config: DictConfig) -> float:
    """Run one mining job.

    Args:
        config: the composed configuration of mine.py.

    Returns:
        Negatives a row, on average.
    """
    began = time.monotonic()
    device = _join(configuration.device(config))
    selection, limits = _selection(config), _limits(config)
    source = _model_source(config, selection)
    _check_scores(selection, limits, source)
    check_method(config.search)
    output = _output(config)
    teacher = _teacher(config, device)  # first what may be missing, then what takes long
    data = load_mining_data(config)
    say(mining_opening(source, selection, data))
    encoder = None if source is None else load_encoder(source, device)
    finders, scorer = _finders(config, selection, encoder, data.problem)
    candidates, documents = find_candidates(data.problem, finders, selection, scorer)
    apply_filters(data.problem, candidates, documents, limits, teacher)
    candidates, documents = gathered(candidates), gathered(documents)
    chosen = select(data.problem, candidates, selection)
    summary = summarise(data.problem, selection, candidates, documents, chosen)
    if distributed.is_main():
        found = (data.rows, data.problem, selection, candidates, documents, chosen)
        write_lines(output, _checked_lines(mined_rows(*found)))
        summary |= {"examples": examples(mined_rows(*found), len(chosen), config.seed)}
        summary |= _provenance(config, source, encoder, data, output) | {"seconds": round(time.monotonic() - began, 1)}
        write_json(output.parent / "mining.json", summary)
        draw_mined_scores(summary, output.parent / "mining.png")
    say(mining_closing(summary, selection, limits, output))
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
        # A day: the processes meet after each has filtered its own share, and a cross-encoder's shares are never even.
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(days=1))
    return device


def _selection(config: DictConfig) -> Selection:
    given = OmegaConf.to_container(config, resolve=True)
    for field in ("sources", "window"):
        if not isinstance(given[field], list):
            raise ConfigurationError(f"{field}={given[field]!r}: a list is needed, as {field}=[{given[field]}]")
    fields = ("per_query", "choose", "max_uses", "seed")
    return Selection(tuple(given["sources"]), tuple(given["window"]), **{field: given[field] for field in fields})


def _limits(config: DictConfig) -> Limits:
    given = OmegaConf.to_container(config.filters, resolve=True)
    alike = given.pop("near_duplicate")
    if alike is not None and alike["threshold"] is None:
        alike = None
    teacher = {}
    if config.cross_encoder.path is not None:
        teacher = {"teacher_margin": config.cross_encoder.margin, "teacher_max_score": config.cross_encoder.max_score}
    return Limits(near_duplicate=alike, **given, **teacher)


def _model_source(config: DictConfig, selection: Selection) -> ModelSource | None:
    """None where no model is named.

    Raises:
        ConfigurationError: a source needs a model, and there is none but one of random weights.
    """
    model = config.model
    named = model.path is not None or model.hub is not None or model.init == "random"
    source = configuration.model_source(config) if named else None
    dense = [name for name in selection.sources if name in ("dense", "fused")]
    if source is not None and source.init == "random":
        if dense:
            raise ConfigurationError(
                f"model: {source.label}: what it finds and how it scores is noise; name a trained model (model.path=DIR), "
                "or mine without one: sources=[bm25]"
            )
        return None  # its scores would be noise as well
    if source is None and dense:
        raise ConfigurationError(
            f"sources={list(selection.sources)}: {dense[0]} needs a model (model.path=DIR, model=e5_small); "
            "without one: sources=[bm25]"
        )
    return source


def _check_scores(selection: Selection, limits: Limits, source: ModelSource | None) -> None:
    if source is None and "bm25" not in selection.sources and limits.need_scores:
        raise ConfigurationError(
            f"sources={list(selection.sources)} without a model: nothing gives the scores that filters.percent, margin and "
            "max_score compare; name a model (model.path=DIR), or switch them off (filters.percent=null)"
        )


def _teacher(config: DictConfig, device: torch.device) -> CrossEncoder | None:
    if config.cross_encoder.path is None:
        return None
    given = config.cross_encoder
    return CrossEncoder(given.path, device=device, max_length=given.max_length, batch_size=given.batch_size)


def _finders(
    config: DictConfig, selection: Selection, encoder: Encoder | None, problem: Problem
) -> tuple[dict[str, Finder], Scorer | None]:
    """What each source finds, and one scorer for all: the model, else BM25, else none."""
    finders: dict[str, Finder] = {"random": sources.random_finder(problem, selection.seed)}
    scorer = None
    if "bm25" in selection.sources or "fused" in selection.sources:
        bm25 = BM25(problem.passages, tokenisation=config.bm25)
        finders["bm25"] = sources.remembered(sources.bm25_finder(bm25, problem))
        scorer = sources.bm25_scorer(bm25, problem)
    if encoder is not None:
        say(
            f"  encoding    {len(problem.passages):,} passages, {len(problem.queries):,} queries; vectors are kept in {config.cache_dir}"
        )
        given = dict(batch_tokens=config.batch_tokens, cache=Path(config.cache_dir))
        passages = encode_collection(encoder, problem.passages, "passage", **given)
        queries = encode_collection(encoder, problem.queries, "query", **given)
        scorer = sources.dense_scorer(queries, passages)

        def dense(chosen, depth):
            options = dict(method=config.search, device=encoder.device, seed=config.seed, folder=Path(config.cache_dir))
            return search(queries[chosen], passages[: problem.candidates], depth, **options)[1]

        finders["dense"] = sources.remembered(dense)
    if "fused" in selection.sources:
        finders["fused"] = sources.fused_finder(finders["dense"], finders["bm25"])
    return finders, scorer


def _output(config: DictConfig) -> Path:
    """Where the rows go.

    Raises:
        ConfigurationError: no .jsonl, the input itself, a foreign file, or a folder whose mining.json speaks of another one.
    """
    own = below(f"{OUTPUTS}/mined", config.name) / "rows.jsonl"
    output = own if config.output_file is None else Path(config.output_file)
    if output.suffix != ".jsonl":
        raise ConfigurationError(f"output_file={output}: a name that ends in .jsonl is needed")
    for field in ("train_file", "dev_file"):
        given = config.data[field]
        if given is not None and Path(given).resolve() == output.resolve():
            raise ConfigurationError(f"output_file={output}: this is data.{field}; name a new file")
    record = output.parent / "mining.json"
    # Below outputs/ it is a job's own that a kill left half done: rounds go on there.
    ours = record.is_file() or output.resolve().is_relative_to(Path(OUTPUTS).resolve())
    if output.is_symlink() or (output.exists() and not ours):
        raise ConfigurationError(f"output_file={output}: there is such a file, which mine.py did not write; name a new one")
    if record.is_file() and read_json(record).get("output_file") not in (None, output.name):
        raise ConfigurationError(f"output_file={output}: {record} belongs to another file there; name another folder")
    return output


def _checked_lines(rows: Iterable[dict]) -> Iterator[str]:
    for number, row in enumerate(rows, start=1):
        line = json.dumps(row, ensure_ascii=False, allow_nan=False)
        if len(line.encode()) >= MAX_LINE_BYTES:
            raise DataError(
                f"row {number} would be a line of {len(line.encode()):,} bytes, which train.py refuses; lower per_query"
            )
        yield line


def _provenance(config: DictConfig, source: ModelSource | None, encoder: Encoder | None, data: MiningData, output: Path) -> dict:
    """What made the file, so that it can be made again."""
    return {
        "output_file": output.name,
        "source": data.label,
        "model": None if source is None else source.label,
        "model_digest": None if encoder is None else digest_of_weights(encoder),
        "approximate": approximate(config.search) and encoder is not None,
        "dropped_hard_negatives": data.dropped,
        "input": dataclasses.asdict(data.counts),
        "settings": configuration.plain(config),
    }
