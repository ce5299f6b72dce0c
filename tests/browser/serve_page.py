"""The page of `e5ft serve` in a real headless Chromium, by playwright: `make test-browser`.

Not named test_*.py, so that only the one who asks for it runs it; what it needs and does not find is a failure, never a skip.
"""

import json
import shutil
import subprocess
import unicodedata

import pytest

from tests.app.commands.test_serve import serving

NEEDS = "apt-get install chromium fonts-noto-cjk; pip install playwright"
MARKUP = "<script>document.title = 'taken over'</script><img src=x onerror=\"document.title = 'taken over'\"> 태그가 든 문서"
TEXTS = [
    "한강공원에서는 자전거를 빌려 탈 수 있다.",
    "도서관은 아홉 시에 열고 여섯 시에 닫는다.",
    "주차장은 시청 지하에 있고 두 시간까지 무료이다.",
    MARKUP,
    "전입신고는 이사한 날부터 열나흘 안에 한다.",
    "The library opens at nine and closes at six.",
]
QUESTION = "한강공원 자전거 대여"


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.fail(f"chromium is not there: {NEEDS}")
    fonts = subprocess.run(["fc-list", ":lang=ko"], capture_output=True, text=True).stdout if shutil.which("fc-list") else ""
    if not fonts.strip():
        pytest.fail(f"no font has Hangul: {NEEDS}")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.fail(f"playwright is not installed: {NEEDS}")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox"]
        )  # as root, in a container, it needs that
        yield started
        started.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A server of an untrained mini model over six passages, one of which is markup; one query is judged."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "set/qrels").mkdir(parents=True)
    lines = {
        "corpus": [{"_id": f"p{number}", "text": text} for number, text in enumerate(TEXTS)],
        "queries": [{"_id": "q1", "text": QUESTION}],
    }
    for name, rows in lines.items():
        (folder / f"set/{name}.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    (folder / "set/qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tp0\t1\n")
    with serving(folder, "model=mini", "data.eval_dir=set") as (_, _, url):
        yield url


@pytest.fixture
def page(browser, address):
    """A page that keeps what it said in its console and what it asked for; its title and both are looked at in the end."""
    opened = browser.new_page(viewport={"width": 1280, "height": 800})
    said, asked = [], []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(address)
    yield opened
    assert said == [] and opened.title() != "taken over"
    assert all(url.startswith((f"{address}/", "data:")) for url in asked), asked
    opened.close()


def ask(page, query: str) -> dict[str, list[str]]:
    """Type a query, press Enter, and return the texts that each column shows."""
    page.fill("#q", query)
    with page.expect_navigation():
        page.press("#q", "Enter")
    return {
        section.get_attribute("id"): section.locator("ol > li").all_inner_texts() for section in page.locator("section").all()
    }


def test_korean_typed_in_nfd_finds_what_nfc_finds(page):
    composed = ask(page, QUESTION)
    assert composed.keys() == {"model", "bm25", "hybrid"} and all(composed.values())
    decomposed = unicodedata.normalize("NFD", QUESTION)
    assert decomposed != QUESTION and ask(page, decomposed) == composed
    assert page.input_value("#q") == QUESTION
    assert page.locator("#bm25 mark").first.inner_text() == "한강공원"


def test_the_judged_answer_is_marked_in_every_column(page):
    ask(page, QUESTION)
    for system in ("model", "bm25", "hybrid"):
        (answer,) = page.locator(f"#{system} li.answer").all()
        assert TEXTS[0] in answer.inner_text() and "정답" in answer.inner_text() and "p0" in answer.inner_text()
    assert "1위" in page.locator("#bm25 .place").inner_text()
    ask(page, "도서관은 언제 여나요")
    assert page.locator("li.answer").count() == 0


def test_markup_in_a_passage_and_in_a_query_is_text(page):
    shown = ask(page, f"태그가 든 문서 {MARKUP}")
    assert any(MARKUP in text for text in shown["bm25"]) and page.input_value("#q").endswith(MARKUP)
    assert page.locator("script, img").count() == 0


def test_a_known_query_is_offered_and_a_link_asks_it(page):
    assert page.locator("#known option").get_attribute("value") == QUESTION
    with page.expect_navigation():
        page.click(f"text={QUESTION}")
    assert page.locator("section").count() == 3


def test_english_is_one_click_away_and_keeps_the_query(page):
    ask(page, QUESTION)
    with page.expect_navigation():
        page.click("text=English")
    assert page.input_value("#q") == QUESTION and "answer at rank" in page.locator("#bm25 .place").inner_text()
    assert page.locator("html").get_attribute("lang") == "en"


@pytest.mark.parametrize("width", [320, 390, 768, 1280, 1920])
def test_nothing_is_wider_than_the_window(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    ask(page, "가" * 300 + " " + "w" * 300)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    lefts = {section.bounding_box()["x"] for section in page.locator("section").all()}
    assert len(lefts) == (1 if width <= 640 else 3 if width >= 1280 else len(lefts))
