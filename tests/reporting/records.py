"""Records of trainings as train.py writes them, of few queries whose ranks are given."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from e5ft.files import write_json
from e5ft.retrieval.significance import mean_intervals, sign_flip_p
from e5ft.retrieval.verdict import keep_results, overall_verdict

CUTOFFS = (1, 10, 100)
NAMES = [f"{name}@{k}" for k in CUTOFFS for name in ("recall", "hit", "mrr", "ndcg", "map")]


@dataclasses.dataclass(frozen=True)
class Asked:
    """A query, its one answer, and the rank that each system gives it; None: not among the first hundred."""

    identifier: str
    text: str
    answer: str
    before: int | None
    after: int | None
    bm25: int | None = 1


def asked(ranks: Sequence[tuple], text: str = "질의 {}번", answer: str = "정답 문서 {}번") -> list[Asked]:
    """Queries q0, q1, ... with (before, after) or (before, after, bm25)."""
    return [Asked(f"q{number}", text.format(number), answer.format(number), *each) for number, each in enumerate(ranks)]


def metrics_of(rank: int | None) -> dict[str, float]:
    """What a query has with its one answer at a rank."""
    values = {}
    for k in CUTOFFS:
        found = rank is not None and rank <= k
        values |= {f"{name}@{k}": float(found) for name in ("recall", "hit")}
        values |= {f"{name}@{k}": 1 / rank if found else 0.0 for name in ("mrr", "map")}
        values[f"ndcg@{k}"] = 1 / math.log2(1 + rank) if found else 0.0
    return values


def write_run(folder: Path, queries: Sequence[Asked], /, *, texts: bool = True, dev: bool = True, **more) -> Path:
    """Write a run's folder.

    Args:
        folder: of the run.
        queries: of its test set.
        texts: whether per_query.jsonl has texts, as it has today.
        dev: whether the log has dev metrics.
        more: what summary.json says in place of what it would.
    """
    values, scores = {}, {}
    for name, system, label in (("before", "base", "before"), ("bm25", "bm25", "BM25 (bigrams)"), ("after", "final", "after")):
        place = folder / "eval/test-set" / system
        place.mkdir(parents=True)
        ranks = [getattr(query, name) for query in queries]
        each = [metrics_of(rank) for rank in ranks]
        values[name] = np.array([[figures[metric] for metric in NAMES] for figures in each])
        with open(place / "per_query.jsonl", "w", encoding="utf-8") as file:
            for query, rank, figures in zip(queries, ranks, each, strict=True):
                line = {"query": query.identifier, **figures, **(_texts(query, rank, name) if texts else {})}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        if texts:  # as the ranking of the first five has it, and the answer where it is farther down
            lines = [_texts(query, rank, name) for query, rank in zip(queries, ranks, strict=True)]
            found = [{p["id"]: p["score"] for p in (*line["top"], *line["answers"]) if p["score"] is not None} for line in lines]
            (place / "run.trec").write_text(
                "".join(
                    f"{query.identifier} Q0 {identifier} 1 {score} tag\n"
                    for query, each in zip(queries, found, strict=True)
                    for identifier, score in each.items()
                )
            )
        means = dict(zip(NAMES, values[name].mean(axis=0).tolist(), strict=True))
        ends = dict(zip(NAMES, mean_intervals(values[name]).tolist(), strict=True))
        scores[name] = {"label": label, "metrics": means, "intervals": ends}
        write_json(place / "metrics.json", {"queries": len(queries), "passages": 500, "metrics": means})
    change = values["after"] - values["before"]
    rows = zip(
        NAMES,
        change.mean(axis=0).tolist(),
        mean_intervals(change, least=-1.0).tolist(),
        sign_flip_p(change).tolist(),
        strict=True,
    )
    differences = {name: {"mean": mean, "low": low, "high": high, "p_value": p} for name, mean, (low, high), p in rows}
    verdict = overall_verdict(differences["ndcg@10"], len(queries), keep_results({}))
    summary = {
        "state": "finished",
        "model": "mini shape",
        "random_weights": False,
        "data": {"source": "rows.jsonl", "train_rows": 200, "language": "ko"},
        "truncated_share": 0.125,
        "test_set": "test-set",
        "queries": len(queries),
        "passages": 500,
        "chosen_on_test": False,
        "objective": "ndcg@10",
        "best": {"score": 0.4, "step": 20, "alpha": 1.0},
        "training": {"steps": 40, "queries_per_step": 16, "epochs": 3.2, "seconds_in_all": 75.0},
        "scores": scores,
        "differences": differences,
        "keep": [],
        "overlap": [],
        "verdict": {**verdict, "metric": "ndcg@10", "set": "test-set", "against": "before"},
        "made": {"command": "python train.py name=again", "digests": {"rows": "0123abcd"}, "versions": {"torch": "2.13.0"}},
        **more,
    }
    write_json(folder / "summary.json", {name: value for name, value in summary.items() if value is not ...})
    (folder / "config.yaml").write_text("name: test\nseed: 42\n")
    with open(folder / "metrics.jsonl", "w") as file:
        for step in range(41):
            entry = {
                "step": step,
                "loss": 3 - step / 20,
                "learning_rate": 1e-3 * (1 - step / 40),
                "grad_norm": 2.0,
                "masked_share": 0.1,
            }
            entries = [entry] if step else []
            if dev and step % 10 == 0:
                entries.append({"step": step, **{f"eval_{k}": 0.2 + step / 200 for k in ("ndcg@10", "recall@10", "mrr@10")}})
            file.writelines(json.dumps(each) + "\n" for each in entries)
    return folder


def _texts(query: Asked, rank: int | None, system: str) -> dict:
    score = None if rank is None else 0.9 - rank / 1000
    answer = {"id": f"p-{query.identifier}", "grade": 1, "rank": rank, "score": score, "text": query.answer}
    top = [
        {"id": f"p-{query.identifier}", "score": score, "text": query.answer} if place == rank
        else {"id": f"w{place}-{query.identifier}", "score": 0.9 - place / 1000, "text": f"{system} {place} {query.answer} 오답"}
        for place in range(1, 6)
    ]  # fmt: skip
    return {"text": query.text, "answers": [answer], "top": top}
