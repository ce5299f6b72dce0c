"""Train, mine hard negatives with the result, train again: rounds, each in a folder of its own."""

import dataclasses
import json
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from e5ft import distributed
from e5ft.app.configuration import plain
from e5ft.app.datasets import DEV_SPLIT, SAMPLE, columns
from e5ft.app.ending import recorded
from e5ft.app.memory import explained
from e5ft.app.mining import mine
from e5ft.app.run_folder import RunFolder
from e5ft.app.scoring import headline, main_metric
from e5ft.app.telling.report import relative, say
from e5ft.app.training import train
from e5ft.data.remote import is_url, local_file
from e5ft.data.rows import Columns
from e5ft.data.split import split_rows
from e5ft.data.store import RowStore, load_rows
from e5ft.errors import ConfigurationError
from e5ft.files import digest_of_file, read_json, replace_link, write_json, write_lines, write_text
from e5ft.retrieval.beir import has_split, set_folder
from e5ft.retrieval.table import aligned

# What may differ when going on with rounds.
_FREE = ("name", "resume", "sweep", "doctor", "tracking", "cache_dir")
_OUR_COLUMNS = {**dataclasses.asdict(Columns()), "ignore": []}  # of the files that rounds write
# A trained model brings its own contract, shape and tokenizer.
_TRAINED = {
    "init": "pretrained",
    "hub": None,
    "revision": None,
    "shape": None,
    "tokenizer": None,
    "pooling": None,
    "text": {},
    "lora": {"rank": None},
}


def train_rounds(config: DictConfig) -> float | None:
    """One training, or `rounds.count` of them with mining in between.

    Args:
        config: the composed configuration of train.py.

    Returns:
        The best dev score; None without evaluation, when the last round's model is taken.

    Raises:
        ConfigurationError: a value out of range, or what rounds cannot do.
    """
    count = config.rounds.count
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ConfigurationError(f"rounds.count={count!r}: a whole number of at least 1 is needed")
    if count == 1:
        return train(config)
    _check(config)
    folder = RunFolder(HydraConfig.get().runtime.output_dir, resume=config.resume)
    with recorded(folder, config.name), explained(config):
        if distributed.is_main():
            write_text(folder.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(plain(config))))
        given = {key: value for key, value in plain(config).items() if key not in _FREE}
        given["rows"] = digest_of_file(local_file(_source(config), Path(config.cache_dir)))
        folder.check_definition(given, config.resume)
        config = _with_dev_rows(config, folder.path)
        summaries = []
        for number in range(1, count + 1):
            summaries.append(_round(config, folder.path, number))
        best = _finish(summaries, folder.path)
    return best


def _check(config: DictConfig) -> None:
    if config.rounds.start not in ("base", "previous"):
        raise ConfigurationError(f"rounds.start={config.rounds.start!r}: base or previous is needed")
    if "mix" in config.data:
        raise ConfigurationError("rounds.count above 1 with data=mix: mine each source with mine.py, and mix the files")
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        raise ConfigurationError("rounds and --multirun do not go together: a sweep's jobs would each mine; run them one by one")
    if not is_url(_source(config)) and not Path(_source(config)).is_file():
        raise ConfigurationError(
            f"data.train_file={config.data.train_file}: rounds need a local file or a URL, to be mined again"
        )


def _source(config: DictConfig) -> str:
    return str(SAMPLE / "train.jsonl") if config.data.train_file is None else config.data.train_file


def _round(config: DictConfig, path: Path, number: int) -> dict:
    """Train one round, after mining with the model of the round before; what is there already is taken as it is."""
    folder = path / f"round-{number}"
    status = folder / "status.json"
    if status.is_file() and read_json(status)["state"] == "finished":
        say(f"\nround {number}: finished already, {relative(folder)}")
        return read_json(folder / "summary.json")
    config = config.copy()
    config.resume = status.is_file()
    distributed.barrier()  # all have looked before one of them writes
    if number > 1:
        previous = path / f"round-{number - 1}" / "model"
        config.data = _mined(config, previous, folder / "mined" / "rows.jsonl")
        if config.rounds.start == "previous":
            config.model = {**config.model, "path": str(previous), "init": "pretrained"}
    say(f"\nround {number} of {config.rounds.count}")
    train(config, folder, group=path.name)
    return read_json(folder / "summary.json")


