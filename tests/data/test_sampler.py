"""Which rows meet: fixed by (seed, epoch, step), however a step is dealt out."""

import numpy as np
import pytest
import torch

from e5ft.data.sampler import DistributedStepSampler, StepSampler, balanced_partition
from e5ft.errors import DataError

LENGTHS = np.random.default_rng(0).integers(5, 500, size=1000).astype(np.int32)
DEALT = [(16, 1, 1), (8, 2, 1), (4, 4, 1), (1, 16, 1), (8, 1, 2), (4, 2, 2), (2, 2, 4)]  # (B, k, world), all of 16 rows
both_orders = pytest.mark.parametrize("by_length", [False, True])


def sampler(rows, micro_batch=16, accumulation=1, *, by_length=False, **options) -> StepSampler:
    return StepSampler(rows, micro_batch, accumulation, lengths=LENGTHS[:rows] if by_length else None, **options)


def steps(rows, micro_batch, accumulation, world_size, epoch=0, **options) -> list[list[list[list[int]]]]:
    """steps[step][rank][micro-batch] -> rows, as the ranks' own iterators give them."""
    ranks = []
    for rank in range(world_size):
        own = sampler(rows, micro_batch, accumulation, world_size=world_size, rank=rank, **options)
        own.set_epoch(epoch)
        batches = list(own)
        assert len(batches) == len(own) == own.steps * accumulation
        assert all(len(batch) == micro_batch and {e for _, e in batch} == {epoch} for batch in batches)
        batches = [[row for row, _ in batch] for batch in batches]
        ranks.append([batches[i : i + accumulation] for i in range(0, len(batches), accumulation)])
    return [list(ranks_of_step) for ranks_of_step in zip(*ranks, strict=True)]


def contents(dealt) -> list[list[int]]:
    return [sorted(row for rank in step for batch in rank for row in batch) for step in dealt]


@both_orders
@pytest.mark.parametrize("micro_batch, accumulation, world_size", DEALT)
def test_a_step_holds_the_same_rows_however_it_is_dealt(micro_batch, accumulation, world_size, by_length):
    """41 rows are 2 steps of 16, also as 4x4, where dropping the last batch alone would leave 2.5."""
    whole = steps(41, 16, 1, 1, epoch=3, seed=7, by_length=by_length)
    dealt = steps(41, micro_batch, accumulation, world_size, epoch=3, seed=7, by_length=by_length)
    assert len(dealt) == 2
    assert contents(dealt) == contents(whole)


@both_orders
@pytest.mark.parametrize("micro_batch, accumulation, world_size", DEALT)
def test_no_row_comes_twice_in_an_epoch_and_few_stay_out(micro_batch, accumulation, world_size, by_length):
    seen = [row for step in contents(steps(999, micro_batch, accumulation, world_size, by_length=by_length)) for row in step]
    assert len(seen) == len(set(seen)) == 999 // 16 * 16
    assert set(seen) <= set(range(999))


@both_orders
def test_the_order_is_a_function_of_seed_epoch_and_step(by_length):
    one, other = sampler(500, seed=1, by_length=by_length), sampler(500, seed=1, by_length=by_length)
    np.random.seed(0)
    torch.manual_seed(0)
    first = [list(one) for one.epoch in (0, 1, 2)]
    np.random.seed(9)
    torch.manual_seed(9)
    other.set_epoch(2)  # without the epochs before, as after a resume
    assert list(other) == first[2]
    assert list(other) == first[2]  # and again
    rows = [[[row for row, _ in batch] for batch in epoch] for epoch in first]
    assert rows[0] != rows[1] != rows[2] != rows[0]
    assert list(sampler(500, seed=2, by_length=by_length)) != first[0]


def test_an_epoch_that_began_keeps_its_number():
    """A prefetching loader may be told the next epoch while the last batches of this one are drawn."""
    own = sampler(64)
    batches = iter(own)
    next(batches)
    own.set_epoch(5)
    assert {epoch for batch in batches for _, epoch in batch} == {0}


def test_every_row_is_left_out_in_some_epoch_and_seen_in_another():
    own = sampler(17)
    left_out = {row for epoch in range(200) for row in set(range(17)) - set(own.epoch_steps(epoch).ravel().tolist())}
    assert left_out == set(range(17))


def test_lengths_within_a_step_are_closer_and_the_order_of_steps_stays_random():
    plain, sorted_by_length = (LENGTHS[sampler(1000, by_length=by_length).epoch_steps(0)] for by_length in (False, True))
    spread = [steps_lengths.std(axis=1).mean() for steps_lengths in (plain, sorted_by_length)]
    assert spread[1] < spread[0] / 5
    means = sorted_by_length.mean(axis=1)
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3
    assert (np.diff(means) > 0).mean() < 0.7


