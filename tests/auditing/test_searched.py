"""What searching the documents with their own queries tells."""

import numpy as np

from e5ft.auditing.searched import search
from tests.auditing.conftest import row

TOPICS = ("한강 다리", "제주 오름", "설악 단풍", "동해 일출", "전주 한옥", "경주 고분", "부산 등대", "남해 죽방")
ROWS = [row(f"{topic} 이야기", f"{topic} 이야기를 담은 글은 {topic} 곁에서 씁니다.") for topic in TOPICS]


class Encoder:
    """Texts as vectors by their topic's first word, with a little of a second where it is in them."""

    def encode(self, texts, role):
        vectors = np.array([[text.count(topic) for topic in TOPICS] for text in texts], np.float32) + 0.01
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_a_wrong_document_is_doubted(make_audited):
    rows = [dict(each) for each in ROWS]
    rows[2]["document"], rows[5]["document"] = rows[5]["document"], rows[2]["document"]
    found = search(make_audited(rows))
    assert (found.queries, found.total, found.documents, found.first, found.model) == (8, 8, 8, 6, None)
    assert sorted((f.kind, f.row, f.field) for f in found.faults) == [("hardly_found", n, "document") for n in (2, 5)]
    assert all(f.evidence.endswith(ROWS[f.row]["document"]) for f in found.faults)  # what the query finds instead


def test_queries_are_a_seeded_choice_of_different_ones(make_audited):
    rows = make_audited([*ROWS, *ROWS[:3], row("없는 말", "전혀 다른 글")])
    found = search(rows, queries=4, seed=1)
    assert (found.queries, found.total) == (4, 9)
    assert search(rows).found == 8  # none shares a token with the last one's document
    assert found == search(rows, queries=4, seed=1)


def test_a_model_doubts_documents_negatives_and_others(make_audited):
    rows = [dict(each) for each in ROWS]
    half = "동해 일출 뒤에 전주 한옥 마을로 갑니다."
    rows[3] |= {"document": half, "hard_negative": [ROWS[3]["document"], ROWS[0]["document"]]}  # the better one is a negative
    rows[4] |= {"document": half.replace("뒤에", "다음")}
    rows.append(row("전주 한옥 이야기 둘", ROWS[4]["document"]))  # its document answers row 4's query better
    rows[6]["document"], rows[7]["document"] = rows[7]["document"], rows[6]["document"]
    found = search(make_audited(rows), encoder=Encoder(), label="m")
    told = {(f.kind, f.row, f.field) for f in found.faults}
    wrong = {("label_error", 6, "document"), ("label_error", 7, "document")}
    assert told == wrong | {("negative_answers", 3, "hard_negative"), ("false_negative", 4, "document")}
    assert found.model == "m" and found.model_first == found.queries - 4
