"""The sentence that comes first, and the tables."""

import pytest

from e5ft.files import read_json
from e5ft.reporting.html import Table
from e5ft.reporting.outcome import first_sentence, following, outcome
from e5ft.reporting.record import read_run
from e5ft.reporting.run_words import RUN
from e5ft.retrieval.verdict import metric_of
from tests.reporting.records import asked, write_run

BETTER = asked([(5, 1)] * 30 + [(2, 2)] * 10)
WORSE = asked([(1, 5)] * 30 + [(2, 2)] * 10)
SAME = asked([(1, 2), (2, 1)] * 20)


def said(tmp_path, queries, language="ko", **more):
    run = read_run(write_run(tmp_path / "r", queries, **more))
    return first_sentence(run, RUN[language]), run


@pytest.mark.parametrize(
    ("queries", "korean", "english", "tone"),
    [
        (
            BETTER,
            "학습으로 검색이 좋아졌습니다: test-set 질의 40개의 ndcg@10, 학습 전 .448, 학습 후 .908(차이 +",
            "Training made retrieval better: ndcg@10 .448 before training and .908 after (+",
            "good",
        ),
        (WORSE, "학습으로 검색이 나빠졌습니다:", "Training made retrieval worse:", "bad"),
        (SAME, "학습 전과 차이가 확인되지 않았습니다:", "No difference to the model", ""),
        (BETTER[:8], "좋아졌는지 아직 판단할 수 없습니다(테스트 질의 8개, 30개 미만):", "cannot be decided yet (8 test", ""),
    ],
)
def test_the_verdict_is_one_sentence_in_the_pages_language(queries, korean, english, tone, tmp_path):
    (sentence, its_tone), run = said(tmp_path, queries)
    assert sentence.startswith(korean) and its_tone == tone
    assert english in first_sentence(run, RUN["en"])[0]


def test_the_figures_of_the_sentence_are_the_records(tmp_path):
    (sentence, _), run = said(tmp_path, BETTER)
    before, after = (run.summary["scores"][when]["metrics"]["ndcg@10"] for when in ("before", "after"))
    assert (
        f"{before:.3f}".lstrip("0") in sentence
        and f"{after:.3f}".lstrip("0") in sentence
        and f"+{after - before:.3f}" in sentence
    )


def test_an_older_record_without_a_verdict_has_the_same_sentence(tmp_path):
    (new, _), _ = said(tmp_path / "new", BETTER)
    (old, _), _ = said(tmp_path / "old", BETTER, verdict=...)
    assert old == new


def test_the_base_unchanged_and_a_cost_elsewhere_are_said(tmp_path):
    verdict = {"word": "NO DIFFERENCE", "base_kept": True, "costs_elsewhere": False, "keep": {}}
    for step, why in ((0, "학습 전보다 나은 가중치가 없어"), (20, "유지 세트의 점수를 떨어뜨려")):
        best = {"score": 0.4, "step": step, "alpha": 0.0 if step else 1.0}
        sentence = said(tmp_path / str(step), SAME, verdict=verdict, best=best)[0][0]
        assert why in sentence and "학습 전 그대로입니다" in sentence
    verdict = {
        "word": "BETTER",
        "base_kept": False,
        "costs_elsewhere": True,
        "keep": {"xquad": {"lost": True}, "wiki": {"lost": False}},  # by Holm, whatever each interval alone would say
    }
    (sentence, tone), _ = said(tmp_path / "b", BETTER, verdict=verdict)
    assert sentence.endswith("다만 xquad 세트에서는 나빠졌습니다.") and tone == "bad"


def test_tables_hold_every_system_and_the_keep_sets(tmp_path):
    _, run = said(tmp_path / "r", BETTER)
    summary = dict(run.summary)
    entry = {"set": "keep <b>", "scores": summary["scores"], "differences": summary["differences"]}
    run = read_run(write_run(tmp_path / "k", BETTER, keep=[entry]))
    section = outcome(run, RUN["en"])
    systems, keep = (block for block in section.blocks if isinstance(block, Table))
    assert [getattr(row[0], "text", row[0]) for row in systems.rows] == [
        "before training", "BM25", "after training", "difference: after training − before training",
    ]  # fmt: skip
    assert [row[0] for row in keep.rows] == ["test-set", "keep <b>"] and keep.rows[1][-1].text == "better"
    assert section.blocks[0].text.startswith(
        "Of 100 queries, the first result is right for 75 (after training), 0 (before training)"
    )


def test_the_first_result_is_spoken_of_where_it_was_measured(tmp_path):
    summary = write_run(tmp_path, BETTER) / "summary.json"
    summary.write_text(summary.read_text().replace('@1"', '@5"'))
    text = outcome(read_run(tmp_path), RUN["en"]).blocks[0].text
    assert "first result" not in text and text.startswith("Of 100 queries, the right answer is among the first 10 for ")


