"""Each kind of bad row in each kind of file, with the exact message; what is good is read; nothing else can happen."""

import csv
import json
import os
import unicodedata
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from e5ft.data.lines import BadLine
from e5ft.data.rows import Row, read_rows
from e5ft.data.settings import Columns, Reading
from e5ft.data.store import load_rows
from e5ft.errors import DataError
from tests.data.conftest import PROPERTY

FLAG_EMBEDDING = Columns("query", "pos", "neg", ignore=("pos_scores", "neg_scores", "prompt", "type", "id"))
SIMLM = Columns("query", "positives", "negatives", ignore=("query_id", "answers"))
SYLLABLES = "한국어 임베딩"
JAMO = unicodedata.normalize("NFD", SYLLABLES)


def outcome(path: str, columns: Columns = Columns()) -> list[Row | str]:  # noqa: B008 (frozen)
    """Rows, and the messages of faults without the folder."""
    found = [value for _, value in read_rows(path, columns)]
    return [str(value).removeprefix(f"{path}:") if isinstance(value, BadLine) else value for value in found]


def refusal(path: str, columns: Columns = Columns()) -> str:  # noqa: B008
    """The message with which the whole file is refused, without the folder."""
    with pytest.raises(DataError) as caught:
        outcome(path, columns)
    return str(caught.value).removeprefix(path)


# -- JSON lines --------------------------------------------------------------------------------------------------------------

LEAVE_OUT = "to leave it out: 'data.columns.ignore=[{}]'"
EMPTY = "is an empty list; at least one passage must answer the query"
IDS = "holds passage ids (doc_id); must be the passages' texts, or name data.corpus_file"
BAD_ROWS = {
    "null query": ('{"query": null, "document": "d"}', "query is missing (null)"),
    "null document": ('{"query": "q", "document": null}', "document is missing (null)"),
    "null in list": ('{"query": "q", "document": ["d", null]}', "document[1] is missing (null)"),
    "nan": ('{"query": "q", "document": NaN}', 'not JSON (NaN is not a JSON value; write null): \'{"query": "q", "document": NaN}\''),
    "blank query": ('{"query": " \\u3000", "document": "d"}', "query is blank"),
    "number": ('{"query": 5, "document": "d"}', "query must be a string, this is int: '5'"),
    "false": ('{"query": "q", "document": "d", "hard_negative": false}', "hard_negative must be a string, this is bool: 'False'"),
    "object": ('{"query": "q", "document": {"txt": "d"}}', "document must be a string, this is dict: \"{'txt': 'd'}\""),
    "list of queries": ('{"query": ["q"], "document": "d"}', "query must be a string, this is list: \"['q']\""),
    "list in list": ('{"query": "q", "document": [["d"]]}', "document[0] must be a string, this is list: \"['d']\""),
    "no document": ('{"query": "q", "passage": "d"}', f"unknown column 'passage'; {LEAVE_OUT.format('passage')}"),
    "missing column": ('{"query": "q"}', "column 'document' is missing; there are 'query' (data.columns maps names)"),
    "no column": ("{}", "column 'query' is missing; there are none (data.columns maps names)"),
    "misspelt column": (
        '{"query": "q", "document": "d", "hard_negativs": []}',
        "unknown column 'hard_negativs'; hard negatives: data.columns.hard_negative=hard_negativs; "
        + LEAVE_OUT.format("hard_negativs"),
    ),
    "two unknown columns": (
        '{"query": "q", "document": "d", "id": 1, "a b": 2}',
        "unknown columns 'id', 'a b'; to leave them out: 'data.columns.ignore=[id,\"a b\"]'",
    ),
    "empty positives": ('{"query": "q", "document": []}', f"document {EMPTY}"),
    "nul": ('{"query": "q\\u0000", "document": "d"}', "query holds a NUL character: 'q\\x00'"),
    "lone surrogate": ('{"query": "q", "document": "\\ud83d"}', "document holds a lone surrogate, which is no text: '\\ud83d'"),
    "surrogate as name": ('{"query": "q", "document": "d", "\\ud83d": 1}', "unknown column '\\ud83d'; to leave them out: data.columns.ignore"),
    "scores of the wrong number": (
        '{"query": "q", "document": ["d", "e"], "hard_negative": "n", "scores": [1, 2]}',
        "scores holds 2 numbers; must be 3, one for each document (2) and then one for each hard_negative (1)",
    ),
    "scores that are no list": ('{"query": "q", "document": "d", "scores": 1}', "scores must be a list of numbers or null, this is '1'"),
    "scores that are no numbers": (
        '{"query": "q", "document": "d", "scores": [true]}', "scores must be a list of numbers or null, this is '[True]'"
    ),
    "scores beyond floats": (
        '{"query": "q", "document": "d", "scores": [1e999]}', "scores holds NaN, an infinity or a number beyond float32: [inf]"
    ),
    "passage ids": (
        '{"query": "q", "document": {"doc_id": ["1"], "score": [0.5]}}',
        f"document {IDS}",
    ),
}  # fmt: skip


