"""Every format is found by its columns alone; what cannot be decided is refused once, with lines that can be pasted back."""

import json
import re
import shlex
import typing
import unicodedata
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from e5ft.data.row_formats import BY_NAME, FORMATS
from e5ft.data.rows import Row, read_rows
from e5ft.data.settings import Columns, Reading, RowFormat
from e5ft.errors import DataError

PASSAGES = [{"docid": "1", "title": "T", "text": "d"}]
OTHERS = [{"docid": "2", "title": "", "text": "n"}, {"docid": "3", "text": "m"}]
# format -> one row of it, and how it is read
FOUND = {
    "standard": ({"query": "q", "document": "d", "hard_negative": ["n"], "scores": [2, 1]}, Row("q", ("d",), ("n",), (2, 1))),
    "pair": ({"anchor": "q", "positive": "d"}, Row("q", ("d",))),
    "positive first": ({"positive": "d", "anchor": "q", "negative": "n"}, Row("q", ("d",), ("n",))),
    "n-tuple": (
        {"anchor": "q", "positive": "d", **{f"negative_{i}": f"n{i}" for i in (10, 2, 1)}, "negative_3": None},
        Row("q", ("d",), ("n1", "n2", "n10")),
    ),
    "query, positive": ({"query": "q", "positive": "d", "negative_1": "n"}, Row("q", ("d",), ("n",))),
    "flagembedding": (
        {"query": "q", "pos": ["d"], "neg": ["n", "m"], "pos_scores": [3], "neg_scores": [2, 1], "prompt": "", "type": "normal"},
        Row("q", ("d",), ("n", "m"), (3, 2, 1)),
    ),
    "flagembedding without scores": (
        {"query": "q", "pos": ["d"], "neg": [], "pos_scores": [], "neg_scores": [], "id": 1},
        Row("q", ("d",)),
    ),
    "simlm": ({"query_id": "1", "query": "q", "positives": ["d"], "negatives": ["n"]}, Row("q", ("d",), ("n",))),
    "tevatron": (
        {"query_id": "1", "query": "q", "positive_passages": PASSAGES, "negative_passages": OTHERS},
        Row("q", ("T d",), ("n", "m")),
    ),
    "dpr": (
        {"question": "q", "answers": ["a"], "positive_ctxs": PASSAGES, "negative_ctxs": OTHERS, "hard_negative_ctxs": OTHERS[:1]},
        Row("q", ("T d",), ("n",)),
    ),
    "dpr without hard ones": (
        {"question": "q", "answers": [], "positive_ctxs": PASSAGES, "negative_ctxs": OTHERS, "hard_negative_ctxs": []},
        Row("q", ("T d",), ("n", "m")),
    ),
    "msmarco": (
        {"query": "q", "query_id": 1, "passages": {"passage_text": ["n", "d"], "is_selected": [0, 1], "url": ["u", "v"]}},
        Row("q", ("d",), ("n",)),
    ),
    "msmarco, objects": (
        {"query": "q", "passages": [{"passage_text": "d", "is_selected": 1}, {"passage_text": "n", "is_selected": 0}]},
        Row("q", ("d",), ("n",)),
    ),
    "clicks": ({"query": "q", "clicked": ["d", "c"], "shown": ["a", "c", "b", "d", "e"]}, Row("q", ("c", "d"), ("a", "b"))),
    "clicks, objects": (
        {
            "query": "q",
            "clicked": {"title": "T", "body": "d"},
            "shown": [{"title": "S", "body": "n"}, {"title": "T", "body": "d"}],
        },
        Row("q", ("T d",), ("S n",)),
    ),
    "korean": ({"질문": "q", "답변": "d"}, Row("q", ("d",))),
    "korean passages": ({"질의": "q", "문서": ["d", "e"]}, Row("q", ("d", "e"))),
    "chinese": ({"问题": "q", "答案": "d"}, Row("q", ("d",))),
    "capitals": ({"Question": "q", "Answer": "d"}, Row("q", ("d",))),
    "a question's context": ({"question": "q", "context": "d"}, Row("q", ("d",))),
    "ko-triplet": ({"query": "q", "document": "d", "hard_negative": "n"}, Row("q", ("d",), ("n",))),
}


