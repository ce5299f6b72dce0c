"""Parallel coordinates: a line a run over all axes, the best one on top, values where they belong."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from e5ft.reporting.parallel import _places, parallel
from e5ft.reporting.plots import COLOURS


def test_a_line_a_run_and_a_label_a_value():
    svg = parallel({"loss.temperature": ["0.1", "0.02", "0.1"], "data": ["가", "<b>", "가"]}, "dev ndcg@10", [0.8, 0.7, 0.75])
    root = ElementTree.fromstring(svg)
    texts = ["".join(element.itertext()) for element in root.iter() if element.tag.endswith("}text")]
    assert {"temperature", "data", "dev ndcg@10", "0.1", "0.02", "가", "<b>", "0.7", "0.8"} <= set(texts)
    assert len(re.findall(f'stroke="{COLOURS[0]}"', svg)) == 2 and len(re.findall(f'stroke="{COLOURS[1]}"', svg)) == 1


def test_few_values_stand_at_equal_distances_and_many_numbers_where_they_are():
    assert _places(["0.1", "0.01", "0.02"])[0] == [1.0, 0.0, 0.5]
    assert _places(["b", "a"])[0] == [0.0, 1.0]  # words in the order in which they came
    many = [str(value) for value in range(1, 11)]
    assert _places(many)[0] == [number / 9 for number in range(10)]
    powers = [str(10.0**-power) for power in range(10)]  # over a wide range by their logarithms
    assert _places(powers)[0] == pytest.approx([1 - number / 9 for number in range(10)])


def test_one_value_or_one_score_alone_divides_by_nothing():
    assert _places(["1", "1"])[0] == [0.0, 0.0]
    assert "NaN" not in parallel({"a": ["1", "2"]}, "dev", [0.5, 0.5])
