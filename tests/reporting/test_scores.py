"""The threshold as the record has it, and the scores behind it."""

import re

import numpy as np
import pytest

from e5ft.reporting.html import Figure, Table
from e5ft.reporting.record import read_run
from e5ft.reporting.run_words import RUN
from e5ft.reporting.scores import scores_and_threshold
from e5ft.retrieval.threshold import calibrated
from tests.reporting.records import asked, write_run

SCORES, RIGHT = np.linspace(0.9, 0.7, 300), np.arange(300) < 213
THRESHOLD = calibrated((SCORES, RIGHT), (SCORES - 0.001, RIGHT))  # as a run's summary has it
RANKS = [(3, 1), (None, 2), (1, 1), (2, None)] * 10


def section_of(tmp_path, language="ko", **more):
    return scores_and_threshold(read_run(write_run(tmp_path / "r", asked(RANKS), **more)), RUN[language])


def test_the_threshold_is_one_sentence_with_what_it_gives_on_dev_and_test(tmp_path):
    sentence, table, note, rule = section_of(tmp_path, threshold=THRESHOLD).blocks[:4]
    assert "하이브리드의 점수가 아님" in note.text and note.tone == "note"
    assert sentence.text == (
        "첫 번째 문서의 점수가 .7434 이상일 때만 답하십시오. dev에서는 질의의 78.3 %에 답하고 그중 90.6 %가 정답입니다. "
        "테스트에서는 질의의 77.7 %에 답하고 그중 91.4 %가 정답입니다."
    )
    assert isinstance(table, Table) and [row[0] for row in table.rows] == ["dev", "test"] and table.rows[0][4].text == "71.0 %"
    assert table.rows[0][2].text == "235 (78.3 %)" and table.rows[0][3].text == "90.6 % [86.2 %, 93.7 %]"
    assert "90 % 이상이 정답인 가장 낮은 점수" in rule.blocks[0].text


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"threshold": None, "chosen_on_test": True}, "별도의 dev 세트가 없습니다"),
        ({"threshold": None}, "70 %에 이르지 않거나"),  # an older record does not say which
        (
            {"threshold": None, "no_threshold": {"why": "few", "queries": 34}},
            "dev 질의 34개 가운데 그 점수에 이르는 질의가 너무 적습니다",
        ),
        ({"threshold": None, "no_threshold": {"why": "never", "queries": 34}}, "dev 질의 34개에서는 점수를 아무리 높여도"),
        ({"threshold": ...}, "이전 버전"),
        ({"threshold": {**THRESHOLD, "test": None}}, "확인하지 않았습니다"),
        ({"threshold": calibrated((SCORES, RIGHT), (SCORES - 0.5, RIGHT))}, "하나도 답하지 못합니다"),
    ],
)
def test_why_there_is_no_threshold_and_what_its_check_says(more, said, tmp_path):
    assert said in section_of(tmp_path, **more).blocks[0].text


def test_a_threshold_of_few_queries_says_so_in_its_sentence(tmp_path):
    few = calibrated((SCORES[:34], RIGHT[:34]), (SCORES, RIGHT))
    for language, told in (
        ("ko", "dev 질의 34개 중 이 점수 이상인 것은 34개뿐이고"),
        ("en", "Only 34 of 34 dev queries reach it, and these chose it"),
    ):
        assert told in section_of(tmp_path / language, language, threshold=few).blocks[0].text
        assert told[:10] not in section_of(tmp_path / f"{language}2", language, threshold=THRESHOLD).blocks[0].text


def test_before_and_after_are_drawn_over_the_same_scores(tmp_path):
    figures = [block for block in section_of(tmp_path, threshold=THRESHOLD).blocks if isinstance(block, Figure)]
    assert [re.split("[:.]", figure.caption)[0] for figure in figures] == [
        "찾은 문서의 점수, 학습 전",
        "찾은 문서의 점수, 학습 후",
        "임계값에 따른 정밀도와 재현율(test-set)",
    ]
    edges = [re.findall(r">(0\.\d+)</text>", figure.svg) for figure in figures[:2]]
    assert edges[0][:3] == edges[1][:3] and "임계값 .7434" not in figures[0].svg and "임계값 .7434" in figures[1].svg


def test_precision_at_the_lowest_threshold_is_the_share_of_first_passages_that_answer(tmp_path):
    figure = [block for block in section_of(tmp_path, "en").blocks if isinstance(block, Figure)][-1]
    assert "precision goes from 50.0 %" in figure.description


def test_a_record_without_scores_says_so(tmp_path):
    section = section_of(tmp_path, texts=False)
    assert not [block for block in section.blocks if isinstance(block, Figure)] and "이전 버전" in section.blocks[-1].text


def test_where_every_passage_found_answers_there_is_nothing_to_compare(tmp_path):
    folder = write_run(tmp_path / "r", asked(RANKS))
    for file in folder.glob("eval/*/*/run.trec"):
        file.write_text("".join(line for line in file.read_text().splitlines(keepends=True) if " p-" in line))
    assert scores_and_threshold(read_run(folder), RUN["ko"]).blocks[-1].text == RUN["ko"]["no_others"]
