"""What export.py tells of the formats beside the weights: where they are, how close int8 is, and what it loses on evaluation sets."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from e5ft.app.runs.script import device_of
from e5ft.app.settings.groups import ExportSettings
from e5ft.app.telling.report import relative, say
from e5ft.exporting.onnx import FILES, QUANTISED, encoder_of, weigh
from e5ft.files import read_json, write_json
from e5ft.modeling.encoder import Encoder
from e5ft.retrieval.comparison import paired_differences
from e5ft.retrieval.evaluation import score_model
from e5ft.retrieval.sets import RetrievalSet
from e5ft.retrieval.tables import difference_text, few_queries, headline, main_metric


def tell_formats(settings: ExportSettings, encoder: Encoder, folder: Path, sets: Sequence[RetrievalSet]) -> None:
    """Say what was written beside the weights; the loss of int8 is measured on every set and joins its record.

    Args:
        settings: of export.py.
        encoder: what was exported.
        folder: where it is.
        sets: to measure int8 on; may be empty.
    """
    for name in settings.formats:
        say(f"{relative(folder / FILES[name])}: {weigh(folder / FILES[name]) / 1e6:,.0f} MB")
    if "onnx_int8" not in settings.formats:
        return
    record = read_json(folder / QUANTISED)
    say("int8 against the weights: cosine at least {lowest:.4f}, {mean:.4f} in the mean, over probes".format(**record["cosine"]))
    metric = main_metric(headline(settings.evaluation.cutoffs))
    systems = {"weights": encoder.to(device_of(settings.device)), "int8": encoder_of(encoder, folder / FILES["onnx_int8"])}
    for each in sets:
        scores = {k: score_model(e, each, settings.evaluation, k, seed=settings.seed) for k, e in systems.items()}
        difference = paired_differences(scores["int8"], scores["weights"], [metric], seed=settings.seed)[metric]
        values = {name: score.metrics[metric] for name, score in scores.items()}
        record.setdefault("sets", {})[each.name] = {metric: {**values, "difference": dataclasses.asdict(difference)}}
        shown = difference_text(difference.mean, difference.low, difference.high)
        say(f"  {each.name}: {metric} {values['weights']:.3f}, int8 {values['int8']:.3f} ({shown})")
        for line in few_queries(each.name, len(scores["int8"].scored), metric, dataclasses.asdict(difference)):
            say(line)
    write_json(folder / QUANTISED, record)