def test_a_table_in_another_encoding_is_refused_once_for_all_that_must_be_typed(write_bytes):
    table = "제목,내용,부서\n주차는 어디에 하나요?,지하 이층에 합니다,총무\n" * 2
    known = table.replace("제목,내용,부서", "질문,답변,부서")
    named = table.replace("제목,내용,부서", "질문,답변,hard_negative")
    expected = {table: "data.columns.query=제목", known: "'data.columns.ignore=[부서]'", named: None}
    for text, typed in expected.items():
        with pytest.raises(DataError) as raised:
            list(read_rows(write_bytes(text.encode("cp949"), "faq.csv")))
        first, *more = str(raised.value).splitlines()
        assert "data.encoding=cp949" in first
        assert [typed in line for line in more] == ([True] if typed else [])


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_a_bad_row_is_a_fault_with_its_place_and_the_others_are_read(kind, write_bytes):
    line, reason = BAD_ROWS[kind]
    good = '{"query": "q", "document": "d"}'
    path = write_bytes(f"{good}\n\n{line}\n{good}\n".encode())
    assert outcome(path) == [Row("q", ("d",)), f"3: {reason}", Row("q", ("d",))]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".ndjson", ".JSONL"])
def test_json_lines_are_read_with_ragged_and_absent_hard_negatives(suffix, write_bytes):
    rows = [
        {"query": "q1", "document": "d1"},
        {"query": "q2", "document": "d2", "hard_negative": None},
        {"query": "q3", "document": "d3", "hard_negative": []},
        {"query": "q4", "document": ["d4", "d5"], "hard_negative": "n1"},
        {"query": "질의", "document": "d6", "hard_negative": ["n1", "n2", JAMO]},
    ]
    path = write_bytes("\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode(), f"rows{suffix}")
    assert outcome(path) == [
        Row("q1", ("d1",)),
        Row("q2", ("d2",)),
        Row("q3", ("d3",)),
        Row("q4", ("d4", "d5"), ("n1",)),
        Row("질의", ("d6",), ("n1", "n2", JAMO)),
    ]


@pytest.mark.parametrize(
    "document, negatives, left",
    [("d", "d", ()), (["d", "e"], ["n", "e"], ("n",)), ("a b", " a  b", ()), (SYLLABLES, [JAMO, "n"], ("n",))],
)
def test_a_negative_that_is_a_document_of_its_row_is_left_out_and_counted(document, negatives, left, write_bytes):
    path = write_bytes(json.dumps({"query": "q", "document": document, "hard_negative": negatives}).encode())
    notes = []
    ((_, row),) = read_rows(path, notes=notes)
    assert row.negatives == left and ("negatives", "1 hard negative that equals a document of its row left out") in notes
    given = negatives if isinstance(negatives, list) else [negatives]
    assert row.left_out == tuple(text for text in given if text not in left)


def test_the_score_of_a_negative_that_is_left_out_goes_with_it(write_bytes):
    row = {"query": "q", "document": ["d", "e"], "hard_negative": ["n", "e", "m"], "scores": [1, 2, 3, 4, 5]}
    assert outcome(write_bytes(json.dumps(row).encode())) == [Row("q", ("d", "e"), ("n", "m"), (1, 2, 3, 5))]


def test_a_teachers_scores_and_what_mining_noted_are_taken_in(write_bytes):
    row = {"query": "q", "document": "d", "hard_negative": ["n"], "scores": [2, -0.5], "mining": {"document": [{"score": 1}]}}
    path = write_bytes(f"{json.dumps(row)}\n".encode())
    assert outcome(path) == [Row("q", ("d",), ("n",), (2.0, -0.5))]
    table = write_bytes(b'query,document,hard_negative,scores\r\nq,d,n,"[2, -0.5]"\r\nq,d,n,\r\n', "rows.csv")
    assert outcome(table) == [Row("q", ("d",), ("n",), (2.0, -0.5)), Row("q", ("d",), ("n",))]


def test_a_row_in_flag_embedding_s_columns(write_bytes):
    path = write_bytes(b'{"query": "q", "pos": ["d", "e"], "neg": ["n"], "pos_scores": [1, 2], "prompt": "", "id": 7}')
    assert outcome(path, FLAG_EMBEDDING) == [Row("q", ("d", "e"), ("n",))]


def test_rows_in_simlm_s_columns_need_texts_for_ids(write_bytes):
    texts = b'{"query_id": "1", "query": "q", "positives": ["d"], "negatives": ["n", "m"]}\n'
    ids = b'{"query_id": "2", "query": "q", "positives": ["d"], "negatives": {"doc_id": ["5"], "score": [1.5]}}\n'
    assert outcome(write_bytes(texts + ids), SIMLM) == [Row("q", ("d",), ("n", "m")), f"2: negatives {IDS}"]


# -- CSV and TSV -------------------------------------------------------------------------------------------------------------


def test_a_table_is_read_with_lists_as_json(write_bytes):
    content = (
        "query,document,hard_negative\r\n"
        'q1,d1,\r\n'
        '"q2, with ""quotes""","d2\nsecond line",n1\r\n'
        "\r\n"
        'q3,"[""d3"", ""d4""]","[""n1"", ""n2"", ""질의""]"\r\n'
        "q4,[1] a footnote [2],[]\r\n"
    )  # fmt: skip
    assert outcome(write_bytes(content.encode(), "rows.csv")) == [
        Row("q1", ("d1",)),
        Row('q2, with "quotes"', ("d2\nsecond line",), ("n1",)),
        Row("q3", ("d3", "d4"), ("n1", "n2", "질의")),
        Row("q4", ("[1] a footnote [2]",)),
    ]


def test_a_table_with_tabs(write_bytes):
    content = "문서\t질의\n가, 나\tq1\n".encode()
    assert outcome(write_bytes(content, "rows.tsv"), Columns("질의", "문서", "없음")) == [Row("q1", ("가, 나",))]


BAD_TABLE_ROWS = {
    "too few cells": (b"q", "1 cells, but the header names 3 columns"),
    "too many cells": (b"q,d,n,x", "4 cells, but the header names 3 columns"),
    "null": (b"q,,n", "document is missing (null)"),
    "blank": (b'q," ",n', "document is blank"),
    "cp949": ("질의,d,n".encode("cp949"), "not UTF-8; mend it, or name the encoding of the whole file: data.encoding=NAME"),
    "surrogate": (b"q,\xed\xa0\xbd,n", "not UTF-8; mend it, or name the encoding of the whole file: data.encoding=NAME"),
    "nul": (b"q,d\x00,n", "document holds a NUL character: 'd\\x00'"),
    "surrogate in list": (b'q,d,"[""\\ud83d""]"', "hard_negative[0] holds a lone surrogate, which is no text: '\\ud83d'"),
    "empty list": (b"q,[],n", f"document {EMPTY}"),
}


@pytest.mark.parametrize("kind", BAD_TABLE_ROWS)
def test_a_bad_table_row_is_a_fault_with_its_place_and_the_others_are_read(kind, write_bytes):
    line, reason = BAD_TABLE_ROWS[kind]
    path = write_bytes('query,document,hard_negative\n질의,"a\nb",n\n\n'.encode() + line + b"\nq,d,n\n", "rows.csv")
    assert outcome(path) == [Row("질의", ("a\nb",), ("n",)), f"5 (row 4): {reason}", Row("q", ("d",), ("n",))]


STATUTE = "".join(f"제{i}조 문장은 이렇다, 그리고 제{i + 1}항으로 이어진다.\n" for i in range(9000))


@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ","), ("tsv", "\t")])
@pytest.mark.parametrize("limit", [10, 131_072, 10**8])
def test_a_long_statute_is_one_cell_whatever_limit_the_csv_module_had(suffix, delimiter, limit, write_bytes):
    before = csv.field_size_limit(limit)
    try:
        content = f'query{delimiter}document\nq{delimiter}"{STATUTE}"\nr{delimiter}d\n'
        assert outcome(write_bytes(content.encode(), f"rows.{suffix}")) == [Row("q", (STATUTE,)), Row("r", ("d",))]
        assert csv.field_size_limit() == max(limit, 1_000_000)
    finally:
        csv.field_size_limit(before)


