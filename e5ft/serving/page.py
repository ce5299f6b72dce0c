"""The page on which queries are tried: one HTML text, without scripts, that fetches nothing."""

import base64
import dataclasses
import functools
import hashlib
from pathlib import Path
from typing import Any

from e5ft.serving.searching import BASE, BM25_ALONE, DEPTH, HYBRID, MODEL, Found

LANGUAGES = ("ko", "en")
LONGEST = 420  # characters of a passage that are seen at once
LONGEST_QUERY = 2000  # characters that the field takes, and the server
MOST_LISTED = 300  # known queries that are offered while one types
CHIPS = 6  # of these, as links

WORDS = {
    "ko": {
        "title": "검색 비교",
        "lead": "질의 하나를 여러 검색 방식으로 찾아 나란히 보여 줍니다.",
        "query": "질의",
        "hint": "찾고 싶은 내용을 입력하세요",
        "search": "검색",
        "other": "English",
        "corpus": "문서 {}개",
        "known": "정답이 있는 질의 {}개",
        "examples": "예시 질의",
        "answer": "정답",
        "is_known": "정답이 있는 질의입니다 · 정답 문서 {}개",
        "is_unknown": "정답이 알려지지 않은 질의라서 정답을 표시하지 않습니다.",
        "answer_rank": "정답 순위",
        "rank": "{}위",
        "beyond": "{}위 밖",
        "nothing": "질의와 겹치는 낱말이 없습니다.",
        "more": "더 보기",
        BASE: "학습 전 모델",
        MODEL: "모델",
        BM25_ALONE: "BM25",
        HYBRID: "하이브리드",
        f"{BASE}_score": "코사인 유사도",
        f"{MODEL}_score": "코사인 유사도",
        f"{BM25_ALONE}_score": "BM25 점수",
        f"{HYBRID}_score": "표준화 점수의 가중합: 모델 {} + BM25 {}",
    },
    "en": {
        "title": "Search, side by side",
        "lead": "One query, searched for in several ways.",
        "query": "Query",
        "hint": "What are you looking for?",
        "search": "Search",
        "other": "한국어",
        "corpus": "{} passages",
        "known": "{} judged queries",
        "examples": "Examples",
        "answer": "answer",
        "is_known": "A judged query · passages that answer it: {}",
        "is_unknown": "Nobody judged this query, so no answer is marked.",
        "answer_rank": "answer at rank",
        "rank": "{}",
        "beyond": "beyond {}",
        "nothing": "No passage shares a word with the query.",
        "more": "more",
        BASE: "Before training",
        MODEL: "Model",
        BM25_ALONE: "BM25",
        HYBRID: "Hybrid",
        f"{BASE}_score": "cosine",
        f"{MODEL}_score": "cosine",
        f"{BM25_ALONE}_score": "BM25 score",
        f"{HYBRID}_score": "sum of standardised scores: {} model + {} BM25",
    },
}


@dataclasses.dataclass(frozen=True)
class About:
    """What the page says of what is searched.

    Attributes:
        corpus: the set's name.
        passages, queries: how many it has.
        labels: names of the models, by system.
        weight: of the hybrid.
        examples: known queries.
    """

    corpus: str
    passages: int
    queries: int
    labels: dict[str, str]
    weight: float | None
    examples: list[str]


def page(language: str, about: About, query: str = "", found: Found | None = None) -> str:
    """The page as HTML; every text in it but the page's own is escaped.

    Args:
        language: one of LANGUAGES; any other is the first.
        about: what is searched.
        query: as it was typed.
        found: for it; None before a query is asked.
    """
    language = language if language in LANGUAGES else LANGUAGES[0]
    words = dict(WORDS[language])
    if about.weight is not None:
        shares = (f"{share:g}".removeprefix("0") or "0" for share in (about.weight, round(1 - about.weight, 6)))
        words[f"{HYBRID}_score"] = words[f"{HYBRID}_score"].format(*shares)
    other = next(each for each in LANGUAGES if each != language)
    return _template().render(
        language=language,
        other=other,
        words=words,
        about=about,
        query=query,
        found=found,
        depth=DEPTH,
        chips=CHIPS,
        longest=LONGEST_QUERY,
        cut=_cut,
    )


def content_security_policy() -> str:
    """What the page may load: its own styles, by their hash, and nothing else; its form leads to itself alone."""
    digest = base64.b64encode(hashlib.sha256(_styles().encode()).digest()).decode()
    rules = ("default-src 'none'", f"style-src 'sha256-{digest}'", "img-src data:", "form-action 'self'", "base-uri 'none'")
    return "; ".join([*rules, "frame-ancestors 'none'"])


def _cut(pieces: tuple[tuple[str, bool], ...], length: int = LONGEST) -> tuple[list, list]:
    """The pieces of a text within its first characters, and those behind."""
    first, rest = [], []
    for text, marked in pieces:
        first += [(text[:length], marked)] if length else []
        rest += [(text[length:], marked)] if len(text) > length else []
        length = max(0, length - len(text))
    return first, rest


@functools.cache
def _styles() -> str:
    return Path(__file__).with_name("page.css").read_text(encoding="utf-8")


@functools.cache
def _template() -> Any:
    import jinja2

    options = {"autoescape": True, "undefined": jinja2.StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), **options)
    environment.globals["styles"] = _styles
    return environment.get_template("page.html")
