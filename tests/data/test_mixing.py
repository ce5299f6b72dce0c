"""Several sources: shares as promised, no row again before all were shown, and the same plan however a step is dealt out."""

import numpy as np
import pytest

from e5ft.data.mixing import MixSampler
from e5ft.data.settings import Mix
from e5ft.errors import DataError
from tests.data.test_sampler import DEALT
from tests.data.test_sources import make_mix

SIZES = (700, 130, 40)  # of three sources; 870 rows are 54 steps of 16
SOURCES = np.repeat([0, 1, 2], SIZES)
both_kinds = pytest.mark.parametrize("one_source", [True, False])


def sampler(mix: Mix, micro_batch: int = 16, accumulation: int = 1, *, sources=SOURCES, **options) -> MixSampler:
    return MixSampler(sources, mix, micro_batch, accumulation, **options)


def sequence(own: MixSampler, source: int, epochs: int) -> np.ndarray:
    """The rows of a source in the order in which a training shows them."""
    rows = np.concatenate([own.epoch_steps(epoch).ravel() for epoch in range(epochs)])
    return rows[SOURCES[rows] == source]


# -- shares ------------------------------------------------------------------------------------------------------------------


@both_kinds
def test_drawn_shares_are_the_promised_ones(one_source):
    """Within 4 standard deviations of independent draws; and in each epoch within one step (or row), which those are not."""
    own = sampler(make_mix(1, 2, 0.5, temperature=2, one_source=one_source), seed=3)
    units = own.steps if one_source else own.steps * own.step_rows
    epochs = 60
    counts = np.array([np.bincount(SOURCES[own.epoch_steps(e).ravel()], minlength=3) for e in range(epochs)])
    counts = counts // own.step_rows if one_source else counts
    assert (counts.sum(axis=1) == units).all()
    assert (np.abs(counts - own.shares * units) < 1).all()
    bound = 4 * np.sqrt(own.shares * (1 - own.shares) / (units * epochs))
    assert (np.abs(counts.sum(axis=0) / (units * epochs) - own.shares) < bound).all()


def test_a_source_too_rare_for_every_epoch_comes_in_some():
    """A share of 0.01 of 54 steps: on average 0.54 steps an epoch, so 0 in some epochs and 1 in others."""
    own = sampler(make_mix(1, 1, 0.01 * 830 / 40 / 0.99))
    assert own.shares[2] == pytest.approx(0.01)
    counts = [(SOURCES[own.epoch_steps(epoch)[:, 0]] == 2).sum() for epoch in range(100)]
    assert set(counts) == {0, 1}
    assert abs(np.mean(counts) - 0.54) < 4 * np.sqrt(0.54 * 0.46 / 100)


@both_kinds
def test_logged_shares_are_those_of_the_rows_drawn_so_far(one_source):
    own = sampler(make_mix(1, 2, 3, one_source=one_source), seed=1)
    rows = np.concatenate([own.epoch_steps(epoch) for epoch in range(3)])
    for steps in (1, 2, 53, 54, 55, 108, 130):
        expected = np.bincount(SOURCES[rows[:steps].ravel()], minlength=3) / (steps * 16)
        shares = own.drawn_shares(steps)
        assert list(shares) == ["s0", "s1", "s2"]
        np.testing.assert_allclose(list(shares.values()), expected, atol=1e-12)


# -- which rows meet ---------------------------------------------------------------------------------------------------------


def test_steps_are_of_one_source_or_mixed():
    pure, mixed = (SOURCES[sampler(make_mix(1, 1, 1, one_source=kind)).epoch_steps(0)] for kind in (True, False))
    assert (pure == pure[:, :1]).all()
    assert len(set(pure[:, 0])) == 3
    assert (pure[1:, 0] != pure[:-1, 0]).sum() > 5  # not one source after the other
    assert (mixed != mixed[:, :1]).any(axis=1).mean() > 0.5


