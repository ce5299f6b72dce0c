"""Losses against values worked by hand and against a plain double loop in float64."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from e5ft.data.step import Step
from e5ft.errors import ConfigurationError
from e5ft.training import tiles
from e5ft.training.chunking import mean_over_rows
from e5ft.training.losses import BLOCKS, WITH_NEGATIVES, InfoNCE, Triplet

BLOCK_SETS = [("query_passage", *more) for n in range(4) for more in itertools.combinations(BLOCKS[1:], n)]


def make_step(rows, text_ids, own=None) -> Step:
    """A step from rows of (query index, positive index, negative indices, query identity, known positives' identities)."""
    queries, positives, negatives, query_ids, known = zip(*rows, strict=True)
    arrays = {
        "text_id": text_ids,
        "query": queries,
        "positive": positives,
        "negative": sum(map(list, negatives), []),
        "negative_count": [len(n) for n in negatives],
        "query_id": query_ids,
        "known": sum(map(list, known), []),
        "known_count": [len(k) for k in known],
        "positive_count": [1] * len(rows),
    }
    return Step(**{name: np.array(value, dtype=np.int64) for name, value in arrays.items()}, local_rows=own or (0, len(rows)))


def random_rows(seed: int, rows: int = 9, queries: int = 6, passages: int = 8):
    """Rows as they meet in a step: queries with several positives, repeated queries, passages that stand at two places
    (with vectors of their own, as two dropout masks give them), and positives known from rows that are not in the step."""
    generator = np.random.default_rng(seed)
    query_ids = [1000 + q for q in range(queries)]
    answers = {q: set(generator.choice(passages, size=generator.integers(1, 4), replace=False).tolist()) for q in query_ids}
    text_ids, table = [], []

    def place(identity):
        text_ids.append(identity)
        return len(text_ids) - 1

    shared = {}  # half of the mentions share a place, as within a micro-batch; the others get a new one
    for _ in range(rows):
        query = int(generator.choice(query_ids))
        positive = int(generator.choice(sorted(answers[query])))
        negatives = [p for p in range(passages) if p not in answers[query]]
        negatives = generator.choice(negatives, size=generator.integers(0, 3), replace=False).tolist()
        spots = []
        for identity in [query, positive, *negatives]:
            if identity not in shared or generator.random() < 0.5:
                shared[identity] = place(identity)
            spots.append(shared[identity])
        table.append((spots[0], spots[1], spots[2:], query, sorted(answers[query])))
    return table, text_ids


def reference(embeddings, rows, text_ids, temperature, blocks, own=None, *, guide=None, margins=(2.0, 2.0), mask_hard=False):
    """InfoNCE as its docstring says it, pair by pair, with dictionaries of identities.

    With a guide's vectors, candidates that they score above the positive by more than a margin are left out; the margins are those
    of in-batch and of hard negatives.

    Returns the loss, and how many in-batch and hard negatives of how many were left out of the query_passage block.
    """
    guide = embeddings if guide is None else guide
    known = {query_id: set(answers) for _, _, _, query_id, answers in rows}
    passages, queries = {}, {}  # identity -> its first index
    for index in [row[1] for row in rows] + [n for row in rows for n in row[2]]:
        passages.setdefault(text_ids[index], index)
    for query, _, _, query_id, _ in rows:
        queries.setdefault(query_id, query)
    losses, counts = [], ([0, 0], [0, 0])
    for query, positive, negatives, query_id, _ in rows[slice(*own) if own else slice(None)]:
        terms = [embeddings[query] @ embeddings[positive] / temperature]
        hard_ids = {text_ids[n] for n in negatives}
        others = [(place, p in hard_ids) for p, place in passages.items() if p not in known[query_id]]
        candidates = {
            "query_passage": [(query, place, hard) for place, hard in others],
            "passage_query": [(positive, place, False) for q, place in queries.items() if text_ids[positive] not in known[q]],
            "query_query": [(query, place, False) for q, place in queries.items() if not known[q] & known[query_id]],
            "passage_passage": [(positive, place, False) for place, _ in others],
        }
        for block in blocks:
            for anchor, place, hard in candidates[block]:
                if hard and mask_hard:
                    continue
                false = guide[anchor] @ guide[place] > guide[query] @ guide[positive] + margins[hard]
                if block == "query_passage":
                    counts[hard][0] += int(false)
                    counts[hard][1] += 1
                if not false:
                    terms.append(embeddings[anchor] @ embeddings[place] / temperature)
        losses.append(torch.logsumexp(torch.stack(terms), dim=0) - terms[0])
    return torch.stack(losses).mean(), counts


def vectors(count: int, seed: int = 0, dimension: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, dimension, generator=generator, dtype=torch.float64), dim=-1)


