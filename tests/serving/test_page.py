"""The page: every text is escaped, it loads nothing, and both languages have all words."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from e5ft.serving.page import LONGEST, WORDS, About, _cut, content_security_policy, page
from e5ft.serving.searching import Found, Hit, Ranking

NASTY = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;"
ABOUT = About(NASTY, 1234, 2, {"model": NASTY, "base": NASTY}, 0.65, [NASTY])


def found(*, query_id=NASTY, answers=1, rank=1, relevance=1):
    hit = Hit(1, NASTY, ((NASTY, True), (f"{NASTY} " * 20, False)), 0.98765, relevance)
    rankings = (
        Ranking("base", (hit,), rank),
        Ranking("model", (hit,), None),
        Ranking("bm25", (), None),
        Ranking("hybrid", (hit,), 2),
    )
    return Found(NASTY, query_id, answers, rankings)


class Seen(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("language", ["ko", "en", NASTY])
@pytest.mark.parametrize("given", [None, found()])
def test_texts_stay_texts_and_nothing_is_loaded(language, given):
    seen = Seen(page(language, ABOUT, NASTY if given else "", given))
    names = [tag for tag, _ in seen.tags]
    assert not {"script", "img", "b" if given is None else "iframe"} & {*names} and NASTY in seen.text
    attributes = {name for _, each in seen.tags for name in each}
    assert not [name for name in attributes if name.startswith("on")]
    places = [value for _, each in seen.tags for name, value in each.items() if name in ("src", "href", "action")]
    assert places and all(re.match(r"/(\?|$)|#|data:,$", place) for place in places)
    (field,) = (each for tag, each in seen.tags if each.get("name") == "q")
    assert field["value"] == (NASTY if given else "")
    assert any(tag == "option" and each["value"] == NASTY for tag, each in seen.tags)


def test_the_policy_lets_the_page_s_own_styles_through():
    (styles,) = re.findall("<style>(.*?)</style>", page("ko", ABOUT), re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(styles.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in content_security_policy() and "default-src 'none'" in content_security_policy()
    assert " style=" not in page("ko", ABOUT, "a", found())  # which the policy would refuse


def test_answers_scores_ranks_and_words_are_shown():
    text = page("ko", ABOUT, "질의", found())
    seen = Seen(text)
    assert [each.get("class") for tag, each in seen.tags if tag == "li"].count("answer") == 3
    assert seen.text.count("0.988") == 3 and "1위" in seen.text and "2위" in seen.text and "100위 밖" in seen.text
    assert "질의와 겹치는 낱말이 없습니다." in seen.text and "모델 .65 + BM25 .35" in seen.text
    assert [tag for tag, _ in seen.tags].count("mark") >= 3
    unknown = Seen(page("ko", ABOUT, "질의", found(query_id=None, answers=0, rank=None, relevance=0)))
    assert "answer" not in [each.get("class") for tag, each in unknown.tags if tag == "li"]
    assert WORDS["ko"]["is_unknown"] in unknown.text and WORDS["ko"]["answer_rank"] not in unknown.text


def test_english_is_one_switch_away_and_lacks_no_word():
    korean, english = (Seen(page(language, ABOUT, "서울 시청", found())) for language in ("ko", "en"))
    assert WORDS["ko"].keys() == WORDS["en"].keys()
    for seen, other in ((korean, "en"), (english, "ko")):
        (link,) = (each["href"] for tag, each in seen.tags if each.get("class") == "language")
        assert link == f"/?lang={other}&q=%EC%84%9C%EC%9A%B8%20%EC%8B%9C%EC%B2%AD"
    assert "answer at rank" in english.text and not re.search("정답|순위", english.text)


def test_a_long_text_is_cut_and_nothing_of_it_is_lost():
    pieces = (("a" * LONGEST, False), ("b", True), ("c", False))
    assert _cut(pieces) == ([("a" * LONGEST, False)], [("b", True), ("c", False)])
    assert _cut((("ab", True), ("cd", False)), 3) == ([("ab", True), ("c", False)], [("d", False)])
    assert _cut((("ab", True),), 3) == ([("ab", True)], [])
