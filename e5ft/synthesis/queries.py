"""Queries that are in the documents already, without any language model: a row of `KINDS` is all that one needs."""

import dataclasses
import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

from e5ft.data.text import normalise
from e5ft.retrieval.bm25 import words
from e5ft.synthesis.chunks import Chunk
from e5ft.synthesis.sentences import sentences

KEEP = 0.1  # share of first sentences that stay in their chunk, so that words in common are learnt, too
_SENTENCE, _CLAUSE = (10, 200), (20, 200)  # characters of a first sentence, or clause, that is a query
_COMMA = re.compile(r",\s")
_NUMBERING = re.compile(r"^(?:\d+(?:\.\d+)*[.)]?|[IVX]+[.)]|[가-하][.)]|[①-⑳])\s+")
_SHORT = 8  # characters of a heading that says little without the one above: 신청 방법, Overview
_KEYWORDS = (3, 5)  # words of a query
# Korean predicates and connectives: nobody searches for them.
_PREDICATE = re.compile(
    r"(?:니다|한다|된다|있다|없다|이다|않다|[았었였]다|[해어아]요|[하되으]며|[으하되]면|[어아]야|거나|지만|하여|되어|[하되]고|[하되있없않]는|[하되]지|따라|대[한해]|관한|위한|다만)$"
)
_SATURATION, _LENGTHS = 1.5, 0.75  # BM25's k1 and b
_MOST_COMMON = 0.1  # share of the chunks from which on a word tells nothing of one
_HANGUL_END = re.compile(r"[가-힣]$")
# What Korean glues to its nouns. Behind the others a stem counts where the texts show it bare or with two of them: 전문가 is one word.
_CLEAR = ("에서는", "으로는", "으로서", "으로써", "에서", "에게", "으로", "부터", "까지", "에는", "에도")
_PARTICLES = (
    *_CLEAR,
    *("라고", "이라", "하고", "로서", "이나", "은", "는", "이", "가", "을", "를", "의", "에", "와", "과", "도", "로", "만"),
)


@dataclasses.dataclass(frozen=True)
class Query:
    """A query and what answers it.

    Attributes:
        kind: how it was made.
        text: normalised.
        chunk: the number of the chunk.
        passage: the chunk's text, without the query where it stood in it.
        also: numbers of other chunks that answer it.
    """

    kind: str
    text: str
    chunk: int
    passage: str
    also: tuple[int, ...] = ()


def make_queries(chunks: Sequence[Chunk], kinds: Sequence[str], least: int, seed: int) -> list[Query]:
    """The queries of some kinds.

    Args:
        chunks: of all documents.
        kinds: keys of KINDS, each once.
        least: characters that a passage keeps when the query is taken out of it.
        seed: of the first sentences that stay.
    """
    return [query for kind in kinds for query in KINDS[kind](chunks, least, seed) if any(map(str.isalnum, query.text))]


def _titles(chunks: Sequence[Chunk], least: int, seed: int) -> Iterator[Query]:
    """A document's title, for its first chunk; the others answer it less directly, and are no wrong answers."""
    of_document = _grouped(chunk.document for chunk in chunks)
    for number, chunk in enumerate(chunks):
        if chunk.is_first[0] and chunk.title:
            others = tuple(other for other in of_document[chunk.document] if other != number)
            yield Query("title", chunk.title, number, _without(chunk.text, chunk.title, least), others)


def _headings(chunks: Sequence[Chunk], least: int, seed: int) -> Iterator[Query]:
    """A section's heading, for its first chunk; one that is in several places, or is short, has the one above before it."""
    of_section = _grouped(chunk.section for chunk in chunks)
    seen = Counter(_head(chunk) for chunk in chunks if chunk.headings and chunk.is_first[1])
    for number, chunk in enumerate(chunks):
        head = _head(chunk) if chunk.headings else ""
        if not chunk.is_first[1] or not head or head == chunk.title or chunk.question is not None:
            continue
        above = next((normalise(part) for part in (*chunk.headings[-2:-1], chunk.title or "") if part), "")
        if seen[head] > 1 and (not above or above == head):
            continue
        says_little = above != head and (seen[head] > 1 or len(head) < _SHORT)
        query = normalise(f"{above} {head}") if says_little else head
        others = tuple(other for other in of_section[chunk.section] if other != number)
        yield Query("heading", query, number, _without(chunk.text, head, least), others)


def _head(chunk: Chunk) -> str:
    return _NUMBERING.sub("", normalise(chunk.headings[-1]))


