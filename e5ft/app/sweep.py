"""The table at the end of a multirun, from what the jobs' folders hold, so that a failed job is in it too."""

import csv
import io
from pathlib import Path

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from e5ft.app.places import keep_no_multirun_yaml
from e5ft.files import read_json, replace_link, write_text
from e5ft.retrieval.table import aligned

_failed = 0


def failures() -> int:
    """Jobs of this process's sweeps that did not finish."""
    return _failed


class SweepTable(Callback):
    """Hydra callback: write sweep.csv and print it when a multirun ends."""

    def on_multirun_start(self, config: DictConfig, **kwargs: object) -> None:
        """Called by Hydra before the first job, and before its sweeper writes anything."""
        keep_no_multirun_yaml(Path(config.hydra.sweep.dir))

    def on_multirun_end(self, config: DictConfig, **kwargs: object) -> None:
        """Called by Hydra after the last job."""
        global _failed
        folder = Path(config.hydra.sweep.dir)
        (folder / "multirun.yaml").unlink(missing_ok=True)
        rows = collect(folder)
        _failed += sum(row["state"] != "finished" for row in rows)
        write_text(folder / "sweep.csv", _csv(rows))
        replace_link(folder.parent / "latest", folder)
        print(f"\n{len(rows)} runs, {folder}/sweep.csv\n\n{_table(rows)}")


def collect(folder: Path) -> list[dict]:
    """One row a job: number, overrides, state, dev score, test scores, what changed on keep sets, seconds.

    Best dev score first, failures last.

    Args:
        folder: the sweep's folder.
    """
    rows = []
    for job in sorted((p for p in folder.iterdir() if p.name.isdigit()), key=lambda p: int(p.name)):
        status = read_json(job / "status.json") if (job / "status.json").is_file() else {"state": "failed"}
        row = {"job": job.name, **_overrides(job), "state": status["state"]}
        if (job / "summary.json").is_file():
            summary = read_json(job / "summary.json")
            if summary["best"]["score"] is not None:  # training.eval_strategy=no measures nothing on the dev set
                row[f"dev {summary['objective']}"] = summary["best"]["score"]
            for name in ("hit@1", "recall@10", "ndcg@10", "mrr@10"):
                if name in summary["scores"]["after"]["metrics"]:
                    row[f"{summary['test_set']} {name}"] = summary["scores"]["after"]["metrics"][name]
            for kept in summary["keep"]:  # gain and loss side by side in a sweep too
                if "ndcg@10" in kept["differences"]:
                    row[f"{kept['set']} ndcg@10 change"] = kept["differences"]["ndcg@10"]["mean"]
            row["seconds"] = summary["training"]["seconds"]
        elif "error" in status:
            row["error"] = status["error"].splitlines()[0]
        rows.append(row)
    return sorted(rows, key=lambda row: -next((v for k, v in row.items() if k.startswith("dev ")), -1.0))


def _overrides(job: Path) -> dict:
    file = job / "overrides.yaml"
    if not file.is_file():
        return {}
    return dict(str(override).split("=", 1) for override in OmegaConf.load(file))


def _columns(rows: list[dict]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def _csv(rows: list[dict]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _table(rows: list[dict]) -> str:
    columns = _columns(rows)
    cells = [columns] + [[_cell(row.get(column, "")) for column in columns] for row in rows]
    return aligned(cells, text_columns=len(columns))


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
