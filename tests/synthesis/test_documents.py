"""Titles, headings and paragraphs of every kind of file, and what is left out is said."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from e5ft.errors import ConfigurationError, DataError
from e5ft.synthesis.documents import Left, _rejoined, read_documents


def read(place, encoding=None, skip=False):
    left = Left()
    return list(read_documents(place, encoding, left, skip=skip)), left


def contents(document) -> list[tuple]:
    return [(section.headings, section.paragraphs) for section in document.sections]


def test_markdown_by_its_headings(tmp_path):
    pytest.importorskip("markdown_it")
    pytest.importorskip("bs4")
    (tmp_path / "a.md").write_text(
        "---\ntitle: '연차 안내'\n---\n앞말\n\n# 개요\n연차는 **열다섯** 날이다.\n이어진다.\n\n## 신청\n- 포털에서\n- [메일로](http://x)\n\n"
        "| 가 | 나 |\n|---|---|\n| 1 | 2 |\n\n```\n코드  줄\n둘째\n```\n\n# 끝\n\n## 빈 절\n"
    )
    [[document], _] = read(tmp_path)
    assert (document.name, document.title) == ("a.md", "연차 안내")
    assert contents(document) == [
        ((), ["앞말"]),
        (("개요",), ["연차는 열다섯 날이다.\n이어진다."]),
        (("개요", "신청"), ["포털에서", "메일로", "가 나", "1 2", "코드 줄\n둘째"]),
    ]


def test_html_without_what_stands_around_it(tmp_path):
    pytest.importorskip("bs4")
    page = (
        "<html><head><title>창 제목</title><meta charset='euc-kr'></head><body><nav>메뉴</nav><script>var x</script><!-- 비밀 -->"
        "<main><h1>정책</h1><p>열두 글자<br>이상</p><div>둘째 <b>문단</b><ul><li>하나<li>둘</ul></div>"
        "<details><summary>어떻게 푸나요?</summary>스스로 풀립니다</details></main><footer>끝</footer></body></html>"
    )
    (tmp_path / "utf8.html").write_text(page)
    (tmp_path / "euckr.htm").write_bytes(page.encode("cp949"))
    [documents, _] = read(tmp_path)
    assert [document.title for document in documents] == ["정책", "정책"]
    for document in documents:
        assert contents(document) == [
            (("정책",), ["열두 글자\n이상", "둘째 문단", "하나", "둘"]),
            (("정책", "어떻게 푸나요?"), ["스스로 풀립니다"]),
        ]


@pytest.mark.parametrize(
    ("page", "sections"),
    [
        ("<article><h2>가</h2>하나</article><article><h2>나</h2>둘</article>", [(("가",), ["하나"]), (("나",), ["둘"])]),
        ("<article><header><h1>제목</h1>어제</header><p>글</p></article>", [(("제목",), ["글"])]),
        ("<form action=a><h1>제목</h1><p>글</p><select><option>고름</select></form>", [(("제목",), ["글"])]),
        ("<form action=a>찾을 말 <input></form><p>글</p>", [((), ["글"])]),
        ("<dl><dt>왜?<dd>답<dt>언제?<dd>내일</dl>", [(("왜?",), ["답"]), (("언제?",), ["내일"])]),
        ("<main></main><p>글</p>", [((), ["글"])]),
        (
            "<h1>물음</h1><details><summary>왜?</summary>답</details><dl><dt>언제?</dt><dd>내일</dd></dl><p>끝말</p>",
            [(("물음",), ["끝말"]), (("물음", "왜?"), ["답"]), (("물음", "언제?"), ["내일"])],
        ),
    ],
)
def test_html_of_other_builds_loses_no_content(tmp_path, page, sections):
    pytest.importorskip("bs4")
    (tmp_path / "a.html").write_text(f"<body>{page}</body>")
    assert contents(read(tmp_path)[0][0]) == sections


def test_a_markdown_text_between_lines_is_no_front_matter(tmp_path):
    pytest.importorskip("markdown_it")
    (tmp_path / "a.md").write_text("---\n앞에 선 문단\n\n---\n\n다음 문단\n")
    assert contents(read(tmp_path)[0][0]) == [((), ["앞에 선 문단", "다음 문단"])]


def test_a_faulty_row_leaves_out_itself_alone(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "하나"}\n{"text": 2}\n{broken\n{"text": "넷"}\n')
    (tmp_path / "b.tsv").write_text("1\t다섯\n2\n3\t일곱\n")
    documents, left = read(tmp_path, skip=True)
    assert [document.sections[0].paragraphs for document in documents] == [["하나"], ["넷"], ["다섯"], ["일곱"]]
    assert [message.partition(": ")[0].rpartition("/")[2] for message in left.unreadable] == ["a.jsonl:2", "a.jsonl:3", "b.tsv:2"]
    with pytest.raises(DataError, match=r"a\.jsonl:2: text must be a string.*; leave such rows out: data\.on_bad_row=skip$"):
        read(tmp_path)


def test_what_is_no_html_is_not_read_as_such(tmp_path):
    (tmp_path / "a.html").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    with pytest.raises(DataError, match=r"a\.html: no HTML: it holds NUL bytes; leave such files out"):
        read(tmp_path)
    pytest.importorskip("bs4")
    (tmp_path / "a.html").write_bytes("<p>글</p>".encode("utf-16"))
    assert contents(read(tmp_path)[0][0]) == [((), ["글"])]


def test_a_page_of_several_first_headings_has_the_windows_title(tmp_path):
    pytest.importorskip("bs4")
    (tmp_path / "a.html").write_text("<title>안내</title><h1>가</h1>하나<h1>나</h1>둘")
    assert read(tmp_path)[0][0].title == "안내"


def test_plain_text_and_passages(tmp_path):
    (tmp_path / "b.txt").write_bytes("첫 문단\r\n둘째 줄\r\n\r\n다음 문단\r\n".encode())
    (tmp_path / "c.jsonl").write_text(
        json.dumps({"_id": "1", "title": "제목", "text": "본문\n\n둘째"}) + "\n" + '{"text": "홀로"}\n'
    )
    [documents, _] = read(tmp_path)
    assert [(d.name, d.title, d.sections[0].paragraphs) for d in documents] == [
        ("b.txt", None, ["첫 문단\n둘째 줄", "다음 문단"]),
        ("c.jsonl:1", "제목", ["본문", "둘째"]),
        ("c.jsonl:2", None, ["홀로"]),
    ]
    assert len(read(tmp_path / "c.jsonl")[0]) == 2
    pq.write_table(pa.table({"title": [float("nan")], "text": ["pandas의 빈칸"]}), tmp_path / "d.parquet")
    assert [(d.title, d.sections[0].paragraphs) for d in read(tmp_path / "d.parquet")[0]] == [(None, ["pandas의 빈칸"])]


def test_text_is_recomposed_and_may_be_in_another_encoding(tmp_path):
    import unicodedata

    (tmp_path / "a.txt").write_text(unicodedata.normalize("NFD", "한글 문서"))
    (tmp_path / "b.txt").write_bytes("다른 부호".encode("cp949"))
    with pytest.raises(
        DataError, match=r"b\.txt: not UTF-8 but CP949.*data\.encoding=cp949.*; leave such files out: data\.on_bad_row=skip"
    ):
        read(tmp_path)
    assert [d.sections[0].paragraphs for d in read(tmp_path, "cp949")[0]] == [["한글 문서"], ["다른 부호"]]


def make_pdf(path, pages):
    """A PDF of Latin text lines, written by hand: Helvetica needs no font file."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", "", "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    kids = []
    for lines in pages:
        text = "BT /F1 12 Tf 72 720 Td " + " ".join(f"({line}) Tj 0 -16 Td" for line in lines) + " ET"
        objects.append(f"<< /Length {len(text)} >>\nstream\n{text}\nendstream")
        content = len(objects)
        objects.append(f"<< /Type /Page /Parent 2 0 R /Contents {content} 0 R /Resources << /Font << /F1 3 0 R >> >> >>")
        kids.append(f"{len(objects)} 0 R")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} /MediaBox [0 0 612 792] >>"
    objects.append("<< /Title (Leave rules) >>")
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        places.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode()
    start = len(out)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode() + b"".join(
        f"{p:010} 00000 n \n".encode() for p in places
    )
    out += f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R /Info {len(objects)} 0 R >>\nstartxref\n{start}\n%%EOF\n".encode()
    path.write_bytes(out)


