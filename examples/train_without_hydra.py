"""From rows to a trained, measured and exported model with the library alone: no Hydra, no configuration files.

python examples/train_without_hydra.py ROWS.jsonl MODEL_FOLDER OUTPUT_FOLDER
"""

import sys
from pathlib import Path

import torch
from transformers import TrainingArguments

from e5ft.data.collator import TrainingRows
from e5ft.data.settings import Columns
from e5ft.data.split import split_rows
from e5ft.data.store import load_rows, tokenize_rows
from e5ft.exporting.folder import export_model
from e5ft.modeling.loading import load_encoder
from e5ft.modeling.settings import ModelSource
from e5ft.retrieval.evaluation import evaluator, score_bm25, score_model
from e5ft.retrieval.sets import from_rows
from e5ft.retrieval.settings import EvaluationSettings
from e5ft.retrieval.tables import format_table
from e5ft.training.losses import InfoNCE
from e5ft.training.trainer import ContrastiveTrainer


def main(rows_file: str, model: str, output: str, **arguments) -> None:
    """Train on a file of {"query", "document", "hard_negative"} and write OUTPUT/model.

    Args:
        rows_file: the rows.
        model: a folder, for instance a local copy of intfloat/multilingual-e5-small.
        output: the folder to write.
        arguments: of transformers.TrainingArguments, in place of those below.
    """
    cache = Path(output) / "cache"
    encoder = load_encoder(ModelSource(path=model))
    train_rows, dev_rows = split_rows(load_rows(rows_file, Columns(), cache), share=0.1, seed=42)
    dev = from_rows("dev", dev_rows)
    tokens = tokenize_rows(train_rows, encoder.tokenizer, encoder.spec.text, cache)
    settings = EvaluationSettings(
        cutoffs=(1, 10), bm25="auto", hybrid_weight=None, batch_tokens=16_384, intervals=2000, dimensions=None
    )
    before = score_model(encoder, dev, settings, "before")
    defaults = {
        "per_device_train_batch_size": 32,  # queries of one forward pass
        "gradient_accumulation_steps": 8,  # 32 x 8 = 256 queries meet in one softmax, exactly
        "num_train_epochs": 3,
        "learning_rate": 3e-5,
        "warmup_steps": 0.1,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "load_best_model_at_end": True,
        "metric_for_best_model": "ndcg@10",
        "use_cpu": not torch.cuda.is_available(),
    }
    trainer = ContrastiveTrainer(
        encoder,
        TrainingArguments(output_dir=output, remove_unused_columns=False, report_to="none", **{**defaults, **arguments}),
        TrainingRows(train_rows, tokens, negatives_per_query=7),
        InfoNCE(temperature=0.01),
        evaluator(dev, settings),
    )
    trainer.train()
    encoder = trainer.trained()
    print(format_table([before, score_bm25(dev, settings), score_model(encoder, dev, settings, "after")]))
    export_model(encoder, Path(output) / "model", "# A model fine-tuned with e5ft\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
