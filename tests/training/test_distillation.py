"""Distillation against plain loops in float64; the pull towards the base is nothing where nothing moved."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from e5ft.errors import ConfigurationError
from e5ft.training import tiles
from e5ft.training.distillation import Distillation, Regularised, own_candidates
from e5ft.training.losses import WITH_NEGATIVES, InfoNCE, Triplet
from tests.training.test_losses import make_step, random_rows, value_and_gradient, vectors
from tests.training.test_losses import reference as infonce_reference


def kl_by_hand(student: list, teacher: list) -> torch.Tensor:
    """sum of P (log P - log Q), term by term."""
    student, teacher = torch.stack(student), torch.as_tensor(teacher, dtype=torch.float64)
    p = teacher.exp() / teacher.exp().sum()
    q = student.exp() / student.exp().sum()
    return (p * (p.log() - q.log())).sum()


def scored_step(seed: int, own=None):
    """A step with a teacher's scores at its side, the rows behind it, and vectors."""
    rows, text_ids = random_rows(seed)
    step = make_step(rows, text_ids, own)
    generator = np.random.default_rng(seed)
    step.side["teacher_positive"] = generator.normal(2, 1, len(rows)).astype(np.float32)
    step.side["teacher_negative"] = generator.normal(0, 1, len(step.negative)).astype(np.float32)
    step.side["guide"] = vectors(len(text_ids), 100 + seed, 5).float().numpy()
    return step, rows, text_ids, vectors(len(text_ids), seed)


def reference(embeddings, step, rows, temperature, teacher_temperature, teacher, candidates, text_ids) -> torch.Tensor:
    guide = torch.from_numpy(step.side["guide"]).double()
    scores, losses = iter(step.side["teacher_negative"].tolist()), []
    passages = {}
    for place in [row[1] for row in rows] + [n for row in rows for n in row[2]]:
        passages.setdefault(text_ids[place], place)
    for i, (query, positive, negatives, *_) in enumerate(rows):
        places = [positive, *negatives] if candidates == "own" else list(passages.values())
        student = [embeddings[query] @ embeddings[place] / temperature for place in places]
        if teacher == "guide":
            wanted = [float(guide[query] @ guide[place]) / teacher_temperature for place in places]
        else:
            wanted = [float(step.side["teacher_positive"][i]), *(next(scores) for _ in negatives)]
            wanted = [score / teacher_temperature for score in wanted]
        losses.append(kl_by_hand(student, wanted))
    return torch.stack(losses).mean()


