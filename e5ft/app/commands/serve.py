"""The serve command: a page on which queries are tried, and `/v1/embeddings`, until somebody ends it."""

import signal
import socket
from pathlib import Path

from e5ft.app.commands.reading import searched_set
from e5ft.app.runs.script import device_of
from e5ft.app.settings.verbs import ServeSettings
from e5ft.app.telling.report import header_line, say, text_format
from e5ft.errors import ConfigurationError, TerminatedError
from e5ft.modeling.loading import load_description, load_encoder
from e5ft.modeling.settings import ModelSource
from e5ft.retrieval.sets import RetrievalSet
from e5ft.serving.listening import address_of, is_local
from e5ft.serving.recorded import base_of, weight_of
from e5ft.serving.searching import BASE, MODEL, SideBySide


def serve(settings: ServeSettings, read: tuple[socket.socket, RetrievalSet] | None = None) -> None:
    """Answer until SIGINT or SIGTERM.

    Args:
        settings: of `e5ft serve`.
        read: the socket that listens and what is searched, where they are there already.

    Raises:
        TerminatedError: SIGTERM arrived.
    """
    signal.signal(signal.SIGTERM, _terminated)
    listening, retrieval_set = read or searched_set(settings)
    from e5ft.serving.server import Application, answer  # whose packages `searched_set` has found

    say(header_line("set", f"{len(retrieval_set.passages):,} passages, {len(retrieval_set.queries):,} judged queries"))
    sources, asked = {BASE: _base(settings), MODEL: settings.model}, settings.evaluation
    sources = {name: source for name, source in sources.items() if source is not None}
    models = {name: load_encoder(source, device_of(settings.device)) for name, source in sources.items()}
    labels = {name: source.label for name, source in sources.items()}
    for name, encoder in models.items():
        say(text_format(encoder, labels[name]))
    options = {"batch_tokens": asked.batch_tokens, "cache": Path(settings.cache_dir)}
    weight = weight_of(settings.model, asked.hybrid_weight)
    application = Application(SideBySide(retrieval_set, models, bm25=asked.bm25, weight=weight, **options), labels)
    url = address_of(listening)
    say(f"{header_line('page', url)}/\n{header_line('embeddings', url)}/v1/embeddings, model {labels[MODEL]!r}; Ctrl-C ends")
    if not is_local(settings.host):
        say(header_line("note", f"host={settings.host}: other machines can ask, too; there is no password"))
    answer(application.app(settings.host), listening)


def _base(settings: ServeSettings) -> ModelSource | None:
    """The model to show beside the other; of a run what is not there any more is left out."""
    try:
        source = base_of(settings.model, settings.base)
        if source is not None:
            load_description(source)
        return source
    except ConfigurationError as error:
        if settings.base != "auto":
            raise
        say(header_line("base", f"left out: {error}"))
        return None


def _terminated(*_: object) -> None:
    raise TerminatedError("serve: stopped by SIGTERM")
