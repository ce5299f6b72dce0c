"""Hostile model folders, and what must hold of each: refused in words or usable, and none of its code run."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from e5ft.errors import ConfigurationError
from e5ft.modeling.loading import load_encoder
from e5ft.modeling.settings import ModelSource
from tests.chaos.commands import check_command
from tests.chaos.forking import in_children
from tests.chaos.report import SECONDS, Report

CANARY = "canary_was_run"  # a file that a model folder's code or pickle would make

_CODE = f"""import pathlib
pathlib.Path({CANARY!r}).write_text("run")
from transformers import BertConfig, BertModel
class Own(BertConfig):
    model_type = "own"
class OwnModel(BertModel):
    pass
"""


class _Canary:
    """A pickle that leaves a file behind when it is loaded."""

    def __reduce__(self):
        return Path(CANARY).write_text, ("run",)


def set_config(folder: Path, **changes: object) -> None:
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    values = {key: value for key, value in {**values, **changes}.items() if value != "absent"}
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")


def set_weights(folder: Path, change: Callable[[dict], dict]) -> None:
    file = folder / "model.safetensors"
    tensors = change(load_file(file))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata={"format": "pt"})


def _own_code(folder: Path, **changes: object) -> None:
    (folder / "own.py").write_text(_CODE, encoding="utf-8")
    set_config(folder, auto_map={"AutoConfig": "own.Own", "AutoModel": "own.OwnModel"}, **changes)


def _without(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).unlink()
    return folder


def _pickle_only(folder: Path) -> None:
    torch.save({"embeddings": _Canary()}, _without(folder, "model.safetensors") / "pytorch_model.bin")


def _adapter(folder: Path) -> None:
    torch.save({"a": _Canary()}, folder / "adapter_model.bin")
    values = {"peft_type": "LORA", "base_model_name_or_path": "no/such-model", "r": 4, "task_type": "FEATURE_EXTRACTION"}
    (folder / "adapter_config.json").write_text(json.dumps(values), encoding="utf-8")


def _resized(*lengths: Callable[[int], int]) -> Callable[[Path], object]:
    """Lengths of the weights' file, one after the other, each a function of the first."""

    def resize(folder: Path) -> None:
        size = (folder / "model.safetensors").stat().st_size
        for length in lengths:
            os.truncate(folder / "model.safetensors", length(size))

    return resize


def _texts(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content, encoding="utf-8")


