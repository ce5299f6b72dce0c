"""String columns behave as sequences of strings."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e5ft.retrieval import columns
from e5ft.retrieval.columns import StringColumn

strings = st.lists(st.text(alphabet="abé가힣😀", max_size=4), max_size=20)


@settings(deadline=None, derandomize=True)
@given(values=strings, start=st.integers(-25, 25), stop=st.integers(-25, 25), step=st.sampled_from([-2, -1, 1, 3]))
def test_a_column_is_a_sequence(values, start, stop, step):
    column = StringColumn(iter(values))
    assert len(column) == len(values) and list(column) == values
    assert list(column[start:stop:step]) == values[start:stop:step]
    assert [column[i] for i in range(-len(values), len(values))] == values + values
    assert (column == StringColumn(values)) and (column != StringColumn([*values, "x"]))
    with pytest.raises(IndexError):
        column[len(values)]


@settings(deadline=None, derandomize=True)
@given(values=strings)
def test_order_and_positions(values):
    column = StringColumn(values)
    assert column.ascending().tolist() == sorted(range(len(values)), key=lambda i: (values[i], i))
    assert list(column.take(column.ascending())) == sorted(values)
    last = {value: i for i, value in enumerate(values)}
    wanted = ["a", "가", "absent"]
    assert column.positions_of(wanted) == {value: last[value] for value in wanted if value in last}


def test_many_blocks(monkeypatch):
    monkeypatch.setattr(columns, "BLOCK", 3)
    for count in (0, 1, 3, 4, 10):
        values = [str(i) for i in range(count)]
        assert list(StringColumn(values)) == values
