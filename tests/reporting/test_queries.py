"""Won and lost queries, and what those not found have in common."""

import json
import shutil

import pytest

from e5ft.reporting.html import Details, Table, render
from e5ft.reporting.queries import BYTES, LENGTH, MOST, changed, changes_of, worse, worst
from e5ft.reporting.record import read_run
from e5ft.reporting.run_words import RUN
from tests.reporting.records import Asked, asked, write_run

KO = RUN["ko"]


def run_of(tmp_path, queries, **more):
    return read_run(write_run(tmp_path / "r", queries, **more))


def tables(blocks):
    for block in blocks:
        if isinstance(block, Table):
            yield block
        elif isinstance(block, Details):
            yield from tables(block.blocks)


def texts(section):
    return " ".join(getattr(block, "text", "") for block in section.blocks)


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        (4, 1, "now_first"),
        (None, 1, "now_first"),
        (50, 9, "now_within"),
        (None, 10, "now_within"),
        (9, 3, "up"),
        (1, 2, "first_lost"),
        (1, None, "first_lost"),
        (10, 11, "within_lost"),
        (3, None, "within_lost"),
        (2, 8, "down"),
        (12, 70, None),
        (1, 1, None),
    ],
)
def test_what_became_of_a_query(before, after, kind, tmp_path):
    won, lost, same = changes_of(run_of(tmp_path, asked([(before, after)])), 10)
    assert [change.kind for change in won + lost] == [kind] * (kind is not None) and same == (kind is None)


@pytest.mark.parametrize(("before", "kind"), [(0.9, "other_up"), (1.0, None), (1.1, "other_down")])
def test_where_the_first_answer_stays_it_is_another_one_that_moved(before, kind, tmp_path):
    run = run_of(tmp_path, asked([(1, 1)]))
    file = run.folder / "eval/test-set/base/per_query.jsonl"
    file.write_text(json.dumps({**json.loads(file.read_text()), "ndcg@10": before}))
    won, lost, _ = changes_of(run, 10)
    assert [change.kind for change in won + lost] == [kind] * (kind is not None)


def test_the_largest_changes_come_first_and_rows_show_the_wrong_passage_and_the_one_wanted(tmp_path):
    section = changed(run_of(tmp_path, asked([(2, 1), (None, 1), (1, None), (1, 1)])), KO)
    (table,) = tables(section.blocks)
    assert [row[0].text for row in table.rows] == ["질의 1번", "질의 0번", "질의 2번"]
    assert [row[0].hint for row in table.rows] == ["q1", "q0", "q2"]
    assert [cell.text for cell in table.rows[0][2:5]] == ["없음", "1위", "1위"]
    assert [table.rows[place][5].text for place in range(3)] == [
        "before 1 정답 문서 1번 오답",
        "before 1 정답 문서 0번 오답",
        "after 1 정답 문서 2번 오답",
    ]
    assert [row[6].text for row in table.rows] == ["정답 문서 1번", "정답 문서 0번", "정답 문서 2번"]
    assert "2개 질의가 좋아졌고 1개가 나빠졌고 1개는 그대로" in section.blocks[0].text and "나머지는" not in texts(section)
    assert table.search and table.sortable and table.filters == [KO["kind"]]


def test_more_than_the_page_shows_are_said_to_lie_in_the_file(tmp_path):
    ranks = [(5, 1)] * (MOST + 7) + [(1, 5)] * 4
    section = changed(run_of(tmp_path, asked(ranks)), KO)
    (table,) = tables(section.blocks)
    assert len(table.rows) == MOST + 4
    assert f"좋아진 질의 {MOST}개와 나빠진 질의 4개를 싣습니다" in texts(section)
    assert "eval/test-set/final/per_query.jsonl에 있습니다" in texts(section)


def test_the_longest_texts_of_six_hundred_queries_stay_below_two_megabytes(tmp_path):
    long = "<가&'" * 300
    run = run_of(tmp_path, asked([(5, 1)] * 320 + [(1, None)] * 320, "{} " + long, "{} " + long))
    sections = [changed(run, KO), worst(run, KO)]
    page = render("t", "ko", "v", sections)
    assert BYTES / 2 < len(page.encode()) < 1_800_000
    (table,) = tables(sections[0].blocks)
    won = sum(row[1].tone == "good" for row in table.rows)
    assert abs(2 * won - len(table.rows)) <= 1 and f"좋아진 질의 {won}개" in texts(sections[0])
    assert max(len(cell.text) for row in table.rows for cell in row) == LENGTH + 1


def test_a_record_without_texts_shows_ids_and_ranks_and_says_so(tmp_path):
    run = run_of(tmp_path, asked([(2, 1), (1, None)] + [(1, 1)] * 20 + [(None, None)] * 20), texts=False)
    section = changed(run, KO)
    (table,) = tables(section.blocks)
    assert "본문이 없어" in texts(section) and len(table.columns) == 5 and table.rows[1][0].text == "q1"
    assert "정답이 상위 10개 안에 없는 질의는 42개 중 21개" in worst(run, KO).blocks[0].text


def test_a_planted_trait_of_what_is_not_found_is_named_and_others_are_not(tmp_path):
    found = [Asked(f"a-{n}", f"공원 자전거 대여 {n % 7}", f"공원 자전거 대여 안내 {n % 7}", 1, 1) for n in range(60)]
    missed = [
        Asked(f"b-{n}", f"공원 자전거 대여 {n % 7} " + "아주 길게 늘인 물음 " * 5, f"공원 자전거 대여 안내 {n % 7}", 1, None)
        for n in range(20)
    ]
    section = worst(run_of(tmp_path, found + missed), KO)
    said = texts(section)
    assert f"{KO['query_length']}: 찾지 못한 질의" in said and "더 큽니다" in said and KO["answer_length"] + ":" not in said
    traits, sources, listed = tables(section.blocks)
    assert [row[-1].text for row in traits.rows][:2] == [KO["yes"], KO["no"]]
    assert [(row[0], row[1], row[2].text) for row in sources.rows] == [("b", 20, "100.0 %"), ("a", 60, "0.0 %")]
    assert len(listed.rows) == 20 and listed.rows[0][3].text.startswith("공원 자전거")