def test_pdf_without_running_heads(tmp_path):
    pytest.importorskip("pypdf")
    make_pdf(
        tmp_path / "a.pdf",
        [["The Company", f"body {word} one", f"more {word}", f"Page {n}"] for n, word in enumerate(["red", "blue", "green"])],
    )
    [[document], _] = read(tmp_path)
    assert document.title == "Leave rules"
    assert document.sections[0].paragraphs == [f"body {word} one\nmore {word}" for word in ("red", "blue", "green")]


def test_a_line_that_ends_inside_a_korean_word_goes_on():
    pages = ["연차 규정은 모두 읽는다. 새 규", "정은 봄에 나온다. 담당자가 큰", "회의에서 정한다 하고", "큰 회의에서 적는다"]
    words = {"규정은", "모두", "읽는다", "봄에", "큰회의에서", "담당자가", "회의에서", "큰"}
    assert _rejoined(pages, words) == [pages[0] + pages[1], *pages[2:]]
    assert _rejoined(["a word", "s 규", "정이"], {"words", "규정은"}) == ["a word", "s 규", "정이"]


def test_a_binary_file_is_named_as_such(tmp_path):
    (tmp_path / "a.txt").write_bytes(bytes(range(256)) * 20)
    with pytest.raises(
        DataError, match=r"a\.txt: no text but a binary file, as it seems: it holds control bytes; leave such files"
    ):
        read(tmp_path)


