"""The numbers in the place of `auto`: of a step and of epochs, by the rows alone."""

import pytest

from e5ft.training.schedule import AUTO, FIELDS, cut_step, number_of_epochs, numbers, queries_per_step, reasons

ROWS = [1, 2, 3, 10, 16, 20, 300, 1_024, 2_000, 10_000, 100_000, 1_000_000]


@pytest.mark.parametrize(
    ("rows", "queries", "epochs"),
    [
        (1, 1, 4), (2, 2, 4), (3, 2, 4), (10, 8, 4), (15, 8, 4), (16, 16, 4), (20, 16, 4),  # a step is never more than the rows
        (300, 16, 4), (400, 16, 3), (511, 16, 2), (512, 32, 2), (999, 32, 2), (1_000, 32, 1), (1_024, 32, 1), (2_000, 32, 1),
        (2_048, 64, 1), (10_000, 128, 1), (32_768, 256, 1), (1_000_000, 256, 1),
    ],
)  # fmt: skip
def test_numbers_worked_by_hand(rows, queries, epochs):
    """A step is the largest power of two of which the square is at most twice the rows; 16 and 256 are its ends."""
    assert (queries_per_step(rows), number_of_epochs(rows)) == (queries, epochs)


def test_every_number_of_rows_has_a_step_and_enough_of_them():
    previous = 0
    for rows in [*range(1, 3_000), *range(3_000, 400_000, 997)]:
        queries, epochs = queries_per_step(rows), number_of_epochs(rows)
        assert previous <= queries <= min(rows, 256)  # more rows, never a smaller step
        assert rows * epochs >= 1_000 or epochs == 4
        assert rows < 128 or rows // queries * epochs >= 30
        previous = queries


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("processes", [1, 2, 8])
@pytest.mark.parametrize("micro_batch", [1, 8, 24, 32, 1_000])
def test_the_machine_changes_the_cut_and_not_the_step(rows, processes, micro_batch):
    queries = queries_per_step(rows)
    size, passes = cut_step(queries, micro_batch, processes)
    assert 1 <= size <= micro_batch and passes >= 1
    assert size * passes * processes == max(queries, processes)  # each process has a query at least


@pytest.mark.parametrize(
    ("queries", "micro_batch", "processes", "cut"),
    [
        (256, 32, 1, (32, 8)), (256, 32, 8, (32, 1)), (256, 16, 2, (16, 8)), (16, 32, 1, (16, 1)),
        (256, 24, 1, (16, 16)),  # 24 divides no power of two
        (32, 32, 3, (10, 1)), (256, 32, 3, (28, 3)), (16, 8, 3, (5, 1)), (256, 16, 11, (11, 2)),
    ],
)  # fmt: skip
def test_cuts_worked_by_hand(queries, micro_batch, processes, cut):
    """Three processes share 30 of 32 queries, and 252 of 256, in even parts."""
    assert cut_step(queries, micro_batch, processes) == cut


def asked(*values):
    return {**dict(zip(FIELDS, values, strict=True)), "max_steps": -1}


def test_numbers_of_the_user_s_own_stay():
    assert numbers(asked(64, 3, 7), 300, 2) == dict(zip(FIELDS, (64, 3, 7), strict=True))
    assert numbers(asked(64, 3, AUTO), 300, 2) == dict(zip(FIELDS, (64, 3, 4), strict=True))
    assert numbers(asked(32, AUTO, 0.5), 1_024, 2) == dict(zip(FIELDS, (16, 1, 0.5), strict=True))


def test_a_step_fits_the_smallest_source_where_it_is_of_one():
    assert numbers(asked(32, AUTO, AUTO), 10_020, 1, 20) == dict(zip(FIELDS, (16, 1, 1), strict=True))
    assert queries_per_step(10_020, 0) == 1  # which the sampler refuses by the source's name


def test_the_words_name_what_is_auto_and_nothing_else():
    assert reasons(asked(32, AUTO, AUTO), 1_024) == (", auto for 1,024 rows", " (auto)")
    assert reasons(asked(32, 1, AUTO), 1_024) == ("", " (auto for 1,024 rows)")
    assert reasons(asked(32, AUTO, AUTO) | {"max_steps": 5}, 1_024) == (", auto for 1,024 rows", "")
    assert reasons(asked(32, AUTO, 2), 10_020, 20) == (", auto for 10,020 rows, 20 in the smallest source", "")
    assert reasons(asked(32, 1, 2), 1_024) == ("", "")
