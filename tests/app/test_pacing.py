"""Evaluations while training cost what they are allowed to, and are worth something where that is little."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e5ft.app.pacing import FEWEST_QUERIES, LARGEST, chosen_size
from e5ft.files import read_json
from tests.app.conftest import TINY


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


def test_a_run_says_what_its_evaluations_cost_and_measures_so_often(trained, capsys):
    _, folder = trained("training.max_steps=6", "training.eval_steps=2", "training.save_steps=2")
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  evaluation "))
    # The floor: 100 of the sample's 211 dev queries, against twice the passages judged for them or all.
    assert line.startswith("  evaluation  3 times while training, 100 dev queries against ")
    evaluations = [
        entry for entry in read_json(folder / "checkpoint-6" / "trainer_state.json")["log_history"] if "eval_ndcg@10" in entry
    ]
    assert [entry["step"] for entry in evaluations] == [0, 2, 4, 6]


def test_with_much_to_train_evaluation_stays_within_its_share(composed):
    from e5ft.app.configuration import model_source, training_arguments
    from e5ft.app.datasets import load_training_data
    from e5ft.app.pacing import planned_dev
    from e5ft.modeling.loading import load_encoder

    config = composed("train", *TINY)
    data, encoder = load_training_data(config), load_encoder(model_source(config))
    arguments = training_arguments(config, "out")
    dev, plan = planned_dev(data.dev, config, arguments, encoder, rows=900, row_tokens=90.0)
    assert FEWEST_QUERIES <= plan.queries < len(data.dev.queries) and 0.03 < plan.share <= 0.051
    assert (plan.queries, plan.passages) == (len(dev.queries), len(dev.passages)) and set(dev.query_ids) == set(dev.qrels)
    whole, _ = planned_dev(data.dev, config, arguments, encoder, rows=10**6, row_tokens=90.0)
    assert whole == data.dev
    config.data.eval_corpus_size = 250
    dev, plan = planned_dev(data.dev, config, arguments, encoder, rows=900, row_tokens=90.0)
    assert len(dev.queries) == len(data.dev.queries) and plan.share > 0.05
    arguments.eval_strategy = type(arguments.eval_strategy)("no")
    assert planned_dev(data.dev, config, arguments, encoder, rows=900, row_tokens=90.0)[1] is None


@pytest.mark.parametrize("cut", ["16,1", "4,4"])
def test_the_set_does_not_depend_on_how_a_step_is_cut(composed, cut):
    from e5ft.app.configuration import model_source, training_arguments
    from e5ft.app.datasets import load_training_data
    from e5ft.app.pacing import planned_dev
    from e5ft.modeling.loading import load_encoder

    batch, k = cut.split(",")
    given = f"training.per_device_train_batch_size={batch}", f"training.gradient_accumulation_steps={k}"
    config = composed("train", *TINY, *given)
    data, encoder = load_training_data(config), load_encoder(model_source(config))
    dev, _ = planned_dev(data.dev, config, training_arguments(config, "out"), encoder, rows=900, row_tokens=90.0)
    reference = composed("train", *TINY)
    wanted, _ = planned_dev(data.dev, reference, training_arguments(reference, "out"), encoder, rows=900, row_tokens=90.0)
    assert dev == wanted
