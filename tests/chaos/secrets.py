"""Canary secrets in the environment and in overrides, small real runs, and every byte they leave searched for them."""

import base64
import dataclasses
import gzip
import io
import os
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.app.conftest import TINY
from tests.chaos.forking import Warm

ENVIRONMENT = {
    "WANDB_API_KEY": "c0ffee15ca9a4b1e5ec4e75c0ffee15ca9a4b1e5",
    "HF_TOKEN": "hf_CanaryEnvironmentqWeRtYuIoPaSdFgHjK",
    "AWS_ACCESS_KEY_ID": "AKIACANARY0QWERTYUIO",
    "AWS_SECRET_ACCESS_KEY": "CanaryAws/KLMNOPQRSTUVWXYZabcdefghijklmn",
    "OPENAI_API_KEY": "sk-proj-CanaryOpenAI0123456789abcdefghijklmnop",
    "MY_DATABASE_PASSWORD": "CanaryDatabase-correct-horse",
}
TOKEN = "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"
PASSWORD = "CanaryUrl-battery-staple"
FIELD = "CanaryField-of-some-service"
CANARIES = {**ENVIRONMENT, "a token": TOKEN, "an address's password": PASSWORD, "a field": FIELD}

ADDRESS = f"https://user:{PASSWORD}@localhost/rows.jsonl"
UNKNOWN = f"+my_api_key={FIELD}"
# Only a loss of one's own has fields that may hold a secret.
OWN_LOSS = ("--config-dir=theirs", "loss=leaky", f"+loss.my_token={FIELD}", f"+loss.more={{password: {FIELD}}}")
KEY = (*OWN_LOSS, "loss.where=nowhere")
RUN = (*TINY, "training.max_steps=1", "evaluation.bm25=null", "data.max_train_rows=100", "tracking.wandb=offline")
LEAKY_LOSS = """
import os
from e5ft.training.losses import InfoNCE
class Leaky(InfoNCE):
    def __init__(self, my_token, more, where, **rest):
        super().__init__(**rest)
        self.my_token, self.where = my_token, where
        if where == "early":
            raise ValueError(f"cannot log in with {my_token} or {os.environ['HF_TOKEN']}")
    def forward(self, embeddings, step):
        if self.where == "nowhere":
            return super().forward(embeddings, step)
        raise RuntimeError(f"cannot log in with {self.my_token} or {os.environ['HF_TOKEN']}")
"""


@dataclasses.dataclass(frozen=True)
class Command:
    """A command with canaries in it.

    Attributes:
        name: of the files that hold what it prints.
        script, arguments: the command.
        code: the exit code that shows it did what it is here for.
        quick: whether it is of the small share that the test suite runs.
    """

    name: str
    script: str
    arguments: tuple[str, ...]
    code: int
    quick: bool = False


