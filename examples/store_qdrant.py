"""A corpus into Qdrant, queries out, with float32, int8 or binary vectors.

pip install qdrant-client sentence-transformers
python examples/store_qdrant.py MODEL CORPUS.jsonl "질문" [float32 | int8 | binary] [http://localhost:6333]

MODEL is a folder of export.py; binary needs its centre.json (python export.py ... data.corpus_file=CORPUS.jsonl). Without an
address Qdrant runs in this process, which searches float32 whatever the precision; a server searches the small vectors.
"""

import json
import sys
from pathlib import Path

import numpy as np
from qdrant_client import QdrantClient, models

ORIGINALS = models.SearchParams(quantization=models.QuantizationSearchParams(ignore=True))
CODES = models.SearchParams(quantization=models.QuantizationSearchParams(rescore=False))
RESCORED = models.SearchParams(quantization=models.QuantizationSearchParams(rescore=True, oversampling=4))
QUANTISATION = {
    "float32": None,
    "int8": models.ScalarQuantization(scalar=models.ScalarQuantizationConfig(type="int8", always_ram=True)),
    "binary": models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True)),
}


def ingest(client, name: str, passages: np.ndarray, payload: list[dict], precision: str = "float32", centre=0.0) -> None:
    """Unit vectors (P, D) into a new collection; with int8 and binary the originals lie on disk. Bits are of the vector's signs."""
    client.create_collection(
        name,
        vectors_config=models.VectorParams(size=passages.shape[1], distance=models.Distance.DOT, on_disk=precision != "float32"),
        quantization_config=QUANTISATION[precision],
    )
    vectors = passages - centre if precision == "binary" else passages
    client.upload_collection(name, vectors=vectors, payload=payload, ids=range(len(passages)))


def search(client, name: str, query: np.ndarray, k: int, precision: str = "float32", centre=0.0) -> list[tuple[int, float]]:
    """The k best ids with their cosines. Of bits 4 k candidates by Hamming distance are scored by the originals."""
    if precision != "binary":
        found = client.query_points(name, query=query.tolist(), limit=k, search_params=RESCORED).points
        return [(point.id, point.score) for point in found]
    # Two queries: about the centre for the bits; as it is for the originals, where the centre moves all scores alike.
    bits = models.Prefetch(query=(query - centre).tolist(), limit=4 * k, params=CODES)
    found = client.query_points(name, prefetch=[bits], query=query.tolist(), limit=k, search_params=ORIGINALS).points
    return [(point.id, point.score + float(query @ centre)) for point in found]


def main(folder: str, corpus: str, question: str, precision: str = "float32", address: str = ":memory:") -> None:
    """Print the five best passages of a file of {"title", "text"}."""
    from sentence_transformers import SentenceTransformer

    model, client = SentenceTransformer(folder), QdrantClient(address)
    rows = [json.loads(line) for line in Path(corpus).read_text(encoding="utf-8").splitlines()]
    texts = [f"{row.get('title') or ''} {row['text']}".strip() for row in rows]
    centre = 0.0
    if precision == "binary":
        centre = np.array(json.loads((Path(folder) / "centre.json").read_text(encoding="utf-8"))["vector"], np.float32)
    passages = model.encode(texts, prompt_name="passage")
    ingest(client, "passages", passages, [{"text": text} for text in texts], precision, centre)
    for position, score in search(client, "passages", model.encode(question, prompt_name="query"), 5, precision, centre):
        print(f"{score:.3f}  {texts[position][:80]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
