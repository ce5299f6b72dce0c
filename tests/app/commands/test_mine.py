"""mine.py as a job, on a small hand-made set with a saved model: its files, its sources of rows, its refusals."""

import dataclasses
import json
import shlex
import sys

import pytest

from e5ft.app.commands.data import load_training_data
from e5ft.app.commands.mine import mine
from e5ft.app.runs.overrides import quoted
from e5ft.app.settings.plan import SAMPLE_SET, plan
from e5ft.data.settings import Columns
from e5ft.data.split import split_rows
from e5ft.data.store import load_rows
from e5ft.errors import ConfigurationError, DataError
from e5ft.files import read_json, write_json
from e5ft.modeling.loading import save_encoder
from tests.conftest import WORDS, make_encoder
from tests.modeling.test_cross_encoder import save as save_cross_encoder

ROWS = [
    {"query": f"{WORDS[i]} {WORDS[i + 1]}", "document": " ".join(WORDS[i : i + 4]), "hard_negative": [WORDS[50]]}
    for i in range(20)
]


@pytest.fixture
def model(tmp_path):
    save_encoder(make_encoder(), tmp_path / "model")
    return f"model.path={tmp_path / 'model'}"


@pytest.fixture
def job(composed, write_rows):
    """Mine in rows of one's own; returns the rows written and the summary."""

    def run(*overrides, rows=ROWS, name="test"):
        given = [] if rows is None else [f"data.train_file={write_rows(rows)}"]
        alike = "filters.near_duplicate.threshold=0.8"  # passages of four words share half of their letters
        mine(composed("mine", *given, f"name={name}", "device=cpu", alike, *overrides))
        folder = f"outputs/mined/{name}"
        with open(f"{folder}/rows.jsonl", encoding="utf-8") as file:
            return [json.loads(line) for line in file], read_json(f"{folder}/mining.json")

    return run


