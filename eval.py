"""Measure how well a model retrieves, beside BM25 and, if asked, another model.

python eval.py model.path=outputs/latest/model data.eval_dir=DIR
python eval.py model.path=A compare=B data.dev_file=rows.jsonl
"""

import hydra
from omegaconf import DictConfig

from e5ft.app.evaluate import evaluate
from e5ft.app.job import run_job, run_script


@hydra.main(version_base="1.3", config_path="conf", config_name="eval")
def main(config: DictConfig) -> float | None:
    """Compose, rank, report."""
    return run_job(evaluate, config)


if __name__ == "__main__":
    run_script(main)
