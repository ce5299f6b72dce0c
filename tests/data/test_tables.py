"""Tables as Excel, pandas and others export them: separators, blank rows, index columns and places as a spreadsheet counts them."""

import importlib.util
import io

import pandas as pd
import pytest

from e5ft.data.lines import BadLine
from e5ft.data.rows import Row, read_rows
from e5ft.data.settings import Columns, Reading
from e5ft.errors import DataError

KOREAN = Columns("질문", "답변")
ROWS = [("질문 하나", "답변; 하나, 그리고 둘"), ("질문\n둘", 'er sagte: "nein"'), ("셋 | 넷", "답변 셋")]
READ = [Row(query, (document,)) for query, document in ROWS]
FRAME = pd.DataFrame(ROWS, columns=["질문", "답변"])
needs_openpyxl = pytest.mark.skipif(importlib.util.find_spec("openpyxl") is None, reason="openpyxl is not installed")


def outcome(path: str, reading: Reading = Reading()) -> tuple[list, list[str], list[str]]:  # noqa: B008 (frozen)
    """Rows or messages of faults, their places, and what was told; all without the file's name."""
    notes, found, places = [], [], []
    for place, value in read_rows(path, KOREAN, reading, notes):
        found.append(str(value).removeprefix(path) if isinstance(value, BadLine) else value)
        places.append(str(place).removeprefix(path))
    return found, places, [text.removeprefix(f"{path}: ") for name, text in notes if name == "read"]


def refusal(path: str) -> str:
    with pytest.raises(DataError) as caught:
        outcome(path)
    return str(caught.value).removeprefix(path)


@pytest.mark.parametrize(("separator", "told"), [(",", "','"), (";", "';'"), ("\t", "tab"), ("|", "'|'")])
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_separator_is_found_whatever_the_suffix(separator, told, suffix, encoding, end, write_bytes):
    content = FRAME.to_csv(sep=separator, index=False, lineterminator=end).encode(encoding)
    found, places, notes = outcome(write_bytes(content, f"faq.{suffix}"))
    usual = separator == ("," if suffix == "csv" else "\t")
    expected = ["UTF-16"] * (encoding == "utf-16") + [f"separator {told}"] * (not usual)
    assert found == READ and notes == ([", ".join(expected)] if expected else [])
    assert places == [":2", ":3", ":5 (row 4)"]


def test_one_faulty_row_does_not_hide_the_separator(write_bytes):
    content = "질문;답변\n" + "q;d, e\n" * 20 + "q\n"
    found = outcome(write_bytes(content.encode(), "faq.csv"))[0]
    assert found == [Row("q", ("d, e",))] * 20 + [":22: 1 cells, but the header names 2 columns"]


@pytest.mark.parametrize(
    "content",
    [
        "질문,답변\na;b,c;d\ne;f,g;h\n",  # as many semicolons as commas, but the header has none
        "질문,답변\n" + "a|b,c\n" * 5,
        "질문;1,답변;2\na;1,c;2\n",  # both would do: the suffix decides
    ],
)
def test_a_text_is_not_cut_at_what_is_no_separator(content, write_bytes):
    path = write_bytes(content.encode(), "faq.csv")
    columns = KOREAN if ";1" not in content else Columns("질문;1", "답변;2")
    rows = [value for _, value in read_rows(path, columns)]
    expected = [line.split(",") for line in content.splitlines()[1:]]
    assert [[row.query, row.positives[0]] for row in rows] == expected


def test_separators_that_cannot_be_told_apart_are_refused(write_bytes):
    path = write_bytes("질문;a|답변;b\nq;1|d;2\n".encode(), "faq.csv")
    assert refusal(path) == (":1: its cells may be separated by ';' or '|'; must be plain: begin the file with the line sep=;")
    path = write_bytes("sep=|\n질문|답변;b\nq;1|d;2\n".encode(), "faq.csv")
    assert next(iter(read_rows(path, Columns("질문", "답변;b"))))[1] == Row("q;1", ("d;2",))


def test_the_line_by_which_excel_names_the_separator(write_bytes):
    found, places, notes = outcome(write_bytes("sep=;\r\n질문;답변\r\nq;d, e\r\nq;\r\n".encode("utf-8-sig"), "faq.csv"))
    assert found == [Row("q", ("d, e",)), ":4 (row 3): 답변 is missing (null)"]
    assert places == [":3 (row 2)", ":4 (row 3)"] and notes == ["separator ';'"]


def test_quotes_of_a_table_with_tabs_are_text_where_each_line_is_a_row(write_bytes):
    lines = ['q1\t"따옴표로 시작', "q2\t둘째 답", '"q3"\t끝에 따옴표"', 'q4\t"그건 아니다"라고 말했다', 'q5\t"온전한 ""인용"""']
    texts = ['"따옴표로 시작', "둘째 답", '끝에 따옴표"', '"그건 아니다"라고 말했다', '온전한 "인용"']
    content = "\n".join(["질문\t답변", *lines, 'q6\t"열린 채', "", "q7\t끝", 'q8\t"두\n줄"'])
    for end in ("\n", "\r\n"):
        found, places, notes = outcome(write_bytes(content.replace("\n", end).encode(), "faq.tsv"))
        expected = [*texts, '"열린 채', "끝", f"두{end}줄"]
        assert found == [Row(f"q{number}", (text,)) for number, text in enumerate(expected, 1)]
        assert notes[0] == "quotes are text from line 2 on, where each line has the tabs of a row"
        assert places == [f":{number}" for number in (2, 3, 4, 5, 6, 7, 9, 10)]
    long = "질문\t답변\n" + 'q\t"열린 채\n' + "q\t답 한 줄\n" * 150_000  # more than a row may have
    assert len(outcome(write_bytes(long.encode(), "long.tsv"))[0]) == 150_001
    assert "so that where the next row begins is unknown" in refusal(write_bytes('질문\t답변\nq\t"열린\nq\n'.encode(), "faq.tsv"))


