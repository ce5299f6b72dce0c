"""Find hard negatives for rows, and leave out those that may be answers.

python mine.py model.path=outputs/latest/model data.train_file=mine.jsonl     then train.py on the file that it names
python mine.py data.train_file=mine.jsonl sources=[bm25]                      without a model
torchrun --nproc_per_node 4 mine.py name=NAME model=e5_small data.train_file=mine.jsonl
"""

import hydra
from omegaconf import DictConfig

from e5ft.app.job import run_job, run_script
from e5ft.app.mining import mine


@hydra.main(version_base="1.3", config_path="conf", config_name="mine")
def main(config: DictConfig) -> float | None:
    """Compose, search, filter, choose, report."""
    return run_job(mine, config)


if __name__ == "__main__":
    run_script(main)
