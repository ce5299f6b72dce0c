"""Fine-tune an embedder and show whether it retrieves better.

python train.py                                             offline: the mini model on the shipped sample
python train.py model=e5_small data.train_file=mine.jsonl   the real one on your rows
python train.py -m loss.temperature=0.01,0.02,0.05          a sweep
"""

import hydra
from omegaconf import DictConfig

from e5ft.app.job import run_job, run_script
from e5ft.app.rounds import train_rounds
from e5ft.app.training import examine


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> float | None:
    """Compose, train, evaluate; the dev score is the objective of a sweep."""
    return run_job(examine if config.doctor else train_rounds, config)


if __name__ == "__main__":
    run_script(main)
