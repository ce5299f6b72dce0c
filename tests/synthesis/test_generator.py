"""A language model is asked once for each query, whatever it answers; nothing that it answers ends the command."""

import json
import subprocess
import sys
import threading

import pytest
from omegaconf import OmegaConf

from e5ft.app.settings.build import shipped
from e5ft.errors import ConfigurationError
from e5ft.json_http import AnswerError
from e5ft.settings import build
from e5ft.synthesis.generator import Generator, query_of
from e5ft.synthesis.settings import GeneratorSettings
from tests.test_cli import ENVIRONMENT, ROOT

KEY = "very-secret-0123456789"


def settings(url: str, language: str = "ko", **given) -> GeneratorSettings:
    values = OmegaConf.merge(*(OmegaConf.load(shipped(f"conf/generator/{name}.yaml")) for name in ("common", language)))
    values = {name: value for name, value in OmegaConf.to_container(values).items() if name != "defaults"}
    return build(GeneratorSettings, {**values, "url": url, "model": "m", **given})


@pytest.fixture
def ask(chat, tmp_path, chunks):
    """Ask for queries of the first chunks; returns the queries, the generator, and how long it waited."""

    def run(count: int = 5, url: str | None = None, **given):
        waits = []
        generator = Generator(settings(url or chat.url, **given), KEY, tmp_path / "cache", waits.append)
        calls = generator.asks(chunks[:count], seed=1)
        return list(generator.queries(calls, chunks)), generator, waits

    return run


def test_five_kinds_are_asked_for_in_turns_with_chunk_and_title(ask, chat, chunks):
    chat.answer = lambda prompt: f"질문: {prompt[:9]}?"
    queries, generator, _ = ask(10, body={"top_p": 0.5}, max_tokens=None)
    kinds = ["question", "keywords", "colloquial", "claim", "title"]
    assert [query.kind for query in queries] == [f"generated_{kind}" for kind in kinds] * 2
    assert [query.chunk for query in queries] == list(range(10)) and queries[3].passage == chunks[3].text
    path, token, body = chat.seen[1]
    assert (path, token, body["model"], body["temperature"], body["top_p"]) == (
        "/v1/chat/completions",
        f"Bearer {KEY}",
        "m",
        0.7,
        0.5,
    )
    assert "max_tokens" not in body and body["messages"][0]["role"] == "system"
    assert chunks[1].text in body["messages"][1]["content"] and "연차 안내서 > 연차 신청 절차" in body["messages"][1]["content"]
    assert generator.counts == {"answered": 10} and generator.tokens == (1000, 100)


def test_prompts_of_both_languages_hold_the_passage(chat):
    for language, word in (("ko", "질문"), ("en", "question")):
        made = settings(chat.url, language)
        assert len(made.kinds) == 5 and word in made.prompts["question"]
        assert all(prompt.count("{passage}") == prompt.count("{title}") == 1 for prompt in made.prompts.values())


def test_braces_of_a_passage_are_text(chat, tmp_path, chunks):
    from dataclasses import replace

    chunk = replace(chunks[0], text="{title} {0} {passage} \\1")
    [call] = Generator(settings(chat.url), None, tmp_path).asks([chunk], 0)
    assert call.body["messages"][1]["content"].endswith("글: {title} {0} {passage} \\1")


def test_nothing_is_asked_twice(ask, chat):
    first, *_ = ask(5)
    again, generator, _ = ask(7)
    assert again[:5] == first and len(chat.seen) == 7 and generator.counts == {"cached": 5, "answered": 2}
    ask(7, model="another")  # is another model
    assert len(chat.seen) == 14


def test_the_cost_is_known_before(chat, tmp_path, chunks):
    generator = Generator(settings(chat.url, price=[1.0, 10.0], per_chunk=2), None, tmp_path)
    calls = generator.asks(chunks[:10], 1)
    cost = generator.cost(calls)
    assert (cost.calls, cost.kept, cost.tokens[1]) == (20, 0, 800) and 20 * 50 < cost.tokens[0] < 20 * 400
    assert cost.price == pytest.approx((cost.tokens[0] + 10 * cost.tokens[1]) / 1e6) and not chat.seen
    list(generator.queries(calls[:5], chunks))
    cost = generator.cost(calls)
    assert (cost.calls, cost.kept) == (15, 5)
    assert str(cost).startswith("15 calls (5 more are answered already), about ") and "about 0.0" in str(cost)


def test_a_choice_of_calls_is_seeded(chat, tmp_path, chunks):
    generator = Generator(settings(chat.url, max_calls=7), None, tmp_path)
    chosen = [call.chunk for call in generator.asks(chunks, 1)]
    assert len(chosen) == 7 and chosen == sorted(chosen) == [call.chunk for call in generator.asks(chunks, 1)]
    assert chosen != [call.chunk for call in generator.asks(chunks, 2)]


