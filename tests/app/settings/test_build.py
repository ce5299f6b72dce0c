"""Every YAML composes; what is wrong is refused with the field, the value and the remedy, before torch is imported."""

import pytest
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from e5ft.app.commands.train import build_run
from e5ft.app.settings import training
from e5ft.app.settings.build import check_model_group, field_names, hint, plain, shipped, with_model_group
from e5ft.app.settings.training import training_arguments
from e5ft.errors import ConfigurationError
from e5ft.settings import leaves

GROUPS = ("model", "data", "loss", "optimizer", "tracking", "experiment")
CONF = shipped("conf")
OPTIONS = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=[f"{g}={o}" for g, o in OPTIONS])
def test_every_option_composes_and_its_values_are_accepted(composed, tmp_path, group, option):
    if option == "optuna":
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    given = {"folder": [f"model.path={tmp_path}"], "mini_domain": [f"model.path={tmp_path}"], "common": ["loss=infonce"]}
    given |= {"mix": ["data.sources={a: a.jsonl}"], "guided": [f"step.guide={tmp_path}"]}
    settings = composed("train", f"{group}={option}", *given.get(option, ()))
    if option != "distill":
        build_run(settings, tmp_path)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Could not find 'hydra/sweeper/optuna'\n\nAvailable", "hydra/sweeper: needs hydra-optuna-sweeper; pip install hydra-o"),
        ("In 'x': Could not load 'hydra/launcher/joblib'.", "hydra/launcher: needs hydra-joblib-launcher; pip install hydra-j"),
        ("In 'x': Could not load 'hydra/launcher/submitit_slurm'.", "needs hydra-submitit-launcher; pip install hydra-submitit"),
        ("Could not find 'hydra/sweeper/mine'", None),
    ],
)
def test_a_plugin_of_hydra_that_is_absent_is_named(message, expected):
    said = hint(message, "train")
    assert said is None if expected is None else expected in said


def test_an_experiment_wins_over_the_defaults(composed):
    settings = composed("train", "experiment=iterative")
    assert settings.rounds.count == 3 and settings.rounds.mining.choose == "sample"
    assert composed("train", "experiment=iterative", "rounds.count=2").rounds.count == 2


@pytest.mark.parametrize("script", ["train", "eval", "mine", "export", "serve"])
def test_every_default_is_accepted_and_comes_back_as_plain_values(composed, script):
    settings = composed(script, *(["model.path=."] if script != "train" else []))
    names = {path.partition("[")[0] for path, _ in leaves(plain(settings))}
    assert {"data.columns.query", "model.init", "seed"} <= names
    assert set(field_names(script)) - {"data.mix.name"} >= {n for n in names if n.startswith(("data.col", "evaluation", "seed"))}


def test_a_field_of_training_arguments_is_set_without_plus(composed, tmp_path):
    settings = composed("train", "training.lr_scheduler_type=cosine", "training.dataloader_num_workers=1")
    arguments = training_arguments(settings, tmp_path)
    assert (arguments.lr_scheduler_type.value, arguments.dataloader_num_workers) == ("cosine", 1)
    assert arguments.remove_unused_columns is False