def test_the_limit_is_of_one_row_and_not_of_many_rows(write_bytes):
    cell = "글" * 400_000
    content = "query,document\n" + f'q,"{cell}"\n' * 4
    found = outcome(write_bytes(content.encode(), "rows.csv"))
    assert found == [Row("q", (cell,))] * 4


LOST = 'so that where the next row begins is unknown; write a " inside a cell as "", and close every " that opens a cell'
LOST_ROWS = {
    "text after a quote": (b'"d"x,n', "',' expected after '\"'"),
    "nothing closes a quote": (b'"d,n', 'a cell opens with " and nothing closes it'),
    "above the reader's own limit": (b'"' + b"q,d,n\n" * 170_000 + b'",n', "longer than 1,000,000 characters"),
    "above it, cell by cell": (b'"a\n",' * 200_001, "longer than 1,000,000 characters"),
    "nothing closes a quote in a long file": (b'"' + b"q,d,n\n" * 170_000, "longer than 1,000,000 characters"),
}


@pytest.mark.parametrize("kind", LOST_ROWS)
@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", b","), ("tsv", b"\t")])
def test_nothing_after_a_row_that_cannot_be_parsed_is_believed(kind, suffix, delimiter, write_bytes, tmp_path):
    """What would be read on are pieces of a cell; to leave out bad rows does not help."""
    line, reason = LOST_ROWS[kind]
    content = b'query,document,hard_negative\nq,"a\nb",n\n\nq,' + line + b"\nq,d,n\n"
    path = write_bytes(content.replace(b",", delimiter), f"rows.{suffix}")
    message = f":5 (row 4): not a table row ({reason}), {LOST}".replace("','", "','" if suffix == "csv" else "'\\t'")
    rows = read_rows(path, Columns())
    assert next(rows)[1] == Row("q", ("a\nb",), ("n",))
    with pytest.raises(DataError) as caught:
        next(rows)
    assert str(caught.value) == path + message and list(rows) == []
    with pytest.raises(DataError) as caught:
        load_rows(path, Columns(), tmp_path / "cache", on_bad_row="skip")
    assert str(caught.value) == path + message and not list((tmp_path / "cache").glob("rows-*/rows.arrow"))


