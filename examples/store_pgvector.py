"""A corpus into PostgreSQL with pgvector (0.7 or newer), queries out, with float32, float16 or binary vectors.

pip install "psycopg[binary]" sentence-transformers
python examples/store_pgvector.py MODEL CORPUS.jsonl "질문" [vector | halfvec | bit] [postgresql://localhost/postgres]

MODEL is a folder of export.py; bit needs its centre.json (python export.py ... data.corpus_file=CORPUS.jsonl). pgvector has no
int8; halfvec, 2 bytes a dimension, ranks as float32 does.
"""

import json
import sys
from pathlib import Path

import numpy as np
import psycopg

OPERATORS = {"vector": "vector_ip_ops", "halfvec": "halfvec_ip_ops", "bit": "bit_hamming_ops"}


def ingest(connection, passages: np.ndarray, texts: list[str], kind: str = "vector", centre=0.0) -> None:
    """Unit vectors (P, D) into a new table; beside bits stand the vectors as halfvec, which are read for candidates only."""
    dimension, column = passages.shape[1], "vector" if kind == "vector" else "halfvec"
    connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    connection.execute(
        f"CREATE TABLE passages (id bigint PRIMARY KEY, text text, embedding {column}({dimension}), bits bit({dimension}))"
    )
    with connection.cursor().copy("COPY passages FROM STDIN") as copy:
        for i, (vector, text) in enumerate(zip(passages, texts, strict=True)):
            copy.write_row((i, text, str(vector.tolist()), _bits(vector, centre)))


def index(connection, kind: str = "vector") -> None:
    """Search by HNSW from now on, which is quicker and may miss a passage; without an index search is exact."""
    column = "bits" if kind == "bit" else "embedding"
    connection.execute(f"CREATE INDEX ON passages USING hnsw ({column} {OPERATORS[kind]})")


def search(connection, query: np.ndarray, k: int, kind: str = "vector", centre=0.0) -> list[tuple[int, float]]:
    """The k best ids with their cosines. Of bits 4 k candidates by Hamming distance are scored by the halfvecs."""
    connection.execute(f"SET hnsw.ef_search = {max(40, 4 * k)}")
    vector, bits = str(query.tolist()), _bits(query, centre)
    column, source = "vector" if kind == "vector" else "halfvec", "passages"
    if kind == "bit":
        source = f"(SELECT * FROM passages ORDER BY bits <~> '{bits}'::bit({len(query)}) LIMIT {4 * k}) candidates"
    distance = f"embedding <#> %s::{column}"  # the dot product, negated
    rows = connection.execute(f"SELECT id, {distance} FROM {source} ORDER BY {distance} LIMIT {k}", (vector, vector))
    return [(i, -value) for i, value in rows]


def _bits(vector: np.ndarray, centre) -> str:
    return "".join("1" if above else "0" for above in vector > centre)


def main(folder: str, corpus: str, question: str, kind: str = "vector", address: str = "postgresql://localhost/postgres") -> None:
    """Print the five best passages of a file of {"title", "text"}."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder)
    rows = [json.loads(line) for line in Path(corpus).read_text(encoding="utf-8").splitlines()]
    texts = [f"{row.get('title') or ''} {row['text']}".strip() for row in rows]
    centre = 0.0
    if kind == "bit":
        centre = np.array(json.loads((Path(folder) / "centre.json").read_text(encoding="utf-8"))["vector"], np.float32)
    with psycopg.connect(address) as connection:
        ingest(connection, model.encode(texts, prompt_name="passage"), texts, kind, centre)
        index(connection, kind)
        for position, score in search(connection, model.encode(question, prompt_name="query"), 5, kind, centre):
            print(f"{score:.3f}  {texts[position][:80]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
