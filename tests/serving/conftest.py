"""A small exported model, a server of it that uses nothing of e5ft's encoder, faults to plant in it, and a judged corpus."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from tokenizers import normalizers
from transformers import AutoConfig, AutoModel, AutoTokenizer

from e5ft.app.settings.build import shipped
from e5ft.data.text import TextSpec, normalise
from e5ft.exporting.folder import export_model
from e5ft.modeling.encoder import Encoder, EncoderSpec
from e5ft.retrieval.columns import StringColumn
from e5ft.retrieval.sets import RetrievalSet
from e5ft.serving.searching import BASE, MODEL, SideBySide
from tests.conftest import make_encoder, make_rows

LIMIT = 320
OWN, OTHER = {"query": "query: ", "passage": "passage: "}, {"query": "passage: ", "passage": "query: "}
# What is planted -> how its report begins.
FAULTS = {
    "no prefix": "prefix missing: must be 'query: ' / 'passage: '",
    "prefix twice": "prefix twice: must be 'query: ' / 'passage: ' once",
    "cls": "CLS pooling: must be mean",
    "not normalised": "not normalised: vectors of length ",
    "nfd": "NFD not recomposed",
    "cut": "cut at 256 tokens: must be 320",
    "revision": "no known mistake explains it: cosine ",
    "quantised": "quantised, or other weights as near: cosine ",
    "confused": "query and passage confused: must be 'query: ' / 'passage: '",
}


def make_encoder_that_reads() -> Encoder:
    """Random weights that read order and context, and a tokenizer that, as XLM-R's, does not recompose Hangul."""
    tokenizer = AutoTokenizer.from_pretrained(shipped("data/tokenizer"), local_files_only=True)
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(" {2,}", " ")
    config = AutoConfig.for_model(
        "bert", vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=LIMIT, pad_token_id=tokenizer.pad_token_id, initializer_range=0.1,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(7)
        backbone = AutoModel.from_config(config)
    text = TextSpec(query_max_length=LIMIT, passage_max_length=LIMIT)
    return Encoder(backbone, tokenizer, EncoderSpec("mean", text)).eval()


def plant(model, fault: str) -> None:
    """Change weights as a fault does."""
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            weight = module.weight.data
            if fault == "quantised":  # 6 bits, one scale a row
                scale = weight.abs().amax(dim=1, keepdim=True) / 31
                module.weight.data = (weight / scale).round() * scale
            if fault == "revision":
                module.weight.data = weight + 0.5 * weight.std() * torch.randn(weight.shape, generator=generator)


class Served:
    """Texts and role (None: they are final) to vectors, as a server gives them that is right or has faults."""

    def __init__(self, folder, *faults: str, dtype=torch.float32):
        self.faults, self.asked = faults, []
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.tokenizer.backend_tokenizer.normalizer = normalizers.Replace(" {2,}", " ")
        self.model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
        for fault in faults:
            plant(self.model, fault)
        self.model.to(dtype)

    def final(self, text: str, role: str | None) -> str:
        text = text if role is None else OWN[role] + text
        role = next((role for role, prefix in OWN.items() if text.startswith(prefix)), None)
        assert role is not None, "the client must send the prefix"
        bare = text.removeprefix(OWN[role])
        before = {"no prefix": "", "prefix twice": 2 * OWN[role], "confused": OTHER[role]}
        prefix = next((before[fault] for fault in self.faults if fault in before), OWN[role])
        return prefix + (" ".join(bare.split()) if "nfd" in self.faults else normalise(bare))

    @torch.no_grad()
    def __call__(self, texts, role=None) -> np.ndarray:
        self.asked.append((list(texts), role))
        limit = 256 if "cut" in self.faults else LIMIT
        final = [self.final(text, role) for text in texts]
        batch = self.tokenizer(
            final, padding=True, truncation=True, max_length=limit, return_tensors="pt", return_token_type_ids=False
        )
        hidden, mask = self.model(**batch).last_hidden_state, batch["attention_mask"].unsqueeze(-1)
        vectors = hidden[:, 0] if "cls" in self.faults else (hidden * mask).sum(1) / mask.sum(1)
        if "not normalised" not in self.faults:
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
        return vectors.float().numpy()


class Handler(BaseHTTPRequestHandler):
    """The three protocols over `server.embed`; `server.answer`, where set, is sent in the place of everything: (status, body)."""

    def do_GET(self):
        if self.path == "/v1/models" and self.server.lists:
            return self.reply(200, {"data": [{"id": name} for name in self.server.lists]})
        if self.path == "/api/tags" and self.server.lists:
            return self.reply(200, {"models": [{"name": name} for name in self.server.lists]})
        self.reply(404, {"error": "none"})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, dict(self.headers), body))
        if self.server.answer is not None:
            return self.reply(*self.server.answer)
        texts = body["inputs"] if self.path == "/embed" else body["input"]
        if self.server.longest is not None and max(map(len, texts)) > self.server.longest:
            return self.reply(*self.server.refusal)
        rows = self.server.embed(texts, body.get("prompt_name") or body.get("input_type")).tolist()
        data = [{"index": n, "embedding": row} for n, row in enumerate(rows)]
        answers = {"/embed": rows, "/api/embed": {"embeddings": rows}, "/v1/embeddings": {"data": data[::-1]}}
        self.reply(200, answers[self.path])

    def reply(self, status, body):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        if status in (301, 302, 307):
            self.send_header("Location", "http://example.invalid/embed")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        """Say nothing."""


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """The folder of an exported model."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    export_model(make_encoder_that_reads(), folder, "card")
    return folder


@pytest.fixture
def server():
    """A server on this machine: `url`, `embed`, `answer`, `lists` (its models), `longest` (characters) and `refusal` of longer texts, `headers` of answers,
    and what it has `seen`."""
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.embed, made.answer, made.lists, made.longest, made.seen, made.headers = None, None, (), None, [], {}
    made.refusal = (413, {})
    made.url = f"http://127.0.0.1:{made.server_port}"
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


PLANTED = "<script>alert('w1')</script> \"><b onmouseover=x>w1</b> 서울은 크다"


def make_judged() -> RetrievalSet:
    """40 passages, the first of which tries to be markup; q1 is answered by two of them, q2 is a passage itself."""
    passages = [PLANTED, *(row["document"] for row in make_rows(39, seed=3))]
    ids = [f"d{number:02}" for number in range(len(passages))]
    queries = ["w1 서울", passages[5]]
    qrels = {"q1": {"d00": 2, "d07": 1, "d08": 0}, "q2": {"d09": 1}}
    left_out = {"q2": "d05"}
    columns = (StringColumn(part) for part in (["q1", "q2"], queries, ids, passages))
    return RetrievalSet("small-test", *columns, qrels, left_out)


@pytest.fixture(scope="module")
def searched():
    models = {BASE: make_encoder(seed=1), MODEL: make_encoder(seed=2)}
    return SideBySide(make_judged(), models, weight=0.6)