def test_blank_rows_are_nothing_and_counted(write_bytes):
    content = '질문,답변\r\nq,d\r\n,\r\n , \r\n"a\r\nb",d\r\n,\r\nq,\r\n'
    found, _, notes = outcome(write_bytes(content.encode(), "faq.csv"))
    assert found == [Row("q", ("d",)), Row("a\r\nb", ("d",)), ":8 (row 7): 답변 is missing (null)"]
    assert notes == ["3 blank rows left out"]
    assert refusal(write_bytes("질문,답변\n,\n,\n".encode(), "faq.csv")) == ": the file holds no rows below its header"


def test_empty_columns_at_the_end_are_nothing_and_told(write_bytes):
    found, _, notes = outcome(write_bytes("질문,답변,,\nq,d,,\nr,d\nq,d,,x\n".encode(), "faq.csv"))
    assert notes == ["2 empty columns left out"]
    assert found == [Row("q", ("d",)), Row("r", ("d",)), ":4: a cell below no name in the header: 'x'"]


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("frame", [FRAME, FRAME[FRAME.index > 0]])
def test_pandas_index_column_is_left_out_and_told(again, frame, write_bytes):
    content = frame.to_csv()
    if again:
        content = pd.read_csv(io.StringIO(content)).to_csv(index=False)
    found, _, notes = outcome(write_bytes(content.encode(), "faq.csv"))
    assert found == READ[-len(frame) :] and notes == [f"index column {'Unnamed: 0' if again else ''!r} left out"]


def test_a_column_without_name_that_holds_words_is_a_fault(write_bytes):
    message = refusal(write_bytes(",질문,답변\n0,q,d\nx,q,d\n".encode(), "faq.csv"))
    assert message.startswith(": unknown column ''; to leave it out: 'data.columns.ignore=[\"\"]'")
    assert refusal(write_bytes("질문,,답변\nq,x,d\n".encode(), "faq.csv")).startswith(":1: column 2 of 3 has no name; ")
    assert refusal(write_bytes(b",\nq,d\n", "faq.csv")) == ":1: no column has a name; the first row must name the columns"


def test_an_excel_file_without_its_reader_says_what_to_install(write_bytes, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    path = write_bytes(b"PK", "faq.xlsx")
    assert refusal(path) == ": Excel files need openpyxl: pip install openpyxl; or save the sheet as CSV UTF-8"


@pytest.fixture
def write_book(tmp_path):
    def write(**sheets: list) -> str:
        import openpyxl

        book = openpyxl.Workbook()
        book.remove(book.active)
        for title, rows in sheets.items():
            sheet = book.create_sheet(title)
            for row in rows:
                sheet.append(row)
        book.save(tmp_path / "faq.xlsx")
        return str(tmp_path / "faq.xlsx")

    return write


@needs_openpyxl
def test_an_excel_file_is_read_with_its_rows_places(write_book):
    path = write_book(
        Sheet1=[[], ["질문", "답변", " "], *map(list, ROWS), [None, " "], ["q", 5], ["q", "#N/A"], ["q", "=A1"]], Empty=[]
    )
    found, places, notes = outcome(path)
    assert found[:3] == READ and places[:3] == [" (row 3)", " (row 4)", " (row 5)"]
    assert found[3] == " (row 7): 답변 must be a string, this is int: '5'"
    assert found[4].startswith(" (row 8): a cell must hold a value, this is Excel's error #N/A")
    assert found[5].startswith(" (row 9): a cell must hold a value, this is a formula without its result: '=A1'")
    assert notes == ["sheet 'Sheet1', 1 empty column left out", "1 blank row left out"]


@needs_openpyxl
def test_of_several_sheets_one_must_be_named(write_book):
    path = write_book(FAQ=[["질문", "답변"], ["q", "d"]], Old=[["질문", "답변"], ["q", "e"]])
    assert (
        refusal(path)
        == ": 2 sheets with cells (FAQ, Old); name one: data.config=FAQ (of rows), or save it alone, as .xlsx or CSV UTF-8"
    )
    assert outcome(path, Reading(config="Old"))[0] == [Row("q", ("e",))]
    with pytest.raises(DataError, match="no sheet data.config=Olt; did you mean data.config=Old"):
        outcome(path, Reading(config="Olt"))


@needs_openpyxl
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a zip archive"])
def test_a_damaged_excel_file_is_refused(content, write_bytes):
    assert refusal(write_bytes(content, "faq.xlsx")).startswith(": not readable as .xlsx (")


def test_a_header_that_stands_again_is_left_out(write_bytes):
    part = "질문,답변\nq,d\n".encode("utf-8-sig")
    assert outcome(write_bytes(part * 2, "rows.csv")) == ([Row("q", ("d",))] * 2, [":2", ":4"], ["1 repeated header left out"])


def test_a_title_above_the_header_is_told(write_bytes):
    path = write_bytes("FAQ 목록,\n,\n질문,답변\nq,d\n".encode(), "rows.csv")
    assert refusal(path).startswith(":3: cells beside the only name 'FAQ 목록'; if that is a title, delete all above")


def test_json_lines_are_no_table(write_bytes):
    assert "these are JSON lines" in refusal(write_bytes(b'{"query": "q", "document": "d"}\n', "rows.csv"))
