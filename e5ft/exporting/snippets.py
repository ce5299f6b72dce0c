"""How an exported folder is queried with the libraries, servers and stores that people use: short code for the model card.

`benchmarks/consumers` runs these very texts. In them PATH stands for the folder or its name on the hub, `queries` and `passages`
are lists of strings, and the vectors are called `query_vectors` and `passage_vectors`.
"""

import dataclasses
import json
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from e5ft.modeling.encoder import EncoderSpec

_POOL = {
    "mean": '(hidden * batch["attention_mask"][:, :, None]).sum(1) / batch["attention_mask"].sum(1, keepdim=True)',
    "cls": "hidden[:, 0]",
    "last": 'hidden[torch.arange(len(hidden)), batch["attention_mask"].sum(1) - 1]',
}


@dataclasses.dataclass(frozen=True)
class Snippet:
    """One way to use the model.

    Attributes:
        title: the library or server.
        language: of the code, as a Markdown fence names it: python or bash.
        code: a few lines, without a last line end.
        note: what must be known, a sentence of Markdown; may be empty.
    """

    title: str
    language: str
    code: str
    note: str = ""


def snippets(spec: "EncoderSpec", dimension: int) -> dict[str, Snippet]:
    """The snippets of a model, by short names, the usual libraries first.

    Args:
        spec: pooling, prefixes and lengths.
        dimension: of a vector.
    """
    query, passage = python_literal(spec.text.query_prefix), python_literal(spec.text.passage_prefix)
    found = {
        "sentence_transformers": Snippet(
            "sentence-transformers",
            "python",
            """\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("PATH")
query_vectors = model.encode(queries, prompt_name="query")
passage_vectors = model.encode(passages, prompt_name="document")
scores = query_vectors @ passage_vectors.T""",
        ),
        "transformers": Snippet(
            "transformers",
            "python",
            f"""\
import torch
from transformers import AutoModel, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained("PATH"), AutoModel.from_pretrained("PATH")


@torch.no_grad()
def embed(texts):
    batch = tokenizer(texts, max_length={length_of(spec)}, truncation=True, padding=True, return_tensors="pt")
    hidden = model(**batch).last_hidden_state
    pooled = {_POOL[spec.pooling]}
    return torch.nn.functional.normalize(pooled, dim=1)


query_vectors = embed([{query} + text for text in queries])
passage_vectors = embed([{passage} + text for text in passages])""",
        ),
        "tei": Snippet(
            "text-embeddings-inference",
            "bash",
            """\
docker run -p 8080:80 -v "PATH:/model" ghcr.io/huggingface/text-embeddings-inference:cpu-1.9 --model-id /model
curl 127.0.0.1:8080/embed -H "Content-Type: application/json" \\
    -d '{"inputs": ["..."], "prompt_name": "query", "truncate": true}'""",
            'Passages: `"prompt_name": "document"`. Its OpenAI route `/v1/embeddings` takes no prompt name: send each text with its prefix there.',
        ),
        "vllm": Snippet(
            "vLLM",
            "bash",
            f"""\
vllm serve "PATH" --runner pooling
curl 127.0.0.1:8000/v1/embeddings -H "Content-Type: application/json" \\
    -d {shell_literal(json.dumps({"model": "PATH", "input": [spec.text.query_prefix + "..."], "truncate_prompt_tokens": -1}))}""",
            "It ignores the model's prompts: every text is sent with its prefix.",
        ),
        "langchain": Snippet(
            "LangChain",
            "python",
            """\
from langchain_huggingface import HuggingFaceEmbeddings

embeddings = HuggingFaceEmbeddings(
    model_name="PATH", encode_kwargs={"prompt_name": "document"}, query_encode_kwargs={"prompt_name": "query"}
)
query_vectors = [embeddings.embed_query(text) for text in queries]
passage_vectors = embeddings.embed_documents(passages)""",
        ),
        "llama_index": Snippet(
            "LlamaIndex",
            "python",
            f"""\
from llama_index.embeddings.huggingface import HuggingFaceEmbedding

model = HuggingFaceEmbedding("PATH", query_instruction={query}, text_instruction={passage})
query_vectors = [model.get_query_embedding(text) for text in queries]
passage_vectors = model.get_text_embedding_batch(passages)""",
        ),
        "fastembed": Snippet(
            "fastembed",
            "python",
            f"""\
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType

TextEmbedding.add_custom_model(
    "e5ft/model",
    pooling=PoolingType.{spec.pooling.upper()},
    normalization=True,
    sources=ModelSource(hf="USER/MODEL"),
    dim={dimension},
    model_file="onnx/model.onnx",
)
model = TextEmbedding("e5ft/model", specific_model_path="PATH")
query_vectors = list(model.embed([{query} + text for text in queries]))
passage_vectors = list(model.embed([{passage} + text for text in passages]))""",
            "It reads `onnx/model.onnx` (an export with `formats=[onnx]` has it) and adds no prefix.",
        ),
        "elasticsearch": Snippet(
            "Elasticsearch",
            "bash",
            f"""\
eland_import_hub_model --url http://127.0.0.1:9200 --hub-model-id "PATH" --task-type text_embedding --start \\
    --ingest-prefix {shell_literal(spec.text.passage_prefix)} --search-prefix {shell_literal(spec.text.query_prefix)}""",
            "It needs a folder with `sentencepiece.bpe.model` (an export with `architecture=xlm_roberta` has it), whose texts the "
            "client brings to Unicode NFC; Elasticsearch 8.12 or later.",
        ),
        "pgvector": Snippet(
            "pgvector",
            "python",
            f"""\
import psycopg
from pgvector.psycopg import register_vector

connection = psycopg.connect("dbname=...", autocommit=True)
connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
register_vector(connection)
connection.execute("CREATE TABLE passages (id int PRIMARY KEY, vector vector({dimension}))")
for number, vector in enumerate(passage_vectors):
    connection.execute("INSERT INTO passages VALUES (%s, %s)", (number, vector))
nearest = connection.execute("SELECT id FROM passages ORDER BY vector <#> %s LIMIT 10", (query_vectors[0],)).fetchall()""",
        ),
        "qdrant": Snippet(
            "Qdrant",
            "python",
            f"""\
from qdrant_client import QdrantClient, models

client = QdrantClient(":memory:")
client.create_collection(
    "passages", vectors_config=models.VectorParams(size={dimension}, distance=models.Distance.DOT)
)
client.upload_collection("passages", vectors=passage_vectors, payload=[{{"text": text}} for text in passages])
nearest = client.query_points("passages", query=query_vectors[0], limit=10).points""",
        ),
    }
    if spec.pooling == "last":  # fastembed has no such pooling
        del found["fastembed"]
    return found


def length_of(spec: "EncoderSpec") -> int:
    """Tokens of the longer of queries and passages: the one length that other libraries know."""
    return max(spec.text.query_max_length, spec.text.passage_max_length)


def python_literal(text: str) -> str:
    """A string as Python source on one line, in double quotes, every character as it is that can be printed."""
    return '"' + "".join(_escaped(c) if not c.isprintable() or c in '"\\' else c for c in text) + '"'


def shell_literal(text: str) -> str:
    """A string as one word of bash on one line."""
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + "".join(_escaped(c) if not c.isprintable() or c in "'\\" else c for c in text) + "'"


def _escaped(character: str) -> str:
    """A character after a backslash, as Python and bash both read it."""
    if character in "\"'\\":
        return "\\" + character
    return "\\n" if character == "\n" else f"\\U{ord(character):08x}"
