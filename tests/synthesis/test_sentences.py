"""Where sentences end, and which lines are questions and answers."""

import pytest

from e5ft.synthesis.sentences import answer_of, find_pairs, sentences, unlabelled


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("휴가는 15일이다. 더 쓰려면 신청한다.", ["휴가는 15일이다.", "더 쓰려면 신청한다."]),
        ("그는 “간다.” 하고 갔다. 끝이다.", ["그는 “간다.”", "하고 갔다.", "끝이다."]),
        ("It costs 3.5 won, e.g. in 2. Halle. Does it? Yes!", ["It costs 3.5 won, e.g. in 2. Halle.", "Does it?", "Yes!"]),
        ("これは本です。あれは車です。", ["これは本です。", "あれは車です。"]),
        ("  ", []),
    ],
)
def test_sentences(text, parts):
    assert sentences(text) == parts


@pytest.mark.parametrize(
    ("paragraphs", "pairs", "rest"),
    [
        (["Q: 언제 여나요?\nA: 아홉 시에 엽니다."], [("언제 여나요?", "아홉 시에 엽니다.")], []),
        (
            [
                "질문 1. 어디인가요?",
                "답변 1. 지하입니다.",
                "2층에도 있습니다.",
                "질문 2. 왜요?",
                "답변 2.",
                "좁아서요.",
                "다른 이야기다.",
            ],
            [("어디인가요?", "지하입니다.\n2층에도 있습니다."), ("왜요?", "좁아서요.")],
            ["다른 이야기다."],
        ),
        (["[Q] a b?\nc\n[A] d", "[질문] e?\n[답변] f"], [("a b? c", "d"), ("e?", "f")], []),
        (["문: 몇 개인가요?\n답: 셋입니다.\n문: 왜요?"], [("몇 개인가요?", "셋입니다.")], ["왜요?"]),
        (["Question: one?\nAnswer: two"], [("one?", "two")], []),
        (
            ["A. Smith wrote this.\n문서는 세 장이다.", "Quality: high"],
            [],
            ["A. Smith wrote this.\n문서는 세 장이다.", "Quality: high"],
        ),
        (["앞말이다.\nQ. 무엇?\nA. 그것."], [("무엇?", "그것.")], ["앞말이다."]),
    ],
)
def test_pairs_are_found_by_their_labels(paragraphs, pairs, rest):
    assert find_pairs(paragraphs) == (pairs, rest)


def test_a_heading_may_be_labelled():
    assert unlabelled("Q3. 해외에서도 되나요?") == "해외에서도 되나요?"
    assert unlabelled("자주 묻는 질문") is None and unlabelled("Q:") is None
    assert (answer_of("A: 됩니다."), answer_of("됩니다.")) == ("됩니다.", "됩니다.")
