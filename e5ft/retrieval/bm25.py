"""Lexical search with BM25, over tokens that fit each script, character bigrams, Kiwi's morphemes, or words.

Korean glues particles and endings to its words: split at spaces, 서울은 and 서울에서 have nothing in common, and BM25 looks far
weaker than it is. Bigrams (서울, 울은; 서울, 울에, 에서) mend most of it without a dependency, and find words in scripts that
write none apart. Elsewhere they blur: words are better there, and their beginnings find the inflected ones.
"""

import functools
import logging
import re
import sys
import unicodedata
from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import get_args

import bm25s
import numpy as np

from e5ft.data.text import normalise
from e5ft.errors import ConfigurationError, DataError
from e5ft.retrieval.settings import Tokenisation

# bm25s sets its logger to DEBUG, so that its chatter passes whatever level the application chose for the root.
logging.getLogger("bm25s").setLevel(logging.WARNING)

TOKENISATIONS = get_args(Tokenisation)
DEFAULT_TOKENISATION = "auto"
STEM = 5  # letters of a word's beginning: Turkish's F5 of Can et al. 2008 (https://doi.org/10.1002/asi.20750)
# Hangul, Han, kana, bopomofo and Yi; Thai, Lao, Myanmar, Khmer and the Tai scripts (UAX #14's class SA), whose words stand unparted.
_BIGRAM_SCRIPTS = (
    r"\u1100-\u11ff\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u303c\u3040-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\ua4cf"
    r"\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\uff66-\uffdc\U0001aff0-\U0001b16f\U00020000-\U0003347f"
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\ua9e0-\ua9ff\uaa60-\uaadf\U00011700-\U0001174f"
)
_RUNS = re.compile(f"([{_BIGRAM_SCRIPTS}]+)|[^{_BIGRAM_SCRIPTS}]+")
# Nouns (not the bound ones), numerals, verbs, adjectives, roots; foreign words, Chinese characters, digits.
CONTENT_TAGS = frozenset({"NNG", "NNP", "NR", "VV", "VA", "XR", "SL", "SH", "SN"})