def write_beir(folder, split="test", shift=0):
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    passages = [
        {"_id": f"d{i}", "title": WORDS[i + shift], "text": " ".join(WORDS[i + 1 + shift : i + 4 + shift])} for i in range(20)
    ]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in passages))
    queries = [{"_id": f"q{i}", "text": WORDS[i + shift]} for i in range(5)]
    (folder / "queries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in queries))
    (folder / "qrels" / f"{split}.tsv").write_text("".join(f"q{i}\td{i}\t1\nq{i}\td{i + 5}\t0\n" for i in range(4)))
    return folder


def test_a_job_from_rows_to_rows(job, model, tmp_path, capsys):
    rows, summary = job(model, "filters.percent=1.0", "sources=[dense,bm25,fused,random]", "window=[1,8]", "per_query=3")
    store = load_rows("outputs/mined/test/rows.jsonl", Columns(), tmp_path / "again")
    assert [row.query for row in store] == [row["query"] for row in ROWS]
    assert [row["document"] for row in rows] == [row["document"] for row in ROWS]
    assert any(row["hard_negative"] for row in rows) and not any("scores" in row for row in rows)
    assert summary["rows"] == 20 and sum(summary["rows_by_negatives"].values()) == 20
    assert summary["approximate"] is False and len(summary["model_digest"]) == 32 and summary["dropped_hard_negatives"] == 20
    assert summary["settings"]["window"] == [1, 8] and summary["output_file"] == "rows.jsonl" and summary["examples"]
    for kind, count in (("positives", 20), ("negatives", summary["candidates"]["chosen"])):
        assert sum(summary["scores"][kind]) == count
    assert (tmp_path / "outputs/mined/test/mining.png").read_bytes().startswith(b"\x89PNG")
    told = capsys.readouterr().out
    given = f"model=folder {model} data.train_file=outputs/mined/test/rows.jsonl"
    assert "20 rows: " in told and told.endswith(f"next        python train.py {given}\n")


def test_the_order_of_rows_changes_no_row(job, model, tmp_path):
    """With a dev set named: which rows train.py would set aside does depend on their order."""
    (tmp_path / "dev.jsonl").write_text(json.dumps({"query": "w90", "document": "w91 w92"}) + "\n")
    settings = (
        model,
        "choose=sample",
        "filters.percent=null",
        "per_query=4",
        "sources=[dense,random]",
        "data.dev_file=dev.jsonl",
    )
    one, _ = job(*settings, name="one")
    other, _ = job(*settings, rows=ROWS[::-1], name="other")
    assert one == other[::-1]
    assert one != job(*settings, "seed=7", name="seed")[0]


def test_without_a_model_bm25_scores(job, capsys):
    rows, summary = job("sources=[bm25]", "bm25=words", "filters.percent=0.9")
    assert summary["model"] is None and summary["model_digest"] is None
    for row in rows:
        limit = 0.9 * row["mining"]["document"][0]["score"]
        assert all(made["score"] <= limit + 1e-5 for made in row["mining"]["hard_negative"])
    assert summary["candidates"]["percent"] > 0 and "without a model" in capsys.readouterr().out
    rows, summary = job("sources=[random]", "filters.percent=null", name="random")
    assert summary["scores"] is None and rows[0]["mining"]["document"] == [{"score": None}]


def test_a_cross_encoder_s_scores_are_written_for_every_text(job, model, tmp_path):
    save_cross_encoder(tmp_path / "teacher", 1)
    rows, summary = job(
        model, f"cross_encoder.path={tmp_path / 'teacher'}", "cross_encoder.margin=null", "filters.percent=null", "per_query=2"
    )
    assert all(len(row["scores"]) == 1 + len(row["hard_negative"]) for row in rows)
    assert summary["candidates"]["cross_encoder"] == 0 and summary["teacher_scores"] is not None
    strict, _ = job(
        model, f"cross_encoder.path={tmp_path / 'teacher'}", "cross_encoder.margin=0.0", "filters.percent=null", name="strict"
    )
    assert all(max(row["scores"][1:], default=-1e9) <= row["scores"][0] for row in strict)


def test_held_out_passages_are_no_negatives(job, model, tmp_path, capsys):
    """The evaluation set's passages 10 to 19 are documents of the rows: no candidates, but still documents."""
    folder = write_beir(tmp_path / "eval", shift=10)
    write_beir(folder, split="dev", shift=10)
    free, _ = job(model, "filters.percent=null", "per_query=19", name="free")
    rows, summary = job(model, "filters.percent=null", "per_query=19", f"data.eval_dir={folder}")
    held_out = {row["document"] for row in ROWS[10:]}
    assert held_out & {text for row in free for text in row["hard_negative"]}
    assert not held_out & {text for row in rows for text in row["hard_negative"]}
    assert summary["held_out"] == {"excluded_from_candidates": 10, "documents_of_rows": 10, "of_eval_dir": "corpus"}
    told = capsys.readouterr().out  # half of the candidates are in its corpus, and not more
    assert "20 passages of" in told and "held_out=judged" not in told
    judged = job(model, "filters.percent=null", "per_query=19", f"data.eval_dir={folder}", "held_out=judged", name="judged")[1]
    assert judged["held_out"]["excluded_from_candidates"] == 8  # d0-d3, d5-d8 are judged, relevant or not


def test_a_beir_folder_as_rows(job, model, tmp_path):
    folder = write_beir(tmp_path / "set", split="train")
    write_beir(folder, split="test")
    settings = (model, f"rows_dir={folder}", "filters.percent=null", "per_query=30")
    rows, summary = job(*settings, rows=None)
    assert len(rows) == 4 and summary["corpus"] == 20 and summary["rows_by_negatives"] == {"19": 4}
    assert rows[0]["query"] == "w0" and rows[0]["document"] == "w0 w1 w2 w3"
    with pytest.raises(DataError, match="no candidate is left.*held_out=judged"):
        job(*settings, f"data.eval_dir={folder}", "held_out=corpus", rows=None, name="shared")
    # Judged in qrels/test.tsv: the same eight. Those of the split that is mined for do not count.
    rows, summary = job(*settings, f"data.eval_dir={folder}", "held_out=judged", rows=None, name="judged")
    assert summary["corpus"] == 12
    assert job(*settings, f"data.eval_dir={folder}", rows=None, name="auto")[0] == rows
    (folder / "qrels/train.tsv").write_text("query-id\tcorpus-id\tscore\n")
    with pytest.raises(DataError, match="no query has a relevant passage"):
        job(*settings, rows=None, name="empty")


@pytest.mark.parametrize(("rows", "which"), [(ROWS[10:], "judged"), (ROWS[9:], "judged"), (ROWS, "corpus"), (ROWS[5:], "judged")])
def test_one_knowledge_base_for_training_and_evaluation(job, tmp_path, capsys, rows, which):
    """Documents 10 to 19 are passages of the evaluation corpus, of which d0 to d3 and d5 to d8 are judged: 10 to 13 and 15 to 18."""
    folder = write_beir(tmp_path / "eval", shift=10)
    write_beir(folder, split="dev", shift=10)
    _, summary = job("sources=[random]", "filters.percent=null", f"data.eval_dir={folder}", rows=rows)
    kept = {"judged": len(rows) - 8, "corpus": len(rows) - 10}[which]
    assert (summary["held_out"]["of_eval_dir"], summary["corpus"]) == (which, kept)
    assert ("held_out=judged, since its corpus holds most candidates" in capsys.readouterr().out) == (which == "judged")


def test_the_next_command_trains_with_the_same_model_and_sets(job, tmp_path, composed, capsys):
    """As a shell reads it; the dev rows follow the mined ones into the standard columns."""
    folder, keep = write_beir(tmp_path / "평가 모음"), write_beir(tmp_path / "keep")
    rows = [{"질문": row["query"], "답변": row["document"]} for row in ROWS]
    dev = tmp_path / "dev.jsonl"
    dev.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows[:3]), encoding="utf-8")
    given = ["model=mini", "model.pooling=cls", f"data.eval_dir='{folder}'", "data.eval_split=test", f"data.keep_dir=[{keep}]"]
    names = ["data.columns.query='질문'", "data.columns.document='답변'", f"data.dev_file={dev}", "seed=7"]
    job("sources=[bm25]", *given, *names, rows=rows)
    python, script, *words = shlex.split(capsys.readouterr().out.splitlines()[-1].removeprefix("next "))
    assert (python, script) == ("python", "train.py")
    settings = composed("train", *map(quoted, words))
    assert settings.model.pooling == "cls" and settings.model.init == "random" and settings.seed == 7
    data = load_training_data(plan(settings), settings)
    assert len(list(data.train)) == 20 and data.dev.name == "rows.dev" and len(data.dev.queries) == 3
    assert data.test.name == "평가 모음-test" and [kept.name for kept in data.keep] == ["keep-test"]


