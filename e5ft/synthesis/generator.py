"""Queries by a language model behind an OpenAI-compatible endpoint; every answer is kept on disk, so that none is paid for twice."""

import dataclasses
import json
import os
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from e5ft import caches
from e5ft.data.text import normalise
from e5ft.files import digest_of
from e5ft.json_http import AnswerError, JsonClient
from e5ft.synthesis.chunks import Chunk
from e5ft.synthesis.queries import Query
from e5ft.synthesis.settings import GeneratorSettings

_PATH = "/chat/completions"
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0  # seconds before a call is repeated; doubled each time
_MOST_FAILURES = 5  # failed calls in a row, rejected ones included, after which the run stops
_REJECTED = (400, 413, 422)  # of a call, where others may be answered
_SKIPPED = "rejected as too long or filtered before, not sent again (another cache_dir sends them)"
_LONGEST = 300  # characters of a query
_ANSWER = 40  # tokens of an answer, as it is estimated
_TOKENS = (0.25, 0.8)  # tokens of a character: of ASCII, and of Hangul and other scripts, roughly as current tokenisers have them
_REFUSAL = re.compile(
    r"죄송|도와드릴 수|(?:생성|작성|제공|답변|답)(?:을|를)? ?(?:할|해 ?드릴) 수(?:는|가)? 없(?:습니다|어요|네요|다\b)"
    r"|만들(?:어 드릴)? 수(?:는|가)? 없(?:습니다|어요|네요|다\b)"
    r"|언어 모델(?:로서(?:,| 저| 나)|이(?:므로|기 때문|라서))|(?:저|나)는 .{0,20}언어 모델"
    r"|\bI(?:'m| am) sorry|^I can(?:no|')t$|\bas an AI(?: language)?(?: model| assistant)?,? I\b|\bI apologi[sz]e"
    r"|\bI(?: can(?:no|')t|(?:'m| am) unable to) (?:help|assist|provide|create|generate|write|answer|comply|fulfil)",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"^(?:[-*•>#]+(?!\d)|\d{1,2}[.)](?![\dA-Za-z])|(?:질문|질의|검색어|키워드|제목|문장|query|question|keywords|title|claim|answer)\s*[:：])\s*",
    re.I,
)
_QUOTES = "\"'`“”‘’「」『』*_ "
_HANGUL = re.compile(r"[가-힣]")


@dataclasses.dataclass(frozen=True)
class Cost:
    """What is about to be asked for.

    Attributes:
        calls: that must be made.
        kept: answers that an earlier run left.
        tokens: in and out, estimated.
        price: of both, where the price of a million is known.
    """

    calls: int
    kept: int
    tokens: tuple[int, int]
    price: float | None

    def __str__(self) -> str:
        kept = f" ({self.kept:,} more are answered already)" if self.kept else ""
        price = "" if self.price is None else f", about {self.price:,.2f} in the currency of generator.price"
        return f"{self.calls:,} calls{kept}, about {self.tokens[0]:,} tokens in and {self.tokens[1]:,} out{price}"


@dataclasses.dataclass(frozen=True)
class Ask:
    """One call: the kind of query, the number of the chunk, and the request."""

    kind: str
    chunk: int
    body: dict


