"""From the loss group to a loss and what it needs: refusals, and training runs that carry guides, scores and cuts."""

import json

import pytest

from e5ft.app.commands.mine import mine
from e5ft.app.commands.train import build_run
from e5ft.errors import DataError
from e5ft.training.distillation import Distillation, Regularised
from e5ft.training.losses import InfoNCE, Triplet
from e5ft.training.matryoshka import Matryoshka
from tests.modeling.test_cross_encoder import save as save_cross_encoder

SHORT = ("training.max_steps=2", "training.eval_steps=1", "training.save_steps=1")


@pytest.mark.parametrize("loss", [InfoNCE, Triplet, Distillation])
def test_every_loss_is_made_with_every_recipe(composed, tmp_path, loss):
    """A recipe's temperature reaches the losses that have one and no other; the wrappers take any of them."""
    name = {InfoNCE: "infonce", Triplet: "triplet", Distillation: "distill"}[loss]
    for model, temperature in (("mini", 0.05), ("e5_small", 0.01), ("folder", 0.02)):
        given = ("model=folder", "model.path=.") if model == "folder" else (f"model={model}",)
        module = build_run(composed("train", *given, f"loss={name}"), tmp_path).setup.loss
        if model == "e5_small":  # held to the base by its recipe, at its temperature
            assert type(module) is Regularised and module.temperature == temperature
            module = module.loss
        assert type(module) is loss
        assert getattr(getattr(module, "infonce", module), "temperature", temperature) == temperature


def test_the_wrappers_take_any_loss(composed, tmp_path):
    keep = ("keep.weight=0.5", "keep.temperature=0.1")
    settings = composed("train", "model=folder", "model.path=.", "loss=triplet", "matryoshka.dimensions=[64,32]", *keep)
    module = build_run(settings, tmp_path).setup.loss
    assert type(module) is Regularised and type(module.loss) is Matryoshka and type(module.loss.loss) is Triplet


def scored_rows(path, count: int, missing: int | None = None) -> str:
    with open(path, "w", encoding="utf-8") as file:
        for i in range(count):
            row = {
                "query": f"질문 {i}",
                "document": f"대답 {i} 입니다",
                "hard_negative": [f"대답 {i + 1} 입니다", f"대답 {i + 2} 입니다"],
            }
            if i != missing:
                row["scores"] = [2.0, 0.5, -1.0]
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return str(path)


def test_distillation_from_the_rows_trains_and_logs_its_parts(trained, tmp_path):
    rows = scored_rows(tmp_path / "rows.jsonl", 60)
    _, folder = trained("loss=distill", f"data.train_file={rows}", *SHORT)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    first = next(line for line in lines if "kl" in line)
    assert first["kl"] > 0 and first["loss"] == pytest.approx(first["kl"] + 0.2 * first["infonce"], rel=1e-4)


def test_distillation_without_scores_says_which_row_and_what_to_do(trained, tmp_path):
    rows = scored_rows(tmp_path / "rows.jsonl", 60, missing=7)
    with pytest.raises(DataError, match=r"rows.jsonl:8: no scores.*1 of \d+ rows.*mine.py"):
        trained("loss=distill", f"data.train_file={rows}", "data.dev_file=" + scored_rows(tmp_path / "dev.jsonl", 20), *SHORT)


def test_a_guide_masks_and_the_share_is_logged(trained):
    """With a margin of -1.9 the guide takes every candidate for false, with 2 none: the mask follows it."""
    _, guide = trained(*SHORT)
    shares = {}
    for margin in (-1.9, 2):
        _, folder = trained(
            "loss.false_negatives=guide",
            f"step.guide={guide}/model",
            f"loss.margin={margin}",
            *SHORT,
            run_dir=f"outputs/{margin}",
        )
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        shares[margin] = [line["false_negative_share"] for line in lines if "loss" in line]
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["training"]["without_negatives"] == (2 if margin < 0 else 0)
    assert set(shares[-1.9]) == {1.0} and set(shares[2]) == {0.0}


def test_the_cuts_of_a_matryoshka_run_are_measured(trained):
    _, folder = trained("matryoshka.dimensions=[32,8]", *SHORT)
    summary = json.loads((folder / "summary.json").read_text())
    assert {"after", "after_8d"} <= set(summary["scores"])
    assert summary["scores"]["after_8d"]["label"] == "after, first 8 dimensions"
    assert (folder / "eval" / "sample-test" / "after_8d" / "metrics.json").is_file()
    evaluations = [line for line in (folder / "metrics.jsonl").read_text().splitlines() if "eval_8d_ndcg@10" in line]
    assert len(evaluations) == 3


def test_all_positives_of_a_row_are_shown_at_once(trained, tmp_path):
    path = tmp_path / "rows.jsonl"
    with open(path, "w", encoding="utf-8") as file:
        for i in range(60):
            row = {"query": f"질문 {i}", "document": [f"대답 {i} 입니다", f"다른 대답 {i}"]}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    negatives = {}
    for positives in ("sample", "all"):
        _, folder = trained(f"step.positives={positives}", f"data.train_file={path}", *SHORT, run_dir=f"outputs/{positives}")
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        negatives[positives] = next(line["negatives_per_query"] for line in lines if "loss" in line)
    assert negatives == {"sample": 15, "all": 30}  # 16 queries a step


def test_a_cross_encoders_scores_from_mining_are_what_training_distils(composed, trained, tmp_path):
    """mine.py with a cross-encoder, then train.py with what it wrote."""
    save_cross_encoder(tmp_path / "teacher", 1)
    rows = [{"query": f"w{i} w{i + 1}", "document": f"w{i} w{i + 1} w{i + 2} w{i + 3}"} for i in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = ("sources=[bm25,random]", "filters.percent=null", "filters.near_duplicate=null", "per_query=3")
    cross = (f"cross_encoder.path={tmp_path / 'teacher'}", "cross_encoder.margin=null")
    mine(
        composed("mine", "device=cpu", "name=m", f"data.train_file={tmp_path / 'rows.jsonl'}", "window=[1,8]", *settings, *cross)
    )
    _, folder = trained("loss=distill", "data.train_file=outputs/mined/m/rows.jsonl", *SHORT)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert next(line for line in lines if "kl" in line)["kl"] > 0