def test_sharding_on_gpus(composed, tmp_path, monkeypatch):
    given = ["training.fsdp=true", "training.fsdp_config={version: 2}"]
    with monkeypatch.context() as patch:
        patch.setattr("torch.cuda.is_available", lambda: True)
        assert training_arguments(composed("train", *given), tmp_path).fsdp_plugin_args["fsdp_version"] == 2
    with pytest.raises(ConfigurationError, match="training.fsdp=True: accelerate shards nothing"):
        training_arguments(composed("train", *given, "training.use_cpu=true"), tmp_path)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.learning_rate=1", "set it through optimizer.lr"),
        ("training.remove_unused_columns=1", "cannot be set: rows carry identities"),
        ("training.dataloader_in_order=false", "cannot be set: as workers finish"),
        ("training.warmup_ratio=0.1", "training.warmup_steps below 1"),
        ("loss.temprature=0.02", "loss.temprature: no such field; did you mean loss.temperature?"),
        ("loss.negatives=step", "loss.negatives: is step.negatives now"),
        (
            "training.lr_scheduler_kwargs.num_cycles=2",
            "not in training.lr_scheduler_kwargs; to add it: +training.lr_scheduler_kw",
        ),
        ("model.shape.hiden_size=8", "model.shape.hiden_size: not in model.shape; to add it: +model.shape.hiden_size=VALUE"),
        ("data.eval_dir.x=8", "data.eval_dir.x: no such field; did you mean data.eval_dir?"),
        ("data.eval_dri=x", "did you mean data.eval_dir?"),
        ("loss=triplet loss.false_negatives=none", "loss.false_negatives: no field of the chosen loss; leave it out"),
        ("evaluation.cutofs=[1]", "did you mean evaluation.cutoffs?"),
        ("model=e5-small", "model=e5-small: no such option; did you mean model=e5_small?"),
        (
            "model=nothing",
            "model=nothing: no such option; there are e5_base, e5_large, e5_large_instruct, e5_small, e5_small_q4, folder, mini",
        ),
        ("loss=info", "loss=info: no such option; did you mean loss=infonce?"),
        (
            "model=intfloat/multilingual-e5-base",
            "no preset; a hub model is model=folder model.hub=intfloat/multilingual-e5-base (preset: model=e5_base)",
        ),
        ("model=BAAI/bge-m3", "model=BAAI/bge-m3: no preset; a hub model is model=folder model.hub=BAAI/bge-m3"),
        ("model=outputs/cache", "model=outputs/cache: no preset; a folder is model=folder model.path=outputs/cache"),
        ("temperature=0.02", "temperature: no such field; did you mean loss.temperature=0.02 (or keep.temperature=0.02, "),
        ("temprature=0.02", "temprature: no such field; did you mean loss.temperature?"),
        ("batch_size=16", "batch_size: no such field; did you mean training.per_device_train_batch_size=16?"),
        ("lr=1e-5", "lr: no such field; did you mean optimizer.lr=1e-5?"),
        ("training.train_file='a b.csv'", """did you mean 'data.train_file='"'"'a b.csv'"'"''?"""),
        ("nothing_like_it=1", "nothing_like_it: no such field; every field: docs/configuration.md"),
    ],
)
def test_a_field_that_is_none_is_told_with_what_was_meant(composed, tmp_path, override, expected):
    (tmp_path / "outputs" / "cache").mkdir(parents=True)
    with pytest.raises(ConfigCompositionException) as caught:
        composed("train", *(override.split() if "loss=" in override else [override]))
    assert expected in hint(f"{caught.value}\n{caught.value.__cause__}", "train", [override])