@pytest.fixture
def read(write_bytes):
    """Rows, faults and notes of rows written as JSON lines."""

    def read(rows: list[dict], columns: Columns = Columns(), **reading) -> tuple[list, dict]:  # noqa: B008 (frozen)
        path, notes = write_bytes("\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()), []
        return [value for _, value in read_rows(path, columns, Reading(**reading), notes)], dict(notes)

    return read


@pytest.fixture
def refused(read):
    """The message with which rows are refused, without the file."""

    def refused(rows: list[dict], columns: Columns = Columns(), **reading) -> str:  # noqa: B008
        with pytest.raises(DataError) as caught:
            read(rows, columns, **reading)
        return str(caught.value).partition("rows.jsonl")[2].partition(": ")[2]

    return refused


@pytest.mark.parametrize("kind", FOUND)
def test_a_format_is_found_by_its_columns(kind, read):
    raw, row = FOUND[kind]
    rows, notes = read([raw])
    assert rows == [row]
    assert all(name in notes["columns"] for name in raw) and notes["first row"].startswith("'q' -> ")


def test_formats_settings_and_presets_are_the_same_names():
    names = [name for name in typing.get_args(RowFormat) if name != "auto"]
    assert sorted(names) == sorted(BY_NAME)
    presets = Path(__file__).parents[2] / "conf/data"
    for name in set(names) - {"standard", "named"}:
        assert yaml.safe_load((presets / f"{name}.yaml").read_text())["format"] == name


def test_a_rare_column_is_its_rows_fault_and_a_common_one_the_files(read, refused):
    good, odd = {"query": "q", "document": "d"}, {"query": "q", "document": "d", "page": 1}
    rows, _ = read([good, odd, good])
    assert rows[::2] == [Row("q", ("d",))] * 2 and "unknown column 'page'" in str(rows[1])
    assert refused([odd, odd, good]).startswith("unknown column 'page'")


def test_all_unknown_columns_are_named_at_once_with_the_line_to_paste(refused, read):
    raw = {"query": "q", "document": "d", "id": 0, "날짜": "u", "a b": "l", "it's": 1, "": 0, "null": 1, "7": 1}
    message = refused([raw])
    assert message.startswith("unknown columns 'id', '날짜', 'a b', \"it's\", '', 'null', '7'; to leave them out: ")
    (typed,) = shlex.split(message.partition("them out: ")[2])
    # Letters outside ASCII are put in quotes by the command line before Hydra sees them.
    override = OverridesParser.create().parse_override(typed.replace("날짜", '"날짜"'))
    rows, _ = read([raw], Columns(ignore=tuple(str(name) for name in override.value())))
    assert rows == [Row("q", ("d",))]


REFUSED = {
    "two answers": (
        {"question": "q", "context": "c", "answer": "a"},
        "'question', 'context', 'answer' can be read in 2 ways; type one: data.columns.query=question "
        "data.columns.document=answer 'data.columns.ignore=[context]' or data.columns.query=question "
        "data.columns.document=context 'data.columns.ignore=[answer]'",
    ),
    "names that nobody knows": (
        {"물음": "a query", "풀이": "a long text", "번호": 3},
        "'물음', '풀이', '번호': no known format; name the query's and the document's column, for instance "
        "data.columns.query=물음 data.columns.document=풀이 'data.columns.ignore=[번호]'",
    ),
    "one more than a format has": (
        {"질문": "q", "답변": "d", "카테고리": "c"},
        "unknown column '카테고리'; to leave it out: 'data.columns.ignore=[카테고리]'",
    ),
    "a click log whose queries have another name": (
        {"typed": "a query", "clicked": ["a"], "shown": ["a", "b"]},
        "'typed', 'clicked', 'shown': no known format; name the query's and the document's column, "
        "data=clicks data.columns.query=typed",
    ),
    "sentences without a label": (
        {"sentence1": "a query", "sentence2": "a passage"},
        "'sentence1', 'sentence2': no known format; name the query's and the document's column, for instance "
        "data.columns.query=sentence1 data.columns.document=sentence2",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_decided_is_refused_with_what_to_type(kind, refused):
    raw, message = REFUSED[kind]
    assert refused([raw, raw]) == message


def test_other_faults_are_in_the_same_answer_as_unknown_columns(write_bytes):
    path = write_bytes("질문,답변,분류\nq,d,c\nq,,c\nr,e,c\nq,,c\n,d,c\n".encode(), "faq.csv")
    with pytest.raises(DataError) as caught:
        list(read_rows(path))
    assert str(caught.value).splitlines() == [
        f"{path}: unknown column '분류'; to leave it out: 'data.columns.ignore=[분류]'",
        f"  2 rows: 답변 is missing (null): {path}:3, :5",
        f"  {path}:6: 질문 is missing (null)",
    ]


def test_a_label_beside_negatives_is_advised_away_only_where_all_are_answers(refused):
    message = refused([{"query": "q", "document": "d", "hard_negative": "n", "label": 1, "id": 2}])
    assert (
        "if all are answers: 'data.columns.ignore=[label,id]'" in message
        and "rows must hold only answers as documents" in message
    )


def test_named_columns_win(read, refused):
    raw = {"anchor": "q", "positive": "d", "negative_1": "n", "negative_2": "m"}
    named = Columns("positive", "anchor", ("negative_2", "negative_1"))
    assert read([raw], named)[0] == [Row("d", ("q",), ("m", "n"))]
    one = Columns("anchor", "positive", "negative_1")
    assert "hard negatives: 'data.columns.hard_negative=[negative_1,negative_2]'" in refused([raw], one)
    assert refused([raw], Columns("ancor")).startswith("data.columns.query=ancor: no such column; did you mean anchor?")
    assert refused([raw], format="tevatron").startswith("data.format=tevatron: column 'query' is missing; there are 'anchor'")


def test_a_format_takes_other_names_for_its_columns(read):
    raw = {"q": "q", "pos": ["d"], "neg": ["n"], "pos_scores": [2], "neg_scores": [1]}
    assert read([raw], Columns(query="q"), format="flagembedding")[0] == [Row("q", ("d",), ("n",), (2, 1))]


def test_what_is_ignored_is_not_read(read):
    raw = {"query": "q", "document": "d", "hard_negative": "n", "scores": [1, 2]}
    assert read([raw], Columns(ignore=("hard_negative", "scores")))[0] == [Row("q", ("d",))]


def test_a_prompt_is_counted_and_never_lost_in_silence(read):
    raw = {"query": "q", "pos": ["d"], "neg": ["n"], "prompt": "Represent this: "}
    _, notes = read([raw, raw, {**raw, "prompt": ""}])
    assert notes["prompt"].startswith("2 rows carry a prompt, which is not used: 'model.text.query_prefix=\"Represent this: \"'")


def test_queries_without_a_click_are_left_out_and_counted(read):
    rows, notes = read([{"query": "q", "clicked": [], "shown": ["a"]}, {"query": "r", "clicked": "b", "shown": ["a", "b"]}])
    assert rows == [Row("r", ("b",), ("a",))] and notes["left out"] == "1 query without a click"


def test_every_example_of_the_documentation_is_read(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    *blocks, corpus = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    (tmp_path / "corpus.jsonl").write_text(corpus, encoding="utf-8")
    read = []
    for block in blocks:
        for rows in [block] if '"label"' in block else block.splitlines():
            (tmp_path / "rows.jsonl").write_text(rows, encoding="utf-8")
            ids = Reading(corpus_file=str(tmp_path / "corpus.jsonl")) if "document_ids" in rows else Reading()
            notes = []
            found = [value for _, value in read_rows(str(tmp_path / "rows.jsonl"), reading=ids, notes=notes)]
            assert found and all(isinstance(row, Row) for row in found), rows
            read.append(dict(notes)["columns"].partition(": ")[2].partition(";")[0])
    assert set(read) >= {each.words for each in FORMATS if each.words}


def test_columns_of_hard_negatives_are_never_advised_away(refused):
    texts = {"query_text": "a question", "positive_text": "an answer to it", "negative_text": "another answer"}
    assert refused([texts]).endswith(
        "data.columns.query=query_text data.columns.document=positive_text data.columns.hard_negative=negative_text"
    )
    chosen = {"prompt": "a question", "chosen": "an answer to it", "rejected": "another answer"}
    assert "data.columns.hard_negative=rejected" in refused([chosen])


def test_hard_negatives_and_scores_alone_can_be_named(read):
    raw = {"query": "q", "positive": "d", "negative": "n", "label": [2.0, 1.0]}
    assert read([raw], Columns(scores="label"))[0] == [Row("q", ("d",), ("n",), (2, 1))]
    assert read([{"query": "q", "pos": ["d"], "bad": ["n"]}], Columns(hard_negative="bad"))[0] == [Row("q", ("d",), ("n",))]


def test_names_are_found_however_they_are_spelt(read):
    scored = {"Query": "q", "POS": ["d"], "Neg": ["n"], "Pos_Scores": [2], "neg_scores ": [1]}
    assert read([scored])[0] == [Row("q", ("d",), ("n",), (2, 1))]
    decomposed = {unicodedata.normalize("NFD", "질문"): "q", "\ufeff답변": "d"}
    assert read([decomposed])[0] == [Row("q", ("d",))]


def test_named_columns_are_found_however_a_mac_or_a_person_spells_them(read, refused):
    parts = {name: unicodedata.normalize("NFD", name) for name in ("제목", "내용", "오답 글", "부서")}
    raw = dict(zip(parts.values(), ("q", "d", "n", "x"), strict=True)) | {" Note": "x"}
    named = Columns("제목", "내용", ("오답 글",), ignore=("부서", "note"))
    assert read([raw], named)[0] == [Row("q", ("d",), ("n",))]
    assert "제묵: no such column" in refused([{"제목": "q", "내용": "d"}], Columns("제묵", "내용"))
    two = {"Title": "q", "title": "r", "document": "d"}  # the exact one is meant
    assert read([two], Columns("title", "document", ignore=("Title",)))[0] == [Row("r", ("d",))]


@pytest.mark.parametrize("label", ["clicked", "click", "entailment_label", "is_positive", "클릭"])
def test_a_column_of_0_and_1_is_a_label_whatever_it_judges(label, read):
    raw = [{"query": "q", "document": "d", label: 1}, {"query": "q", "document": "n", label: 0}]
    assert read(raw)[0] == [Row("q", ("d",), ("n",))]


def test_a_row_where_the_names_must_be_is_no_header(refused):
    row = {"대출 기간은 며칠인가요?": "주차장은 어디인가요?", "기본 14일입니다.": "본관 지하에 있습니다."}
    assert "texts or numbers where the names of the columns must be; put a line of names before them" in refused([row])
    assert "texts or numbers" in refused([{"1000": 1001, "2000": 2001, "3000": 3001}])
    assert "'data.columns.query=\"0\"' 'data.columns.document=\"1\"'" in refused([{"0": "a question", "1": "an answer"}])


def test_an_instruction_is_no_query(refused):
    rows = [{"instruction": "Answer.", "input": f"question {i}", "output": f"the answer to it, {i}"} for i in range(3)]
    assert "data.columns.query=input data.columns.document=output" in refused(rows)


def test_rows_without_two_columns_of_texts_get_no_settings_that_cannot_help(refused):
    message = refused([{"messages": [{"role": "user", "content": "q"}]}] * 2)
    assert message == "'messages': no two columns of texts; a row is a query and a document that answers it, as texts"
