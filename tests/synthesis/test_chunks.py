"""Chunks are as long as asked, lose no word, and know what stands above them."""

import pytest

from e5ft.synthesis.chunks import cut, packed
from e5ft.synthesis.documents import Document, Section


@pytest.mark.parametrize(
    "paragraphs",
    [
        ["가나다 라마바."] * 30,
        ["열 글자짜리 문장이다. " * 40],
        ["한 " * 500],
        ["짧다", "긴 문단이 하나 있고 그 뒤에 " * 9 + "끝난다."],
        ["a" * 300, "b"],
        [],
    ],
)
@pytest.mark.parametrize("most", [60, 100, 250])
def test_no_word_is_lost_and_none_is_longer_than_asked(paragraphs, most):
    texts = packed(paragraphs, 20, most)
    assert " ".join(texts).split() == " ".join(paragraphs).split()
    assert all(len(text) <= most or " " not in text for text in texts)
    if max(map(len, " ".join(paragraphs).split()), default=0) < 20 and len(texts) > 1:
        assert min(map(len, texts)) >= 15  # the last is not left alone with a few words


def test_chunks_know_their_place():
    document = Document(
        "a.md",
        "휴가",
        [
            Section((), ["앞말 앞말 앞말."]),
            Section(("휴가", "신청"), ["짧다", "포털에서 신청한다. " * 7]),
            Section(("휴가", "물음"), ["Q: 되나요?\nA: 됩니다.", "덧붙인 말이다."]),
            Section(("휴가", "Q. 해외는?"), ["A. 해외도 됩니다."]),
        ],
    )
    made = cut([document, Document("b.txt", None, [Section((), ["a"])])], 8, 60)
    shown = [(c.text[:10], c.headings[-1:], c.question, c.is_first, c.section) for c in made.chunks]
    assert shown == [
        ("앞말 앞말 앞말.", (), None, (True, True), 0),
        ("짧다 포털에서 신청", ("신청",), None, (False, True), 1),
        ("포털에서 신청한다.", ("신청",), None, (False, False), 1),
        ("덧붙인 말이다.", ("물음",), None, (False, True), 2),
        ("됩니다.", ("물음",), "되나요?", (False, False), 2),
        ("해외도 됩니다.", ("Q. 해외는?",), "해외는?", (False, True), 3),
    ]
    assert made.names == ["a.md", "b.txt"] and made.short == ["a"]