def test_the_next_command_ranks_the_dev_rows_among_the_same_corpus(job, write_rows, composed, tmp_path, capsys):
    """Without an evaluation folder the corpus is that of the rows before mining; with one it is the folder's."""
    corpus, folder = write_rows([{"text": f"w{i} w{i + 1}"} for i in range(30)], "모든 글.jsonl"), write_beir(tmp_path / "set")
    for given, kept in (([], True), ([f"data.eval_dir={folder}"], False)):
        job("sources=[bm25]", f"data.corpus_file='{corpus}'", *given, name=f"kept-{kept}")
        *_, command = capsys.readouterr().out.splitlines()
        settings = composed("train", *map(quoted, shlex.split(command.removeprefix("next "))[2:]))
        assert (settings.data.corpus_file == corpus) == kept
        assert len(load_training_data(plan(settings), settings).test.passages) > 20 or not kept


def test_a_corpus_keeps_its_encoding_in_the_next_command_and_between_rounds(job, composed, tmp_path, capsys):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_bytes("".join(f'{{"text": "낱말 {word}"}}\n' for word in WORDS[:30]).encode("cp949"))
    job("sources=[bm25]", f"data.corpus_file={corpus}", "data.encoding=cp949")
    *_, command = capsys.readouterr().out.splitlines()
    settings = composed("train", *map(quoted, shlex.split(command.removeprefix("next "))[2:]))
    for data in (settings.data, settings.data.with_standard_rows(settings.data.train_file, None)):
        given = dataclasses.replace(settings, data=data)
        loaded = load_training_data(plan(given), given)
        assert f"낱말 {WORDS[29]}" in list(loaded.test.passages)


def test_the_sample_s_set_and_a_changed_dev_share_are_named(job, capsys):
    job("sources=[random]", "filters.percent=null", "data.max_train_rows=20", "data.dev_share=0.2", rows=None)
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert f"data.eval_dir={SAMPLE_SET}" in words and "data.dev_share=0.2" in words and not [w for w in words if "model" in w]


def test_dev_rows_that_mining_did_not_write_are_never_replaced(job, tmp_path):
    (tmp_path / "x").mkdir()
    dev = tmp_path / "x/rows.dev.jsonl"
    dev.write_text('{"q": "w0", "document": "w1"}\n')
    rows = [{"q": row["query"], "document": row["document"]} for row in ROWS]
    for given in ([f"data.dev_file={dev}"], []):
        with pytest.raises(ConfigurationError, match="rows.dev.jsonl (is data.dev_file|that mine.py did not write)"):
            job("sources=[bm25]", "data.columns.query=q", f"output_dir={tmp_path}/x", *given, rows=rows)


