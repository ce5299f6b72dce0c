"""What pages say of themselves, in Korean and English, and which of the two a page is written in."""

from collections.abc import Iterable

from e5ft.exporting.card import language_of
from e5ft.reporting.run_words import RUN

LANGUAGES = ("ko", "en")

KIT = {
    "ko": {
        "skip": "본문으로 건너뛰기",
        "contents": "목차",
        "search": "검색어",
        "all": "전체",
        "count": "{total}행 중 {seen}행",
        "more": "{count}행 더 보기",
        "none": "조건에 맞는 행이 없습니다.",
        "sort": "{name} 열로 정렬",
        "scroll": "표: 좌우로 스크롤할 수 있습니다",
    },
    "en": {
        "skip": "Skip to the content",
        "contents": "Contents",
        "search": "Search",
        "all": "all",
        "count": "{seen} of {total} rows",
        "more": "Show {count} more",
        "none": "No row matches.",
        "sort": "Sort by {name}",
        "scroll": "Table, scrolls sideways",
    },
}  # seen, total, count and name are filled in by page.js

# How a round that starts from the round before calls what it starts from: in the place of each of these, in this order.
_ROUND = {
    "ko": {
        "학습 전후의": "라운드 {number} 모델과 학습 후의",
        "학습 전 점수": "라운드 {number} 모델의 점수",
        "학습 전 모델": "라운드 {number} 모델",
        "학습 전": "라운드 {number} 모델",
    },
    "en": {
        "the model before training": "round {number}'s model",
        "the one before training": "round {number}'s model",
        "before training": "with round {number}'s model",
    },
}


def page_language(asked: str, texts: Iterable[str]) -> str:
    """The language of a page: as it was asked for, and under `auto` Korean where some of the data are Korean.

    Args:
        asked: auto, ko or en.
        texts: a sample of the data, some dozens; looked at under `auto` only.
    """
    return asked if asked in LANGUAGES else "ko" if language_of(texts) else "en"


def words_of(language: str, start_round: int | None) -> dict[str, str]:
    """The words of a run's page.

    Args:
        language: ko or en.
        start_round: the round from whose model the training started, which is then named; None: from the model before training.
    """
    words = RUN[language]
    for before, instead in _ROUND[language].items() if start_round is not None else ():
        words = {name: text.replace(before, instead.format(number=start_round)) for name, text in words.items()}
    return words