def test_what_passes_is_waited_for(ask, chat):
    """The second wait is the server's own; the others double, a little more or less."""
    chat.failures = [(429, {}, {}), (503, {"Retry-After": "9"}, {}), (500, {}, b""), (200, {}, b"<html>")]
    queries, generator, waits = ask(2)
    assert len(queries) == 2 and generator.counts == {"answered": 2} and len(chat.seen) == 6
    assert waits[1] == 9 and all(
        low <= wait <= high for wait, low, high in zip(waits, (0.8, 9, 3.2, 6.4), (1.2, 9, 4.8, 9.6), strict=True)
    )


def test_a_call_that_never_succeeds_is_counted(ask, chat):
    chat.failures = [(500, {}, {"error": KEY})] * 3
    queries, generator, waits = ask(3, retries=2)
    assert len(queries) == 2 and generator.counts == {"answered": 2, "not answered": 1} and len(waits) == 2
    assert "HTTP 500" in generator.examples["not answered"][0] and KEY not in generator.examples["not answered"][0]
    chat.failures = [(400, {}, {"error": "too long"})]  # no use to repeat
    _, generator, waits = ask(4, retries=2)
    assert generator.counts == {"not answered": 1, "cached": 2, "answered": 1} and waits == []


def test_an_endpoint_that_is_down_ends_it_and_keeps_the_answers(ask, chat):
    ask(3)
    chat.failures = [(503, {}, {})] * 5
    with pytest.raises(
        AnswerError, match="^generator.url: .*HTTP 503.*; the answers so far are saved: run the same command again to continue$"
    ):
        ask(20, retries=0)
    assert ask(20)[1].counts == {"cached": 3, "answered": 17}


def test_calls_that_are_refused_themselves_are_not_asked_first_again(ask, chat):
    chat.failures = [(400, {}, {"error": "too long"})] * 5
    with pytest.raises(AnswerError, match="HTTP 400"):
        ask(12)
    queries, generator, _ = ask(12)
    assert len(queries) == 7 and len(chat.seen) == 12
    assert generator.counts == {
        "rejected as too long or filtered before, not sent again (another cache_dir sends them)": 5,
        "answered": 7,
    }
    assert ask(12, temperature=0.1)[1].counts == {"answered": 12}  # another request


@pytest.mark.parametrize("said", ["API key not valid", "Invalid token", "billing is off"])
def test_what_is_wrong_with_the_call_and_not_with_the_text_is_not_remembered(ask, chat, said):
    chat.failures = [(400, {}, {"error": said})] * 5
    with pytest.raises(AnswerError, match=said):
        ask(12)
    assert len(ask(12)[0]) == 12


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refused_key_ends_it_at_once(ask, chat, status):
    chat.failures = [(status, {}, {"error": KEY})]
    with pytest.raises(AnswerError, match=f"^generator.url: .*HTTP {status}") as raised:
        ask(5)
    assert len(chat.seen) == 1 and KEY not in str(raised.value)


def test_answers_that_are_no_queries_are_counted_with_examples(ask, chat):
    answers = iter(["죄송하지만 도와드릴 수 없습니다.", "", "1. \n", "가" * 400, "질문인가요?"])
    chat.answer = lambda prompt: next(answers)
    queries, generator, _ = ask(5)
    assert [query.text for query in queries] == ["질문인가요?"]
    assert generator.counts == {"answered": 5}
    assert generator.unusable == {"the model declines": 1, "empty": 2, "too long, or several lines": 1}
    assert generator.examples["the model declines"] == ["죄송하지만 도와드릴 수 없습니다."]
    chat.failures = [
        (200, {}, {"choices": [{"message": {"content": None, "refusal": "I can't"}}]}),
        (200, {}, {"choices": [{"message": {}}]}),
    ]
    assert ask(7)[1].unusable["empty"] == 3