def test_own_negatives_stay_before_the_mined_ones(job, tmp_path, capsys):
    """Row 0 has one twice, spelt twice, one of the corpus and one that only it knows; row 1 has none."""
    own = ["w50", " w50 ", ROWS[5]["document"]]
    rows = [{**ROWS[0], "hard_negative": own}, {**ROWS[1], "hard_negative": None}, *ROWS[2:]]
    settings = ("sources=[random]", "filters.percent=null", "per_query=30", "data.dev_file=dev.jsonl")
    (tmp_path / "dev.jsonl").write_text(json.dumps({"query": "w90", "document": "w91 w92"}) + "\n")
    kept, summary = job(*settings, "own_negatives=keep", rows=rows)
    replaced, before = job(*settings, rows=rows, name="replaced")
    assert kept[0]["hard_negative"][:2] == ["w50", ROWS[5]["document"]]
    assert [made["source"] for made in kept[0]["mining"]["hard_negative"]] == ["own", "own", *["random"] * 18]
    for row, alone in zip(kept, replaced, strict=True):
        assert len(set(row["hard_negative"])) == len(row["hard_negative"])
        assert set(row["hard_negative"]) - {"w50"} == set(alone["hard_negative"])
    assert (summary["own_negatives"], summary["dropped_hard_negatives"], summary["candidates"]["own_negative"]) == (20, 0, 1)
    assert (before["own_negatives"], before["dropped_hard_negatives"], before["corpus"]) == (0, 21, summary["corpus"])
    told = capsys.readouterr().out
    assert "20 hard negatives that the rows had stay" in told and "21 hard negatives that the rows had are replaced" in told
    assert "have 30 mined hard negatives" in told and "have 30 hard negatives" in told  # a row's own are not counted


def test_the_cross_encoder_scores_own_negatives_too(job, model, tmp_path):
    save_cross_encoder(tmp_path / "teacher", 1)
    teacher = f"cross_encoder.path={tmp_path / 'teacher'}"
    rows, _ = job(model, teacher, "cross_encoder.margin=null", "filters.percent=null", "per_query=2", "own_negatives=keep")
    assert all(row["hard_negative"][0] == WORDS[50] and len(row["scores"]) == 1 + len(row["hard_negative"]) > 2 for row in rows)


def test_what_was_removed_and_which_rows_have_none_is_told(job, tmp_path, capsys):
    limit = "filters.max_score=-1"  # BM25 scores above it
    rows, summary = job("sources=[bm25]", "bm25=words", "filters.percent=null", limit, "data.dev_share=0.05")
    [question] = summary["questioned"]
    assert question["filter"] == "max_score" and question["share"] > 0.15 and question["looser"] == "filters.max_score=null"
    assert summary["without"]["reasons"] == {"max_score": 20}
    first = summary["without"]["first"][0]
    assert first["place"].endswith(".jsonl:1") and first["query"] == ROWS[0]["query"] and len(summary["without"]["first"]) == 10
    told = capsys.readouterr().out
    assert "20 scored too high" in told and f"{first['place']}, {first['query']}" in told
    assert "removed;" in told and "filters.max_score=null" in told and summary["removed"]["max_score"][0]["passage"] in told


def test_a_corpus_of_its_own(job, model, tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"title": "w100", "text": "w101"}\n{"_id": "x", "text": "w102 w103"}\n')
    rows, summary = job(model, f"data.corpus_file={path}", "filters.percent=null", "data.max_train_rows=5")
    assert summary["rows_by_negatives"] == {"2": 5} and summary["rows_with_fewer"] == 5  # smaller than per_query: counted
    assert {text for row in rows for text in row["hard_negative"]} == {"w100 w101", "w102 w103"}
    path.write_text("")
    with pytest.raises(DataError, match="no rows"):
        job(model, f"data.corpus_file={path}")
    path.write_text('{"_id": "x"}\n')
    with pytest.raises(DataError, match=r"corpus\.jsonl:1: the key 'text' is missing"):
        job(model, f"data.corpus_file={path}")


