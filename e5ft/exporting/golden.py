"""golden.json: texts and the vectors that a server of the exported model must give, beside those that usual mistakes would give.

A vector is in the file as whole numbers, each component times `SCALE`, rounded: its cosine to the exact one is above .999999.
Reading needs neither torch nor transformers.
"""

import contextlib
import dataclasses
import json
import math
import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from e5ft.data.text import normalise, tokenize, tokenizer_state
from e5ft.errors import DataError
from e5ft.files import read_json, write_text
from e5ft.modeling.pooling import POOLINGS

if TYPE_CHECKING:
    from e5ft.modeling.encoder import Encoder

FILE, FORMAT, SCALE = "golden.json", 1, 10_000
ROLES = ("query", "passage")
# Mistakes by their names in the file; those that come together are joined by a plus: no_prefix+pooling_cls.
NO_PREFIX, PREFIX_TWICE, OTHER_PREFIX, OTHER_BEFORE = "no_prefix", "prefix_twice", "other_prefix", "other_prefix_before"
POOLING, CUT, NFD, SPACES = "pooling_", "cut_", "nfd", "spaces"
# Kinds of probes: one that no mistake below its own name touches is plain.
PLAIN, LONG = "plain", "long"

_QUERIES = (
    "서울의 수도",
    "전입신고는 어디에서 하나요?",
    "how do I reset my password",
    "API 키를 재발급하는 방법",
    "2024년 최저임금은 얼마인가",
    "embedding model의 prefix 규칙",
    "세종대왕이 만든 문자",
    "When was the treaty signed?",
    "김치찌개 끓이는 법 알려줘 ㅋㅋ",
    "大韓民國 憲法 제1조",
)
_PASSAGES = (
    "훈민정음은 백성을 가르치는 바른 소리라는 뜻이다.",
    "Mount Halla is the highest mountain in South Korea, on the island of Jeju.",
    "전입한 날부터 14일 이내에 주민센터나 정부24에서 신고하여야 한다.",
    "Docker 컨테이너를 다시 시작하려면 `docker restart` 명령을 씁니다.",
    "비밀번호를 잊은 경우 로그인 화면에서 '비밀번호 찾기'를 누르십시오.",
    "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen.",
    "민법 제750조: 고의 또는 과실로 인한 위법행위로 타인에게 손해를 가한 자는 그 손해를 배상할 책임이 있다.",
    "The library opens at 9:30 and closes at 18:00, except on Mondays.",
    "부산 ☀️ 27.5℃, 습도 60 %",
    "끝",
)
_DECOMPOSED = (
    ("query", "한국어 검색 모델"),
    ("query", "부동산 등기부 등본 떼는 곳"),
    ("query", "Crème brûlée 만드는 방법"),
    ("passage", "경복궁은 조선 왕조의 법궁으로 1395년에 창건되었다."),
    ("passage", "파일 이름: 회의록_최종.hwp"),
)
_SPACED = (
    ("query", "  여권   재발급 기간 "),
    ("query", "opening\thours\n"),
    ("query", "전세\u3000계약 갱신"),
    ("passage", "제주도는\n\n화산섬이다. \n"),
    ("passage", " Tea is \u00a0 grown in Boseong.  "),
)
# One after another in an over-long text, so that each part of it that is cut off changes the vector.
_SENTENCES = (
    "조선의 네 번째 임금 세종은 집현전 학자들과 함께 새로운 문자를 만들었다.",
    "The reactor was shut down after a valve in the secondary cooling loop had failed.",
    "임차인은 계약이 끝나기 두 달 전까지 갱신을 요구할 수 있다.",
    "Rinse the rice twice, soak it for half an hour, and cook it on a low flame.",
    "서버가 응답하지 않으면 로그 파일과 포트 설정을 먼저 확인한다.",
)
_TESTED, _CUTS = 4, (128, 256, 512)  # plain probes of a role that hold the mistakes' vectors; usual lengths to cut at
_LONGEST = 620  # tokens of an over-long text, where the model's own limit is not below
_EQUAL = 1e-6  # a mistake that moves a vector by less (1 - cosine) changes nothing


