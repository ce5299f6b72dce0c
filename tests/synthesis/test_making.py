"""From documents to rows: everything that was made is a row or counted with its reason, and no part sees another's documents."""

import json

import pytest

from e5ft.data.settings import Columns
from e5ft.data.store import load_rows
from e5ft.errors import DataError
from e5ft.retrieval.copies import NearCopies
from e5ft.retrieval.sets import load_beir
from e5ft.synthesis.chunks import cut
from e5ft.synthesis.making import make, searched_chunks
from e5ft.synthesis.queries import KINDS, Query, make_queries
from e5ft.synthesis.sifting import searching
from e5ft.synthesis.splitting import DEV, TEST, TRAIN
from tests.synthesis.conftest import make_documents

SEARCH = searching("auto", None, None)


def made_of(chunks, kinds=tuple(KINDS), more=(), k=10, shares=(0.1, 0.2)):
    return make(chunks, [*make_queries(chunks, kinds, 10, 1), *more], k, SEARCH, shares, 1)


def test_every_query_is_kept_or_counted(chunks):
    made = made_of(chunks)
    total, kept = sum(made.account.made.values()), sum(made.account.kept.values())
    assert total == kept + sum(made.account.dropped.values()) and kept == len(made.queries) == len(made.parts)
    for counts in made.by_kind().values():
        assert counts["made"] == counts["kept"] + sum(counts["left_out"].values())
        assert counts["kept"] == counts["train"] + counts["dev"] + counts["test"]
    assert all(1 <= len(shown) <= 5 for shown in made.account.examples.values())


def test_documents_are_in_one_part_and_no_query_in_two(chunks):
    made = made_of(chunks)
    assert made.unit == "documents" and min(made.counts().values()) > 0
    of_part = {
        part: {chunks[q.chunk].document for q, p in zip(made.queries, made.parts, strict=True) if p == part}
        for part in (TRAIN, DEV, TEST)
    }
    assert not of_part[TRAIN] & of_part[DEV] and not of_part[TRAIN] & of_part[TEST] and not of_part[DEV] & of_part[TEST]
    train, test = ([row.query for row in made.of_part(part)] for part in (TRAIN, TEST))
    assert len(NearCopies(train).pairs(test)) == 0


def test_a_training_query_like_one_of_the_test_part_goes(chunks):
    more = [
        Query("faq", f"모두가 똑같이 묻는 긴 질문은 무엇인가요 {n}", number, chunk.text)
        for n, (number, chunk) in enumerate(enumerate(chunks))
    ]
    made = made_of(chunks, more=more, k=None)
    assert made.account.dropped["near-duplicate of an evaluation query"] > 10
    train, test = ([row.query for row in made.of_part(part)] for part in (TRAIN, TEST))
    assert len(NearCopies(train).pairs(test)) == 0


def test_with_enough_people_s_queries_only_these_evaluate(chunks, monkeypatch):
    assert not made_of(chunks).natural
    monkeypatch.setattr("e5ft.synthesis.making.FEWEST_NATURAL", 5)
    made = made_of(chunks)
    assert made.natural and {q.kind for q, p in zip(made.queries, made.parts, strict=True) if p != TRAIN} <= {
        "title",
        "heading",
        "faq",
    }
    assert {q.kind for q, p in zip(made.queries, made.parts, strict=True) if p == TRAIN} == set(KINDS)
    assert made.account.dropped["nobody would type it: not evaluated by"] > 0


def test_few_documents_are_split_by_section_and_very_few_chunks_not_at_all():
    for documents, unit in ((12, "documents"), (4, "sections"), (2, None)):
        chunks = cut(make_documents(documents), 10, 200).chunks
        made = made_of(chunks, k=None)
        assert made.unit == unit and (made.counts()["test"] > 0) == (unit is not None)


def test_the_folder_is_read_as_rows_and_as_a_set(chunks, tmp_path):
    made = made_of(chunks)
    made.write(tmp_path / "out", {"some": "record"})
    rows = load_rows(str(tmp_path / "out/train.jsonl"), Columns(), tmp_path / "cache")
    assert list(rows) == made.of_part(TRAIN)
    dev, test = (load_beir(tmp_path / "out/eval", split) for split in ("dev", "test"))
    assert len(dev.queries) == made.counts()["dev"] and len(test.queries) == made.counts()["test"]
    searched = set(dev.passages)
    for each in load_rows(str(tmp_path / "out/dev.jsonl"), Columns(), tmp_path / "cache"):
        assert searched.issuperset(each.positives), each
    assert any(q.passage != chunks[q.chunk].text for q, p in zip(made.queries, made.parts, strict=True) if p == DEV)
    assert len(test.passages) == len(chunks) and json.loads((tmp_path / "out/rows.json").read_text()) == {"some": "record"}
    texts = dict(zip(test.passage_ids, test.passages, strict=True))
    title = next(q for n, q in enumerate(test.query_ids) if test.queries[n].endswith("안내서"))
    assert len(test.qrels[title]) == 4  # every chunk of the document answers its title
    for n, query in enumerate(test.query_ids):  # none is found by being there word by word
        assert (
            all(test.queries[n] not in texts[passage] for passage in test.qrels[query])
            or test.queries[n].split()[0] in test.queries[n]
        )
    first = json.loads((tmp_path / "out/eval/corpus.jsonl").read_text().splitlines()[0])
    assert first["source"] == "연차.md" and first["headings"] == ["연차 안내서"]


def test_near_duplicates_of_chunks_are_not_searched():
    documents = make_documents(3)
    chunks, copies = searched_chunks(cut([*documents, documents[0]], 10, 200).chunks)
    assert len(chunks) == 12 and len(copies) == 4


def test_nothing_left_is_said(chunks):
    with pytest.raises(DataError, match="^no query is left of 1; more kinds, or round_trip=null$"):
        make(chunks, [Query("faq", "달나라 토끼", 0, chunks[0].text)], 1, SEARCH, (0.1, 0.1), 1)
