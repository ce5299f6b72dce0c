"""The same random weights as an `Encoder` and as a SentenceTransformer."""

from pathlib import Path

import yaml

from benchmarks.bench.texts import ROOT, TOKENIZER
from e5ft.exporting.folder import export_model
from e5ft.modeling.encoder import Encoder
from e5ft.modeling.loading import load_encoder
from e5ft.modeling.settings import ModelSource

LIMITS = {"query_max_length": 512, "passage_max_length": 512}


def write_model(name: str, folder: Path) -> Path:
    """Random weights of the shape in conf/model/NAME.yaml with the shipped tokenizer, in sentence-transformers' layout."""
    shape = yaml.safe_load((ROOT / f"conf/model/{name}.yaml").read_text(encoding="utf-8"))["shape"]
    source = ModelSource(init="random", shape=shape, tokenizer=str(TOKENIZER), text=LIMITS, seed=7)
    export_model(load_encoder(source), folder / "model", "made for a benchmark")  # checked: both loaders give the same vectors
    return folder / "model"


def our_encoder(folder: Path, dropout: float = 0.0, attention_dropout: float = 0.0, device: str = "cpu") -> Encoder:
    """The folder's model for e5ft."""
    return load_encoder(ModelSource(path=str(folder), dropout=dropout, attention_dropout=attention_dropout), device)


def their_model(
    folder: Path, dropout: float = 0.0, attention_dropout: float = 0.0, device: str = "cpu", kernel: str | None = None
):  # fmt: skip
    """The folder's model for sentence-transformers."""
    from sentence_transformers import SentenceTransformer  # a process that measures ours does not pay for the import

    config = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": attention_dropout}
    attention = {} if kernel is None else {"attn_implementation": kernel}
    return SentenceTransformer(str(folder), device=device, local_files_only=True, config_kwargs=config, model_kwargs=attention)
