"""How much is evaluated while training: within a share of its work, and the same however a step is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e5ft.app.commands.data import load_training_data
from e5ft.app.settings.plan import plan
from e5ft.app.settings.training import training_arguments
from e5ft.files import read_json
from e5ft.modeling.loading import load_encoder
from e5ft.training.evaluation_cost import (
    ENOUGH_QUERIES,
    FEWEST_QUERIES,
    LARGEST,
    MOST_EVALUATIONS,
    SHARE,
    chosen_size,
    planned_dev,
)
from tests.app.conftest import TINY, composed, trained  # noqa: F401  fixtures


@given(
    tokens=st.floats(1, 1e8),
    query=st.floats(3, 64),
    passage=st.floats(3, 512),
    queries=st.integers(1, 100_000),
    judged=st.floats(0.1, 5),
)
def test_the_size_keeps_to_its_tokens_above_the_floor(tokens, query, passage, queries, judged):
    chosen, passages = chosen_size(tokens, query, passage, queries, judged)
    assert min(queries, FEWEST_QUERIES) <= chosen <= queries and 1 <= passages <= LARGEST
    floor = min(queries, FEWEST_QUERIES) * (query + 2 * judged * passage) + passage
    if 2 * judged * chosen < LARGEST:
        assert chosen * query + passages * passage <= max(tokens, floor) * (1 + 1e-9)


def test_more_tokens_buy_queries_first_and_then_passages():
    sizes = [chosen_size(tokens, 10, 190, 902, 1.0) for tokens in (1_000, 80_000, 300_000, 1_500_000, 1e8)]
    assert sizes == [(100, 200), (103, 415), (389, 1558), (902, 7847), (902, LARGEST)]


def test_a_run_says_what_its_evaluations_cost_and_measures_so_often(trained, capsys):  # noqa: F811
    _, folder = trained("training.max_steps=6", "training.eval_steps=2", "training.save_steps=2")
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  evaluation "))
    # The floor: 100 of the sample's 211 dev queries, against twice the passages judged for them or all.
    assert line.startswith("  evaluation  3 times while training, 100 dev queries against ")
    evaluations = [
        entry for entry in read_json(folder / "checkpoint-6" / "trainer_state.json")["log_history"] if "eval_ndcg@10" in entry
    ]
    assert [entry["step"] for entry in evaluations] == [0, 2, 4, 6]


@pytest.fixture
def bounded(composed):  # noqa: F811
    """The dev set as planned under some overrides, its plan, and the whole set."""

    def run(*overrides, rows=900, row_tokens=90.0, base_is_known=False):
        settings = composed("train", *TINY, *overrides)
        data, encoder = load_training_data(plan(settings), settings), load_encoder(settings.model)
        arguments = training_arguments(settings, "out")
        size, seed = settings.data.eval_corpus_size, settings.seed
        choose = {"choose_times": settings.training.eval_steps == "auto", "base_is_known": base_is_known}
        return *planned_dev(data.dev, size, arguments, encoder, rows, row_tokens, seed, **choose), data.dev

    return run


def test_with_much_to_train_evaluation_stays_within_its_share(bounded):
    dev, evaluations, whole = bounded()
    assert FEWEST_QUERIES <= evaluations.queries < len(whole.queries)
    assert 0.03 < evaluations.share * 5 / 6 <= 0.051  # the base's is told, too
    assert (evaluations.queries, evaluations.passages) == (len(dev.queries), len(dev.passages))
    assert set(dev.query_ids) == set(dev.qrels)
    dev, _, whole = bounded(rows=10**6)
    assert dev == whole
    dev, evaluations, whole = bounded("data.eval_corpus_size=250")
    assert len(dev.queries) == len(whole.queries) and evaluations.share > 0.05
    assert evaluations.reason == "above 5%; data.eval_corpus_size=auto ranks fewer"
    assert bounded("training.eval_strategy=no", "training.load_best_model_at_end=false")[1] is None


AUTO = "training.eval_steps=auto"


@pytest.mark.parametrize("size", ["auto", "250"])
@pytest.mark.parametrize("base_is_known", [False, True])
def test_fewer_evaluations_come_before_fewer_queries(bounded, size, base_is_known):
    """The more there is to train, the more evaluations, each of enough queries; above the share only where there is a single one."""
    found = [
        bounded(AUTO, f"data.eval_corpus_size={size}", rows=rows, base_is_known=base_is_known)[1]
        for rows in (96, 640, 1280, 2560, 5120, 10_240, 10**6)
    ]
    times = [each.times for each in found]
    assert times == sorted(times) and times[0] == 1 and times[-1] == MOST_EVALUATIONS and len(set(times)) > 3
    for each in found:
        assert (each.base_tokens < each.tokens / 2) == base_is_known and (each.base_tokens == each.tokens) != base_is_known
        if each.times > 1:
            assert each.share <= SHARE and each.queries >= ENOUGH_QUERIES
        assert bool(each.reason) == (each.share > 1.2 * SHARE)
    few = found[0]
    if size == "auto":
        assert few.queries == FEWEST_QUERIES and few.reason.endswith("training.load_best_model_at_end=false measures nothing")
    else:
        assert few.queries == 211 and few.reason.endswith("data.eval_corpus_size=auto ranks fewer")


@pytest.mark.parametrize("steps", [1, 3, 7, 100])
def test_the_chosen_evaluations_are_even_and_end_with_the_last_step(bounded, steps):
    chosen = bounded(AUTO, f"training.max_steps={steps}", rows=10**6, row_tokens=10.0**5)[1]
    assert chosen.every == -(-steps // 10) and chosen.times == -(-steps // chosen.every)


@pytest.mark.parametrize(("batch", "k"), [(8, 2), (4, 4)])
def test_the_schedule_does_not_depend_on_how_a_step_is_cut(bounded, batch, k):
    cut = f"training.per_device_train_batch_size={batch}", f"training.gradient_accumulation_steps={k}"
    found = bounded(AUTO, *cut, rows=2560)
    assert found[:2] == bounded(AUTO, rows=2560)[:2] and found[1].times > 1


@pytest.mark.parametrize("save", ["0.3", "5"])
def test_a_run_evaluates_as_was_chosen_and_saves_on_its_own_schedule(trained, capsys, save):  # noqa: F811
    """Too few rows for more than one evaluation: the base's, and that of the last step."""
    _, folder = trained("training.max_steps=6", AUTO, f"training.save_steps={save}", "training.save_total_limit=null")
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  evaluation "))
    assert line.startswith("  evaluation  once while training, 100 dev queries against ")
    state = read_json(folder / "checkpoint-6" / "trainer_state.json")
    assert [entry["step"] for entry in state["log_history"] if "eval_ndcg@10" in entry] == [0, 6]
    assert {path.name for path in folder.glob("checkpoint-*")} == {
        f"checkpoint-{n}" for n in ((2, 4, 6) if save == "0.3" else (5, 6))
    }


@pytest.mark.parametrize(
    ("overrides", "times"),
    [
        (("training.max_steps=7", "training.eval_steps=2", "training.save_steps=2"), 4),  # after 2, 4, 6, and the last
        (("training.max_steps=20", "training.eval_strategy=epoch", "training.save_strategy=epoch"), 4),  # epochs of 5 steps
    ],
)
def test_evaluations_are_counted_to_the_last_step(bounded, overrides, times):
    assert bounded(*overrides, rows=5 * 16)[1].times == times


@pytest.mark.parametrize(("batch", "k"), [(8, 2), (4, 4)])
def test_the_set_does_not_depend_on_how_a_step_is_cut(bounded, batch, k):
    cut = f"training.per_device_train_batch_size={batch}", f"training.gradient_accumulation_steps={k}"
    assert bounded(*cut)[0] == bounded()[0]