def value_and_gradient(function, embeddings):
    leaf = embeddings.clone().requires_grad_()
    value = function(leaf)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient


@pytest.fixture
def by_hand():
    """Two rows, four texts: q1 = p1 = (1, 0), q2 = (0, 1), p2 = (.6, .8)."""
    rows = [(0, 1, [], 10, [20]), (2, 3, [], 11, [21])]
    return make_step(rows, [10, 20, 11, 21]), torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])


def test_infonce_by_hand(by_hand):
    """Temperature .5 doubles the cosines: s(q1, p1) = 2, s(q1, p2) = 1.2, s(q2, p2) = 1.6, s(q2, p1) = 0.

        loss_1 = log(e^2 + e^1.2) - 2    = log(1 + e^-.8)  = .371101
        loss_2 = log(e^1.6 + e^0) - 1.6  = log(1 + e^-1.6) = .183901      mean .277501

    The probability that row 1 gives p2 is e^-.8 / (1 + e^-.8) = .310026, that row 2 gives p1 e^-1.6 / (1 + e^-1.6) = .167982.
    d loss / d p1 = (-.310026 q1 + .167982 q2) / temperature / 2 rows.
    """
    step, embeddings = by_hand
    value, gradient = value_and_gradient(lambda e: InfoNCE(0.5)(e, step), embeddings)
    assert value.item() == pytest.approx(0.277501, abs=1e-6)
    assert gradient[1].tolist() == pytest.approx([-0.310026, 0.167982], abs=1e-6)


def test_infonce_with_all_blocks_by_hand(by_hand):
    """With s(p1, q2) = 0, s(p2, q1) = 1.2, s(q1, q2) = 0, s(p1, p2) = 1.2 in the same two softmaxes:

    loss_1 = log(e^2 + e^1.2 + e^0 + e^0 + e^1.2) - 2      = log(16.029290) - 2   = .774418
    loss_2 = log(e^1.6 + e^0 + e^1.2 + e^0 + e^1.2) - 1.6  = log(13.593266) - 1.6 = 1.009575     mean .891996
    """
    step, embeddings = by_hand
    assert InfoNCE(0.5, BLOCKS)(embeddings, step).item() == pytest.approx(0.891996, abs=1e-6)


