"""Records of finished runs and multiruns as a training leaves them, without a training."""

import itertools
import json

import numpy as np
import yaml

from e5ft.files import write_json
from e5ft.retrieval.significance import mean_intervals, sign_flip_p

METRICS = ("hit@1", "recall@10", "ndcg@10", "mrr@10")
TOPICS = ("한강공원 자전거 대여", "전입신고 기한", "주차장 요금", "도서관 여는 시각", "여권 재발급 비용", "쓰레기 배출 요일")


def ranks_to_values(ranks: np.ndarray) -> np.ndarray:
    """(Q, 4) values of METRICS of queries with one answer at these ranks, 0: not found."""
    found = (ranks > 0) & (ranks <= 10)
    safe = np.maximum(ranks, 1)
    return np.stack([ranks == 1, found, found / np.log2(safe + 1), found / safe], axis=1).astype(float)


def write_evaluation(folder, name, ranks, *, texts=True, passages=1000, prefix="q"):
    """One saved evaluation; returns its values."""
    values, metrics = ranks_to_values(ranks), {}
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "per_query.jsonl", "w", encoding="utf-8") as file:
        for number, (rank, row) in enumerate(zip(ranks.tolist(), values.tolist(), strict=True)):
            topic = TOPICS[number % len(TOPICS)]
            line = {"query": f"{prefix}{number:03}", **dict(zip(METRICS, row, strict=True))}
            if texts:
                answer = {"id": f"p{number}", "grade": 1, "rank": rank or None, "score": 0.9 if rank else None}
                first = answer["id"] if rank == 1 else f"x{number}"
                line |= {
                    "text": f"{topic}, {number}번째 질문: 어떻게 하나요?",
                    "answers": [{**answer, "text": f"{topic}에 관한 {number}번째 답입니다."}],
                    "top": [{"id": first, "score": 0.91, "text": f"{topic if rank == 1 else '다른 주제'}에 관한 문서 {first}"}],
                }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    metrics = dict(zip(METRICS, values.mean(axis=0).tolist(), strict=True))
    write_json(folder / "metrics.json", {"set": name, "passages": passages, "queries": len(ranks), "metrics": metrics})
    return values


def entry(label, values):
    ends = mean_intervals(values).tolist()
    return {
        "label": label,
        "metrics": dict(zip(METRICS, values.mean(axis=0).tolist(), strict=True)),
        "intervals": dict(zip(METRICS, ends, strict=True)),
    }


def differences(values):
    ends, ps = mean_intervals(values, least=-1.0).tolist(), sign_flip_p(values).tolist()
    rows = zip(METRICS, values.mean(axis=0).tolist(), ends, ps, strict=True)
    return {name: {"mean": mean, "low": low, "high": high, "p_value": p} for name, mean, (low, high), p in rows}


def kept_result(entry):
    """What the verdict says of a keep set alone."""
    found = entry["differences"]["ndcg@10"]
    ends = {name: found[name] for name in ("mean", "low", "high")}
    return {"queries": entry["queries"], **ends, "level": 0.95, "p": found["p_value"], "lost": found["high"] < 0}


