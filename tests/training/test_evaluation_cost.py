"""How much is evaluated while training: within a share of its work, and the same however a step is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e5ft.app.commands.data import load_training_data
from e5ft.app.settings.plan import plan
from e5ft.app.settings.training import training_arguments
from e5ft.files import read_json
from e5ft.modeling.loading import load_encoder
from e5ft.training.evaluation_cost import FEWEST_QUERIES, LARGEST, chosen_size, planned_dev
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

    def run(*overrides, rows=900):
        settings = composed("train", *TINY, *overrides)
        data, encoder = load_training_data(plan(settings), settings), load_encoder(settings.model)
        arguments = training_arguments(settings, "out")
        size, seed = settings.data.eval_corpus_size, settings.seed
        return *planned_dev(data.dev, size, arguments, encoder, rows=rows, row_tokens=90.0, seed=seed), data.dev

    return run


def test_with_much_to_train_evaluation_stays_within_its_share(bounded):
    dev, evaluations, whole = bounded()
    assert FEWEST_QUERIES <= evaluations.queries < len(whole.queries) and 0.03 < evaluations.share <= 0.051
    assert (evaluations.queries, evaluations.passages) == (len(dev.queries), len(dev.passages))
    assert set(dev.query_ids) == set(dev.qrels)
    dev, _, whole = bounded(rows=10**6)
    assert dev == whole
    dev, evaluations, whole = bounded("data.eval_corpus_size=250")
    assert len(dev.queries) == len(whole.queries) and evaluations.share > 0.05
    assert bounded("training.eval_strategy=no", "training.load_best_model_at_end=false")[1] is None


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