class BM25:
    """A BM25 index held in memory: token strings live once in the vocabulary, texts are not kept.

    Args:
        texts: the passages; read once, may be a generator. Normalised and case-folded here.
        tokenisation: "auto": by script, wherever it stands: bigrams of Hangul, Han, kana, Thai and what else is written
            without spaces or glued, words and their beginnings of the rest; "bigrams": character bigrams inside words, a word of one
            character being its own token; "kiwi": content morphemes; "words": words as they stand. Words are runs of
            letters, marks and digits.
        k1: term frequency saturation, at least 0.
        b: length normalisation, 0 to 1.

    Raises:
        ConfigurationError: unknown tokenisation, a parameter out of range, or kiwipiepy is not installed.
        DataError: there are no passages.

    Source: Robertson and Zaragoza 2009, with Lucene's idf; bm25s (https://github.com/xhluca/bm25s), method "lucene".
    """

    def __init__(self, texts: Iterable[str], *, tokenisation: str = DEFAULT_TOKENISATION, k1: float = 1.5, b: float = 0.75):
        if not k1 >= 0 or not 0 <= b <= 1:
            raise ConfigurationError(f"k1={k1!r}, b={b!r}: k1 must be at least 0, and b between 0 and 1")
        self._tokenise = _tokeniser(tokenisation)
        self._vocabulary: dict[str, int] = {}
        number = self._vocabulary.setdefault
        # Token numbers, four bytes each: a list of strings would take twenty times as much.
        documents = [array("i", [number(t, len(self._vocabulary)) for t in tokens]) for tokens in self._tokenise(texts)]
        if not documents:
            raise DataError("the corpus is empty: there is nothing to search")
        self._index, self._passages = None, len(documents)
        if self._vocabulary:  # no token at all (bare punctuation): nothing can ever be found
            self._index = bm25s.BM25(k1=k1, b=b, method="lucene")
            self._index.index((documents, self._vocabulary), create_empty_token=False, show_progress=False)

    def search(self, queries: Iterable[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """The best passages of every query.

        Args:
            queries: the queries; normalised and tokenised as the passages were.
            k: passages a query, at least 1.

        Returns:
            Scores float32 (Q, min(k, P)), descending, and indices int64, as `search.top_k` gives them; where fewer passages
            share a token with the query, the rest has the score -inf and the index -1.

        Raises:
            ConfigurationError: k is below 1.
        """
        if not isinstance(k, int) or isinstance(k, bool) or k < 1:
            raise ConfigurationError(f"k={k!r}: must be a whole number of at least 1")
        width = min(k, self._passages)
        rows = [best(scores, width) for scores in self.scores(queries)]
        scores, indices = ([row[part] for row in rows] for part in (0, 1))
        return np.array(scores, np.float32).reshape(-1, width), np.array(indices, np.int64).reshape(-1, width)

    def scores(self, queries: Iterable[str]) -> Iterator[np.ndarray]:
        """The scores of all passages for every query, one query at a time.

        Args:
            queries: as of `search`.

        Yields:
            (P,) float32, at least 0; 0 where a passage shares no token with the query.
        """
        for tokens in self._tokenise(queries):
            known = [self._vocabulary[token] for token in tokens if token in self._vocabulary]
            yield self._index.get_scores_from_ids(known) if known else np.zeros(self._passages, dtype=np.float32)


def best(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k largest scores above 0.

    Args:
        scores: (P,) float32, of one query.
        k: at least 1.

    Returns:
        Scores (k,), descending, and indices (k,) int64, equal scores by index; -inf and -1 where there are no more.
    """
    indices = np.flatnonzero(scores > 0)
    values = scores[indices]
    if len(indices) > k:
        threshold = np.partition(values, len(values) - k)[len(values) - k]  # the k-th largest
        above = np.flatnonzero(values > threshold)
        equal = np.flatnonzero(values == threshold)[: k - len(above)]  # of equal scores the smaller index
        chosen = np.concatenate([above, equal])
        indices, values = indices[chosen], values[chosen]
    order = np.lexsort((indices, -values))
    missing = (0, k - len(order))
    return np.pad(values[order], missing, constant_values=-np.inf), np.pad(indices[order], missing, constant_values=-1)


def matches(query: str, text: str, tokenisation: str = DEFAULT_TOKENISATION) -> list[tuple[int, int]]:
    """Where a text has tokens of a query, to highlight them.

    Args:
        query, text: raw texts.
        tokenisation: as of `BM25`.

    Returns:
        Spans (start, end) of the normalised text, ascending; none overlaps or touches another.
    """
    wanted, text = {*next(_tokeniser(tokenisation)([query]))}, normalise(text)
    places = [place for place, character in enumerate(text) for _ in character.casefold()]  # of the folded text: ß becomes ss
    marked = {place for start, end in _located(wanted, text.casefold(), tokenisation) for place in places[start:end]}
    spans: list[tuple[int, int]] = []
    for place in sorted(marked):
        spans = [*spans[:-1], (spans[-1][0], place + 1)] if spans and spans[-1][1] == place else [*spans, (place, place + 1)]
    return spans


def _located(wanted: set[str], folded: str, tokenisation: str) -> Iterator[tuple[int, int]]:
    """Spans of a normalised, case-folded text that are tokens among those wanted."""
    if tokenisation == "kiwi":
        yield from ((token.start, token.start + token.len) for token in _kiwi().tokenize(folded) if token.form in wanted)
        return
    for word in _word_pattern().finditer(folded):
        for token in wanted.intersection(next(_tokeniser(tokenisation)([word[0]]))):
            start = word[0].find(token)
            while start >= 0:
                yield word.start() + start, word.start() + start + len(token)
                start = word[0].find(token, start + 1)


def _tokeniser(tokenisation: str) -> Callable[[Iterable[str]], Iterator[list[str]]]:
    """The function from texts to the tokens of each, lazily."""
    if tokenisation == "auto":
        return lambda texts: ([token for word in words(text) for token in _by_script(word)] for text in texts)
    if tokenisation == "bigrams":
        return lambda texts: (_bigrams(words(text)) for text in texts)
    if tokenisation == "words":
        return lambda texts: (words(text) for text in texts)
    if tokenisation == "kiwi":
        kiwi = _kiwi()
        return lambda texts: (
            [token.form for token in tokens if token.tag.partition("-")[0] in CONTENT_TAGS]  # VV-I: an irregular VV
            for tokens in kiwi.tokenize(normalise(text).casefold() for text in texts)
        )
    raise ConfigurationError(f"tokenisation={tokenisation!r}: must be one of {', '.join(TOKENISATIONS)}")


def words(text: str) -> list[str]:
    """The words of a text, normalised and case-folded: runs of letters, marks and digits."""
    return _word_pattern().findall(normalise(text).casefold())


def _bigrams(words: list[str]) -> list[str]:
    """서울은 -> 서울, 울은. A word of one character stays a token: 물 or 7 may be all that a query has to say."""
    return [word[i : i + 2] for word in words for i in range(max(1, len(word) - 1))]


@functools.lru_cache(maxsize=32_768)  # a text repeats words: twice as fast
def _by_script(word: str) -> tuple[str, ...]:
    """서울은 -> 서울, 울은; houses -> houses, house; 3월 -> 3, 3월; gpu는 -> gpu, u는.

    Where two scripts meet, one bigram lies across, and speaks for a character that stands alone there: 3월 is a month, 월 is not.
    What holds a digit is a name or a number, and has no beginning of its own.
    """
    runs = [(run[0], run[1] is not None) for run in _RUNS.finditer(word)]
    tokens = []
    for number, (run, pairs) in enumerate(runs):
        if number:
            tokens.append(runs[number - 1][0][-1] + run[0])
        if not pairs:
            stem = len(run) > STEM and not any(map(str.isdigit, run))
            tokens += [run, run[:STEM]] if stem else [run]
        elif len(run) > 1 or len(runs) == 1:
            tokens += _bigrams([run])
    return tuple(tokens)


@functools.cache
def _word_pattern() -> re.Pattern:
    """Runs of letters, marks and digits.

    `\\w` alone lacks the marks, and would cut every Hindi or Thai word at its vowel signs.
    """
    marks = [code for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code))[0] == "M"]
    starts = [code for code in marks if unicodedata.category(chr(code - 1))[0] != "M"]
    ends = [code for code in marks if unicodedata.category(chr(min(code + 1, sys.maxunicode)))[0] != "M"]
    # Ranges, not single characters: the pattern is six times faster.
    ranges = "".join(f"{chr(start)}-{chr(end)}" for start, end in zip(starts, ends, strict=True))
    return re.compile(f"[\\w{ranges}]+")


@functools.cache
def _kiwi():
    try:
        import kiwipiepy
    except ImportError as error:
        raise ConfigurationError(
            "tokenisation='kiwi' needs the package kiwipiepy: pip install kiwipiepy, or choose tokenisation='auto'"
        ) from error
    return kiwipiepy.Kiwi()