def test_thousands_of_brackets_in_a_cell_are_a_text(write_bytes):
    cell = "[" * 50_000 + "]" * 50_000
    assert outcome(write_bytes(f"query,document\nq,{cell}\n".encode(), "rows.csv")) == [Row("q", (cell,))]


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", ": the file holds no rows"),
        (b"query,document\n", ": the file holds no rows below its header"),
        (b"query,document\n\n\r\n", ": the file holds no rows below its header"),
        (b"query,document,query\nq,d,q\n", ":1: two columns have the same name: ['query', 'document', 'query']"),
        (b'"query,document\nq,d\n', ':1: not a table row (a cell opens with " and nothing closes it)'),
    ],
)
def test_a_table_that_cannot_be_read_is_refused(content, reason, write_bytes):
    assert refusal(write_bytes(content, "rows.csv")) == reason


def test_a_table_with_other_columns_is_refused_once(write_bytes):
    reason = "unknown column 'page'; to leave it out: 'data.columns.ignore=[page]'"
    assert refusal(write_bytes(b"query,document,page\nq,d,1\nr,e,2\n", "rows.csv")) == f": {reason}"


# -- Parquet -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def write_parquet(tmp_path):
    def write(table: dict | pa.Table) -> str:
        path = tmp_path / "rows.parquet"
        pyarrow.parquet.write_table(table if isinstance(table, pa.Table) else pa.table(table), path)
        return str(path)

    return write


