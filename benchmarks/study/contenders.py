"""sentence-transformers on the same rows, weights and epochs, as its documentation trains retrievers."""

from pathlib import Path

from benchmarks.study.factors import Recipe

SAVED = {"query": "query: ", "document": "passage: "}  # without them the folder would be measured without prefixes
PROMPTS = {"anchor": SAVED["query"], "positive": SAVED["document"], "negative": SAVED["document"]}
NAMES = ("MNRL", "CachedGIST")


def train(name: str, base: Path, rows: list[dict], recipe: Recipe, output: Path, bf16: bool) -> None:
    """Train and save one contender.

    Args:
        name: MNRL: MultipleNegativesRankingLoss, scale 20, 16 rows a batch, learning rate 2e-5; CachedGIST:
            CachedGISTEmbedLoss, temperature .01, 128 rows a batch, guided by the base. Both: warm-up over a tenth of the
            steps, linear decay, no duplicates in a batch.
        base: the model before training.
        rows: {"query", "document"} and, where they were mined, "hard_negative".
        recipe: whose epochs and seed are taken.
        output: the folder to write.
        bf16: as ours.
    """
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer import losses
    from sentence_transformers.training_args import BatchSamplers

    model, cached = SentenceTransformer(str(base), prompts=SAVED, device="cpu"), name == "CachedGIST"
    model.max_seq_length = min(model.max_seq_length or 512, 512)
    columns = {"anchor": [row["query"] for row in rows], "positive": [row["document"] for row in rows]}
    if "hard_negative" in rows[0]:
        columns["negative"] = [row["hard_negative"] for row in rows]
    if cached:
        loss = losses.CachedGISTEmbedLoss(model, SentenceTransformer(str(base), device="cpu"), mini_batch_size=16)
    else:
        loss = losses.MultipleNegativesRankingLoss(model)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(output) + ".work", num_train_epochs=recipe.epochs, per_device_train_batch_size=128 if cached else 16,
        learning_rate=2e-5, warmup_steps=0.1, bf16=bf16, use_cpu=True, seed=recipe.seed, save_strategy="no", report_to="none",
        batch_sampler=BatchSamplers.NO_DUPLICATES, prompts={column: PROMPTS[column] for column in columns}, disable_tqdm=True,
    )  # fmt: skip
    SentenceTransformerTrainer(model=model, args=arguments, train_dataset=Dataset.from_dict(columns), loss=loss).train()
    model.save_pretrained(str(output))
