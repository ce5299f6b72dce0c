"""MTEB's tasks: our vectors behind its protocol, its layout; against a record of its interface, and against the package itself."""

import importlib
import inspect
import json
import sys

import numpy as np
import pytest
from scipy.stats import spearmanr

from e5ft.errors import ConfigurationError, DataError
from e5ft.retrieval.columns import StringColumn
from e5ft.retrieval.evaluation import score_model
from e5ft.retrieval.mteb_suite import MtebEncoder, TaskScore, find_tasks, mean_of, public_name, run_tasks, score_table
from e5ft.retrieval.sets import RetrievalSet
from tests.conftest import make_encoder
from tests.retrieval import mteb_recorded
from tests.retrieval.test_evaluation import SETTINGS


@pytest.fixture
def recorded(monkeypatch):
    """mteb as it was recorded, whether or not it is installed."""
    for name, module in mteb_recorded.modules().items():
        monkeypatch.setitem(sys.modules, name, module)


def wrapped(folder, seed=0, name="local/run"):
    """A model as mteb sees it, and the texts that it was given, role by role."""
    encoder, seen = make_encoder(seed=seed), []
    tokenize = encoder.tokenize
    encoder.tokenize = lambda texts, role: seen.append((role, list(texts))) or tokenize(texts, role)
    return MtebEncoder(encoder, name, batch_tokens=256, cache=folder / "cache"), seen


# -- against the record ----------------------------------------------------------------------------------------------------


def test_queries_passages_and_symmetric_sides_get_their_prefixes(recorded, tmp_path):
    model, seen = wrapped(tmp_path)
    scores = list(run_tasks(model, find_tasks(["MTEB(kor, v2)"]), tmp_path / "out"))
    first, second = mteb_recorded.TEXTS["sentence1"], mteb_recorded.TEXTS["sentence2"]
    assert seen == [("query", first), ("query", second), ("query", first), ("passage", second)]
    assert [(score.task, score.metric, score.parts) for score in scores] == [
        ("KorSTS", "cosine_spearman", 1),
        ("Ko-StrategyQA", "ndcg_at_10", 1),
    ]
    meta = model.mteb_model_meta
    assert meta.name == "local/run" and (meta.embed_dim, meta.max_tokens) == (32, 48)
    assert {file.name for file in (tmp_path / "out/results/local__run" / meta.revision).iterdir()} == {
        "KorSTS.json",
        "Ko-StrategyQA.json",
    }


def test_what_is_there_is_not_measured_again_but_of_another_model_it_is(recorded, tmp_path):
    tasks = find_tasks(["KorSTS"])
    for seed, texts in ((0, 2), (0, 0), (1, 2)):
        model, seen = wrapped(tmp_path, seed)
        list(run_tasks(model, tasks, tmp_path))
        assert len(seen) == texts


def test_large_collections_are_kept_on_disk_as_they_are_encoded(recorded, tmp_path, monkeypatch):
    monkeypatch.setattr("e5ft.retrieval.vectors.WINDOW", 2)
    model, seen = wrapped(tmp_path)
    first, again = (model.encode([{"text": ["w1", "w2", "w3"]}]) for _ in range(2))
    assert len(seen) == 1 and (first == again).all() and first.flags.writeable  # torch warns of vectors that cannot be written
    model.encode([{"text": ["w1", "w2"]}])
    assert len([*(tmp_path / "cache").glob("vectors-*/")]) == 1