def test_parquet_is_read(write_parquet):
    rows = {"query": ["q1", "q2"], "document": [["d1"], ["d2", "d3"]], "hard_negative": [None, ["n1", "n2"]]}
    assert outcome(write_parquet(rows)) == [Row("q1", ("d1",)), Row("q2", ("d2", "d3"), ("n1", "n2"))]


def test_parquet_rows_are_numbered_through_all_batches(write_parquet):
    texts = [f"d{i}" for i in range(2500)]
    texts[2400] = ""
    found = outcome(write_parquet({"query": ["q"] * 2500, "document": texts}))
    assert found[2400] == "2401: document is blank"
    assert [row.positives[0] for i, row in enumerate(found) if i != 2400] == [text for text in texts if text]


@pytest.mark.parametrize(
    "column, reason",
    [
        ([1, 2], "document must be a string, this is int: '1'"),
        ([float("nan"), 2.5], "document is missing (null)"),
        ([b"d", b"e"], "document must be a string, this is bytes: \"b'd'\""),
        ([{"doc_id": "1"}, {"doc_id": "2"}], f"document {IDS}"),
        ([[], ["d"]], f"document {EMPTY}"),
    ],
)
def test_wrong_types_in_parquet_are_faults(column, reason, write_parquet):
    assert outcome(write_parquet({"query": ["q", "r"], "document": column}))[0] == f"1: {reason}"


def test_one_parquet_cell_that_is_no_text_is_one_fault(write_parquet):
    """Its bytes are not UTF-8 although the column's type is string; the rows around it are read."""
    buffers = pa.array([b"d1", b"\xc7\xd1", b"d3"]).buffers()
    documents = pa.Array.from_buffers(pa.string(), 3, buffers)
    found = outcome(write_parquet(pa.table({"query": pa.array(["q"] * 3), "document": documents})))
    assert found[0::2] == [Row("q", ("d1",)), Row("q", ("d3",))]
    assert found[1].startswith("2: not readable ('utf-8' codec can't decode")


@pytest.mark.parametrize("kind", [pa.date32(), pa.timestamp("s", tz="Nowhere/Town")])
def test_a_time_that_python_does_not_have_is_a_fault(kind, write_parquet):
    """Also in a column that is not read; a row without it is."""
    table = {"query": ["q", "q"], "document": ["d", "e"], "when": pa.array([2**30, None], kind)}
    found = outcome(write_parquet(table), Columns(ignore=("when",)))
    assert found[0].startswith("1: not readable (")
    assert found[1] == Row("q", ("e",))


def test_a_parquet_column_whose_name_is_no_text_is_refused(write_parquet):
    path = Path(write_parquet({"query": ["q"], "document": ["d"]}))
    path.write_bytes(path.read_bytes().replace(b"document", b"\xb9\xae\xbc\xadment"))
    assert refusal(str(path)).startswith(": not readable as Parquet (")


def test_parquet_without_rows_is_refused(write_parquet):
    assert refusal(write_parquet({"query": pa.array([], pa.string())})) == ": the file holds no rows"


