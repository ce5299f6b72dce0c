"""What a run's folder says of the model before training and of the hybrid's weight."""

import pytest

from e5ft.app.settings.build import plain
from e5ft.errors import ConfigurationError
from e5ft.files import write_json
from e5ft.modeling.loading import load_encoder, save_encoder
from e5ft.modeling.settings import ModelSource
from e5ft.serving.recorded import base_of, run_of, weight_of
from tests.app.conftest import composed  # noqa: F401 (a fixture)
from tests.conftest import make_encoder


@pytest.fixture
def run(tmp_path, composed):  # noqa: F811
    """A function that leaves a run's records of a training with these overrides, and gives its model as a source."""
    from omegaconf import OmegaConf

    def make(*overrides, summary=None):
        folder = tmp_path / "outputs/one"
        (folder / "model").mkdir(parents=True)
        OmegaConf.save(OmegaConf.create(plain(composed("train", *overrides))), folder / "config.yaml")
        if summary is not None:
            write_json(folder / "summary.json", summary)
        return ModelSource(path=str(folder / "model"), cache="here", seed=3)

    return make


def test_the_model_before_training_is_found_as_it_was_asked_for(run, tmp_path):
    base = make_encoder(seed=4)
    save_encoder(base, tmp_path / "start")
    text = ["model.text.query_prefix='Q: '", "model.text.query_max_length=20"]
    source = base_of(run("model=folder", f"model.path={tmp_path / 'start'}", "model.lora.rank=2", *text), "auto")
    again = load_encoder(source)
    assert (source.cache, source.seed) == ("here", 3)
    assert again.spec.text.query_prefix == "Q: " and again.spec.text.query_max_length == 20
    assert again.encode(["w1"], "passage") == pytest.approx(base.encode(["w1"], "passage"), abs=1e-6)


def test_frozen_parts_are_no_matter_of_the_base(run, tmp_path):
    save_encoder(make_encoder(), tmp_path / "start")
    source = run("model=folder", f"model.path={tmp_path / 'start'}", "model.freeze=[embeddings]")
    assert base_of(source, "auto").freeze == ()


def test_a_folder_or_a_run_is_a_base_and_null_is_none(run, tmp_path):
    source = run("model=mini")
    save_encoder(make_encoder(), tmp_path / "other/model")
    assert base_of(source, str(tmp_path / "other")).path == str(tmp_path / "other/model")
    assert base_of(source, None) is None and base_of(ModelSource(path=str(tmp_path / "other")), "auto") is None
    with pytest.raises(ConfigurationError, match="^base=gone: no such folder"):
        base_of(source, "gone")


def test_random_weights_a_lost_model_and_a_broken_record_are_no_base(run, tmp_path):
    source = run("model=mini")
    with pytest.raises(ConfigurationError, match="random weights"):
        base_of(source, "auto")
    file = run_of(source.path) / "config.yaml"
    file.write_text(file.read_text().replace("init: random", "init: pretrained").replace("path: null", "path: gone"))
    with pytest.raises(ConfigurationError, match="model.path=gone: no such folder"):
        base_of(source, "auto")
    for broken in ("a: [", "seed: 1", "- 1", "model: 1", "\0"):
        file.write_text(broken)
        with pytest.raises(ConfigurationError, match="config.yaml: cannot be read"):
            base_of(source, "auto")


@pytest.mark.parametrize(
    ("summary", "weight"),
    [
        ({"hybrid": {"weight": {"value": 0.4}}}, 0.4),
        ({"hybrid": {"weight": {"value": 1}}}, 1.0),
        ({"hybrid": None}, 0.7),
        ({"hybrid": {"weight": {"value": 7}}}, 0.7),
        ({}, 0.7),
        (None, 0.7),
    ],
)
def test_the_weight_is_the_run_s_unless_it_is_set(run, summary, weight):
    source = run("model=mini", summary=summary)
    assert weight_of(source, "auto") == weight
    assert weight_of(source, 0.25) == 0.25 and weight_of(source, None) is None


def test_what_is_no_run_s_has_the_default_weight():
    source = ModelSource(hub="a/b")
    assert run_of(source.path) is None and weight_of(source, "auto") == 0.7