@pytest.mark.parametrize("blocks", BLOCK_SETS, ids="+".join)
def test_infonce_equals_the_double_loop(blocks):
    loss = InfoNCE(0.3, blocks)
    for seed in range(8):
        rows, text_ids = random_rows(seed)
        embeddings = vectors(len(text_ids), seed)
        for own in (None, (0, 4), (4, 9)):  # all rows, and those of one of two processes
            step = make_step(rows, text_ids, own)
            found = value_and_gradient(lambda e, step=step: loss(e, step), embeddings)
            wanted = value_and_gradient(
                lambda e, own=own, rows=rows, ids=text_ids: reference(e, rows, ids, 0.3, blocks, own)[0], embeddings
            )
            assert found[0].dtype == torch.float32
            torch.testing.assert_close(found[0].double(), wanted[0], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(found[1], wanted[1], rtol=1e-4, atol=1e-6)


def test_infonce_is_float32_under_autocast():
    rows, text_ids = random_rows(1)
    embeddings, step = vectors(len(text_ids)).float(), make_step(rows, text_ids)
    for loss in (InfoNCE(0.01, BLOCKS), InfoNCE(0.01, BLOCKS, 2), Triplet(0.3)):
        plain = value_and_gradient(lambda e, loss=loss: loss(e, step), embeddings)
        leaf = embeddings.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = loss(leaf, step)
        assert value.dtype == torch.float32
        torch.testing.assert_close((value.detach(), *torch.autograd.grad(value, leaf)), plain, rtol=0, atol=0)


def test_a_loss_in_chunks_is_float32_under_autocast_and_may_leave_vectors_unused():
    rows, text_ids = random_rows(1)
    step, embeddings = make_step(rows, text_ids), vectors(len(text_ids)).float()

    def chunk(take, rows):
        take(torch.from_numpy(step.passage))  # looked at, and without a part in the loss
        return (take(torch.from_numpy(step.query[rows])) @ take(torch.from_numpy(step.positive[rows])).T).sum(dim=1)

    plain = value_and_gradient(lambda e: mean_over_rows(chunk, step, 4, e), embeddings)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = mean_over_rows(chunk, step, 4, embeddings)
    assert plain[1].any() and value.dtype == torch.float32 and value == plain[0]


def test_infonce_survives_a_low_temperature():
    """exp(1 / 0.001) is beyond float32."""
    rows, text_ids = random_rows(2)
    embeddings, step = vectors(len(text_ids)), make_step(rows, text_ids)
    value, gradient = value_and_gradient(lambda e: InfoNCE(0.001)(e, step), embeddings)
    torch.testing.assert_close(
        value.double(), reference(embeddings, rows, text_ids, 0.001, ("query_passage",))[0], rtol=1e-4, atol=0
    )
    assert torch.isfinite(gradient).all()


def test_a_step_without_any_negative_teaches_nothing():
    """Two queries, each of which both passages answer: there is no passage to tell apart from the positive."""
    rows = [(0, 1, [], 10, [20, 21]), (2, 3, [], 11, [20, 21])]
    step, embeddings, loss = make_step(rows, [10, 20, 11, 21]), vectors(4), InfoNCE(0.1)
    value, gradient = value_and_gradient(lambda e: loss(e, step), embeddings)
    assert value == 0 and (gradient == 0).all() and loss.statistics[WITH_NEGATIVES] == 0
    one_more = make_step([rows[0], (2, 3, [], 11, [21])], [10, 20, 11, 21])
    assert loss(embeddings, one_more) > 0 and loss.statistics[WITH_NEGATIVES] == 1


def test_a_process_whose_rows_have_no_negative_adds_nothing_to_the_others():
    """The first query knows both passages, the second its own alone: two processes average to one."""
    rows = [(0, 1, [], 10, [20, 21]), (2, 3, [], 11, [21])]
    whole, *parts = (InfoNCE(0.1)(vectors(4), make_step(rows, [10, 20, 11, 21], own)) for own in (None, (0, 1), (1, 2)))
    assert parts[0] == 0 < parts[1]
    torch.testing.assert_close(sum(parts) / 2, whole)


@pytest.mark.parametrize("blocks", [("query_passage",), BLOCKS], ids=["one", "all"])
def test_rows_whose_negatives_are_all_masked_are_known(blocks, monkeypatch):
    """Three rows at a right angle to their positives and to each other; the third has a passage opposite to its query."""
    monkeypatch.setitem(tiles.COLUMNS, "cpu", 2)
    rows = [(0, 3, [], 10, [20]), (1, 4, [], 11, [21]), (2, 5, [6], 12, [22])]
    embeddings = torch.eye(7)
    embeddings[6] = -embeddings[2]
    for margin, kept in ((-0.5, 1), (-1.5, 0), (0.5, 3)):
        loss = InfoNCE(0.1, blocks, chunk_size=2, false_negatives="margin", margin=margin)
        value = loss(embeddings, make_step(rows, [10, 11, 12, 20, 21, 22, 23]))
        assert loss.statistics[WITH_NEGATIVES] == kept and (value > 0) == (kept > 0)


@pytest.mark.parametrize("margins", [(0.1, 2.0), (2.0, -1.9)])
def test_the_order_of_blocks_changes_nothing(margins):
    rows, text_ids = random_rows(3)
    step, embeddings = make_step(rows, text_ids), vectors(len(text_ids))
    names = ("query_query", "query_passage", "passage_query")
    losses = [InfoNCE(0.3, n, false_negatives="margin", margin=margins[0], hard_margin=margins[1]) for n in (names, names[::-1])]
    first, second = (value_and_gradient(lambda e, loss=loss: loss(e, step), embeddings) for loss in losses)
    assert first[0] == second[0] and torch.equal(first[1], second[1])


@pytest.mark.parametrize(("loss", "field", "values"), [
    (InfoNCE, "temperature", [0, -0.1, 1e-300, 1e300, 10**400, math.nan, math.inf, True, "0.05", None]),
    (partial(InfoNCE, 0.1), "chunk_size", [0, -1, 2.5, "8", None, True]),
    (partial(InfoNCE, 0.1), "blocks", [(), ("passage_query",), ("query_passage", "both"), ("query_passage",) * 2, "query_passage"]),
    (partial(InfoNCE, 0.1), "false_negatives", ["yes", None]),
    (partial(InfoNCE, 0.1, false_negatives="margin"), "margin", [3, -2, -2.1, math.nan, True, "big"]),
    (partial(InfoNCE, 0.1, false_negatives="guide"), "hard_margin", [3, -2, "big"]),
    (partial(InfoNCE, 0.1), "margin", [0.1]),  # without false_negatives
    (Triplet, "margin", [0, -1, 2.1, math.nan, True, "0.1", None]),
])  # fmt: skip
def test_values_that_are_refused(loss, field, values):
    for value in values:
        with pytest.raises(ConfigurationError, match=f"^loss.{field}="):
            loss(**{field: value})


def test_triplet_by_hand():
    """q = (1, 0), p = (.6, .8), n1 = (0, 1), n2 = (.8, .6), margin .5; a second row q' = p' = (0, 1) with n1' = (.8, .6).

    0 - .6 + .5 = -.1 counts as 0;  .8 - .6 + .5 = .7;  .6 - 1 + .5 = .1;  mean .8 / 3.
    """
    embeddings = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [0.8, 0.6]])
    rows = [(0, 1, [2, 3], 10, [11]), (2, 2, [3], 12, [12])]
    assert Triplet(0.5)(embeddings, make_step(rows, [10, 11, 12, 13])).item() == pytest.approx(0.8 / 3, abs=1e-6)


