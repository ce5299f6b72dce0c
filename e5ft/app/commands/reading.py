"""What a command reads before torch is imported and a model is looked for: a fault in a file is told within seconds."""

import os
import re
import socket
from pathlib import Path
from typing import Any

from e5ft import distributed
from e5ft.app.commands.data import (
    MiningData,
    TrainingData,
    load_evaluation_set,
    load_mining_data,
    load_searched_set,
    load_set,
    load_training_data,
)
from e5ft.app.runs.folder import check_free, current_job
from e5ft.app.settings.groups import EvalSettings, ExportSettings, MineSettings, TrainSettings
from e5ft.app.settings.guard import OUTPUTS, folder_in
from e5ft.app.settings.plan import BeirSplit, evaluation_source, locate_keep_sets, locate_set, plan
from e5ft.app.settings.verbs import ServeSettings
from e5ft.app.telling.report import say
from e5ft.data.all_texts import all_texts
from e5ft.data.shards import display, find_shards, stem
from e5ft.data.text import RECORD as MODEL_RECORD
from e5ft.errors import ConfigurationError, DataError
from e5ft.exporting.settings import FILES, GGUF_FILE, QUANTISED, check_packages
from e5ft.files import read_json
from e5ft.modeling.settings import ModelSource, model_folder, model_folders
from e5ft.retrieval.candidates import SOURCES, sources_that_need
from e5ft.retrieval.filters import FILTERS, need_scores
from e5ft.retrieval.mteb_suite import find_tasks
from e5ft.retrieval.sets import RetrievalSet, shrink_corpus
from e5ft.retrieval.settings import MiningSettings
from e5ft.serving.listening import listen
from e5ft.training.evaluation_cost import AUTO, LARGEST

ROWS, DEV_ROWS, RECORD = "rows.jsonl", "rows.dev.jsonl", "mining.json"

# What an export may consist of. Anything else in its place is somebody's work, and a folder is replaced as a whole.
_EXPORTED = re.compile(
    r"README\.md|[12]_(Pooling|Normalize)|[\w-]+\.json|[\w-]+\.safetensors|[\w.-]+\.(model|txt)|onnx|openvino|"
    rf"({'|'.join(map(re.escape, (*FILES.values(), QUANTISED, GGUF_FILE)))})(_data)?|openvino/openvino_model\.bin"
)


def read_first(verb: str, settings: Any) -> Any:
    """What a command is given beside its settings; None where it reads for itself.

    Of several processes the main one reads first, which takes torch.
    """
    return None if distributed.world_size() > 1 else _READERS.get(verb, lambda _: None)(settings)


def _training_data(settings: TrainSettings) -> TrainingData | None:
    """Of a new run. What is resumed, and a job of a sweep, have a folder that records a refusal."""
    if settings.doctor or settings.resume or settings.sweep.resume:
        return None
    job = current_job(settings.name)
    if job.in_sweep:
        return None
    check_free(job.path)
    return training_data(settings)


def training_data(settings: TrainSettings) -> TrainingData:
    """Say what is about to be trained on what, and read it."""
    data_plan = plan(settings)
    say(f"e5ft: {settings.model.label}, on {data_plan.display_name}")
    return load_training_data(data_plan, settings)


def evaluation_sets(settings: EvalSettings) -> list[RetrievalSet]:
    """Say what is about to be measured on what, and read it: the target, and the sets of data.keep_dir."""
    data = settings.data
    more = [f" and {len(names)} more" if names else "" for names in (settings.compare, data.keep_dir)]
    target = display(data.dev_file or data.eval_dir or "the shipped sample")
    say(f"e5ft: {settings.model.label}{more[0]}, measured on {target}{more[1]}")
    source = evaluation_source(settings)
    name = source.name if isinstance(source, BeirSplit) else stem(source.file)
    keep = locate_keep_sets(data.keep_dir, data.eval_split, Path(settings.cache_dir), name)
    return [load_evaluation_set(settings), *(load_set(each, settings) for each in keep)]


def suite_tasks(settings: EvalSettings) -> list[Any]:
    """Say what is about to be measured on how many of MTEB's tasks, and find them."""
    tasks = find_tasks(settings.tasks, settings.task_types, settings.languages)
    say(f"e5ft: {settings.model.label}, on {len(tasks)} of MTEB's tasks")
    return tasks


