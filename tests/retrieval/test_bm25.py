"""BM25: against the formula, its ties and its edges, and what the tokenisations see in Korean."""

import logging
import math
import sys
import unicodedata
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from e5ft.errors import ConfigurationError, DataError
from e5ft.retrieval import bm25
from e5ft.retrieval.bm25 import BM25, matches

ROOT = Path(__file__).parents[2]


def hits(result):
    """(scores, indices) as a list of indices for each query."""
    return [row[row >= 0].tolist() for row in result[1]]


texts = st.lists(st.lists(st.sampled_from("가나다라마"), max_size=6).map(" ".join), min_size=1, max_size=12)


def by_the_formula(documents, query, k1, b):
    """Lucene's BM25: idf = ln(1 + (N - n + .5) / (n + .5)); tf / (tf + k1 (1 - b + b length / mean length))."""
    documents = [document.split() for document in documents]
    mean = sum(map(len, documents)) / len(documents)
    scores = []
    for document in documents:
        counts, score = Counter(document), 0.0
        for token in query.split():
            containing = sum(token in other for other in documents)
            if counts[token]:
                idf = math.log(1 + (len(documents) - containing + 0.5) / (containing + 0.5))
                score += idf * counts[token] / (counts[token] + k1 * (1 - b + b * len(document) / mean))
        scores.append(score)
    return scores


@settings(deadline=None, derandomize=True)
@given(documents=texts, query=st.lists(st.sampled_from("가나다라마바"), max_size=4).map(" ".join), k=st.integers(1, 15))
def test_equal_to_the_formula(documents, query, k):
    expected = by_the_formula(documents, query, 1.2, 0.6)
    scores, indices = BM25(documents, tokenisation="words", k1=1.2, b=0.6).search([query], k)
    assert scores.shape == indices.shape == (1, min(k, len(documents))) and scores.dtype == np.float32
    count = min(k, sum(score > 0 for score in expected))
    assert scores[0, :count] == pytest.approx(sorted(expected, reverse=True)[:count], rel=1e-5)
    assert [expected[index] for index in indices[0, :count]] == pytest.approx(scores[0, :count], rel=1e-5)
    assert (indices[0, count:] == -1).all() and np.isneginf(scores[0, count:]).all()


@pytest.mark.parametrize("k", [1, 3, 5, 6, 100])
def test_ties_go_to_the_smaller_index(k):
    documents = ["물", "불 물", "물", "불", "물 불", "물"]
    assert hits(BM25(documents, tokenisation="words").search(["물"], k)) == [[0, 2, 5, 1, 4][:k]]


def test_nothing_in_common_gives_nothing():
    index = BM25(["서울은 수도", "부산은 항구"])
    assert hits(index.search(["", "  ", "?!", "zzz"], 5)) == [[], [], [], []]
    assert index.search([], 5)[1].shape == (0, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a mean length of 0 divides in bm25s
        assert hits(BM25(["...", "!!"]).search(["..."], 5)) == [[]]


def test_bigrams_find_a_word_under_another_particle_and_words_do_not():
    documents = ["부산에서 만났다", "서울에서 만났다"]
    assert hits(BM25(documents).search(["서울은"], 5)) == [[1]]
    assert hits(BM25(documents, tokenisation="words").search(["서울은"], 5)) == [[]]


def test_bigrams_stay_inside_words_and_single_characters_are_kept():
    tokens = next(iter(bm25._tokeniser("bigrams")(["물 서울은, A7 7 (ab)C!"])))
    assert tokens == ["물", "서울", "울은", "a7", "7", "ab", "c"]


def tokens_of(text, tokenisation="auto"):
    return sorted(next(iter(bm25._tokeniser(tokenisation)([text]))))


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("서울은 물", ["서울", "울은", "물"]),  # as bigrams have it
        ("東京タワー 学", ["東京", "京タ", "タワ", "ワー", "学"]),
        ("ภาษา ລາວ ភាសា မြန်", [w[i : i + 2] for w in ("ภาษา", "ລາວ", "ភាសា", "မြန်") for i in range(len(w) - 1)]),
        ("Houses, house", ["houses", "house", "house"]),  # the beginning of one is the other
        ("доходов हिन्दीभाषा", ["доходов", "доход", "हिन्दीभाषा", "हिन्द"]),
        ("20231122 rtx4090ti", ["20231122", "rtx4090ti"]),  # numbers and names of things differ at their ends
        ("3월 제12조", ["3", "3월", "제1", "12", "2조"]),  # what stands alone beside another script is found with it alone
        ("GPU는 카카오Pay로", ["gpu", "u는", "카카", "카오", "오p", "pay", "y로"]),
        ("𠀀𠀁 ｱﾌﾟﾘ", ["𠀀𠀁", "ｱﾌ", "ﾌﾟ", "ﾟﾘ"]),
        ("?!", []),
    ],
)
def test_auto_cuts_by_script_wherever_it_stands(text, tokens):
    assert tokens_of(text) == sorted(tokens)