@pytest.mark.parametrize(
    ("answer", "query", "reason"),
    [
        ("연차는 며칠인가요?", "연차는 며칠인가요?", None),
        ('질문: "연차는 며칠인가요?"', "연차는 며칠인가요?", None),
        ("- **검색어: 연차 일수 신청**\n", "연차 일수 신청", None),
        ("<think>음\n그러면</think>\n1) 연차 일수", "연차 일수", None),
        ("VPN MFA", "VPN MFA", None),
        ("3.5인치 디스크 교체", "3.5인치 디스크 교체", None),
        ("-5도에서도 켜지나요?", "-5도에서도 켜지나요?", None),
        ("1.연차 일수", "연차 일수", None),
        ("앱에 로그인할 수 없어요", "앱에 로그인할 수 없어요", None),
        ("What if I'm unable to log in?", "What if I'm unable to log in?", None),
        ("이 글로는 질문을 생성할 수 없습니다.", "이 글로는 질문을 생성할 수 없습니다.", "the model declines"),
        ("I can't help with that.", "I can't help with that.", "the model declines"),
        ("I'm sorry, but I cannot help.", "I'm sorry, but I cannot help.", "the model declines"),
        ("저는 인공지능 언어 모델로서 답할 뿐입니다.", "저는 인공지능 언어 모델로서 답할 뿐입니다.", "the model declines"),
        ("한국어 언어 모델의 파라미터 수는 얼마인가요?", "한국어 언어 모델의 파라미터 수는 얼마인가요?", None),
        ("개인정보를 제공할 수 없는 경우는?", "개인정보를 제공할 수 없는 경우는?", None),
        ("How does GPT use attention as an AI model?", "How does GPT use attention as an AI model?", None),
        ("As an AI language model, I have no view.", "As an AI language model, I have no view.", "the model declines"),
        ("The user asks about leave.\n</think>\n\n연차는 며칠인가요?", "연차는 며칠인가요?", None),
        ("다음은 질문입니다:\n\n연차는 며칠인가요?", "연차는 며칠인가요?", None),
        ("**Here is the query:**\n연차는 며칠인가요?", "연차는 며칠인가요?", None),
        ("年假有几天", "年假有几天", "in another script"),
        ("연차는 열다섯 날이다.", "연차는 열다섯 날이다.", "copies the passage"),
        ("가\n나\n다\n라", "가", "too long, or several lines"),
        ("<think>끝나지 않은", "", "empty"),
        ("...", "", "empty"),
    ],
)
def test_the_query_in_an_answer(answer, query, reason):
    assert query_of(answer, "연차는 열다섯 날이다.") == (query, reason)


def test_several_calls_at_once_give_the_same_in_the_same_order(ask, chat):
    together, most = threading.Barrier(3, timeout=10), []

    def answer(prompt):
        most.append(together.wait())
        return prompt[-12:]

    chat.answer = answer
    queries, generator, _ = ask(6, parallel=3)
    assert [query.chunk for query in queries] == list(range(6)) and generator.counts == {"answered": 6} and len(most) == 6


def test_a_wrong_key_ends_it_while_another_call_waits_to_be_repeated(chat, tmp_path, chunks, monkeypatch):
    monkeypatch.setattr("e5ft.synthesis.generator._FIRST_WAIT", 1e4)
    monkeypatch.setattr("e5ft.synthesis.generator._LONGEST_WAIT", 1e4)
    chat.failures = [(503, {}, {}), (401, {}, {})]
    generator = Generator(settings(chat.url, parallel=2), KEY, tmp_path)
    with pytest.raises(AnswerError, match="HTTP 401"):
        list(generator.queries(generator.asks(chunks[:9], 1), chunks))
    assert len(chat.seen) == 2


def test_a_kill_loses_one_answer_at_most(chat, tmp_path, chunks):
    """The process is killed while the fourth answer is on its way."""
    code = (
        "import sys, json\nfrom pathlib import Path\nfrom tests.synthesis.test_generator import *\n"
        "from tests.synthesis.conftest import make_documents\nfrom e5ft.synthesis.chunks import cut\n"
        "chunks = cut(make_documents(), 10, 200).chunks\n"
        f"generator = Generator(settings({chat.url!r}), None, Path({str(tmp_path)!r}))\n"
        "list(generator.queries(generator.asks(chunks[:9], 1), chunks))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=ENVIRONMENT)

    def answer(prompt):
        if len(chat.seen) == 4:
            process.kill()
            process.wait()
        return "질문인가요?"

    chat.answer = answer
    assert process.wait() < 0
    [file] = (tmp_path / "generated").glob("*.jsonl")
    file.write_bytes(file.read_bytes() + b'{"key": "cut o')  # and one that was being written
    generator = Generator(settings(chat.url), None, tmp_path)
    queries = list(generator.queries(generator.asks(chunks[:9], 1), chunks))
    assert len(queries) == 9 and generator.counts == {"cached": 3, "answered": 6}
    assert sum(bool(line.strip()) for line in file.read_text().splitlines()) == 10
    assert all(json.loads(line)["answer"] for line in file.read_text().splitlines() if line.endswith("}"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": None}, "^generator.model=None: must be the name"),
        ({"url": "localhost:8000"}, "^generator.url='localhost:8000': must be a web address"),
        ({"kinds": ["poem"]}, "^generator.kinds=.*must be keys of generator.prompts: question, "),
        ({"per_chunk": 6}, "^generator.per_chunk=6: must be at most 5"),
        ({"price": [1.0]}, "^generator.price=.*must be two numbers"),
        ({"prompts": {"question": "no"}, "kinds": ["question"]}, "^generator.prompts=.*must hold {passage}"),
    ],
)
def test_settings_that_cannot_be(given, message):
    with pytest.raises(ConfigurationError, match=message):
        settings(given.pop("url", "http://x/v1"), **given)
