"""The page that compares runs: the verdict first, the sets side by side, and which queries were won and lost."""

import json

from e5ft.reporting.compare_page import compare_page, compare_runs
from e5ft.reporting.comparing import comparison
from e5ft.reporting.record import read_run
from tests.reporting.made_runs import make_run
from tests.reporting.test_sweep_page import MARKUP, texts


def two(tmp_path, **second):
    make_run(tmp_path / "a", skill=0.4, settings={"loss": {"temperature": 0.02}})
    make_run(tmp_path / "b", **{"skill": 0.6, "seed": 3, "settings": {"loss": {"temperature": 0.05}}, **second})
    return [tmp_path / "a", tmp_path / "b"]


def test_the_verdict_is_one_sentence_and_the_differing_setting_is_shown(tmp_path):
    found = comparison(two(tmp_path))
    pair = found.last.pair
    page = texts(compare_page(found, "ko"))
    assert f"faq-test에서 b의 결과가 a보다 낫습니다: ndcg@10 {pair.mean:+.3f} [{pair.low:+.3f}, {pair.high:+.3f}], p = " in page
    assert "loss.temperature 0.02 0.05" in page and "BM25 (bigrams)" in page and "python -m e5ft report" in page


def test_what_a_better_run_lost_beside_its_target_is_said(tmp_path):
    for name, skill, change in (("a", 0.4, 0.01), ("b", 0.6, -0.02)):  # b's keep set scores as the model before training
        make_run(tmp_path / name, skill=skill, seed=3, keep=[("wiki-test", change)])
    page = compare_page(comparison([tmp_path / "a", tmp_path / "b"]), "en")
    assert (
        "b is better than a" in texts(page) and "But it got worse on wiki-test." in texts(page) and 'class="verdict bad"' in page
    )


def test_queries_won_and_lost_are_those_whose_value_rose_and_fell(tmp_path):
    folders = two(tmp_path)
    a, b = (read_run(folder).queries("faq-test", "final") for folder in folders)
    change = {key: b[key].metrics["ndcg@10"] - a[key].metrics["ndcg@10"] for key in a}
    won, lost = sum(value > 0 for value in change.values()), sum(value < 0 for value in change.values())
    page = compare_page(comparison(folders), "en")
    assert f"Of 60 queries of faq-test, b is better on {won}, worse on {lost}, and the same on {60 - won - lost}." in texts(page)
    for key, value in change.items():
        assert (a[key].text in page) == (value != 0)


def test_a_page_of_many_long_texts_stays_below_two_megabytes(tmp_path):
    folders = two(tmp_path)
    for folder, rank in zip(folders, (2, 1), strict=True):
        file = folder / "eval/faq-test/final/per_query.jsonl"
        line = json.loads(file.read_text().splitlines()[0])
        line |= {
            "text": "질의 " * 300,
            "ndcg@10": 1 / rank,
            "answers": [{**line["answers"][0], "rank": rank, "text": "답 " * 900}],
        }
        line["top"] = [{**line["top"][0], "text": "글 " * 900}]
        lines = (json.dumps({**line, "query": f"q{number}"}, ensure_ascii=False) for number in range(900))
        file.write_text("\n".join(lines) + "\n")
    page = compare_page(comparison(folders), "ko")
    assert len(page.encode()) < 2_000_000 and page.count("질의 질의") > 100 and "나머지는 각 실행의 eval/faq-test/final" in page


def test_texts_of_rows_are_text_and_older_records_without_any_show_ids(tmp_path):
    folders = two(tmp_path)
    for folder in folders:
        file = folder / "eval/faq-test/final/per_query.jsonl"
        file.write_text(file.read_text().replace("어떻게 하나요?", MARKUP))
    page = compare_page(comparison(folders), "ko")
    assert MARKUP not in page and "&lt;script&gt;" in page
    for folder in folders:
        file = folder / "eval/faq-test/final/per_query.jsonl"
        keys = ("query", "hit@1", "recall@10", "ndcg@10", "mrr@10")
        lines = [{key: value for key, value in json.loads(line).items() if key in keys} for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = texts(compare_page(comparison(folders), "en"))
    assert "of an older version" in page and "q0" in page


def test_what_cannot_be_paired_says_why_and_several_runs_have_one_sentence(tmp_path):
    folders = two(tmp_path, test="other")
    page = texts(compare_page(comparison(folders), "en"))
    assert "cannot be said whether a or b is better. not paired: one of them was not measured on this set." in page
    folders = two(tmp_path / "x")
    make_run(tmp_path / "x/c", skill=0.4, seed=9)
    make_run(tmp_path / "x/d", test="other")
    page = texts(compare_page(comparison([*folders, tmp_path / "x/c", tmp_path / "x/d"]), "en"))
    assert "better than a: b. Worse: none. No difference shown: c. Not compared query by query: d." in page


def test_it_is_written_beside_the_first_run_with_the_word_of_its_verdict(tmp_path):
    folders = two(tmp_path)
    assert compare_runs(folders) == (tmp_path / "compare-a-b.html", "BETTER")
    assert 'lang="ko"' in (tmp_path / "compare-a-b.html").read_text()
    assert compare_runs(folders[::-1], "en", tmp_path / "x.html") == (tmp_path / "x.html", "WORSE")


def test_the_page_of_runs_of_long_names_has_a_name_that_a_disk_takes(tmp_path):
    """100 Korean characters are 300 bytes; two comparisons that differ in their last run alone are two pages."""
    folders = [tmp_path / ("긴이름" * 20 + end) for end in "abcd"]
    for folder in folders:
        make_run(folder)
    first, second = (compare_runs([*folders[:2], last])[0] for last in folders[2:])
    assert first != second and first.is_file() and len(second.name.encode()) < 255


def test_a_gain_over_another_run_on_queries_that_were_trained_on_decides_nothing(tmp_path):
    counts = dict.fromkeys(("queries", "shared_queries", "judged", "shared_judged"), 60) | {"near_queries": 0, "near_judged": 0}
    folders = two(tmp_path, overlap=[{"set": "faq-test", "role": "test", **counts}])
    assert compare_runs(folders)[1] == compare_runs(folders[::-1])[1] == "UNDECIDED"
    assert "테스트 질의를 학습에서 이미 보았습니다." in texts(compare_page(comparison(folders), "ko"))


def test_losses_elsewhere_are_told_of_several_runs_and_of_sets_that_cannot_be_paired(tmp_path):
    for name, skill, change in (("a", 0.4, 0.01), ("b", 0.6, -0.02), ("c", 0.6, 0.01)):
        make_run(tmp_path / name, skill=skill, seed=3, keep=[("wiki-test", change)])
    make_run(tmp_path / "d", skill=0.6, seed=3, keep=[("wiki-test", -0.02)], test="other")
    page = texts(compare_page(comparison([tmp_path / name for name in "abc"]), "en"))
    assert "But b got worse on wiki-test." in page and "But c got worse" not in page
    page = compare_page(comparison([tmp_path / "a", tmp_path / "d"]), "en")
    assert "But it got worse on wiki-test." in texts(page) and 'class="verdict bad"' in page
