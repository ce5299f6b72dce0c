"""Every field of every script has a rule; the shipped values keep it, and what breaks it is refused with field and value."""

import pytest
from e5ft.app.fields import RULES, check_fields, check_training, shown
from omegaconf import OmegaConf

from e5ft.app import configuration, fields
from e5ft.errors import ConfigurationError

SCRIPTS = ("train", "eval", "mine", "export")
# Checked where they are used: by the class that is named, by transformers, or as the folder's name.
OWNED = ("loss.", "optimizer.", "model.shape.", "training.", "recipe.", "name")
TRAINING = {**configuration.training_argument_fields(), **configuration._OWN_FIELDS}


def leaves(value, path=""):
    for key, item in value.items():
        here = f"{path}.{key}" if path else key
        if isinstance(item, dict) and item:
            yield from leaves(item, here)
        else:
            yield here


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_field_has_a_rule_and_its_default_keeps_it(composed, script):
    config = composed(script)
    found = [path for path in leaves(OmegaConf.to_container(config, resolve=True)) if not path.startswith(OWNED)]
    assert [path for path in found if path not in RULES] == []
    configuration.check(config)


@pytest.mark.parametrize(
    ("script", "override", "words"),
    [
        ("train", "seed=-1", "seed=-1: a whole number from 0 to 4,294,967,295 is needed"),
        ("train", "resume=no", "resume='no': true or false is needed"),
        ("train", "data.train_file=5", "data.train_file=5: the name of a file or folder, or null is needed"),
        ("train", "data.train_file=" + "x" * 300, "data.train_file='xxx"),
        ("train", "data.max_train_rows=many", "data.max_train_rows='many'"),
        ("train", "data.dev_share=1" + "0" * 400, "data.dev_share=1000"),
        ("train", "data.dev_share=nan", "data.dev_share=nan: a number, above 0, at most 0.5 is needed"),
        ("train", "data.eval_split=../test", "data.eval_split='../test'"),
        ("train", "data.columns=5", "data.columns=5: a mapping, {field: value}, is needed"),
        ("train", "model.text=null", "model.text=null: a mapping"),
        ("train", "+model.pools=mean", "model.pools='mean': no such field; there are"),
        ("train", "+data.columns.passage=p", "data.columns.passage='p': no such field"),
        ("train", "+training.no_such_field=1", "training.no_such_field=1"),
        ("train", "evaluation.cutoffs=[]", "evaluation.cutoffs=[]: a list of at least one, each a whole number"),
        ("train", "evaluation.cutoffs=[1,abc]", "evaluation.cutoffs=[1, 'abc']"),
        ("train", "rounds.mining.window=5", "rounds.mining.window=5: two ranks"),
        ("train", "training.dataloader_num_workers=1000000", "training.dataloader_num_workers=1000000"),
        ("train", "training.save_total_limit=1.5", "training.save_total_limit=1.5"),
        ("train", "training.log_level=loud", "training.log_level='loud': one of detail, debug"),
        ("train", "training.bf16=1", "training.bf16=1: true or false is needed"),
        ("train", "training.neftune_noise_alpha=5", "training.neftune_noise_alpha=5: null"),
        ("train", "training.metric_for_best_model=2026", "training.metric_for_best_model=2026: a string"),
        ("eval", "device=gpu", "device='gpu': one of auto, cpu, cuda is needed"),
        ("mine", "filters=null", "filters=null: a mapping"),
        ("mine", "filters.percent=2", "filters.percent=2: a number, above 0, at most 1, or null is needed"),
        ("export", "merge.alpha=half", "merge.alpha='half'"),
        ("export", "push=--help", "push='--help': a name on the hub"),
    ],
)
def test_what_breaks_a_rule_is_refused_with_field_and_value(composed, script, override, words):
    with pytest.raises(ConfigurationError) as caught:
        configuration.check(composed(script, override))
    assert str(caught.value).startswith(words)
    str(caught.value).encode()


@pytest.mark.parametrize("override", ["filters.near_duplicate=null", "data.keep_dir=a", "data.keep_dir=[a,b]", "+my_own=5"])
def test_what_is_meant_is_accepted(composed, override):
    configuration.check(composed("mine", override))


@pytest.mark.parametrize("value", ["a\0b", "a\udcffb", "", " ", "x" * 256, "/".join(["x" * 200] * 30)])
def test_what_can_be_no_file_is_refused_before_the_file_system_is_asked(value):
    with pytest.raises(ConfigurationError, match="data.dev_file="):
        check_fields({"data": {"dev_file": value}})
    shown(value).encode()


def test_a_value_is_shown_cut_and_printable():
    assert shown("x" * 1000).endswith("...") and len(shown("x" * 1000)) == 100
    assert shown("\udcff") == "'\\udcff'"


def test_every_default_of_the_training_group_is_right():
    check_training(TRAINING, TRAINING)


@pytest.mark.parametrize(("field", "value"), [("warmup_steps", 5), ("save_total_limit", None), ("lr_scheduler_kwargs", {"a": 1})])
def test_types_come_from_the_annotations(field, value):
    check_training({field: value}, TRAINING)
    with pytest.raises(ConfigurationError, match=f"training.{field}="):
        check_training({field: [[]]}, TRAINING)


def test_a_number_of_400_digits_is_no_overflow():
    assert not fields.number(least=0).accepts(10**400) and not fields._is_a(10**400, float)