def test_all_filtered_is_told_and_written(job, model, capsys):
    rows, summary = job(model, "filters.max_score=-2")
    assert [row["hard_negative"] for row in rows] == [[]] * 20 and summary["rows_with_none"] == 20
    assert "No row got a hard negative" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([], "dense needs a model"),
        (["model=mini"], "noise"),
        (["sources=[fused]"], "fused needs a model"),
        (["sources=[random]"], "nothing gives the scores"),
        (["sources=bm25"], "sources='bm25': must be a list"),
        (["sources=[bm25]", "window=[9,3]"], "window="),
        (["sources=[bm25]", "bm25=nouns"], "bm25='nouns'"),
        (["sources=[bm25]", "search=flat"], "search='flat': must be exact or ivfpq"),
        (["sources=[bm25]", "held_out=all"], "held_out='all'"),
        (["sources=[bm25]", "rows_dir=x"], "name one of the two"),
        (
            ["sources=[bm25]", "data=mix", "data.sources={a: rows.jsonl}", "data.train_file=null"],
            "data=mix .*rows.jsonl.*mine each",
        ),
        (["sources=[bm25]", "output_dir=."], "rows.jsonl is data.train_file"),
        (["sources=[bm25]", "filters.near_duplicate.measure=cosine"], "near_duplicate.measure"),
        (["sources=[bm25]", "cross_encoder.path=nowhere"], "cross_encoder.path=nowhere"),
        (["sources=[bm25]", "data.max_train_rows=0"], "max_train_rows=0"),
    ],
)
def test_refusals(job, overrides, words):
    with pytest.raises(ConfigurationError, match=words):
        job(*overrides)


def test_random_weights_are_left_out_of_lexical_mining(job):
    assert job("model=mini", "sources=[bm25]")[1]["model"] is None


@pytest.mark.parametrize(
    ("module", "overrides"), [("kiwipiepy", ["sources=[bm25]", "bm25=kiwi"]), ("faiss", ["sources=[bm25]", "search=ivfpq"])]
)
def test_what_is_not_installed_is_named(job, monkeypatch, module, overrides):
    from e5ft.retrieval import bm25

    bm25._kiwi.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError, match=f"pip install {module}"):
        job(*overrides)
    bm25._kiwi.cache_clear()


def test_what_mining_did_not_write_is_never_replaced(job, tmp_path):
    with pytest.raises(FileNotFoundError):
        job("sources=[bm25]", f"output_dir={tmp_path}/x")  # written there, not where the fixture looks
    assert (tmp_path / "x/rows.jsonl").is_file()
    write_json(tmp_path / "x/mining.json", {"output_file": "old.jsonl"})  # as an earlier release named it
    with pytest.raises(ConfigurationError, match="belongs to another file"):
        job("sources=[bm25]", f"output_dir={tmp_path}/x")
    (tmp_path / "x/mining.json").unlink()
    with pytest.raises(ConfigurationError, match="did not write"):
        job("sources=[bm25]", f"output_dir={tmp_path}/x")


def test_a_file_or_a_link_in_the_place_of_the_folder_is_named(job, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    for name in ("file", "gone"):
        with pytest.raises(ConfigurationError, match=f"output_dir={tmp_path}/{name}: must be a folder"):
            job("sources=[bm25]", f"output_dir={tmp_path}/{name}")
    (tmp_path / "x").mkdir()
    (tmp_path / "x/rows.jsonl").symlink_to(tmp_path / "file")
    with pytest.raises(ConfigurationError, match=f"output_dir={tmp_path}/x: .*rows.jsonl is a link"):
        job("sources=[bm25]", f"output_dir={tmp_path}/x")


def test_a_row_too_long_to_be_read_back_is_refused(job):
    rows = [{"query": f"질문 {i}", "document": f"질문 {i} " + "가나다라마바사" * 10_000} for i in range(10)]
    with pytest.raises(DataError, match="lower per_query"):
        job("sources=[random]", "filters.percent=null", "filters.near_duplicate=null", rows=rows)


def test_the_documents_of_dev_rows_that_training_will_set_aside_are_no_negatives(job, model, tmp_path):
    """The mined rows are split by train.py as the rows are here: none of its dev documents is a training row's negative."""
    rows, summary = job(model, "filters.percent=null", "filters.near_duplicate=null", "per_query=19", "data.dev_share=0.2")
    store = load_rows("outputs/mined/test/rows.jsonl", Columns(), tmp_path / "again")
    train, dev = split_rows(store, 0.2, 42)
    held_out = {row.positives[0] for row in dev}
    assert len(held_out) == 4 == summary["held_out"]["excluded_from_candidates"]
    negatives = {text for row in train for text in row.negatives}
    assert negatives == {row["document"] for row in ROWS} - held_out
    (tmp_path / "dev.jsonl").write_text(json.dumps({"query": "w90", "document": "w91 w92"}) + "\n")
    named, _ = job(
        model, "filters.percent=null", "filters.near_duplicate=null", "per_query=19", "data.dev_file=dev.jsonl", name="b"
    )
    assert held_out & {text for row in named for text in row["hard_negative"]}
