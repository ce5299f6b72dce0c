"""Near-duplicates go, queries of several chunks go, and a query must find its chunk, without its own words in it."""

from dataclasses import replace

import numpy as np

from e5ft.retrieval.bm25 import BM25
from e5ft.synthesis.queries import Query, make_queries
from e5ft.synthesis.sifting import distinct, lost, near_queries, repeated, searching
from tests.conftest import make_encoder, make_rows


def test_a_copy_is_stood_for_by_the_first(chunks):
    some = chunks[:6]
    copies = [
        *some,
        replace(some[2], text=f"  {some[2].text} "),
        replace(some[1], text=some[1].text.replace("보낸다", "꼭 보낸다")),
    ]
    kept, original = distinct(copies)
    assert kept == list(range(6)) and original == {6: 2, 7: 1}


def test_queries_of_several_chunks_and_near_duplicates_of_one_go():
    texts = [
        ("연차 휴가는 며칠인가요?", 0),
        ("연차 휴가는 며칠인가요", 0),
        ("출장비는 얼마인가요?", 1),
        ("출장비는 얼마인가요?", 2),
        ("연차 휴가는 며칠인가요!", 3),
    ]
    queries = [Query("faq", text, chunk, "") for text, chunk in texts]
    near = near_queries(queries)
    assert {(0, 1), (1, 0), (2, 3), (3, 2)} <= set(map(tuple, near.tolist())) and (near[:, 0] != near[:, 1]).all()
    out = repeated(queries, near)
    assert {number: reason.split()[0] for number, reason in out.items()} == {1: "near-duplicate", 2: "asks", 3: "asks"}
    assert len(near_queries([])) == 0


def test_a_query_must_find_its_chunk(chunks):
    search = searching("auto", None, None)
    right = [Query("faq", chunk.text[:20], number, chunk.text) for number, chunk in enumerate(chunks)]
    assert lost(right, chunks, 10, search) == set()
    others = [(query.chunk + 40) % len(chunks) for query in right]
    wrong = [replace(query, chunk=n, passage=chunks[n].text) for query, n in zip(right, others, strict=True)]
    assert lost(wrong, chunks, 1, search) == set(range(len(chunks)))


def test_with_a_model_the_hybrid_searches(tmp_path):
    """.7 of the cosines and .3 of BM25's scores, each standardised: of fewer passages than candidates, over all of them."""
    rows, encoder = make_rows(40, negatives=False), make_encoder()
    texts, queries = list({row["document"]: None for row in rows}), [row["query"] for row in rows]
    passages, asked = (np.asarray(encoder.encode(part, role)) for part, role in ((texts, "passage"), (queries, "query")))
    parts = asked @ passages.T, np.stack(list(BM25(texts).scores(queries)))
    dense, lexical = ((part - part.mean(1, keepdims=True)) / part.std(1, keepdims=True) for part in parts)
    expected = np.argsort(-(0.7 * dense + 0.3 * lexical), axis=1, kind="stable")[:, :5]
    found = searching("auto", encoder, tmp_path)(texts, queries, 5)
    assert (found == expected).mean() > 0.99 and (found != searching("auto", None, None)(texts, queries, 5)).any()


def test_a_sentence_is_not_found_by_itself(chunks):
    """Its words are in the chunk, but the chunk is searched without it."""
    queries = make_queries(chunks, ["first_sentence"], 10, 1)
    [number] = [n for n, query in enumerate(queries) if query.chunk == 1]
    alone = replace(queries[number], text="달나라 토끼", passage="전혀 다른 글이다")
    changed = [replace(c, text="달나라 토끼. 전혀 다른 글이다") if n == 1 else c for n, c in enumerate(chunks)]
    search = searching("auto", None, None)
    assert lost([alone], changed, 10, search) == {0}
    assert lost([replace(alone, passage=changed[1].text)], changed, 10, search) == set()


def test_of_no_query_none_is_lost(chunks):
    assert lost([], chunks, 10, lambda *_: np.empty((0, 10))) == set()
