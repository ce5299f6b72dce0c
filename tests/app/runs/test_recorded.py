"""What a run's folder says of the model before training and of the hybrid's weight."""

import pytest

from e5ft.app.runs.recorded import base_of, run_of, weight_of
from e5ft.app.settings.build import plain
from e5ft.errors import ConfigurationError
from e5ft.files import write_json
from e5ft.modeling.loading import load_encoder, save_encoder
from tests.conftest import make_encoder


@pytest.fixture
def run(tmp_path, composed):
    """A function that leaves a run's records of a training with these overrides."""
    from omegaconf import OmegaConf

    def make(*overrides, summary=None):
        folder = tmp_path / "outputs/one"
        (folder / "model").mkdir(parents=True)
        OmegaConf.save(OmegaConf.create(plain(composed("train", *overrides))), folder / "config.yaml")
        if summary is not None:
            write_json(folder / "summary.json", summary)
        return folder

    return make


def test_the_model_before_training_is_found_as_it_was_asked_for(run, tmp_path):
    base = make_encoder(seed=4)
    save_encoder(base, tmp_path / "start")
    text = ["model.text.query_prefix='Q: '", "model.text.query_max_length=20"]
    lora = ["model.lora.rank=2", "cache_dir=elsewhere"]
    folder = run("model=folder", f"model.path={tmp_path / 'start'}", *text, *lora)
    source = base_of(run_of(str(folder / "model")), "here")
    again = load_encoder(source)
    assert source.cache == "here" and again.spec.text.query_prefix == "Q: " and again.spec.text.query_max_length == 20
    assert again.encode(["w1"], "passage") == pytest.approx(base.encode(["w1"], "passage"), abs=1e-6)


def test_frozen_parts_are_no_matter_of_the_base(run, tmp_path):
    save_encoder(make_encoder(), tmp_path / "start")
    folder = run("model=folder", f"model.path={tmp_path / 'start'}", "model.freeze=[embeddings]")
    assert base_of(folder, "cache").freeze == ()


def test_random_weights_a_lost_model_and_a_broken_record_are_no_base(run, tmp_path):
    folder = run("model=mini")
    with pytest.raises(ConfigurationError, match="random weights"):
        base_of(folder, "cache")
    record = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(record.replace("init: random", "init: pretrained").replace("path: null", "path: gone"))
    with pytest.raises(ConfigurationError, match="model.path=gone: no such folder"):
        base_of(folder, "cache")
    for broken in ("a: [", "seed: 1", "- 1"):
        (folder / "config.yaml").write_text(broken)
        with pytest.raises(ConfigurationError, match="config.yaml: cannot be read"):
            base_of(folder, "cache")


def test_a_model_s_folder_that_is_no_run_s(tmp_path):
    assert run_of(None) is None and run_of(str(tmp_path / "model")) is None


@pytest.mark.parametrize(
    ("summary", "weight"),
    [
        ({"hybrid": {"weight": {"value": 0.4}}}, 0.4),
        ({"hybrid": {"weight": {"value": 1}}}, 1.0),
        ({"hybrid": None}, None),
        ({"hybrid": {"weight": {"value": 7}}}, None),
        ({}, None),
        (None, None),
    ],
)
def test_the_weight_is_the_run_s(run, summary, weight):
    assert weight_of(run("model=mini", summary=summary)) == weight
