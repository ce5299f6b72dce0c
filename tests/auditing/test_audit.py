"""Twelve kinds of faults, planted into the shipped sample's rows, are found, and sound rows are left in peace.

The rules' thresholds were set on other rows (docs/audit.md says which).
"""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from e5ft.auditing.audit import EXAMPLES, audit
from e5ft.auditing.kinds import KINDS
from e5ft.auditing.page import page, summary, verdict
from e5ft.auditing.rows import AuditedRows, LeftOut, left_out
from e5ft.auditing.searched import search
from e5ft.data.settings import AS_IS, Columns
from e5ft.data.store import load_rows
from e5ft.retrieval.sets import load_beir
from tests.auditing import planting
from tests.auditing.conftest import row

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample"
COUNT = 50  # of each kind
FOUND, FALSE = 0.95, 0.02
# The sample's queries avoid their passages' words on purpose (see its README), so BM25 alone doubts many that are right: it says
# that a model must look, and counts none as a fault. This is what was measured, and no more; for the model, see below.
BY_BM25 = {"label_error": (0.9, 0.1)}
TOLD_AS = {"boilerplate": ("boilerplate", "empty", "unreadable"), "label_error": ("hardly_found",)}
NAMES = ("한강", "섬진", "낙동", "영산", "금강", "임진", "소양", "남강", "탐진", "형산")
VECTORS = Path(__file__).with_name("e5_small_on_sample.npz")


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """The audit of the planted rows, its kinds by line, and the truth."""
    folder = tmp_path_factory.mktemp("audit")
    rows = [json.loads(line) for line in (SAMPLE / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    test = load_beir(SAMPLE / "eval", "test")
    places = test.passage_ids.positions_of(name for judged in test.qrels.values() for name in judged)
    evaluation = [
        (query, test.passages[places[max(test.qrels[name], key=test.qrels[name].get)]])
        for name, query in zip(test.query_ids, test.queries, strict=True)
    ]
    rows, truth = planting.plant(rows, evaluation, COUNT, seed=11)
    path = str(folder / "rows.jsonl")
    Path(path).write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in rows), encoding="utf-8")
    store = load_rows(path, Columns(), folder / "cache", on_bad_row="skip")
    found = audit(AuditedRows(store), left_out([store], [(path, Columns(), AS_IS)], folder / "cache"), sets=[("test", test)])
    line = lambda place: int(str(place).rpartition(":")[2]) - 1  # noqa: E731
    told = {kind: {line(store.place(f.row)) for f in findings} for kind, findings in found.findings.items()}
    told["unreadable"] = {line(bad.location) for bad in found.left_out.bad}
    return found, told, truth, len(rows)


@pytest.mark.parametrize("kind", planting.KINDS)
def test_planted_faults_are_found_and_sound_rows_are_not_accused(planted, kind):
    _, told, truth, rows = planted
    accused = set().union(*(told.get(name, set()) for name in TOLD_AS.get(kind, (kind,))))
    sound = set(range(rows)) - truth["touched"]
    found, false = len(accused & truth[kind]) / len(truth[kind]), len(accused & sound) / len(sound)
    least, most = BY_BM25.get(kind, (FOUND, FALSE))
    assert found >= least and false <= most, (found, false)


class Recorded:
    """mE5-small, as it read the queries of the sample's first 128 documents and these: vectors kept as bytes, with their scales.

    Made by `load_encoder(...).encode` of the 4-bit weights of `model=e5_small_q4`; cosines differ by less than .001.
    """

    def __init__(self, texts: list[str]):
        kept = np.load(VECTORS)
        vectors = kept["vectors"] * kept["scale"]
        self._vectors = dict(zip(texts, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), strict=True))

    def encode(self, texts, role):
        return np.stack([self._vectors[text] for text in texts])