@pytest.mark.parametrize(
    ("script", "override", "words"),
    [
        ("train", "optimizer.lr=-1", "optimizer.lr=-1: must be above 0 and below 10"),
        ("train", "optimizer.lr=fast", "optimizer.lr='fast': must be"),
        ("train", "optimizer._target_=null", "optimizer._target_=None: must be"),
        ("train", "data.eval_dir=None", "data.eval_dir=None: the word for nothing is null"),
        ("train", "loss.temperature=0", "loss.temperature=0: must be at least 1e-06"),
        ("train", "keep.weight=1e9", "keep.weight=1000000000.0: must be at least 0 and at most 1e+06"),
        ("train", "loss.margin=None", "loss.margin=None: the word for nothing is null"),
        ("train", "data.columns=5", "data.columns=5: must be a mapping"),
        ("train", "model.text=null", "model.text=None: must be a mapping"),
        ("train", "+model.pools=mean", "model.pools='mean': no such field; did you mean model.pooling?"),
        ("train", "rounds.mining.window=5", "rounds.mining.window=5: must be two ranks"),
        ("mine", "+filters.teacher_margin=0.1", "filters.teacher_margin: no such field; did you mean cross_encoder.margin?"),
        (
            "train",
            "+rounds.mining.filters.teacher_max_score=1",
            "rounds.mining.filters.teacher_max_score: no such field; did you mean rounds.mining.cross_encoder.max_score?",
        ),
        ("train", "rounds.mining.filters.percent=2", "rounds.mining.filters.percent=2: must be above 0 and at most 1"),
        ("train", "keep.temperature=1", "keep.temperature=1: must be null without keep.weight"),
        ("train", "matryoshka.weights=[1]", "matryoshka.weights=(1,): must be null without matryoshka.dimensions"),
        ("train", "model.path=nowhere", "model.path=nowhere: no such folder"),
        ("train", "model.path=./no/where", "model.path=./no/where: no such folder"),
        (
            "train",
            "model.path=intfloat/multilingual-e5-small",
            "model.path=intfloat/multilingual-e5-small: no such folder; a hub model is "
            "model=folder model.hub=intfloat/multilingual-e5-small (preset: model=e5_small)",
        ),
        (
            "mine",
            "model.path=BAAI/bge-m3",
            "model.path=BAAI/bge-m3: no such folder; a hub model is model=folder model.hub=BAAI/bge-m3",
        ),
        ("train", "model.freeze=[layers]", "model.freeze=['layers']: must be a list, each item embeddings, a layer's number"),
        ("train", "model.freeze=embeddings", "model.freeze='embeddings': must be a list, each item embeddings"),
        ("mine", "model.freeze=[0]", "model.freeze=[0]: must be [] here: only train.py trains"),
        ("eval", "device=gpu", "device='gpu': must be auto, cpu or cuda"),
        ("eval", "suite=beir", "suite='beir': must be"),
        ("eval", "suite=mteb", "tasks=(): must name tasks or benchmarks of MTEB: tasks=[Ko-StrategyQA]"),
        ("eval", "tasks=[KorSTS]", "tasks=('KorSTS',): goes with suite=mteb alone"),
        ("eval", "suite=mteb tasks=[KorSTS] compare=other", "compare='other': must be empty with suite=mteb"),
        ("eval", "suite=mteb tasks=[KorSTS] data.eval_dir=eval", "data.eval_dir='eval': must be left out with suite=mteb"),
        ("mine", "filters=null", "filters=None: must be a mapping"),
        ("mine", "filters.percent=2", "filters.percent=2: must be above 0 and at most 1, or null"),
        ("mine", "+eval_dir=x", "eval_dir='x': no such field"),
        ("train", "+loss.keep_weight=0.1", "loss.keep_weight: is keep.weight now"),
        ("train", "+loss.dimensions=[64,32]", "loss.dimensions: is matryoshka.dimensions now"),
        ("mine", "+output_file=x", "output_file: is output_dir now"),
        ("export", "+merge.split=dev", "merge.split: is data.eval_split now"),
        ("train", "seed=abc", "seed='abc': must be a whole number from 0 to"),
        ("train", "~seed", "seed=None: must be a whole number from 0 to"),
        ("eval", "seed=-1", "seed=-1: must be a whole number from 0 to"),
        ("train", "+model.seed=7", "model.seed=7: no such field; did you mean seed?"),
        ("eval", "+model.cache=x", "model.cache='x': no such field; did you mean cache_dir?"),
        ("train", "model.wheel=x", "model.wheel='x': must be null here: only model=e5_small_q4 without model.path reads a wheel"),
        ("train", "+rounds.mining.seed=7", "rounds.mining.seed=7: no such field; did you mean seed?"),
        ("train", "+lora.rank=8", "lora.rank=8: no such field; did you mean model.lora.rank?"),
        ("mine", "+mining.per_query=3", "mining.per_query=3: no such field; did you mean per_query?"),
        ("mine", "search=flat", "search='flat': must be exact or ivfpq"),
        ("export", "merge.alpha=half", "merge.alpha='half': must be"),
        ("export", "merge.alpha=[]", "merge.alpha=(): must be a number, or a list"),
        ("export", "merge.alpha=[0.5,0.5]", "merge.alpha=(0.5, 0.5): must be a number, or a list of different"),
        ("export", "merge.how=mean", "merge.how='mean': must be uniform, greedy or slerp"),
        ("export", "merge.how=slerp", "merge.how='slerp': needs the models that are to be one with model.path, merge.models=["),
        ("serve", "port=65536", "port=65536: must be a whole number from 0 to 65,535"),
        ("serve", "host=null", "host=None: must be"),
        ("export", "push=--help", "push='--help': must be a name on the hub"),
    ],
)
def test_what_is_out_of_range_is_refused_when_the_settings_are_made(composed, script, override, words):
    with pytest.raises(ConfigurationError) as caught:
        composed(
            script,
            *(override.split() if "suite=" in override else [override]),
            *(["model.path=."] if script in ("eval", "export", "serve") else []),
        )
    assert str(caught.value).startswith(words)


def test_frozen_parts_and_adapters_do_not_go_together(composed):
    assert composed("train", "model.freeze=[embeddings,0-1,7]").model.freeze == ("embeddings", "0-1", 7)
    with pytest.raises(ConfigurationError, match=r"model.freeze=\(0,\): must be \[\] with model.lora.rank"):
        composed("train", "model.freeze=[0]", "model.lora.rank=4")