def test_equal_groups_have_nothing_in_common(tmp_path):
    ranks = [(1, 1), (1, None)] * 30
    assert KO["trait_none"] in texts(worst(run_of(tmp_path, asked(ranks, "같은 말 {0:02d}", "같은 답 {0:02d}")), KO))


def court(rank_after, count, words, prefix="q", start=0, before=1):
    """Queries whose answers are alike; `words` more at their end."""
    return [
        Asked(f"{prefix}-{n}", f"공원 자전거 대여 {n % 7}{words}", f"공원 자전거 대여 안내 {n % 7}", before, rank_after)
        for n in range(start, start + count)
    ]


def test_what_got_worse_is_longer_and_of_one_source_and_nothing_else_is_claimed(tmp_path):
    queries = court(1, 60, "", "faq") + court(4, 20, " 아주 길게 늘인 물음" * 4, "law", 60)
    section = worse(run_of(tmp_path, queries), KO)
    said = texts(section)
    assert "질의 80개 중 20개(25.0 %)가 나빠졌고 0개가 좋아졌습니다. 1위에서 밀린 질의는 20개" in said
    assert f"{KO['query_length']}: 나빠진 질의의 중앙값은 59, 전체 질의는 11. 나빠진 질의 쪽이 더 큽니다." in said
    assert "출처 'law'에 나빠진 질의가 많습니다: 이 출처에서는 100.0 %, 나머지에서는 0.0 %." in said
    assert KO["answer_length"] + ":" not in said and KO["rank_before"] + ":" not in said and "'faq'" not in said
    traits, sources, examples = tables(section.blocks)
    assert [row[-1].text for row in traits.rows][:2] == [KO["yes"], KO["no"]] and len(sources.rows) == 2
    assert len(examples.rows) == 5 and all(row[1].tone == "bad" for row in examples.rows)


def test_the_rank_before_is_shown_of_those_that_could_get_worse_and_is_never_a_trait(tmp_path):
    """Those beyond rank 10 score 0. By chance alone the best ranks fall: a sentence would claim what means nothing."""
    queries = court(1, 40, "") + court(30, 15, "", start=40, before=8) + court(12, 200, "", start=60, before=40)
    section = worse(run_of(tmp_path, queries), KO)
    (row,) = [row for row in next(tables(section.blocks)).rows if row[0] == KO["rank_before"]]
    assert [cell.text for cell in row[1:]] == ["8", "1", KO["no"]] and KO["rank_before"] + ":" not in texts(section)


def test_without_a_record_of_the_model_before_nothing_is_said_of_what_got_worse(tmp_path):
    run_of(tmp_path, asked([(1, 1)] * 20))
    shutil.rmtree(next(tmp_path.rglob("eval/*/base")))
    said = texts(worse(read_run(next(tmp_path.rglob("summary.json")).parent), KO))
    assert KO["unknown"] in said and "나빠진 질의는 없습니다" not in said


def test_where_nothing_sets_the_lost_ones_apart_no_trait_is_claimed(tmp_path):
    ranks = [(1, 1), (1, 4), (1, 1)] * 20
    assert KO["trait_none"] in texts(worse(run_of(tmp_path / "a", asked(ranks, "같은 말 {0:02d}", "같은 답 {0:02d}")), KO))
    assert KO["worst_few"] in texts(worse(run_of(tmp_path / "b", asked([(1, 1)] * 20 + [(1, None)] * 3)), KO))
    said = texts(worse(run_of(tmp_path / "c", asked([(1, 1)] * 20)), KO))
    assert "질의 20개 가운데 나빠진 질의는 없습니다" in said and "유지 세트가 없어" in said


def test_the_keep_sets_stand_under_the_same_heading(tmp_path):
    summary = run_of(tmp_path, asked([(1, 1)] * 40)).summary
    result = {"queries": 40, "mean": -0.03, "low": -0.05, "high": -0.01, "level": 0.95, "p": 0.01, "lost": True}
    entries = [
        {"set": name, "queries": 40, **{key: summary[key] for key in ("scores", "differences")}} for name in ("law", "wiki")
    ]
    kept = {"wiki": {**result, "low": -0.07, "high": 0.01, "lost": False}}
    for number, keep in enumerate(({"law": result, **kept}, {"law": {**result, "lost": False}, **kept})):
        verdict = {**summary["verdict"], "keep": keep}
        said = texts(worse(run_of(tmp_path / str(number), asked([(1, 1)] * 40), keep=entries, verdict=verdict), KO))
        told = "유지 세트 law에서 나빠졌습니다: ndcg@10 -0.030 [-0.050, -0.010]. 질의별 결과는 eval/law/final/per_query.jsonl에"
        assert (told in said) == (not number) and ("유지 세트(law, wiki)에서는 나빠진 것이 확인되지" in said) == bool(number)


def test_few_and_none_are_said(tmp_path):
    assert KO["worst_few"] in texts(worst(run_of(tmp_path / "a", asked([(1, 1)] * 20 + [(1, None)] * 3)), KO))
    assert "모든 질의의 정답이" in texts(worst(run_of(tmp_path / "b", asked([(1, 1)] * 20)), KO))