def test_parquet_with_a_column_twice_is_refused(write_parquet):
    table = pa.table([pa.array(["q"]), pa.array(["d"]), pa.array(["e"])], names=["query", "document", "document"])
    assert refusal(write_parquet(table)) == ": two columns have the same name: ['query', 'document', 'document']"


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all", b"PAR1" + b"\x00" * 100 + b"PAR1"])
def test_corrupt_parquet_is_refused(content, write_bytes):
    assert refusal(write_bytes(content, "rows.parquet")).startswith(": not readable as Parquet (")


def test_parquet_with_damaged_pages_is_refused_with_a_place(write_parquet):
    path = Path(write_parquet({"query": [f"q{i}" for i in range(100)], "document": [f"d{i}" for i in range(100)]}))
    content = path.read_bytes()
    path.write_bytes(content[:4] + b"\xff" * 60 + content[64:])
    assert refusal(str(path)).startswith(":1: cannot be read on (")


# -- the source as a whole ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet", ".jsonl.gz", ".xlsx"])
def test_an_empty_folder_or_a_missing_file_is_refused(suffix, tmp_path):
    path = tmp_path / f"rows{suffix}"
    assert refusal(str(path)) == ": there is no such file"
    path.mkdir()
    assert refusal(str(path)).startswith(": holds no file of rows; .jsonl, .json, ")


def test_another_kind_of_file_is_refused(write_bytes):
    reason = ": unknown kind of file; .jsonl, .json, .ndjson, .csv, .tsv, .parquet, .arrow, .xlsx, text also with .gz, .bz2, .xz, .zst are read"
    assert refusal(write_bytes(b"q d", "rows.dat")) == reason


@pytest.mark.parametrize("name", ["./nothing", "/no/where", "a/b/c", "rows/"])
def test_what_can_only_be_a_path_is_no_hub_name(name, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: pytest.fail("the hub was asked"))
    assert refusal(name) == ": there is no such file"


def test_a_hub_name_that_cannot_be_reached_is_refused_with_both_ways_out():
    message = refusal("nobody/no-such-data-set")
    assert message.startswith(": there is no such file, and no hub data set of that name could be read (")
    assert message.endswith("name a local file (data.train_file=FILE.jsonl)")


def test_rows_of_a_hub_data_set(monkeypatch):
    rows = [{"query": "q", "document": "d"}, {"query": "q", "document": ""}]
    asked = []

    def load_dataset(name, config, split, revision):
        asked.append((name, config, split, revision))
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = list(read_rows("someone/rows", Columns(), Reading(split="dev")))
    list(read_rows("someone/rows", Columns(), Reading(config="ko", revision="v2")))
    assert asked == [("someone/rows", None, "dev", None), ("someone/rows", "ko", "train", "v2")]
    assert found[0] == (("someone/rows[dev]", 1, 0), Row("q", ("d",)))
    assert str(found[1][1]) == "someone/rows[dev]:2: document is blank"


# -- whatever comes ----------------------------------------------------------------------------------------------------------

CHARACTERS = st.characters(exclude_categories=())  # lone surrogates too
TEXTS = st.text(CHARACTERS, max_size=6)
NAMES = st.sampled_from(["query", "document", "hard_negative"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.just("doc_id") | TEXTS, inner, max_size=3),
    max_leaves=6,
)
LIKELY_ROWS = st.fixed_dictionaries({"query": TEXTS | VALUES, "document": TEXTS | VALUES}, optional={"hard_negative": VALUES})
DAMAGE = st.sampled_from([b"", b'"', b"\n", b"\x00", b"\\ud800", b",", b"[", b"\xff"]) | st.binary(max_size=3)
GOOD_FILES = {
    ".jsonl": '{"query": "질의", "document": ["문서", "d"]}\n\n{"query": "q", "document": "d", "hard_negative": "n"}\n'.encode(),
    ".csv": 'query,document,hard_negative\n"질의","[""문서"", ""d""]",\nq,"d\n2",n\n'.encode(),
    ".tsv": "query\tdocument\n질의\t문서\nq\td\n".encode(),
}


WHOLE = (
    "and the file is one JSON value; write one object a line",
    "-t utf-8",
    "-le",
    "-be",
    "bytes that are not UTF-16",
    '"records")',
)


