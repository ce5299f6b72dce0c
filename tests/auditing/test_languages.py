"""Languages by characters and small words, and rows of two of them."""

import pytest

from e5ft.auditing.languages import counts_by_role, language_of, languages_of, other_languages
from tests.auditing.conftest import row


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("서울의 겨울은 춥습니다", "ko"),
        ("GPU에서 NVIDIA CUDA toolkit driver 설치", "ko"),
        ("東京の冬は寒い", "ja"),
        ("北京的冬天很冷", "zh"),
        ("Зимой в Москве холодно", "Cyrillic"),
        ("The winter in the north is cold and dark", "en"),
        ("Der Winter ist kalt und die Nächte sind lang", "de"),
        ("El invierno en el norte es frío y la noche es larga", "es"),
        ("NVIDIA GeForce RTX", ""),
        ("VPN", ""),
        ("2019", ""),
        ("", ""),
    ],
)
def test_languages(text, language):
    assert language_of(text) == language


def test_a_text_in_another_language_is_told_where_few_rows_are_so(make_audited):
    english = "The bridge is closed for the winter and is open again in the spring"
    rows = [row(f"다리는 언제 여나요 {n}", f"다리는 봄에 다시 엽니다 {n}", [f"강은 겨울에 업니다 {n}"]) for n in range(60)]
    rows[7]["document"] = english
    rows[8]["hard_negative"] = [english]
    rows[9]["query"] = "VPN"  # a name, asked for in no language
    rows[10] |= {"query": "when is the bridge open in the winter", "document": english}  # a row of its own language
    audited = make_audited(rows)
    languages = languages_of(audited)
    told = {(f.row, f.field, f.evidence) for f in other_languages(audited, languages)}
    assert told == {(7, "document", "ko -> en"), (8, "hard_negative", "ko -> en"), (10, "hard_negative", "en -> ko")}
    assert counts_by_role(audited, languages)["query"] == {"ko": 58, "": 1, "en": 1}


def test_search_across_languages_is_no_fault(make_audited):
    rows = make_audited([row(f"다리는 언제 여나요 {n}", f"The bridge is open in the spring {n}") for n in range(30)])
    assert not list(other_languages(rows, languages_of(rows)))