def searched_set(settings: ServeSettings) -> tuple[socket.socket, RetrievalSet]:
    """Take the address at which answers are given, say what is about to be searched, and read it."""
    if settings.base not in ("auto", None):
        model_folder(settings.base, "base")
    data, taken = settings.data, listen(settings.host, settings.port)
    named = data.eval_dir or data.dev_file or data.corpus_file or "the shipped sample"
    say(f"e5ft: {settings.model.label}, to search {display(named)}")
    return taken, load_searched_set(settings)


def _mining_data(settings: MineSettings) -> MiningData:
    source = model_source(settings.model, settings.mining)
    rows_file(settings)
    return mining_data(settings, source)


def mining_data(settings: MineSettings, source: ModelSource | None) -> MiningData:
    """Say which rows are about to get negatives, by which model, and read them."""
    data_plan = plan(settings)
    by = "without a model" if source is None else f"with {source.label}"
    say(f"e5ft: hard negatives for {data_plan.display_name}, {by}")
    return load_mining_data(data_plan, settings)


def model_source(source: ModelSource | None, mining: MiningSettings) -> ModelSource | None:
    """The model that finds and scores; None where no model is named, or only one with random weights.

    Raises:
        ConfigurationError: an unknown source of negatives, one that needs a trained model, or filters that compare scores
            where nothing gives any.
    """
    known = [entry.name for entry in SOURCES]
    if not set(mining.sources) <= set(known):
        mining.refuse("sources", f"must be any of {', '.join(known)}, each once")
    dense = sources_that_need("model", mining.sources)
    if source is not None and source.init == "random":
        if dense:
            raise ConfigurationError(
                f"model: {source.label}: what it finds and how it scores is noise; name a trained model (model.path=DIR), "
                "or mine without one: sources=[bm25]"
            )
        source = None  # its scores would be noise as well
    if source is None and dense:
        mining.refuse("sources", f"{dense[0]} needs a model (model.path=DIR, model=e5_small); without one: sources=[bm25]")
    if source is None and not sources_that_need("bm25", mining.sources) and need_scores(mining.limits):
        *names, last = (rule.name for rule in FILTERS if rule.needs_scores)
        raise ConfigurationError(
            f"sources={list(mining.sources)} without a model: nothing gives the scores that filters.{', '.join(names)} and "
            f"{last} compare; name a model (model.path=DIR), or switch them off (filters.percent=null)"
        )
    return source


def rows_file(settings: MineSettings) -> Path:
    """The file of rows in the folder to write; that of the dev rows, and the record, stand beside it.

    Raises:
        ConfigurationError: the folder is the input's, or holds such files that mine.py did not write.
    """
    default = folder_in(f"{OUTPUTS}/mined", settings.name)
    folder = default if settings.output_dir is None else Path(settings.output_dir)
    output, record = folder / ROWS, folder / RECORD
    files = [output, folder / DEV_ROWS]
    for field in ("train_file", "dev_file"):
        given = getattr(settings.data, field)
        given = () if given is None else find_shards(given, settings.data.reading)
        for written in files:
            if any(Path(file).resolve() == written.resolve() for file in given):
                raise ConfigurationError(f"output_dir={folder}: {written} is data.{field}; name another folder")
    # Below outputs/ it is a job's own that a kill left half done: rounds resume there.
    is_ours = record.is_file() or output.resolve().is_relative_to(Path(OUTPUTS).resolve())
    if os.path.lexists(folder) and not folder.is_dir():
        raise ConfigurationError(f"output_dir={folder}: must be a folder; this is a file, or a link to nothing")
    for written in files:
        if written.is_symlink():
            raise ConfigurationError(
                f"output_dir={folder}: {written} is a link, which mine.py would replace; name another folder"
            )
        if written.exists() and not is_ours:
            raise ConfigurationError(
                f"output_dir={folder}: holds a {written.name} that mine.py did not write; name another folder"
            )
    if record.is_file() and read_json(record).get("output_file") not in (None, ROWS):
        raise ConfigurationError(f"output_dir={folder}: {record} belongs to another file there; name another folder")
    return output


