"""What is drawn of the log."""

import json

from e5ft.reporting.curves import training
from e5ft.reporting.html import Figure
from e5ft.reporting.record import read_run
from e5ft.reporting.run_words import RUN
from tests.reporting.records import asked, write_run

RANKS = [(3, 1), (None, 7), (1, None), (100, 2)]


def figures_of(folder, language="ko"):
    return [block for block in training(read_run(folder), RUN[language]).blocks if isinstance(block, Figure)]


def test_every_logged_value_is_a_picture_and_dev_has_the_base_as_a_line(tmp_path):
    dev, *logged = figures_of(write_run(tmp_path / "r", asked(RANKS)))
    assert dev.description == "dev ndcg@10: 학습 전 0.2, 가장 높은 값은 스텝 40에서 0.4.".replace("0.2", ".200").replace(
        "0.4", ".400"
    )
    assert "학습 전 (ndcg@10) .200" in dev.svg and "고른 스텝 20" in dev.svg and "BM25" not in dev.svg
    assert [figure.description.partition(":")[0] for figure in logged] == [
        "손실",
        "학습률",
        "기울기 노름",
        "마스킹된 네거티브 비율",
    ]
    assert logged[0].description == "손실: 스텝 1에서 2.95, 스텝 40에서 1."


def test_bm25_is_a_line_where_it_ranks_the_same_set_and_a_sentence_where_not(tmp_path):
    whole = asked([(1, 1), *[(None, 2)] * 4])  # .2 before training, as the log has it at step 0
    assert "BM25 (ndcg@10) 1.000" in figures_of(write_run(tmp_path / "same", whole, chosen_on_test=True))[0].svg
    for name, more in (("other", {}), ("cut while training", {"chosen_on_test": True})):
        section = training(read_run(write_run(tmp_path / name, asked(RANKS), **more)), RUN["ko"])
        assert "BM25" not in section.blocks[0].svg
        assert "테스트 세트에서는 1.000" in " ".join(getattr(block, "text", "") for block in section.blocks)


def test_a_run_without_evaluation_and_one_without_a_log_have_a_page(tmp_path):
    assert len(figures_of(write_run(tmp_path / "r", asked(RANKS), dev=False))) == 4
    (tmp_path / "r/metrics.jsonl").write_text('{"step": 0, "eval_ndcg@10": null}\n')
    assert figures_of(tmp_path / "r") == []
    (tmp_path / "r/metrics.jsonl").unlink()
    assert training(read_run(tmp_path / "r"), RUN["en"]).blocks[0].text == "metrics.jsonl has no step."


def test_a_long_log_is_drawn_by_means_of_neighbours(tmp_path):
    folder = write_run(tmp_path / "r", asked(RANKS))
    with open(folder / "metrics.jsonl", "w") as file:
        file.writelines(json.dumps({"step": step, "loss": step % 2}) + "\n" for step in range(1, 20_001))
    (figure,) = figures_of(folder)
    assert len(figure.svg) < 30_000 and figure.description == "손실: 스텝 50에서 0.5, 스텝 20,000에서 0.5."
