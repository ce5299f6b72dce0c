"""Faults of rows: each kind once, with its count and first places, at most a screen."""

from e5ft.data.faults import Faults
from e5ft.data.lines import BadLine, Location


def lines(*faults: tuple[str, int, str]) -> list[str]:
    collected = Faults()
    for source, line, reason in faults:
        collected.add(BadLine(Location(source, line), reason))
    return collected.lines()


def test_a_kind_is_a_line_whatever_value_it_quotes():
    found = lines(
        *(("a.csv", i, f"document[{i}] must be a string, this is int: '{i}'") for i in (3, 5, 9)),
        ("b.csv", 2, "document[0] must be a string, this is int: '7'"),
        ("b.csv", 4, "query is blank"),
    )
    assert found == [
        "4 rows: document[3] must be a string, this is int: a.csv:3, :5, :9, b.csv:2",
        "b.csv:4: query is blank",
    ]


def test_columns_are_kinds_of_their_own():
    assert lines(("f", 1, "query is blank"), ("f", 1, "document is blank")) == ["f:1: query is blank", "f:1: document is blank"]


def test_a_screen_is_enough():
    found = lines(*(("f", i, f"{'x' * i} is missing") for i in range(1, 100)), *(("f", i, "x is missing") for i in range(2, 92)))
    assert len(found) == 21 and found[-1] == "... and 79 more"
    assert found[0] == "91 rows: x is missing: f:1, :2, :3, :4, :5, ..."
