"""The study's own arithmetic, that what it tries are settings of train.py, and that contenders are measured as they were trained."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.study import contenders
from benchmarks.study.__main__ import best_of
from benchmarks.study.contenders import DOCUMENTED, TUNED
from benchmarks.study.factors import CHOSEN, FACTORS, SIZES, Recipe
from benchmarks.study.measuring import choosing_sets, difference, reporting_sets
from e5ft.exporting.folder import export_model
from e5ft.modeling.loading import ModelSource, load_encoder
from tests.app.conftest import composed  # noqa: F401, a fixture
from tests.conftest import make_encoder

VALUES = [(factor, value) for factor, values in FACTORS.items() for value in values]


@pytest.mark.parametrize(("factor", "value"), VALUES, ids=[f"{factor}-{i}" for i, (factor, _) in enumerate(VALUES)])
def test_every_value_is_a_setting(factor, value, composed):  # noqa: F811
    recipe = replace(Recipe(), **value)
    settings = composed("train", "model=e5_small", *recipe.settings())
    training = settings.training
    assert training.per_device_train_batch_size * training.gradient_accumulation_steps == recipe.queries
    assert settings.loss["temperature"] == recipe.temperature and settings.optimizer["lr"] == recipe.lr


def test_what_was_chosen_is_the_shipped_recipe(composed):  # noqa: F811
    shipped, chosen = composed("train", "model=e5_small"), composed("train", "model=e5_small", *CHOSEN.settings())
    assert (chosen.optimizer["lr"], chosen.loss["temperature"]) == (shipped.optimizer["lr"], shipped.loss["temperature"])
    assert chosen.keep.weight == shipped.keep.weight


def test_names_are_folders_and_each_recipe_has_its_own():
    recipes = [replace(Recipe(), **value) for _, value in VALUES] + [Recipe(rows=size) for size in SIZES]
    names = {recipe.name for recipe in recipes}
    assert len(names) == len(set(recipes)) == len({recipe.run for recipe in recipes})
    assert not any("/" in name for name in names) and all(len(recipe.run) <= 100 for recipe in recipes)


def test_a_difference_is_the_mean_over_sets_with_the_bootstrap_s_interval():
    rng = np.random.default_rng(3)
    ours, theirs = rng.random(300), rng.random(300)
    alone = difference([ours.tolist()], [theirs.tolist()])
    scipy = stats.bootstrap((ours - theirs,), np.mean, method="percentile", rng=1).confidence_interval
    assert alone.mean == pytest.approx((ours - theirs).mean())
    assert (alone.low, alone.high) == pytest.approx((scipy.low, scipy.high), abs=0.004)
    both = difference([ours.tolist(), [1.0] * 10], [theirs.tolist(), [0.0] * 10])  # sets weigh the same, whatever their size
    assert both.mean == pytest.approx((alone.mean + 1) / 2) and both.high - both.low < 0.6 * (alone.high - alone.low)


def test_what_chooses_and_what_is_reported_share_no_query(tmp_path):
    target, keep = tmp_path / "target" / "eval", tmp_path / "keep"
    for folder, splits in ((target, ("dev", "test")), (keep, ("test",))):
        (folder / "qrels").mkdir(parents=True)
        (folder / "corpus.jsonl").write_text("".join(f'{{"_id": "d{i}", "text": "text {i}"}}\n' for i in range(20)))
        (folder / "queries.jsonl").write_text("".join(f'{{"_id": "q{i}", "text": "query {i}"}}\n' for i in range(20)))
        for number, split in enumerate(splits):
            judged = range(number * 10, number * 10 + 10) if len(splits) == 2 else range(20)
            lines = ["query-id\tcorpus-id\tscore", *(f"q{i}\td{i}\t1" for i in judged)]
            (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    chosen, reported = choosing_sets(target, [keep]), reporting_sets(target, [keep])
    for one, other in zip(chosen, reported, strict=True):
        assert one.name == other.name and not {*one.query_ids} & {*other.query_ids}
    assert len(chosen[1].queries) + len(reported[1].queries) == 20


class FakeStudy:
    """Scores made up: target and keep by learning rate."""

    before = {"sets": {"target": [0.5] * 40, "other": [0.5] * 40}, "pairs": {}}

    def __init__(self, scores: dict[float, tuple[float, float]]):
        self.scores = scores

    def train(self, recipe: Recipe) -> Path:
        return Path(recipe.name)

    def choose(self, name: str, model: Path) -> dict:
        target, other = next(scores for lr, scores in self.scores.items() if f"lr={lr:g}," in name)
        return {"sets": {"target": [target] * 40, "other": [other] * 40}, "pairs": {}}

    def gains(self, found: dict, before: dict):
        return tuple(difference([found["sets"][name]], [before["sets"][name]]) for name in ("target", "other"))


def test_the_best_target_is_chosen_among_those_that_lost_nothing():
    tried = [Recipe(lr=lr) for lr in (1e-5, 2e-5, 3e-5)]
    for scores, best in (
        ({1e-5: (0.6, 0.5), 2e-5: (0.7, 0.5), 3e-5: (0.8, 0.4)}, 2e-5),
        ({1e-5: (0.6, 0.4), 2e-5: (0.7, 0.4), 3e-5: (0.8, 0.3)}, 3e-5),
    ):
        study = FakeStudy(scores)
        assert best_of(study, tried, study.train).lr == best


CONTENDERS = [contender for loss, tried in TUNED.items() for contender in (DOCUMENTED[loss], *tried)]


@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda contender: contender.name)
def test_a_contender_is_trained_and_keeps_its_prefixes(tmp_path, contender):
    base = make_encoder()
    export_model(base, tmp_path / "base", "card")
    rows = [{"query": f"질문 {i}", "document": f"답 {i}", "hard_negative": f"다른 답 {i}"} for i in range(260)]
    contenders.train(contender, tmp_path / "base", rows, Recipe(), tmp_path / "model", bf16=False)
    trained = load_encoder(ModelSource(path=str(tmp_path / "model")))
    assert (trained.spec.text.query_prefix, trained.spec.text.passage_prefix) == ("query: ", "passage: ")
    assert not np.allclose(trained.encode(["질문 1"], "query"), base.encode(["질문 1"], "query"), atol=1e-5)