def export_target(settings: ExportSettings) -> Path:
    """The folder that an export writes: a new or empty one, or an earlier export, which is replaced whole.

    All that can be refused before anything is read is refused here.

    Raises:
        ConfigurationError: a package or a model's folder is not there, settings do not go together, or the folder holds
            anything that an export did not write, or is one of the models.
    """
    if settings.output_dir is None:
        raise ConfigurationError("output_dir=null: must name the folder to write (output_dir=DIR)")
    check_packages(settings.formats)
    if not settings.measures and (settings.data.eval_dir is not None or settings.data.keep_dir):
        raise ConfigurationError(
            "data.eval_dir, data.keep_dir: only merging, trimming and formats=[onnx_int8] use them (merge.base=DIR, trim.texts=FILE); "
            "to measure a model: eval.py"
        )
    all_texts(settings.trim.files, settings.data.columns, settings.data.reading, "trim.texts")  # reads nothing yet
    path, models = Path(settings.output_dir), _models_of(settings)
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise ConfigurationError(f"output_dir={path}: is a link or a file; name a new folder")
    if not path.is_dir():
        return path
    files = (file.relative_to(path).as_posix() for pattern in ("*", "onnx/*", "openvino/*") for file in path.glob(pattern))
    foreign = sorted(file for file in files if not _EXPORTED.fullmatch(file))
    config = path / "config.json"
    is_export = config.is_file() and MODEL_RECORD in read_json(config)
    if foreign or (any(path.iterdir()) and not is_export):
        raise ConfigurationError(
            f"output_dir={path}: holds other files ({', '.join(foreign[:3]) or 'a model'}); name a new folder"
        )
    if field := models.get(path.resolve()):
        raise ConfigurationError(f"output_dir={path}: this is {field}, which would be replaced; name a new folder")
    return path


def _models_of(settings: ExportSettings) -> dict[Path, str]:
    """The models' folders, and how each is named."""
    first, merge = settings.model.path, settings.merge
    named = {} if first is None else {Path(first).resolve(): "model.path"}
    for folder in model_folders(merge.models, "merge.models", first) if merge.models else ():
        named[Path(folder).resolve()] = "one of merge.models"
    if merge.base is not None:
        base = Path(model_folder(merge.base, "merge.base")).resolve()
        if named.get(base) == "model.path":
            merge.refuse("base", "this is model.path itself; must be the model before fine-tuning")
        named[base] = "merge.base"
    return named


def sets_to_measure(settings: ExportSettings) -> list[RetrievalSet]:
    """The target and the keep sets of an export; empty where nothing is to be measured or counted.

    Raises:
        ConfigurationError: several alphas, or a greedy soup, without data.eval_dir.
        DataError: an evaluation folder, or its split, is not there.
    """
    data, cache = settings.data, Path(settings.cache_dir)
    if data.eval_dir is None and settings.merge.how == "greedy":
        settings.merge.refuse("how", "needs data.eval_dir=DIR to choose by; all without choosing: merge.how=uniform")
    if data.eval_dir is None and isinstance(settings.merge.alpha, tuple):
        settings.merge.refuse("alpha", "needs data.eval_dir=DIR to choose by (and data.keep_dir=[DIR]), or one number")
    if data.eval_dir is None:
        if data.keep_dir:
            raise ConfigurationError("data.keep_dir: needs the target beside it, data.eval_dir=DIR")
        return []
    try:
        target = locate_set(data.eval_dir, data.eval_split, cache)
        sources = [target, *locate_keep_sets(data.keep_dir, data.eval_split, cache, target.name)]
    except DataError as error:
        reason = "what exports are measured on, so that the test split stays unseen"
        raise DataError(f"{error} (data.eval_split={data.eval_split}: {reason})") from error
    size = LARGEST if data.eval_corpus_size == AUTO else data.eval_corpus_size
    return [shrink_corpus(load_set(source, settings), size, seed=settings.seed) for source in sources]


def _export_sets(settings: ExportSettings) -> list[RetrievalSet] | None:
    export_target(settings)
    return sets_to_measure(settings) if settings.measures else None


_READERS = {
    "train": _training_data,
    "eval": lambda settings: evaluation_sets(settings) if settings.suite is None else suite_tasks(settings),
    "mine": _mining_data,
    "export": _export_sets,
    "serve": searched_set,
}
