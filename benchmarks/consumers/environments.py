"""The libraries in which an exported folder is tried, each in an environment of pinned versions, and the code that is run there."""

import dataclasses
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

from e5ft.exporting.snippets import length_of, python_literal, snippets
from e5ft.modeling.encoder import Encoder

_NEWEST = ("sentence-transformers==6.2.0", "transformers==5.24.0")
# Name -> the packages that are installed; torch is the project's own, which is shared and not installed again.
ENVIRONMENTS = {
    "oldest": ("sentence-transformers==3.3.1", "transformers==4.46.3"),
    "optimum": ("sentence-transformers==5.1.2", "transformers==4.57.1", "optimum-onnx[onnxruntime]==0.1.0"),
    "newest": _NEWEST,
    "onnxruntime": ("tokenizers==0.23.3", "onnxruntime==1.32.0"),
    "langchain": ("langchain-huggingface==1.2.3", *_NEWEST),
    "llama-index": ("llama-index-embeddings-huggingface==0.8.0", *_NEWEST),
    "haystack": ("sentence-transformers-haystack==2.0.0", "haystack-ai==3.4.1", *_NEWEST),
    "fastembed": ("fastembed==0.9.1",),
    "infinity": ("infinity-emb[torch,optimum]==0.0.78",),
}
_ONNX = "onnx/model.onnx"


@dataclasses.dataclass(frozen=True)
class Consumer:
    """One library in one environment.

    Attributes:
        name: of the row.
        environment: a key of `ENVIRONMENTS`.
        code: as `e5ft.exporting.snippets` describes it.
        shown: the packages whose versions the row shows.
        needs: a file without which the folder is not for this library; empty: none.
    """

    name: str
    environment: str
    code: str
    shown: tuple[str, ...]
    needs: str = ""


def consumers(encoder: Encoder) -> list[Consumer]:
    """All of them, for a model."""
    found = {name: snippet.code for name, snippet in snippets(encoder.spec, encoder.dimension).items()}
    query, passage = python_literal(encoder.spec.text.query_prefix), python_literal(encoder.spec.text.passage_prefix)
    prefixed = f"""
query_vectors = embed([{query} + text for text in queries])
passage_vectors = embed([{passage} + text for text in passages])"""
    st, hf = "sentence-transformers", "transformers"
    rows = []
    for environment in ("oldest", "optimum", "newest"):
        rows += [
            Consumer(st, environment, found["sentence_transformers"], (st, hf, "tokenizers")),
            Consumer(hf, environment, found["transformers"].replace(" = embed(", " = in_batches("), (hf, "tokenizers")),
        ]
    onnx = f'"PATH", backend="onnx", model_kwargs={{"file_name": "{_ONNX}", "provider": "CPUExecutionProvider"}}'
    rows += [
        Consumer(
            "sentence-transformers, ONNX",
            "optimum",
            found["sentence_transformers"].replace('"PATH"', onnx),
            (st, "optimum-onnx", "onnxruntime"),
            _ONNX,
        ),
        Consumer(
            "onnxruntime",
            "onnxruntime",
            _ONNXRUNTIME.replace("LENGTH", str(length_of(encoder.spec))).replace("POOLED", _POOLED[encoder.spec.pooling])
            + prefixed,
            ("tokenizers", "onnxruntime"),
            _ONNX,
        ),
        Consumer("LangChain", "langchain", found["langchain"], ("langchain-huggingface", st)),
        Consumer("LlamaIndex", "llama-index", found["llama_index"], ("llama-index-embeddings-huggingface", st)),
        Consumer("Haystack", "haystack", _HAYSTACK, ("haystack-ai", "sentence-transformers-haystack", st)),
        Consumer("infinity", "infinity", _INFINITY + prefixed, ("infinity-emb", hf)),
    ]
    if "fastembed" in found:
        rows.append(Consumer("fastembed", "fastembed", found["fastembed"], ("fastembed", "onnxruntime", "tokenizers"), _ONNX))
    return rows


