"""`python -m e5ft rows` and `split`: from documents, and from rows, to a folder on which the printed command trains."""

import json
import shlex
from pathlib import Path

import pytest

from e5ft.app.commands.rows import rows, split
from e5ft.app.settings.build import shipped
from e5ft.errors import ConfigurationError, DataError
from e5ft.files import read_json
from e5ft.modeling.loading import save_encoder
from tests.conftest import make_encoder
from tests.synthesis.conftest import chat, make_documents  # noqa: F401

SAMPLE = str(shipped("data/sample/train.jsonl"))


@pytest.fixture
def documents(tmp_path):
    """A folder of 20 plain documents, and passages with titles."""
    folder = tmp_path / "documents"
    folder.mkdir()
    for document in make_documents():
        texts = ["\n".join(section.paragraphs) for section in document.sections]
        (folder / document.name).with_suffix(".txt").write_text("\n\n".join(texts[3:]))
        values = {"title": document.title, "text": "\n\n".join(texts[:3])}
        (folder / document.name).with_suffix(".jsonl").write_text(json.dumps(values, ensure_ascii=False) + "\n")
    return folder


def trained_by(output: str, trained) -> tuple:
    """Run the command that was printed, with the smallest model in the place of the one that it names."""
    [line] = [line for line in output.splitlines() if line.startswith("next ")]
    words = shlex.split(line)
    assert words[1:4] == ["python", "train.py", "model=e5_small"]
    return trained(*words[4:], "training.max_steps=2", "training.per_device_train_batch_size=4")


def test_rows_from_documents_train(composed, documents, trained, capsys):
    rows(composed("rows", f"data.corpus_file={documents}", "output_dir=out", "max_chars=150", "min_chars=10"))
    printed = capsys.readouterr().out
    for part in ("  documents   40", "BM25 alone, as no model is named (model.path=DIR)", "split       by documents: ", "\nfaq "):
        assert part in printed
    record = read_json("out/rows.json")
    assert record["settings"]["max_chars"] == 150 and record["kinds"]["title"]["made"] == 20 and record["generator"] is None
    assert record["rows"]["train"] == len(Path("out/train.jsonl").read_text().splitlines()) > 50
    objective, folder = trained_by(printed, trained)
    summary = json.loads((folder / "summary.json").read_text())
    assert 0 <= objective <= 1 and summary["data"]["train_rows"] == record["rows"]["train"] and summary["test_set"] == "out-test"
    assert not any(overlap["shared_queries"] or overlap["shared_judged"] for overlap in summary["overlap"])


