"""The audit command: what is wrong with rows, on a page, in a file and in a few lines, before anything is trained on them."""

import os
from pathlib import Path

from e5ft.app.commands.data import load_file, load_set
from e5ft.app.settings.guard import OUTPUTS, folder_in
from e5ft.app.settings.plan import BeirSplit, DataPlan, RowsFile, plan
from e5ft.app.settings.verbs import AuditSettings
from e5ft.app.telling.report import header_line, relative, say
from e5ft.auditing.audit import audit as audited
from e5ft.auditing.page import page, summary, verdict
from e5ft.auditing.rows import AuditedRows, left_out
from e5ft.data.rows import row_lines
from e5ft.data.sources import join_rows
from e5ft.errors import AuditError
from e5ft.files import write_json, write_lines, write_text
from e5ft.retrieval.sets import RetrievalSet


def audit(settings: AuditSettings) -> None:
    """Run one audit.

    Raises:
        AuditError: with strict=true, a fault is certain; everything is written.
    """
    if settings.write is not None and os.path.lexists(settings.write):
        settings.refuse("write", "is there already; name a new file")
    data_plan = plan(settings)
    say(f"e5ft: audit of {data_plan.display_name}")
    stores = [load_file(source, settings, data_plan.several_files) for source in data_plan.sources]
    store = stores[0] if data_plan.mix is None else join_rows(data_plan.mix, stores, settings.seed)
    rows = AuditedRows(store.limited(settings.data.max_train_rows, settings.seed))
    read = [(source.file, source.columns, source.reading) for source in data_plan.sources]
    names = ("",) if data_plan.mix is None else data_plan.mix.names
    encoder = _encoder(settings)
    found = audited(
        rows,
        left_out(stores, read, Path(settings.cache_dir), len(rows), settings.seed),
        sets=_sets(data_plan, settings),
        queries=settings.queries,
        seed=settings.seed,
        encoder=encoder,
        label=settings.model.label if settings.model else "",
        reads=None if encoder is None else (encoder.tokenizer, encoder.spec.text),
        source_names=names,
    )
    default = folder_in(f"{OUTPUTS}/audit", settings.name)
    folder = default if settings.output_dir is None else Path(settings.output_dir)
    if settings.write is not None:
        write_lines(settings.write, row_lines(found.clean()))
    record = found.to_dict()
    write_json(folder / "audit.json", record)
    write_text(folder / "audit.html", page(found, data_plan.display_name, settings.language, settings.write))
    say(summary(found))
    if settings.write is not None:
        say(
            header_line(
                "written", f"{settings.write}: {len(record['removals']['listed']):,} rows or hard negatives left out (audit.json)"
            )
        )
    say(header_line("page", relative(folder / "audit.html")))
    if settings.strict and found.faulty(certain=True):
        raise AuditError(f"strict=true: {verdict(found, 'en')}")


def _sets(data_plan: DataPlan, settings: AuditSettings) -> list[tuple[str, RetrievalSet]]:
    """The evaluation sets, each with its role."""
    named = [("test", data_plan.evaluation), ("dev", data_plan.dev), *((each.name, each) for each in data_plan.keep)]
    return [(role, load_set(each, settings)) for role, each in named if isinstance(each, BeirSplit | RowsFile)]


def _encoder(settings: AuditSettings):
    """The model that reads what BM25 found; None where none is named."""
    if settings.model is None:
        return None
    from e5ft.app.runs.script import device_of, prepare_libraries  # torch, without which an audit begins at once
    from e5ft.modeling.loading import load_encoder

    prepare_libraries()
    return load_encoder(settings.model, device_of(settings.device))