MODELS: dict[str, Callable[[Path], object]] = {
    "no tokenizer": lambda f: [p.unlink() for p in f.glob("tokenizer*")],
    "tokenizer broken": _texts("tokenizer.json", "{"),
    "tokenizer empty": _texts("tokenizer.json", ""),
    "tokenizer a list": _texts("tokenizer.json", "[]"),
    "tokenizer of no model": _texts("tokenizer.json", '{"version": "1.0", "model": {"type": "Nothing"}}'),
    "tokenizer config a list": _texts("tokenizer_config.json", "[]"),
    "tokenizer class unknown": _texts("tokenizer_config.json", '{"tokenizer_class": "NoSuchTokenizer"}'),
    "tokenizer of its own code": _texts("tokenizer_config.json", '{"auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}'),
    "no config": lambda f: _without(f, "config.json"),
    **{f"config {text!r}": _texts("config.json", text) for text in ("", "{", "[]", "{}", "null", "5", '"x"', "\x00", "[" * 5000)},
    **{f"model type {t!r}": lambda f, t=t: set_config(f, model_type=t) for t in ("gpt2", "t5", "clip", "vit", "nothing", 5, None, "../x", "")},
    "vocabulary too small": lambda f: set_config(f, vocab_size=10),
    **{
        f"{field}={value!r}": lambda f, field=field, value=value: set_config(f, **{field: value})
        for field, values in {
            "hidden_size": (0, -1, 33, 64, "32", 1.5, None, 10**9, "absent"),
            "num_hidden_layers": (0, -1, 2, "1", 10**9, None),
            "num_attention_heads": (0, 3, 64, "2", None),
            "intermediate_size": (0, -1, 32, 10**9),
            "vocab_size": (0, "8000", 10**10, "absent"),
            "max_position_embeddings": (0, 4, 10**10, "512"),
            "pad_token_id": (-5, 10**6, "1", None),
            "hidden_act": ("nothing", 5, None, ["gelu"]),
            "layer_norm_eps": ("x", None, float("nan"), -1.0),
            "hidden_dropout_prob": (5, -1, "x", None),
            "initializer_range": ("x", -1.0),
            "is_decoder": (True, "yes"),
            "type_vocab_size": (0, 5, "2"),
            "e5ft": (5, [], "x", {"text": 5}, {"pooling": 5}, {"text": {"query_prefix": 5}}, {"text": {"nothing": 1}}, {"pooling": "x"}),
            "architectures": (5, [], ["NoSuchModel"]),
            "torch_dtype": ("nothing", 5),
            "dtype": ("nothing", "int8", "float64", 5),
            "quantization_config": ({}, {"quant_method": "nothing"}, {"quant_method": "bitsandbytes", "load_in_4bit": True}, 5),
            "_attn_implementation": ("nothing", "flash_attention_2"),
            "chunk_size_feed_forward": (3, -1, "x"),
        }.items()
        for value in values
    },
    "own code, known type": _own_code,
    "own code, unknown type": lambda f: _own_code(f, model_type="own"),
    "pickle only": _pickle_only,
    "pickle beside an index": lambda f: (
        _pickle_only(f),
        _texts("pytorch_model.bin.index.json", '{"weight_map": {"a": "pytorch_model.bin"}}')(f),
    ),
    "index to files that are not there": lambda f: (
        _texts("model.safetensors.index.json", '{"metadata": {}, "weight_map": {"a": "../../x.safetensors"}}')(_without(f, "model.safetensors"))
    ),
    "no weights": lambda f: _without(f, "model.safetensors"),
    "weights empty": _resized(lambda n: 0),
    "weights cut": _resized(lambda n: n // 2),
    "weights cut in the header": _resized(lambda n: 100),
    "weights with a zeroed quarter": _resized(lambda n: n * 3 // 4, lambda n: n),
    "weights a folder": lambda f: (_without(f, "model.safetensors") / "model.safetensors").mkdir(),
    "weights a text": _texts("model.safetensors", "version https://git-lfs.github.com/spec/v1\n"),
    "weights a huge header": lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 8 + b"{}"),
    "weights all zero": lambda f: set_weights(f, lambda t: {n: torch.zeros_like(v) for n, v in t.items()}),
    "weights NaN": lambda f: set_weights(f, lambda t: {n: torch.full_like(v, float("nan")) for n, v in t.items()}),
    "weights infinite": lambda f: set_weights(f, lambda t: {n: torch.full_like(v, float("inf")) for n, v in t.items()}),
    "weights of integers": lambda f: set_weights(f, lambda t: {n: v.to(torch.int8) for n, v in t.items()}),
    "weights of other shapes": lambda f: set_weights(f, lambda t: {n: v[:1] if v.ndim else v for n, v in t.items()}),
    "weights of other names": lambda f: set_weights(f, lambda t: {f"x.{n}": v for n, v in t.items()}),
    "weights lack one": lambda f: set_weights(f, lambda t: dict(list(t.items())[1:])),
    "an adapter beside": _adapter,
    "an adapter alone": lambda f: _adapter(_without(f, "config.json", "model.safetensors")),
    "modules broken": lambda f: (_texts("modules.json", "{")(f), set_config(f, e5ft="absent")),
    **{
        f"{name} {text!r}": lambda f, name=name, text=text: (
            set_config(f, e5ft="absent"),
            _texts("modules.json", "[]")(f),
            (f / name).parent.mkdir(exist_ok=True),
            _texts(name, text)(f),
        )
        for name, texts in {
            "1_Pooling/config.json": ("", "[]", "5", '{"pooling_mode": 5}', '{"pooling_mode": ["mean", 5]}', "\x00", '{"pooling_mode_x": 1}'),
            "config_sentence_transformers.json": ("", "[]", '{"prompts": 5}', '{"prompts": {"query": 5}}', '{"prompts": []}', "{"),
        }.items()
        for text in texts
    },
}  # fmt: skip


def check_model(name: str, world: Path, report: Report) -> None:
    """Spoil a copy of the good model and load it, in a child: what is accepted must give unit vectors, and no code may have run."""
    folder = world / "hostile-model"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(world / "model", folder)
    MODELS[name](folder)

    def work() -> int:
        os.chdir(world)
        code = 0
        try:
            vectors = load_encoder(ModelSource(path=str(folder))).encode(["한국어 질의"], "query")
            assert np.isfinite(vectors).all() and abs(np.linalg.norm(vectors) - 1) < 1e-3
        except ConfigurationError as error:
            print(f"error: {error}")
            code = 2
        assert not Path(CANARY).exists(), "its code was run"
        return code

    [ended] = in_children({world / "output.txt": work}, SECONDS)
    (world / CANARY).unlink(missing_ok=True)
    report.check_ending("model folders", ended, name, codes=(0, 2))


def run_models(number: int, report: Report, world: Path, *, share: float = 1.0, commands: float = 0.1) -> None:
    """Every hostile model folder, or a seeded share of them; a share of those through the scripts too."""
    generator = random.Random(number)
    for name in MODELS:
        if generator.random() < share:
            check_model(name, world, report)
            if generator.random() < commands:
                script = generator.choice(["train", "export", "eval", "mine"])
                model = ["model=folder", "model.path=hostile-model"][script != "train" :]
                files = [world / "hostile-model"]
                check_command(script, model, world, report, "models through scripts", files)