@pytest.mark.parametrize(("teacher", "candidates"), [("scores", "own"), ("guide", "own"), ("guide", "step")])
@pytest.mark.parametrize("chunk_size", [4, 100])
@pytest.mark.parametrize("columns", [3, 1024])
def test_kl_and_its_gradient_against_a_loop(teacher, candidates, chunk_size, columns, monkeypatch):
    monkeypatch.setitem(tiles.COLUMNS, "cpu", columns)
    for seed in range(6):
        step, rows, text_ids, embeddings = scored_step(seed)
        loss = Distillation(0.3, teacher, 0.7, weight=0.0, candidates=candidates, chunk_size=chunk_size)
        value, gradient = value_and_gradient(lambda e, loss=loss, step=step: loss(e, step), embeddings)
        arguments = (step, rows, 0.3, 0.7, teacher, candidates, text_ids)
        wanted, slope = value_and_gradient(lambda e, a=arguments: reference(e, *a), embeddings)
        torch.testing.assert_close(value.double(), wanted, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(gradient, slope, rtol=1e-4, atol=1e-6)
        assert abs(slope).max() > 1e-3


@pytest.mark.parametrize("mask_hard", [True, False])
def test_infonce_is_added_with_its_weight_and_with_or_without_hard_negatives(mask_hard):
    step, rows, text_ids, embeddings = scored_step(3)
    divergence = Distillation(0.3, weight=0.0)(embeddings, step)
    loss = Distillation(0.3, weight=0.25, mask_hard=mask_hard)
    wanted, counts = infonce_reference(embeddings, rows, text_ids, 0.3, ("query_passage",), mask_hard=mask_hard)
    assert sum(len(row[2]) for row in rows) > 0 and bool(counts[True][1]) != mask_hard
    torch.testing.assert_close(loss(embeddings, step).double(), divergence.double() + 0.25 * wanted, rtol=1e-5, atol=1e-6)
    assert float(loss.statistics["kl"]) == pytest.approx(float(divergence))
    assert float(loss.statistics["infonce"]) == pytest.approx(float(wanted), rel=1e-5)


def test_two_processes_average_to_one(own_halves=((0, 4), (4, 9))):
    step, *_, embeddings = scored_step(2)
    whole = Distillation(0.3)(embeddings, step)
    parts = []
    for own in own_halves:
        part, *_ = scored_step(2, own)
        parts.append(Distillation(0.3)(embeddings, part) * (own[1] - own[0]))
    torch.testing.assert_close(sum(parts) / 9, whole)


def test_a_student_that_agrees_with_its_teacher_learns_nothing():
    step, *_, embeddings = scored_step(1)
    step.side["guide"] = embeddings.float().numpy()
    for candidates in ("own", "step"):
        loss = Distillation(0.3, "guide", weight=0.0, candidates=candidates)  # its temperature is the student's by default
        value, gradient = value_and_gradient(lambda e, loss=loss: loss(e, step), embeddings)
        assert abs(value) < 1e-6 and abs(gradient).max() < 1e-6


def test_candidates_are_a_rows_positive_and_its_hard_negatives_in_order():
    step = make_step(
        [(0, 1, [3, 4], 10, [20]), (2, 3, [], 11, [21]), (2, 1, [4], 11, [20, 21])], [10, 20, 11, 21, 22], own=(1, 3)
    )
    assert own_candidates(step).tolist() == [[3, -1], [1, 4]]


@pytest.mark.parametrize("teacher", ["scores", "guide"])
def test_own_candidates_without_any_hard_negative_teach_nothing(teacher):
    """A softmax over the positive alone is 1 for teacher and model: a KL of 0. InfoNCE beside it meets the other passage."""
    step = make_step([(0, 1, [], 10, [20]), (2, 3, [], 11, [21])], [10, 20, 11, 21])
    step.side["teacher_positive"], step.side["teacher_negative"] = np.ones(2, np.float32), np.ones(0, np.float32)
    step.side["guide"] = vectors(4, 100, 5).float().numpy()
    for weight, rows in ((0.0, 0), (0.2, 2)):
        loss = Distillation(0.3, teacher, weight=weight)
        value = loss(vectors(4, 1), step)
        assert loss.statistics["kl"] == 0 and (value > 0) == (weight > 0) and loss.statistics[WITH_NEGATIVES] == rows


def test_rows_without_hard_negatives_may_stand_beside_rows_with_some():
    """Also where a process's own rows have none: processes must not part ways."""
    rows, text_ids = [(0, 1, [], 10, [20]), (2, 3, [4], 11, [21])], [10, 20, 11, 21, 22]
    for own in (None, (0, 1), (1, 2)):
        step = make_step(rows, text_ids, own)
        step.side["guide"] = vectors(5, 100, 5).float().numpy()
        loss = Distillation(0.3, "guide", weight=0.0)
        value = loss(vectors(5, 1), step)
        assert (value > 0) == (own != (0, 1)) == (loss.statistics[WITH_NEGATIVES] == 1)


def test_candidates_of_the_step_need_no_hard_negatives():
    step = make_step([(0, 1, [], 10, [20]), (2, 3, [], 11, [21])], [10, 20, 11, 21])
    step.side["guide"] = vectors(4, 100, 5).float().numpy()
    loss = Distillation(0.3, "guide", candidates="step", weight=0.0)
    assert loss(vectors(4, 1), step) > 0 and loss.statistics[WITH_NEGATIVES] == 2 and loss.needs == {"guide"}


def test_the_pull_to_the_base_is_zero_at_the_base_and_grows_away_from_it():
    step, *_, embeddings = scored_step(4)
    step.side["base"] = embeddings.float().numpy()
    plain, kept = InfoNCE(0.3), Regularised(InfoNCE(0.3), weight=2.0, temperature=0.3)
    torch.testing.assert_close(kept(embeddings, step), plain(embeddings, step) / 3, rtol=1e-5, atol=1e-6)
    moved = normalize(embeddings + 0.2 * vectors(len(embeddings), 9), dim=1)
    divergence = (3 * kept(moved, step) - plain(moved, step)) / 2
    assert divergence > 1e-3
    assert float(kept.statistics["kl_to_base"]) == pytest.approx(float(divergence), rel=1e-4)


def test_a_step_down_the_regulariser_comes_nearer_to_the_base():
    step, *_, base = scored_step(5)
    step.side["base"] = base.float().numpy()
    moved = normalize(base + 0.3 * vectors(len(base), 9), dim=1)
    loss = Regularised(Triplet(0.1), weight=50.0, temperature=0.3)
    value, gradient = value_and_gradient(lambda e: loss(e, step), moved)
    nearer = normalize(moved - 1e-3 * gradient, dim=1)
    assert loss(nearer, step) < value


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Distillation(0.3, teacher="me"), "teacher='me'"),
        (lambda: Distillation(0.3, candidates="step"), "candidates='step'"),
        (lambda: Distillation(0.3, weight=-1), "weight=-1"),
        (lambda: Distillation(0.3, teacher_temperature=0), "teacher_temperature=0"),
        (lambda: Regularised(InfoNCE(0.3), 0.0, 0.1), "keep.weight=0.0"),
        (lambda: Regularised(InfoNCE(0.3), 1.0, -1), "keep.temperature=-1"),
    ],
)
def test_settings_that_are_refused(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_what_is_needed_is_named():
    assert Distillation(0.3).needs == {"teacher", "hard_negatives"}
    assert Distillation(0.3, teacher="guide").needs == {"guide", "hard_negatives"}
    assert Distillation(0.3, false_negatives="guide").needs == {"teacher", "guide", "hard_negatives"}
    assert Regularised(Distillation(0.3), 1.0, 0.1).needs == {"teacher", "base", "hard_negatives"}
