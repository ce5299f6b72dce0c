"""A small judged corpus, and what searches it."""

import pytest

from e5ft.retrieval.columns import StringColumn
from e5ft.retrieval.sets import RetrievalSet
from e5ft.serving.searching import BASE, MODEL, SideBySide
from tests.conftest import make_encoder, make_rows

PLANTED = "<script>alert('w1')</script> \"><b onmouseover=x>w1</b> 서울은 크다"


def make_judged() -> RetrievalSet:
    """40 passages, the first of which tries to be markup; q1 is answered by two of them, q2 is a passage itself."""
    passages = [PLANTED, *(row["document"] for row in make_rows(39, seed=3))]
    ids = [f"d{number:02}" for number in range(len(passages))]
    queries = ["w1 서울", passages[5]]
    qrels = {"q1": {"d00": 2, "d07": 1, "d08": 0}, "q2": {"d09": 1}}
    left_out = {"q2": "d05"}
    columns = (StringColumn(part) for part in (["q1", "q2"], queries, ids, passages))
    return RetrievalSet("small-test", *columns, qrels, left_out)


@pytest.fixture(scope="module")
def searched():
    models = {BASE: make_encoder(seed=1), MODEL: make_encoder(seed=2)}
    return SideBySide(make_judged(), models, weight=0.6)