def test_a_language_model_writes_rows_and_its_key_stays_secret(composed, documents, chat, capsys, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setenv("E5FT_API_KEY", "very-secret-0123456789")
    chat.answer = lambda prompt: f"{prompt.rpartition('글: ')[2][:25]} 어떻게 되나요?"
    given = [
        f"data.corpus_file={documents}",
        "output_dir=out",
        "min_chars=10",
        "kinds=[]",
        f"generator.url={chat.url}",
        "generator.model=m",
    ]
    rows(composed("rows", *given, "generator.price=[0.1,0.4]", "generator.max_calls=40"))
    printed = capsys.readouterr().out
    assert "  generator   m: 40 calls, about " in printed and "calls       40 answered; 4,000 tokens in, 400 out" in printed
    record = json.loads((tmp_path / "out/rows.json").read_text())
    assert set(record["kinds"]) == {f"generated_{kind}" for kind in ("question", "keywords", "colloquial", "claim", "title")}
    assert record["generator"]["calls"] == {"answered": 40} and chat.seen[0][1] == "Bearer very-secret-0123456789"
    assert not any("very-secret" in path.read_text() for path in (tmp_path / "out").rglob("*") if path.is_file())
    rows(composed("rows", *given, "generator.max_calls=40"))
    assert "0 calls (40 more are answered already)" in capsys.readouterr().out and len(chat.seen) == 40


def test_a_model_looks_for_the_chunks_with_bm25(composed, documents, capsys, tmp_path):
    save_encoder(make_encoder(), tmp_path / "model")
    model = f"model.path={tmp_path / 'model'}"
    rows(composed("rows", f"data.corpus_file={documents}", "output_dir=out", "min_chars=10", "kinds=[title]", model))
    printed = capsys.readouterr().out
    assert f"a query must find its chunk among the first 10, by {tmp_path / 'model'} and BM25\n" in printed
    assert printed.splitlines()[-1].startswith(
        f"next        python train.py model=folder {model} data.train_file=out/train.jsonl"
    )


def test_rows_in_parts_train(composed, trained, capsys):
    split(composed("split", f"data.train_file={SAMPLE}", "data.max_train_rows=150", "test_share=0.2"))
    printed = capsys.readouterr().out
    [place] = [line.partition(":")[0] for line in printed.splitlines() if line.startswith("outputs/split/")]
    record = read_json(f"{place}/split.json")
    assert record["train"] + record["dev"] + record["test"] == 150 and 20 <= record["test"] <= 30
    objective, folder = trained_by(printed, trained)
    assert "fewer than 30 dev or test queries decide nothing" in printed
    assert 0 <= objective <= 1 and json.loads((folder / "summary.json").read_text())["data"]["train_rows"] == record["train"]


def test_a_split_is_made_again_and_never_replaced_by_another(composed, capsys):
    given = (f"data.train_file={SAMPLE}", "data.max_train_rows=300", "test_share=0.3", "data.dev_share=0.3", "name=mine")
    for _ in range(2):
        split(composed("split", *given))
    assert "decide nothing" not in capsys.readouterr().out
    with pytest.raises(ConfigurationError, match="^outputs/split/mine: holds what other settings made; choose another name="):
        split(composed("split", *given, "seed=1"))


def test_rows_that_name_passages_by_id_are_searched_for_in_the_whole_corpus(composed, tmp_path):
    passages = [{"_id": str(n), "text": f"{n}번 창구에서는 {n * n}가지 서류를 받는다"} for n in range(200)]
    asked = [{"query": f"서류 {n * n}가지는 어디서?", "document_id": str(n)} for n in range(40)]
    for name, lines in (("corpus", passages), ("asked", asked)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    split(composed("split", "data.train_file=asked.jsonl", "data.corpus_file=corpus.jsonl", "output_dir=out", "test_share=0.2"))
    searched = [json.loads(line)["text"] for line in Path("out/eval/corpus.jsonl").read_text().splitlines()]
    assert set(searched) == {passage["text"] for passage in passages}


@pytest.mark.parametrize(
    ("verb", "overrides", "message"),
    [
        ("rows", [], "^data.corpus_file=None: must be a folder of documents"),
        ("rows", ["data.corpus_file=.", "kinds=[]"], "^kinds=.*none only with generator.url"),
        ("rows", ["data.corpus_file=.", "kinds=[poem]"], "^kinds=.*each item title, heading, first_sentence, faq or keywords"),
        ("rows", ["data.corpus_file=.", "min_chars=500"], "^min_chars=500: must be at most 400, half of max_chars"),
        ("rows", ["data.corpus_file=.", "generator.url=http://x/v1"], "^generator.model=None"),
        ("rows", ["data.corpus_file=.", "test_share=0.7"], "^test_share=0.7: must be above 0 and at most 0.5"),
        ("rows", ["data.corpus_file=.", "model=mini"], "^model.init='random': must be pretrained"),
        ("split", [], "^data.train_file=None: must be your rows"),
        (
            "split",
            ["data=mix", "data.sources={a: x}"],
            "^data=mix: must be one file; split each source by itself: data.train_file=FILE$",
        ),
        ("split", ["data.train_file=x", "seed=-1"], "^seed=-1"),
        (
            "split",
            ["data.train_file=x", "data.dev_file=y"],
            "^data.dev_file='y': must not be set: data.train_file is divided, and",
        ),
        ("split", ["data.train_file=x", "data.keep_dir=[six_languages]"], "^data.keep_dir=.* must not be set"),
        ("rows", ["data.corpus_file=.", "data.eval_dir=y"], "^data.eval_dir='y': must not be set: rows are made of"),
        ("rows", ["data.corpus_file=.", "data.train_file=y"], "^data.train_file='y': must not be set"),
        ("rows", ["data.corpus_file=.", "data.columns.document=y"], "^data.columns=.* must not be set"),
        ("split", ["data.train_file=x", "+model.path=x"], "model"),
    ],
)
def test_what_cannot_be(composed, verb, overrides, message):
    with pytest.raises(ConfigurationError, match=message):
        composed(verb, *overrides)


def test_no_documents_and_a_folder_of_others(composed, tmp_path):
    with pytest.raises(DataError, match="^data.corpus_file=nowhere: no such file or folder"):
        rows(composed("rows", "data.corpus_file=nowhere"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/novel.txt").write_text("x")
    for verb, command, given in (("rows", rows, "data.corpus_file=."), ("split", split, f"data.train_file={SAMPLE}")):
        with pytest.raises(ConfigurationError, match="^output_dir=mine: holds other files"):
            command(composed(verb, given, "output_dir=mine"))