def _first_sentences(chunks: Sequence[Chunk], least: int, seed: int) -> Iterator[Query]:
    """A chunk's first sentence, for the rest of it: the inverse cloze task. Of a long or lone one its first clause, to the comma.

    Source: Lee, Chang and Toutanova 2019 (https://doi.org/10.18653/v1/P19-1612), section 4: the sentence is left in for 10 %.
    """
    generator = random.Random(seed)
    for number, chunk in enumerate(chunks):
        stays = generator.random() < KEEP
        ends = [
            (len((sentences(chunk.text) or [""])[0]), _SENTENCE),
            *((c.start(), _CLAUSE) for c in _COMMA.finditer(chunk.text)),
        ]
        for end, (fewest, most) in ends:
            first, passage = chunk.text[:end], chunk.text[end:].lstrip(" ,")
            if fewest <= end <= most and len(passage) >= least:
                yield Query("first_sentence", first, number, chunk.text if stays else passage)
                break


def _questions(chunks: Sequence[Chunk], least: int, seed: int) -> Iterator[Query]:
    """A question that is in the text, for its answer."""
    for number, chunk in enumerate(chunks):
        if chunk.question is not None:
            yield Query("faq", chunk.question, number, chunk.text)


def _keywords(chunks: Sequence[Chunk], least: int, seed: int) -> Iterator[Query]:
    """The words of a chunk that weigh most in BM25, in their order; Korean ones without their particles.

    Source: Robertson and Zaragoza 2009, with Lucene's idf.
    """
    every = [words(chunk.text) for chunk in chunks]
    bare, is_noun = _stemmer(every)
    stems = [[bare(word) for word in each] for each in every]
    documents = Counter(stem for each in stems for stem in set(each))
    mean = sum(map(len, stems)) / max(len(stems), 1)
    generator = random.Random(seed)
    for number, each in enumerate(stems):
        counts, length = Counter(each), 1 - _LENGTHS + _LENGTHS * len(each) / max(mean, 1)

        def weight(stem: str, counts=counts, length=length) -> float:
            rarity = math.log(1 + (len(stems) - documents[stem] + 0.5) / (documents[stem] + 0.5))
            return rarity * counts[stem] * (_SATURATION + 1) / (counts[stem] + _SATURATION * length)

        common = max(_MOST_COMMON * len(stems), 1)
        telling = [s for s in counts if len(s) > 1 and not s.isdigit() and documents[s] <= common and not _PREDICATE.search(s)]
        chosen = sorted(telling, key=lambda stem: (not is_noun(stem), -weight(stem), stem))[: generator.randint(*_KEYWORDS)]
        if len(chosen) >= _KEYWORDS[0]:
            yield Query("keywords", " ".join(sorted(chosen, key=each.index)), number, chunks[number].text)


def _stemmer(texts: Sequence[Sequence[str]]) -> tuple[Callable[[str], str], Callable[[str], bool]]:
    """What the texts show of words: their stems (계약은, 계약을 -> 계약; 전문가 stays), and which stems are nouns, as far as it is known."""
    seen = Counter(word for text in texts for word in text)
    endings: dict[str, set[str]] = defaultdict(set)
    for word in seen:
        for particle in _PARTICLES:
            if word.endswith(particle) and len(word) - len(particle) >= 2:
                endings[word.removesuffix(particle)].add(particle)

    def bare(word: str) -> str:
        for particle in _PARTICLES:
            stem = word.removesuffix(particle)
            if stem != word and len(stem) >= 2 and (particle in _CLEAR or len(endings[stem]) > 1 or stem in seen):
                return stem
        return word

    known = {word: bare(word) for word in seen}
    nouns = {stem for stem, particles in endings.items() if len(particles) > 1 or stem in seen}
    return known.__getitem__, lambda stem: stem in nouns or not _HANGUL_END.search(stem)


def _grouped(numbers: Iterator[int]) -> dict[int, list[int]]:
    groups: dict[int, list[int]] = defaultdict(list)
    for place, number in enumerate(numbers):
        groups[number].append(place)
    return groups


def _without(text: str, query: str, least: int) -> str:
    """A text that does not begin with the query, where enough is left of it; no word is cut: of 연차는 the heading 연차 stays."""
    rest = text.removeprefix(query)
    rest = text if rest[:1].isalnum() else rest.lstrip(" .:-–—")
    return rest if len(rest) >= least else text


KINDS = {"title": _titles, "heading": _headings, "first_sentence": _first_sentences, "faq": _questions, "keywords": _keywords}
