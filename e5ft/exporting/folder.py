"""The export writes a sentence-transformers folder and checks it by encoding again."""

import contextlib
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer

from e5ft.data.text import normalise
from e5ft.errors import ExportError
from e5ft.exporting.gguf import write_gguf
from e5ft.exporting.golden import NFD, SPACES, write_golden
from e5ft.exporting.onnx import exact_graphs, record_quantised, write_formats
from e5ft.exporting.settings import GGUF_FILE
from e5ft.exporting.xlm_roberta import as_xlm_roberta, write_tokenizer_files
from e5ft.files import new_folder, write_json, write_text
from e5ft.modeling.encoder import Encoder
from e5ft.modeling.loading import save_encoder
from e5ft.modeling.pooling import POOLINGS
from e5ft.modeling.tokenizer_files import PREPARATION, preparation

# One text a length class, so that padding, truncation and both prefixes are seen by the check; then texts that must be prepared.
_PROBES = (
    "서울의 수도",
    "전입신고는 어디에서 하나요?",
    "multilingual-E5 embeds queries and passages with different prefixes.",
    "훈민정음은 백성을 가르치는 바른 소리라는 뜻이다. " * 40,
    unicodedata.normalize("NFD", "서울의 수도는 어디인가요? Déjà vu"),
    "white  space\tof\u3000every\xa0kind\x1f여기 \n",
)
_TOLERANCE = 1e-5


def export_model(
    encoder: Encoder,
    folder: str | os.PathLike,
    card: str,
    records: Mapping[str, dict] = MappingProxyType({}),
    *,
    architecture: str | None = None,
    formats: Sequence[str] = (),
) -> float:
    """Write an encoder in sentence-transformers layout and check it.

    The folder also loads with plain `AutoModel` (pool and normalise yourself) and with `load_encoder`. It appears at
    its place only after the check; golden.json in it says what a server of it must give.

    Args:
        encoder: the model.
        folder: where to write; replaced if it exists.
        card: the model card, Markdown with its front matter.
        records: further JSON files, name -> content.
        architecture: "xlm_roberta" writes XLM-R's classes and SentencePiece's file; None the encoder's own.
        formats: what is written beside the weights: keys of `e5ft.exporting.settings.FILES`, and "gguf".

    Returns:
        The largest absolute difference seen in the check (at most 1e-5).

    Raises:
        ConfigurationError: the model cannot be written as that architecture.
        ExportError: another loader of the folder gives other vectors.
    """
    written = encoder if architecture is None else as_xlm_roberta(encoder)
    with new_folder(folder) as temporary:
        save_encoder(written, temporary)
        if architecture is not None:
            write_tokenizer_files(encoder.tokenizer, temporary)
        if "gguf" in formats:
            write_gguf(encoder, temporary / GGUF_FILE)
        _write_layout(encoder, temporary)
        write_text(temporary / "README.md", card)
        for name, content in records.items():
            write_json(temporary / name, content)
        write_formats(temporary, [name for name in formats if name != "gguf"])
        with _on_cpu(encoder):
            steps = preparation(encoder.tokenizer, encoder.spec.text)
            # transformers 5 makes XLM-R's tokenizer a normaliser of its own, which splits at white space and recomposes nothing.
            by_client = [NFD] * (not steps or architecture is not None) + [SPACES] * (steps != PREPARATION)
            difference = check_export(encoder, temporary, not by_client)
            write_golden(encoder, temporary, by_client)
            if "onnx_int8" in formats:
                record_quantised(encoder, temporary, _PROBES)
    return difference


@contextlib.contextmanager
def _on_cpu(encoder: Encoder) -> Iterator[None]:
    device = encoder.device
    encoder.to("cpu")  # some hundred texts; on a GPU the kernels' own rounding would blur what is compared
    try:
        yield
    finally:
        encoder.to(device)


def check_export(encoder: Encoder, folder: Path, prepares: bool) -> float:
    """Compare the encoder's vectors, on the CPU, with plain transformers', the graphs' and, where installed, sentence-transformers'.

    Args:
        encoder: what was exported.
        folder: where it is.
        prepares: whether its tokenizer brings texts to NFC and to single blanks by itself; else they are sent so.

    Returns:
        The largest absolute difference over probes, roles and loaders.

    Raises:
        ExportError: it exceeds 1e-5.
    """
    worst, texts = 0.0, list(_PROBES) if prepares else [normalise(probe) for probe in _PROBES]
    for role in ("query", "passage"):
        expected = encoder.encode(_PROBES, role)
        for name, vectors in _other_loaders(encoder, folder, role, texts):
            difference = float(np.abs(vectors - expected).max())
            if not difference <= _TOLERANCE:
                raise ExportError(
                    f"export: {name} gives other {role} vectors (difference {difference:.1e}, at most {_TOLERANCE:.0e})"
                )
            worst = max(worst, difference)
    return worst


def _other_loaders(encoder: Encoder, folder: Path, role: str, texts: list[str]):
    text = encoder.spec.text
    prefix = text.query_prefix if role == "query" else text.passage_prefix
    limit = text.query_max_length if role == "query" else text.passage_max_length
    model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=torch.float32).eval()
    for name, each in (("transformers.AutoModel", model), *exact_graphs(folder, model.config)):
        yield name, _padded(folder, each, [prefix + probe for probe in texts], limit, encoder.spec.pooling)
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:  # not needed to write the folder
        return
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    model.max_seq_length = limit  # sentence-transformers knows one length, e5ft one a role
    prompt = "query" if role == "query" else "document"
    yield "sentence-transformers", model.encode(texts, prompt_name=prompt, show_progress_bar=False)


@torch.no_grad()
def _padded(folder: Path, model: nn.Module, texts: list[str], limit: int, pooling: str) -> np.ndarray:
    """Embed a padded batch by the model card's own recipe; nothing of `Encoder` is used."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    batch = tokenizer(texts, max_length=limit, truncation=True, padding=True, return_tensors="pt", return_token_type_ids=False)
    hidden = model(**batch).last_hidden_state  # (N, L, D)
    return normalize(POOLINGS[pooling].padded(hidden, batch["attention_mask"]), dim=-1).numpy()


def _write_layout(encoder: Encoder, folder: Path) -> None:
    """Write sentence-transformers' own files, in the spelling that its versions 2 to 6 all read."""
    text = encoder.spec.text
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    write_json(folder / "modules.json", modules)
    length = max(text.query_max_length, text.passage_max_length)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": length, "do_lower_case": False})
    pooling = {f"pooling_mode_{mode.legacy_name}": name == encoder.spec.pooling for name, mode in POOLINGS.items()}
    write_json(
        folder / "1_Pooling/config.json", {"word_embedding_dimension": encoder.dimension, **pooling, "include_prompt": True}
    )
    (folder / "2_Normalize").mkdir()
    prompts = {"query": text.query_prefix, "document": text.passage_prefix, "passage": text.passage_prefix}
    settings = {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    write_json(folder / "config_sentence_transformers.json", settings)