COMMANDS = [
    Command("train", "train.py", ("name=good", *KEY, *RUN), 0, True),
    Command("unknown-key", "train.py", ("name=key", UNKNOWN, *RUN), 2, True),
    Command("again", "train.py", ("name=good", *KEY, *RUN), 2),
    Command("resume", "train.py", ("name=good", "resume=true", *KEY, *RUN), 0),
    Command("resume-other", "train.py", ("name=good", "resume=true", *KEY, "loss.temperature=0.5", *RUN), 2),
    Command("hydra-log", "train.py", ("name=log", *KEY, "hydra/job_logging=default", "hydra.verbose=true", *RUN), 0),
    Command("address", "train.py", ("name=address", f"data.train_file='{ADDRESS}'"), 2, True),
    Command("unknown-field", "train.py", (f"loss.temprature={TOKEN}",), 2, True),
    Command("unknown-secret", "train.py", (f"loss.my_token={FIELD}",), 2, True),
    Command("unknown-group", "train.py", (f"loss={TOKEN}",), 2),
    Command("syntax", "train.py", (f"loss={{my_token: {FIELD}",), 2),
    Command("option", "train.py", (f"--token={FIELD}",), 2),
    Command("wrong-type", "train.py", (f"optimizer.lr={TOKEN}", "name=type"), 2, True),
    Command("owned", "train.py", (f"training.hub_token={TOKEN}",), 2),
    Command("folder-name", "train.py", (f"name={TOKEN}",), 2, True),
    Command("entity", "train.py", (f"tracking.entity={TOKEN}", "name=entity"), 2, True),
    Command("tags", "train.py", (f"tracking.tags=[a,{TOKEN}]", "name=tags"), 2),
    Command("project", "train.py", (f"tracking.project={ENVIRONMENT['WANDB_API_KEY']}", "name=project"), 2),
    Command("model", "train.py", (f"model.path=/nowhere/{TOKEN}", "name=model"), 2),
    Command("hub", "train.py", ("model=folder", f"model.hub={ENVIRONMENT['AWS_SECRET_ACCESS_KEY']}", "name=hub"), 2),
    Command("class", "train.py", (f"optimizer._target_={TOKEN}.Adam", "name=class"), 2),
    Command("column", "train.py", (f"data.columns.query={ENVIRONMENT['OPENAI_API_KEY']}", "name=column"), 2),
    Command("hydra-folder", "train.py", ("hydra.output_subdir=.hydra", *KEY, "name=hydra"), 2, True),
    Command("crash", "train.py", ("name=crash", *OWN_LOSS, *RUN), 1, True),
    Command("crash-early", "train.py", ("name=early", *OWN_LOSS, "loss.where=early", *RUN), 2),
    Command("show", "train.py", ("--cfg=job", *KEY), 0, True),
    Command("show-all", "train.py", ("--cfg=all", *KEY, f"+hydra.job.env_set.MY_TOKEN={FIELD}"), 0),
    Command("info", "train.py", ("--info=all", *KEY), 0),
    Command("eval", "eval.py", ("model.path=outputs/good/model", "evaluation.intervals=20"), 0, True),
    Command("eval-field", "eval.py", ("model.path=outputs/good/model", f"+my_secret={FIELD}"), 2),
    Command("eval-address", "eval.py", ("model.path=outputs/good/model", f"data.dev_file='{ADDRESS}'"), 2),
    Command("eval-compare", "eval.py", ("model.path=outputs/good/model", f"compare=/nowhere/{TOKEN}"), 2),
    Command("export", "export.py", ("model.path=outputs/good/model", "output_dir=exported"), 0, True),
    Command("export-field", "export.py", ("model.path=outputs/good/model", "output_dir=field", f"+hub_token={FIELD}"), 2),
    Command("export-token", "export.py", ("model.path=outputs/good/model", f"output_dir={TOKEN}"), 2),
    Command("push", "export.py", ("model.path=outputs/good/model", "output_dir=pushed", "push=me/model"), 1),
    Command("mine", "mine.py", ("name=m", "sources=[bm25]", "per_query=1", "data.max_train_rows=50"), 0, True),
    Command("mine-field", "mine.py", ("sources=[bm25]", f"+my_secret={FIELD}"), 2),
    Command("mine-address", "mine.py", ("name=n", "sources=[bm25]", f"data.corpus_file='{ADDRESS}'"), 2),
    Command("sweep", "train.py", ("-m", "name=s", "loss.temperature=0.05,-1", *KEY, *RUN), 1, True),
    Command("sweep-of-tokens", "train.py", ("-m", "name=t", f"optimizer.lr={TOKEN},{TOKEN}", *RUN), 1),
    Command("rounds", "train.py", ("name=rounds", "experiment=iterative", "rounds.count=2", "rounds.mining.sources=[bm25]", *KEY, *RUN), 0),
    Command("online", "train.py", ("name=online", *KEY, *RUN, "tracking.wandb=online"), 0),
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Report:
    """What the search came to.

    Attributes:
        tried: commands run, each with the canaries of the environment and its own.
        leaks: `file: which canary`, for every one.
        files: files searched, members of archives included.
        unexpected: commands that ended otherwise than they should: what they would have written was not searched.
    """

    tried: int
    leaks: tuple[str, ...]
    files: int
    unexpected: tuple[str, ...] = ()


def run(*, quick: bool = False) -> Report:
    """Run the commands in a folder that is removed afterwards, and search what they left; `quick`: the test suite's share."""
    with tempfile.TemporaryDirectory() as folder:
        return run_in(Path(folder), quick)


def run_in(folder: Path, quick: bool) -> Report:
    """Run the commands and search what they left: their folder, their home, their temporary files, what they printed."""
    work, home, scratch = (folder / name for name in ("work", "home", "tmp"))
    for path in (work / "theirs/loss", home, scratch):
        path.mkdir(parents=True)
    (work / "theirs/leaky.py").write_text(LEAKY_LOSS)
    (work / "theirs/loss/leaky.yaml").write_text("defaults: [infonce, _self_]\n_target_: leaky.Leaky\nwhere: late\n")
    chosen, unexpected = [command for command in COMMANDS if command.quick or not quick], []
    with Warm(_environment(work, home, scratch)) as warm:
        for command in chosen:
            options_first = sorted(command.arguments, key=lambda argument: not argument.startswith("-"))  # as argparse wants them
            ended = warm.call(command.script, *options_first, cwd=work, out=folder / command.name)
            if ended.code != command.code:
                unexpected.append(f"{command.name}: exit code {ended.code}, not {command.code}: {ended.output[-500:]}")
    leaks, files = search(folder, CANARIES)
    return Report(len(chosen), tuple(leaks), files, tuple(unexpected))


def _environment(work: Path, home: Path, scratch: Path) -> dict[str, str]:
    """The machine's own, less its settings of the libraries at hand, with the canaries and every place inside the folder."""
    names = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "VIRTUAL_ENV")
    inside = {
        "HOME": home,
        "TMPDIR": scratch,
        "HF_HOME": home / "hf",
        "MPLCONFIGDIR": home / "mpl",
        "PYTHONPATH": work / "theirs",
    }
    calm = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "WANDB_BASE_URL": "http://127.0.0.1:9"}
    ours = {name: os.environ[name] for name in names if name in os.environ}
    return {**ours, **{name: str(path) for name, path in inside.items()}, **calm, **ENVIRONMENT}