@dataclasses.dataclass(frozen=True)
class Probe:
    """A text to send and what may come back.

    Attributes:
        text: raw: no prefix, NFD and white space as they are.
        role: "query" or "passage".
        kind: "plain", "nfd", "spaces" or "long".
        vector: (D,) the right answer, of length 1.
        mistakes: name -> (D,) what mistakes give, of length 1; see `after`.
    """

    text: str
    role: str
    kind: str
    vector: np.ndarray
    mistakes: dict[str, np.ndarray]

    def after(self, name: str) -> np.ndarray | None:
        """The vector (D,) that mistakes give; None where it is not stored.

        Args:
            name: of the mistakes; "" is none.
        """
        if not name:
            return self.vector
        if name in self.mistakes:
            return self.mistakes[name]
        if self.kind == PLAIN and not self.mistakes or POOLING in name or OTHER_BEFORE in name:
            return None
        return self.after(without_last(name))  # the last of them changes nothing here


@dataclasses.dataclass(frozen=True)
class Golden:
    """The content of golden.json.

    Attributes:
        dimension: D.
        pooling: the model's, a name in `POOLINGS`.
        prefixes, max_lengths: by role.
        levels: "int8" and "int4" -> the lowest cosine over plain probes when the model's own weights are rounded so far.
        probes: 32 of them.
        by_client: kinds of probes that clients must normalise before they send them: the folder's own tokenizer does not everywhere.
    """

    dimension: int
    pooling: str
    prefixes: dict[str, str]
    max_lengths: dict[str, int]
    levels: dict[str, float]
    probes: tuple[Probe, ...]
    by_client: Sequence[str] = ()


def read_golden(place: str | os.PathLike) -> Golden:
    """Read golden.json.

    Args:
        place: the file, or the exported folder.

    Raises:
        DataError: it is not there, or was not written by `write_golden`.
    """
    file = Path(place) / FILE if Path(place).is_dir() else Path(place)
    try:
        values = {"by_client": (), **read_json(file)}  # older exports have none
        if values["format"] != FORMAT:
            raise DataError(f"{file}: format {values['format']}, must be {FORMAT}; export again with this version")
        probes = tuple(
            Probe(p["text"], p["role"], p["kind"], _unit(p["vector"]), {n: _unit(v) for n, v in p["mistakes"].items()})
            for p in values["probes"]
        )
        fields = {field.name: values[field.name] for field in dataclasses.fields(Golden) if field.name != "probes"}
        lengths = {len(vector) for probe in probes for vector in (probe.vector, *probe.mistakes.values())}
        if lengths != {fields["dimension"]} or {probe.role for probe in probes} != {"query", "passage"}:
            raise ValueError(f"vectors of {sorted(lengths)} numbers, must be of {fields['dimension']}, of queries and passages")
        return Golden(**fields, probes=probes)
    except FileNotFoundError:
        raise DataError(f"{file}: not there; export writes it (python export.py model.path=DIR output_dir=NEW)") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file}: not what export writes ({type(error).__name__}: {error}); export again") from error


def write_golden(encoder: "Encoder", folder: str | os.PathLike, by_client: Sequence[str] = ()) -> None:
    """Embed the probes as they must be and with each usual mistake, and write golden.json.

    Args:
        encoder: on the CPU, whose vectors carry the least rounding.
        folder: the export's.
        by_client: kinds of probes, see `Golden`; one that changes no vector here is left out.
    """
    text, pooling = encoder.spec.text, encoder.spec.pooling
    prefixes = {"query": text.query_prefix, "passage": text.passage_prefix}
    limits = {"query": text.query_max_length, "passage": text.passage_max_length}
    probes = list(_probes(encoder.tokenizer, prefixes, limits))
    right = _embed(encoder, [_tokens(encoder, prefixes[role] + normalise(raw)) for raw, role, _ in probes], pooling)
    stored: list[dict[str, list[int]]] = [{} for _ in probes]
    mistaken = _mistaken(encoder, probes, prefixes)
    for (number, name), vector in mistaken.items():
        fewer = mistaken.get((number, without_last(name)), right[number])
        if name and 1 - float(vector @ fewer) > _EQUAL:
            stored[number][name] = _whole(vector)
    head = {"format": FORMAT, "scale": SCALE, "dimension": encoder.dimension, "pooling": pooling}
    head |= {"prefixes": prefixes, "max_lengths": limits, "levels": _levels(encoder, probes, prefixes, right)}
    head["by_client"] = [kind for kind in by_client if any(kind in names for names in stored)]
    lines = [
        _compact({"text": raw, "role": role, "kind": kind, "vector": _whole(right[n]), "mistakes": stored[n]})
        for n, (raw, role, kind) in enumerate(probes)
    ]
    write_text(Path(folder) / FILE, _compact(head)[:-1] + ',"probes":[\n' + ",\n".join(lines) + "\n]}\n")


