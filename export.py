"""Write any checkpoint as a sentence-transformers folder, checked by encoding again.

python export.py model.path=outputs/latest/checkpoint-100 output_dir=my-model
python export.py model.path=outputs/latest/model output_dir=my-model push=me/my-model
python export.py model.path=outputs/latest/model merge.base=DIR merge.alpha=0.5 output_dir=merged
"""

import hydra
from omegaconf import DictConfig

from e5ft.app.exporting import export
from e5ft.app.job import run_job, run_script


@hydra.main(version_base="1.3", config_path="conf", config_name="export")
def main(config: DictConfig) -> None:
    """Compose, write, check, and push if asked."""
    return run_job(export, config)


if __name__ == "__main__":
    run_script(main)