def test_with_a_model_label_errors_are_told_from_hard_queries(make_audited):
    rows = [json.loads(line) for line in (SAMPLE / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    documents = list(dict.fromkeys(each["document"] for each in rows))[:128]
    rows = [row(each["query"], each["document"]) for each in rows if each["document"] in documents]
    encoder = Recorded([*dict.fromkeys(each["query"] for each in rows), *documents])
    found = wrongly = 0
    for seed in range(6):
        draw = random.Random(seed)
        wrong = draw.sample(range(len(rows)), 40)
        planted = [dict(each) for each in rows]
        for at in wrong:
            planted[at]["document"] = draw.choice([text for text in documents if text != rows[at]["document"]])
        told = {f.row for f in search(make_audited(planted), encoder=encoder, label="m").faults if f.kind == "label_error"}
        found, wrongly = found + len(told.intersection(wrong)), wrongly + len(told.difference(wrong))
    assert found >= FOUND * 240 and wrongly <= FALSE * 6 * (len(rows) - 40), (found, wrongly)


def test_what_needs_a_model_is_no_fault_without_one(make_audited):
    rows = [row(f"{name} 다리는 언제 열렸나요?", f"{name} 다리는 {1900 + n}년 봄에 열렸습니다.") for n, name in enumerate(NAMES)]
    rows[2]["document"] = "달이 밝으면 고래가 얕은 바다로 옵니다."
    found = audit(make_audited(rows), LeftOut())
    assert found.kinds() == ["hardly_found"] and {f.row for f in found.findings["hardly_found"]} == {2}
    assert found.faulty(certain=True) == found.faulty(certain=False) == 0 and KINDS["hardly_found"].certain is None
    assert verdict(found, "en") == f"No certain fault in {len(rows)} rows." and "(needs a model)" in summary(found)
    assert "모델 필요" in page(found, "rows.jsonl", "ko") and "needs a model" in page(found, "rows.jsonl", "en")
    assert "model.path=DIR" in found.to_dict()["faults"]["hardly_found"]["remedy"]


def test_the_record_holds_counts_examples_and_every_removal(planted):
    found, _, truth, rows = planted
    record = json.loads(json.dumps(found.to_dict()))
    assert record["rows"] + record["unreadable"] == rows == found.read
    for name, fault in record["faults"].items():
        assert fault["rows"] == found.count(name) == len(set(fault["places"])) and 0 < len(fault["examples"]) <= EXAMPLES
        assert fault["certain"] == KINDS[name].certain
    assert record["removals"]["counts"] == {
        kind: sum(entry["fault"] == kind for entry in record["removals"]["listed"]) for kind in record["removals"]["counts"]
    }
    assert record["removals"]["counts"]["exact_duplicate"] == COUNT and record["overlap"][0]["shared_queries"] > 0


def test_a_clean_copy_lacks_what_is_listed_and_nothing_else(make_audited):
    rows = [
        row("한강의 다리는 몇 개인가요?", "서른 개가 넘습니다.", ["스무 개입니다."]),
        row("한강의 다리는 몇 개인가요?", "서른 개가 넘습니다.", ["스무 개입니다."]),
        row("한강의 다리는 몇 개인가요?", "서른한 개입니다.", ["모릅니다.", "서른 개가 넘습니다.", "-"]),
        row("빈 답", ["내용 없음"], ["무엇."]) | {"scores": [1.0, 0.5]},
        row("둘 중 하나", ["-", "오름은 작은 화산입니다."], ["산입니다."]),
    ]
    for each in rows:
        each.setdefault(
            "scores",
            [
                0.1 * n
                for n in range(
                    len([each["document"]] if isinstance(each["document"], str) else each["document"])
                    + len(each["hard_negative"])
                )
            ],
        )
    audited = audit(make_audited(rows), LeftOut())
    kept = [(each.query, each.positives, each.negatives, [round(s, 1) for s in each.scores]) for each in audited.clean()]
    assert kept == [
        ("한강의 다리는 몇 개인가요?", ("서른 개가 넘습니다.",), ("스무 개입니다.",), [0.0, 0.1]),
        ("한강의 다리는 몇 개인가요?", ("서른한 개입니다.",), ("모릅니다.",), [0.0, 0.1]),
        ("둘 중 하나", ("오름은 작은 화산입니다.",), ("산입니다.",), [0.1, 0.2]),
    ]
    listed = [(entry["what"], entry["fault"]) for entry in audited.to_dict()["removals"]["listed"]]
    assert listed == [
        *(("row", "exact_duplicate"), ("row", "empty")),
        *(("hard_negative 2", "negative_answers"), ("document", "empty"), ("hard_negative 3", "empty")),
    ]


def test_sound_rows_have_no_certain_fault(make_audited):
    rows = [row(f"{n}번 다리는 언제 열렸나요?", f"{n}번 다리는 {1900 + n}년 봄에 열렸습니다.") for n in range(30)]
    found = audit(make_audited(rows), LeftOut())
    assert found.faulty(certain=True) == 0 and found.to_dict()["removals"] == {"counts": {}, "listed": []}
