"""Rows, dev sets and evaluation sets as planned: a mix from rows to its record, what mining holds out."""

import json
import re

import pytest

from e5ft.app.commands.data import (
    load_evaluation_set,
    load_mining_data,
    load_training_data,
)
from e5ft.app.commands.mine import mine
from e5ft.app.settings.plan import plan
from e5ft.data.store import tokenize_rows
from e5ft.data.text import TextSpec, text_id
from e5ft.errors import ConfigurationError, DataError
from e5ft.files import read_json
from e5ft.modeling.loading import load_encoder
from e5ft.training.trainer import ContrastiveTrainer
from tests.app.conftest import TINY
from tests.conftest import PLACES


def rows(name: str, count: int) -> list[dict]:
    return [{"query": f"{name} 질의 {i}", "document": f"{name} 본문 {i}"} for i in range(count)]


def load(settings):
    return load_training_data(plan(settings), settings)


def test_what_was_understood_of_rows_is_a_line_of_every_header(composed, tmp_path, capsys):
    """Also of rows that come from the cache, and of dev rows; with two files every line names its own."""

    def said():
        lines = capsys.readouterr().out.splitlines()
        return [line for line in lines if line.startswith("  read")], [line for line in lines if not line.startswith("  read")]

    for name, separator in (("rows.csv", ";"), ("dev.csv", "\t")):
        table = [
            separator.join(("query", "document")),
            *(f"{name} 질의 {i}{separator}{name} 본문 {i}" for i in range(30)),
            separator,
        ]
        (tmp_path / name).write_text("\n".join(table), encoding="cp949")
    given = [f"data.train_file={tmp_path}/rows.csv", f"data.dev_file={tmp_path}/dev.csv", "data.encoding=cp949"]
    expected = [
        f"  read        {tmp_path}/{name}: {fact}"
        for name, separator in (("rows.csv", "';'"), ("dev.csv", "tab"))
        for fact in (f"CP949, separator {separator}", "1 blank row left out")
    ]
    for _ in range(2):
        load(composed("train", *given))
        read, others = said()
        assert read == expected
        places = [(line[2:14].strip(), line[14:].partition(": ")[0]) for line in others]
        assert places == [(what, f"{tmp_path}/{name}") for name in ("rows.csv", "dev.csv") for what in ("columns", "first row")]
    settings = composed("mine", *given, "data.eval_dir=null")
    load_mining_data(plan(settings), settings)
    assert said()[0] == expected
    load_evaluation_set(composed("eval", "model.path=.", *given[1:]))
    read, others = said()
    assert read == expected[2:] and f"{tmp_path}" not in str(others)


@pytest.fixture
def two_files(write_rows, composed):
    """laws.jsonl (120 rows) and web.jsonl (60), in the folder that the job runs in."""
    write_rows(rows("laws", 120), "laws.jsonl")
    write_rows(rows("web", 60), "web.jsonl")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


BOTH = "data.sources={laws: laws.jsonl, web: {train_file: web.jsonl, weight: 2}}"


# -- rows --------------------------------------------------------------------------------------------------------------------


def test_the_dev_set_is_split_off_the_joined_rows(composed, two_files):
    """No sample anywhere; places and sources survive the split."""
    data = load(composed("train", "data=mix", BOTH))
    assert (data.rows.read, data.rows.rejected, data.label) == (180, 0, "a mix of laws, web")
    assert len(data.train.rows) + len(data.dev.queries) == 180
    assert len(data.dev.queries) == 18
    for number in range(len(data.train.rows)):
        row = data.train.rows[number]
        name = ("laws", "web")[row["source"]]
        assert row["query"].startswith(name)
        assert data.train.place(number) == f"{name}.jsonl:{int(row['query'].split()[-1]) + 1}"


# -- the whole job -----------------------------------------------------------------------------------------------------------


def test_a_mix_trains_and_records_its_shares(trained, two_files, capsys):
    """Weights 1 and 2 on 120 and 60 rows: both are drawn alike. 162 rows are 10 steps of 16, 5 of each source."""
    small = "training.num_train_epochs=1"
    _, folder = trained("data=mix", BOTH, small, "training.gradient_accumulation_steps=2",
                        "training.per_device_train_batch_size=8")  # fmt: skip
    logged = [entry for entry in lines(folder / "metrics.jsonl") if "loss" in entry]
    assert len(logged) == 10
    for entry in logged:
        count = entry["share/laws"] * entry["step"]
        assert count == pytest.approx(round(count))  # whole steps of one source
        assert entry["share/laws"] + entry["share/web"] == pytest.approx(1)
    assert 4 <= round(logged[-1]["share/laws"] * 10) <= 6
    printed = capsys.readouterr().out
    assert "on a mix of laws, web" in printed
    assert "rows drawn" in printed and "sources" in printed
    assert read_json(folder / "summary.json")["data"]["source"] == "a mix of laws, web"


