"""The table of faults."""

import re
from pathlib import Path

from e5ft.auditing.kinds import KINDS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "audit.md"


def test_every_kind_is_told_in_both_languages_and_on_its_page():
    for kind in KINDS.values():
        for language in ("en", "ko"):
            texts = (kind.title(language), kind.meaning(language), kind.remedy(language))
            assert all(texts) and all(text.endswith(".") for text in texts[1:]), kind.name
            assert (re.search("[가-힣]", texts[0]) is not None) == (language == "ko"), kind.name
    rows = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == list(KINDS)