_POOLED = {
    "mean": "(hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)",
    "cls": "hidden[:, 0]",
    "last": "hidden[np.arange(len(hidden)), mask.sum(1) - 1]",
}
_ONNXRUNTIME = """\
import json

import numpy as np
from onnxruntime import InferenceSession
from tokenizers import Tokenizer

tokenizer, session = Tokenizer.from_file("PATH/tokenizer.json"), InferenceSession("PATH/onnx/model.onnx")
config = json.load(open("PATH/tokenizer_config.json"))
tokenizer.enable_truncation(LENGTH)
tokenizer.enable_padding(pad_id=tokenizer.token_to_id(config["pad_token"]), pad_token=config["pad_token"])


def embed(texts):
    vectors = []
    for text in texts:
        (read,) = tokenizer.encode_batch([text])
        inputs = {"input_ids": read.ids, "attention_mask": read.attention_mask, "token_type_ids": [0] * len(read.ids)}
        inputs = {each.name: np.array([inputs[each.name]], dtype=np.int64) for each in session.get_inputs()}
        hidden, mask = session.run(None, inputs)[0], inputs["attention_mask"]
        pooled = POOLED
        vectors.append(pooled[0] / np.linalg.norm(pooled[0]))
    return np.array(vectors)

"""
_HAYSTACK = """\
from haystack import Document
from haystack_integrations.components.embedders import sentence_transformers as embedders

query_embedder = embedders.SentenceTransformersTextEmbedder(model="PATH", encode_kwargs={"prompt_name": "query"})
passage_embedder = embedders.SentenceTransformersDocumentEmbedder(model="PATH", encode_kwargs={"prompt_name": "document"})
query_embedder.warm_up()
passage_embedder.warm_up()
query_vectors = [query_embedder.run(text)["embedding"] for text in queries]
documents = passage_embedder.run([Document(content=text) for text in passages])["documents"]
passage_vectors = [document.embedding for document in documents]"""
_INFINITY = """\
import asyncio

from infinity_emb import AsyncEmbeddingEngine, EngineArgs


async def asked(texts):
    arguments = EngineArgs(model_name_or_path="PATH", engine="torch", device="cpu", dtype="float32", model_warmup=False, bettertransformer=False)
    engine = AsyncEmbeddingEngine.from_args(arguments)
    async with engine:
        return (await engine.embed(sentences=texts))[0]


def embed(texts):
    return asyncio.run(asked(texts))

"""


def environment(name: str, root: Path) -> Path:
    """The Python of an environment, which is made where it is not there with these very packages.

    Args:
        name: a key of `ENVIRONMENTS`.
        root: the folder of all of them.

    Raises:
        subprocess.CalledProcessError: a package cannot be installed.
    """
    folder, packages = root / name, ENVIRONMENTS[name]
    python, done = folder / "bin/python", folder / "installed.txt"
    if not done.is_file() or done.read_text().split() != list(packages):
        subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)], check=True)
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "torch-of-the-project.pth").write_text(f"{_torch(root)}\n")
        options = ("--quiet", "--disable-pip-version-check", "--only-binary=:all:")
        subprocess.run([sys.executable, "-m", "pip", "--python", str(python), "install", *options, *packages], check=True)
        done.write_text("\n".join(packages))
    return python


def _torch(root: Path) -> Path:
    """A folder with links to this environment's torch and what it needs, and to nothing else."""
    folder, waiting, seen = (root / "torch").absolute(), ["torch"], set()
    folder.mkdir(parents=True, exist_ok=True)
    while waiting:
        name = waiting.pop()
        try:
            package = distribution(name)
        except PackageNotFoundError:  # of another platform
            continue
        seen.add(name)
        for part in {file.parts[0] for file in package.files if file.parts[0] not in ("..", "__pycache__")}:
            link = folder / part
            if not link.is_symlink():
                os.symlink(package.locate_file(part), link)
        needed = (Requirement(line) for line in package.requires or ())
        waiting += [
            each.name for each in needed if each.name not in seen and (not each.marker or each.marker.evaluate({"extra": ""}))
        ]
    return folder
