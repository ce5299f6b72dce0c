"""The serve command: a page on which queries are tried, and `/v1/embeddings`, until somebody ends it."""

import signal
import socket
from pathlib import Path
from types import FrameType

from e5ft.app.commands.reading import searched_set
from e5ft.app.runs.recorded import base_of, run_of, weight_of
from e5ft.app.runs.script import device_of
from e5ft.app.settings.groups import ServeSettings
from e5ft.app.telling.report import header_line, say, text_format
from e5ft.errors import ConfigurationError, TerminatedError
from e5ft.modeling.loading import load_description, load_encoder
from e5ft.modeling.settings import ModelSource, model_folder
from e5ft.retrieval.hybrid import DEFAULT_WEIGHT
from e5ft.retrieval.sets import RetrievalSet
from e5ft.serving.listening import address_of, is_local
from e5ft.serving.searching import BASE, MODEL, SideBySide


def serve(settings: ServeSettings, read: tuple[socket.socket, RetrievalSet] | None = None) -> None:
    """Answer until SIGINT or SIGTERM.

    Args:
        settings: of `e5ft serve`.
        read: the socket that listens and what is searched, where they are there already.

    Raises:
        TerminatedError: SIGTERM arrived.
    """
    from e5ft.serving import server  # whose packages `searched_set` has found

    before = signal.signal(signal.SIGTERM, _terminated)
    listening, retrieval_set = read or searched_set(settings)
    try:
        with listening:
            application = server.Application(*_searched(settings, retrieval_set))
            say(header_line("page", f"{address_of(listening)}/"))
            say(header_line("embeddings", f"{address_of(listening)}/v1/embeddings, model {application.name!r}; Ctrl-C ends"))
            if not is_local(settings.host):
                say(header_line("note", f"host={settings.host}: other machines can ask, too; there is no password"))
            server.serve(application.app(settings.host), listening)
    finally:
        signal.signal(signal.SIGTERM, before)


def _searched(settings: ServeSettings, retrieval_set: RetrievalSet) -> tuple[SideBySide, str, dict[str, str]]:
    """What is searched by what, the model's name, and the names of both models."""
    say(header_line("set", f"{len(retrieval_set.passages):,} passages, {len(retrieval_set.queries):,} judged queries"))
    evaluation, labels, models = settings.evaluation, {}, {}
    for name, source in (_base(settings), (MODEL, settings.model)):
        if source is not None:
            labels[name], models[name] = source.label, load_encoder(source, device_of(settings.device))
            say(text_format(models[name], source.label))
    options = {"batch_tokens": evaluation.batch_tokens, "cache": Path(settings.cache_dir)}
    searched = SideBySide(retrieval_set, models, bm25=evaluation.bm25, weight=_weight(settings), **options)
    return searched, settings.model.label, labels


def _base(settings: ServeSettings) -> tuple[str, ModelSource | None]:
    """The model to show beside the other; None where there is none."""
    run = run_of(settings.model.path)
    if settings.base not in ("auto", None):
        return BASE, ModelSource(path=model_folder(settings.base, "base"), seed=settings.seed, cache=settings.cache_dir)
    if settings.base is None or run is None:
        return BASE, None
    try:
        source = base_of(run, settings.cache_dir)
        load_description(source)
        return BASE, source
    except ConfigurationError as error:
        say(header_line("base", f"left out: {error}"))
        return BASE, None


def _weight(settings: ServeSettings) -> float | None:
    asked, run = settings.evaluation.hybrid_weight, run_of(settings.model.path)
    if asked != "auto":
        return asked
    known = None if run is None else weight_of(run)
    return DEFAULT_WEIGHT if known is None else known


def _terminated(number: int, frame: FrameType | None) -> None:
    raise TerminatedError("serve: stopped by SIGTERM")
