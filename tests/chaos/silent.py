"""What once went wrong without a word is provoked: it must be refused by name, be told, or change no result."""

import dataclasses
import functools
import json
import random
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.chaos.commands import make_world
from tests.chaos.faults import Fault, install
from tests.chaos.forking import Ended, run_script
from tests.chaos.kills import IN_A_STEP, differences, fingerprint
from tests.chaos.report import table
from tests.chaos.silent_faults import RUN, STEPS, Case, cases, other_weights

QUICK = 12  # faults of a quick run
_FOLDERS = """data.train_file={0}rows.jsonl data.dev_file={0}dev.jsonl data.eval_dir={0}target data.keep_dir=[{0}kept]
    model.path={0}model step.guide={0}guide"""
_COMMANDS = {
    "train.py": f"""name=run model=folder tracking=off loss.false_negatives=guide optimizer.lr=0.01 training.warmup_steps=0
        training.max_steps={STEPS} training.per_device_train_batch_size=4 training.eval_steps=1 training.save_steps=1
        training.logging_steps=1 evaluation.bm25=null evaluation.intervals=20 cache_dir=cache {_FOLDERS.format("")}""",
    "eval.py": "cache_dir=ranked evaluation.intervals=20 data.eval_dir=target model.path=model",
}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a case.

    Attributes:
        kind, name, control: of the case.
        noticed: whether all was as it must be.
        silent: whether the command ended well and it was not.
        detail: what was not.
    """

    kind: str
    name: str
    control: bool
    noticed: bool
    silent: bool
    detail: str


class World:
    """Inputs, a cache, and a run that was killed: every case gets a copy.

    Args:
        folder: for it all; what was not noticed stays there to be looked at.
        prepare: called in each process in which a case is tried, with 0.
    """

    def __init__(self, folder: Path, prepare: Callable | None = None):
        self.folder, self.prepare = folder, prepare
        shutil.rmtree(folder, ignore_errors=True)
        world = make_world(folder / "world")
        shutil.move(world / "eval", world / "target")
        (world / "target/qrels/dev.tsv").unlink()
        rows = [json.loads(line) for line in (world / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
        dev = ({"query": f"{row['query']} {number}", "document": row["document"]} for number, row in enumerate(rows))
        (world / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in dev))
        shutil.copytree(world / "target", world / "kept")
        (world / "kept/corpus.jsonl").write_text(
            (world / "target/corpus.jsonl").read_text().replace('"text": "', '"text": "kept ')
        )
        shutil.copytree(world / "model", world / "guide")
        other_weights("guide")(world)
        shutil.rmtree(world / "outputs")
        self.fresh = functools.cache(self._fresh)
        self._must_end(self._call("train.py", "loss.temperature=0.5", world), 0)
        shutil.move(world / f"{RUN}/checkpoint-{STEPS}", world / "other-checkpoint")
        for name in ("outputs", "cache"):
            shutil.rmtree(world / name)
        self._must_end(self._call("train.py", "", world), 0)  # the cache of every case
        self._must_end(self._call("eval.py", "", world), 0)
        for name in ("outputs", "eval"):
            shutil.rmtree(world / name)
        shutil.copytree(world, folder / "killed")
        kill = Fault(IN_A_STEP[1], STEPS - 1)
        self._must_end(self._call("train.py", "", folder / "killed", lambda rank: install(kill, rank)), -9)

    def try_out(self, case: Case) -> Outcome:
        """Do what the case says to a copy, run its command, and judge."""
        work = self._copy("case", "killed" if case.killed else "world")
        said = case.do(work) or []
        before = _contents(work / RUN)
        ended = self._call(case.script, case.overrides.replace("{moved}", _FOLDERS.format("moved/")), work, self.prepare)
        wrong = [f"not said: {words.strip()}" for words in case.words if words not in ended.output]
        wrong += [f"said {ended.output.count(words)} times: {words}" for words in said if ended.output.count(words) != 1]
        if "damaged (" in ended.output and not said:
            wrong.append("something is said to be damaged")
        if ended.code != case.code:
            wrong.append(f"exit status {ended.code}, not {case.code}")
        elif ended.code == 0 and case.holds is not None:
            holds = case.holds(json.loads((work / RUN / "summary.json").read_text()))
            wrong += [] if holds else ["summary.json is not as it must be"]
        elif ended.code == 0:
            same_inputs = said or case.killed or case.control
            wrong += differences(self.fresh(case.script, None if same_inputs else case), _results(case.script, work))
        elif case.killed:
            wrong += [f"{path.relative_to(work)} changed" for path in _different(before, _contents(work / RUN))]
        if wrong:
            shutil.copytree(work, self.folder / f"{case.kind} {case.name}".replace("/", "-"), dirs_exist_ok=True)
            wrong.append(ended.output[-800:])
        return Outcome(case.kind, case.name, case.control, not wrong, bool(wrong) and ended.code == 0, "; ".join(wrong))

    def _fresh(self, script: str, case: Case | None) -> dict:
        """The results of a command on a fresh cache, after what a case does (None: nothing).

        Raises:
            RuntimeError: they are those of the world as it is, so that the case would show nothing.
        """
        work = self._copy("fresh", "world")
        for cache in ("cache", "ranked"):
            shutil.rmtree(work / cache)
        if case is not None:
            case.do(work)
        self._must_end(self._call(script, "", work), 0)
        results = _results(script, work)
        if case is not None and not differences(self.fresh(script, None), results):
            raise RuntimeError(f"{case.name}: changes nothing")
        return results

    def _copy(self, name: str, of: str) -> Path:
        shutil.rmtree(self.folder / name, ignore_errors=True)
        return shutil.copytree(self.folder / of, self.folder / name, symlinks=True)

    def _call(self, script: str, overrides: str, work: Path, prepare: Callable | None = None) -> Ended:
        fields = [override.partition("=")[0] for override in overrides.split()]
        fixed = [o for o in _COMMANDS[script].split() if not any(o.startswith((f"{field}=", f"{field}.")) for field in fields)]
        [ended] = run_script(script, [*fixed, *overrides.split()], work, prepare=prepare)
        return ended

    def _must_end(self, ended: Ended, code: int) -> None:
        if ended.code != code:
            raise RuntimeError(f"the world cannot be made: exit status {ended.code}, not {code}: {ended.output[-2000:]}")


def run(folder: Path, seed: int, quick: bool, prepare: Callable | None = None) -> list[Outcome]:
    """Try all cases, or every control and a seeded choice of the faults."""
    chosen = list(cases())
    if quick:
        faults = [case for case in chosen if not case.control]
        chosen = [*random.Random(seed).sample(faults, QUICK), *(case for case in chosen if case.control)]
    start, world, outcomes = time.monotonic(), World(folder, prepare), []
    for number, case in enumerate(chosen, start=1):
        outcomes.append(world.try_out(case))
        if number % 10 == 0 or number == len(chosen):
            print(f"[{time.monotonic() - start:5.0f} s] {number} of {len(chosen)}", flush=True)
    return outcomes


def lines(outcomes: Iterable[Outcome]) -> list[str]:
    """The table: by kind, how many faults were tried, noticed and silent, and how many controls went on."""
    rows: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        for kind in (outcome.kind, "all"):
            rows.setdefault(kind, []).append(outcome)
    rows["all"] = rows.pop("all")  # last
    head = ["once without a word", "tried", "noticed", "silent", "controls taken"]
    return table(head, ([kind, *_counts(of)] for kind, of in rows.items()))


def _counts(outcomes: list[Outcome]) -> tuple[int, int, int, str]:
    faults = [outcome for outcome in outcomes if not outcome.control]
    controls = [outcome.noticed for outcome in outcomes if outcome.control]
    noticed, silent = sum(o.noticed for o in faults), sum(o.silent for o in faults)
    return len(faults), noticed, silent, f"{sum(controls)}/{len(controls)}"


def _results(script: str, work: Path) -> dict:
    if script == "train.py":
        return fingerprint(work / RUN)
    return {
        str(path.relative_to(work)): path.read_text()
        for path in sorted(work.glob("eval/*/model/*"))
        if path.suffix in (".trec", ".json")
    }


def _contents(folder: Path) -> dict[Path, object]:
    """Every file of a run: what it holds, not how it is written."""
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for path in files.keys() & {folder / "metrics.jsonl"}:
        files[path] = [json.loads(line) for line in files[path].splitlines()]
    for path in files.keys() & {folder / "config.yaml"}:
        files[path] = files[path].replace(b"resume: true", b"resume: false")
    return files


def _different(one: dict[Path, object], other: dict[Path, object]) -> list[Path]:
    return [path for path in {**one, **other} if one.get(path) != other.get(path)]