def make_run(
    folder, *, skill=0.5, seed=0, queries=60, dev=True, keep=(), settings=None, overrides=None, test="faq-test", **changed
):
    """A finished run's folder; the share `skill` of its queries has its answer at rank 1, and so do the same ones in each run.

    Args:
        folder: of the run.
        skill: of the model after training; before it is .3, BM25's .4.
        seed: of the rest.
        queries: of the test and of the dev set.
        dev: whether the dev run is kept.
        keep: (set, change) of keep sets.
        settings: of config.yaml, beside the usual.
        overrides: of a multirun's job.
        test: the test set's name.
        changed: of the summary.
    """
    easiness = np.random.default_rng(1).random(queries)  # the same in all runs

    def ranks(skill, seed):
        noise = np.random.default_rng(seed).normal(0, 0.08, queries)
        depth = np.clip((easiness + noise - skill) * 25, 0, None)
        return np.where(depth > 12, 0, 1 + depth.astype(int))

    systems = {"base": ranks(0.3, 50), "bm25": ranks(0.4, 51), "final": ranks(skill, seed)}
    values = {system: write_evaluation(folder / "eval" / test / system, test, each) for system, each in systems.items()}
    dev_values = ranks_to_values(ranks(skill, seed + 100))
    if dev:
        write_evaluation(folder / "eval/dev/after", "dev", ranks(skill, seed + 100), prefix="d")
    difference = differences(values["final"] - values["base"])["ndcg@10"]
    word = "BETTER" if difference["low"] > 0 else "NO DIFFERENCE"
    kept = []
    for name, change in keep:
        found = {"mean": change, "low": change - 0.01, "high": change + 0.01, "p_value": 0.01}
        write_evaluation(folder / "eval" / name / "final", name, systems["final" if change > 0 else "base"])
        scores = {"before": entry("before", values["base"]), "after": entry("after", values["base"] + change)}
        kept.append({"set": name, "queries": queries, "scores": scores, "differences": {"ndcg@10": found}})
    verdict = {
        "word": word, "costs_elsewhere": any(change < 0 for _, change in keep), "metric": "ndcg@10", "set": test,
        "against": "before", "keep": {entry["set"]: kept_result(entry) for entry in kept}, "reason": None, "base_kept": False, "queries": queries, "p": difference["p_value"],
        **{name: difference[name] for name in ("mean", "low", "high")},
    }  # fmt: skip
    summary = {
        "state": "finished", "model": "e5-small", "random_weights": False, "test_set": test, "queries": queries,
        "data": {"source": "faq.jsonl", "train_rows": 1200, "language": "ko"}, "chosen_on_test": False, "objective": "ndcg@10",
        "best": {"score": float(dev_values[:, 2].mean()), "step": 40, "alpha": 1.0},
        "training": {"steps": 60, "queries_per_step": 32, "epochs": 1.5, "seconds": 30.0, "seconds_in_all": 70.0}, "passages": 1000, "keep": kept,
        "scores": {
            "before": entry("before", values["base"]), "bm25": entry("BM25 (bigrams)", values["bm25"]),
            "after": entry("after", values["final"]),
        },
        "differences": differences(values["final"] - values["base"]), "verdict": verdict, **changed,
    }  # fmt: skip
    write_json(folder / "summary.json", summary)
    write_json(folder / "status.json", {"state": "finished", "pid": 1, "host": "h", "seconds": 75.5})
    config = {
        "name": folder.name,
        "seed": 42,
        "model": {"hub": "e5-small"},
        "data": {"train_file": "faq.jsonl"},
        **(settings or {}),
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True))
    lines = [{"step": 0, "eval_ndcg@10": 0.31}, {"step": 10, "loss": 1.5}, {"step": 60, "eval_ndcg@10": 0.5}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if overrides is not None:
        (folder / "overrides.yaml").write_text(yaml.safe_dump(overrides, allow_unicode=True))
    return summary


def make_sweep(folder, *, waiting=1, failed=1, queries=60, **of_runs):
    """A multirun over temperature and seed: .02 is best, and seeds differ a little; one job failed and one waits."""
    grid = [
        [f"name={folder.name}", "data.train_file=faq.jsonl", f"loss.temperature={temperature}", f"seed={seed}"]
        for temperature, seed in itertools.product(("0.01", "0.02", "0.05", "0.1"), ("1", "2"))
    ]
    skills = {"0.01": 0.5, "0.02": 0.62, "0.05": 0.6, "0.1": 0.35}
    for number, overrides in enumerate(grid[: len(grid) - waiting - failed]):
        temperature = overrides[2].partition("=")[2]
        make_run(folder / str(number), skill=skills[temperature], seed=number, queries=queries, overrides=overrides, **of_runs)
    for number in range(len(grid) - waiting - failed, len(grid) - waiting):
        error = "out of memory while training: 24 GB were asked for\nEach of these takes less"
        write_json(folder / str(number) / "status.json", {"state": "failed", "error": error, "seconds": 3.0})
        (folder / str(number) / "overrides.yaml").write_text(yaml.safe_dump(grid[number]))
    given = [f"name={folder.name}", "data.train_file=faq.jsonl", "loss.temperature=0.01,0.02,0.05,0.1", "seed=1,2"]
    write_json(folder / "sweep.json", {"jobs": grid, "given": given})
    return grid