def check_that_it_ends_well(path: str) -> None:
    """Only rows, faults with a place, or a refusal with the file's name; of JSON lines every non-blank one is accounted for."""
    name, refused = str(path), ""
    found = []
    try:
        for place, value in read_rows(name, Columns()):
            found.append(value)
            assert place.source == name and place.line > 0 <= place.row
            if isinstance(value, BadLine):
                assert str(value).startswith(f"{place}: ")
                str(value).encode()
            else:
                assert isinstance(value, Row) and value.positives
                for text in (value.query, *value.positives, *value.negatives):
                    assert text.strip() and "\x00" not in text
                    text.encode()
    except DataError as error:
        assert str(error).startswith(f"{name}:")
        str(error).encode()
        refused = str(error)
    array = Path(name).read_bytes().lstrip().startswith(b"[")  # whose objects are the rows
    if name.endswith(".jsonl") and (not refused or "holds no rows" in refused) and not array:
        assert len(found) == sum(bool(line.strip()) for line in Path(name).read_bytes().split(b"\n"))


@PROPERTY
@given(content=st.binary(max_size=200), suffix=st.sampled_from([".jsonl", ".csv", ".tsv", ".parquet"]))
def test_any_bytes_end_well(content, suffix, write_bytes):
    check_that_it_ends_well(write_bytes(content, f"rows{suffix}"))


@PROPERTY
@given(rows=st.lists(LIKELY_ROWS | VALUES, min_size=1, max_size=4), ascii=st.booleans())
def test_any_json_ends_well(rows, ascii, write_bytes):
    text = "\n".join(json.dumps(row, ensure_ascii=ascii) for row in rows)
    check_that_it_ends_well(write_bytes(text.encode("utf-8", "surrogatepass")))


@PROPERTY
@given(data=st.data(), suffix=st.sampled_from(list(GOOD_FILES)))
def test_a_damaged_file_ends_well(data, suffix, write_bytes):
    content = bytearray(GOOD_FILES[suffix])
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        stop = data.draw(st.integers(start, min(start + 8, len(content))))
        content[start:stop] = data.draw(DAMAGE)
    check_that_it_ends_well(write_bytes(bytes(content), f"rows{suffix}"))


@pytest.mark.parametrize("suffix", GOOD_FILES)
def test_the_files_that_are_damaged_are_good_before(suffix, write_bytes):
    found = outcome(write_bytes(GOOD_FILES[suffix], f"rows{suffix}"))
    assert len(found) == 2 and all(isinstance(row, Row) for row in found)


@PROPERTY
@given(data=st.data())
def test_damaged_parquet_ends_well(data, write_parquet):
    path = Path(write_parquet({"query": ["q1", "q2"], "document": [["d1"], ["d2", "d3"]]}))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    check_that_it_ends_well(str(path))


# -- found by tests/chaos ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", ["1" + "0" * 400, "1e39", "-1e300", "NaN"])
def test_a_score_beyond_float32_is_a_fault(score, write_bytes):
    """A whole number of 400 digits is no float, and 1e39 would be kept as an infinity."""
    line = f"q\td\t[{score}]\n".encode()
    (message,) = outcome(write_bytes(b"query\tdocument\tscores\n" + line, "rows.tsv"))
    assert message.startswith("2: scores holds NaN, an infinity or a number beyond float32")


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_a_pipe_is_refused_and_not_waited_for(suffix, tmp_path):
    os.mkfifo(tmp_path / f"rows{suffix}")
    assert refusal(str(tmp_path / f"rows{suffix}")).startswith(": a pipe or device")


def test_a_table_without_line_ends_is_never_held_whole(write_bytes):
    path = write_bytes(b"query,document\n" + b"q" * 3_000_000, "rows.csv")
    assert refusal(path).startswith(":2: not a table row (longer than 1,000,000 characters)")


