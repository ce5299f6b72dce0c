"""The page of a run in a real headless Chromium, by playwright: `make test-browser`. Its record is hostile in every text."""

import unicodedata

import pytest

from e5ft.reporting.html import SHOWN
from e5ft.reporting.run_page import run_page
from tests.browser.serve_page import browser  # noqa: F401  a fixture
from tests.reporting.records import Asked, write_run
from tests.reporting.test_html import HOSTILE

RANKS = [(5, 1), (None, 8), (30, 4), (1, 3), (2, None), (1, 1), (None, None)] * 12
QUERIES = [
    Asked(
        f"q{number}-{HOSTILE}".replace(" ", ""),
        f"한강공원 질의 {number:03d} {HOSTILE}",
        f"자전거 대여소 {number:03d} {HOSTILE}",
        *each,
    )
    for number, each in enumerate(RANKS)
]
THRESHOLD = {
    "value": 0.89,
    "target": 0.9,
    "rule": HOSTILE,
    "dev": {"answered": 0.7, "precision": 0.9, "recall": 0.6, "queries": 80},
    "test": {"answered": 0.0, "precision": None, "recall": 0.0, "queries": 84},
}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = write_run(tmp_path_factory.mktemp("reported") / "run", QUERIES, model=HOSTILE, threshold=THRESHOLD)
    (folder / "report.html").write_text(run_page(folder), encoding="utf-8")
    return (folder / "report.html").as_uri()


@pytest.fixture
def page(browser, address):  # noqa: F811
    """A page that keeps what it said in its console and what it asked for; its title and both are looked at in the end."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    said, asked = [], []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(address)
    yield opened
    assert said == [] and opened.title() == "학습 보고서 · run"
    assert all(url.partition("#")[0] in (address, "data:,") for url in asked), asked
    opened.close()


@pytest.fixture
def table(page):
    """The table of the queries that got better and worse."""
    return page.locator("section:has(h2:text-is('질의별 변화'))").locator(".table")


def seen(table) -> list[list[str]]:
    """The cells of the rows that are seen."""
    rows = table.locator("tbody tr:visible").all()
    return [[cell.inner_text() for cell in row.locator("th, td").all()] for row in rows]


def test_hostile_texts_are_text(page, table):
    assert page.locator("script").count() == 1 and page.locator("img").count() == 0
    table.locator("tbody summary").first.click()
    text = " ".join(table.locator("tbody tr").first.inner_text().split())
    assert HOSTILE in text and "한강공원 질의" in text and "자전거 대여소" in text


def test_search_finds_the_rows_with_all_words_also_in_nfd(page, table):
    table.locator("input").fill("질의 003")
    assert [row[0].startswith("한강공원 질의 003") for row in seen(table)] == [True]
    table.locator("input").fill(unicodedata.normalize("NFD", "한강공원"))
    assert len(seen(table)) == SHOWN
    table.locator("input").fill("없는 낱말")
    assert seen(table) == [] and table.locator(".count").inner_text() == "조건에 맞는 행이 없습니다."


def test_a_kind_filters(page, table):
    kinds = table.locator("option").all_inner_texts()[1:]
    assert set(kinds) == {"좋아짐: 이제 1위", "좋아짐: 상위 10개 진입", "나빠짐: 1위에서 밀림", "나빠짐: 상위 10개 이탈"}
    for kind in kinds:
        table.locator("select").select_option(label=kind)
        rows = seen(table)
        assert rows and {row[1] for row in rows} == {kind}
        assert table.locator(".count").inner_text() == f"{len(rows)}행 중 {len(rows)}행"


def test_a_click_and_the_keyboard_sort(page, table):
    heading = table.locator("th", has_text="학습 후 순위")
    button = heading.locator("button")
    button.click()
    assert heading.get_attribute("aria-sort") == "descending" and seen(table)[0][3].startswith("없음")
    button.focus()
    page.keyboard.press("Enter")
    ranks = [int(row[3].removesuffix("위")) for row in seen(table)]
    assert heading.get_attribute("aria-sort") == "ascending" and ranks == sorted(ranks) and ranks[0] == 1
    assert table.locator("th[aria-sort]").count() == 1


def test_more_rows_come_on_a_click(page, table):
    count = len(seen(table))
    assert count == SHOWN
    table.locator(".more").click()
    assert len(seen(table)) == 2 * SHOWN and table.locator(".count").inner_text() == "60행 중 50행"


def test_the_keyboard_reaches_the_content_and_every_part_has_a_name(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.wait_for_function("location.hash === '#content'")
    for section in page.get_by_role("region").all():
        assert section.is_visible()
    assert page.get_by_role("img").count() == 9 and page.get_by_role("table").count() >= 4
    assert page.get_by_role("searchbox", name="검색어").count() >= 1 and page.get_by_role("combobox", name="구분").count() == 1


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_is_wider_than_the_window_and_letters_stand_out(page, width, theme):
    page.emulate_media(color_scheme=theme)
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for place in (".verdict", "figure svg text", "td", "dt"):
        ink, back = page.evaluate(
            """place => { const found = document.querySelector(place); let box = found;
            const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).slice(0, 3).map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
              return .2126 * r + .7152 * g + .0722 * b; };
            while (box.parentElement && /^rgba\\(0, 0, 0, 0\\)$/.test(getComputedStyle(box).backgroundColor)) box = box.parentElement;
            const style = getComputedStyle(found);
            return [light(place.endsWith('text') ? style.fill : style.color), light(getComputedStyle(box).backgroundColor)]; }""",
            place,
        )
        assert (max(ink, back) + 0.05) / (min(ink, back) + 0.05) >= 4.5, place


def test_what_is_printed_is_black_on_white_without_controls(page, table):
    page.emulate_media(media="print", color_scheme="dark")
    assert not table.locator(".tools").is_visible() and not page.locator("nav").is_visible()
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert len(page.pdf()) > 20_000


def test_without_its_script_all_rows_are_there(browser, address):  # noqa: F811
    context = browser.new_context(java_script_enabled=False)
    opened = context.new_page()
    opened.goto(address)
    table = opened.locator("section:has(h2:text-is('질의별 변화'))").locator(".table")
    assert table.locator("tbody tr:visible").count() == 60 and not table.locator(".tools").is_visible()
    context.close()
