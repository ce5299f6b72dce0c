"""Each kind of query finds what it looks for in the documents, and the answer does not hold the query word by word."""

import pytest

from e5ft.synthesis.chunks import cut
from e5ft.synthesis.documents import Document, Section
from e5ft.synthesis.queries import KINDS, make_queries

TOPICS = ["연차", "급여", "출장", "교육", "보험", "장비", "보안", "채용", "평가", "복지"]

PLACES = ["강릉", "춘천", "원주", "속초", "동해", "삼척", "태백", "홍천", "횡성", "영월"]


def make_chunks():
    documents = [
        Document(
            f"{topic}.md",
            f"{topic} 안내서",
            [
                Section((), [f"{topic} 안내서: {topic}에 관한 규정을 모은 글이다. 해마다 {n}월에 {topic} 규정을 고친다."]),
                Section((f"{topic} 안내서", "1. 개요"), [f"{topic} 업무를 처음 맡은 사람이 읽어야 한다. 모두 {n}쪽이다."]),
                Section(
                    (f"{topic} 안내서", f"{topic} 신청서 쓰는 법"),
                    [f"{topic}은 {PLACES[n]} 창구{n}에서 받는다. {topic}을 신청하면 하루가 걸린다."],
                ),
                Section((f"{topic} 안내서", "물음"), [f"Q: {topic}도 취소되나요?\nA: {topic} 취소는 사흘 안에 됩니다."]),
            ],
        )
        for n, topic in enumerate(TOPICS)
    ]
    return cut(documents, 10, 200).chunks


def of_kind(kind: str, seed: int = 1):
    return make_queries(make_chunks(), [kind], 10, seed)


def test_a_title_is_answered_by_the_beginning_and_the_rest_is_not_wrong():
    queries, chunks = of_kind("title"), make_chunks()
    assert [query.text for query in queries] == [f"{topic} 안내서" for topic in TOPICS]
    first = queries[0]
    assert chunks[first.chunk].text.startswith("연차 안내서: 연차에") and first.passage.startswith("연차에 관한")
    assert [chunks[other].name for other in first.also] == ["연차.md"] * 3


def test_a_heading_is_a_query_with_what_stands_above_it_where_it_says_little():
    texts = [query.text for query in of_kind("heading")]
    assert (
        texts[:3] == ["연차 안내서 개요", "연차 신청서 쓰는 법", "급여 안내서 개요"] and len(texts) == 20
    )  # 물음 is none: it has a question


def test_a_title_or_heading_is_never_cut_out_of_a_word():
    whole = "연차는 입사하고 한 달을 채우면 다음 달부터 하루씩 쓸 수 있습니다."
    taken = "입사하고 한 달을 채우면 다음 달부터 하루씩 쓸 수 있습니다."
    for text, passage in (
        (whole, whole),
        (f"연차: {taken}", taken),
        (f"연차 {taken}", taken),
        ("연차3" + taken, "연차3" + taken),
    ):
        for title, headings, kind in (("연차", (), "title"), (None, ("연차",), "heading")):
            chunks = cut([Document("a.md", title, [Section(headings, [text])])], 10, 200).chunks
            assert [query.passage for query in make_queries(chunks, [kind], 10, 1)] == [passage]


def test_a_first_sentence_is_taken_out_of_its_chunk_for_nine_of_ten():
    queries = [query for seed in range(20) for query in of_kind("first_sentence", seed)]
    stays = [query.text in query.passage for query in queries]
    assert 0.05 < sum(stays) / len(stays) < 0.15
    assert all(query.passage for query in queries) and of_kind("first_sentence", 3) == of_kind("first_sentence", 3)


def test_a_lone_sentence_gives_its_first_clause():
    text = "법, 시행령과 규칙에 따라 신고를 마친 사람이 사는 곳을 옮기면, 옮긴 날부터 열나흘 안에 그 사실을 다시 신고하여야 한다."
    chunks = cut([Document("a", None, [Section((), [text])])], 10, 200).chunks
    [query] = make_queries(chunks, ["first_sentence"], 10, 1)
    assert query.text == "법, 시행령과 규칙에 따라 신고를 마친 사람이 사는 곳을 옮기면"
    assert query.passage == "옮긴 날부터 열나흘 안에 그 사실을 다시 신고하여야 한다."


def test_a_question_of_the_text_is_a_query():
    assert [(query.text, query.passage) for query in of_kind("faq")][0] == ("연차도 취소되나요?", "연차 취소는 사흘 안에 됩니다.")
    assert len(of_kind("faq")) == 10


def test_keywords_are_the_chunks_own_words_without_particles():
    queries, chunks = of_kind("keywords"), make_chunks()
    assert all(3 <= len(query.text.split()) <= 5 for query in queries)
    assert all(all(word in chunks[query.chunk].text for word in query.text.split()) for query in queries)
    asked = next(query for query in queries if chunks[query.chunk].headings[-1:] == ("연차 신청서 쓰는 법",))
    assert asked.text == "연차 강릉 창구0"


@pytest.mark.parametrize("kind", KINDS)
def test_of_nothing_there_is_no_query(kind):
    assert make_queries([], [kind], 10, 0) == []
    assert make_queries(cut([Document("a", "!!!", [Section((), ["가나다"])])], 1, 50).chunks, [kind], 10, 0) == []
