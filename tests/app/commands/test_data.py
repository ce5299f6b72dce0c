"""Rows, dev sets and evaluation sets as planned: a mix from rows to its record, what mining holds out, what evaluations cost."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e5ft.app.commands.data import (
    FEWEST_QUERIES,
    LARGEST,
    chosen_size,
    load_evaluation_set,
    load_mining_data,
    load_training_data,
    planned_dev,
)
from e5ft.app.commands.mine import mine
from e5ft.app.settings.plan import plan
from e5ft.app.settings.training import training_arguments
from e5ft.data.store import tokenize_rows
from e5ft.data.text import TextSpec, text_id
from e5ft.errors import ConfigurationError, DataError
from e5ft.files import read_json
from e5ft.modeling.loading import load_encoder
from e5ft.training.trainer import ContrastiveTrainer
from tests.app.conftest import TINY


def rows(name: str, count: int) -> list[dict]:
    return [{"query": f"{name} 질의 {i}", "document": f"{name} 본문 {i}"} for i in range(count)]


def load(settings):
    return load_training_data(plan(settings), settings)


def test_what_was_understood_of_rows_is_a_line_of_every_header(composed, tmp_path, capsys):
    """Also of rows that come from the cache, and of dev rows."""
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
        assert capsys.readouterr().out.splitlines() == expected
    settings = composed("mine", *given, "data.eval_dir=null")
    load_mining_data(plan(settings), settings)
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("  read")] == expected
    load_evaluation_set(composed("eval", "model.path=.", *given[1:]))
    assert capsys.readouterr().out.splitlines() == expected[2:]


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
    assert (data.read, data.rejected, data.sample, data.label) == (180, 0, False, "a mix of laws, web")
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


def test_a_source_smaller_than_a_step_is_told_before_training(trained, two_files):
    sources = "data.sources={laws: laws.jsonl, web: {train_file: web.jsonl, cap: 10}}"
    with pytest.raises(DataError, match=r"data\.sources\.web: its \d+ training rows do not fill one step of 16 rows"):
        trained("data=mix", sources, "training.max_steps=1")


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


# -- what evaluations cost ---------------------------------------------------------------------------------------------------


@given(
    tokens=st.floats(1, 1e8),
    query=st.floats(3, 64),
    passage=st.floats(3, 512),
    queries=st.integers(1, 100_000),
    judged=st.floats(0.1, 5),
)
def test_the_size_keeps_to_its_tokens_above_the_floor(tokens, query, passage, queries, judged):
    chosen, passages = chosen_size(tokens, query, passage, queries, judged)
    assert min(queries, FEWEST_QUERIES) <= chosen <= queries and 1 <= passages <= LARGEST
    floor = min(queries, FEWEST_QUERIES) * (query + 2 * judged * passage) + passage
    if 2 * judged * chosen < LARGEST:
        assert chosen * query + passages * passage <= max(tokens, floor) * (1 + 1e-9)


def test_more_tokens_buy_queries_first_and_then_passages():
    sizes = [chosen_size(tokens, 10, 190, 902, 1.0) for tokens in (1_000, 80_000, 300_000, 1_500_000, 1e8)]
    assert sizes == [(100, 200), (103, 415), (389, 1558), (902, 7847), (902, LARGEST)]


def test_a_run_says_what_its_evaluations_cost_and_measures_so_often(trained, capsys):
    _, folder = trained("training.max_steps=6", "training.eval_steps=2", "training.save_steps=2")
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  evaluation "))
    # The floor: 100 of the sample's 211 dev queries, against twice the passages judged for them or all.
    assert line.startswith("  evaluation  3 times while training, 100 dev queries against ")
    evaluations = [
        entry for entry in read_json(folder / "checkpoint-6" / "trainer_state.json")["log_history"] if "eval_ndcg@10" in entry
    ]
    assert [entry["step"] for entry in evaluations] == [0, 2, 4, 6]


@pytest.fixture
def bounded(composed):
    """The dev set as planned under some overrides, its plan, and the whole set."""

    def run(*overrides, rows=900):
        settings = composed("train", *TINY, *overrides)
        data, encoder = load(settings), load_encoder(settings.model)
        arguments = training_arguments(settings, "out")
        return *planned_dev(data.dev, settings, arguments, encoder, rows=rows, row_tokens=90.0), data.dev

    return run


def test_with_much_to_train_evaluation_stays_within_its_share(bounded):
    dev, evaluations, whole = bounded()
    assert FEWEST_QUERIES <= evaluations.queries < len(whole.queries) and 0.03 < evaluations.share <= 0.051
    assert (evaluations.queries, evaluations.passages) == (len(dev.queries), len(dev.passages))
    assert set(dev.query_ids) == set(dev.qrels)
    dev, _, whole = bounded(rows=10**6)
    assert dev == whole
    dev, evaluations, whole = bounded("data.eval_corpus_size=250")
    assert len(dev.queries) == len(whole.queries) and evaluations.share > 0.05
    assert bounded("training.eval_strategy=no", "training.load_best_model_at_end=false")[1] is None


@pytest.mark.parametrize(
    ("overrides", "times"),
    [
        (("training.max_steps=7", "training.eval_steps=2", "training.save_steps=2"), 4),  # after 2, 4, 6, and the last
        (("training.max_steps=20", "training.eval_strategy=epoch", "training.save_strategy=epoch"), 4),  # epochs of 5 steps
    ],
)
def test_evaluations_are_counted_to_the_last_step(bounded, overrides, times):
    assert bounded(*overrides, rows=5 * 16)[1].times == times


@pytest.mark.parametrize(("batch", "k"), [(8, 2), (4, 4)])
def test_the_set_does_not_depend_on_how_a_step_is_cut(bounded, batch, k):
    cut = f"training.per_device_train_batch_size={batch}", f"training.gradient_accumulation_steps={k}"
    assert bounded(*cut)[0] == bounded()[0]


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
