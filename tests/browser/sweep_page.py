"""The pages of a multirun and of a comparison in a real headless Chromium, by playwright: `make test-browser`."""

import json
import shutil
from urllib.parse import unquote, urlparse

import pytest

from e5ft.reporting.compare_page import compare_runs
from e5ft.reporting.sweep_page import write_page
from e5ft.reporting.sweeps import read_sweep
from tests.browser.serve_page import browser  # noqa: F401  a fixture
from tests.reporting.made_runs import make_run, make_sweep
from tests.reporting.test_html import HOSTILE


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, str]:
    """Addresses of the pages; texts, settings and messages are hostile."""
    folder = tmp_path_factory.mktemp("pages")
    make_sweep(folder / "온도", keep=[("wiki-test", -0.02)])
    status = folder / "온도/6/status.json"
    status.write_text(json.dumps({**json.loads(status.read_text()), "error": HOSTILE}))
    make_run(folder / "a", skill=0.5, settings={"data": {"train_file": HOSTILE}})
    make_run(folder / "b", skill=0.6, seed=3, settings={"data": {"train_file": "faq.jsonl"}})
    for name in "ab":
        file = folder / name / "eval/faq-test/final/per_query.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        changed = ({**line, "text": f"{line['text']} {HOSTILE}", "top": [{**line["top"][0], "text": HOSTILE}]} for line in lines)
        file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in changed))
    sweep = write_page(read_sweep(folder / "온도"))
    return {"sweep": sweep.as_uri(), "compare": compare_runs([folder / "a", folder / "b"])[0].as_uri()}


@pytest.fixture(params=["sweep", "compare"])
def page(request, browser, places):  # noqa: F811
    """Each page; what it said in its console and asked for is looked at in the end."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    said, asked = [], []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda sent: asked.append(sent.url))
    opened.goto(places[request.param])
    opened.kind = request.param
    yield opened
    titles = {"sweep": "스윕 온도: 작업 8개", "compare": "실행 비교: a, b"}
    assert said == [] and opened.title() == titles[opened.kind]
    assert all(url.partition("#")[0] in (places[opened.kind], "data:,") for url in asked), asked
    opened.close()


def only(page, kind: str) -> None:
    if page.kind != kind:
        pytest.skip(f"of the {kind} page")


def column(table, place: int) -> list[str]:
    return [row.locator("th, td").nth(place).inner_text() for row in table.locator("tbody tr:visible").all()]


def test_hostile_texts_are_text(page):
    assert page.locator("script").count() == 1 and page.locator("img").count() == 0
    assert HOSTILE in " ".join(page.locator("main").text_content().split())


def test_jobs_sort_by_their_test_score_and_the_best_is_first_before_that(page):
    only(page, "sweep")
    table = page.locator("section", has_text="작업별 결과").locator(".table").first
    assert column(table, 1)[0] == "0.02" and column(table, 0)[-1] == "BM25 (bigrams)"
    heading = table.locator("th", has_text="테스트 ndcg@10")
    heading.locator("button").click()
    names = [text.strip() for text in table.locator("thead th").all_text_contents()]
    scores = [float(f"0{text.split()[0]}") for text in column(table, names.index("테스트 ndcg@10")) if text.strip()]
    assert heading.get_attribute("aria-sort") == "descending" and scores == sorted(scores, reverse=True) and len(scores) == 8


def test_the_pictures_hold_every_setting_as_text(page):
    only(page, "sweep")
    drawn = page.locator("figure svg").all()
    assert len(drawn) == 2
    assert "loss.temperature=0.01" in drawn[0].text_content() and "temperature" in drawn[1].text_content()
    for picture in page.get_by_role("img").all():
        assert "temperature=" in picture.get_attribute("aria-label")


def test_queries_won_and_lost_are_found_and_filtered(page):
    only(page, "compare")
    table = page.locator("section", has_text="질의별 변화").locator(".table")
    won, lost = (len(column_of(table, kind)) for kind in ("좋아짐", "나빠짐"))
    assert won > lost and f"{won}개는 좋아졌고 {lost}개는 나빠졌으며" in page.locator("main").inner_text()
    table.locator("select").select_option(index=0)
    table.locator("input").fill("여권 재발급")
    assert all("여권 재발급" in text for text in column(table, 0)) and column(table, 0)


def column_of(table, kind: str) -> list[str]:
    table.locator("select").select_option(label=kind)
    kinds = column(table, 1)
    while table.locator(".more").is_visible():
        table.locator(".more").click()
        kinds = column(table, 1)
    assert set(kinds) == {kind}
    return kinds


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(page, width, theme):
    page.emulate_media(color_scheme=theme)
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("h1").is_visible() and page.locator(".verdict").is_visible()


def test_a_page_is_small_and_needs_nothing_beside_it(places, tmp_path, browser):  # noqa: F811
    for name, address in places.items():
        copied = tmp_path / f"{name}.html"
        shutil.copy(unquote(urlparse(address).path), copied)
        assert copied.stat().st_size < 300_000
        opened = browser.new_page(java_script_enabled=False)
        opened.goto(copied.as_uri())
        assert opened.locator("table").first.is_visible() and opened.locator(".verdict").inner_text()
        opened.close()
