"""The sentences of a page that compares runs say the same in both languages."""

from e5ft.reporting.compare_words import COMPARE
from e5ft.reporting.paired import difference_of_sets
from e5ft.retrieval.verdict import BETTER, SAME, UNDECIDED, WORSE
from tests.reporting.test_sweep_words import check


def test_every_sentence_has_the_same_gaps_in_both_languages():
    check(COMPARE)


def test_there_is_one_for_every_verdict_and_every_obstacle():
    for words in COMPARE.values():
        assert {BETTER, SAME, UNDECIDED, WORSE} <= words.keys()
        assert all(
            f'"{kind}"' in difference_of_sets.__doc__ and kind in words for kind in ("set", "passages", "queries", "answers")
        )
