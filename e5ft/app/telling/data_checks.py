"""What doctor=true finds in rows and evaluation sets."""

import contextlib
import itertools
import os
from pathlib import Path

from e5ft.app.settings.plan import BeirSplit, RowsFile, plan
from e5ft.app.telling.machine import Finding, fault, note, ok
from e5ft.app.telling.report import relative
from e5ft.data.lines import BadLine, is_file
from e5ft.data.remote import is_url
from e5ft.data.rows import read_rows
from e5ft.data.sampler import StepSampler
from e5ft.data.shards import display, find_shards
from e5ft.errors import DataError
from e5ft.training import schedule
from e5ft.training.evaluation_cost import steps_of

_QUICK = 50_000_000  # bytes of all files together that are read whole
_ROWS = 100_000  # read of each source where there is more
_MOST_LINES = 6  # of an error


def check_data(run) -> Finding:
    """Read all that a run reads where that is quick, else the first rows of each source, as strictly as a run does.

    Args:
        run: the PlannedRun.
    """
    data = plan(run.settings)
    parts = [part for part in (*data.sources, data.dev) if isinstance(part, RowsFile)]
    sets = [part.folder for part in (data.evaluation, data.dev, *data.keep) if isinstance(part, BeirSplit)]
    files = [shard for part in parts for shard in find_shards(part.file, part.reading)] + list(data.corpus_files)
    here = not any(is_url(str(name)) for name in (*files, *sets)) and all(map(is_file, files))
    if here and sum(map(_bytes, {*map(Path, files), *map(Path, sets)})) <= _QUICK:
        return _all_rows(run)
    return _first_rows(run, parts, sets)


def check_overlap(run) -> Finding:
    """Say what the evaluation sets share with the training rows, where these have been read."""
    if "data" not in vars(run):
        return ok("not looked at: a run counts what evaluation sets share with the training rows")
    overlaps = run.data.overlaps()
    text = "; ".join(overlap.sentence for overlap in overlaps if overlap.sentence)
    leaks = any(overlap.leaks for overlap in overlaps)
    return (note if leaks else ok)(text or "evaluation sets and training rows share no query and no judged passage")


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else path.stat().st_size


def _all_rows(run) -> Finding:
    """Load what a run loads, and say how many rows and steps that makes."""
    try:
        data = run.data
    except DataError as error:
        first, *more = str(error).splitlines()
        return fault("\n".join([first, *more] if len(more) < _MOST_LINES else [first, *more[:2], "...", *more[-2:]]))
    training = run.settings.for_data(data).training
    batch, processes = training.per_device_train_batch_size, int(os.environ.get("WORLD_SIZE", 1))
    sampler = StepSampler(len(data.train.rows), batch, training.gradient_accumulation_steps, world_size=processes)
    steps = steps_of(training, sampler.steps)
    dev, test = len(data.dev.queries), len(data.test.queries)
    queries = f"{test:,} dev queries, the test set as well" if data.dev_is_test else f"{dev:,} dev and {test:,} test queries"
    rejected = f" ({data.rows.rejected:,} rejected)" if data.rows.rejected else ""
    text = f"{data.label}: {data.rows.read:,} rows{rejected}, {len(data.train.rows):,} for training, {queries}"
    why, _ = schedule.reasons(vars(run.settings.training), len(data.train.rows), data.smallest_source)
    text += f"; {steps:,} steps of {sampler.step_rows:,}{why}"
    return note(text, "data.on_bad_row=skip leaves the rejected out") if data.rows.rejected else ok(text)


def _first_rows(run, parts: list[RowsFile], sets: list) -> Finding:
    texts, faults, count = [], [], 0
    for source in parts:
        name, notes = display(source.file), []
        files = (*find_shards(source.file, source.reading), *filter(None, [source.reading.corpus_file]))
        elsewhere = [file for file in files if is_url(file) or not is_file(file)]
        if elsewhere:
            texts.append(f"{name} ({'a URL' if is_url(elsewhere[0]) else 'a hub data set'}, not looked at)")
            continue
        with contextlib.closing(read_rows(source.file, source.columns, source.reading, notes)) as every:
            rows = list(itertools.islice(every, _ROWS))
        faults += [str(row) for _, row in rows if isinstance(row, BadLine)]
        count += len(rows)
        said = "".join(f"; {label} {text.removeprefix(f'{name}: ')}" for label, text in notes)
        rows_read = f"the first {len(rows):,} rows only" if len(rows) == _ROWS else f"{len(rows):,} rows"
        texts.append(f"{relative(Path(name))} ({rows_read}{said})")
    names = ", ".join(str(folder) if is_url(str(folder)) else relative(folder) for folder in dict.fromkeys(sets))
    text = ", ".join(texts) + (f"; evaluation, by its layout: {names}" if sets else "")
    if faults:
        text = faults[0] + (f" and {len(faults) - 1} more of the {count:,} rows looked at" if len(faults) > 1 else "")
        if run.settings.data.on_bad_row == "skip":
            return note(text, "data.on_bad_row=skip leaves them out")
        return fault(text, "mend the rows, or data.on_bad_row=skip to leave them out")
    return ok(text)
