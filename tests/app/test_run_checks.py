"""What the doctor concludes from settings, data and model, and from how much memory and disk is said to be free."""

import types

import pytest

from e5ft.app import run_checks as checks
from e5ft.errors import ConfigurationError, DataError
from e5ft.files import write_json
from e5ft.modeling.loading import load_encoder, save_encoder
from tests.app.conftest import TINY
from tests.conftest import make_encoder


@pytest.fixture
def config(composed):
    def compose(*overrides):
        return composed("train", "training.use_cpu=true", "tracking=off", *overrides)

    return compose


def test_settings(config, tmp_path):
    assert "64 queries a step on cpu" in checks.check_settings(config()).text
    for refused in ("loss.temperature=-1", "optimizer.lr=0", "model.lora.rank=0", "training.warmup_steps=-1"):
        with pytest.raises(ConfigurationError, match=refused.partition("=")[0]):
            checks.check_settings(config(refused))
    assert checks.check_settings(config("name=a", "resume=true")).state == "fault"
    for state, found in (("failed", "ok"), ("finished", "fault"), ("running", "fault")):
        write_json(tmp_path / "outputs/a/status.json", {"state": state})
        assert checks.check_settings(config("name=a")).state == found
        assert checks.check_settings(config("name=a", "resume=true")).state == "ok"


def test_data(config, write_rows):
    assert "train.jsonl (first 200 rows)" in checks.check_data(config()).text
    good = [{"query": f"q{i}", "document": f"d{i}"} for i in range(70)]
    assert checks.check_data(config(f"data.train_file={write_rows(good)}")).state == "ok"
    short = checks.check_data(config(f"data.train_file={write_rows(good[:40])}"))
    assert short.state == "fault" and "40 rows do not fill one step of 64" in short.text
    bad = write_rows([*good, {"query": "q", "document": " "}, {"query": "q"}])
    found = checks.check_data(config(f"data.train_file={bad}"))
    assert found.state == "fault" and "rows.jsonl:71: document is blank" in found.text and "and 1 more" in found.text
    assert checks.check_data(config(f"data.train_file={bad}", "data.on_bad_row=skip")).state == "note"
    for missing in ("data.train_file=nix.jsonl", "data.eval_dir=nix", "data.keep_dir=nix", "data.dev_file=nix.csv"):
        with pytest.raises(DataError, match="nix"):
            checks.check_data(config(missing))
    assert "not looked at" in checks.check_data(config("data.train_file=some/name")).text


def test_every_source_of_a_mix_is_looked_at(config, write_rows):
    good = write_rows([{"query": f"q{i}", "document": f"d{i}"} for i in range(70)], "good.jsonl")
    bad = write_rows([{"query": "q"}], "bad.jsonl")
    found = checks.check_data(config("data=mix", f"data.sources={{a: {good}, b: {bad}}}"))
    assert found.state == "fault" and "bad.jsonl:1" in found.text


def test_model(config, tmp_path):
    assert checks.check_model(config()).state == "note"  # random weights
    assert checks.check_model(config("model=e5_small")).state == "ok"  # the hub's: check_hub
    folder = tmp_path / "model"
    save_encoder(make_encoder(), folder)
    given = ("model=folder", f"model.path={folder}")
    assert "bert, 2 layers" in checks.check_model(config(*given)).text
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    assert "no *.safetensors" in checks.check_model(config(*given)).text
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ConfigurationError, match="tokenizer|usable"):
        checks.check_model(config(*given))
    (folder / "config.json").write_text("{")
    with pytest.raises(ConfigurationError, match="not a usable model folder"):
        checks.check_model(config(*given))
    with pytest.raises(ConfigurationError, match="no such folder"):
        checks.check_model(config("model.path=nix"))


def test_parameters_are_those_of_the_model(config):
    from e5ft.app.configuration import model_source

    for overrides in ((), ("model.lora.rank=4",)):
        small = config(*TINY, *overrides)
        plain = config(*TINY)
        encoder = load_encoder(model_source(plain))
        own = sum(p.numel() for p in encoder.parameters()) + sum(p.numel() for p in encoder.pooler[0].parameters())
        total, trained, spared = checks.parameters(small)
        if not overrides:
            assert (total, trained) == (own, own) and spared == encoder.backbone.get_input_embeddings().weight.numel()
        else:
            layers = 4 * 4 * (32 + 32) + 2 * 4 * (32 + 64)  # query, key, value and output; into and out of the wide layer
            assert (total, trained, spared) == (own + layers, layers, 0)
    assert checks.parameters(config("model=e5_small"))[0] == pytest.approx(118e6, rel=0.01)
    assert checks.parameters(config("model=folder", "model.hub=some/name")) is None


@pytest.mark.parametrize(
    ("free", "overrides", "state"),
    [
        (4e9, [], "ok"),
        (1.5e9, [], "note"),  # fits if the compact table leaves most embeddings out
        (1.5e9, ["training.compact_embedding=false"], "fault"),
        (1.5e9, ["model.lora.rank=8"], "ok"),
        (0.5e9, [], "fault"),
        (0, [], "ok"),  # not known
    ],
)
def test_memory(monkeypatch, config, free, overrides, state):
    """e5_small: 118 M parameters, 96 M of them token embeddings; 16 bytes each, or 4 where they are not trained."""
    monkeypatch.setattr(checks, "free_memory", lambda device: free)
    assert checks.check_memory(config("model=e5_small", *overrides)).state == state


def test_memory_of_a_shard(monkeypatch, config):
    """1.9 GB over eight processes, and .47 GB of whole weights in each."""
    monkeypatch.setattr(checks, "free_memory", lambda device: 1e9)
    monkeypatch.setenv("WORLD_SIZE", "8")
    overrides = ["model=e5_small", "training.compact_embedding=false"]
    assert checks.check_memory(config(*overrides)).state == "fault"
    assert checks.check_memory(config(*overrides, "training.fsdp=true")).state == "ok"


@pytest.mark.parametrize(
    ("free", "overrides", "state"),
    [
        (1e10, [], "ok"),
        (4e9, [], "fault"),  # 3 x 1.4 GB and the model
        (4e9, ["training.save_strategy=no"], "ok"),
        (1e11, ["training.save_total_limit=null"], "note"),
        (1e10, ["training.save_total_limit=null"], "fault"),
    ],
)
def test_disk(monkeypatch, config, free, overrides, state):
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=free))
    assert checks.check_disk(config("model=e5_small", *overrides)).state == state


def test_cache(monkeypatch, config, tmp_path):
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=5e9))
    settings = config()
    assert "0 MB in 0 files" in checks.check_cache(settings).text and not (tmp_path / "cache").exists()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/a").write_bytes(bytes(3_000_000))
    assert "3 MB in 1 files" in checks.check_cache(settings).text
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=1e8))
    assert checks.check_cache(settings).state == "note"
    monkeypatch.setattr(checks.os, "access", lambda *_: False)
    assert checks.check_cache(settings).state == "fault"
    settings.cache_dir = str(tmp_path / "cache/a")
    assert checks.check_cache(settings).state == "fault"  # a file stands there