def _probes(tokenizer, prefixes: dict[str, str], limits: dict[str, int]) -> Iterator[tuple[str, str, str]]:
    """Yield 32 texts with role and kind. A server has one length, the longer of the two: what its role would cut takes the other's."""

    def size(text: str) -> int:
        return len(tokenize(tokenizer, [text], 100_000)["input_ids"][0])

    long = min(1.2 * max(limits.values()), _LONGEST)  # tokens
    texts = [(text, "query", PLAIN) for text in _QUERIES] + [(text, "passage", PLAIN) for text in _PASSAGES]
    texts += [(unicodedata.normalize("NFD", text), role, NFD) for role, text in _DECOMPOSED]
    texts += [(text, role, SPACES) for role, text in _SPACED]
    for role, sentences in zip(ROLES, (_SENTENCES, _SENTENCES[::-1]), strict=True):
        parts = [s for s in sentences for _ in range(math.ceil(long / len(sentences) / size(s)))]
        texts.append((" ".join(parts), role, LONG))
    for text, role, kind in texts:
        other = ROLES[role == "query"]
        is_cut = limits[role] < limits[other] and size(prefixes[role] + normalise(text)) > limits[role]
        yield text, other if is_cut else role, kind


def _mistaken(
    encoder: "Encoder", probes: list[tuple[str, str, str]], prefixes: dict[str, str]
) -> dict[tuple[int, str], np.ndarray]:
    """(number of the probe, name of the mistakes) -> vector, in which every combination that is worth its bytes has a part."""
    own, limit = encoder.spec.pooling, _limit(encoder)
    other = next(pooling for pooling in POOLINGS if pooling != own)  # CLS, where the mean is right
    lengths = [n for n in _CUTS if n < min(limit, _LONGEST)] or [limit // 2]
    with _bare_normaliser(encoder.tokenizer):
        bare = {
            (number, name): _tokens(encoder, prefix + raw)
            for number, (raw, role, kind) in enumerate(probes)
            for name, prefix in _before(prefixes, role).items()
            if kind in (NFD, SPACES) and name != OTHER_BEFORE
        }
    jobs: dict[str, list[tuple[int, str, list[int]]]] = {own: [], other: []}
    seen = dict.fromkeys(ROLES, 0)
    for number, (raw, role, kind) in enumerate(probes):
        seen[role] += kind == PLAIN
        if kind == PLAIN and seen[role] > _TESTED:
            continue
        for name, prefix in _before(prefixes, role).items():
            if name == OTHER_BEFORE and kind != PLAIN:
                continue  # the plain probes name it; the file stays small
            text = prefix + normalise(raw)
            tokens = _tokens(encoder, text)
            jobs[own].append((number, name, tokens))
            if kind == PLAIN and name != OTHER_BEFORE:
                jobs[other].append((number, _joined(name, POOLING + other), tokens))
            if (number, name) in bare:
                jobs[own].append((number, _joined(name, kind), bare[number, name]))
            for length in lengths if kind == LONG else ():
                jobs[own].append((number, _joined(name, f"{CUT}{length}"), _tokens(encoder, text, length)))
    found = {}
    for pooling, entries in jobs.items():
        vectors = _embed(encoder, [tokens for *_, tokens in entries], pooling)
        found |= {(number, name): vector for (number, name, _), vector in zip(entries, vectors, strict=True)}
    return found


def _before(prefixes: dict[str, str], role: str) -> dict[str, str]:
    """Name of a mistake -> what it puts before a text; "" is none."""
    own, other = prefixes[role], prefixes[ROLES[role == "query"]]
    wrong = {NO_PREFIX: "", PREFIX_TWICE: own + own, OTHER_PREFIX: other, OTHER_BEFORE: other + own}
    return {"": own, **{name: prefix for name, prefix in wrong.items() if prefix != own}}


def _joined(*names: str) -> str:
    return "+".join(filter(None, names))


def without_last(name: str) -> str:
    """The name of mistakes without the last of them."""
    return name.rpartition("+")[0]


def _limit(encoder: "Encoder") -> int:
    return max(encoder.spec.text.query_max_length, encoder.spec.text.passage_max_length)


def _tokens(encoder: "Encoder", text: str, limit: int | None = None) -> list[int]:
    return tokenize(encoder.tokenizer, [text], limit or _limit(encoder))["input_ids"][0]


def _embed(encoder: "Encoder", tokens: list[list[int]], pooling: str) -> np.ndarray:
    spec = encoder.spec
    encoder.spec = dataclasses.replace(spec, pooling=pooling)
    try:
        return encoder.encode_tokens(tokens)
    finally:
        encoder.spec = spec


@contextlib.contextmanager
def _bare_normaliser(tokenizer) -> Iterator[None]:
    """Within the block a tokenizer neither recomposes nor touches white space more than its base did."""
    from tokenizers import Tokenizer

    backend, bare = tokenizer.backend_tokenizer, _without_ours(tokenizer_state(tokenizer)["normalizer"])
    own = backend.normalizer
    state = {"version": "1.0", "model": {"type": "WordLevel", "vocab": {"-": 0}, "unk_token": "-"}, "normalizer": bare}
    backend.normalizer = Tokenizer.from_str(json.dumps(state)).normalizer
    try:
        yield
    finally:
        backend.normalizer = own


def _without_ours(state: dict | None) -> dict | None:
    """A normaliser's state without its NFC, Strip and replacement of every white space."""
    spaces = state is not None and state["type"] == "Replace" and "\\s" in state["pattern"].get("Regex", "")
    if state is None or spaces or state["type"] in ("NFC", "Strip"):
        return None
    if state["type"] == "Sequence":
        return {**state, "normalizers": [part for part in map(_without_ours, state["normalizers"]) if part is not None]}
    return state


def _levels(
    encoder: "Encoder", probes: list[tuple[str, str, str]], prefixes: dict[str, str], right: np.ndarray
) -> dict[str, float]:
    """How near the model's own vectors stay when its weights are rounded: the lowest cosine over plain probes."""
    numbers = [n for n, (*_, kind) in enumerate(probes) if kind == PLAIN]
    tokens = [_tokens(encoder, prefixes[role] + normalise(raw)) for raw, role, kind in probes if kind == PLAIN]
    levels = {}
    for bits in (8, 4):
        with _rounded_weights(encoder.backbone, bits):
            vectors = encoder.encode_tokens(tokens)
        levels[f"int{bits}"] = round(float((vectors * right[numbers]).sum(axis=1).min()), 6)
    return levels


@contextlib.contextmanager
def _rounded_weights(backbone, bits: int) -> Iterator[None]:
    """Within the block every linear layer has weights of so many bits: one scale for 32 weights (GGUF's blocks), or for a row."""
    from torch import nn

    most, kept = 2 ** (bits - 1) - 1, {}
    try:
        for module in backbone.modules():
            if isinstance(module, nn.Linear):
                weight = kept[module] = module.weight.data
                blocks = weight.reshape(-1, 32 if weight.shape[1] % 32 == 0 else weight.shape[1])
                scale = (blocks.abs().amax(dim=1, keepdim=True) / most).clamp(min=1e-12)
                module.weight.data = ((blocks / scale).round() * scale).reshape(weight.shape)
        yield
    finally:
        for module, weight in kept.items():
            module.weight.data = weight


def _whole(vector: np.ndarray) -> list[int]:
    return np.rint(vector * SCALE).astype(int).tolist()


def _unit(values: list[int]) -> np.ndarray:
    return np.asarray(values, dtype=np.float64) / np.linalg.norm(values)


def _compact(values: dict) -> str:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