LONG = "x" * 900_000
LONG_FAULTS = {
    "key": ("jsonl", json.dumps({"query": "q", "document": "d", LONG: 1}), "data.columns.ignore"),
    "key twice": ("jsonl", f'{{"{LONG[:400_000]}": 1, "{LONG[:400_000]}": 2}}', "xxx'"),
    "keys": ("jsonl", json.dumps({f"key {i}": 1 for i in range(60_000)}), "data.columns.document=NAME"),
    "other keys": ("jsonl", json.dumps({"query": "q", **{f"key {i}": 1 for i in range(60_000)}}), "data.columns.document=NAME"),
    "value": ("jsonl", json.dumps({"query": {"text": LONG}, "document": "d"}), 'xxx"'),
    "value without a printable character": ("jsonl", json.dumps({"query": "\0" * 150_000, "document": "d"}), "\\x00'"),
    "no object": ("jsonl", json.dumps(LONG), "xxx'"),
    "header": ("csv", f"query,document,{LONG}\nq,d,", "data.columns.ignore"),
    "header twice": ("csv", f"{LONG[:400_000]},{LONG[:400_000]}\nq,d", "..."),
    "cell": ("tsv", f"query\tdocument\tscores\nq\td\t{LONG}", "xxx'"),
}


@pytest.mark.parametrize("kind", LONG_FAULTS)
def test_a_fault_is_short_whatever_it_quotes_and_its_end_is_kept(kind, write_bytes):
    """The remedy stands at the end."""
    suffix, content, end = LONG_FAULTS[kind]
    columns = Columns(ignore=tuple(f"key {i}" for i in range(60_000)) if kind == "other keys" else ())
    path = write_bytes(content.encode(), f"rows.{suffix}")
    try:
        ((_, fault),) = read_rows(path, columns)
    except DataError as error:
        fault = error
    assert isinstance(fault, BadLine | DataError) and str(fault).endswith(end) and len(str(fault)) < len(path) + 1000


def test_rows_that_a_parquet_footer_promises_and_nothing_holds_are_missed(write_parquet, monkeypatch):
    path = write_parquet({"query": ["q1", "q2"], "document": ["d1", "d2"]})
    monkeypatch.setattr(pa.parquet.ParquetFile, "iter_batches", lambda self, **_: iter([self.read_row_group(0).slice(1)]))
    assert refusal(path).startswith(": its footer promises 2 rows, it holds 1")


def test_an_empty_hard_negative_is_none_and_a_mark_where_files_meet_is_no_text(write_bytes):
    row = json.dumps({"query": "q", "document": "d", "hard_negative": ""}).encode()
    values = [value for _, value in read_rows(write_bytes(row + b"\n\xef\xbb\xbf" + row + b"\n"))]
    assert values == [Row("q", ("d",))] * 2 and values[0].shown().endswith("0 hard negatives")
    assert Row("q", ("d",), ("n",)).shown().endswith(" 1 hard negative")


def test_blank_hard_negatives_are_none_and_counted(write_bytes, write_parquet):
    lists = (["", "neg"], [""], [None], ["neg", None, " \t"], " ")
    rows = [{"query": "q", "document": "d", "hard_negative": each} for each in lists]
    rows.append({**rows[0], "hard_negative": ["", "n", "d"], "scores": [5, 1, 2, 3]})
    notes = []
    found = [value for _, value in read_rows(write_bytes("\n".join(map(json.dumps, rows)).encode()), notes=notes)]
    kept = [("neg",), (), (), ("neg",), (), ("n",)]
    assert [value.negatives for value in found] == kept and found[-1].scores == (5, 2)
    assert ("negatives", "6 blank hard negatives left out") in notes and found[-1].left_out == ("d",)
    contexts = {"question": "q", "positive_ctxs": ["d"], "hard_negative_ctxs": [""], "negative_ctxs": ["n"]}
    assert outcome(write_bytes(json.dumps(contexts).encode())) == [Row("q", ("d",), ("n",))]
    empty = {"query": ["q"], "document": ["d"], "hard_negative": [float("nan")]}
    assert [value for _, value in read_rows(write_parquet(empty))] == [Row("q", ("d",))]
    assert "document[0] is blank" in str(outcome(write_bytes(json.dumps({"query": "q", "document": [""]}).encode()))[0])