def test_what_is_left_out_is_named(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name, content in (
        ("a.txt", "글"),
        ("sub/b.docx", "x"),
        ("sub/c.docx", "x"),
        (".hidden/d.txt", "숨은 글"),
        ("e.txt", "  \n"),
    ):
        (tmp_path / name).write_text(content)
    (tmp_path / "f.txt").write_bytes(b"\xff\xfe\x00broken")
    (tmp_path / "g.jsonl").write_text('{"nothing": 1}\n')
    documents, left = read(tmp_path, skip=True)
    assert [d.name for d in documents] == ["a.txt"] and dict(left.suffixes) == {".docx": 2} and left.blank == ["e.txt"]
    assert len(left.unreadable) == 2 and "the key 'text' is missing" in left.unreadable[1]


@pytest.mark.parametrize(
    ("place", "message"), [("nowhere", "no such file or folder"), (".", "no documents; there must be files ending in .md")]
)
def test_nothing_to_read(tmp_path, place, message):
    with pytest.raises(DataError, match=f"^data.corpus_file=.*{message}"):
        read(tmp_path / place)


def test_a_package_that_is_missing_is_named_in_one_line(tmp_path, monkeypatch):
    import builtins

    known = builtins.__import__

    def without(name, *arguments, **options):
        if name.partition(".")[0] in ("pypdf", "bs4", "markdown_it"):
            raise ImportError(name)
        return known(name, *arguments, **options)

    monkeypatch.setattr("importlib.import_module", lambda name: without(name))
    for name, package in (("a.pdf", "pypdf"), ("a.md", "markdown-it-py"), ("a.html", "beautifulsoup4")):
        (tmp_path / name).write_text("x")
        with pytest.raises(ConfigurationError, match=f"^data.corpus_file: .* files need {package}; pip install {package}$"):
            read(tmp_path / name)
