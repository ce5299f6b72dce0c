"""The relations of a step against their definitions, worked out pair by pair."""

import dataclasses

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from e5ft.data.collator import Example, collate
from e5ft.data.step import Step, join
from tests.data.conftest import PROPERTY

# A row: (query, positive, negatives), small numbers standing for texts. Queries and passages share numbers on purpose.
ROWS = st.tuples(st.integers(0, 5), st.integers(-4, 6), st.lists(st.integers(-4, 6), max_size=3))
DATA = st.lists(ROWS, min_size=1, max_size=14)
ELSEWHERE = st.lists(st.tuples(st.integers(0, 5), st.integers(-4, 9)), max_size=6)  # what other rows of the data answer


def answers_of(data, elsewhere) -> dict[int, set[int]]:
    """Each query's known positives in the whole data."""
    known: dict[int, set[int]] = {}
    for query, positive in [row[:2] for row in data] + elsewhere:
        known.setdefault(query, set()).add(positive)
    return known


def step_of(data, known) -> Step:
    examples = [
        Example(
            query=[100, query],
            positives=[[200, 200, positive]],
            negatives=[[200, 200, negative] for negative in negatives],
            query_id=query,
            positive_ids=[positive],
            negative_ids=negatives,
            known=np.array(sorted(known[query]), dtype=np.int64),
        )
        for query, positive, negatives in data
    ]
    return collate(list(enumerate(examples))).step


def named(step: Step) -> dict[str, object]:
    """The relations by identity instead of by index: what must not depend on how a step was put together."""
    passages, queries = step.text_id[step.passage].tolist(), step.query_id[step.distinct_query].tolist()

    def pairs(relation, columns):
        rows = relation[0].tolist()
        assert rows == sorted(rows)
        found = [(row, columns[column]) for row, column in zip(rows, relation[1].tolist(), strict=True)]
        assert len(set(found)) == len(found)
        return set(found)

    return {
        "passages": passages,
        "queries": queries,
        "answers": pairs(step.answers, passages),
        "answered_by_positive": pairs(step.answered_by_positive, queries),
        "same_answer": pairs(step.same_answer, queries),
        "negatives": step.negatives,
    }


def reference(data, known, start: int, stop: int) -> dict[str, object]:
    """The definitions, pair by pair, for the rows from start to stop."""
    passages = sorted({positive for _, positive, _ in data} | {negative for *_, negatives in data for negative in negatives})
    queries = sorted({query for query, *_ in data})
    own = list(enumerate(data))[start:stop]
    answers = {(row, passage) for row, (query, *_) in own for passage in passages if passage in known[query]}
    return {
        "passages": passages,
        "queries": queries,
        "answers": answers,
        "answered_by_positive": {(row, query) for row, (_, positive, _) in own for query in queries if positive in known[query]},
        "same_answer": {(row, other) for row, (query, *_) in own for other in queries if known[query] & known[other]},
        "negatives": len(own) * len(passages) - len(answers),
    }


def check_indices(step: Step, data) -> None:
    """Every index points at a text with the identity that its row names."""
    assert step.text_id[step.query].tolist() == step.query_id.tolist() == [query for query, *_ in data]
    assert step.text_id[step.positive].tolist() == [positive for _, positive, _ in data]
    assert step.text_id[step.negative].tolist() == [negative for *_, negatives in data for negative in negatives]
    assert step.negative_count.tolist() == [len(negatives) for *_, negatives in data]
    # The passages are passages, although a query may have the same identity; the queries are first occurrences.
    assert set(step.passage.tolist()) <= {*step.positive.tolist(), *step.negative.tolist()}
    for row in step.distinct_query:
        assert step.query_id[row] not in step.query_id[:row]


def cut(data, cuts) -> list[list]:
    """The rows in consecutive, non-empty parts."""
    borders = sorted({0, len(data), *(c % len(data) for c in cuts)})
    return [data[a:b] for a, b in zip(borders, borders[1:], strict=False)]


@PROPERTY
@given(DATA, ELSEWHERE)
def test_the_relations_are_what_they_are_defined_to_be(data, elsewhere):
    known = answers_of(data, elsewhere)
    step = step_of(data, known)
    check_indices(step, data)
    assert named(step) == reference(data, known, 0, len(data))