# -- the search ------------------------------------------------------------------------------------------------------------


def search(folder: Path, canaries: Mapping[str, str]) -> tuple[list[str], int]:
    """Look for canaries, as they are and in base64, in the names and bytes of all files below a folder.

    Returns:
        `file: which canary` for each one found, and the number of files and members of archives searched.
    """
    leaks, count = [], 0
    shapes = {name: _shapes(value) for name, value in canaries.items()}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        texts = [(name, name.encode())]
        if path.is_symlink():
            texts.append((name, os.readlink(path).encode()))
        elif path.is_file():
            members = list(contents(name, path.read_bytes()))
            count += len(members)
            texts += members
        for where, text in texts:
            leaks += [f"{where}: {canary}" for canary, encoded in shapes.items() if any(shape in text for shape in encoded)]
    return list(dict.fromkeys(leaks)), count


def contents(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    """A file's bytes, and those of whatever it packs, at any depth."""
    yield name, data
    if data[:2] == b"\x1f\x8b":
        yield from contents(f"{name}[gz]", gzip.decompress(data))
    elif data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.namelist():
                yield f"{name}[{member}]", member.encode()
                yield from contents(f"{name}[{member}]", archive.read(member))
    elif data[257:262] == b"ustar":
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                if member.isfile():
                    yield from contents(f"{name}[{member.name}]", archive.extractfile(member).read())
    elif data[:4] == b":W&B":
        yield f"{name}[records]", _wandb_records(data)


def _wandb_records(data: bytes) -> bytes:
    """The content of a .wandb file, LevelDB's log: blocks of 32 KiB, and records that go on from one into the next."""
    parts, position = [], 7
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:  # too short for a record's head
            position += left
            continue
        length = int.from_bytes(data[position + 4 : position + 6], "little")
        parts.append(data[position + 7 : position + 7 + length])
        position += 7 + length
    return b"".join(parts)


def _shapes(value: str) -> Sequence[bytes]:
    """A value as it is, and what of it is in base64 whatever comes before."""
    inner = [base64.b64encode(b" " * shift + value.encode())[4 if shift else 0 : -4] for shift in range(3)]
    return [value.encode(), *inner]
