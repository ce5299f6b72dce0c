"""The training command's door: one training, or several with mining in between, each round in a folder of its own."""

import dataclasses
from pathlib import Path

from e5ft import distributed
from e5ft.app.commands import definition
from e5ft.app.commands.data import TrainingData, load_file, split_dev
from e5ft.app.commands.mine import mine
from e5ft.app.commands.reading import training_data
from e5ft.app.commands.train import build_run, examine, train
from e5ft.app.runs import sweep
from e5ft.app.runs.folder import Job, RunFolder, current_job
from e5ft.app.runs.stopping import out_of_memory_explained, stopping_at_once
from e5ft.app.settings.build import plain
from e5ft.app.settings.groups import MineSettings, TrainSettings
from e5ft.app.settings.plan import DataPlan, DevShare, RowsFile, plan
from e5ft.app.telling.report import relative, saved_choices, say
from e5ft.app.telling.state import record, status_of
from e5ft.data.lines import is_file
from e5ft.data.remote import is_url
from e5ft.data.rows import row_lines
from e5ft.data.shards import find_shards
from e5ft.errors import ConfigurationError, ResumeRefusedError
from e5ft.files import read_json, replace_link, write_json, write_lines
from e5ft.modeling.loading import load_encoder
from e5ft.modeling.settings import ModelSource
from e5ft.retrieval.tables import aligned, difference_text
from e5ft.retrieval.verdict import check_verdict, metric_of, verdict_line


def train_rounds(settings: TrainSettings, data: TrainingData | None = None) -> float | None:
    """Run one training, or `rounds.count` of them with mining in between; with doctor=true only say whether it could run.

    Args:
        settings: of train.py.
        data: of these settings, where it has been read already.

    Returns:
        The best dev score; None without evaluation, when the last round's model is taken.

    Raises:
        ConfigurationError: what rounds or a resumed sweep cannot do.
        VerdictError: everything is written, and the verdict is not the one that `require` demands. A sweep's end tells of its own.
    """
    job = current_job(settings.name)
    if settings.doctor:
        examine(settings)
        return _offer(settings, job)
    if settings.sweep.resume:
        if not job.in_sweep:
            raise ConfigurationError("sweep.resume=true: needs a multirun (-m); to resume a run: resume=true")
        before = sweep.state_before(job.path, job.overrides)
        if before == "finished":
            say(f"job {job.path.name}: finished already, {relative(job.path)}")
            return read_json(job.path / "summary.json")["best"]["score"]
        settings = dataclasses.replace(settings, resume=before is not None)
    several = settings.rounds.count > 1
    score = _in_rounds(settings, job, data) if several else train(settings, job, data)
    if not job.in_sweep:
        _offer(settings, job)
        file = job.path / ("rounds.json" if several else "summary.json")
        check_verdict(settings.require, read_json(file)["verdict"]["word"], relative(file))
    return score


def _offer(settings: TrainSettings, job: Job) -> None:
    lines = saved_choices(job.overrides, plain(settings)["data"])
    if lines is not None:
        say(lines)


def _in_rounds(settings: TrainSettings, job: Job, data: TrainingData | None) -> float | None:
    data_plan = plan(settings)
    _check(settings, data_plan, job)
    explained = out_of_memory_explained(settings)
    with RunFolder(job, settings.resume) as folder, stopping_at_once(job.again), explained:
        _compare(settings, folder.path, data)
        folder.write_config(plain(settings))
        settings = _with_dev_file(settings, data_plan, folder.path)
        summaries = [_round(settings, folder.path, number) for number in range(1, settings.rounds.count + 1)]
        return _finish(summaries, folder.path)


def _check(settings: TrainSettings, data_plan: DataPlan, job: Job) -> None:
    if data_plan.mix is not None:
        raise ConfigurationError("rounds.count above 1 with data=mix: mine each source with mine.py, and mix the files")
    if job.in_sweep:
        raise ConfigurationError("rounds and --multirun do not go together: a sweep's jobs would each mine; run them one by one")
    source = data_plan.sources[0]
    if not all(is_url(file) or is_file(file) for file in find_shards(source.file, source.reading)):
        settings.data.refuse("train_file", "must be a local file or a URL (or several), to be mined again in rounds")


def _compare(settings: TrainSettings, path: Path, data: TrainingData | None) -> None:
    """Keep what defines the rounds, or refuse to resume others: a finished round is taken as it is.

    Raises:
        ResumeRefusedError: they are others, or nothing says which they are.
    """
    guide, device = build_run(settings, path).setup.guide, "cpu"
    data = data or training_data(settings)
    now = {
        **definition.of_settings(settings.for_data(data)),
        **definition.of_model(load_encoder(settings.model, device)),
        **definition.of_data(data),
        "guide": None if guide is None else definition.of_model(load_encoder(guide, device)),
        "rounds": definition.of_rounds(settings),
    }
    file = path / "rounds.json"
    then = record(file).get("definition") if settings.resume and file.is_file() else None
    if then is not None:
        return definition.refuse_another(then, now, file)
    if settings.resume and any(path.glob("round-*")):
        raise ResumeRefusedError(f"{file}: does not say which training the rounds beside it are of; choose another name=")
    if distributed.is_main():
        write_json(file, {"definition": now})