def test_a_keep_set_got_worse_where_the_verdict_says_so_alone(tmp_path):
    """Its own interval at 95 % is below 0; of two sets together, at 97.5 %, it is not: no part of the page says worse."""
    summary = dict(said(tmp_path / "r", BETTER)[1].summary)
    alone = {name: {**found, "mean": -0.01, "low": -0.019, "high": -0.001} for name, found in summary["differences"].items()}
    entry = {"set": "law", "queries": 40, "scores": summary["scores"], "differences": alone}
    result = {"queries": 40, "mean": -0.01, "low": -0.021, "high": 0.001, "level": 0.975, "p": 0.04, "lost": False}
    verdict = {**summary["verdict"], "keep": {"law": result}}
    run = read_run(write_run(tmp_path / "k", BETTER, keep=[entry], verdict=verdict))
    keep = [block for block in outcome(run, RUN["ko"]).blocks if isinstance(block, Table)][1]
    assert keep.rows[1][-1].text == "변화 확인 안 됨" and keep.rows[1][-2].text == "-0.010 [-0.021, +0.001] (97.5 %)"
    assert first_sentence(run, RUN["ko"])[1] == "good" and "나빠" not in first_sentence(run, RUN["ko"])[0]


def test_what_to_do_next_follows_from_what_was_found(tmp_path):
    def lines(queries, **more):
        run = read_run(write_run(tmp_path / str(len(list(tmp_path.iterdir()))), queries, **more))
        return " ".join(block.text for block in following(run, RUN["ko"]).blocks)

    over_bm25 = asked([(5, 1, 9)] * 40)
    assert "model/ 폴더를 쓰십시오" in lines(over_bm25) and "BM25" not in lines(over_bm25)
    assert "라벨 오류" in lines(SAME) and "최소 30개" in lines(BETTER[:5])
    assert "BM25(1.000)가" in lines(BETTER) and "model/ 폴더" not in lines(BETTER)
    assert "model=e5_small" in lines(BETTER, random_weights=True)


def test_the_hybrid_is_recommended_where_its_interval_is_above_the_model_s(tmp_path):
    scores = read_json(write_run(tmp_path / "first", asked([(5, 2, 9)] * 40)) / "summary.json")["scores"]
    metrics = {name: value + 0.01 for name, value in scores["after"]["metrics"].items()}
    scores["hybrid"] = {**scores["after"], "metrics": metrics}
    for low, told in ((0.002, True), (-0.002, False)):
        hybrid = {"differences": {"ndcg@10": {"mean": 0.01, "low": low, "high": 0.03}}}
        run = read_run(write_run(tmp_path / str(low), asked([(5, 2, 9)] * 40), scores=scores, hybrid=hybrid))
        assert any("하이브리드를 쓰십시오" in block.text for block in following(run, RUN["ko"]).blocks) == told


def test_what_few_queries_cannot_show_is_rounded_up_as_on_the_terminal(tmp_path):
    differences = read_json(write_run(tmp_path / "first", SAME) / "summary.json")["differences"]
    differences["ndcg@10"] |= {"low": -0.034, "high": 0.034}
    run = read_run(write_run(tmp_path / "r", SAME, differences=differences))
    assert any("질의가 40개뿐이라 .04보다 작은" in getattr(block, "text", "") for block in outcome(run, RUN["ko"]).blocks)


def test_a_leak_is_said_of_the_reported_set_alone(tmp_path):
    shared = {
        "role": "test",
        "queries": 40,
        "shared_queries": 38,
        "near_queries": 0,
        "judged": 40,
        "shared_judged": 40,
        "near_judged": 0,
    }
    for name, told in (("test-set", True), ("dev", False)):
        (sentence, tone), run = said(tmp_path / name, asked([(5, 1, 9)] * 40), overlap=[{"set": name, **shared}])
        section = outcome(run, RUN["ko"])
        texts = [getattr(block, "text", "") for block in section.blocks]
        assert any("40개 중 38개가 학습 데이터에 있습니다" in text for text in texts) == told
        assert ("섞여 있어(test-set 38/40) 새 질의에서도 이렇다고 볼 수 없습니다." in sentence) == told
        # A gain that was learnt by heart is green nowhere, and no reason to take the model.
        tones = {
            cell.tone
            for table in section.blocks
            if isinstance(table, Table)
            for row in table.rows
            for cell in row[1:]
            if cell != "–"
        }
        assert ("good" in {tone, *tones}) == (not told)
        advice = " ".join(block.text for block in following(run, RUN["ko"]).blocks)
        assert ("write=clean.jsonl" in advice) == told and ("model/ 폴더를 쓰십시오" in advice) == (not told)


def test_the_metric_is_ndcg(tmp_path):
    assert metric_of(said(tmp_path, SAME)[1].summary) == "ndcg@10"
