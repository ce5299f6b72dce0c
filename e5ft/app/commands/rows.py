"""The rows command, from documents to rows, and the split command, from rows to a training, a dev and a test part."""

import os
from pathlib import Path

from e5ft.app.commands.data import corpus_texts, load_file
from e5ft.app.runs.folder import current_job
from e5ft.app.runs.script import device_of
from e5ft.app.settings.build import plain
from e5ft.app.settings.guard import OUTPUTS, folder_in
from e5ft.app.settings.plan import row_files
from e5ft.app.settings.verbs import RowsSettings, SplitSettings
from e5ft.app.telling.report import header_line, relative, say
from e5ft.data.shards import display
from e5ft.json_http import KEY
from e5ft.modeling.loading import load_encoder
from e5ft.synthesis import making, splitting, words
from e5ft.synthesis.chunks import cut
from e5ft.synthesis.documents import Left, read_documents
from e5ft.synthesis.folder import check_output
from e5ft.synthesis.generator import Generator
from e5ft.synthesis.queries import make_queries
from e5ft.synthesis.sifting import searching


def rows(settings: RowsSettings) -> None:
    """Make rows and an evaluation set of documents."""
    asked, seed, cache, left = settings.data, settings.seed, Path(settings.cache_dir), Left()
    output = check_output(_output(settings, "rows"), making.RECORD)
    say(f"e5ft: rows from {asked.corpus_file}")
    documents = read_documents(asked.corpus_file, asked.encoding, left, skip=asked.on_bad_row == "skip")
    found = cut(documents, settings.min_chars, settings.max_chars)
    chunks, copies = making.searched_chunks(found.chunks)
    say("\n".join(header_line(*line) for line in words.opening(found, left, chunks, copies)))
    queries, generator, encoder = make_queries(chunks, settings.kinds, settings.min_chars, seed), None, None
    if settings.round_trip is not None and settings.model is not None:
        encoder = load_encoder(settings.model, device_of(settings.device))
    say(header_line("round trip", words.round_trip(settings)))
    if settings.generator.url is not None:
        generator = Generator(settings.generator, os.environ.get(KEY), cache)
        calls = generator.asks(chunks, seed)
        say(header_line("generator", f"{settings.generator.model}: {generator.cost(calls)}"))
        queries += generator.queries(calls, chunks)
    shares = asked.dev_share, settings.test_share
    made = making.make(chunks, queries, settings.round_trip, searching("auto", encoder, cache), shares, seed)
    made.write(output, words.record(made, found, left, copies, generator) | {"settings": plain(settings)})
    say(words.closing(made, generator, relative(output), current_job(settings.name).overrides))


def split(settings: SplitSettings) -> None:
    """Set a dev part and a test part of rows apart."""
    asked, output = settings.data, check_output(_output(settings, "split"), splitting.RECORD, plain(settings))
    say(f"e5ft: {display(asked.train_file)}, in a training, a dev and a test part")
    [source] = row_files(settings)
    store = load_file(source, settings).limited(asked.max_train_rows, settings.seed)
    parts = splitting.divide(store, asked.dev_share, settings.test_share, settings.seed)
    record = {"read": store.read, "rejected": store.rejected, "settings": plain(settings)}
    splitting.write_parts(parts, output, record, corpus_texts(settings) or ())
    say(words.split_closing(parts, relative(output)))


def _output(settings: RowsSettings | SplitSettings, kind: str) -> Path:
    return Path(settings.output_dir) if settings.output_dir else folder_in(f"{OUTPUTS}/{kind}", settings.name)
