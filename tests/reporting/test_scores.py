"""The threshold as the record has it, and the scores behind it."""

import re

import pytest

from e5ft.reporting.html import Figure, Table
from e5ft.reporting.record import read_run
from e5ft.reporting.run_words import RUN
from e5ft.reporting.scores import scores_and_threshold
from tests.reporting.records import asked, write_run

PART = {"queries": 300, "answered": 213, "precision": 0.95, "precision_interval": [0.91, 0.972], "recall": 0.6745}
THRESHOLD = {"value": 0.8421, "rule": "the lowest <of> all", "dev": PART, "test": {**PART, "answered": 210, "precision": 0.94}}
RANKS = [(3, 1), (None, 2), (1, 1), (2, None)] * 10


def section_of(tmp_path, language="ko", **more):
    return scores_and_threshold(read_run(write_run(tmp_path / "r", asked(RANKS), **more)), RUN[language])


def test_the_threshold_is_one_sentence_with_what_it_gives_on_dev_and_test(tmp_path):
    sentence, table = section_of(tmp_path, threshold=THRESHOLD).blocks[:2]
    assert sentence.text == (
        "첫 번째 문서의 점수가 .8421 이상일 때만 답하십시오. dev에서는 질의의 71.0 %에 답하고 그중 95.0 %가 정답입니다. "
        "테스트에서는 질의의 70.0 %에 답하고 그중 94.0 %가 정답입니다."
    )
    assert isinstance(table, Table) and [row[0] for row in table.rows] == ["dev", "test"] and table.rows[0][4].text == "67.5 %"
    assert table.rows[0][2].text == "213 (71.0 %)" and table.rows[0][3].text == "95.0 % [91.0 %, 97.2 %]"


@pytest.mark.parametrize(
    ("threshold", "said"),
    [(None, "임계값이 없습니다"), (..., "임계값이 없습니다"), ({**THRESHOLD, "test": None}, "확인하지 않았습니다")],
)
def test_no_threshold_and_no_check_are_said(threshold, said, tmp_path):
    assert said in section_of(tmp_path, threshold=threshold).blocks[0].text


def test_before_and_after_are_drawn_over_the_same_scores(tmp_path):
    figures = [block for block in section_of(tmp_path, threshold=THRESHOLD).blocks if isinstance(block, Figure)]
    assert [re.split("[:.]", figure.caption)[0] for figure in figures] == [
        "찾은 문서의 점수, 학습 전",
        "찾은 문서의 점수, 학습 후",
        "임계값에 따른 정밀도와 재현율(test-set)",
    ]
    edges = [re.findall(r">(0\.\d+)</text>", figure.svg) for figure in figures[:2]]
    assert edges[0][:3] == edges[1][:3] and "임계값 .8421" not in figures[0].svg and "임계값 .8421" in figures[1].svg


def test_precision_at_the_lowest_threshold_is_the_share_of_first_passages_that_answer(tmp_path):
    figure = [block for block in section_of(tmp_path, "en").blocks if isinstance(block, Figure)][-1]
    assert "precision goes from 50.0 %" in figure.description


def test_a_record_without_scores_says_so(tmp_path):
    section = section_of(tmp_path, texts=False)
    assert not [block for block in section.blocks if isinstance(block, Figure)] and "이전 버전" in section.blocks[-1].text