def test_triplet_equals_the_double_loop():
    for seed in range(8):
        rows, text_ids = random_rows(seed)
        embeddings = vectors(len(text_ids), seed)

        def plain(e, rows=rows):
            terms = [torch.dot(e[q], e[n]) - torch.dot(e[q], e[p]) + 0.3 for q, p, negatives, _, _ in rows for n in negatives]
            return torch.stack([torch.clamp(term, min=0) for term in terms]).mean()

        def ours(e, rows=rows, ids=text_ids):
            return Triplet(0.3)(e, make_step(rows, ids))

        found, wanted = value_and_gradient(ours, embeddings), value_and_gradient(plain, embeddings)
        torch.testing.assert_close(found[0].double(), wanted[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found[1], wanted[1], rtol=1e-4, atol=1e-6)


def test_triplet_of_two_processes_averages_to_that_of_one():
    """Rows 0-3 and 4-7 on two processes that hold different numbers of hard negatives, one of them possibly none."""
    rows, text_ids = random_rows(5, rows=8)
    rows[:4] = [(q, p, [], query_id, known) for q, p, _, query_id, known in rows[:4]]
    embeddings = vectors(len(text_ids))
    whole, *parts = (Triplet(0.3)(embeddings, make_step(rows, text_ids, own)) for own in (None, (0, 4), (4, 8)))
    assert parts[0] == 0 < parts[1]
    torch.testing.assert_close(sum(parts) / 2, whole)


def test_triplets_of_queries_with_several_positives_average_over_processes_too():
    """Each process holds one query; the first shows two positives, so it has two of the three rows and two of the three triplets."""
    rows = [(0, 1, [4], 10, [20, 21]), (0, 2, [4], 10, [20, 21]), (3, 2, [4], 11, [21])]
    values = []
    for own in (None, (0, 2), (2, 3)):
        step = make_step(rows, [10, 20, 21, 11, 22], own)
        step.positive_count[:] = [2, 2, 1]
        values.append(Triplet(2.0)(vectors(5, 1), step))
    assert min(values) > 0
    torch.testing.assert_close((values[1] + values[2]) / 2, values[0])


def test_triplet_without_hard_negatives_teaches_nothing():
    step, loss = make_step([(0, 1, [], 10, [20]), (2, 3, [], 11, [21])], [10, 20, 11, 21]), Triplet()
    value, gradient = value_and_gradient(lambda e: loss(e, step), vectors(4))
    assert value == 0 and (gradient == 0).all() and loss.statistics[WITH_NEGATIVES] == 0


# -- false negatives ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["margin", "guide"])
@pytest.mark.parametrize("blocks", [("query_passage",), BLOCKS], ids=["one", "all"])
@pytest.mark.parametrize(("margin", "hard_margin"), [(0.1, 0.1), (0.0, -0.2), (-0.1, 2.0)])
@pytest.mark.parametrize("columns", [3, 1024])
def test_masks_against_the_double_loop(mode, blocks, margin, hard_margin, columns, monkeypatch):
    monkeypatch.setitem(tiles.COLUMNS, "cpu", columns)
    masked = [0, 0]
    for seed in range(8):
        rows, text_ids = random_rows(seed)
        embeddings, guide = vectors(len(text_ids), seed), vectors(len(text_ids), 100 + seed, dimension=4)
        step = make_step(rows, text_ids)
        step.side["guide"] = guide.float().numpy()
        loss = InfoNCE(0.3, blocks, chunk_size=4, false_negatives=mode, margin=margin, hard_margin=hard_margin)
        named = {"guide": None if mode == "margin" else guide, "margins": (margin, hard_margin)}
        value, gradient = value_and_gradient(lambda e, loss=loss, step=step: loss(e, step), embeddings)
        arguments = (rows, text_ids, 0.3, blocks)
        wanted, slope = value_and_gradient(lambda e, a=arguments, n=named: reference(e, *a, **n)[0], embeddings)
        torch.testing.assert_close(value.double(), wanted, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(gradient, slope, rtol=1e-4, atol=1e-6)
        counts = reference(embeddings, *arguments, **named)[1]
        for kind, name in enumerate(("false_negative_share", "false_hard_negative_share")):
            masked[kind] += counts[kind][0]
            if counts[kind][1]:
                assert not loss.statistics[name].requires_grad
                assert float(loss.statistics[name]) == pytest.approx(counts[kind][0] / counts[kind][1])
    assert masked[0] > 0 and (masked[1] > 0) == (hard_margin < 2)  # the masks did something; 2 masks no hard negative


def test_a_false_negative_teaches_without_a_mask_and_not_with_one():
    """Row 1's query q scores its own positive .6 and another row's passage .95: unmasked, the loss pushes that one away."""
    rows = [(0, 1, [], 10, [20]), (2, 3, [], 11, [21])]
    embeddings = normalize(torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [0.95, 0.312]], dtype=torch.float64), dim=1)
    step = make_step(rows, [10, 20, 11, 21])
    _, pushed = value_and_gradient(lambda e: InfoNCE(0.1)(e, step), embeddings)
    _, kept = value_and_gradient(lambda e: InfoNCE(0.1, false_negatives="margin", margin=0.1)(e, step), embeddings)
    assert pushed[3] @ embeddings[0] > 1  # descent lowers its score for q
    assert abs(kept[0]).max() < 1e-6 and kept[3] @ embeddings[0] < pushed[3] @ embeddings[0] / 10


