"""Wrappers around a loss, and the models whose vectors it needs."""

import pytest

from e5ft.errors import ConfigurationError
from e5ft.modeling.settings import ModelSource
from e5ft.training.distillation import Distillation, Regularised
from e5ft.training.loss_setup import loss_setup
from e5ft.training.losses import InfoNCE, Triplet
from e5ft.training.matryoshka import Matryoshka
from e5ft.training.settings import KeepSettings, MatryoshkaSettings

PLAIN, CUT = MatryoshkaSettings(None, None), MatryoshkaSettings((64, 32), None)
NOTHING, KEPT = KeepSettings(0.0, None), KeepSettings(0.5, None)
BASE = ModelSource(hub="some/model")
RANDOM = ModelSource(init="random", shape={"model_type": "bert"}, tokenizer=".")


def test_what_wraps_what():
    setup = loss_setup(InfoNCE(0.03, chunk_size=7), CUT, KEPT, None, BASE)
    assert type(setup.loss) is Regularised and type(setup.loss.loss) is Matryoshka and type(setup.loss.loss.loss) is InfoNCE
    assert (setup.loss.temperature, setup.loss.chunk_size, setup.guide) == (0.03, 7, None)
    assert setup.needs == {"base"}
    assert loss_setup(Distillation(0.04, teacher="guide"), PLAIN, KEPT, None, BASE).loss.temperature == 0.04
    assert loss_setup(Triplet(), PLAIN, KEPT, None, BASE).loss.temperature == 0.01  # it has none
    assert loss_setup(InfoNCE(0.03), PLAIN, KeepSettings(0.5, 0.2), None, BASE).loss.temperature == 0.2


def test_the_guide_is_the_base_or_the_one_that_is_named(tmp_path):
    guided = InfoNCE(0.03, false_negatives="guide")
    assert loss_setup(guided, PLAIN, NOTHING, None, BASE).guide == BASE
    assert loss_setup(guided, PLAIN, NOTHING, "other/model", RANDOM).guide == ModelSource(hub="other/model")
    (tmp_path / "model").mkdir()
    assert loss_setup(guided, PLAIN, NOTHING, str(tmp_path), BASE).guide.path == str(tmp_path / "model")


@pytest.mark.parametrize("name", ["outputs/rnu", "/nowhere/model", "./model", "~/model", "../model", "a/b/c"])
def test_a_guide_s_folder_that_is_not_there_is_no_hub_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    with pytest.raises(ConfigurationError, match=f"step.guide={name}: no such folder"):
        loss_setup(InfoNCE(0.03, false_negatives="guide"), PLAIN, NOTHING, name, BASE)


@pytest.mark.parametrize(
    ("loss", "keep", "guide", "base", "message"),
    [
        (InfoNCE(0.05, false_negatives="guide"), NOTHING, None, RANDOM, "step.guide=null: must name a model"),
        (Distillation(0.05, teacher="guide"), NOTHING, None, RANDOM, "step.guide=null: must name a model"),
        (InfoNCE(0.05), KEPT, None, RANDOM, "keep.weight=0.5: must be 0, .*nothing to keep"),
        (InfoNCE(0.05), NOTHING, "x/y", BASE, "step.guide=x/y: nothing uses it"),
    ],
)
def test_what_cannot_work_is_refused(loss, keep, guide, base, message):
    with pytest.raises(ConfigurationError, match=message):
        loss_setup(loss, PLAIN, keep, guide, base)