def test_types_and_languages_leave_tasks_out(recorded):
    names = ["MTEB(kor, v2)", "KorSTS"]
    assert [task.metadata.name for task in find_tasks(names)] == ["KorSTS", "Ko-StrategyQA"]  # each once
    assert [task.metadata.name for task in find_tasks(names, ["Retrieval"], ["kor"])] == ["Ko-StrategyQA"]
    with pytest.raises(ConfigurationError, match="none of the 1 tasks is of these; their types: STS"):
        find_tasks(["KorSTS"], ["Retrieval"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("KorST", r"tasks=\[KorST\]: mteb 2.26.24 has no task or benchmark of this name; did you mean KorSTS\?"),
        ("nothing", r"no task or benchmark of this name; all: https"),
        ("nowhere_at_all:Task", r"tasks=\[nowhere_at_all:Task\]: No module named .*; must be MODULE:CLASS"),
    ],
)
def test_an_unknown_task_is_refused_with_the_nearest(recorded, name, message):
    with pytest.raises(ConfigurationError, match=message):
        find_tasks([name])


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(ConfigurationError, match=r"^suite=mteb: needs the package mteb; pip install mteb$"):
        find_tasks(["KorSTS"])


def test_a_task_that_fails_lets_the_others_go_on_and_is_no_success(recorded, tmp_path, monkeypatch):
    tasks, real = find_tasks(["MTEB(kor, v2)"]), mteb_recorded.evaluate

    def evaluate(model, task, **options):
        if task.metadata.name == "KorSTS":
            raise ConnectionError("no route\nto the hub")
        return real(model, task, **options)

    monkeypatch.setattr(sys.modules["mteb"], "evaluate", evaluate)
    scores = list(run_tasks(wrapped(tmp_path)[0], tasks, tmp_path))
    assert str(scores[0]) == "KorSTS: failed: ConnectionError: no route" and scores[1].value is not None
    assert "KorSTS" not in score_table(scores)
    with pytest.raises(DataError, match=r"1 of 2 tasks failed \(KorSTS\)"):
        mean_of(scores)
    monkeypatch.setattr(sys.modules["mteb"], "evaluate", lambda *_, **__: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        list(run_tasks(wrapped(tmp_path)[0], tasks, tmp_path))


def test_the_table_ends_with_the_mean():
    scores = [TaskScore("KorSTS", "STS", "cosine_spearman", 0.75, 1), TaskScore("A", "Retrieval", "ndcg_at_10", 0.25, 3)]
    lines = [line.split() for line in score_table(scores).splitlines()]
    assert lines[0] == ["task", "type", "main", "score", "subsets", "value"]
    assert lines[2:] == [
        ["KorSTS", "STS", "cosine_spearman", "1", ".750"],
        ["A", "Retrieval", "ndcg_at_10", "3", ".250"],
        ["mean", "of", "tasks", ".500"],
    ]
    assert mean_of(scores) == 0.5


@pytest.mark.parametrize(
    ("path", "label", "name"),
    [
        (None, "intfloat/multilingual-e5-small", "intfloat/multilingual-e5-small"),
        (None, "mE5-small, 4-bit weights", "local/mE5-small_4-bit_weights"),
        ("outputs/faq/model", "", "local/faq"),
        ("my-model", "", "local/my-model"),
    ],
)
def test_a_model_has_the_name_of_its_run_folder_or_hub(path, label, name):
    assert public_name(path, label) == name


# -- against the package ---------------------------------------------------------------------------------------------------


def test_the_record_is_the_installed_package_s():
    mteb = pytest.importorskip("mteb")
    protocols = importlib.import_module("mteb.models.models_protocols")
    model_meta = importlib.import_module("mteb.models.model_meta").ModelMeta

    def names(function):
        parameters = inspect.signature(function).parameters.values()
        return [(each.name, each.kind) for each in parameters if each.name not in ("self", "cls")]

    for name, function in mteb_recorded.FUNCTIONS.items():
        assert names(function) == names(getattr(mteb, name)), name
    assert names(mteb_recorded.ResultCache.__init__) == names(mteb.ResultCache.__init__)
    assert names(mteb_recorded.ModelMeta.create_empty) == names(model_meta.create_empty)
    assert {*model_meta.model_fields} >= mteb_recorded.FIELDS
    for method in ("encode", "similarity", "similarity_pairwise"):
        asked = [
            name for name, kind in names(getattr(protocols.EncoderProtocol, method)) if kind is not inspect.Parameter.VAR_KEYWORD
        ]
        assert [name for name, _ in names(getattr(MtebEncoder, method))][: len(asked)] == asked


def test_the_package_measures_what_we_measure(tmp_path):
    """nDCG@10 of retrieval equals our own evaluation's, and STS the correlation of cosines of two queries."""
    mteb = pytest.importorskip("mteb")
    from tests.retrieval import mteb_local

    tasks = find_tasks(["tests.retrieval.mteb_local:WordRetrieval", "tests.retrieval.mteb_local:WordSTS"], languages=["kor"])
    model, seen = wrapped(tmp_path)
    retrieval, sts = run_tasks(model, tasks, tmp_path / "out")
    passages = {name: f"{each['title']} {each['text']}" for name, each in mteb_local.PASSAGES.items()}
    order, queries = sorted(passages), sorted(mteb_local.QUERIES)
    ours = RetrievalSet(
        "words",
        StringColumn(queries),
        StringColumn(mteb_local.QUERIES[name] for name in queries),
        StringColumn(order),
        StringColumn(passages[name] for name in order),
        {name: mteb_local.QRELS[name] for name in queries},
    )
    expected = score_model(make_encoder(), ours, SETTINGS, "m").metrics["ndcg@10"]
    assert 0 < expected < 1 and retrieval.value == pytest.approx(expected, abs=1e-5)
    first, second, scores = zip(*mteb_local.PAIRS, strict=True)
    one, other = (make_encoder().encode(texts, "query") for texts in (first, second))
    assert sts.value == pytest.approx(spearmanr((one * other).sum(axis=1), scores)[0], abs=1e-5)
    folder = tmp_path / "out/results/local__run" / model.mteb_model_meta.revision
    assert {"WordRetrieval.json", "WordSTS.json", "model_meta.json"} <= {file.name for file in folder.iterdir()}
    written = json.loads((folder / "WordSTS.json").read_text())["scores"]["test"][0]
    assert written["main_score"] == pytest.approx(sts.value, abs=1e-5)
    assert mteb.ResultCache(tmp_path / "out").load_task_result("WordSTS", model.mteb_model_meta).get_score() == pytest.approx(
        sts.value, abs=1e-5
    )
    count = len(seen)
    again = list(run_tasks(model, tasks, tmp_path / "out"))
    assert len(seen) == count and [score.value for score in again] == pytest.approx([retrieval.value, sts.value], abs=1e-5)


def test_a_task_of_the_package_without_network_is_told_in_one_line(tmp_path):
    pytest.importorskip("mteb")
    tasks = find_tasks(["tests.retrieval.mteb_local:Unreachable", "tests.retrieval.mteb_local:WordSTS"])
    failed, done = run_tasks(wrapped(tmp_path)[0], tasks, tmp_path / "out")
    assert str(failed) == "Unreachable: failed: ConnectionError: no route to the hub"
    assert isinstance(done.value, float) and np.isfinite(done.value)


def test_the_package_knows_the_benchmark_and_its_korean_subsets():
    pytest.importorskip("mteb")
    tasks = {task.metadata.name: task for task in find_tasks(["MTEB(kor, v2)"], ["Retrieval"])}
    assert {"MIRACLRetrieval", "Ko-StrategyQA"} <= tasks.keys() and tasks["MIRACLRetrieval"].hf_subsets == ["ko"]
    (miracl,) = find_tasks(["MIRACLRetrieval"], languages=["kor"])
    assert miracl.hf_subsets == ["ko"]
    with pytest.raises(ConfigurationError, match="did you mean Ko-StrategyQA"):
        find_tasks(["Ko-StrategyQ"])
    with pytest.raises(ConfigurationError, match=r"^languages=\['korean'\]: "):
        find_tasks(["MIRACLRetrieval"], languages=["korean"])