@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_a_candidate_at_the_margin_is_kept(margin):
    """Only a cosine *above* the positive's and the margin is masked: with margin 0, a passage that scores like the positive stays."""
    step = make_step([(0, 1, [4], 10, [20]), (2, 3, [], 11, [21])], [10, 20, 11, 21, 22])
    embeddings = torch.eye(4)[[0, 1, 0, 1, 1]]  # all cosines of queries and passages are 0
    masked, plain = InfoNCE(0.1, false_negatives="margin", margin=margin), InfoNCE(0.1)
    assert masked(embeddings, step) == plain(embeddings, step) > 0
    assert masked.statistics["false_negative_share"] == masked.statistics["false_hard_negative_share"] == 0


def test_the_length_of_guide_vectors_does_not_matter():
    rows, text_ids = random_rows(3)
    embeddings, guide = vectors(len(text_ids)), vectors(len(text_ids), 100).float().numpy()
    values = []
    for length in (1, 2):
        step = make_step(rows, text_ids)
        step.side["guide"] = guide * length
        values.append(InfoNCE(0.3, false_negatives="guide", margin=0.1)(embeddings, step))
    torch.testing.assert_close(values[0], values[1])


def test_the_margins_that_publications_name_are_the_defaults():
    margin, guide = InfoNCE(0.1, false_negatives="margin"), InfoNCE(0.1, false_negatives="guide", margin=-0.05)
    assert (margin.margin, margin.hard_margin, margin.needs) == (0.1, 0.1, frozenset())
    assert (guide.margin, guide.hard_margin, guide.needs) == (-0.05, -0.05, {"guide"})
    assert InfoNCE(0.1, false_negatives="guide").margin == 0


def test_a_guide_that_no_step_carries_is_refused(by_hand):
    step, embeddings = by_hand
    with pytest.raises(ConfigurationError, match="needs 'guide'"):
        InfoNCE(0.1, false_negatives="guide")(embeddings, step)


# -- several positives -------------------------------------------------------------------------------------------------------


def test_rows_count_by_their_weight(by_hand):
    """A query that shows two positives counts once: each of its two rows half. By hand: (.5 a + .5 b + c) / 2."""
    rows = [(0, 1, [], 10, [20, 21]), (0, 3, [], 10, [20, 21]), (2, 4, [], 11, [22])]
    embeddings = vectors(5)
    step = make_step(rows, [10, 20, 11, 21, 22])
    alone = [make_step(rows, [10, 20, 11, 21, 22], own=(i, i + 1)) for i in range(3)]
    single = [value_and_gradient(lambda e, step=step: InfoNCE(0.3)(e, step), embeddings) for step in alone]
    step.positive_count[:] = [2, 2, 1]
    wanted = tuple((0.5 * one + 0.5 * other + third) / 2 for one, other, third in zip(*single, strict=True))
    for chunk_size in (1, 2, 100):
        found = value_and_gradient(lambda e, size=chunk_size: InfoNCE(0.3, chunk_size=size)(e, step), embeddings)
        torch.testing.assert_close(found, wanted)
