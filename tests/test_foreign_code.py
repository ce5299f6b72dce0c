"""Nothing that is loaded brings code along: no remote code, no pickle, no script of a hub."""

import ast
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from e5ft.errors import ConfigurationError
from e5ft.files import write_manifest
from e5ft.modeling.loading import load_encoder, save_encoder
from e5ft.modeling.settings import ModelSource
from e5ft.training.checkpoint import definition_of
from tests.app.conftest import composed, trained  # noqa: F401  fixtures
from tests.conftest import make_encoder

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / "e5ft").rglob("*.py"), *ROOT.glob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])
# Each runs what it reads, or hands it to a shell.
FORBIDDEN = {"eval", "exec", "compile", "pickle", "cloudpickle", "dill", "marshal", "shelve", "os.system", "os.popen", "torch.load",
             "torch.hub.load", "yaml.load", "yaml.unsafe_load", "joblib.load", "np.fromfile"}  # fmt: skip
REQUIRED = {"trust_remote_code": "False", "allow_pickle": "False", "weights_only": "True", "shell": "False"}
STEPS = ("training.max_steps=2", "training.save_steps=1", "training.eval_strategy=no", "training.load_best_model_at_end=false")


def faults(source: str) -> list[str]:
    """What a file does that this project never does, as `line: what`."""
    seen = []
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Call):
            name, given = ast.unparse(node.func), {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            seen += [f"{node.lineno}: {key}={value}" for key, value in given.items() if value != REQUIRED.get(key, value)]
            names = [] if name == "torch.load" and "weights_only" in given else [name]  # seen to be True above
            if name == "evaluate.load":
                seen.append(f"{node.lineno}: a metric from elsewhere")
            is_model = name.endswith(".from_pretrained") and name.startswith("AutoModel")
            if is_model and given.get("use_safetensors") != "True":
                seen.append(f"{node.lineno}: weights that may be a pickle")
        elif isinstance(node, ast.Constant) and node.value == "trust_remote_code":
            seen.append(f"{node.lineno}: trust_remote_code by name")
        seen += [f"{node.lineno}: {name}" for name in names if name in FORBIDDEN]
    return seen


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_loads_code(path):
    assert faults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "AutoConfig.from_pretrained(x, trust_remote_code=True)",
        "AutoConfig.from_pretrained(x, trust_remote_code=config.trust)",
        "AutoConfig.from_pretrained(x, **{'trust_remote_code': True})",
        "AutoModel.from_pretrained(x)",
        "AutoModelForSequenceClassification.from_pretrained(x, use_safetensors=None)",
        "torch.load(x)",
        "torch.load(x, weights_only=False)",
        "from torch import load",
        "import pickle",
        "np.load(x, allow_pickle=True)",
        "evaluate.load('recall')",
        "subprocess.run(x, shell=True)",
    ],
)
def test_the_check_sees(source):
    assert faults(source)


# -- hostile folders -------------------------------------------------------------------------------------------------------


EVIL = {"AutoConfig": "evil.Evil", "AutoModel": "modeling_evil.Evil", "AutoTokenizer": ["tokenization_evil.Evil", None]}


@pytest.fixture
def folder(tmp_path):
    """A good model, beside which code lies that says when it is run."""
    folder = tmp_path / "model"
    save_encoder(make_encoder(), folder)
    trap = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
    for name in ("evil.py", "tokenization_evil.py", "modeling_evil.py"):
        (folder / name).write_text(trap + "class Evil: pass\n")
    return folder


def edit(file: Path, **values) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_code_in_a_model_folder_is_never_run(folder):
    for file in ("config.json", "tokenizer_config.json"):
        edit(folder / file, auto_map=EVIL)
    vectors = load_encoder(ModelSource(path=str(folder))).encode(["w1 w2"], "query")
    assert vectors.shape == (1, 32) and not (folder.parent / "ran").exists()


def test_a_model_type_that_only_its_own_code_knows_is_refused(folder):
    edit(folder / "config.json", model_type="evil", auto_map=EVIL)
    with pytest.raises(ConfigurationError, match="not a usable model folder"):
        load_encoder(ModelSource(path=str(folder)))
    assert not (folder.parent / "ran").exists()


class Trap:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_pickled_weights_are_refused_unread(folder, tmp_path):
    torch.save({**load_file(folder / "model.safetensors"), "trap": Trap(tmp_path / "ran")}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigurationError, match="not a usable model folder"):
        load_encoder(ModelSource(path=str(folder)))
    assert not (tmp_path / "ran").exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)  # the trap is one
    assert (tmp_path / "ran").exists()


def test_all_that_resuming_reads_is_data(trained, monkeypatch):  # noqa: F811
    """Optimizer, scheduler and random states are transformers' torch.load: every one is weights_only."""
    folder = trained(*STEPS)[1]
    assert not list(folder.rglob("training_args.bin"))
    shutil.rmtree(folder / "checkpoint-2")  # as if it had been stopped after the first step
    loaded, load = [], torch.load

    def watched(file, *args, **kwargs):
        loaded.append((Path(file).name, kwargs.get("weights_only")))
        return load(file, *args, **kwargs)

    monkeypatch.setattr(torch, "load", watched)
    trained(*STEPS, "resume=true")
    assert {name for name, _ in loaded} >= {"optimizer.pt", "scheduler.pt", "rng_state.pth"}
    assert all(weights_only is True for _, weights_only in loaded)


def test_a_pickle_instead_of_a_state_is_not_run(trained, tmp_path):  # noqa: F811
    folder = trained(*STEPS)[1]
    shutil.rmtree(folder / "checkpoint-2")
    torch.save(Trap(tmp_path / "ran"), folder / "checkpoint-1" / "optimizer.pt")
    write_manifest(folder / "checkpoint-1", definition=definition_of(folder / "checkpoint-1"))  # by somebody who knows how
    with pytest.raises(Exception, match="(?i)weights.only"):
        trained(*STEPS, "resume=true")
    assert not (tmp_path / "ran").exists()
