"""The check command: whether a server, a folder or a function gives the vectors of the exported model, and else what is wrong."""

import os
from collections.abc import Iterator
from pathlib import Path

from e5ft.app.settings.verbs import CheckSettings
from e5ft.app.telling.report import say
from e5ft.errors import ConfigurationError, ServedWrongError
from e5ft.exporting.golden import FILE, NFD, SPACES, Golden, read_golden
from e5ft.json_http import KEY, AnswerError
from e5ft.modeling.settings import model_folder
from e5ft.serving.asking import Way, answers_to
from e5ft.serving.diagnosis import Diagnosis, diagnose
from e5ft.serving.protocols import Client

_BY_CLIENT = {  # kinds of probes that the folder leaves to its clients
    NFD: "NFD is not safe in the exported folder: clients must send NFC, unicodedata.normalize('NFC', text)",
    SPACES: 'white space is kept in the exported folder: clients must send " ".join(text.split())',
}


def check(settings: CheckSettings) -> None:
    """Run one check.

    Raises:
        ConfigurationError: a target or reference that cannot be used.
        AnswerError: the target does not answer with the model's number of vectors and dimensions.
        ServedWrongError: it does, and they are others; the faults are printed, in words.
    """
    golden, wrong = reference(settings), []
    for way in _ways(settings, golden):
        name = way.name
        if way.encode is None:
            say(f"{name}: {way.why_not}")
            continue
        try:
            answers = answers_to(golden, way, settings.prefix)
        except AnswerError as error:
            raise error if str(error).startswith(settings.target) else AnswerError(f"{name}: {error}") from error
        found = diagnose(golden, answers, settings.least)
        say(f"{name}: {_in_words(found, settings.least)}")
        if found.refused:
            say(f"{name}: refuses over-long texts, {found.refused} probes; clients must cut them")
        wrong += [name] if found.faults else []
    for kind in golden.by_client:
        say(f"note: {_BY_CLIENT[kind]}; the probes were sent so")
    if wrong:
        by = "" if wrong == [settings.target] else f" by {', '.join(wrong)}"
        raise ServedWrongError(f"target={settings.target}: not served right{by}; see above what is wrong")


def reference(settings: CheckSettings) -> Golden:
    """The golden.json that the target is held against."""
    field = "target" if settings.golden is None else "golden"
    place = Path(os.path.expanduser(settings.golden or settings.target))
    if field == "target" and not place.is_dir() and ":" in settings.target:
        raise ConfigurationError("golden=null: must name the export that the target serves, or its golden.json: golden=DIR")
    is_it = place.is_file() or (place / FILE).is_file()
    return read_golden(place if is_it else model_folder(str(place), field))


def _ways(settings: CheckSettings, golden: Golden) -> Iterator[Way]:
    target = settings.target
    folder = os.path.expanduser(target)
    if "://" in target or ("/" in target.partition(":")[2] and not os.path.isdir(folder)):
        client = Client(target, settings.model_name, settings.api_key or os.environ.get(KEY), settings.timeout)
        yield Way(target, client.protocol.has_prompts, client)
        return
    from e5ft.app.runs.script import prepare_libraries  # what follows imports torch, which a server needs not
    from e5ft.serving.folders import function_of, ways_of

    prepare_libraries()
    if ":" in target and not os.path.isdir(folder):
        yield function_of(target)
        return
    yield from ways_of(Path(model_folder(folder, "target")), golden.pooling)


def _in_words(found: Diagnosis, least: float) -> str:
    if not found.faults:
        return f"served right: cosine at least {f'{least:g}'.removeprefix('0')} over {found.compared} probes"
    return f"{'; '.join(found.faults)} (lowest cosine {found.lowest:.4f} over {found.compared} probes)"
