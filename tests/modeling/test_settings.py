"""Which folder a model's setting means, and which parts of a model it names."""

import pytest

from e5ft.errors import ConfigurationError
from e5ft.modeling.settings import ModelSource, frozen_parts


def model_in(folder):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return str(folder)


def test_a_run_s_folder_is_taken_for_its_model(tmp_path):
    model = model_in(tmp_path / "run" / "model")
    checkpoint = model_in(tmp_path / "run" / "checkpoint-8")
    assert ModelSource(path=str(tmp_path / "run")).path == ModelSource(path=model).path == model
    assert ModelSource(path=checkpoint).path == checkpoint
    (tmp_path / "latest").symlink_to("run")
    assert ModelSource(path=str(tmp_path / "latest")).path == str(tmp_path / "latest" / "model")
    nested = model_in(tmp_path / "own")
    model_in(tmp_path / "own" / "model")  # a model's folder that has another in it is itself
    assert ModelSource(path=nested).path == nested


def test_a_label_says_that_weights_are_random_even_where_a_folder_gives_the_shape(tmp_path):
    folder = model_in(tmp_path / "m")
    assert ModelSource(path=folder).label == folder
    assert ModelSource(path=folder, init="random").label == f"{folder} shape, random weights"


def test_a_run_without_a_model_names_its_newest_checkpoint(tmp_path):
    for step in (9, 10):
        model_in(tmp_path / "run" / f"checkpoint-{step}")
    with pytest.raises(
        ConfigurationError, match="run's folder without a model/ yet; its newest checkpoint: model.path=.*checkpoint-10$"
    ):
        ModelSource(path=str(tmp_path / "run"))


def test_a_run_that_left_nothing_says_so(tmp_path):
    (tmp_path / "status.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="a run's folder, which has neither a model nor a checkpoint"):
        ModelSource(path=str(tmp_path))


def test_a_folder_of_runs_names_one_of_them(tmp_path):
    for job in "01":
        model_in(tmp_path / "sweep" / job / "model")
    with pytest.raises(ConfigurationError, match="sweep: a folder of 2 runs; name one: model.path=.*sweep/0$"):
        ModelSource(path=str(tmp_path / "sweep"))


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    model = model_in(tmp_path / "m")
    assert ModelSource(path="~/m").path == model
    assert ModelSource(path="~/m", tokenizer="~/t").tokenizer == str(tmp_path / "t")
    with pytest.raises(ConfigurationError, match="/nowhere: no such folder"):
        ModelSource(path="~/nowhere")


@pytest.mark.parametrize(("parts", "meant"), [
    ((), []),
    (("embeddings",), ["embeddings"]),
    (("embeddings", "0-2"), [0, 1, 2, "embeddings"]),
    ((3, "1", "0-1"), [0, 1, 3]),
    (("0-11", "embeddings"), [*range(12), "embeddings"]),
])  # fmt: skip
def test_parts_are_each_named_once(parts, meant):
    assert frozen_parts(parts) == meant
    assert ModelSource(hub="a/b", freeze=parts).freeze == parts


@pytest.mark.parametrize("part", ["embedding", "layer", "5-0", "-1", -1, "0-", "a-b", 1.5, True, None, "0,1"])
def test_a_part_that_means_nothing_is_refused(part):
    with pytest.raises(
        ConfigurationError, match="model.freeze=.*embeddings, a layer's number from 0 on, or a range of them as 0-5"
    ):
        ModelSource(hub="a/b", freeze=(part,))