def test_a_resumed_mix_ends_as_the_uninterrupted_one_and_another_mix_is_refused(trained, two_files, monkeypatch):
    """Stopped in step 13, after the checkpoint of step 12, in the second epoch of 10 steps."""
    settings = ["data=mix", "training.max_steps=14", "training.save_steps=6", "training.eval_strategy=no",
                "training.load_best_model_at_end=false"]  # fmt: skip
    _, whole = trained(*settings, BOTH, run_dir="outputs/whole")
    compute_loss, calls = ContrastiveTrainer.compute_loss, []

    def interrupted(self, *args, **kwargs):
        calls.append(None)
        if len(calls) == 13:
            raise KeyboardInterrupt
        return compute_loss(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ContrastiveTrainer, "compute_loss", interrupted)
        trained(*settings, BOTH, run_dir="outputs/cut")
    for field, other in (("mix.temperature", "data.mix.temperature=2"), ("rows", "+data.sources.web.cap=40")):
        with pytest.raises(
            ConfigurationError, match=rf"(?s)the configuration differs from the interrupted run's .*\n  {field}: "
        ):
            trained(*settings, BOTH, other, "resume=true", run_dir="outputs/cut")
    _, cut = trained(*settings, BOTH, "resume=true", run_dir="outputs/cut")
    steps = [[entry for entry in lines(folder / "metrics.jsonl") if "loss" in entry] for folder in (whole, cut)]
    assert len(steps[0]) == 14
    assert steps[0] == steps[1]


def test_prefixes_of_a_source_reach_its_tokens(composed, two_files, tmp_path):
    sources = "data.sources={laws: {train_file: laws.jsonl, query_prefix: '법: ', passage_prefix: ''}, web: web.jsonl}"
    config = composed("train", "data=mix", sources, *TINY)
    data, tokenizer = load(config), load_encoder(config.model).tokenizer
    model = TextSpec(query_max_length=24, passage_max_length=48)
    tokens = tokenize_rows(data.train, tokenizer, [source.text(model) for source in data.mix.sources], tmp_path / "cache")
    expected = {0: ("법: ", ""), 1: ("query: ", "passage: ")}
    seen = set()
    for row, found in zip(data.train.rows, tokens.tokens, strict=True):
        query, passage = expected[row["source"]]
        seen.add(row["source"])
        assert found["query"] == tokenizer(query + row["query"])["input_ids"]
        assert found["positives"] == [tokenizer(passage + row["positives"][0])["input_ids"]]
    assert seen == {0, 1}
    plain = tokenize_rows(data.train, tokenizer, model, tmp_path / "cache")  # another contract, another cache
    assert plain.tokens[0]["query"] != tokens.tokens[0]["query"]


def test_grouping_a_mix_by_length_is_refused(trained, two_files):
    with pytest.raises(ConfigurationError, match="group_by_length=true: not with data=mix"):
        trained("data=mix", BOTH, "training.group_by_length=true", "training.max_steps=1")


def test_a_source_smaller_than_a_step_is_told_before_training_and_auto_fits_it(trained, two_files, capsys):
    sources = "data.sources={laws: laws.jsonl, web: {train_file: web.jsonl, cap: 10}}"
    with pytest.raises(DataError, match=r"data\.sources\.web: its \d+ training rows do not fill one step of 16 rows"):
        trained("data=mix", sources, "training.max_steps=1")
    auto = ("training.gradient_accumulation_steps=auto", "training.max_steps=1")
    _, folder = trained("data=mix", sources, *auto, run_dir="outputs/auto")
    assert read_json(folder / "summary.json")["training"]["queries_per_step"] == 8
    assert re.search(r"of 8 queries \(8 x 1, auto for \d+ rows, (8|9|10) in the smallest source\)", capsys.readouterr().out)
    _, folder = trained("data=mix", sources, *auto, "data.mix.one_source=false", run_dir="outputs/together")
    assert read_json(folder / "summary.json")["training"]["queries_per_step"] == 16


# -- what dev rows are ranked among ------------------------------------------------------------------------------------------

