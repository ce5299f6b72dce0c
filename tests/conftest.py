"""Small stand-ins: a tokenizer of single words, random encoders of both families, rows on disk. Offline, CPU, seeded."""

import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.pop("HYDRA_FULL_ERROR", None)  # with it an error is a traceback too

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from e5ft.data.text import TextSpec
from e5ft.modeling.encoder import Encoder, EncoderSpec

torch.set_num_threads(1)  # two threads on busy cores wait for each other: 20 times slower, seen
WORDS = [f"w{i}" for i in range(200)]
# fmt: off
PLACES = [
    "강릉", "춘천", "원주", "속초", "동해", "삼척", "태백", "홍천", "횡성", "영월", "평창", "정선", "철원", "화천", "양구", "인제", "고성", "양양", "수원", "성남",
]
# fmt: on
# Whole jobs, processes of their own, injected faults: `make test-fast` leaves them out.
SLOW = (
    *(
        "app/commands/",
        "app/runs/test_stopping",
        "app/telling/test_findings",
        "benchmarks/",
        "chaos/",
        "exporting/test_onnx",
        "training/test_fitting",
    ),
    *(
        "training/test_evaluation_cost",
        "training/test_sharding",
        "training/test_resuming",
        "test_cli",
        "test_concurrent",
        "test_confinement",
        "test_distributed",
    ),
    *("test_example", "test_foreign", "test_four", "test_install", "test_mine_cli", "test_sweep_cli"),
)


def pytest_collection_modifyitems(items):
    """Mark what takes long, by the file that it is in."""
    for item in items:
        if str(item.path.relative_to(Path(__file__).parent)).startswith(SLOW):
            item.add_marker(pytest.mark.slow)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Words to ids, with XLM-R's special tokens at XLM-R's places."""
    vocabulary = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *WORDS, "query:", "passage:"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>",
        pad_token="<pad>", unk_token="<unk>",
    )  # fmt: skip


def make_encoder(family: str = "bert", *, dropout: float = 0.0, padded: bool | None = None, pooling: str = "mean", seed: int = 0):
    """A random encoder of 2 layers, 32 wide."""
    own = {"bert": dict(pad_token_id=0), "xlm-roberta": dict(pad_token_id=1)}[family]
    config = AutoConfig.for_model(
        family, vocab_size=210, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, **own,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = AutoModel.from_config(config)
    text = TextSpec(query_max_length=48, passage_max_length=48)
    return Encoder(backbone, make_tokenizer(), EncoderSpec(pooling, text), padded)


def damage(file: Path, harm: str) -> None:
    """Do to a file what disks and lost machines do: "flipped" (one bit), "zeroed" (the second half), "half", "empty" or "missing"."""
    content = file.read_bytes()
    half = len(content) // 2
    changed = {
        "flipped": content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :],
        "zeroed": content[:half].ljust(len(content), b"\0"),
        "half": content[:half],
        "empty": b"",
    }
    file.unlink() if harm == "missing" else file.write_bytes(changed[harm])


def make_rows(count: int, *, seed: int = 0, negatives: bool = True) -> list[dict]:
    """Rows whose query shares words with its document; some passages and queries are in several rows."""
    generator = torch.Generator().manual_seed(seed)

    def words(low, high):
        length = int(torch.randint(low, high, (1,), generator=generator))
        return [WORDS[int(i)] for i in torch.randint(0, len(WORDS), (length,), generator=generator)]

    documents = [" ".join(words(4, 20)) for _ in range(count)]
    rows = []
    for i in range(count):
        document = documents[i if i % 7 else i // 2]
        row = {"query": " ".join(document.split()[:3] + words(1, 4)), "document": document}
        if i % 5 == 4:
            row["query"] = rows[i - 1]["query"]  # several positives of one query
        if negatives:
            candidates = [documents[(i + j) % count] for j in range(1, 1 + i % 4)]
            row["hard_negative"] = [text for text in candidates if text != document]
        rows.append(row)
    return rows


@pytest.fixture(autouse=True)
def environment_as_before():
    """Put back the environment variables that a command run in this process sets: the next test may start a process."""
    before = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    yield
    for name in [name for name in os.environ if not name.startswith("PYTEST_") and name not in before]:
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture
def write_rows(tmp_path):
    """Write rows as JSON lines and return the path."""

    def write(rows, name="rows.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write