@PROPERTY
@given(DATA, ELSEWHERE, st.lists(st.integers(1, 13), max_size=3))
def test_parts_joined_have_the_relations_of_the_whole_and_each_part_those_of_its_own_rows(data, elsewhere, cuts):
    known = answers_of(data, elsewhere)
    parts = cut(data, cuts)
    steps = [step_of(part, known) for part in parts]
    joined = join(steps)
    check_indices(joined, data)
    assert joined.local_rows == (0, len(data))
    assert named(joined) == named(step_of(data, known))
    start = 0
    for number, part in enumerate(parts):
        own = join(steps, local=number)
        assert own.local_rows == (start, start + len(part))
        assert named(own) == reference(data, known, start, start + len(part))
        start += len(part)


@PROPERTY
@given(DATA, ELSEWHERE, st.lists(st.integers(1, 13), min_size=2, max_size=4))
def test_joining_joined_steps_is_joining_them_all(data, elsewhere, cuts):
    """Micro-batches are joined on each process first, and what comes of it between the processes."""
    steps = [step_of(part, answers_of(data, elsewhere)) for part in cut(data, cuts)]
    if len(steps) < 2:
        return
    at_once = join(steps)
    nested = join([join(steps[:-1]), steps[-1]])
    for field in dataclasses.fields(Step):
        assert np.array_equal(getattr(at_once, field.name), getattr(nested, field.name))


@PROPERTY
@given(DATA, ELSEWHERE)
def test_packing_and_unpacking_changes_nothing(data, elsewhere):
    step = step_of(data, answers_of(data, elsewhere))
    packed = step.pack()
    assert packed.dtype == np.int64 and packed.ndim == 1
    unpacked = Step.unpack(packed)
    for field in dataclasses.fields(Step):
        before, after = getattr(step, field.name), getattr(unpacked, field.name)
        assert np.array_equal(before, after)
        assert field.name in ("local_rows", "side") or after.dtype == np.int64


def test_unpacked_rows_are_all_local():
    data = [(0, 1, []), (1, 2, [3])]
    part = join([step_of([row], answers_of(data, [])) for row in data], local=1)
    assert part.local_rows == (1, 2)
    assert Step.unpack(part.pack()).local_rows == (0, 2)


def test_a_step_worked_by_hand():
    """Queries 1, 2, 1; positives 7, 8, 9; the second row's hard negative 9 answers query 1; 8 answers query 1 elsewhere.

    Of 3 x 3 pairs, query 1 is answered by 7, 8 and 9 in both of its rows, query 2 by 8: 9 - 7 = 2 negatives.
    """
    data = [(1, 7, []), (2, 8, [9]), (1, 9, [])]
    step = step_of(data, answers_of(data, [(1, 8)]))
    assert step.negatives == 2
    assert [array.tolist() for array in step.answers] == [[0, 0, 0, 1, 2, 2, 2], [0, 1, 2, 1, 0, 1, 2]]
    assert [array.tolist() for array in step.answered_by_positive] == [[0, 1, 1, 2], [0, 0, 1, 0]]
    assert [array.tolist() for array in step.same_answer] == [[0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 0, 1]]
    assert step.distinct_query.tolist() == [0, 1]


def test_side_arrays_are_joined_and_packed_with_the_rest():
    """Vectors per text, scores per row and per negative; an odd number of float32 does not fill the int64 words."""
    data = [(0, 1, [2, 3]), (1, 4, []), (0, 1, [5])]
    steps = []
    for part, rows in enumerate((data[:1], data[1:])):
        step, generator = step_of(rows, answers_of(data, [])), np.random.default_rng(part)
        step.side["guide"] = generator.normal(size=(len(step.text_id), 3)).astype(np.float32)
        step.side["teacher_positive"] = generator.normal(size=len(rows)).astype(np.float32)
        step.side["teacher_negative"] = generator.normal(size=len(step.negative)).astype(np.float32)
        steps.append(step)
    joined = join([Step.unpack(step.pack()) for step in steps])
    for name in ("guide", "teacher_positive", "teacher_negative"):
        assert np.array_equal(joined.side[name], np.concatenate([step.side[name] for step in steps]))
        assert joined.side[name].dtype == np.float32
    del steps[0].side["guide"]
    assert set(join(steps).side) == {"teacher_positive", "teacher_negative"}


def test_local_negatives_are_the_rows_own_hard_negatives():
    data = [(0, 1, [2, 3]), (1, 4, []), (2, 6, [5, 2])]
    step = step_of(data, answers_of(data, []))
    for number, wanted in ((None, {(0, 2), (0, 3), (2, 5), (2, 2)}), (2, {(2, 5), (2, 2)}), (1, set())):
        own = step if number is None else join([step_of([row], answers_of(data, [])) for row in data], local=number)
        rows, columns = own.local_negatives
        assert {
            (row, int(own.text_id[own.passage[column]])) for row, column in zip(rows.tolist(), columns, strict=True)
        } == wanted
