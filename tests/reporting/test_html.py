"""The page kit: what it writes is what a strict reader of HTML sees."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from e5ft.reporting import plots
from e5ft.reporting.html import SHOWN, Cell, Code, Column, Details, Facts, Figure, Paragraph, Section, Table, cut, number, render

HOSTILE = "</script></style><script>document.title='taken'</script>\"'`{{ 7 * 7 }}<img src=x onerror=alert(1)>&amp; ]]> -->"
EVERY = [
    Paragraph(HOSTILE),
    Table(
        [HOSTILE, ("수", True), Column("본문", wide=True)], [[HOSTILE, 3, Cell(HOSTILE, HOSTILE, hint=HOSTILE)]], caption=HOSTILE
    ),
    Table(["종류"], [[HOSTILE]], sortable=True, filters=["종류"], search=True, stacked=True),
    Figure(plots.lines({HOSTILE: ([1, 2], [3, 4])}, HOSTILE, HOSTILE, references={HOSTILE: 3.5}), HOSTILE, HOSTILE),
    Facts([(HOSTILE, HOSTILE)]),
    Code(HOSTILE),
    Details(HOSTILE, [Paragraph(HOSTILE)]),
]


class Read(HTMLParser):
    """Elements, their attributes and texts as a browser would have them."""

    def __init__(self, page: str):
        super().__init__()
        self.elements, self.texts, self.inside = [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.inside.append(tag)

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        self.texts.append((self.inside[-1] if self.inside else "", data))

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page() -> str:
    return render(HOSTILE, "ko", HOSTILE, [Section(HOSTILE, EVERY)], tone="bad")


def test_hostile_texts_stay_text_in_every_block(page):
    read = Read(page)
    assert len(read.all("script")) == len(read.all("style")) == 1 and not read.all("img")
    assert not [name for _, attributes in read.elements for name in attributes if name.startswith("on") or name == "style"]
    shown = "".join(text for inside, text in read.texts if inside not in ("script", "style"))
    assert shown.count(HOSTILE) >= 14 and "49" not in shown


def test_the_page_fetches_nothing_and_lets_only_its_own_script_run(page):
    read = Read(page)
    (policy,) = (attributes["content"] for attributes in read.all("meta") if attributes.get("http-equiv"))
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    links = [value for _, attributes in read.elements for name, value in attributes.items() if name in ("src", "href")]
    assert links and all(link.startswith(("#", "data:,")) for link in links)


def test_headings_tables_and_pictures_have_names_and_ids_are_unique(page):
    read = Read(page)
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all(a["aria-labelledby"] in ids for a in read.all("section")) and read.all("html") == [{"lang": "ko"}]
    assert all(a["href"][1:] in ids for a in read.all("a"))
    assert [a["aria-label"] for a in read.all("div") if a.get("role") == "img"] == [HOSTILE]
    assert all(a.get("scope") in ("row", "col") for a in read.all("th"))


def test_cells_sort_by_their_value_and_long_ones_open():
    rows = [["가", number(-0.5)], ["나", number(None)], ["다", 7], ["라" * 500, Cell("셋", 3.0)]]
    read = Read(render("t", "en", "v", [Section("s", [Table(["이름", ("수", True)], rows, sortable=True)])]))
    assert [a.get("data-value") for a in read.all("td")] == ["-0.5", None, "7", "3.0"]
    assert [text for inside, text in read.texts if inside == "td"][:2] == ["−0.500", "–"]
    assert len(read.all("details")) == 1 and sum(text.count("라") for _, text in read.texts) == 500


@pytest.mark.parametrize("options", [{}, {"sortable": True}, {"search": True}, {"filters": ["a"]}])
def test_a_table_lives_where_there_is_something_to_do(options):
    for rows in (1, SHOWN + 1):
        page = render("t", "en", "v", [Section("s", [Table(["a"], [["x"]] * rows, **options)])])
        assert ("data-live=" in page) == (bool(options) or rows > SHOWN)


def test_a_row_of_another_length_and_a_filter_of_no_column_are_refused():
    with pytest.raises(ValueError, match="each row must have 2 cells"):
        render("t", "en", "v", [Section("s", [Table(["a", "b"], [["x"]])])])
    with pytest.raises(ValueError):
        render("t", "en", "v", [Section("s", [Table(["a"], [["x"]], filters=["b"])])])


def test_a_text_is_cut_once_it_is_longer():
    assert cut("가" * 400) == "가" * 400 and cut("가" * 401) == "가" * 400 + "…"
