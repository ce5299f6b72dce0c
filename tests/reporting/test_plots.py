"""Plots: their letters are letters, their colours the page's, and what they draw is what they were given."""

import xml.etree.ElementTree as ElementTree

import pytest

from e5ft.reporting import plots

SVG = "{http://www.w3.org/2000/svg}"
HANGUL = '학습 전 <b> $x_1$ & "끝"'


def drawn() -> dict[str, str]:
    return {
        "lines": plots.lines({HANGUL: ([1, 2, 3], [3, 1, 2])}, "스텝", "손실", references={"BM25": 2.0}, mark=(2, "고른 스텝")),
        "log": plots.lines({HANGUL: ([1, 2], [1e-3, 10])}, "x", "y", log=True),
        "bars": plots.bars(["1", HANGUL], {"전": [0.1, 0.2], "후": [0.3, 0.4]}, "K", "Recall@K", top=1),
        "histogram": plots.histogram({HANGUL: [0.7, 0.8], "없음": []}, "코사인", "비율", mark=(0.75, "임계값")),
        "nothing": plots.histogram({"없음": []}, "x", "y"),
        "intervals": plots.intervals([(HANGUL, 0.1, -0.1, 0.3), ("b", 0.2, 0.1, 0.3)], "차이"),
    }


@pytest.fixture(scope="module")
def figures() -> dict:
    return {name: ElementTree.fromstring(text) for name, text in drawn().items()}


def texts(figure) -> list[str]:
    return ["".join(text.itertext()) for text in figure.iter(f"{SVG}text")]


def test_letters_are_text_and_no_markup(figures):
    for name in ("lines", "bars", "intervals"):
        assert HANGUL in texts(figures[name])
    assert f"{HANGUL} (2)" in texts(figures["histogram"]) and "BM25 2.000" in texts(figures["lines"])


def test_nothing_that_a_policy_stops_and_no_colour_of_one_theme(figures):
    for figure in figures.values():
        tags = {element.tag.removeprefix(SVG) for element in figure.iter()}
        assert not tags & {"style", "script", "metadata", "image", "foreignObject"}
        for element in figure.iter():
            assert "style" not in element.attrib
            assert {element.get("fill"), element.get("stroke")} <= {None, "none", "currentColor", *plots.COLOURS}
        assert all(text.get("fill") == "currentColor" for text in figure.iter(f"{SVG}text"))


def test_links_within_lead_to_ids_of_the_figure_alone(figures):
    ids = {name: {e.get("id") for e in figure.iter() if e.get("id")} for name, figure in figures.items()}
    for name, figure in figures.items():
        assert {e.get("href")[1:] for e in figure.iter() if e.get("href")} <= ids[name]
    assert sum(map(len, ids.values())) == len(set().union(*ids.values()))


def test_the_same_plot_is_the_same_text():
    assert drawn() == drawn()


def test_two_curves_are_two_paths_at_their_heights():
    def heights(values):
        figure = ElementTree.fromstring(plots.lines({"a": ([0, 1], values)}, "", ""))
        (path,) = (e for e in figure.iter(f"{SVG}path") if e.get("stroke") == plots.COLOURS[0] and e.get("stroke-width") == "1.6")
        _, _, first, _, _, last = path.get("d").split()
        return float(first), float(last)

    up, down = heights([1, 2]), heights([2, 1])
    assert up[0] > up[1] and up == down[::-1]