KNOWN = [
    {
        "query": f"{place} 여권 창구는 어디인가",
        "document": f"{place} 시청 {n}번 창구에서 여권을 신청한다",
        "hard_negative": [f"{place} 역"],
    }
    for n, place in enumerate(PLACES, start=101)
]


def test_without_an_evaluation_folder_dev_rows_are_ranked_among_all_documents(composed, write_rows):
    """Their own passages and the training rows' documents, without the training rows' hard negatives."""
    data = load(composed("train", f"data.train_file={write_rows(KNOWN)}"))
    held = {row["query"] for row in KNOWN} & set(data.dev.queries)
    own = {f"{row['query'].split()[0]} 역" for row in KNOWN if row["query"] in held}
    assert len(held) == 2 and set(data.dev.passages) == {row["document"] for row in KNOWN} | own
    assert data.test is data.dev and data.corpus == "dev and training documents"
    (overlap,) = data.overlaps()
    assert (overlap.role, overlap.queries, overlap.shared_queries, overlap.shared_judged) == ("dev", 2, 0, 0)


def test_a_dev_file_and_a_corpus_file_join_them(composed, write_rows):
    new = {"query": "등기소는 언제 여는가", "document": "등기소는 아홉 시에 연다"}
    files = f"data.train_file={write_rows(KNOWN)}", f"data.dev_file={write_rows([new, KNOWN[0]], 'asked.jsonl')}"
    corpus = write_rows([{"title": "역", "text": "기차를 탄다"}, {"text": f"{KNOWN[0]['document']}."}], "corpus.jsonl")
    data = load(composed("train", *files, f"data.corpus_file={corpus}"))
    assert set(data.dev.passages) == {*(row["document"] for row in KNOWN), new["document"], f"{PLACES[0]} 역", "역 기차를 탄다"}
    assert (data.dev.name, data.dev.counts.near_copies) == ("asked", 1) and "data.corpus_file" in data.corpus
    assert [(o.role, o.queries, o.shared_queries, o.shared_judged) for o in data.overlaps()] == [("dev", 2, 1, 1)]


def test_with_an_evaluation_folder_dev_rows_keep_to_their_own(composed, write_rows, tmp_path):
    write_set(tmp_path / "with", "test")
    data = load(composed("train", f"data.train_file={write_rows(KNOWN)}", "data.eval_dir=with"))
    assert len(data.dev.passages) == 4 and data.corpus == "the evaluation folder's"
    assert [o.role for o in data.overlaps()] == ["test", "dev"]


def test_a_test_query_that_was_split_off_as_dev_counts_as_seen(composed, write_rows, tmp_path):
    write_set(tmp_path / "of_rows", "test")
    for name, field in (("queries", "query"), ("corpus", "document")):
        write_rows([{"_id": f"{name[0]}{n}", "text": row[field]} for n, row in enumerate(KNOWN)], f"of_rows/{name}.jsonl")
    judged = "".join(f"q{n}\tc{n}\t1\n" for n in range(len(KNOWN)))
    (tmp_path / "of_rows/qrels/test.tsv").write_text(judged)
    data = load(composed("train", f"data.train_file={write_rows(KNOWN)}", "data.eval_dir=of_rows"))
    assert len(data.train.rows) == 18
    test, _ = data.overlaps()
    assert (test.shared_queries, test.queries, test.shared_judged, test.judged, test.leaks) == (20, 20, 20, 20, True)


def test_mining_does_not_change_the_corpus(composed, write_rows, tmp_path):
    """Scores before and after mining are compared; what the rows had is replaced."""
    common = (f"data.dev_file={write_rows(KNOWN[:3], 'dev.jsonl')}", "data.columns.ignore=[]")
    train_file = write_rows(KNOWN[3:])
    mine(
        composed(
            "mine", f"data.train_file={train_file}", *common, "sources=[random]", "filters.percent=null", "name=a", "device=cpu"
        )
    )
    before, after = (
        load(composed("train", f"data.train_file={file}", *common)) for file in (train_file, "outputs/mined/a/rows.jsonl")
    )
    assert before.dev == after.dev and before.train.digest != after.train.digest


# -- what mining holds out ---------------------------------------------------------------------------------------------------

# Documents that answer several queries, and queries with several documents: rows that belong together, by sixes.
TIED = [
    {"query": f"질의 {i // 2}", "document": sorted({f"본문 {i}", f"본문 {i - i % 3}"}), "hard_negative": [f"본문 {i}x"]}
    for i in range(60)
]