def _round(settings: TrainSettings, path: Path, number: int) -> dict:
    """Train one round, after mining with the model of the round before; what is there already is taken as it is."""
    folder = path / f"round-{number}"
    status = status_of(folder)
    if status is not None and status["state"] == "finished":
        say(f"\nround {number}: finished already, {relative(folder)}")
        return read_json(folder / "summary.json")
    settings = dataclasses.replace(settings, resume=status is not None)
    distributed.barrier()  # all have looked before one of them writes
    start = None
    if number > 1:
        previous = path / f"round-{number - 1}" / "model"
        settings = _mined(settings, previous, folder / "mined")
        if settings.rounds.start == "previous":
            settings, start = dataclasses.replace(settings, model=settings.model.at(previous)), number - 1
    say(f"\nround {number} of {settings.rounds.count}")
    train(settings, Job(folder, group=path.name, start_round=start))
    return read_json(folder / "summary.json")


def _mined(settings: TrainSettings, model: Path, output: Path) -> TrainSettings:
    """The settings with rows whose negatives the model found; it brings its own text format, shape and tokenizer."""
    if not (output / "mining.json").is_file():
        asked = settings.model
        mine(
            MineSettings(
                name=output.name,
                output_dir=str(output),
                rows_dir=None,
                rows_split="train",
                held_out="auto",
                batch_tokens=settings.evaluation.batch_tokens,
                seed=settings.seed,
                cache_dir=settings.cache_dir,
                device="cpu" if settings.training.use_cpu else "auto",
                data=settings.data,
                model=ModelSource(path=str(model), attention=asked.attention, seed=asked.seed),
                mining=settings.rounds.mining,
            ),
            in_rounds=True,
        )
    data = settings.data.with_standard_rows(str(output / "rows.jsonl"), settings.data.dev_file)
    return dataclasses.replace(settings, data=data)


def _with_dev_file(settings: TrainSettings, data_plan: DataPlan, path: Path) -> TrainSettings:
    """Write the dev rows into a file before the first round: they must be known as held out when negatives are mined."""
    source = data_plan.sources[0]
    evaluation = None if data_plan.evaluation is None else str(data_plan.evaluation.folder)
    data = dataclasses.replace(settings.data, train_file=source.file, columns=source.columns, eval_dir=evaluation)
    dev = data_plan.dev
    # One setting names the columns of both files, and those of mined rows are the standard ones.
    renamed = isinstance(dev, RowsFile) and not source.is_standard
    if renamed or isinstance(dev, DevShare):
        files = [path / f"{name}.jsonl" for name in ("train", "dev")]
        if distributed.is_main() and not (settings.resume and all(file.is_file() for file in files)):
            rows = load_file(source, settings)
            stores = (rows, load_file(dev, settings)) if renamed else split_dev(rows, data_plan)
            for store, file in zip(stores, files, strict=True):
                write_lines(file, row_lines(store))
        distributed.barrier()
        train_file, dev_file = map(str, files)
        data = data.with_standard_rows(train_file, dev_file)
    return dataclasses.replace(settings, data=data)


def _finish(summaries: list[dict], path: Path) -> float | None:
    """Point model/ at the best round's, or at the last one's where nothing was measured; write the table and print it."""
    scores = [summary["best"]["score"] for summary in summaries]
    measured = [i for i, score in enumerate(scores) if score is not None]
    taken = max(measured, key=scores.__getitem__) if measured else len(scores) - 1
    reason = "the best on the dev set" if measured else "the last: nothing was measured on the dev set (training.eval_strategy)"
    first, verdict = summaries[0], {**summaries[taken]["verdict"], "against": f"the start of round {taken + 1}"}
    metric = metric_of(first)
    whole = ", whole corpus" if first["chosen_on_test"] else ""  # while training the dev set's is cut
    head = ["round", f"dev {first['objective']}", f"{first['test_set']} {metric}{whole}", "against the round's start"]
    head += [f"{entry['set']} {metric}" for entry in first["keep"]]
    rows = [_line(number, summary, metric) for number, summary in enumerate(summaries, start=1)]
    if distributed.is_main():
        replace_link(path / "model", path / f"round-{taken + 1}" / "model")
        names = ("best", "scores", "differences", "keep", "verdict", "data")
        records = [{name: summary[name] for name in names} for summary in summaries]
        file = path / "rounds.json"
        write_json(file, {**read_json(file), "best": taken + 1 if measured else None, "verdict": verdict, "rounds": records})
    say(
        f"\n{aligned([head, *rows])}\n\nmodel       {relative(path)}/model is that of round {taken + 1}, {reason}"
        f"\nrecord      {relative(path)}/rounds.json, round-*/summary.json, round-*/mined/"
        f"\n\n{verdict_line(verdict)}"
    )
    distributed.barrier()
    return scores[taken]


def _line(number: int, summary: dict, metric: str) -> list[str]:
    score, difference = summary["best"]["score"], summary["differences"][metric]
    sets = [summary, *summary["keep"]]
    target, *keep = (f"{entry['scores']['after']['metrics'][metric]:.3f}" for entry in sets)
    change = difference_text(difference["mean"], difference["low"], difference["high"])
    return [str(number), "" if score is None else f"{score:.3f}", target, change, *keep]