def _mined(config: DictConfig, model: Path, output: Path) -> DictConfig:
    """The `data` group with rows whose negatives the model found."""
    if not (output.parent / "mining.json").is_file():
        mining = OmegaConf.to_container(config.rounds.mining, resolve=True)
        given = {
            **mining,
            "data": OmegaConf.to_container(config.data, resolve=True),
            "model": {**OmegaConf.to_container(config.model, resolve=True), **_TRAINED, "path": str(model)},
            "name": output.parent.name,
            "output_file": str(output),
            "rows_dir": None,
            "rows_split": "train",
            "corpus_file": None,
            "held_out": "corpus",
            "batch_tokens": config.evaluation.batch_tokens,
            "seed": config.seed,
            "cache_dir": config.cache_dir,
            "device": "cpu" if config.training.use_cpu else "auto",
        }
        mine(OmegaConf.create(given))
    data = config.data.copy()
    data.train_file = str(output)
    data.columns = _OUR_COLUMNS
    return data


def _with_dev_rows(config: DictConfig, path: Path) -> DictConfig:
    """Cut the dev rows off before the first round, into a file: they must be known as held out when negatives are mined."""
    data = config.data
    sample = data.train_file is None
    eval_dir = data.eval_dir or (str(SAMPLE / "eval") if sample and data.dev_file is None else None)
    config = config.copy()
    config.data.train_file, config.data.eval_dir = _source(config), eval_dir
    if data.dev_file is not None:
        return config
    if eval_dir is not None and has_split(set_folder(eval_dir, data.eval_split, Path(config.cache_dir)), DEV_SPLIT):
        return config
    files = {name: path / f"{name}.jsonl" for name in ("train", "dev")}
    if distributed.is_main() and not all(file.is_file() for file in files.values()):
        rows = load_rows(_source(config), columns(data), Path(config.cache_dir), on_bad_row=data.on_bad_row)
        for store, file in zip(split_rows(rows, data.dev_share, config.seed), files.values(), strict=True):
            write_lines(file, _lines(store))
    distributed.barrier()
    config.data.train_file, config.data.dev_file = map(str, files.values())
    config.data.columns = _OUR_COLUMNS
    return config


def _lines(store: RowStore):
    for row in store:
        found = {"query": row.query, "document": list(row.positives), "hard_negative": list(row.negatives)}
        yield json.dumps({**found, "scores": list(row.scores)} if row.scores else found, ensure_ascii=False)


def _finish(summaries: list[dict], path: Path) -> float | None:
    """Point model/ at the best round's, or at the last one's where nothing was measured; write the table and say it."""
    scores = [summary["best"]["score"] for summary in summaries]
    measured = [i for i, score in enumerate(scores) if score is not None]
    taken = max(measured, key=scores.__getitem__) if measured else len(scores) - 1
    reason = "the best on the dev set" if measured else "the last: nothing was measured on the dev set (training.eval_strategy)"
    metric = main_metric(headline(sorted({int(name.rpartition("@")[2]) for name in summaries[0]["scores"]["after"]["metrics"]})))
    head = ["round", f"dev {summaries[0]['objective']}", f"{summaries[0]['test_set']} {metric}", "against the round's start"]
    head += [f"{entry['set']} {metric}" for entry in summaries[0]["keep"]]
    rows = [_line(number, summary, metric) for number, summary in enumerate(summaries, start=1)]
    if distributed.is_main():
        replace_link(path / "model", path / f"round-{taken + 1}" / "model")
        kept = ("best", "scores", "differences", "keep", "data")
        record = [{name: summary[name] for name in kept} for summary in summaries]
        write_json(path / "rounds.json", {"best": taken + 1 if measured else None, "rounds": record})
    say(
        f"\n{aligned([head, *rows])}\n\nmodel       {relative(path)}/model is that of round {taken + 1}, {reason}"
        f"\nrecord      {relative(path)}/rounds.json, round-*/summary.json, round-*/mined/"
    )
    return scores[taken]


def _line(number: int, summary: dict, metric: str) -> list[str]:
    score, difference = summary["best"]["score"], summary["differences"][metric]
    return [
        str(number),
        "" if score is None else f"{score:.3f}",
        f"{summary['scores']['after']['metrics'][metric]:.3f}",
        f"{difference['mean']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}]",
        *(f"{entry['scores']['after']['metrics'][metric]:.3f}" for entry in summary["keep"]),
    ]