@settings(deadline=None, derandomize=True)
@given(st.text(alphabet="가나힣漢字かナไทย ", max_size=20))
def test_auto_is_bigrams_where_no_other_script_stands(text):
    assert tokens_of(text) == tokens_of(text, "bigrams")


@pytest.mark.parametrize(
    ("query", "found", "other"),
    [
        ("2023년 예산", "예산 2023", "예산 2032"),
        ("CPU가", "CPU는 빠르다", "GPU는 빠르다"),
        ("evler", "evlerimizden biri", "erlev biri"),
        ("международная", "международного права", "народная медь"),
    ],
)
def test_auto_tells_words_apart_that_bigrams_blur_and_finds_inflected_ones(query, found, other):
    assert hits(BM25([other, found]).search([query], 1)) == [[1]]


def test_the_default_has_one_home():
    for group in ("evaluation", "mining"):
        assert OmegaConf.load(ROOT / "conf" / group / "default.yaml").bm25 == bm25.DEFAULT_TOKENISATION
    assert set(bm25.TOKENISATIONS) == {"auto", "bigrams", "words", "kiwi"}


def test_texts_are_normalised_and_case_folded():
    decomposed = unicodedata.normalize("NFD", "서울")
    index = BM25(["서울 STRASSE", "부산"], tokenisation="words")
    assert hits(index.search([decomposed, "straße"], 1)) == [[0], [0]]


def test_vowel_signs_do_not_cut_words():
    assert bm25.words("हिन्दी, ภาษาที่") == ["हिन्दी", "ภาษาที่"]


def test_the_corpus_is_read_once_and_as_a_stream():
    index = BM25(text for text in ["가 나", "나 다"])
    assert hits(index.search((query for query in ["다"]), 3)) == [[1]]


def test_kiwi_takes_content_morphemes():
    pytest.importorskip("kiwipiepy")
    documents = ["그는 부산에서 책을 읽었다", "나는 서울에서 길을 걸었다"]
    index = BM25(documents, tokenisation="kiwi")
    # the same verb in another form (an irregular one), a noun under another particle, and particles alone
    assert hits(index.search(["걷는 사람", "부산은", "에서 을"], 2)) == [[1], [0], []]


def test_kiwi_absent_names_the_command(monkeypatch):
    bm25._kiwi.cache_clear()
    monkeypatch.setitem(sys.modules, "kiwipiepy", None)
    with pytest.raises(ConfigurationError, match="pip install kiwipiepy"):
        BM25(["가"], tokenisation="kiwi")
    bm25._kiwi.cache_clear()


def test_it_is_silent(capfd, caplog):
    with caplog.at_level(logging.DEBUG):
        BM25(["가 나", "나 다"]).search(["다", ""], 1)
    captured = capfd.readouterr()
    assert (captured.out, captured.err, caplog.text) == ("", "", "")


@pytest.mark.parametrize("arguments", [{"k1": -0.1}, {"b": 1.1}, {"b": -0.1}, {"k1": math.nan}, {"tokenisation": "trigrams"}])
def test_settings_out_of_range(arguments):
    with pytest.raises(ConfigurationError):
        BM25(["가"], **arguments)


def test_an_empty_corpus_and_k_below_one():
    with pytest.raises(DataError, match="empty"):
        BM25([])
    for k in (0, -1, 1.0, True):
        with pytest.raises(ConfigurationError, match="k="):
            BM25(["가"]).search(["가"], k)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(documents=texts, query=st.lists(st.sampled_from("가나다라마바"), max_size=4).map(" ".join))
def test_the_scores_of_all_passages_are_those_of_the_search(documents, query):
    index = BM25(documents, tokenisation="words")
    (scores,) = index.scores([query])
    assert scores.shape == (len(documents),)
    values, indices = index.search([query], len(documents))
    assert dict(zip(indices[indices >= 0], values[indices >= 0], strict=True)) == {i: s for i, s in enumerate(scores) if s > 0}


@pytest.mark.parametrize(
    ("query", "text", "tokenisation", "marked"),
    [
        ("서울 도서관", "서울은 크다. 도서관에서", "auto", ["서울", "도서관"]),
        ("3월", "3월에는 33월도, 월도", "auto", ["3월", "3월"]),  # 33월 holds the bigram that lies across; a bare 월 is no month
        ("HOUSES", "house of mouse", "auto", ["house"]),  # the beginning of both words
        ("straße", "Die STRASSE", "words", ["STRASSE"]),  # ß is folded to two letters, İ to two characters
        ("strasse", "İ İ die Straße", "words", ["Straße"]),
        ("물", "물 물고기", "bigrams", ["물"]),
        ("?", "무엇?", "auto", []),
    ],
)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_matches_are_the_tokens_that_both_have(query, text, tokenisation, marked, form):
    spans = matches(unicodedata.normalize(form, query), unicodedata.normalize(form, f"  {text}"), tokenisation)
    assert [text[start:end] for start, end in spans] == marked


def test_matches_of_morphemes_are_where_they_stand():
    pytest.importorskip("kiwipiepy")
    text = "따로 신청하지 않아도 투표할 수 있습니다."
    assert [text[start:end] for start, end in matches("투표 신청", text, "kiwi")] == ["신청", "투표"]