def test_a_folder_or_a_hub_name_needs_no_group(tmp_path):
    """The default group is mini: its tokenizer, prefixes and lengths are no other model's."""
    for given in (["model.path=x"], ["+model.hub=a/b", "seed=1"]):
        assert with_model_group("train", given) == [*given, "model=folder"] and with_model_group("eval", given) == given
    for given in (["model=mini", "model.path=x"], ["experiment=quick", "model.path=x"], ["model.pooling=cls"]):
        assert with_model_group("train", given) == given


def test_an_experiment_leaves_no_model_under_the_default_s_format(composed):
    config = OmegaConf.create({"model": {"path": "x", "hub": None}})
    with pytest.raises(ConfigurationError, match="model.path=x: with model=mini, the default, .*; add model=folder"):
        check_model_group("train", config, {"model": "mini"}, ["experiment=quick", "model.path=x"])
    check_model_group("train", config, {"model": "mini"}, ["experiment=quick", "model.path=x", "model=mini"])
    check_model_group("train", config, {"model": "e5_small"}, ["experiment=mine", "model.path=x"])
    check_model_group("train", OmegaConf.create({"model": {"path": None}}), {"model": "mini"}, [])


def test_a_loss_of_the_user_s_own_may_have_a_field_that_has_moved_from_ours(composed):
    assert composed("train", "loss._target_=theirs.Loss", "+loss.guide=x").loss["guide"] == "x"


@pytest.mark.parametrize("override", ["filters.near_duplicate=null", "data.keep_dir=a", "data.keep_dir=[a,b]"])
def test_what_is_meant_is_accepted(composed, override):
    composed("mine", override)


@pytest.mark.parametrize("script", ["train", "eval", "mine", "export", "serve"])
def test_a_packages_model_is_a_preset_of_every_script(composed, script):
    settings = composed(script, "model=e5_small_q4")
    assert settings.model.label == "mE5-small, 4-bit weights" and settings.model.cache == settings.cache_dir
    assert (settings.model.hub, settings.model.text.query_prefix, settings.model.pooling) == (None, "query: ", "mean")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.fp16=true", "training.fp16=True: must be false without a GPU"),
        ("training.fsdp=true", "training.fsdp=True: accelerate shards nothing here"),
        ("training.torch_compile=true", "training.torch_compile=True: must be false on a CPU"),
        ("training.deepspeed={}", "training.fsdp=true shards as much"),
        ("training.lr_scheduler_kwargs={a: 1}", "training.lr_scheduler_kwargs={'a': 1}"),
        ("training.lr_scheduler_type=nothing", "nothing"),
        ("optimizer.betas=5", "optimizer.betas=5"),
        ("optimizer._target_=nothing", "optimizer._target_=nothing: no such class"),
        ("+optimizer.no_such=1", "optimizer.no_such=1"),
        ("+loss.no_such=1", "loss: e5ft.training.losses.InfoNCE could not be made"),
    ],
)
def test_what_a_class_refuses_is_refused_before_anything_is_loaded(composed, tmp_path, override, words):
    settings = composed("train", override)
    with pytest.raises(ConfigurationError) as caught:
        build_run(settings, tmp_path)
    assert words in str(caught.value)


def test_presets_have_the_published_shapes(composed):
    """Parameters with pooler, from the models' published configurations; no weights are made."""
    import torch
    from transformers import AutoConfig, AutoModel

    expected = {
        "e5_small": 117_653_760,
        "e5_small_q4": 117_653_760,
        "e5_base": 278_043_648,
        "e5_large": 559_890_432,
        "e5_large_instruct": 559_890_432,
    }
    for name, count in expected.items():
        shape = dict(composed("train", f"model={name}").model.shape)
        with torch.device("meta"):
            model = AutoModel.from_config(AutoConfig.for_model(shape.pop("model_type"), **shape))
        assert sum(p.numel() for p in model.parameters()) == count


def test_every_recipe_belongs_to_a_model():
    models = {path.stem for path in (CONF / "model").glob("*.yaml")}
    assert {"mini", "e5_small"} <= {path.stem for path in (CONF / "recipe").glob("*.yaml")} <= models


def test_the_group_has_only_the_fields_that_are_free():
    free = training.training_defaults().keys()
    assert not free & {*training.OWNED, *training.PINNED}
