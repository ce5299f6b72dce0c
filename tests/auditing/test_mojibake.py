"""Broken characters are found and turned back; sound texts of many languages pass."""

import pytest

from e5ft.auditing.mojibake import repaired

KOREAN = "서울의 겨울은 춥고 건조합니다. 눈은 일월에 가장 많이 옵니다."


@pytest.mark.parametrize(
    ("wrote", "read", "whole"),
    [("utf-8", "latin-1", True), ("cp949", "latin-1", True), ("utf-8", "cp1252", False), ("utf-8", "cp949", False)],
)
def test_what_was_read_in_a_wrong_encoding_is_turned_back(wrote, read, whole):
    back = repaired(KOREAN.encode(wrote).decode(read, "replace"))
    kept = sum(character in KOREAN for character in back) / len(KOREAN)
    assert back == KOREAN if whole else kept > 0.5, back


@pytest.mark.parametrize("text", ["서울\ufffd 겨울", "가\x85나", "?? ??? ????? ?? ???? 2019 ?? ???.", "Ã©tÃ© Ã  la mer"])
def test_what_was_lost_is_told(text):
    assert repaired(text) is not None


@pytest.mark.parametrize(
    "text",
    [
        KOREAN,
        "L'été à la plage : « déjà vu », naïve, CAFÉ… “Ça va ?”",
        "Größe, Übermut und Straße kosten 5 €; Ärger™ nicht.",
        "정말??? 왜???? 아니 왜!!",
        "東京は日本の首都である。大韓民國 憲法 第一條 大韓民國은 民主共和國이다.",
        "大法院은 被告人의 上告를 棄却하고 原審判決을 維持하였다. 家屋臺帳과 登記簿의 記載가 다르다.",
        "Прага — столица Чехии; ελληνικά και עברית, ภาษาไทย",
        "e=mc², 20 °C ± 3, 5 × 10³ µm, ½ 컵",
        "what? why? how?? tell me",
    ],
)
def test_sound_texts_pass(text):
    assert repaired(text) is None