class Generator:
    """Asks a language model for queries.

    Args:
        settings: of the group `generator`, with an address.
        key: a bearer token, from the environment; None sends none.
        cache: folder of the caches.
        wait: what passes seconds between two calls; None: the clock.

    Attributes:
        counts: of calls: "answered", "cached" (answered in an earlier run), "not answered", and those the endpoint rejected before.
        unusable: of the answers, by the reason for which one is no query.
        examples: reason -> up to five answers or messages.
        tokens: in and out, as the endpoint counted them; (0, 0) where it does not.
    """

    def __init__(self, settings: GeneratorSettings, key: str | None, cache: Path, wait: Callable[[float], object] | None = None):
        self._settings, self._stopped = settings, threading.Event()  # set: no call is repeated any more
        self._wait = wait or self._stopped.wait
        base = settings.url.rstrip("/").removesuffix(_PATH)
        self._url = base + _PATH
        self._http = JsonClient(self._url, key, settings.timeout, "generator.timeout")
        self._folder = cache / "generated"
        self._file = self._folder / f"{digest_of(self._url, settings.model)}.jsonl"
        self._answers: dict[str, str | None] = {}  # None: the endpoint rejected the text
        self._lock, self._failures = threading.Lock(), 0
        self.counts, self.unusable, self.examples, self.tokens = Counter(), Counter(), {}, (0, 0)

    def asks(self, chunks: Sequence[Chunk], seed: int) -> list[Ask]:
        """The calls: of every chunk `per_chunk` kinds, in turns, so that all kinds are asked for equally often."""
        settings, asks = self._settings, []
        for number, chunk in enumerate(chunks):
            for turn in range(settings.per_chunk):
                kind = settings.kinds[(number * settings.per_chunk + turn) % len(settings.kinds)]
                title = " > ".join(filter(None, (chunk.title, *chunk.headings)))
                prompt = re.sub(
                    r"\{(title|passage)\}", lambda m, c=chunk, t=title: t if m[1] == "title" else c.text, settings.prompts[kind]
                )
                messages = [{"role": "system", "content": settings.system}] if settings.system else []
                messages.append({"role": "user", "content": prompt})
                body = {"temperature": settings.temperature, "max_tokens": settings.max_tokens}
                body = {name: value for name, value in body.items() if value is not None}
                asks.append(Ask(kind, number, {"model": settings.model, "messages": messages, **body, **settings.body}))
        if settings.max_calls is not None and settings.max_calls < len(asks):
            asks = [asks[n] for n in sorted(random.Random(seed).sample(range(len(asks)), settings.max_calls))]
        return asks

    def cost(self, asks: Sequence[Ask]) -> Cost:
        """What the calls that were not answered before will cost, estimated."""
        self._load()
        left = [ask for ask in asks if _key(ask) not in self._answers]
        texts = ["".join(message["content"] for message in ask.body["messages"]) for ask in left]
        tokens = sum(_TOKENS[0] * len(text) + (_TOKENS[1] - _TOKENS[0]) * sum(c > "\x7f" for c in text) for text in texts)
        counts, price = (round(tokens), _ANSWER * len(left)), self._settings.price
        total = None if price is None else sum(count * each / 1e6 for count, each in zip(counts, price, strict=True))
        kept = sum(self._answers.get(_key(ask)) is not None for ask in asks)
        return Cost(len(left), kept, counts, total)

    def queries(self, asks: Sequence[Ask], chunks: Sequence[Chunk]) -> Iterator[Query]:
        """A query of every answer that is one, in the order of the calls; what is none is counted.

        Raises:
            AnswerError: the endpoint refuses every call, or is down; the answers so far are kept.
        """
        self._stopped.clear()
        with caches.locked(self._file):
            self._load()
            for ask, answer in self._all(asks):
                if answer is None:
                    continue
                text, reason = query_of(answer, chunks[ask.chunk].text)
                if reason is None:
                    yield Query(f"generated_{ask.kind}", text, ask.chunk, chunks[ask.chunk].text)
                else:
                    self.unusable[reason] += 1
                    self._example(reason, answer)

    def _all(self, asks: Sequence[Ask]) -> Iterator[tuple[Ask, str | None]]:
        """Calls and their answers, in order; at most `parallel` are under way."""
        left, width = iter(asks), self._settings.parallel
        if width == 1:
            yield from ((ask, self._answer(ask)) for ask in left)
            return
        with ThreadPoolExecutor(width) as pool:
            waiting = [(ask, pool.submit(self._answer, ask)) for ask in islice(left, width)]
            try:
                while waiting:
                    ask, future = waiting.pop(0)
                    yield ask, future.result()
                    waiting += [(following, pool.submit(self._answer, following)) for following in islice(left, 1)]
            finally:
                self._stopped.set()
                pool.shutdown(wait=True, cancel_futures=True)

    def _answer(self, ask: Ask) -> str | None:
        key = _key(ask)
        with self._lock:
            if key in self._answers:
                self.counts["cached" if self._answers[key] is not None else _SKIPPED] += 1
                return self._answers[key]
        try:
            answer = self._call(ask)
        except AnswerError as error:
            if not _may_pass(error) and error.status not in _REJECTED:
                self._stopped.set()
                raise AnswerError(f"generator.url: {error}", error.status) from error
            with self._lock:
                self._failures += 1
                self.counts["not answered"] += 1
                self._example("not answered", str(error))
                if error.is_of_the_text:
                    self._keep(key, None)
                if self._failures >= _MOST_FAILURES:
                    self._stopped.set()
                    raise AnswerError(
                        f"generator.url: {error}; the answers so far are saved: run the same command again to continue"
                    ) from error
            return None
        with self._lock:
            self._failures = 0
            self.counts["answered"] += 1
            self._keep(key, answer)
        return answer

    def _call(self, ask: Ask) -> str:
        for attempt in range(self._settings.retries + 1):
            try:
                return self._read(self._http.send(self._url, ask.body))
            except AnswerError as error:
                if not _may_pass(error) or attempt == self._settings.retries:
                    raise
                backoff = _FIRST_WAIT * 2**attempt * random.uniform(0.8, 1.2)
                self._wait(min(_LONGEST_WAIT, max(error.wait or 0, backoff)))
                if self._stopped.is_set():
                    raise
        raise AssertionError("unreachable")

    def _read(self, answer: object) -> str:
        """The text of an answer; empty where the model gave none, as one that is filtered does."""
        try:
            message = answer["choices"][0]["message"]
            text = message.get("content") or message.get("refusal") or ""
            usage = answer.get("usage") or {}
            counted = (int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0))
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            shown = self._http.shown(json.dumps(answer))
            raise AnswerError(f"{self._url}: not the answer of OpenAI's /v1/chat/completions: {shown}") from error
        with self._lock:
            self.tokens = (self.tokens[0] + counted[0], self.tokens[1] + counted[1])
        return text if isinstance(text, str) else ""

    def _example(self, reason: str, text: str) -> None:
        shown = self.examples.setdefault(reason, [])
        if len(shown) < 5:
            shown.append(normalise(text)[:200])

    def _load(self) -> None:
        """Read what earlier runs kept; a last line that a kill cut off is none."""
        if not self._file.is_file():
            return
        for line in self._file.read_bytes().split(b"\n"):
            try:
                kept = json.loads(line)
                self._answers[kept["key"]] = kept["answer"]
            except (ValueError, KeyError, TypeError):
                continue

    def _keep(self, key: str, answer: str | None) -> None:
        self._answers[key] = answer
        with caches.writing(self._folder), open(self._file, "ab") as file:
            # A line end first: what a kill cut off before is a line of its own, and so is this.
            file.write(b"\n" + json.dumps({"key": key, "answer": answer}).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def query_of(answer: str, passage: str) -> tuple[str, str | None]:
    """The query in an answer, and why it is none (None: it is one).

    Args:
        answer: of the language model; its first line counts, without label, bullet and quotes.
        passage: that it was shown.
    """
    # Of models that think aloud; some templates put the opening tag into the prompt.
    answer = re.sub(r"<think>.*?(</think>|\Z)", "", answer, flags=re.DOTALL).rpartition("</think>")[2]
    lines = [line for line in map(normalise, answer.split("\n")) if any(map(str.isalnum, line))]
    if len(lines) > 1 and lines[0].rstrip(_QUOTES).endswith((":", "：")):  # "Here is the query:"
        del lines[0]
    if not lines:
        return "", "empty"
    if _REFUSAL.search(lines[0]):
        return lines[0], "the model declines"
    text = lines[0]
    for _ in range(3):
        text = _LABEL.sub("", text.strip(_QUOTES)).strip(_QUOTES)
    if not any(map(str.isalnum, text)):
        return text, "empty"
    if len(text) > _LONGEST or len(lines) > 3:
        return text, "too long, or several lines"
    if _HANGUL.search(passage) and not _HANGUL.search(text) and any(c > "\x7f" and c.isalpha() for c in text):
        return text, "in another script"
    if normalise(text).casefold() == normalise(passage).casefold():
        return text, "copies the passage"
    return text, None


def _may_pass(error: AnswerError) -> bool:
    """Whether the same call may be answered later."""
    return error.status is None or error.status in (408, 429) or error.status >= 500


def _key(ask: Ask) -> str:
    return digest_of(ask.body)