@pytest.mark.parametrize("micro_batch, accumulation, world_size", DEALT)
def test_fewer_rows_than_a_step_are_refused_with_both_numbers(micro_batch, accumulation, world_size):
    with pytest.raises(DataError, match="^15 training rows do not fill one step of 16 rows") as caught:
        sampler(15, micro_batch, accumulation, world_size=world_size)
    assert f"{micro_batch} per device x {accumulation} accumulated x {world_size} processes" in str(caught.value)
    assert str(caught.value).endswith("training.per_device_train_batch_size, or training.gradient_accumulation_steps=auto")
    with pytest.raises(DataError, match="3 training rows do not fill one step of 4 rows .*; start fewer processes$"):
        sampler(3, 1, 1, world_size=4)
    assert len(contents(steps(16, micro_batch, accumulation, world_size))) == 1


@pytest.mark.parametrize("micro_batch, accumulation, world_size", [(4, 4, 1), (4, 2, 2)])
def test_rows_are_dealt_to_micro_batches_by_their_tokens(micro_batch, accumulation, world_size):
    """The same rows on the same process in the same step, in micro-batches of more even size."""
    plain, even = (steps(320, micro_batch, accumulation, world_size, seed=3, tokens=tokens) for tokens in (None, LENGTHS[:320]))
    largest = [], []
    for step in zip(plain, even, strict=True):
        ranks = [[sorted(row for batch in rank for row in batch) for rank in dealt] for dealt in step]
        assert ranks[0] == ranks[1]
        for found, dealt in zip(largest, step, strict=True):
            found.append(max(LENGTHS[batch].sum() for rank in dealt for batch in rank))
    assert len(plain) == 20 and np.mean(largest[1]) < 0.9 * np.mean(largest[0])
    assert even == steps(320, micro_batch, accumulation, world_size, seed=3, tokens=LENGTHS[:320])


def test_a_balanced_partition_holds_each_row_once():
    generator = np.random.default_rng(0)
    tokens = generator.integers(5, 500, size=1000)
    for parts, size in ((1, 8), (2, 8), (8, 2), (8, 1), (4, 16), (3, 5)):
        rows = generator.permutation(1000)[: parts * size]
        dealt = balanced_partition(rows, tokens, parts)
        assert dealt.shape == (parts, size) and sorted(dealt.ravel()) == sorted(rows)
        if parts > 1 and size > 2:
            sums, plain = tokens[dealt].sum(axis=1), tokens[rows.reshape(parts, size)].sum(axis=1)
            assert np.ptp(sums) < np.ptp(plain) and sums.max() < plain.max()


def test_longer_rows_make_a_larger_largest_part():
    """What `worst_step` rests on: rank by rank shorter rows never give a larger largest part."""
    generator = np.random.default_rng(1)
    for _ in range(200):
        parts, size = generator.integers(1, 6, size=2)
        tokens = generator.integers(1, 100, size=60)
        longest = np.argsort(-tokens, kind="stable")[: parts * size]
        some = generator.permutation(60)[: parts * size]
        largest = [tokens[balanced_partition(rows, tokens, parts)].sum(axis=1).max() for rows in (longest, some)]
        assert largest[0] >= largest[1]


def test_sixteen_steps_are_sorted_by_length_together():
    """Of 16 steps each holds neighbours; a 17th stands outside their window."""
    for steps, sorted_together in ((16, True), (17, False)):
        lengths = np.random.default_rng(steps).permutation(4 * steps)
        found = np.sort(lengths[StepSampler(4 * steps, 4, lengths=lengths).epoch_steps(0)], axis=1)
        neighbours = np.array_equal(found[np.argsort(found[:, 0])], np.arange(4 * steps).reshape(steps, 4))
        assert neighbours == sorted_together


def test_rows_of_equal_length_are_dealt_in_their_order():
    """On every processor: what numpy sorts fastest puts equal ones anywhere."""
    tokens, rows = np.random.default_rng(0).integers(1, 4, size=400), np.random.default_rng(1).permutation(400)
    by_hand = np.array(sorted(rows, key=lambda row: -tokens[row])).reshape(100, 4)
    by_hand[1::2] = by_hand[1::2, ::-1]
    np.testing.assert_array_equal(balanced_partition(rows, tokens, 4), by_hand.T)


def test_a_sampler_of_ones_own_says_what_a_step_holds():
    class InOrder(DistributedStepSampler):
        def epoch_steps(self, epoch):
            return np.arange(self.steps * self.step_rows).reshape(self.steps, self.step_rows)

    assert list(InOrder(5, 2)) == [[(0, 0), (1, 0)], [(2, 0), (3, 0)]]
    assert list(InOrder(5, 2, world_size=2, rank=1)) == [[(2, 0), (3, 0)]]