def write_set(folder, *splits):
    """A BEIR folder whose corpus are documents 10 to 29 of TIED; the judgements differ by split."""
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"_id": f"d{i}", "text": f"본문 {i}"}) + "\n" for i in range(10, 30)))
    (folder / "queries.jsonl").write_text("".join(json.dumps({"_id": f"q{i}", "text": f"물음 {i}"}) + "\n" for i in range(10)))
    for start, split in enumerate(splits):
        (folder / f"qrels/{split}.tsv").write_text("".join(f"q{i}\td{i + 10 + 5 * start}\t1\n" for i in range(5)))


@pytest.mark.parametrize("limit", ["null", "40"])
@pytest.mark.parametrize("held_out", ["corpus", "judged"])
@pytest.mark.parametrize(
    "source", [("data.eval_dir=null",), ("data.dev_file=dev.jsonl",), ("data.eval_dir=with_dev",), ("data.eval_dir=without_dev",)]
)
def test_no_dev_or_evaluation_passage_becomes_a_negative(composed, write_rows, tmp_path, source, held_out, limit):
    """The mined file is trained on with the same settings: its negatives keep clear of what its dev and test sets judge."""
    train_file = write_rows(TIED)
    write_rows(TIED[:6], "dev.jsonl")
    write_set(tmp_path / "with_dev", "test", "dev")
    write_set(tmp_path / "without_dev", "test")
    common = ("data.dev_share=0.2", *source, f"data.max_train_rows={limit}")
    random = ("sources=[random]", "window=[1,100]", "per_query=60", "filters.percent=null", "filters.near_duplicate=null")
    mine(composed("mine", f"data.train_file={train_file}", f"held_out={held_out}", *common, *random, "name=a", "device=cpu"))
    data = load(composed("train", "data.train_file=outputs/mined/a/rows.jsonl", *common))
    judged = set()
    for retrieval_set in (data.dev, data.test):
        relevant = {passage for judgements in retrieval_set.qrels.values() for passage in judgements}
        judged |= {text_id(retrieval_set.passages[i]) for i in retrieval_set.passage_ids.positions_of(relevant).values()}
        if held_out == "corpus" and "=with" in source[0] and retrieval_set is data.test:
            judged |= set(map(text_id, retrieval_set.passages))
    negatives = {text_id(text) for row in data.train for text in row.negatives}
    assert negatives and judged and not negatives & judged
    everything = {text_id(text) for row in TIED for text in row["document"]}
    assert judged & everything  # without the rule they would have been candidates


@pytest.mark.parametrize("overrides", [(), ("data.eval_dir=without_dev",), ("data.max_train_rows=50",)])
def test_the_sample_s_dev_and_evaluation_passages_are_no_candidates(composed, tmp_path, overrides):
    write_set(tmp_path / "without_dev", "test")
    settings = composed("mine", *overrides)
    problem, data = load_mining_data(plan(settings), settings).index, load(composed("train", *overrides))
    candidates = set(map(text_id, problem.passages[: problem.candidates]))
    for retrieval_set in (data.dev, data.test):
        relevant = {passage for judgements in retrieval_set.qrels.values() for passage in judgements}
        positions = retrieval_set.passage_ids.positions_of(relevant).values()
        assert positions and not candidates & {text_id(retrieval_set.passages[i]) for i in positions}


def test_a_query_that_is_a_passage_is_neither_its_own_answer_nor_its_negative(composed, tmp_path):
    folder = tmp_path / "arguments"
    (folder / "qrels").mkdir(parents=True)
    for name in ("corpus", "queries"):
        texts = ({"_id": f"a{i}", "text": f"w{i} w{i + 1}"} for i in range(6))
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in texts))
    judged = ["a0 a1 1", "a1 a2 1", "a2 a3 1", "a3 gone 1", "a4 a4 1"]
    (folder / "qrels/test.tsv").write_text("\n".join(judged))
    settings = composed("mine", f"rows_dir={folder}", "rows_split=test")
    index = load_mining_data(plan(settings), settings).index
    known = {(index.queries[q], index.passages[p]) for q, p in zip(index.known_query, index.known_passage, strict=True)}
    assert list(index.queries) == ["w0 w1", "w1 w2", "w2 w3"]
    assert known == {(f"w{i} w{i + 1}", f"w{j} w{j + 1}") for i in range(3) for j in (i, i + 1)}
    assert [index.passages[p] for p in index.positive_passage] == ["w1 w2", "w2 w3", "w3 w4"]