@both_kinds
def test_no_row_of_a_source_comes_again_before_all_were_shown(one_source):
    """Over the epochs too: the n-th pass of a source begins when the pass before it is complete."""
    own = sampler(make_mix(1, 2, 3, one_source=one_source), seed=5)
    passes = []
    for source, size in enumerate(SIZES):
        rows = sequence(own, source, 8)
        whole = rows[: len(rows) // size * size].reshape(-1, size)
        assert (np.sort(whole, axis=1) == np.flatnonzero(source == SOURCES)).all()
        assert len(set(rows[len(whole) * size :])) == len(rows) - len(whole) * size
        assert len(whole) < 2 or (whole[0] != whole[1]).any()
        passes.append(len(whole))
    assert passes[0] > 1 and passes[2] > 10  # or the test saw no turn


@pytest.mark.parametrize("size", [16, 17, 24, 31, 32, 40])
def test_no_row_stands_twice_in_a_step_of_one_source(size):
    """Also where a pass ends within a step, and in a source hardly larger than a step."""
    sources = np.repeat([0, 1], [160, size])
    own = sampler(make_mix(1, 50), sources=sources)
    for epoch in range(12):
        assert all(len(set(step)) == 16 for step in own.epoch_steps(epoch).tolist())


@both_kinds
@pytest.mark.parametrize(("micro_batch", "accumulation", "world_size"), DEALT)
def test_a_step_holds_the_same_rows_however_it_is_dealt(micro_batch, accumulation, world_size, one_source):
    mix = make_mix(1, 2, 3, one_source=one_source)
    whole = [sorted(step) for step in sampler(mix, seed=2).epoch_steps(1).tolist()]
    ranks = []
    for rank in range(world_size):
        own = sampler(mix, micro_batch, accumulation, world_size=world_size, rank=rank, seed=2)
        own.set_epoch(1)
        batches = list(own)
        assert len(batches) == len(own) == 54 * accumulation
        assert {epoch for batch in batches for _, epoch in batch} == {1}
        ranks.append(np.array([[row for row, _ in batch] for batch in batches]).reshape(54, -1))
        assert own.drawn_shares(60) == sampler(mix, seed=2).drawn_shares(60)
    assert [sorted(step) for step in np.concatenate(ranks, axis=1).tolist()] == whole


@both_kinds
def test_an_epoch_is_a_function_of_seed_and_epoch(one_source):
    """As after a resume: without the epochs before, whatever the global generators say."""
    mix = make_mix(1, 2, 3, one_source=one_source)
    own = sampler(mix, seed=1)
    first = [own.epoch_steps(epoch) for epoch in range(4)]
    np.random.seed(9)
    np.testing.assert_array_equal(sampler(mix, seed=1).epoch_steps(3), first[3])
    assert (first[2] != first[3]).any()
    assert (sampler(mix, seed=2).epoch_steps(3) != first[3]).any()


# -- refusals ----------------------------------------------------------------------------------------------------------------


def test_a_source_smaller_than_a_step_is_refused_unless_sources_meet():
    sources = np.repeat([0, 1], [100, 15])
    with pytest.raises(DataError, match=r"data\.sources\.s1: its 15 training rows do not fill one step of 16 rows") as caught:
        sampler(make_mix(1, 1), 4, 2, world_size=2, sources=sources)
    assert "4 per device x 2 accumulated x 2 processes" in str(caught.value)
    assert "data.mix.one_source=false" in str(caught.value)
    assert sampler(make_mix(1, 1, one_source=False), sources=sources).epoch_steps(0).shape == (7, 16)


@both_kinds
def test_a_source_without_rows_and_too_few_rows_in_all_are_refused(one_source):
    with pytest.raises(DataError, match=r"data\.sources\.s1: none of its rows is left"):
        sampler(make_mix(1, 1, one_source=one_source), sources=np.zeros(100, dtype=int))
    with pytest.raises(DataError, match="^15 training rows do not fill one step of 16 rows"):
        sampler(make_mix(1, 1, one_source=one_source), sources=np.repeat([0, 1], [10, 5]))
