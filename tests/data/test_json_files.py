"""JSON of every layout that says plainly which its rows are; the others are refused, never read by half."""

import json

import pandas as pd
import pytest

from e5ft.data import json_files
from e5ft.data.lines import BadLine, NoRows
from e5ft.data.rows import Row, read_rows
from e5ft.data.settings import Columns
from e5ft.errors import DataError

ROWS = [{"query": f"질문 {i}", "document": f"답변 [{i}], {{둘}}", "hard_negative": ["n", "m"][:i]} for i in range(3)]
READ = [Row(row["query"], (row["document"],), tuple(row["hard_negative"])) for row in ROWS]
FRAME = pd.DataFrame(ROWS)


def outcome(path: str) -> tuple[list, list[str], list]:
    """Rows or messages of faults, their places, and what was told."""
    notes, found, places = [], [], []
    for place, value in read_rows(path, Columns(), notes=notes):
        found.append(str(value) if isinstance(value, BadLine) else value)
        places.append(str(place).removeprefix(path))
    return found, places, [text.removeprefix(f"{path}: ") for name, text in notes if name == "read"]


LAYOUTS = {
    "a JSON array": json.dumps(ROWS),
    "the list 'data'": json.dumps({"version": "1.0", "data": ROWS}),
    "the list 'faq'": json.dumps({"faq": ROWS}, ensure_ascii=False),
    "pandas' index": FRAME.to_json(orient="index"),
    "pandas' columns": FRAME.to_json(orient="columns"),
    "pandas' split": FRAME.to_json(orient="split"),
    "pandas' table": FRAME.to_json(orient="table"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_a_layout_is_recognised_and_told(layout, indent, name, write_bytes):
    content = json.dumps(json.loads(LAYOUTS[layout]), indent=indent, ensure_ascii=False)
    found, _, notes = outcome(write_bytes(f" \n{content}\n".encode(), name))
    assert found == READ and notes == [layout]


def test_other_rows_of_a_data_frame_are_its_rows_too(write_bytes):
    """Of a frame that was filtered the labels are not 0 to n-1."""
    for orient in ("index", "columns", "table"):
        path = write_bytes(FRAME[FRAME.index > 0].to_json(orient=orient).encode(), "rows.json")
        assert outcome(path)[0] == READ[1:]


def test_places_in_an_array_are_lines_and_numbers(write_bytes):
    indented = json.dumps(ROWS[:1] * 2, indent=1).encode()
    assert outcome(write_bytes(indented, "rows.json"))[1] == [":2 (row 1)", ":7 (row 2)"]
    assert outcome(write_bytes(json.dumps(ROWS).encode(), "rows.json"))[1] == [":1", ":1 (row 2)", ":1 (row 3)"]


def test_a_faulty_object_of_an_array_is_a_fault_and_the_others_are_read(write_bytes):
    content = (
        '[{"query": "q", "document": NaN}, {"query": "q", "query": "r", "document": "d"}, 5, {"query": "q", "document": "d"}]'
    )
    path = write_bytes(content.encode(), "rows.json")
    found = outcome(path)[0]
    assert found[0].startswith(f"{path}:1: not JSON (NaN is not a JSON value; write null): ")
    assert found[1].startswith(f"{path}:1 (row 2): not JSON (duplicate key 'query'): ")
    assert found[2] == f"{path}:1 (row 3): must be an object {{...}}, this is int: '5'"
    assert found[3] == Row("q", ("d",))


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ('{"query": "q", "document": "d"}', 1),
        ('{"query": "q",\n "document": "d"}', 1),
        ('{"query": "q", "document": "d"}\n{"query": "q", "document": "d"}\n', 2),
        ('\n{"query": "q", "document": ["d", "e"], "hard_negative": []}\n\n', 1),
    ],
)
def test_lines_and_a_single_row_stay_what_they_are(content, rows, write_bytes):
    found, _, notes = outcome(write_bytes(content.encode(), "rows.json"))
    assert len(found) == rows and all(isinstance(row, Row) for row in found) and notes == []


def test_objects_one_after_another_are_rows_with_their_lines(write_bytes):
    """What `jq .[]` writes without -c."""
    content = "".join(json.dumps(row, indent=2) + "\n" for row in ROWS[:1] * 3)
    found, places, notes = outcome(write_bytes(content.encode(), "rows.json"))
    assert (found, places, notes) == (READ[:1] * 3, [":1", ":6", ":11"], ["objects one after another"])


def test_a_row_with_objects_inside_is_a_row(write_bytes):
    path = write_bytes(b'{"query": "q", "positive_passages": [{"docid": "1", "text": "d"}]}', "rows.json")
    assert outcome(path)[0] == [Row("q", ("d",))]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (json.dumps(ROWS, indent=2)[:90], ":5: not JSON ("),
        ('[{"query": "q", "document": "d"},]', ":1: not JSON ("),
        ('{\n "data": [\n  {"query": "q"', ":3: not JSON ("),
        (FRAME.to_json(orient="values"), ": an array of lists, which name no columns; "),
        ('{"train": [{"query": "q"}], "test": [{"query": "q"}]}', ": 2 lists of rows ('train', 'test'); jq -c '.train[]' "),
        ('{"0": {"1": "q"}, "1": {"1": "d"}}', ": mappings of mappings, of which are the rows? "),
        ('{"columns": ["query"], "data": [["q", "d"]]}', ': "columns" and "data" do not fit each other'),
        ('{\n"data": [{"query": NaN}]}', ": not JSON (NaN is not a JSON value; write null)"),
        ("[]", ": the file holds no rows"),
        ("", ": the file holds no rows"),
    ],
)
def test_what_is_not_plain_is_refused_in_one_line(content, reason, write_bytes):
    path = write_bytes(content.encode(), "rows.json")
    with pytest.raises(DataError) as caught:
        outcome(path)
    assert str(caught.value).startswith(path + reason) and "\n" not in str(caught.value)
    assert isinstance(caught.value, NoRows) == ("no rows" in reason)


def test_an_array_beyond_the_limit_is_refused_and_lines_are_not(write_bytes, monkeypatch):
    monkeypatch.setattr(json_files, "LARGEST", 100)
    monkeypatch.setattr(json_files, "MAX_LINE_BYTES", 80)
    path = write_bytes(json.dumps(ROWS).encode(), "rows.json")
    with pytest.raises(DataError, match=r"a JSON array of more than 100 bytes; write one object a line: jq -c '\.\[\]' "):
        outcome(path)
    assert len(outcome(write_bytes(b'{"query": "q", "document": "d"}\n' * 9, "rows.json"))[0]) == 9


def test_a_list_for_each_column_is_read_as_rows(write_bytes):
    path = write_bytes(json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0] if name != "hard_negative"}).encode())
    found, _, told = outcome(path)
    assert found == [Row(row.query, row.positives) for row in READ] and told == ["a list for each column"]
