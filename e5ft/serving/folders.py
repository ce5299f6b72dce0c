"""An exported folder, or a Python function, asked as a server is: texts in, vectors out.

Each folder's way is the plainest use of its library, with lengths, tokenizer and pooling as the folder itself has them.
"""

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from e5ft.errors import ConfigurationError
from e5ft.exporting.settings import FILES
from e5ft.files import read_json
from e5ft.json_http import AnswerError
from e5ft.modeling.checks import first_line
from e5ft.serving.asking import Encode, Way


def ways_of(folder: Path, pooling: str) -> Iterator[Way]:
    """Yield the ways to use a model's folder: sentence-transformers, plain transformers, ONNX Runtime where there is a file for it.

    Args:
        folder: the model's.
        pooling: what to do with token vectors where the way leaves that to its user; a name in `POOLINGS`.
    """
    yield _tried("sentence-transformers", True, lambda: _sentence_transformers(folder), "sentence-transformers")
    yield _tried("transformers", False, lambda: _transformers(folder, pooling), "transformers")
    if (folder / FILES["onnx"]).is_file():
        yield _tried("ONNX Runtime", False, lambda: _onnx(folder, pooling), "onnxruntime")


def _tried(name: str, has_prompts: bool, load: Callable[[], Encode], package: str) -> Way:
    try:
        return Way(name, has_prompts, _called("the library", load()))
    except ModuleNotFoundError as error:
        if error.name not in (package, package.replace("-", "_")):  # it is there, and lacks a part of its own
            raise AnswerError(f"{name}: cannot be imported ({first_line(error)})") from error
        return Way(name, has_prompts, None, f"not checked; pip install {package}")
    except Exception as error:  # a dozen kinds, as of any folder that cannot be loaded
        raise AnswerError(f"{name}: does not load the folder ({first_line(error)})") from error


def _sentence_transformers(folder: Path) -> Encode:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)

    def prompt(role: str | None) -> str:
        # Under "passage" where the folder is e5ft's, else under sentence-transformers' own word; a default one is not asked for.
        names = {None: (), "query": ("query",), "passage": ("passage", "document")}[role]
        return next((model.prompts[name] for name in names if model.prompts.get(name)), "")

    return lambda texts, role: model.encode(list(texts), prompt=prompt(role), show_progress_bar=False)


def _transformers(folder: Path, pooling: str) -> Encode:
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()

    @torch.no_grad()
    def encode(texts: Sequence[str], role: str | None) -> np.ndarray:
        batch = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt", return_token_type_ids=False)
        return _pooled(model(**batch).last_hidden_state, batch["attention_mask"], pooling)

    return encode


def _onnx(folder: Path, pooling: str) -> Encode:
    import torch
    from onnxruntime import InferenceSession
    from tokenizers import Tokenizer

    tokenizer, settings = Tokenizer.from_file(str(folder / "tokenizer.json")), read_json(folder / "tokenizer_config.json")
    padding = settings["pad_token"] if isinstance(settings["pad_token"], str) else settings["pad_token"]["content"]
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id(padding), pad_token=padding)
    tokenizer.enable_truncation(int(settings["model_max_length"]))
    session = InferenceSession(str(folder / FILES["onnx"]), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def encode(texts: Sequence[str], role: str | None) -> np.ndarray:
        batch = tokenizer.encode_batch(list(texts))
        ids, mask = (np.array([getattr(each, field) for each in batch]) for field in ("ids", "attention_mask"))
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        hidden = session.run(None, {name: inputs[name] for name in names})[0]  # (N, L, D)
        return _pooled(torch.from_numpy(hidden), torch.from_numpy(mask), pooling)

    return encode


def _pooled(hidden, mask, pooling: str) -> np.ndarray:
    from torch.nn.functional import normalize

    from e5ft.modeling.pooling import POOLINGS

    return normalize(POOLINGS[pooling].padded(hidden.float(), mask), dim=-1).numpy()


def function_of(name: str) -> Way:
    """A Python function as a way: it gets a list of final texts, or under prefix=server the bare ones and the role.

    Args:
        name: "module:function"; modules of the current folder are found.

    Raises:
        ConfigurationError: there is none.
    """
    module, _, path = name.partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        function = importlib.import_module(module)
        for part in path.split("."):
            function = getattr(function, part)
    except Exception as error:  # somebody else's code runs while it is imported
        raise ConfigurationError(f"target={name}: {first_line(error)}; must be MODULE:FUNCTION") from error
    return Way(
        name, False, _called("the function", lambda texts, role: function(list(texts), *(() if role is None else (role,))))
    )


def _called(who: str, encode: Encode) -> Encode:
    """The same, whose errors are one line."""

    def called(texts: Sequence[str], role: str | None) -> object:
        try:
            return encode(texts, role)
        except Exception as error:  # a dozen kinds
            raise AnswerError(f"{who} failed ({first_line(error)})") from error

    return called
