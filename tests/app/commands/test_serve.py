"""`e5ft serve` as a user starts it: what it prints, what it answers, and how it ends."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from urllib.parse import quote

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from e5ft.app.settings.build import shipped
from e5ft.files import read_json
from e5ft.modeling.loading import load_encoder, save_encoder
from e5ft.modeling.settings import ModelSource
from tests.app.conftest import TINY
from tests.conftest import make_encoder
from tests.test_cli import ENVIRONMENT, ROOT

QUESTION = "출장 간 지역에서도 사전투표를 할 수 있나요?"  # q0001 of the sample's dev split, q0020 and others are test's


@contextlib.contextmanager
def serving(folder, *arguments):
    """Start it, wait for its address, and end it if the block has not; yields (process, its first lines, URL)."""
    command = [sys.executable, "-m", "e5ft", "serve", "port=0", "device=cpu", *arguments]
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{ROOT}:{ENVIRONMENT.get('PYTHONPATH', '')}"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # A shell's background jobs, tests among them, ignore SIGINT, and so would this process.
    pipes["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, cwd=folder, env=environment, **pipes) as process:
        try:
            printed = ""
            while "Ctrl-C ends" not in printed:
                line = process.stdout.readline()
                assert line, process.stderr.read()
                printed += line
            yield process, printed, re.search(r"page +(http://\S+)/\n", printed)[1]
        finally:
            process.kill()


def get(url):
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read().decode()


def post(url, **values):
    request = urllib.request.Request(url, json.dumps(values).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_a_run_is_served_beside_its_base_and_ends_when_it_is_told(trained, tmp_path):
    save_encoder(
        load_encoder(ModelSource(init="random", shape=SHAPE, tokenizer=str(shipped("data/tokenizer")))), tmp_path / "start"
    )
    _, run = trained("model=folder", f"model.path={tmp_path / 'start'}", "training.max_steps=1", *TINY[4:], tiny=False)
    with serving(tmp_path, f"model.path={run}", f"cache_dir={tmp_path / 'cache'}") as (process, printed, url):
        assert "256 passages, 434 judged queries" in printed and printed.startswith(
            f"e5ft: {run}/model, to search the shipped sample"
        )
        weight = read_json(run / "summary.json")["hybrid"]["weight"]["value"]
        text = get(f"{url}/?q={quote(QUESTION)}")
        for words in ("학습 전 모델", str(tmp_path / "start"), f"{run}/model", "BM25", f"모델 {weight:g}".replace("0.", ".")):
            assert words in text
        answer = post(f"{url}/v1/embeddings", input=f"query: {QUESTION}", model=f"{run}/model")
        expected = load_encoder(ModelSource(path=f"{run}/model")).encode([QUESTION], "query")[0]
        assert answer["data"][0]["embedding"] == pytest.approx(expected.tolist(), abs=1e-5)
        process.send_signal(signal.SIGINT)
        left, errors = process.communicate(timeout=60)
        assert (process.returncode, left, errors) == (130, "", "")


def test_a_corpus_alone_another_base_and_sigterm(tmp_path, write_rows):
    for name, seed in (("one", 1), ("two", 2)):
        save_encoder(make_encoder(seed=seed), tmp_path / name)
    corpus = write_rows([{"text": f"w{number} w{number + 1}"} for number in range(20)], "passages.jsonl")
    arguments = ("model.path=one", "base=two", f"data.corpus_file={corpus}", "evaluation.hybrid_weight=0.25")
    with serving(tmp_path, *arguments) as (process, printed, url):
        assert "20 passages, 0 judged queries" in printed
        text = get(f"{url}/?q=w3&lang=en")
        assert text.count("<section") == 4 and ".25 model + .75 BM25" in text and "Nobody judged" not in text
        process.send_signal(signal.SIGTERM)
        left, errors = process.communicate(timeout=60)
        assert (process.returncode, left, errors) == (143, "", "error: serve: stopped by SIGTERM\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["port=70000"], "port=70000: must be a whole number from 0 to 65,535"),
        (["model.path=nowhere"], "model.path=nowhere: no such folder"),
        (["data.corpus_file=a.jsonl", "data.eval_dir=b"], "data.corpus_file='a.jsonl': must be null with data.eval_dir"),
        (["port={taken}"], "port={taken}: cannot be had at 127.0.0.1 (Address already in use); choose another, or port=0"),
        (["data.corpus_file=none.jsonl"], "none.jsonl"),
    ],
)
def test_what_cannot_be_served_is_refused_before_torch(arguments, message, tmp_path):
    for library in ("torch", "transformers"):
        (tmp_path / f"{library}.py").write_text(f"raise AssertionError('{library} was imported')")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        arguments = ["port=0", "model.path=model", *(argument.format(taken=taken) for argument in arguments)]
        environment = {**ENVIRONMENT, "PYTHONPATH": f"{tmp_path}:{ROOT}:{ENVIRONMENT.get('PYTHONPATH', '')}"}
        command = [sys.executable, "-m", "e5ft", "serve", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode in (2, 3) and "was imported" not in done.stderr, done.stderr
    assert len(errors) == 1 and message.format(taken=taken) in errors[0], done.stderr


SHAPE = {
    "model_type": "bert",
    "vocab_size": 8000,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "pad_token_id": 1,
}
