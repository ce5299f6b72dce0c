"""The sample: where false negatives stand and where they come from; the pairs: what filters see, against plain sums."""

import numpy as np
import pytest

from benchmarks.candidates import KINDS, make_pairs, make_sample
from e5ft.data.rows import Row
from tests.conftest import make_encoder, make_rows

ROWS = [
    Row(
        "계약이 무효인지 여부를 판단하는 기준", ("계약은 공서양속에 어긋나면 효력이 없다.", "무효인 계약은 처음부터 효력이 없다.")
    ),
    Row("손해배상의 범위를 정하는 방법", ("통상의 손해를 그 한도로 한다.",)),
    Row("손해배상의 범위를 정하는 방법은", ("특별한 사정으로 인한 손해는 알았을 때에 배상한다.",)),
    Row("소멸시효가 중단되는 사유", ("청구와 압류와 승인이 있으면 시효가 중단된다.",)),
    Row("법원의 관할", ("피고의 주소지 법원이 관할한다.",)),
    Row("상고의 이유", ("판결에 영향을 미친 법률 위반이 있어야 한다.",)),
]


def false_negatives(sample, kind):
    places = [(q, passage) for q, passage, number in sample.false if KINDS[number] == kind]
    return {(sample.queries[q], sample.texts[sample.positives[q]], sample.texts[passage]) for q, passage in places}


def trigrams(text):
    bare = text.replace(" ", "")
    return {bare[i : i + 3] for i in range(len(bare) - 2)}


def test_a_further_document_is_withheld_and_a_like_question_is_a_twin():
    sample = make_sample(ROWS, 6, None, 1)
    query, documents = ROWS[0].query, ROWS[0].positives
    assert false_negatives(sample, "withheld") == {(query, *documents)}
    pair = [(row.query, row.positives[0]) for row in ROWS[1:3]]
    assert false_negatives(sample, "twin") == {(*pair[0], pair[1][1]), (*pair[1], pair[0][1])}
    withheld = next(place for _, place, kind in sample.false if KINDS[kind] == "withheld")
    assert withheld < sample.corpus == 7 and withheld not in sample.positives


def test_planted_passages_stand_behind_the_corpus_and_differ_from_the_positive():
    sample = make_sample(ROWS, 6, None, 1)
    planted = [(q, place) for q, place, kind in sample.false if kind >= 2]
    assert sorted(place for _, place in planted) == list(range(sample.corpus, len(sample.texts)))
    assert all(sample.texts[place] != sample.texts[sample.positives[q]] for q, place in planted)


def test_the_limit_keeps_what_the_drawn_queries_need():
    sample = make_sample(ROWS, 2, 2, 1)
    assert len(sample.queries) == 2 and sample.corpus <= 4
    assert all(0 <= place < len(sample.texts) for _, place, _ in sample.false)


def test_pairs_hold_neither_positives_nor_other_queries_plantings():
    rows = [Row(f"{row['query']} {i}", (row["document"],)) for i, row in enumerate(make_rows(30, negatives=False))]
    sample = make_sample(ROWS + rows, 12, None, 1)
    pairs = make_pairs(sample, make_encoder(), make_encoder(seed=1), depth=5)
    assert not np.any(pairs.passage == sample.positives[pairs.query])
    assert np.all(pairs.passage[pairs.kind < 0] < sample.corpus)
    assert sorted(zip(pairs.query[pairs.kind >= 0], pairs.passage[pairs.kind >= 0], strict=True)) == sorted(
        (q, place) for q, place, _ in sample.false
    )
    for q in range(len(sample.queries)):
        unjudged = (pairs.query == q) & (pairs.kind < 0)
        assert (unjudged & pairs.dense).sum() == 5 and (unjudged & pairs.bm25).sum() <= 5


def test_values_are_what_their_names_say():
    model = make_encoder()
    sample = make_sample(ROWS, 6, None, 1)
    pairs = make_pairs(sample, model, None, depth=3)
    queries, passages = model.encode(sample.queries, "query"), model.encode(sample.texts, "passage")
    for i, (q, c) in enumerate(zip(pairs.query, pairs.passage, strict=True)):
        score, positive = queries[q] @ passages[c], queries[q] @ passages[sample.positives[q]]
        assert pairs.values["margin"][i] == pytest.approx(score - positive, abs=1e-5)
        assert pairs.values["percent"][i] == pytest.approx(1 + (score - positive) / abs(positive), abs=1e-4)
        own, other = (trigrams(sample.texts[place]) for place in (c, sample.positives[q]))
        assert pairs.values["jaccard3"][i] == pytest.approx(len(own & other) / len(own | other))
    assert not any(name.startswith("guide") for name in pairs.values)
