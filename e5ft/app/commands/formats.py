"""What export.py tells of the formats beside the weights: where they are, how close int8 is, and what it loses on evaluation sets."""

from collections.abc import Sequence
from pathlib import Path

from e5ft.app.runs.script import device_of
from e5ft.app.settings.groups import ExportSettings
from e5ft.app.telling.report import relative, say
from e5ft.exporting.onnx import encoder_of, weigh
from e5ft.exporting.settings import FILES, GGUF_FILE, QUANTISED
from e5ft.files import read_json, write_json
from e5ft.modeling.encoder import Encoder
from e5ft.retrieval.comparison import score_two
from e5ft.retrieval.sets import RetrievalSet
from e5ft.retrieval.tables import difference_text, few_queries


def tell_formats(settings: ExportSettings, encoder: Encoder, folder: Path, sets: Sequence[RetrievalSet]) -> None:
    """Say what was written beside the weights; the loss of int8 is measured on every set and joins its record.

    Args:
        settings: of export.py.
        encoder: what was exported.
        folder: where it is.
        sets: to measure int8 on; may be empty.
    """
    files = {**FILES, "gguf": GGUF_FILE}
    for name in settings.formats:
        say(f"{relative(folder / files[name])}: {weigh(folder / files[name]) / 1e6:,.0f} MB")
    if "onnx_int8" not in settings.formats:
        return
    record = read_json(folder / QUANTISED)
    say("int8 against the weights: cosine at least {lowest:.4f}, {mean:.4f} in the mean, over probes".format(**record["cosine"]))
    weights, int8 = encoder.to(device_of(settings.device)), encoder_of(encoder, folder / FILES["onnx_int8"])
    for each in sets:
        found = score_two(int8, weights, each, settings.evaluation, seed=settings.seed)
        record.setdefault("sets", {})[each.name] = found
        metric, difference = found["metric"], found["difference"]
        shown = difference_text(difference["mean"], difference["low"], difference["high"])
        say(f"  {each.name}: {metric} of the weights {found['theirs']:.3f}, of int8 {found['ours']:.3f} ({shown})")
        for line in few_queries(each.name, found["queries"], metric, difference):
            say(line)
    write_json(folder / QUANTISED, record)
