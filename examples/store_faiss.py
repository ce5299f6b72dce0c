"""A corpus into faiss, queries out, with float32, int8 or binary vectors.

pip install faiss-cpu sentence-transformers
python examples/store_faiss.py MODEL CORPUS.jsonl "질문" [float32 | int8 | binary]

MODEL is a folder of export.py; binary needs its centre.json (python export.py ... data.corpus_file=CORPUS.jsonl). The ranking
is that of eval.py, and for int8 and binary that of its rows "rescored" (evaluation.precisions=[int8,binary]): queries stay float.
"""

import json
import sys
from pathlib import Path

import faiss
import numpy as np


def ingest(passages: np.ndarray, precision: str = "float32", centre: np.ndarray | None = None):
    """An index of unit vectors (P, D); every kind of it can be written with faiss.write_index or write_index_binary."""
    count, dimension = passages.shape
    if precision == "binary":
        index = faiss.IndexBinaryFlat(8 * -(-dimension // 8))
        index.add(np.packbits(passages > centre, axis=1))
        return index
    if precision == "int8":
        # One scale for all dimensions. Not QT_8bit_direct_signed: it cuts queries to whole numbers where 16 divides D.
        index = faiss.IndexScalarQuantizer(dimension, faiss.ScalarQuantizer.QT_8bit_uniform, faiss.METRIC_INNER_PRODUCT)
        index.train(passages)
    else:
        index = faiss.IndexFlatIP(dimension)
    index.add(np.ascontiguousarray(passages, dtype=np.float32))
    return index


def search(index, queries: np.ndarray, k: int, precision: str = "float32", centre: np.ndarray | None = None):
    """Scores and positions (Q, k). Of bits 4 k candidates by Hamming distance are scored by the float query."""
    if precision != "binary":
        return index.search(queries, k)
    candidates = index.search(np.packbits(queries > centre, axis=1), min(4 * k, index.ntotal))[1]
    scores, positions = [], []
    for query, found in zip(queries - centre, candidates, strict=True):
        bits = np.unpackbits(np.stack([index.reconstruct(int(i)) for i in found]), axis=1, count=len(query))
        products = (2.0 * bits - 1) @ query
        order = np.argsort(-products, kind="stable")[:k]
        scores.append(products[order])
        positions.append(found[order])
    return np.array(scores, np.float32), np.array(positions)


def main(folder: str, corpus: str, question: str, precision: str = "float32") -> None:
    """Print the five best passages of a file of {"title", "text"}."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder)
    rows = [json.loads(line) for line in Path(corpus).read_text(encoding="utf-8").splitlines()]
    texts = [f"{row.get('title') or ''} {row['text']}".strip() for row in rows]
    centre = None
    if precision == "binary":
        centre = np.array(json.loads((Path(folder) / "centre.json").read_text(encoding="utf-8"))["vector"], np.float32)
    index = ingest(model.encode(texts, prompt_name="passage"), precision, centre)
    scores, positions = search(index, model.encode([question], prompt_name="query"), 5, precision, centre)
    for score, position in zip(scores[0], positions[0], strict=True):
        print(f"{score:.3f}  {texts[position][:80]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
